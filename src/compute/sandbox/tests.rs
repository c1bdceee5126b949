use std::net::Ipv4Addr;

use super::cgroup::parse_mountinfo;
use super::launch::Program;
use super::user::User;
use super::wire::NetPlan;
use super::{merge, net, process, tail};

#[test]
fn a_process_name_may_hold_anything() {
    let text = "42 (a) b) (c) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2 3";
    assert_eq!(process::parse_stat(text), Some(('S', 98_765)));
    assert_eq!(process::parse_stat("42 (a S 1"), None);
}

#[test]
fn hierarchies_are_read_from_mountinfo() {
    let text = "\
30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate
31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 25 0:28 / /proc rw - proc proc rw
";
    let found = parse_mountinfo(text);
    assert_eq!(found.len(), 2);
    assert!(found[0].v2 && found[0].mount.ends_with("cgroup"));
    assert!(!found[1].v2 && found[1].options.contains(&"memory".to_owned()));
}

#[test]
fn users_are_found_by_name_number_and_group() {
    let passwd = "root:x:0:0::/root:/bin/zsh\nworker:x:77:78:A:/work:\n";
    let group = "root:x:0:\nstaff:x:50:\n";
    let find = |text| User::parse(text, passwd, group);
    assert_eq!(find("").unwrap().shell.as_deref(), Some("/bin/zsh"));
    let worker = find("worker").unwrap();
    assert_eq!(
        (worker.uid, worker.gid, worker.home.as_str()),
        (77, 78, "/work")
    );
    assert_eq!(find("77:staff").unwrap().gid, 50);
    assert_eq!(find("1234").unwrap().uid, 1234);
    assert_eq!(find("nobody-here"), None);
    assert_eq!(User::root("").home, "/root");
}

#[test]
fn programs_are_looked_for_on_the_path_given() {
    let env = [("PATH".to_owned(), "/a:/b".to_owned())];
    let found = Program::from_argv(&["x".to_owned()], &env).unwrap();
    assert_eq!(found.candidates, ["/a/x", "/b/x"]);
    let found = Program::from_argv(&["./x".to_owned()], &env).unwrap();
    assert_eq!(found.candidates, ["./x"]);
    assert!(Program::from_argv(&[], &env).is_none());
}

#[test]
fn later_environment_wins() {
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let merged = merge(vec![pair("A", "1"), pair("B", "1")], &[pair("A", "2")]);
    assert_eq!(merged, [pair("B", "1"), pair("A", "2")]);
}

#[test]
fn a_log_is_cut_at_a_line_where_that_is_possible() {
    let log = b"one\ntwo\nthree\n".to_vec();
    assert_eq!(tail(log.clone(), 100), log);
    assert_eq!(tail(log.clone(), 8), b"three\n");
    assert_eq!(tail(log.clone(), 6), b"three\n");
    assert_eq!(tail(log, 3), b"ee\n");
}

fn plan() -> NetPlan {
    NetPlan {
        instance: "abc123".to_owned(),
        interface: net::interface("abc123", 0x1f),
        host: Ipv4Addr::new(10, 200, 0, 1),
        guest: Ipv4Addr::new(10, 200, 0, 2),
        network: "10.200.0.0/22".to_owned(),
        resolvers: vec![Ipv4Addr::new(192, 168, 1, 1)],
        lock: "/nowhere".into(),
    }
}

#[test]
fn the_ruleset_closes_the_near_and_opens_the_name_servers_first() {
    let text = net::ruleset(&plan(), &["45.1.2.0/24".to_owned()]);
    assert!(text.starts_with("table inet satlet_abc123 {}\ndelete table inet satlet_abc123\n"));
    for part in [
        "169.254.0.0/16",
        "192.168.0.0/16",
        "45.1.2.0/24",
        "iifname \"slabc123-*\" drop",
        "oifname \"slabc123-*\" drop",
        "meta nfproto != ipv4 drop",
        "ip saddr 10.200.0.0/22 oifname != \"slabc123-*\" masquerade",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let resolver = text.find("ip daddr 192.168.1.1").unwrap();
    let closed = text.find("ip daddr @closed drop").unwrap();
    assert!(resolver < closed);
}

#[test]
fn interface_names_fit_and_addresses_do_not_meet() {
    assert_eq!(plan().interface, "slabc123-1f");
    assert!(net::interface("abc123", net::MAX_TENANTS - 1).len() <= 15);
    let base = Ipv4Addr::new(10, 200, 0, 0);
    assert_eq!(
        net::addresses(base, 255),
        (
            Ipv4Addr::new(10, 200, 3, 253),
            Ipv4Addr::new(10, 200, 3, 254)
        )
    );
}

#[test]
fn routes_tell_the_networks_near_and_the_clashes() {
    let routes = "\
default via 192.0.2.1 dev eth0
192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.2
10.200.0.0/30 dev slabc123-00 proto kernel scope link src 10.200.0.1
45.9.9.9 via 192.0.2.9 dev eth0
local 127.0.0.0/8 dev lo table local proto kernel scope host src 127.0.0.1
";
    assert_eq!(
        net::local_networks(routes, "slabc123-"),
        ["127.0.0.0/8", "192.0.2.0/24"]
    );
    assert!(net::clashes(Ipv4Addr::new(10, 200, 0, 0), routes));
    assert!(!net::clashes(Ipv4Addr::new(10, 201, 0, 0), routes));
    assert!(net::clashes(
        Ipv4Addr::new(10, 9, 4, 0),
        "10.0.0.0/8 dev tun0"
    ));
    assert!(!net::clashes(
        Ipv4Addr::new(10, 9, 4, 0),
        "0.0.0.0/0 dev tun0"
    ));
}

#[test]
fn the_filters_compile_on_this_machine() {
    let programs = super::seccomp::programs().unwrap();
    assert!(programs.iter().all(|program| !program.is_empty()));
}
