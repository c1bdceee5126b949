//! Another machine: a network namespace beside the host's, with an address in
//! a private network that the host is in, a link-local one, and an address far
//! outside that the host has a route to. Needs root and iproute2.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{Shutdown, shutdown};

/// The machine; gone when dropped.
pub(crate) struct Machine {
    interface: String,
    plan: Plan,
    port: u16,
    touched: Arc<AtomicUsize>,
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

/// Numbers that the machine's names and addresses are made of.
#[derive(Clone, Copy)]
struct Plan {
    a: u8,
    b: u8,
}

impl Plan {
    fn host(self) -> Ipv4Addr {
        Ipv4Addr::new(172, 16 + self.a % 16, self.b, 1)
    }

    fn near(self) -> Ipv4Addr {
        Ipv4Addr::new(172, 16 + self.a % 16, self.b, 2)
    }

    fn link_local(self) -> Ipv4Addr {
        Ipv4Addr::new(169, 254, self.a, self.b)
    }

    /// 11.0.0.0/8 is ordinary address space that nobody serves to the public.
    fn far(self) -> Ipv4Addr {
        Ipv4Addr::new(11, self.a, self.b, 1)
    }
}

fn ip(args: &str) -> Result<(), String> {
    let output = Command::new("ip").args(args.split_whitespace()).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {args}: {}", text.trim()))
}

/// The machine's end of the cable and its listener, in its namespace.
fn set_up(interface: &str, plan: Plan) -> Result<TcpListener, String> {
    ip(&format!("addr add {}/30 dev {interface}", plan.near()))?;
    ip(&format!(
        "addr add {}/32 dev {interface}",
        plan.link_local()
    ))?;
    ip("link set lo up")?;
    ip(&format!("addr add {}/32 dev lo", plan.far()))?;
    ip(&format!("link set {interface} up"))?;
    ip(&format!("route add default via {}", plan.host()))?;
    TcpListener::bind("0.0.0.0:0").map_err(|error| error.to_string())
}

fn serve(listener: &TcpListener, touched: &AtomicUsize) {
    while let Ok((mut stream, _)) = listener.accept() {
        touched.fetch_add(1, Ordering::SeqCst);
        let _ = stream.write_all(b"another machine\n");
    }
}

impl Machine {
    /// Makes it, or says why that cannot be done here.
    pub(crate) fn start() -> Result<Self, String> {
        let plan = Plan {
            a: rand::random_range(128..250),
            b: rand::random_range(1..250),
        };
        let name = format!("{:08x}", rand::random::<u32>());
        let (ours, theirs) = (format!("sta{name}"), format!("stb{name}"));
        let touched = Arc::new(AtomicUsize::new(0));
        let (id_in, id) = mpsc::channel();
        let (go, wait) = mpsc::channel::<()>();
        let (listener_in, listener) = mpsc::channel();
        let thread = std::thread::spawn({
            let (touched, theirs) = (touched.clone(), theirs.clone());
            move || {
                // A thread of its own: the namespace is the thread's.
                let made = unshare(CloneFlags::CLONE_NEWNET);
                let made = made.map_err(|error| format!("a network namespace: {error}"));
                let _ = id_in.send(made.map(|()| nix::unistd::gettid()));
                if wait.recv().is_err() {
                    return;
                }
                let listener = set_up(&theirs, plan).map(Arc::new);
                let _ = listener_in.send(listener.clone());
                if let Ok(listener) = listener {
                    serve(&listener, &touched);
                }
            }
        });
        let id = id.recv().map_err(|error| error.to_string())??;
        ip(&format!(
            "link add {ours} type veth peer name {theirs} netns {id}"
        ))?;
        let up = || {
            ip(&format!("addr add {}/30 dev {ours}", plan.host()))?;
            ip(&format!("link set {ours} up"))?;
            go.send(()).map_err(|error| error.to_string())?;
            let listener = listener.recv().map_err(|error| error.to_string())??;
            ip(&format!("route add {}/32 via {}", plan.far(), plan.near()))?;
            ip(&format!("route add {}/32 dev {ours}", plan.link_local()))?;
            Ok(listener)
        };
        let listener: Arc<TcpListener> = up().inspect_err(|_: &String| {
            let _ = ip(&format!("link del {ours}"));
        })?;
        let port = listener.local_addr().map_err(|error| error.to_string())?;
        Ok(Self {
            interface: ours,
            plan,
            port: port.port(),
            touched,
            listener,
            thread: Some(thread),
        })
    }

    /// Addresses in networks that the host itself is in.
    pub(crate) fn near(&self) -> Vec<SocketAddr> {
        let near = [self.plan.near(), self.plan.link_local()];
        near.map(|ip| SocketAddr::from((ip, self.port))).to_vec()
    }

    /// An address that is reached by a route.
    pub(crate) fn far(&self) -> SocketAddr {
        SocketAddr::from((self.plan.far(), self.port))
    }

    /// Connections so far, to any of its addresses.
    pub(crate) fn touched(&self) -> usize {
        self.touched.load(Ordering::SeqCst)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Wakes the thread that accepts.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = ip(&format!("link del {}", self.interface));
    }
}
