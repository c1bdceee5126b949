//! What a tenant tries who means harm: each test is an attempt from inside a
//! workload, as its root, with programs of the host's /usr, and asserts that
//! the kernel or the sandbox refuses it.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use nix::libc;
use satlet::compute::sandbox::NetworkChoice;
use satlet::compute::{Backend, BackendError, ExecCommand, ExecRequest, ExitStatus, TtySize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::sandbox::{Bed, Outside, finish, is_root, line, run, spec, until};

/// Ends the test where the sandbox cannot be made as root with perl in it.
macro_rules! need_root_and_perl {
    () => {
        if !is_root() {
            skip!("needs root");
        }
        if !std::path::Path::new("/usr/bin/perl").exists() {
            skip!("needs /usr/bin/perl");
        }
    };
}

/// A file of the host's /usr that is removed at the end.
fn host_file(mode: u32, text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new_in("/usr/local").unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let mode = std::fs::Permissions::from_mode(mode);
    file.as_file().set_permissions(mode).unwrap();
    file
}

/// A perl program as a word of a shell line.
fn perl(program: &str) -> String {
    assert!(!program.contains('\''), "{program}");
    format!("perl -e '{program}'")
}

#[tokio::test]
async fn files_of_the_hosts_root_stay_its_own() {
    need_root_and_perl!();
    let secret = host_file(0o600, "root:x:0:0::/stolen:/bin/sh\n");
    let public = host_file(0o644, "for all to read\n");
    let bed = Bed::new().await;
    let handle = bed.create(&spec()).await;
    let (secret, public) = (secret.path().display(), public.path().display());

    let out = run(
        &bed.sandbox,
        &handle,
        &format!("cat {public}; cat {secret}"),
    )
    .await;
    assert_eq!(out.stdout, "for all to read\n", "{}", out.stderr);
    assert!(out.stderr.contains("Permission denied"), "{}", out.stderr);

    // A lease has everyone else who opens the file wait for 45 seconds, again
    // and again (fcntl(2), F_SETLEASE).
    let lease = format!(
        "open my $f, \"<\", \"{public}\" or die $!; \
         print fcntl($f, {}, {}) ? \"taken\" : \"refused\"",
        libc::F_SETLEASE,
        libc::F_WRLCK
    );
    let out = run(&bed.sandbox, &handle, &perl(&lease)).await;
    assert_eq!(out.stdout, "refused", "{}", out.stderr);

    // What the sandbox reads for a command, it reads as the tenant.
    let swap = format!("mv /etc/passwd /etc/kept; ln -s {secret} /etc/passwd");
    run(&bed.sandbox, &handle, &swap).await;
    let out = run(&bed.sandbox, &handle, "echo $HOME").await;
    assert_eq!(out.stdout, "/root\n", "{}", out.stderr);
}

#[tokio::test]
async fn what_the_sandbox_reads_inside_cannot_hang_it() {
    need_root_and_perl!();
    let bed = Bed::new().await;
    let handle = bed.create(&spec()).await;
    for trap in [
        "rm -f /etc/passwd; mkfifo /etc/passwd",
        "rm -f /etc/passwd; ln -s /dev/zero /etc/passwd",
        "rm -f /etc/passwd; ln -s passwd /etc/passwd",
        "rm -f /etc/passwd; ln -s /proc/self/fd/3 /etc/passwd",
        "rm -f /etc/passwd; ln -s /proc/1/mem /etc/passwd",
        "rm -f /etc/passwd; mkdir /etc/passwd",
        "rmdir /etc/passwd; truncate -s 40G /etc/passwd",
    ] {
        run(&bed.sandbox, &handle, trap).await;
        let out = run(&bed.sandbox, &handle, "echo well").await;
        assert_eq!(out.stdout, "well\n", "after {trap}: {}", out.stderr);
    }
    // A lease on it: whoever opens it waits, unless it asks not to.
    let hold = format!(
        "open my $f, \"<\", \"/etc/passwd\"; $SIG{{IO}} = \"IGNORE\"; \
         print fcntl($f, {}, {}) ? \"held\\n\" : \"not held\\n\"; $| = 1; print \"\"; sleep 1000",
        libc::F_SETLEASE,
        libc::F_WRLCK
    );
    run(&bed.sandbox, &handle, "rm /etc/passwd; echo > /etc/passwd").await;
    let exec = bed.sandbox.exec().unwrap();
    let mut holder = exec
        .exec(&handle, line(&perl(&format!("$| = 1; {hold}"))))
        .await
        .unwrap();
    let mut word = [0; 5];
    holder.stdout.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"held\n");
    let out = run(&bed.sandbox, &handle, "echo well").await;
    assert_eq!(out.stdout, "well\n", "{}", out.stderr);
}

/// Limits that the kernel keeps for each user count what a user namespace
/// holds for whoever made the namespace too (struct ucounts). That must not be
/// the host's root.
#[tokio::test]
async fn nothing_that_is_counted_by_user_is_used_up_for_the_host() {
    need_root_and_perl!();
    let bed = Bed::new().await;
    let handle = bed.create(&spec()).await;
    let exec = bed.sandbox.exec().unwrap();
    let take_all = format!(
        "use POSIX; $| = 1; my $n = 0; $n++ while $n < 500 and syscall({inotify}, 0) >= 0; \
         my $set = POSIX::SigSet->new(40); sigprocmask(SIG_BLOCK, $set); \
         my $info = pack(\"iii\", 40, 0, -1) . (\"\\0\" x 116); my $s = 0; \
         $s++ while $s < 300000 and syscall({queue}, 0 + $$, 40, $info) == 0; \
         print \"watchers $n signals $s\\n\"; sleep 1000",
        inotify = libc::SYS_inotify_init1,
        queue = libc::SYS_rt_sigqueueinfo,
    );
    let mut taker = exec.exec(&handle, line(&perl(&take_all))).await.unwrap();
    let mut said = String::new();
    while !said.ends_with('\n') {
        let mut byte = [0];
        taker.stdout.read_exact(&mut byte).await.unwrap();
        said.push(char::from(byte[0]));
    }
    let program = format!(
        "my $id = pack(\"q\", 0); print syscall({inotify}, 0) >= 0 ? \"watches \" : \"$! \"; \
         print syscall({timer}, 0, 0, $id) == 0 ? \"times\" : \"$!\"",
        inotify = libc::SYS_inotify_init1,
        timer = libc::SYS_timer_create,
    );
    let host = Command::new("perl")
        .args(["-e", &program])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&host.stdout),
        "watches times",
        "the host's root, after a tenant took {said}"
    );
}

/// Calls that must fail with "not permitted" or "no such call".
#[tokio::test]
async fn doors_into_the_kernel_are_shut() {
    need_root_and_perl!();
    // Of Linux 6.15; the crate libc has no name for it yet.
    const OPEN_TREE_ATTR: libc::c_long = 467;
    let calls: &[(&str, libc::c_long, &str)] = &[
        ("io_uring_setup", libc::SYS_io_uring_setup, "8, $buffer"),
        (
            "io_uring_enter",
            libc::SYS_io_uring_enter,
            "-1, 0, 0, 0, 0, 0",
        ),
        (
            "io_uring_register",
            libc::SYS_io_uring_register,
            "-1, 0, 0, 0",
        ),
        ("userfaultfd", libc::SYS_userfaultfd, "1"),
        ("bpf", libc::SYS_bpf, "0, $buffer, 64"),
        (
            "perf_event_open",
            libc::SYS_perf_event_open,
            "$buffer, 0, -1, -1, 0",
        ),
        ("keyctl", libc::SYS_keyctl, "0, -3, 1"),
        ("add_key", libc::SYS_add_key, "$user, $user, $user, 4, -3"),
        ("request_key", libc::SYS_request_key, "$user, $user, 0, -3"),
        ("mount", libc::SYS_mount, "$tmpfs, $mnt, $tmpfs, 0, 0"),
        ("bind mount", libc::SYS_mount, "$mnt, $mnt, 0, 4096, 0"),
        ("remount", libc::SYS_mount, "0, $root, 0, 32 | 4096, 0"),
        ("umount2", libc::SYS_umount2, "$proc, 2"),
        ("open_tree", libc::SYS_open_tree, "-100, $root, 1"),
        (
            "open_tree_attr",
            OPEN_TREE_ATTR,
            "-100, $root, 1, $buffer, 32",
        ),
        (
            "move_mount",
            libc::SYS_move_mount,
            "-100, $root, -100, $mnt, 0",
        ),
        (
            "mount_setattr",
            libc::SYS_mount_setattr,
            "-100, $root, 0, $buffer, 32",
        ),
        ("fsopen", libc::SYS_fsopen, "$tmpfs, 0"),
        ("fspick", libc::SYS_fspick, "-100, $root, 0"),
        ("pivot_root", libc::SYS_pivot_root, "$mnt, $mnt"),
        ("unshare user", libc::SYS_unshare, "0x10000000"),
        ("unshare files", libc::SYS_unshare, "0x400"),
        ("setns", libc::SYS_setns, "0, 0"),
        ("clone3", libc::SYS_clone3, "$buffer, 64"),
        (
            "name_to_handle_at",
            libc::SYS_name_to_handle_at,
            "-100, $root, $buffer, $buffer, 0",
        ),
        (
            "open_by_handle_at",
            libc::SYS_open_by_handle_at,
            "-100, $buffer, 0",
        ),
        ("fanotify_init", libc::SYS_fanotify_init, "0x200, 0"),
        ("kcmp", libc::SYS_kcmp, "1, $$, 0, 0, 0"),
        ("init_module", libc::SYS_init_module, "$buffer, 8, $root"),
        ("finit_module", libc::SYS_finit_module, "0, $root, 0"),
        ("kexec_load", libc::SYS_kexec_load, "0, 0, 0, 0"),
        ("swapon", libc::SYS_swapon, "$root, 0"),
        ("acct", libc::SYS_acct, "$root"),
        ("reboot", libc::SYS_reboot, "0xfee1dead, 672274793, 0, 0"),
        ("syslog", libc::SYS_syslog, "3, $buffer, 8"),
        ("settimeofday", libc::SYS_settimeofday, "$buffer, 0"),
        ("clock_settime", libc::SYS_clock_settime, "0, $buffer"),
        ("quotactl", libc::SYS_quotactl, "0, 0, 0, 0"),
        (
            "set_mempolicy_home_node",
            libc::SYS_set_mempolicy_home_node,
            "0, 0, 0, 0",
        ),
        ("sethostname", libc::SYS_sethostname, "$root, 1"),
        ("SCHED_FIFO", libc::SYS_sched_setscheduler, "0, 1, $one"),
        ("raw socket", libc::SYS_socket, "2, 3, 255"),
        ("packet socket", libc::SYS_socket, "17, 3, 0"),
        ("sctp", libc::SYS_socket, "2, 1, 132"),
        ("sctp of version 6", libc::SYS_socket, "10, 5, 132"),
        ("tty input", libc::SYS_ioctl, "0, 0x5412, $root"),
        #[cfg(target_arch = "x86_64")]
        (
            "clone, user namespace",
            libc::SYS_clone,
            "0x10000011, 0, 0, 0, 0",
        ),
        #[cfg(target_arch = "x86_64")]
        (
            "clone, network namespace",
            libc::SYS_clone,
            "0x40000011, 0, 0, 0, 0",
        ),
        #[cfg(target_arch = "x86_64")]
        ("iopl", libc::SYS_iopl, "3"),
        #[cfg(target_arch = "x86_64")]
        ("modify_ldt", libc::SYS_modify_ldt, "0, $buffer, 16"),
        #[cfg(target_arch = "x86_64")]
        ("getpid of x32", 0x4000_0000 + libc::SYS_getpid, ""),
    ];
    let mut program = String::from(
        "$buffer = \"\\0\" x 256; $one = pack(\"i\", 1); $user = \"user\"; $tmpfs = \"tmpfs\"; \
         $mnt = \"/mnt\"; $root = \"/\"; $proc = \"/proc\"; \
         sub try { my $n = shift; my $r = syscall(shift, @_); exit if $r == 0 and $n =~ /^clone/; \
         print \"$n: \", $r < 0 ? $! + 0 : \"done\", \"\\n\" } ",
    );
    for (name, number, args) in calls {
        program.push_str(&format!("try(\"{name}\", {number}, {args}); "));
    }
    let bed = Bed::new().await;
    let handle = bed.create(&spec()).await;
    let out = run(&bed.sandbox, &handle, &perl(&program)).await;
    assert_eq!(out.stdout.lines().count(), calls.len(), "{}", out.stderr);
    let refusals = [libc::EPERM, libc::ENOSYS].map(|errno| format!(": {errno}"));
    let open: Vec<_> = out
        .stdout
        .lines()
        .filter(|line| !refusals.iter().any(|refusal| line.ends_with(refusal)))
        .collect();
    assert!(open.is_empty(), "{open:?}");
}

/// Asking for a socket of an unusual family has the host load the module that
/// has it, and its bugs with it.
#[tokio::test]
async fn only_usual_sockets_can_be_had() {
    need_root_and_perl!();
    let bed = Bed::new().await;
    let handle = bed.create(&spec()).await;
    let program = format!(
        "for my $f (0..60) {{ for my $t (1, 2, 3, 5) {{ \
         my $r = syscall({}, $f, $t, 0); print \"$f \" and last if $r >= 0 or $! != 1 }} }}",
        libc::SYS_socket
    );
    let out = run(&bed.sandbox, &handle, &perl(&program)).await;
    let usual = [
        libc::AF_UNIX,
        libc::AF_INET,
        libc::AF_INET6,
        libc::AF_NETLINK,
    ];
    assert_eq!(out.stdout, usual.map(|f| format!("{f} ")).concat());
}

/// 32-bit calls have numbers of their own, which no list of ours knows.
#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn calls_of_the_32_bit_kind_are_refused() {
    need_root_and_perl!();
    if !std::path::Path::new("/usr/bin/cc").exists() {
        skip!("needs /usr/bin/cc");
    }
    let bed = Bed::new().await;
    let handle = bed.create(&spec()).await;
    let source = "#include <stdio.h>\\nint main(void) { int r; puts(\"before\"); fflush(stdout); \
                  __asm__ volatile(\"int $0x80\" : \"=a\"(r) : \"a\"(20)); \
                  printf(\"reached %d\\n\", r); return 0; }";
    let line = format!(
        "cd /tmp && printf '%b' '{}' > x.c && cc x.c -o x && ./x",
        source.replace("\\n\"", "\\\\n\"")
    );
    let out = run(&bed.sandbox, &handle, &line).await;
    assert_eq!(out.stdout, "before\n", "{}", out.stderr);
    assert_ne!(out.status, ExitStatus::Code(0));
}

#[tokio::test]
async fn a_crash_is_not_the_hosts_to_look_at() {
    need_root_and_perl!();
    let bed = Bed::new().await;
    let mut with_command = spec();
    let script = "ulimit -c 0; grep -e core -e realtime -e msgqueue /proc/self/limits; sleep 1000";
    with_command.command = ["sh", "-c", script].map(str::to_owned).to_vec();
    let handle = bed.create(&with_command).await;
    // A handler of the host's, which runs as its root and outside of all
    // limits of the tenant, is called at any size but 1 (core(5), and
    // vfs_coredump in the kernel: 1 is what handlers themselves have).
    let whole = |text: &str| {
        text.lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
    };
    let wanted = "Max core file size 1 1 bytes";
    let mut log = Vec::new();
    until("the command prints", async || {
        log = bed
            .sandbox
            .logs()
            .unwrap()
            .logs(&handle, 4096)
            .await
            .unwrap();
        log.ends_with(b"us\n") || log.split(|byte| *byte == b'\n').count() > 2
    })
    .await;
    let main = whole(&String::from_utf8_lossy(&log));
    let out = run(
        &bed.sandbox,
        &handle,
        "ulimit -c unlimited; cat /proc/self/limits",
    )
    .await;
    let exec = whole(&out.stdout);
    for limits in [&main, &exec] {
        assert!(limits.iter().any(|line| line == wanted), "{limits:?}");
    }
    assert!(
        exec.iter().any(|line| line == "Max realtime priority 0 0"),
        "{exec:?}"
    );
    assert!(
        exec.iter()
            .any(|line| line == "Max msgqueue size 819200 819200 bytes"),
        "{exec:?}"
    );
}

#[tokio::test]
async fn streams_and_terminals_belong_to_the_tenant() {
    need_root_and_perl!();
    let bed = Bed::new().await;
    let handle = bed.create(&spec()).await;
    let out = run(
        &bed.sandbox,
        &handle,
        "echo one > /dev/stdout; echo two > /dev/stderr",
    )
    .await;
    assert_eq!(
        (out.stdout.as_str(), out.stderr.as_str()),
        ("one\n", "two\n")
    );
    let request = ExecRequest {
        tty: Some(TtySize { cols: 80, rows: 24 }),
        ..line("echo three > $(tty); stat -c %u:%g $(tty)")
    };
    let exec = bed.sandbox.exec().unwrap();
    let session = exec.exec(&handle, request).await.unwrap();
    assert_eq!(finish(session, b"").await.stdout, "three\r\n0:5\r\n");
}

#[tokio::test]
async fn processes_of_the_sandbox_cannot_be_looked_into() {
    need_root_and_perl!();
    let bed = Bed::new().await;
    let mut with_command = spec();
    with_command.command = ["sleep", "1000"].map(str::to_owned).to_vec();
    let handle = bed.create(&with_command).await;
    let request = ExecRequest {
        command: ExecCommand::Sftp,
        env: Vec::new(),
        tty: None,
    };
    let exec = bed.sandbox.exec().unwrap();
    let mut server = exec.exec(&handle, request).await.unwrap();
    // SSH_FXP_INIT, answered with SSH_FXP_VERSION.
    server
        .stdin
        .write_all(&[0, 0, 0, 5, 1, 0, 0, 0, 3])
        .await
        .unwrap();
    let mut hello = [0; 5];
    server.stdout.read_exact(&mut hello).await.unwrap();
    let out = run(
        &bed.sandbox,
        &handle,
        "for p in /proc/[0-9]*; do grep -q -z -a satlet-sandbo[x] $p/cmdline || continue; n=$((n+1)); \
         ls $p/fd && echo looked; cat $p/environ $p/maps && echo looked; readlink $p/exe && echo looked; \
         head -c 1 $p/mem && echo looked; echo 0 > $p/oom_score_adj && echo written; done; echo $n; \
         for p in /proc/[0-9]*; do cat $p/oom_score_adj; done | sort -u",
    )
    .await;
    let mut lines = out.stdout.lines();
    assert_eq!(lines.next(), Some("2"), "{}\n{}", out.stdout, out.stderr);
    // Lowering a score is for root with all its powers; where this is not such
    // a root, the first process has the score of all.
    let scores: Vec<_> = lines.collect();
    let powers = std::fs::read_to_string("/proc/self/status").unwrap();
    let powers = powers.split("CapEff:\t").nth(1).unwrap();
    let powers = u64::from_str_radix(powers.lines().next().unwrap(), 16).unwrap();
    if powers & (1 << 24) == 0 {
        assert_eq!(scores, ["300"], "{}", out.stderr);
    } else {
        assert_eq!(scores, ["-500", "300"], "{}", out.stderr);
        let lower = "echo 0 > /proc/self/oom_score_adj && echo lowered";
        assert_eq!(run(&bed.sandbox, &handle, lower).await.stdout, "");
    }
}

#[tokio::test]
async fn nothing_outlives_a_destroy() {
    need_root_and_perl!();
    let bed = Bed::new().await;
    let handle = bed.create(&spec()).await;
    let mark = format!(
        "{}",
        1_000_000_000_u32 + rand::random::<u32>() % 1_000_000_000
    );
    let hide = format!(
        "trap \"\" HUP TERM INT; exec > /dev/null 2>&1; (setsid sleep {mark} &); (setsid sh -c \"sleep {mark}; :\" &); \
         perl -e 'close STDOUT; close STDERR; for (1..5) {{ next if fork; setpgrp; $SIG{{$_}} = \"IGNORE\" for qw(HUP TERM INT); exec \"sleep\", \"{mark}\" }}'"
    );
    run(&bed.sandbox, &handle, &hide).await;
    let alive = || {
        let found = Command::new("pgrep").args(["-f", &mark]).output().unwrap();
        String::from_utf8_lossy(&found.stdout).lines().count()
    };
    until("they run", async || alive() >= 6).await;
    bed.sandbox.destroy(&handle).await.unwrap();
    assert_eq!(alive(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_connections_is_not_one_tenants() {
    need_root_and_perl!();
    let outside = Outside::new();
    let bed = Bed::with(NetworkChoice::Outgoing {
        resolvers: vec!["1.1.1.1".parse().unwrap()],
    })
    .await;
    if !bed.sandbox.capabilities().outgoing_network {
        skip!("no way out");
    }
    let count = || -> Option<i64> {
        let path = "/proc/sys/net/netfilter/nf_conntrack_count";
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    let handle = bed.create(&spec()).await;
    let Some(before) = count() else {
        skip!("the kernel does not say how many connections it tracks");
    };
    let flood = format!(
        "use Socket; socket(my $s, PF_INET, SOCK_DGRAM, 0); \
         for (1..12000) {{ send($s, \"x\", 0, pack_sockaddr_in(20000 + $_, inet_aton(\"{}\"))) and $n++ }} \
         print $n",
        outside.address
    );
    let out = run(&bed.sandbox, &handle, &perl(&flood)).await;
    assert_eq!(out.stdout, "12000", "{}", out.stderr);
    let more = count().unwrap() - before;
    assert!(more < 6000, "{more} entries of the host's are taken");

    let false_source = perl(
        "use Socket; socket(my $s, PF_INET, SOCK_DGRAM, 0); setsockopt($s, 0, 15, 1); \
         setsockopt($s, 0, 19, 1) and print \"transparent \"; \
         bind($s, pack_sockaddr_in(0, inet_aton(\"9.9.9.9\"))) or die $!; \
         print send($s, \"x\", 0, pack_sockaddr_in(9, inet_aton(\"1.1.1.1\"))) ? \"sent\" : \"refused\"",
    );
    let out = run(&bed.sandbox, &handle, &false_source).await;
    assert_eq!(out.stdout, "refused", "{}", out.stderr);
    let out = run(
        &bed.sandbox,
        &handle,
        "grep -v lo$ /proc/net/if_inet6; echo end",
    )
    .await;
    assert_eq!(out.stdout, "end\n", "an address of version 6");
}

/// Each command that is started takes a process of the host's, too.
#[tokio::test]
async fn commands_do_not_lead_around_the_limit_of_processes() {
    need_root_and_perl!();
    let bed = Bed::new().await;
    if !bed.sandbox.capabilities().enforces.pids {
        skip!("no limit of processes");
    }
    let mut small = spec();
    small.resources.pids = 20;
    let handle = bed.create(&small).await;
    let exec = bed.sandbox.exec().unwrap();
    let mut sessions = Vec::new();
    let refused = loop {
        match exec.exec(&handle, line("exec sleep 1000")).await {
            Ok(session) => sessions.push(session),
            Err(why) => break why,
        }
        assert!(sessions.len() < 40, "no end of commands");
    };
    assert!(matches!(refused, BackendError::NoCapacity(_)), "{refused}");
    sessions.clear();
    until("there is room again", async || {
        exec.exec(&handle, line("true")).await.is_ok()
    })
    .await;

    let mut many = spec();
    many.resources.pids = 1000;
    let handle = bed.create(&many).await;
    let refused = loop {
        match exec.exec(&handle, line("exec sleep 1000")).await {
            Ok(session) => sessions.push(session),
            Err(why) => break why,
        }
        assert!(sessions.len() < 200, "no end of sessions");
    };
    assert!(matches!(refused, BackendError::NoCapacity(_)), "{refused}");
}
