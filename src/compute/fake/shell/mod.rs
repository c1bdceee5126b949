//! A tiny shell over a workload's store of files: enough for tests to be
//! written in the words that a real shell knows, and some words that stand for
//! real programs (`fork-bomb`, `fill-memory`, …; see [`symbolic`]).

mod builtins;
mod session;
mod symbolic;
mod syntax;

use std::collections::BTreeMap;
use std::net::IpAddr;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader, DuplexStream};
use tokio::sync::watch;

pub(super) use session::{Session, run_main, run_session};
use syntax::{Command, Part, Redirect, When, Word};

use super::engine::{FakeEngine, Inner};
use super::faults::Defect;
use super::workload::{Life, Workload};
use crate::compute::{ExecCommand, TtySize, WorkloadKey};

/// A file that the machine has and no workload may see, and what is in it.
pub(super) const HOST_SECRET: (&str, &str) = ("/root/.host-secret", "the host's own secret");

/// A process of the machine that no workload may see.
pub(super) const HOST_PROCESS: &str = "host-daemon";

/// Exit code of a word that is no program.
const NOT_FOUND: i32 = 127;

/// How a program ended before the end of its line.
enum End {
    /// `exit`.
    Exit(i32),
    /// A signal.
    Killed(i32),
}

/// Where output goes.
enum Sink {
    Pipe(DuplexStream),
    Log,
}

/// Where standard output of one command goes.
enum Target {
    Stdout,
    Stderr,
    /// Into this file when the command ends.
    File {
        path: String,
        text: Vec<u8>,
    },
}

/// One run of the shell.
struct Shell {
    engine: FakeEngine,
    serial: u64,
    life: Life,
    env: BTreeMap<String, String>,
    stdin: BufReader<Box<dyn AsyncRead + Send + Unpin>>,
    stdout: Sink,
    /// `None`: with standard output.
    stderr: Option<Sink>,
    tty: Option<watch::Receiver<TtySize>>,
    last: i32,
}

impl Shell {
    /// What the command ends with: a code, or the number of a signal as `Err`.
    async fn run(mut self, command: ExecCommand) -> Result<i32, i32> {
        let ended = match command {
            ExecCommand::Shell => self.interactive().await,
            ExecCommand::Line(line) => self.line(&line).await,
            ExecCommand::Argv(argv) => self.argv(&argv, &mut Target::Stdout).await,
            ExecCommand::Sftp => Ok(NOT_FOUND),
        };
        match ended {
            Ok(code) | Err(End::Exit(code)) => Ok(code),
            Err(End::Killed(signal)) => Err(signal),
        }
    }

    /// Lines from standard input until it ends.
    async fn interactive(&mut self) -> Result<i32, End> {
        loop {
            let mut line = String::new();
            match self.stdin.read_line(&mut line).await {
                Ok(0) | Err(_) => return Ok(self.last),
                Ok(_) => self.last = self.line(line.trim_end_matches('\n')).await?,
            }
        }
    }

    async fn line(&mut self, line: &str) -> Result<i32, End> {
        let commands = match syntax::parse(line) {
            Ok(commands) => commands,
            Err(why) => {
                self.complain(&format!("sh: {why}")).await?;
                return Ok(2);
            }
        };
        for command in commands {
            let runs = match command.when {
                When::Always => true,
                When::AfterSuccess => self.last == 0,
                When::AfterFailure => self.last != 0,
            };
            if runs {
                self.last = self.command(command).await?;
            }
        }
        Ok(self.last)
    }

    async fn command(&mut self, command: Command) -> Result<i32, End> {
        let mut target = match command.redirect {
            None => Target::Stdout,
            Some(Redirect::Stderr) => Target::Stderr,
            Some(Redirect::Write(file)) => self.file_target(&file, false),
            Some(Redirect::Append(file)) => self.file_target(&file, true),
        };
        let argv: Vec<String> = command.words.iter().map(|word| self.expand(word)).collect();
        let code = match argv.is_empty() {
            true => 0,
            false => Box::pin(self.argv(&argv, &mut target)).await?,
        };
        match target {
            Target::File { path, text } => Ok(self.store(&path, text).await?.max(code)),
            _ => Ok(code),
        }
    }

    fn file_target(&self, file: &Word, append: bool) -> Target {
        let path = self.path(&self.expand(file));
        let old = self.read(&path).filter(|_| append);
        Target::File {
            path,
            text: old.unwrap_or_default(),
        }
    }

    fn expand(&self, word: &Word) -> String {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Variable(name) if name == "?" => self.last.to_string(),
            Part::Variable(name) => self.env.get(name).cloned().unwrap_or_default(),
        };
        let text: String = word.iter().map(part).collect();
        match text.strip_prefix("~/") {
            Some(rest) => format!("{}/{rest}", self.var("HOME")),
            None => text,
        }
    }

    fn var(&self, name: &str) -> &str {
        self.env.get(name).map_or("", String::as_str)
    }

    /// The absolute path of a file as named in a command.
    fn path(&self, file: &str) -> String {
        match file.starts_with('/') {
            true => file.to_owned(),
            false => format!("{}/{file}", self.var("PWD")),
        }
    }

    fn with<T>(&self, look: impl FnOnce(&mut Workload) -> T) -> Option<T> {
        let mut inner = self.engine.lock();
        inner.workloads.get_mut(&self.serial).map(look)
    }

    fn has(&self, defect: Defect) -> bool {
        self.engine.lock().has(defect)
    }

    fn read(&self, path: &str) -> Option<Vec<u8>> {
        if path == HOST_SECRET.0 && self.has(Defect::NoIsolation) {
            return Some(HOST_SECRET.1.into());
        }
        self.with(|workload| workload.files.get(path).cloned())?
    }

    /// Writes a file if the disk has room.
    async fn store(&mut self, path: &str, text: Vec<u8>) -> Result<i32, End> {
        if path == "/dev/null" {
            return Ok(0);
        }
        let enforced = self.limits().disk;
        let fits = self.with(|workload| {
            workload.files.remove(path);
            let size = u64::try_from(text.len()).unwrap_or(u64::MAX);
            let fits = workload.disk_room(enforced).is_none_or(|room| size <= room);
            if fits {
                workload.files.insert(path.to_owned(), text);
            }
            fits
        });
        if fits.unwrap_or(false) {
            return Ok(0);
        }
        self.complain(&format!("{path}: No space left on device"))
            .await?;
        Ok(1)
    }

    /// Which limits hold.
    fn limits(&self) -> crate::compute::Enforced {
        match self.has(Defect::NoLimits) {
            true => crate::compute::Enforced::default(),
            false => self.engine.host().enforces,
        }
    }

    /// Standard output of a command.
    async fn say(&mut self, target: &mut Target, bytes: &[u8]) -> Result<(), End> {
        match target {
            Target::Stdout => self.print(false, bytes).await,
            Target::Stderr => self.print(true, bytes).await,
            Target::File { text, .. } => {
                text.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    async fn say_line(&mut self, target: &mut Target, line: &str) -> Result<(), End> {
        self.say(target, format!("{line}\n").as_bytes()).await
    }

    async fn complain(&mut self, line: &str) -> Result<(), End> {
        self.print(true, format!("{line}\n").as_bytes()).await
    }

    async fn print(&mut self, error: bool, bytes: &[u8]) -> Result<(), End> {
        let merged = self.has(Defect::MergesStderr);
        let sink = match &mut self.stderr {
            Some(sink) if error && !merged => sink,
            _ => &mut self.stdout,
        };
        match sink {
            Sink::Log => {
                self.with(|workload| workload.print(bytes));
                Ok(())
            }
            Sink::Pipe(pipe) => {
                let bytes = match self.tty {
                    Some(_) => String::from_utf8_lossy(bytes)
                        .replace('\n', "\r\n")
                        .into_bytes(),
                    None => bytes.to_vec(),
                };
                let sent = pipe.write_all(&bytes).await;
                sent.map_err(|_| End::Killed(nix::libc::SIGPIPE))
            }
        }
    }
}

/// Whether the first word is a program that the shell has.
pub(super) fn is_program(argv: &[String]) -> bool {
    let name = argv.first().map(|name| base(name));
    name.is_some_and(|name| builtins::NAMES.contains(&name) || symbolic::NAMES.contains(&name))
}

/// The last part of a path.
fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// What whoever listens on `host:port`, as seen from inside the workload, says
/// first; `None`: nobody.
pub(super) fn listener(inner: &Inner, serial: u64, host: &str, port: u16) -> Option<Vec<u8>> {
    let workload = inner.workloads.get(&serial)?;
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if loopback || host == workload.address {
        return workload.ports.get(&port).cloned();
    }
    inner.has(Defect::OpenNetwork).then(Vec::new)
}

/// Files that a new workload has.
pub(super) fn first_files(key: &WorkloadKey) -> BTreeMap<String, Vec<u8>> {
    let files = [
        ("/etc/hostname", format!("{key}\n")),
        ("/proc/sys/kernel/hostname", format!("{key}\n")),
        ("/proc/self/uid_map", "0 100000 65536\n".to_owned()),
        (
            "/proc/self/status",
            "CapBnd:\t00000000a00405fb\nNoNewPrivs:\t1\nSeccomp:\t2\n".to_owned(),
        ),
    ];
    let owned = files.map(|(path, text)| (path.to_owned(), text.into_bytes()));
    let namespaces = ["pid", "mnt", "net", "ipc", "uts", "user"]
        .iter()
        .flat_map(|name| {
            let text = format!("{name}:[{key}]\n").into_bytes();
            let path = |process| format!("/proc/{process}/ns/{name}");
            [(path("self"), text.clone()), (path("1"), text)]
        });
    owned.into_iter().chain(namespaces).collect()
}
