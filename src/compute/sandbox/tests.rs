use std::net::Ipv4Addr;

use super::cgroup::parse_mountinfo;
use super::launch::Program;
use super::user::User;
use super::wire::NetPlan;
use super::{cgroup, facts, merge, net, process, store, tail};
use crate::compute::wall;

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
    let text = wall::ruleset(&net::wall_of(&plan()), &["45.1.2.0/24".to_owned()], true);
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
        wall::local_networks(routes, "slabc123-"),
        ["127.0.0.0/8", "192.0.2.0/24"]
    );
    assert!(wall::clashes(Ipv4Addr::new(10, 200, 0, 0), 22, routes));
    assert!(!wall::clashes(Ipv4Addr::new(10, 201, 0, 0), 22, routes));
    assert!(wall::clashes(
        Ipv4Addr::new(10, 9, 4, 0),
        22,
        "10.0.0.0/8 dev tun0"
    ));
    assert!(!wall::clashes(
        Ipv4Addr::new(10, 9, 4, 0),
        22,
        "0.0.0.0/0 dev tun0"
    ));
}

#[test]
fn the_filters_compile_on_this_machine() {
    let programs = super::seccomp::programs().unwrap();
    assert!(programs.iter().all(|program| !program.is_empty()));
}

#[test]
fn a_tree_deeper_than_any_path_is_removed() {
    use nix::fcntl::{OFlag, openat};
    use nix::sys::stat::{Mode, mkdirat};
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().join("disk");
    std::fs::create_dir(&top).unwrap();
    let kept = dir.path().join("kept");
    std::fs::create_dir(&kept).unwrap();
    std::fs::write(kept.join("file"), "x").unwrap();
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let mut here = nix::fcntl::open(&top, flags, Mode::empty()).unwrap();
    for _ in 0..5000 {
        for name in ["a", "empty"] {
            mkdirat(&here, name, Mode::S_IRWXU).unwrap();
        }
        nix::unistd::symlinkat(&kept, &here, "link").unwrap();
        let below = openat(&here, "a", flags, Mode::empty()).unwrap();
        nix::sys::stat::fchmod(&here, Mode::empty()).unwrap();
        here = below;
    }
    store::remove_tree(&top).unwrap();
    assert!(!top.exists());
    assert!(kept.join("file").exists(), "what a link led to");
}

#[test]
fn files_that_a_tenant_may_have_written_to_are_read_with_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let log = std::fs::File::create(dir.path().join(store::LOGS[0])).unwrap();
    log.set_len(1 << 40).unwrap();
    assert_eq!(super::read_logs(dir.path(), 10).unwrap().len(), 10);
    assert_eq!(store::read_exit(dir.path()).unwrap(), None);
    let exit = dir.path().join(store::EXIT);
    std::fs::write(&exit, "7").unwrap();
    assert_eq!(store::read_exit(dir.path()).unwrap(), Some(7));
    std::fs::write(&exit, [0xff; 100]).unwrap();
    assert_eq!(store::read_exit(dir.path()).unwrap(), None);
}

#[test]
fn a_unified_hierarchy_is_used_where_it_is_the_hosts_own() {
    let unified = |mount: &str, options: &str| cgroup::Hierarchy {
        mount: mount.into(),
        v2: true,
        options: vec![options.to_owned()],
    };
    let old = |name: &str| cgroup::Hierarchy {
        mount: std::path::Path::new("/sys/fs/cgroup").join(name),
        v2: false,
        options: vec!["rw".to_owned(), name.to_owned()],
    };
    let mixed = [
        old("memory"),
        old("pids"),
        old("freezer"),
        unified("/sys/fs/cgroup/unified", "rw"),
    ];
    let groups = facts::groups(&mixed, |_| false).unwrap();
    assert!(groups.memory && groups.pids && !groups.cpu && !groups.swap);
    // With no freezer a workload cannot be paused, nor killed in one go.
    assert_eq!(facts::groups(&mixed[..2], |_| true), None);
    assert!(facts::groups(&[unified("/sys/fs/cgroup", "rw")], |_| false).is_some());
}

/// On a version 2 hierarchy of this kernel, with or without controllers.
#[test]
fn a_group_of_version_2_is_joined_frozen_killed_and_removed() {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    let unified = cgroup::hierarchies()
        .unwrap()
        .into_iter()
        .find(|one| one.v2);
    let name = format!("/satlet-unit-{:08x}", rand::random::<u32>());
    let path = std::path::Path::new(&name);
    let Some(unified) = unified else {
        eprintln!("SKIPPED: no cgroup version 2 is mounted");
        return;
    };
    let dir = unified.mount.join(&name[1..]);
    if std::fs::create_dir(&dir).is_err() {
        eprintln!("SKIPPED: no group can be made");
        return;
    }
    let group = cgroup::Cgroup::find(path).unwrap();
    let mut doors = group.doors().unwrap();
    assert_eq!(doors.len(), 1);
    let mut command = std::process::Command::new("sleep");
    command.arg("1000");
    #[expect(unsafe_code, reason = "as helpers do between fork and exec")]
    // SAFETY: writes to a descriptor, and nothing else.
    unsafe {
        command.pre_exec(move || cgroup::enter(&mut doors));
    }
    let mut child = command.spawn().unwrap();
    let inside = || std::fs::read_to_string(dir.join("cgroup.procs")).unwrap();
    assert_eq!(inside().trim(), child.id().to_string());
    let now = process::note(child.id().cast_signed()).unwrap();
    assert!(process::in_group(&now, path).unwrap());
    assert!(!process::in_group(&now, std::path::Path::new("/other")).unwrap());
    group.freeze(true).unwrap();
    assert!(group.frozen().unwrap());
    group.kill().unwrap();
    assert_eq!(
        child.wait().unwrap().signal(),
        Some(9),
        "killed while frozen"
    );
    group.remove().unwrap();
    assert!(!dir.exists());
}
