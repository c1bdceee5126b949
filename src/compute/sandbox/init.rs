//! The first process of every workload: this program itself, without exec, so
//! that a root file system needs nothing in it. It reaps, starts the command
//! if there is one, keeps its output in two bounded files, passes SIGTERM on,
//! and stays up when there is no command. It holds the two log files, the exit
//! file and a signal descriptor, and no secret.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus};
use nix::unistd::{ForkResult, Pid};

use super::launch::{self, Program};
use super::user::{self, User};
use super::{seccomp, sys};

/// Bytes of each of the two log files.
pub(super) const LOG_CAP: u64 = 1024 * 1024;
/// How long everything inside has after SIGTERM when there is no command to
/// wait for.
const COURTESY: Duration = Duration::from_millis(500);

/// The executor that libcontainer runs in the new namespaces.
#[derive(Clone, Debug)]
pub(super) struct Init {
    /// The two log files.
    pub(super) logs: [RawFd; 2],
    /// Where the exit code goes.
    pub(super) exit: RawFd,
    /// Where "it runs" or an error goes.
    pub(super) ready: RawFd,
    /// A pipe that the helper holds open for as long as it lives.
    pub(super) life: [RawFd; 2],
    /// The command; empty: none.
    pub(super) argv: Vec<String>,
    /// Its environment.
    pub(super) env: Vec<(String, String)>,
    /// Its working directory.
    pub(super) cwd: String,
    /// Whom it runs as.
    pub(super) user: String,
    /// Whether its own user may look at it (proc(5), "dumpable").
    pub(super) open: bool,
}

impl Executor for Init {
    fn exec(&self, _spec: &Spec) -> Result<(), ExecutorError> {
        // Where it went wrong late, there is nobody left to tell but the exit code.
        let code = self.run().unwrap_or(125);
        sys::exit_now(code)
    }

    fn validate(&self, _spec: &Spec) -> Result<(), ExecutorValidationError> {
        // Until it is started, it ends with the helper that makes it: a helper
        // that is killed leaves no half-made workload waiting for ever.
        let ready = || -> io::Result<()> {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            self.helper_lives()?;
            // Without root, only a process that may be looked at can be joined
            // by the user who runs it; its tenant may then look at it too, and
            // finds its own log and exit code there.
            nix::sys::prctl::set_dumpable(self.open)?;
            Ok(())
        };
        ready().map_err(|err| ExecutorValidationError::ArgValidationError(err.to_string()))
    }
}

impl Init {
    /// An error where the helper ended before it could be asked to take this
    /// process with it: then the other ends of the pipe are all closed.
    fn helper_lives(&self) -> io::Result<()> {
        let [read, write] = self.life;
        drop(sys::take_fd(write)?);
        let read = sys::take_fd(read)?;
        let mut fds = [PollFd::new(read.as_fd(), PollFlags::POLLIN)];
        nix::poll::poll(&mut fds, PollTimeout::ZERO)?;
        let [fd] = fds;
        if fd.any().unwrap_or(false) {
            return Err(io::Error::other("the helper is gone"));
        }
        Ok(())
    }

    fn run(&self) -> io::Result<i32> {
        nix::sys::prctl::set_pdeathsig(None)?;
        let mut fds = self.settle_fds()?;
        let signals = block_signals()?;
        nix::unistd::chdir("/")?;
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
        nix::sys::prctl::set_name(c"init")?;
        let started = self.start_command(&fds);
        seccomp::apply()?;
        let (command, output) = match started {
            Ok(pair) => pair,
            Err(err) => {
                fds.ready.write_all(format!("{err}").as_bytes())?;
                return Ok(127);
            }
        };
        fds.ready.write_all(b"+")?;
        let Fds {
            logs, exit, ready, ..
        } = fds;
        drop(ready);
        let mut keeper = Keeper {
            command,
            output,
            log: Log::open(logs)?,
            ending: None,
        };
        let code = keeper.keep(&signals)?;
        let mut exit = exit;
        exit.write_all(code.to_string().as_bytes())?;
        Ok(code)
    }

    /// Moves what is needed to 3..=6 and closes all else.
    fn settle_fds(&self) -> io::Result<Fds> {
        const SPARE: RawFd = 64;
        let mut high = Vec::new();
        for fd in [self.logs[0], self.logs[1], self.exit, self.ready] {
            let fd = sys::take_fd(fd)?;
            high.push(nix::fcntl::fcntl(
                &fd,
                nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(SPARE),
            )?);
            // It is closed below with the rest.
            std::mem::forget(fd);
        }
        for (target, fd) in (3..).zip(&high) {
            let fd = sys::take_fd(*fd)?;
            sys::dup_to(&fd, target)?;
            std::mem::forget(fd);
        }
        sys::close_from(7)?;
        let take = |fd| sys::take_fd(fd).map(File::from);
        Ok(Fds {
            logs: [take(3)?, take(4)?],
            exit: take(5)?,
            ready: take(6)?,
        })
    }

    fn start_command(&self, _fds: &Fds) -> io::Result<(Option<Pid>, Option<File>)> {
        let Some(program) = Program::from_argv(&self.argv, &self.env) else {
            return Ok((None, None));
        };
        let (output, output_in) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let (failed, failed_in) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        match sys::fork()? {
            ForkResult::Child => {
                let err = match self.become_command(output_in, &program) {
                    Ok(err) | Err(err) => err,
                };
                let _ = File::from(failed_in).write_all(format!("{err}").as_bytes());
                sys::exit_now(127)
            }
            ForkResult::Parent { child } => {
                drop(output_in);
                drop(failed_in);
                let mut text = String::new();
                File::from(failed).read_to_string(&mut text)?;
                if text.is_empty() {
                    return Ok((Some(child), Some(File::from(output))));
                }
                let name = self.argv.first().map_or("", String::as_str);
                Err(io::Error::other(format!("{name}: {text}")))
            }
        }
    }

    fn become_command(&self, output: OwnedFd, program: &Program) -> io::Result<io::Error> {
        nix::unistd::setsid()?;
        // A program's output is a blocking pipe; only our end is not.
        nix::fcntl::fcntl(&output, nix::fcntl::FcntlArg::F_SETFL(OFlag::empty()))?;
        sys::dup_to(File::open("/dev/null")?, 0)?;
        sys::dup_to(&output, 1)?;
        sys::dup_to(&output, 2)?;
        let passwd = user::read_file("/etc/passwd");
        let user = User::parse(&self.user, &passwd, &user::read_file("/etc/group"))
            .ok_or_else(|| io::Error::other(format!("no user {} in the image", self.user)))?;
        let mut program = program.clone();
        if !program.env.iter().any(|(key, _)| key == "HOME") {
            program.env.push(("HOME".to_owned(), user.home.clone()));
        }
        let cwd = if self.cwd.is_empty() { "/" } else { &self.cwd };
        // An image may name one that it does not have.
        let _ = std::fs::create_dir_all(cwd);
        launch::reset_signals()?;
        launch::become_tenant(&user, launch::capability_bits())?;
        nix::unistd::chdir(cwd).map_err(|err| io::Error::other(format!("{cwd}: {err}")))?;
        Ok(program.exec())
    }
}

struct Fds {
    logs: [File; 2],
    exit: File,
    ready: File,
}

fn block_signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ] {
        set.add(signal);
    }
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None)?;
    Ok(SignalFd::with_flags(
        &set,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}

/// What the first process does once all is started.
struct Keeper {
    command: Option<Pid>,
    output: Option<File>,
    log: Log,
    /// When it ends although nobody has told it to wait for anything.
    ending: Option<Instant>,
}

impl Keeper {
    /// Until the workload has ended; its exit code.
    fn keep(&mut self, signals: &SignalFd) -> io::Result<i32> {
        loop {
            self.wait(signals.as_fd())?;
            self.copy_output();
            while let Some(info) = signals.read_signal()? {
                if info.ssi_signo == Signal::SIGTERM as u32
                    || info.ssi_signo == Signal::SIGINT as u32
                {
                    self.terminate();
                }
            }
            if let Some(code) = self.reap() {
                self.copy_output();
                return Ok(code);
            }
            if self.ending.is_some_and(|end| Instant::now() >= end) {
                return Ok(0);
            }
        }
    }

    fn wait(&self, signals: BorrowedFd<'_>) -> io::Result<()> {
        let mut fds = vec![PollFd::new(signals, PollFlags::POLLIN)];
        if let Some(output) = &self.output {
            fds.push(PollFd::new(output.as_fd(), PollFlags::POLLIN));
        }
        let timeout = match self.ending {
            None => PollTimeout::NONE,
            Some(end) => {
                let left = end.saturating_duration_since(Instant::now());
                PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::ZERO)
            }
        };
        match nix::poll::poll(&mut fds, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(err) => Err(err.into()),
        }
    }

    /// SIGTERM goes to the command, which may take its time; with no command,
    /// to everything.
    fn terminate(&mut self) {
        match self.command {
            Some(pid) => {
                let _ = nix::sys::signal::kill(pid, Signal::SIGTERM);
            }
            None => {
                let _ = nix::sys::signal::kill(Pid::from_raw(-1), Signal::SIGTERM);
                self.ending.get_or_insert(Instant::now() + COURTESY);
            }
        }
    }

    /// Reaps all there is; the command's exit code, once it has ended.
    fn reap(&self) -> Option<i32> {
        let mut code = None;
        loop {
            match nix::sys::wait::waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, status)) if Some(pid) == self.command => {
                    code = Some(status);
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if Some(pid) == self.command => {
                    code = Some(128 + signal as i32);
                }
                Ok(WaitStatus::StillAlive) | Err(_) => return code,
                Ok(_) => {}
            }
        }
    }

    /// Takes what the command has printed. A full disk of the host loses
    /// output, never the workload.
    fn copy_output(&mut self) {
        let mut buffer = [0; 16 * 1024];
        // Bounded, so that a command that prints without end does not keep
        // signals from being seen.
        for _ in 0..64 {
            let Some(output) = &mut self.output else {
                return;
            };
            match output.read(&mut buffer) {
                Ok(0) => self.output = None,
                Ok(count) => {
                    let _ = self.log.write(buffer.get(..count).unwrap_or_default());
                }
                Err(_) => return,
            }
        }
    }
}

/// Which of the two log files is written now, by their lengths: the one that is
/// not full. Their times do not tell: a quick program fills both in one tick.
pub(super) fn current_log(first: u64) -> usize {
    usize::from(first >= LOG_CAP)
}

/// Two files, written in turn: as soon as one is full the other is emptied.
struct Log {
    files: [File; 2],
    current: usize,
    written: u64,
}

impl Log {
    fn open(files: [File; 2]) -> io::Result<Self> {
        let [first, second] = &files;
        let (first, second) = (first.metadata()?.len(), second.metadata()?.len());
        let current = current_log(first);
        let written = if current == 1 { second } else { first };
        let mut log = Self {
            files,
            current,
            written,
        };
        // The last one was killed before it could change files.
        log.change_when_full()?;
        Ok(log)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.files
            .get_mut(self.current)
            .map_or(Ok(()), |file| file.write_all(bytes))?;
        self.change_when_full()
    }

    fn change_when_full(&mut self) -> io::Result<()> {
        if self.written < LOG_CAP {
            return Ok(());
        }
        self.current ^= 1;
        self.written = 0;
        self.files
            .get(self.current)
            .map_or(Ok(()), |file| file.set_len(0))
    }
}

/// Numbers of open files, for the executor.
pub(super) fn raw(file: &impl AsRawFd) -> RawFd {
    file.as_raw_fd()
}
