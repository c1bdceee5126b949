//! A tenant's way out: a pair of interfaces, a /30 of its own, NAT, and one
//! nftables table for all tenants of this installation. The table does not
//! name single tenants, so it changes only when the host's networks do; it is
//! swapped whole, in one transaction.
//!
//! Desired is the text of [`ruleset`], observed is what `nft list` finds,
//! applied is the text piped to `nft -f -`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};

use nix::sched::CloneFlags;
use nix::unistd::ForkResult;

use super::sys;
use super::wire::NetPlan;

/// Where no tenant may go: every special-purpose block of RFC 6890 and what
/// followed it, which holds all private networks, the metadata address,
/// loopback, link-local and multicast.
const CLOSED: &[&str] = &[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
];
/// Connections that the host keeps for one tenant at a time. Its table has
/// room for some tens of thousands (nf_conntrack_max), and when it is full
/// nobody on the host can connect.
const MAX_CONNECTIONS: u32 = 4096;
/// Addresses that each tenant's network takes: a /30.
const STRIDE: u32 = 4;
/// Tenants of one installation.
pub(super) const MAX_TENANTS: u32 = 256;

/// The name of the table.
pub(super) fn table(instance: &str) -> String {
    format!("satlet_{instance}")
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

/// The whole table as text. `local` are networks that the host is directly
/// in, so that a LAN of public addresses is closed as well. `counted`: with a
/// limit of connections.
pub(super) fn ruleset(plan: &NetPlan, local: &[String], counted: bool) -> String {
    let table = table(&plan.instance);
    let ours = format!("\"{}*\"", prefix(&plan.instance));
    let closed = CLOSED
        .iter()
        .map(|net| (*net).to_owned())
        .chain(local.iter().cloned())
        .collect::<Vec<_>>()
        .join(", ");
    let resolvers = plan
        .resolvers
        .iter()
        .map(|address| {
            format!(
                "    iifname {ours} ip daddr {address} meta l4proto {{ tcp, udp }} th dport 53 accept\n"
            )
        })
        .collect::<String>();
    let (set, limit) = if counted {
        (
            "  set connections {
    type ipv4_addr
    size 1024
    flags dynamic
  }
",
            format!(
                "    ct state new add @connections {{ ip saddr ct count over {MAX_CONNECTIONS} }} drop\n"
            ),
        )
    } else {
        ("", String::new())
    };
    format!(
        "table inet {table} {{}}
delete table inet {table}
table inet {table} {{
  set closed {{
    type ipv4_addr
    flags interval
    auto-merge
    elements = {{ {closed} }}
  }}
{set}  chain input {{
    type filter hook input priority -150; policy accept;
    iifname {ours} drop
  }}
  chain forward {{
    type filter hook forward priority -150; policy accept;
    iifname {ours} jump out
    oifname {ours} ct state established,related accept
    oifname {ours} drop
  }}
  chain out {{
    meta nfproto != ipv4 drop
    oifname {ours} drop
    fib saddr . iif oif missing drop
{limit}{resolvers}    ip daddr @closed drop
    fib daddr type != unicast drop
    accept
  }}
  chain after {{
    type nat hook postrouting priority 100; policy accept;
    ip saddr {network} oifname != {ours} masquerade
  }}
}}
",
        network = plan.network,
    )
}

/// Networks of `ip -4 route show table all`, apart from default routes and our own.
pub(super) fn local_networks(routes: &str, own: &str) -> Vec<String> {
    let mut found: Vec<String> = routes
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let mut word = words.next()?;
            if matches!(
                word,
                "local" | "broadcast" | "unicast" | "anycast" | "multicast"
            ) {
                word = words.next()?;
            }
            let is_direct = line.contains("scope link") || line.contains("scope host");
            let is_ours = line
                .split_ascii_whitespace()
                .any(|part| part.starts_with(own));
            (is_direct && !is_ours && parse_network(word).is_some()).then(|| word.to_owned())
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

/// First address and prefix length of `10.0.0.0/8` or a single address.
fn parse_network(text: &str) -> Option<(u32, u32)> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, length.parse().ok()?),
        None => (text, 32),
    };
    let address: Ipv4Addr = address.parse().ok()?;
    (length <= 32).then(|| (u32::from(address), length))
}

/// Whether the /22 at `base` touches a network in `routes`.
pub(super) fn clashes(base: Ipv4Addr, routes: &str) -> bool {
    let touches = |(address, length): (u32, u32)| {
        let shift = 32_u32.saturating_sub(length.min(22));
        let cut = |value: u32| value.checked_shr(shift).unwrap_or(0);
        cut(address) == cut(u32::from(base))
    };
    routes
        .split_ascii_whitespace()
        .filter_map(parse_network)
        .any(|network| network.1 > 0 && touches(network))
}

/// All IPv4 routes of the host, as text.
pub(super) fn routes() -> io::Result<String> {
    run("ip", &["-4", "route", "show", "table", "all"], "")
}

/// Connects the process `pid`'s network namespace.
pub(super) fn connect(plan: &NetPlan, pid: i32) -> io::Result<()> {
    locked(plan, || {
        apply(plan)?;
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
    locked(plan, || {
        let _ = run("ip", &["link", "delete", &plan.interface], "");
        let links = run("ip", &["-o", "link", "show"], "")?;
        if links.contains(&prefix(&plan.instance)) {
            return Ok(());
        }
        let table = table(&plan.instance);
        let text = format!("table inet {table} {{}}\ndelete table inet {table}\n");
        run("nft", &["-f", "-"], &text).map(drop)
    })
}

/// Puts the table back where somebody took it away (a flush of all rules), or
/// the host is in other networks by now, as long as there is any tenant.
pub(super) fn uphold(plan: &NetPlan) -> io::Result<()> {
    locked(plan, || {
        let links = run("ip", &["-o", "link", "show"], "")?;
        if links.contains(&prefix(&plan.instance)) {
            apply(plan)?;
        }
        Ok(())
    })
}

fn apply(plan: &NetPlan) -> io::Result<()> {
    let local = local_networks(&routes()?, &prefix(&plan.instance));
    let wanted = ruleset(plan, &local, true);
    let note = plan.lock.with_extension("applied");
    let there = run(
        "nft",
        &["list", "table", "inet", &table(&plan.instance)],
        "",
    )
    .is_ok();
    if !(there && std::fs::read_to_string(&note).is_ok_and(|text| text == wanted)) {
        // Some kernels have no nft_connlimit. All the rest must hold there too.
        run("nft", &["-f", "-"], &wanted)
            .or_else(|_| run("nft", &["-f", "-"], &ruleset(plan, &local, false)))?;
        std::fs::write(&note, &wanted)?;
    }
    let forward = "/proc/sys/net/ipv4/ip_forward";
    if std::fs::read_to_string(forward)?.trim() != "1" {
        std::fs::write(forward, "1")?;
    }
    Ok(())
}

/// One at a time: installations have their own table, and the tenants of one
/// share it.
fn locked<T>(plan: &NetPlan, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&plan.lock)?;
    file.lock()?;
    let result = work();
    file.unlock()?;
    result
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

/// Runs a tool of the host's, which is given `input`; what it printed.
fn run(program: &str, args: &[&str], input: &str) -> io::Result<String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|err| io::Error::new(err.kind(), format!("{program}: {err}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        debug_assert!(stdin.as_raw_fd() >= 0, "a spawned child has its pipe");
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program}: {}", text.trim())))
}
