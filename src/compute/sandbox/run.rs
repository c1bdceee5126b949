//! Bringing a workload to running: the helper's side.
//!
//! Two processes. The outer one stays on the host: it holds the lease's lock,
//! makes the disk, connects the network, writes down what runs. The inner one
//! builds the file system in a mount namespace of its own and calls
//! libcontainer there. The inner one, and what it has made so far, dies with
//! the outer one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Pid};

use super::init::{self, Init};
use super::wire::{DestroyRequest, Failure, RunNote, RunRequest};
use super::{cgroup, disk, enter, launch, net, process, spec, stage, store, sys};

/// How long another helper may hold the lease's lock.
const LOCK: Duration = Duration::from_secs(60);
/// Score of the first process (proc_pid_oom_score_adj(5)): what fills the
/// memory is to be killed, not what keeps the workload up.
const INIT_OOM_SCORE: &str = "-500";

/// Brings it to running. With one that runs there already, that is the answer.
pub(super) fn run(request: &RunRequest) -> Result<RunNote, Failure> {
    let dir = &request.dir;
    let _lock =
        store::lock(dir, LOCK, || Ok(())).map_err(|err| Failure::io("the lease's lock", &err))?;
    if let Some(note) = running(dir)? {
        return Ok(note);
    }
    clear_remains(request)?;
    if let Some(mib) = request.disk_mib {
        disk::make(dir, mib).map_err(|err| Failure::io("making the disk", &err))?;
    }
    let (ours, theirs) = pipes().map_err(|err| Failure::io("pipe", &err))?;
    let child = match sys::fork().map_err(|err| Failure::io("fork", &err))? {
        ForkResult::Child => {
            drop(ours);
            sys::exit_now(inner_main(request, theirs))
        }
        ForkResult::Parent { child } => child,
    };
    drop(theirs);
    let result = conduct(request, ours);
    if result.is_err() {
        let _ = nix::sys::signal::kill(child, Signal::SIGKILL);
    }
    let _ = nix::sys::wait::waitpid(child, None);
    if result.is_err() {
        let _ = clear_remains(request);
    }
    result
}

fn running(dir: &Path) -> Result<Option<RunNote>, Failure> {
    let what = |err: io::Error| Failure::io("looking at the workload", &err);
    let Some(note) = store::read_run(dir).map_err(what)? else {
        return Ok(None);
    };
    Ok(process::alive(&note).map_err(what)?.then_some(note))
}

/// Of an earlier life: a group with something in it, a note of what ran.
fn clear_remains(request: &RunRequest) -> Result<(), Failure> {
    let clear = || {
        if let Some(path) = &request.cgroup {
            cgroup::Cgroup::find(path)?.remove()?;
        }
        store::forget_run(&request.dir)
    };
    clear().map_err(|err: io::Error| Failure::io("clearing up", &err))
}

/// The pipes between the two processes, each its own end of both.
struct Ends {
    reader: File,
    writer: File,
}

fn pipes() -> io::Result<(Ends, Ends)> {
    let (a, a_in) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let (b, b_in) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let ours = Ends {
        reader: a.into(),
        writer: b_in.into(),
    };
    let theirs = Ends {
        reader: b.into(),
        writer: a_in.into(),
    };
    Ok((ours, theirs))
}

/// The outer side: wait for the process, connect it, write it down, let it go.
fn conduct(request: &RunRequest, mut ends: Ends) -> Result<RunNote, Failure> {
    let pid: i32 = inner_word(&mut ends.reader)?
        .trim()
        .parse()
        .map_err(|_| Failure::retry("the sandbox gave no process id"))?;
    match &request.net {
        Some(plan) => net::loopback(pid).and_then(|()| net::connect(plan, pid)),
        None => Ok(()),
    }
    .map_err(|err| Failure::io("connecting the network", &err))?;
    let note = process::note(pid).map_err(|err| Failure::io("the first process", &err))?;
    if let Some(group) = &request.cgroup
        && !process::in_group(&note, group).map_err(|err| Failure::io("its control group", &err))?
    {
        // libcontainer goes on without one where a group may not be joined.
        return Err(Failure::retry("the workload is not in its control group"));
    }
    store::write_run(&request.dir, &note).map_err(|err| Failure::io("writing it down", &err))?;
    ends.writer
        .write_all(b"go\n")
        .map_err(|err| Failure::io("starting it", &err))?;
    inner_word(&mut ends.reader)?;
    if request.uid_base.is_some() {
        // One that has ended already needs no favour.
        let _ = spare(&note);
    }
    Ok(note)
}

/// Has the kernel spare the first process when memory runs out. From here, as
/// a tenant's process would have to lower its guard to change its own score.
fn spare(note: &RunNote) -> io::Result<()> {
    let dir = File::open(format!("/proc/{}", note.pid))?;
    // Only now: the descriptor stands for whichever process has the number.
    if !process::alive(note)? {
        return Ok(());
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let score = nix::fcntl::openat(&dir, "oom_score_adj", flags, Mode::empty())?;
    File::from(score).write_all(INIT_OOM_SCORE.as_bytes())
}

/// One line of the inner process: `+text`, or a failure as JSON.
fn inner_word(reader: &mut File) -> Result<String, Failure> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < 64 * 1024 {
        match reader.read(&mut byte) {
            Ok(0) => break,
            Ok(_) if byte == [b'\n'] => break,
            Ok(_) => line.extend_from_slice(&byte),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(Failure::io("the sandbox", &err)),
        }
    }
    match line.split_first() {
        Some((b'+', text)) => Ok(String::from_utf8_lossy(text).into_owned()),
        Some(_) => Err(serde_json::from_slice(&line)
            .unwrap_or_else(|_| Failure::retry("the sandbox gave no sense"))),
        None => Err(Failure::retry("the sandbox ended before it was made")),
    }
}

/// The inner process.
fn inner_main(request: &RunRequest, mut ends: Ends) -> i32 {
    let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| inner(request, &mut ends)));
    let failure = match made {
        Ok(Ok(())) => return 0,
        Ok(Err(failure)) => failure,
        Err(_) => Failure::retry("the sandbox helper panicked"),
    };
    let mut line = serde_json::to_vec(&failure).unwrap_or_default();
    line.push(b'\n');
    let _ = ends.writer.write_all(&line);
    1
}

fn inner(request: &RunRequest, ends: &mut Ends) -> Result<(), Failure> {
    let what = |err: io::Error| Failure::io("the sandbox", &err);
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(|err| what(err.into()))?;
    let files = Files::open(&request.dir).map_err(what)?;
    launch::limit_process().map_err(what)?;
    if request.uid_base.is_some() {
        // Written with the host's powers it is also the least that a tenant's
        // process can give itself.
        fs::write("/proc/self/oom_score_adj", enter::OOM_SCORE.to_string()).map_err(what)?;
    }
    let userns = match request.uid_base {
        Some(base) => {
            Some(userns(base).map_err(|err| Failure::io("making a user namespace", &err))?)
        }
        None => None,
    };
    stage::isolate(request.uid_base.is_none())
        .map_err(|err| Failure::io("making namespaces", &err))?;
    stage::build(request, userns.as_ref())?;
    let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|err| what(err.into()));
    let (ready, ready_in) = pipe()?;
    let life = pipe()?;
    let mut container = create(request, userns.as_ref(), &files, &ready_in, &life)?;
    let pid = container
        .pid()
        .ok_or_else(|| Failure::retry("libcontainer gave no process id"))?;
    if request.net.is_none() {
        net::loopback(pid.as_raw()).map_err(what)?;
    }
    ends.writer
        .write_all(format!("+{pid}\n").as_bytes())
        .map_err(what)?;
    let mut go = [0; 3];
    ends.reader.read_exact(&mut go).map_err(what)?;
    container
        .start()
        .map_err(|err| Failure::retry(format!("libcontainer: {}", chain(&err))))?;
    drop(ready_in);
    let mut word = String::new();
    File::from(ready).read_to_string(&mut word).map_err(what)?;
    match word.strip_prefix('+') {
        Some(_) => ends.writer.write_all(b"+\n").map_err(what),
        None if word.is_empty() => Err(Failure::retry("the first process ended at once")),
        None => Err(Failure::permanent(word)),
    }
}

/// Files of the first process.
struct Files {
    logs: [File; 2],
    exit: File,
    null: [File; 3],
}

impl Files {
    fn open(dir: &Path) -> io::Result<Self> {
        let open = |name: &str, append: bool| {
            OpenOptions::new()
                .append(append)
                .write(true)
                .truncate(!append)
                .create(true)
                .open(dir.join(name))
        };
        let null = || OpenOptions::new().read(true).write(true).open("/dev/null");
        Ok(Self {
            logs: [open(store::LOGS[0], true)?, open(store::LOGS[1], true)?],
            exit: open(store::EXIT, false)?,
            null: [null()?, null()?, null()?],
        })
    }
}

fn create(
    request: &RunRequest,
    userns: Option<&OwnedFd>,
    files: &Files,
    ready: &OwnedFd,
    life: &(OwnedFd, OwnedFd),
) -> Result<libcontainer::container::Container, Failure> {
    let wrong = |err: String| Failure::permanent(format!("sandbox configuration: {err}"));
    let spec =
        spec::build(request, userns.map(AsFd::as_fd)).map_err(|err| wrong(err.to_string()))?;
    spec.save("/bundle/config.json")
        .map_err(|err| wrong(err.to_string()))?;
    let executor = Init {
        logs: [init::raw(&files.logs[0]), init::raw(&files.logs[1])],
        exit: init::raw(&files.exit),
        ready: init::raw(ready),
        life: [init::raw(&life.0), init::raw(&life.1)],
        argv: request.argv.clone(),
        env: request.env.clone(),
        cwd: request.cwd.clone(),
        user: request.user.clone(),
        open: request.uid_base.is_none(),
    };
    let [stdin, stdout, stderr] = &files.null;
    let stream = |file: &File| {
        file.try_clone()
            .map_err(|err| Failure::io("the sandbox", &err))
    };
    ContainerBuilder::new(request.key.clone(), SyscallType::default())
        .with_executor(executor)
        .with_root_path("/state")
        .map_err(|err| wrong(err.to_string()))?
        .with_stdin(stream(stdin)?)
        .with_stdout(stream(stdout)?)
        .with_stderr(stream(stderr)?)
        .as_init("/bundle")
        .with_systemd(false)
        .with_detach(true)
        .build()
        .map_err(|err| Failure::retry(format!("libcontainer: {}", chain(&err))))
}

/// An error with what caused it.
fn chain(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut next = err.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// A user namespace for a tenant's range of ids. Its owner is the first of
/// them: what the kernel counts by user (inotify(7), pending signals, message
/// queues) it counts for the owner of the namespace too, and if that were the
/// host's root, a tenant could use up all that root has.
pub(super) fn userns(base: u32) -> io::Result<OwnedFd> {
    let (ours, theirs) = pipes()?;
    match sys::fork()? {
        ForkResult::Child => {
            drop(ours);
            let Ends {
                mut reader,
                mut writer,
            } = theirs;
            let held = sys::borrow_identity(base).is_ok()
                && nix::sched::unshare(CloneFlags::CLONE_NEWUSER).is_ok()
                && writer.write_all(b"+").is_ok();
            // Until the parent has what it wants, or is gone.
            let _ = reader.read(&mut [0]);
            sys::exit_now(i32::from(!held))
        }
        ForkResult::Parent { child } => {
            drop(theirs);
            let found = map_and_open(child, base, ours);
            let _ = nix::sys::wait::waitpid(child, None);
            found
        }
    }
}

fn map_and_open(child: Pid, base: u32, mut ends: Ends) -> io::Result<OwnedFd> {
    ends.reader.read_exact(&mut [0])?;
    let map = format!("0 {base} {}\n", spec::ID_RANGE);
    fs::write(format!("/proc/{child}/uid_map"), &map)?;
    fs::write(format!("/proc/{child}/gid_map"), &map)?;
    File::open(format!("/proc/{child}/ns/user")).map(OwnedFd::from)
}

/// Removes all there is of a workload.
pub(super) fn destroy(request: &DestroyRequest) -> Result<(), Failure> {
    let dir = &request.dir;
    if dir.exists() {
        kill(request).map_err(|err| Failure::io("ending the workload", &err))?;
        // Whoever has the lock is making it, or is what is left of a helper
        // that was killed while it did.
        let lock = store::lock(dir, LOCK, || kill(request));
        let _lock = lock.map_err(|err| Failure::io("the lease's lock", &err))?;
        // Again: what was being made while we waited.
        kill(request).map_err(|err| Failure::io("ending the workload", &err))?;
    }
    let done = || -> io::Result<()> {
        if let Some(plan) = &request.net {
            net::disconnect(plan)?;
        }
        store::remove(dir)?;
        match fs::remove_file(&request.slot) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
            _ => Ok(()),
        }
    };
    done().map_err(|err| Failure::io("removing the workload", &err))
}

fn kill(request: &DestroyRequest) -> io::Result<()> {
    if let Some(note) = store::read_run(&request.dir)?
        && let Some(pidfd) = process::open(&note)?
    {
        sys::pidfd_signal(pidfd.as_fd(), nix::libc::SIGKILL)?;
        if let Some(path) = &request.cgroup {
            cgroup::Cgroup::find(path)?.kill()?;
        }
        let mut ended = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        nix::poll::poll(&mut ended, PollTimeout::from(10_000_u16))?;
    }
    match &request.cgroup {
        Some(path) => cgroup::Cgroup::find(path)?.remove(),
        None => Ok(()),
    }
}
