//! A tenant's way out: a pair of interfaces, a /30 of its own, NAT, and the
//! installation's wall around all of them (`compute::wall`).

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use nix::sched::CloneFlags;
use nix::unistd::ForkResult;

use super::sys;
use super::wire::NetPlan;
use crate::compute::wall::{self, Wall, locked, run};

/// Addresses that each tenant's network takes: a /30.
const STRIDE: u32 = 4;
/// Tenants of one installation.
pub(super) const MAX_TENANTS: u32 = 256;

/// The name of the table.
pub(super) fn table(instance: &str) -> String {
    format!("satlet_{instance}")
}

/// The wall around all tenants of the installation.
pub(super) fn wall_of(plan: &NetPlan) -> Wall {
    Wall {
        table: table(&plan.instance),
        prefix: prefix(&plan.instance),
        network: plan.network.clone(),
        resolvers: plan.resolvers.clone(),
        lock: plan.lock.clone(),
    }
}

/// The host's end of the pair of the tenant in `slot`.
pub(super) fn interface(instance: &str, slot: u32) -> String {
    format!("{}{slot:02x}", prefix(instance))
}

/// What all interfaces of an installation start with.
fn prefix(instance: &str) -> String {
    format!("sl{instance}-")
}

/// Addresses of the host's and the tenant's end in `slot` of the /22 at `base`.
pub(super) fn addresses(base: Ipv4Addr, slot: u32) -> (Ipv4Addr, Ipv4Addr) {
    let first = u32::from(base).wrapping_add(slot.wrapping_mul(STRIDE));
    (
        Ipv4Addr::from(first.wrapping_add(1)),
        Ipv4Addr::from(first.wrapping_add(2)),
    )
}

/// Connects the process `pid`'s network namespace.
pub(super) fn connect(plan: &NetPlan, pid: i32) -> io::Result<()> {
    let wall = wall_of(plan);
    locked(&wall, || {
        wall::apply(&wall)?;
        let (name, host) = (&plan.interface, plan.host);
        // One of this name is of a workload that is gone.
        let _ = run("ip", &["link", "delete", name], "");
        let commands = format!(
            "link add {name} type veth peer name eth0 netns {pid}\n\
             address add {host}/30 dev {name}\n\
             link set {name} up\n"
        );
        run("ip", &["-batch", "-"], &commands).map(drop)
    })?;
    let inside = format!(
        "address add {guest}/30 dev eth0\n\
         link set eth0 up\n\
         route add default via {host}\n",
        guest = plan.guest,
        host = plan.host,
    );
    in_namespace(pid, || {
        // None of these may exist on a given kernel, and nothing hangs on them:
        // version 6 is dropped by the ruleset too.
        let _ = std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
        let _ = std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 65535");
        run("ip", &["-batch", "-"], &inside).map(drop)
    })
}

/// Brings up loopback in the process `pid`'s network namespace.
pub(super) fn loopback(pid: i32) -> io::Result<()> {
    in_namespace(pid, sys::loopback_up)
}

/// Removes a tenant's interface, and the table with the last of them.
pub(super) fn disconnect(plan: &NetPlan) -> io::Result<()> {
    let wall = wall_of(plan);
    locked(&wall, || {
        let _ = run("ip", &["link", "delete", &plan.interface], "");
        wall::take_down_if_unused(&wall)
    })
}

/// Runs `work` in the network namespace of `pid`, in a process of its own.
fn in_namespace(pid: i32, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    match sys::fork()? {
        ForkResult::Child => {
            let enter = || -> io::Result<()> {
                let target = sys::pidfd_open(nix::unistd::Pid::from_raw(pid))?;
                nix::sched::setns(target.as_fd(), CloneFlags::CLONE_NEWNET)?;
                work()
            };
            let code = match enter() {
                Ok(()) => 0,
                Err(err) => {
                    let _ = std::fs::File::from(writer).write_all(err.to_string().as_bytes());
                    1
                }
            };
            sys::exit_now(code)
        }
        ForkResult::Parent { child } => {
            drop(writer);
            let text = io::read_to_string(std::fs::File::from(reader))?;
            match nix::sys::wait::waitpid(child, None)? {
                nix::sys::wait::WaitStatus::Exited(_, 0) => Ok(()),
                _ => Err(io::Error::other(text)),
            }
        }
    }
}
