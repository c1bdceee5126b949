//! This host as a target: services that nobody inside a workload may reach,
//! files that nobody inside may read, a process that nobody inside may see.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

/// A service on every address of this host that counts who comes.
pub(crate) struct Service {
    port: u16,
    touched: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Service {
    pub(crate) async fn start() -> std::io::Result<Self> {
        let all = (Ipv6Addr::UNSPECIFIED, 0);
        let listener = match TcpListener::bind(all).await {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind("0.0.0.0:0").await?,
        };
        let port = listener.local_addr()?.port();
        let touched = Arc::new(AtomicUsize::new(0));
        let count = touched.clone();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(b"the host\n").await;
            }
        });
        Ok(Self {
            port,
            touched,
            task,
        })
    }

    /// Where it listens: the host's addresses as they are now.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let ips = host_addresses().into_iter();
        ips.map(|ip| SocketAddr::new(ip, self.port)).collect()
    }

    pub(crate) fn touched(&self) -> usize {
        self.touched.load(Ordering::SeqCst)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Addresses of this host, loopback included, without link-local IPv6.
pub(crate) fn host_addresses() -> Vec<IpAddr> {
    let trie = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let v6 = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let mut found = Vec::new();
    let mut last = None;
    for line in trie.lines() {
        if let Some(ip) = line.split("|-- ").nth(1) {
            last = ip.trim().parse::<IpAddr>().ok();
        } else if line.contains("/32 host LOCAL") {
            found.extend(last);
        }
    }
    for line in v6.lines() {
        let digits = line.split_whitespace().next().unwrap_or_default();
        let Ok(number) = u128::from_str_radix(digits, 16) else {
            continue;
        };
        let ip = Ipv6Addr::from(number);
        if ip.segments()[0] & 0xffc0 != 0xfe80 {
            found.push(IpAddr::V6(ip));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Files of this host with text that nobody else has. They go with it.
pub(crate) struct Secrets {
    planted: Vec<(PathBuf, String)>,
    found: Vec<(PathBuf, String)>,
}

impl Secrets {
    /// Plants one in each of these directories that can be written.
    pub(crate) fn plant(dirs: &[&Path]) -> Self {
        let mut planted = Vec::new();
        for dir in dirs {
            let text = format!("secret-{:032x}", rand::random::<u128>());
            let path = dir.join(format!(".satlet-{:08x}", rand::random::<u32>()));
            if std::fs::write(&path, &text).is_ok() {
                planted.push((path, text));
            }
        }
        let shadow = std::fs::read_to_string("/etc/shadow").unwrap_or_default();
        let line = shadow.lines().next().unwrap_or_default();
        let found = (!line.is_empty()).then(|| ("/etc/shadow".into(), line.to_owned()));
        Self {
            planted,
            found: found.into_iter().collect(),
        }
    }

    pub(crate) fn list(&self) -> Vec<(String, String)> {
        let all = self.planted.iter().chain(&self.found);
        all.map(|(path, text)| (path.display().to_string(), text.clone()))
            .collect()
    }
}

impl Drop for Secrets {
    fn drop(&mut self) {
        for (path, _) in &self.planted {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A process of this host with a command line that nobody else has.
pub(crate) struct Marker {
    child: Child,
    mark: String,
}

impl Marker {
    pub(crate) fn start() -> std::io::Result<Self> {
        let mark = format!("86399.{:09}", rand::random::<u32>() % 1_000_000_000);
        let child = Command::new("sleep")
            .arg(&mark)
            .stdin(Stdio::null())
            .spawn()?;
        Ok(Self { child, mark })
    }

    pub(crate) fn mark(&self) -> String {
        self.mark.clone()
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Namespaces of this process.
pub(crate) fn namespaces() -> Vec<(String, String)> {
    let names = ["pid", "mnt", "net", "ipc", "uts", "user"];
    let read = |name: &str| {
        let link = std::fs::read_link(format!("/proc/self/ns/{name}")).ok()?;
        Some((name.to_owned(), link.display().to_string()))
    };
    names.into_iter().filter_map(read).collect()
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
