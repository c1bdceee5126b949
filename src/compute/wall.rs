//! The wall around workloads that have a way out: one nftables table for all
//! of an installation's, which lets them reach public addresses and nothing of
//! the host, of its networks, or of each other. The table names interfaces by
//! how their names begin and no single workload, so it changes only when the
//! host's networks do; it is swapped whole, in one transaction.
//!
//! Desired is the text of [`ruleset`], observed is what `nft list` finds,
//! applied is the text piped to `nft -f -`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What a wall is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::compute) struct Wall {
    /// Name of the table.
    pub(in crate::compute) table: String,
    /// What the names of all workloads' interfaces on the host begin with.
    pub(in crate::compute) prefix: String,
    /// Network that all workloads have their addresses in, as `10.1.2.0/22`.
    pub(in crate::compute) network: String,
    /// Name servers, reachable on port 53 wherever they are.
    pub(in crate::compute) resolvers: Vec<Ipv4Addr>,
    /// A file that is locked while the table or interfaces change.
    pub(in crate::compute) lock: PathBuf,
}

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
/// The whole table as text. `local` are networks that the host is directly
/// in, so that a LAN of public addresses is closed as well. `counted`: with a
/// limit of connections.
pub(in crate::compute) fn ruleset(wall: &Wall, local: &[String], counted: bool) -> String {
    let table = &wall.table;
    let ours = format!("\"{}*\"", wall.prefix);
    let closed = CLOSED
        .iter()
        .map(|net| (*net).to_owned())
        .chain(local.iter().cloned())
        .collect::<Vec<_>>()
        .join(", ");
    let resolvers = wall
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
        network = wall.network,
    )
}

/// Networks of `ip -4 route show table all`, apart from default routes and our own.
pub(in crate::compute) fn local_networks(routes: &str, own: &str) -> Vec<String> {
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

/// Whether the network of `own_length` bits at `base` touches one in `routes`.
pub(in crate::compute) fn clashes(base: Ipv4Addr, own_length: u32, routes: &str) -> bool {
    let touches = |(address, length): (u32, u32)| {
        let shift = 32_u32.saturating_sub(length.min(own_length));
        let cut = |value: u32| value.checked_shr(shift).unwrap_or(0);
        cut(address) == cut(u32::from(base))
    };
    routes
        .split_ascii_whitespace()
        .filter_map(parse_network)
        .any(|network| network.1 > 0 && touches(network))
}

/// All IPv4 routes of the host, as text.
pub(in crate::compute) fn routes() -> io::Result<String> {
    run("ip", &["-4", "route", "show", "table", "all"], "")
}

/// Puts the table back where somebody took it away (a flush of all rules), or
/// the host is in other networks by now, as long as there is any interface.
pub(in crate::compute) fn uphold(wall: &Wall) -> io::Result<()> {
    locked(wall, || {
        let links = run("ip", &["-o", "link", "show"], "")?;
        if links.contains(&wall.prefix) {
            apply(wall)?;
        }
        Ok(())
    })
}

/// Makes the table as it should be, and has the host forward packets. To be
/// called with the lock held ([`locked`]).
pub(in crate::compute) fn apply(wall: &Wall) -> io::Result<()> {
    let local = local_networks(&routes()?, &wall.prefix);
    let wanted = ruleset(wall, &local, true);
    let note = wall.lock.with_extension("applied");
    let there = run("nft", &["list", "table", "inet", &wall.table], "").is_ok();
    if !(there && std::fs::read_to_string(&note).is_ok_and(|text| text == wanted)) {
        // Some kernels have no nft_connlimit. All the rest must hold there too.
        run("nft", &["-f", "-"], &wanted)
            .or_else(|_| run("nft", &["-f", "-"], &ruleset(wall, &local, false)))?;
        std::fs::write(&note, &wanted)?;
    }
    let forward = "/proc/sys/net/ipv4/ip_forward";
    if std::fs::read_to_string(forward)?.trim() != "1" {
        std::fs::write(forward, "1")?;
    }
    Ok(())
}

/// Removes the table, unless an interface is there that it is for. To be called
/// with the lock held ([`locked`]).
pub(in crate::compute) fn take_down_if_unused(wall: &Wall) -> io::Result<()> {
    let links = run("ip", &["-o", "link", "show"], "")?;
    if links.contains(&wall.prefix) {
        return Ok(());
    }
    let table = &wall.table;
    let text = format!("table inet {table} {{}}\ndelete table inet {table}\n");
    run("nft", &["-f", "-"], &text).map(drop)
}

/// One at a time: installations have their own table, and the tenants of one
/// share it.
pub(in crate::compute) fn locked<T>(
    wall: &Wall,
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&wall.lock)?;
    file.lock()?;
    let result = work();
    file.unlock()?;
    result
}

/// Runs a tool of the host's, which is given `input`; what it printed.
pub(in crate::compute) fn run(program: &str, args: &[&str], input: &str) -> io::Result<String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|err| io::Error::new(err.kind(), format!("{program}: {err}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program}: {}", text.trim())))
}
