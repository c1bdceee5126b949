//! The two ways in which the shell is run: as a session of `exec`, and as a
//! workload's main process.

use std::pin::pin;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::sync::{mpsc, oneshot, watch};

use super::{Shell, Sink};
use crate::compute::fake::engine::FakeEngine;
use crate::compute::fake::faults::Defect;
use crate::compute::fake::workload::{Life, OnTerm};
use crate::compute::{
    BackendError, ExecCommand, ExecControl, ExecRequest, ExitStatus, TtySize, WorkloadSpec,
};

/// Exit code of a process that a signal ended, as a shell tells it.
const BY_SIGNAL: i32 = 128;

/// The inner end of an `ExecSession`.
pub(in crate::compute::fake) struct Session {
    pub(in crate::compute::fake) engine: FakeEngine,
    pub(in crate::compute::fake) serial: u64,
    pub(in crate::compute::fake) life: Life,
    pub(in crate::compute::fake) request: ExecRequest,
    pub(in crate::compute::fake) stdin: DuplexStream,
    pub(in crate::compute::fake) stdout: DuplexStream,
    pub(in crate::compute::fake) stderr: DuplexStream,
    pub(in crate::compute::fake) control: mpsc::Receiver<ExecControl>,
    pub(in crate::compute::fake) exit: oneshot::Sender<Result<ExitStatus, BackendError>>,
}

/// Runs a session to its end.
pub(in crate::compute::fake) async fn run_session(session: Session) {
    let Session {
        engine,
        serial,
        life,
        request,
        stdin,
        stdout,
        stderr,
        control,
        exit,
    } = session;
    let size = watch::Sender::new(request.tty.unwrap_or(TtySize { cols: 80, rows: 24 }));
    let (interrupt, interrupted) = mpsc::channel(1);
    let tty = request.tty.map(|_| size.subscribe());
    let input: Box<dyn AsyncRead + Send + Unpin> = match &tty {
        Some(_) => Box::new(line_discipline(stdin, interrupt)),
        None => Box::new(stdin),
    };
    let shell = Shell {
        env: environment(&engine, serial, &request.env),
        engine: engine.clone(),
        serial,
        life: life.clone(),
        stdin: BufReader::new(input),
        stdout: Sink::Pipe(stdout),
        stderr: tty.is_none().then_some(Sink::Pipe(stderr)),
        tty,
        last: 0,
    };
    let work = shell.run(request.command);
    let outside = Outside {
        immortal: engine.lock().has(Defect::KeepsDroppedExec),
        control,
        size,
        interrupted,
        exit,
    };
    let (status, exit) = outside.watch(&life, work).await;
    let forgets = engine.lock().has(Defect::LosesExitCode);
    let status = if forgets { ExitStatus::Code(0) } else { status };
    // Whoever asked may have gone: then nobody wants to know.
    exit.send(Ok(status)).unwrap_or_default();
}

/// What reaches a session from outside while its command runs.
struct Outside {
    immortal: bool,
    control: mpsc::Receiver<ExecControl>,
    size: watch::Sender<TtySize>,
    interrupted: mpsc::Receiver<()>,
    exit: oneshot::Sender<Result<ExitStatus, BackendError>>,
}

type Exit = oneshot::Sender<Result<ExitStatus, BackendError>>;

impl Outside {
    async fn watch(
        mut self,
        life: &Life,
        work: impl Future<Output = Result<i32, i32>>,
    ) -> (ExitStatus, Exit) {
        let mut work = pin!(frozen_with(life, work));
        let (mut exit_gone, mut control_gone) = (false, false);
        let status = loop {
            if exit_gone && control_gone && !self.immortal {
                break ExitStatus::Signal(nix::libc::SIGHUP);
            }
            tokio::select! {
                biased;
                () = life.end.cancelled() => break ExitStatus::Signal(nix::libc::SIGKILL),
                Some(()) = self.interrupted.recv() => break ExitStatus::Signal(nix::libc::SIGINT),
                control = self.control.recv(), if !control_gone => match control {
                    Some(ExecControl::Resize(size)) => {
                        self.size.send_replace(size);
                    }
                    Some(ExecControl::Signal(number)) if ends(number) => {
                        break ExitStatus::Signal(number);
                    }
                    Some(ExecControl::Signal(_)) => {}
                    None => control_gone = true,
                },
                () = self.exit.closed(), if !exit_gone => exit_gone = true,
                ended = &mut work => break match ended {
                    Ok(code) => ExitStatus::Code(code),
                    Err(signal) => ExitStatus::Signal(signal),
                },
            }
        };
        (status, self.exit)
    }
}

/// Whether a signal ends a process that has not said otherwise (signal(7)).
fn ends(signal: i32) -> bool {
    use nix::libc::{SIGCHLD, SIGCONT, SIGURG, SIGWINCH};
    signal > 0 && ![SIGCHLD, SIGCONT, SIGURG, SIGWINCH].contains(&signal)
}

/// Does `work` while the workload is not paused.
async fn frozen_with<T>(life: &Life, work: impl Future<Output = T>) -> T {
    let mut paused = life.paused.subscribe();
    let mut work = pin!(work);
    loop {
        if paused.wait_for(|paused| !paused).await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::select! {
            biased;
            _ = paused.wait_for(|paused| *paused) => {}
            done = &mut work => return done,
        }
    }
}

/// What a terminal does to input: return is a new line, ^D the end, ^C a signal.
fn line_discipline(mut from: DuplexStream, interrupt: mpsc::Sender<()>) -> DuplexStream {
    let (mut to, inside) = tokio::io::duplex(4096);
    tokio::spawn(async move {
        while let Ok(byte) = from.read_u8().await {
            let sent = match byte {
                b'\r' => to.write_u8(b'\n').await,
                3 => {
                    // A second one while the first is on its way changes nothing.
                    interrupt.try_send(()).unwrap_or_default();
                    Ok(())
                }
                4 => return,
                byte => to.write_u8(byte).await,
            };
            if sent.is_err() {
                return;
            }
        }
    });
    inside
}

/// Runs the main process of one life and notes its end.
pub(in crate::compute::fake) async fn run_main(engine: FakeEngine, serial: u64, life: Life) {
    let spec = {
        let inner = engine.lock();
        inner.workloads.get(&serial).map(|w| w.spec.clone())
    };
    let Some(spec) = spec else { return };
    let code = tokio::select! {
        biased;
        () = life.end.cancelled() => return,
        () = terminated(&life) => Some(BY_SIGNAL + nix::libc::SIGTERM),
        ended = frozen_with(&life, main_process(&engine, serial, &life, &spec)) => match ended {
            Ok(code) => Some(code),
            Err(signal) => Some(BY_SIGNAL.saturating_add(signal)),
        },
    };
    let mut inner = engine.lock();
    if life.end.is_cancelled() {
        return;
    }
    if let Some(workload) = inner.workloads.get_mut(&serial) {
        workload.end(code);
    }
}

async fn main_process(
    engine: &FakeEngine,
    serial: u64,
    life: &Life,
    spec: &WorkloadSpec,
) -> Result<i32, i32> {
    if spec.command.is_empty() {
        return std::future::pending().await;
    }
    let shell = Shell {
        env: environment(engine, serial, &[]),
        engine: engine.clone(),
        serial,
        life: life.clone(),
        stdin: BufReader::new(Box::new(tokio::io::empty())),
        stdout: Sink::Log,
        stderr: None,
        tty: None,
        last: 0,
    };
    shell.run(ExecCommand::Argv(spec.command.clone())).await
}

/// Comes back when SIGTERM was sent and the process does nothing about it.
async fn terminated(life: &Life) {
    let mut term = life.term.subscribe();
    let ended = term.wait_for(|term| term.sent && term.on == OnTerm::Default);
    if ended.await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn environment(
    engine: &FakeEngine,
    serial: u64,
    more: &[(String, String)],
) -> std::collections::BTreeMap<String, String> {
    let inner = engine.lock();
    let workload = inner.workloads.get(&serial);
    let own = workload.map(|w| w.spec.env.clone()).unwrap_or_default();
    let key = workload.map(|w| w.key.to_string()).unwrap_or_default();
    let first = [
        ("HOME", "/root"),
        ("PWD", "/root"),
        ("PATH", "/usr/bin:/bin"),
        ("HOSTNAME", key.as_str()),
    ];
    let first = first.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let all = first.into_iter().chain(own).chain(more.iter().cloned());
    all.collect()
}
