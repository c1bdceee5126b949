//! Running a command inside a workload, and connecting from inside it: the
//! helper's side.
//!
//! libcontainer's own way in (`as_tenant`) does not join the user namespace
//! (0.7.0: its list of namespaces has no "user"), so that a command would run
//! as the host's root with the tenant's mounts. So the namespaces are joined
//! here, all at once, by a descriptor of the workload's first process
//! (setns(2) with a pidfd), which no reuse of process ids can redirect.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use nix::unistd::{ForkResult, Pid};

use super::channel::Channel;
use super::foreign::{self, Foreign};
use super::launch::{self, DEFAULT_PATH, Program};
use super::user::{self, User};
use super::wire::{
    Class, DialRequest, EnterCommand, EnterControl, EnterRequest, Failure, Reply, RunNote,
};
use super::{cgroup, process, sys};

/// Between SIGHUP and SIGKILL for a command whose session was dropped.
const HANGUP: Duration = Duration::from_secs(2);
/// How long a connection from inside may take.
const CONNECT: Duration = Duration::from_secs(10);
/// Commands that may be started in a workload that is full of processes, so
/// that its tenant can come in and clear up.
const SPARE_PIDS: u64 = 8;
/// The kernel kills a tenant's processes before its first process and before
/// the host's (proc_pid_oom_score_adj(5)).
pub(super) const OOM_SCORE: i32 = 300;

/// Runs a command and stays until it has ended.
pub(super) fn run(channel: &mut Channel, request: &EnterRequest) -> Result<(), Failure> {
    let what = |err: io::Error| Failure::io("exec", &err);
    let pidfd = open_target(&request.target)?;
    let foreign = match request.foreign {
        true => Some(Foreign::of(request.target.pid).map_err(what)?),
        false => None,
    };
    // While /proc is still the host's, and still ours to write.
    std::fs::write("/proc/self/oom_score_adj", OOM_SCORE.to_string()).map_err(what)?;
    let mut doors = Vec::new();
    if let Some(path) = &request.cgroup {
        let group = cgroup::Cgroup::find(path).map_err(what)?;
        if !group.has_room(SPARE_PIDS) {
            let text = "the workload has too many processes";
            return Err(Failure::new(Class::NoCapacity, text));
        }
        doors = group.doors().map_err(what)?;
    }
    nix::sys::prctl::set_dumpable(false).map_err(|err| what(err.into()))?;
    launch::limit_process().map_err(what)?;
    let mut namespaces = all_namespaces(request.cgroup.is_some());
    if foreign.as_ref().is_some_and(|foreign| !foreign.own_users) {
        namespaces.remove(CloneFlags::CLONE_NEWUSER);
    }
    join(pidfd.as_fd(), namespaces)?;
    launch::become_root_inside().map_err(what)?;
    let stdio = Stdio::open(request.tty).map_err(what)?;
    let (failed, failed_in) =
        nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|err| what(err.into()))?;
    let child = match sys::fork().map_err(what)? {
        ForkResult::Child => {
            let err = match become_command(request, foreign.as_ref(), stdio.inner, &mut doors) {
                Ok(err) | Err(err) => err,
            };
            let _ = File::from(failed_in).write_all(format!("{err}").as_bytes());
            sys::exit_now(127)
        }
        ForkResult::Parent { child } => child,
    };
    drop((stdio.inner, doors, failed_in));
    let mut text = String::new();
    File::from(failed).read_to_string(&mut text).map_err(what)?;
    if !text.is_empty() {
        let _ = nix::sys::wait::waitpid(child, None);
        return Err(Failure::permanent(text));
    }
    let outer: Vec<_> = stdio.outer.iter().map(AsFd::as_fd).collect();
    channel.send(&Reply::Started, &outer).map_err(what)?;
    drop(outer);
    drop(stdio.outer);
    let reply = attend(channel, child).map_err(what)?;
    let _ = channel.send(&reply, &[]);
    Ok(())
}

fn open_target(target: &RunNote) -> Result<OwnedFd, Failure> {
    process::open(target)
        .map_err(|err| Failure::io("looking at the workload", &err))?
        .ok_or_else(Failure::not_running)
}

fn all_namespaces(cgroup: bool) -> CloneFlags {
    let most = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    if cgroup {
        most | CloneFlags::CLONE_NEWCGROUP
    } else {
        most
    }
}

fn join(pidfd: BorrowedFd<'_>, namespaces: CloneFlags) -> Result<(), Failure> {
    nix::sched::setns(pidfd, namespaces).map_err(|err| match err {
        nix::Error::ESRCH => Failure::not_running(),
        err => Failure::io("entering the workload", &err.into()),
    })
}

/// Both sides of a command's standard streams.
struct Stdio {
    /// The command's: input, output, error; or one terminal.
    inner: Vec<OwnedFd>,
    /// The daemon's, in the same order.
    outer: Vec<OwnedFd>,
}

impl Stdio {
    fn open(tty: Option<(u16, u16)>) -> io::Result<Self> {
        match tty {
            Some((cols, rows)) => Self::terminal(cols, rows),
            None => Self::pipes(),
        }
    }

    fn pipes() -> io::Result<Self> {
        let (stdin, stdin_in) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let (stdout, stdout_in) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let (stderr, stderr_in) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        Ok(Self {
            inner: vec![stdin, stdout_in, stderr_in],
            outer: vec![stdin_in, stdout, stderr],
        })
    }

    /// A terminal of the workload's own devpts. The path leads into its mount
    /// namespace; a device file system cannot hold a tenant's file, so what is
    /// found there is checked and then safe.
    fn terminal(cols: u16, rows: u16) -> io::Result<Self> {
        use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
        let master = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_NOCTTY | nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
            .open("/dev/pts/ptmx")?;
        let meta = master.metadata()?;
        if !meta.file_type().is_char_device() || meta.rdev() != nix::libc::makedev(5, 2) {
            return Err(io::Error::other(
                "/dev/pts/ptmx of the workload is no terminal",
            ));
        }
        sys::set_winsize(master.as_fd(), cols.max(1), rows.max(1))?;
        let peer = sys::pty_peer(master.as_fd())?;
        Ok(Self {
            inner: vec![peer],
            outer: vec![master.into()],
        })
    }
}

/// In the child: everything up to the exec. Gives the error that stopped it.
fn become_command(
    request: &EnterRequest,
    foreign: Option<&Foreign>,
    stdio: Vec<OwnedFd>,
    doors: &mut [File],
) -> io::Result<io::Error> {
    // Until the exec it ends with the helper.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    cgroup::enter(doors)?;
    let capabilities = foreign.map_or_else(launch::capability_bits, Foreign::capabilities);
    if foreign.is_some() {
        // Without a user namespace the powers are the host's: they go before
        // anything of the tenant's is looked at.
        sys::keep_capabilities(capabilities)?;
    }
    nix::unistd::setsid()?;
    let [first, rest @ ..] = stdio.as_slice() else {
        return Err(io::Error::other("no streams"));
    };
    sys::dup_to(first, 0)?;
    sys::dup_to(rest.first().unwrap_or(first), 1)?;
    sys::dup_to(rest.get(1).unwrap_or(first), 2)?;
    if request.tty.is_some() {
        sys::take_tty()?;
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let user = User::root(&user::read_file("/etc/passwd"));
    let program = program(request, &user);
    launch::reset_signals()?;
    if let Some(foreign) = foreign {
        foreign.take_label(program.is_some())?;
    }
    launch::become_tenant(&user, capabilities)?;
    if nix::unistd::chdir(user.home.as_str()).is_err() {
        nix::unistd::chdir("/")?;
    }
    nix::sys::prctl::set_pdeathsig(None)?;
    match program {
        Some(program) => Ok(program.exec()),
        None => serve_sftp(&user.home),
    }
}

/// `None`: the SFTP server, which is in this program.
fn program(request: &EnterRequest, user: &User) -> Option<Program> {
    let env = environment(request, user);
    let shell = shells(user);
    let with_shell = |argv: Vec<String>| {
        Some(Program {
            candidates: shell.clone(),
            argv,
            env: env.clone(),
        })
    };
    let name = |path: &str| path.rsplit('/').next().unwrap_or("sh").to_owned();
    let first = shell
        .first()
        .map_or_else(|| "sh".to_owned(), |path| name(path));
    match &request.command {
        EnterCommand::Shell => with_shell(vec![format!("-{first}")]),
        EnterCommand::Line(line) => with_shell(vec![first, "-c".to_owned(), line.clone()]),
        EnterCommand::Argv(argv) => Some(Program::from_argv(argv, &env).unwrap_or(Program {
            candidates: Vec::new(),
            argv: Vec::new(),
            env,
        })),
        EnterCommand::Sftp => None,
    }
}

/// The user's shell if it is there, else what there usually is.
fn shells(user: &User) -> Vec<String> {
    let usual = ["/bin/bash", "/usr/bin/bash", "/bin/sh", "/usr/bin/sh"];
    user.shell
        .iter()
        .cloned()
        .chain(usual.map(str::to_owned))
        .filter(|path| nix::unistd::access(path.as_str(), nix::unistd::AccessFlags::X_OK).is_ok())
        .collect()
}

fn environment(request: &EnterRequest, user: &User) -> Vec<(String, String)> {
    let name = user.name.clone().unwrap_or_else(|| "root".to_owned());
    let mut env = vec![
        ("PATH".to_owned(), DEFAULT_PATH.to_owned()),
        ("HOME".to_owned(), user.home.clone()),
        ("USER".to_owned(), name.clone()),
        ("LOGNAME".to_owned(), name),
    ];
    if let Some(shell) = shells(user).first() {
        env.push(("SHELL".to_owned(), shell.clone()));
    }
    for (key, value) in &request.env {
        env.retain(|(known, _)| known != key);
        env.push((key.clone(), value.clone()));
    }
    env
}

fn serve_sftp(home: &str) -> io::Result<io::Error> {
    sys::close_from(3)?;
    // What the file of users names may not be there.
    let home = Some(Path::new(home)).filter(|home| home.is_dir());
    let home = home.unwrap_or_else(|| Path::new("/"));
    let code = i32::from(crate::compute::sftp_server::serve_stdio(home).is_err());
    sys::exit_now(code)
}

/// Until the command has ended: passes signals on, and ends it when the
/// daemon is gone or has dropped the session.
fn attend(channel: &mut Channel, child: Pid) -> io::Result<Reply> {
    let ended = sys::pidfd_open(child)?;
    let group = Pid::from_raw(-child.as_raw());
    loop {
        let (control, over) = {
            let mut fds = [
                PollFd::new(channel.fd(), PollFlags::POLLIN),
                PollFd::new(ended.as_fd(), PollFlags::POLLIN),
            ];
            wait(&mut fds, PollTimeout::NONE)?;
            let ready = |fd: Option<&PollFd<'_>>| fd.and_then(PollFd::any).unwrap_or(false);
            (ready(fds.first()), ready(fds.get(1)))
        };
        if over {
            return status(child);
        }
        if control {
            match channel.line() {
                Ok(Some(line)) => {
                    signal_group(&line, group);
                    while let Some(line) = channel.buffered_line() {
                        signal_group(&line, group);
                    }
                }
                Ok(None) | Err(_) => {
                    hang_up(group, ended.as_fd())?;
                    return status(child);
                }
            }
        }
    }
}

fn wait(fds: &mut [PollFd<'_>], timeout: PollTimeout) -> io::Result<()> {
    match nix::poll::poll(fds, timeout) {
        Ok(_) | Err(nix::Error::EINTR) => Ok(()),
        Err(err) => Err(err.into()),
    }
}

fn signal_group(line: &[u8], group: Pid) {
    if let Ok(EnterControl::Signal(number)) = serde_json::from_slice(line)
        && let Ok(signal) = Signal::try_from(number)
    {
        let _ = nix::sys::signal::kill(group, signal);
    }
}

fn hang_up(group: Pid, ended: BorrowedFd<'_>) -> io::Result<()> {
    let _ = nix::sys::signal::kill(group, Signal::SIGHUP);
    let _ = nix::sys::signal::kill(group, Signal::SIGCONT);
    let timeout = PollTimeout::try_from(HANGUP).unwrap_or(PollTimeout::ZERO);
    wait(&mut [PollFd::new(ended, PollFlags::POLLIN)], timeout)?;
    let _ = nix::sys::signal::kill(group, Signal::SIGKILL);
    Ok(())
}

fn status(child: Pid) -> io::Result<Reply> {
    Ok(match nix::sys::wait::waitpid(child, None)? {
        WaitStatus::Exited(_, code) => Reply::Ended {
            code: Some(code),
            signal: None,
        },
        WaitStatus::Signaled(_, signal, _) => Reply::Ended {
            code: None,
            signal: Some(signal as i32),
        },
        _ => Reply::Ended {
            code: None,
            signal: None,
        },
    })
}

/// Connects from inside a workload's network and hands the socket over.
pub(super) fn dial(channel: &Channel, request: &DialRequest) -> Result<(), Failure> {
    let pidfd = open_target(&request.target)?;
    let own_users = !request.foreign
        || foreign::own_users(request.target.pid).map_err(|err| Failure::io("dial", &err))?;
    let namespaces = match own_users {
        true => CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET,
        false => CloneFlags::CLONE_NEWNET,
    };
    join(pidfd.as_fd(), namespaces)?;
    let mut last = Failure::permanent("no address to connect to");
    for address in &request.addresses {
        match connect(*address) {
            Ok(stream) => {
                return channel
                    .send(&Reply::Connected, &[stream.as_fd()])
                    .map_err(|err| Failure::io("dial", &err));
            }
            Err(err) => last = Failure::permanent(format!("{address}: {err}")),
        }
    }
    Err(last)
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&address, CONNECT)
}
