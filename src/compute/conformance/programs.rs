//! What the suite runs inside workloads, and the lines that do it on an
//! ordinary Debian `/usr`.

/// Something to do inside a workload. Files are paths without blanks; `$HOME`
/// may be in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// Writes growing numbers, many a second, into this file, for ever.
    Count(String),
    /// Prints growing numbers, many a second, for ever.
    CountAloud,
    /// Writes `ready`; at SIGTERM writes `bye` into `file` and ends with `code`.
    TrapTerm {
        /// Is there when the trap is.
        ready: String,
        /// Is there when the trap has worked.
        file: String,
        /// Exit code.
        code: u8,
    },
    /// Writes `ready` and does not care about SIGTERM.
    IgnoreTerm {
        /// Is there when the signal is ignored.
        ready: String,
    },
    /// A fork bomb that is over after a few seconds.
    ForkBomb,
    /// Prints how many of so many processes it could start.
    ForkMany(u32),
    /// Prints how many bytes of so many MiB it could hold in memory and then
    /// count; 0 where it was killed.
    FillMemory(u32),
    /// Writes into a file in the directory until it is full or so many MiB are
    /// written, prints how many bytes are in it, and removes it.
    FillDisk(String, u32),
    /// The same in each directory, removed only when all are full; prints the sum.
    FillDisks(Vec<String>, u32),
    /// Burns two cores for so many seconds and prints what `times` prints.
    Spin(u32),
    /// Prints `reached` or `unreachable` within a few seconds.
    Connect(std::net::SocketAddr),
    /// Listens on this port of every address, greets with the text.
    Listen(u16, String),
    /// Prints the addresses of the workload, among other words.
    Addresses,
    /// Prints the command lines of all processes it sees.
    Processes,
    /// Prints the terminal's `rows columns` whenever they change.
    WatchTty,
    /// Prints `line 1` to `line N`.
    Lines(u32),
    /// Tries what must be forbidden; prints `held` or `escaped`.
    Try(Escape),
}

/// What must be forbidden inside. Trying changes nothing where it succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// Mount a file system.
    Mount,
    /// Write into the image's system directories, which are the host's own.
    WriteHostFiles,
    /// Load a kernel module.
    Module,
    /// Write a kernel setting.
    Sysctl,
    /// Open the trigger of SysRq.
    Sysrq,
    /// Read the kernel's memory.
    KernelMemory,
    /// Set the clock.
    Clock,
    /// Make a device node.
    DeviceNode,
    /// Raise its own limits.
    OwnLimits,
}

/// The line that does this on Debian: `sh`, coreutils, and bash, perl-base and
/// util-linux, which are essential there.
pub fn debian_line(program: &Program) -> String {
    match program {
        Program::Count(file) => {
            format!("i=0; while :; do i=$((i+1)); echo $i > {file}; sleep 0.02; done")
        }
        Program::CountAloud => "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done".to_owned(),
        Program::TrapTerm { ready, file, code } => format!(
            "trap 'echo bye > {file}; exit {code}' TERM; echo up > {ready}; \
             while :; do sleep 0.1; done"
        ),
        Program::IgnoreTerm { ready } => {
            format!("trap '' TERM; echo up > {ready}; while :; do sleep 0.1; done")
        }
        Program::ForkBomb => "timeout -s KILL 4 bash -c ':(){ :|:& };:; sleep 10'".to_owned(),
        Program::ForkMany(n) => format!(
            // All of them are there until the shell ends, which the first that cannot
            // be made is the end of.
            "(trap 'kill $p' EXIT; i=0; while [ $i -lt {n} ]; do sleep 30 & p=\"$p $!\"; \
             i=$((i+1)); echo $i; done) 2>/dev/null | tail -n 1"
        ),
        Program::FillMemory(mib) => format!("head -c {mib}m /dev/zero | tail | wc -c"),
        Program::FillDisk(dir, mib) => fill(&[dir.as_str()], *mib),
        Program::FillDisks(dirs, mib) => {
            fill(&dirs.iter().map(String::as_str).collect::<Vec<_>>(), *mib)
        }
        Program::Spin(seconds) => {
            let burn = "(while :; do :; done) &";
            format!("{burn} a=$!; {burn} b=$!; sleep {seconds}; kill -9 $a $b; wait; times")
        }
        Program::Connect(to) => format!(
            "timeout 3 bash -c 'exec 3<>/dev/tcp/{}/{}' 2>/dev/null \
             && echo reached || echo unreachable",
            to.ip(),
            to.port()
        ),
        Program::Listen(port, greeting) => format!(
            "exec perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(Listen => 5, \
             LocalPort => {port}, ReuseAddr => 1) or die; while ($c = $s->accept) \
             {{ print $c \"{greeting}\"; close $c }}'"
        ),
        Program::Addresses => "cat /proc/net/fib_trie /proc/net/if_inet6 2>/dev/null".to_owned(),
        Program::Processes => "cat /proc/[0-9]*/cmdline | tr '\\0' ' '".to_owned(),
        Program::WatchTty => {
            "trap 'stty size' WINCH; stty size; while :; do sleep 0.1; done".to_owned()
        }
        Program::Lines(n) => {
            format!("i=0; while [ $i -lt {n} ]; do i=$((i+1)); echo line $i; done")
        }
        Program::Try(escape) => {
            let attempt = attempt(*escape);
            format!("if ( {attempt} ) >/dev/null 2>&1; then echo escaped; else echo held; fi")
        }
    }
}

fn fill(dirs: &[&str], mib: u32) -> String {
    let dirs = dirs.join(" ");
    format!(
        "for d in {dirs}; do head -c {mib}m /dev/zero > $d/fill 2>/dev/null; done; n=0; \
         for d in {dirs}; do n=$((n + $(wc -c < $d/fill))); rm -f $d/fill; done; echo $n"
    )
}

/// A command that succeeds where the wall has a hole.
fn attempt(escape: Escape) -> &'static str {
    match escape {
        Escape::Mount => "mkdir -p /tmp/m && mount -t tmpfs none /tmp/m",
        Escape::WriteHostFiles => "echo x > /usr/.satlet-conformance",
        Escape::Module => "modprobe dummy || insmod /lib/modules/*/kernel/drivers/net/dummy.ko",
        Escape::Sysctl => {
            "v=$(cat /proc/sys/kernel/panic) && echo $v > /proc/sys/kernel/panic \
             || { v=$(cat /proc/sys/vm/swappiness) && echo $v > /proc/sys/vm/swappiness; }"
        }
        Escape::Sysrq => "[ -f /proc/sysrq-trigger ] && : > /proc/sysrq-trigger",
        Escape::KernelMemory => {
            "[ $(head -c 1 /proc/kcore | wc -c) = 1 ] || [ $(head -c 1 /dev/mem | wc -c) = 1 ]"
        }
        Escape::Clock => "date -s @$(date +%s)",
        Escape::DeviceNode => "mknod /tmp/node b 8 0",
        Escape::OwnLimits => {
            "for f in $(find /sys/fs/cgroup -name '*.max' -o -name '*limit_in_bytes' \
             -o -name 'cpu.cfs_quota_us'); do { echo max > $f || echo -1 > $f; } && exit 0; \
             done; exit 1"
        }
    }
}
