//! A session channel: one command inside the workload.

use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use russh::Sig;
use russh::server::Handle as SshHandle;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::Door;
use super::channel::{Out, Stream};
use super::connection::Connection;
use super::input::Input;
use crate::compute::{ExecControl, ExecRequest, ExecSession, ExitStatus, TtySize};

/// How long a backend may take to start a command.
const START: Duration = Duration::from_secs(30);

/// Exit code where the command could not be started or was lost, as sshd's.
const LOST: u32 = 255;

/// What a command needs to run.
pub(super) struct Task {
    pub(super) door: Door,
    pub(super) request: ExecRequest,
    pub(super) input: Arc<Input>,
    pub(super) out: Out,
    pub(super) size: watch::Receiver<Option<TtySize>>,
    pub(super) signals: mpsc::Receiver<i32>,
    pub(super) ssh: SshHandle,
    pub(super) connection: Arc<Connection>,
    /// Cancelled when the client closes the channel, or the connection ends.
    pub(super) cancel: CancellationToken,
}

/// How it came to an end.
enum Outcome {
    Exit(ExitStatus),
    Failed(String),
    Cut,
}

impl Task {
    /// Runs the command and reports its end to the client.
    pub(super) async fn run(mut self) {
        let cancel = self.cancel.clone();
        // Dropping the conversation drops the session, which ends the command.
        let outcome = tokio::select! {
            biased;
            () = cancel.cancelled() => Outcome::Cut,
            outcome = self.converse() => outcome,
        };
        self.input.close();
        self.report(outcome).await;
        self.out.close().await;
    }

    async fn report(&self, outcome: Outcome) {
        match outcome {
            Outcome::Exit(ExitStatus::Code(code)) => {
                self.out.exit_status(code.cast_unsigned()).await;
            }
            Outcome::Exit(ExitStatus::Signal(signal)) => self.exit_signal(signal).await,
            Outcome::Failed(why) => {
                self.out.notice(&format!("satlet: {why}")).await;
                self.out.eof().await;
                self.out.exit_status(LOST).await;
            }
            Outcome::Cut => {
                if let Some(reason) = self.connection.reason() {
                    self.out.notice(&reason.to_string()).await;
                }
            }
        }
    }

    async fn exit_signal(&self, signal: i32) {
        let Ok(known) = Signal::try_from(signal) else {
            let code = 128_i32.saturating_add(signal).cast_unsigned();
            return self.out.exit_status(code).await;
        };
        let name = Sig::Custom(known.as_str().trim_start_matches("SIG").to_owned());
        let id = self.out.id();
        let (message, language) = (String::new(), String::new());
        let _ = self
            .ssh
            .exit_signal_request(id, name, false, message, language)
            .await;
    }

    async fn converse(&mut self) -> Outcome {
        let session = match self.start().await {
            Ok(session) => session,
            Err(why) => return Outcome::Failed(why),
        };
        let ExecSession {
            stdin,
            stdout,
            stderr,
            control,
            exit,
        } = session;
        let exited = CancellationToken::new();
        let output = async {
            let out = self.out.copy(stdout, Stream::Stdout, &exited);
            let err = async {
                if let Some(stderr) = stderr {
                    self.out.copy(stderr, Stream::Stderr, &exited).await;
                }
            };
            tokio::join!(out, err);
            self.out.eof().await;
        };
        let ended = async {
            let ended = exit.await;
            exited.cancel();
            ended
        };
        let feed = async {
            let steer = steer(&mut self.size, &mut self.signals, control);
            tokio::join!(self.input.drain(stdin), steer);
            std::future::pending::<()>().await;
        };
        let ended = tokio::select! {
            ((), ended) = async { tokio::join!(output, ended) } => ended,
            () = feed => return Outcome::Cut,
        };
        match ended {
            Ok(Ok(status)) => Outcome::Exit(status),
            Ok(Err(why)) => Outcome::Failed(why.to_string()),
            Err(_) => Outcome::Failed("the command was lost".to_owned()),
        }
    }

    async fn start(&mut self) -> Result<ExecSession, String> {
        let Some(exec) = self.door.backend.exec() else {
            return Err("this workload cannot be entered".to_owned());
        };
        if self.request.tty.is_some() {
            self.request.tty = *self.size.borrow_and_update();
        }
        let starting = exec.exec(&self.door.handle, self.request.clone());
        match tokio::time::timeout(START, starting).await {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(why)) => Err(why.to_string()),
            Err(_) => Err("the workload did not answer".to_owned()),
        }
    }
}

/// Passes sizes and signals on for as long as there are any. Of sizes only the
/// newest counts.
async fn steer(
    size: &mut watch::Receiver<Option<TtySize>>,
    signals: &mut mpsc::Receiver<i32>,
    control: mpsc::Sender<ExecControl>,
) {
    loop {
        let message = tokio::select! {
            changed = size.changed() => match (changed, *size.borrow_and_update()) {
                (Err(_), _) => return,
                (Ok(()), None) => continue,
                (Ok(()), Some(size)) => ExecControl::Resize(size),
            },
            Some(signal) = signals.recv() => ExecControl::Signal(signal),
        };
        if control.send(message).await.is_err() {
            return;
        }
    }
}

/// The number of a signal that a client may send; RFC 4254 section 6.9.
pub(super) fn signal_number(signal: &Sig) -> Option<i32> {
    let name = match signal {
        Sig::ABRT => "ABRT",
        Sig::ALRM => "ALRM",
        Sig::FPE => "FPE",
        Sig::HUP => "HUP",
        Sig::ILL => "ILL",
        Sig::INT => "INT",
        Sig::KILL => "KILL",
        Sig::PIPE => "PIPE",
        Sig::QUIT => "QUIT",
        Sig::SEGV => "SEGV",
        Sig::TERM => "TERM",
        Sig::USR1 => "USR1",
        Sig::Custom(name) => name,
    };
    let signal: Signal = format!("SIG{name}").parse().ok()?;
    Some(signal as i32)
}
