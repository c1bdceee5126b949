//! Commands by the engine's own exec, where we may not go in ourselves. It has
//! no signals and does not end a command whose client is gone: both are done by
//! a second command, which finds the first by a mark in its environment. A
//! command that a signal ended comes back as code 128 and the signal's number.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::query_parameters::ResizeExecOptions;
use futures::{Stream, StreamExt};
use tokio::io::{AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, oneshot};

use super::engine::{READ, Trouble, within};
use crate::compute::{
    BackendError, BoxRead, BoxWrite, ExecCommand, ExecControl, ExecRequest, ExecSession, ExitStatus,
};

/// Bytes that may wait for their reader.
const BUFFER: usize = 64 * 1024;
/// Control messages that may wait.
const CONTROLS: usize = 16;
/// Between SIGHUP and SIGKILL for a command whose session was dropped.
const HANGUP: Duration = Duration::from_secs(2);
/// Looks for the end of a command that has closed its output.
const LOOKS: usize = 100;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// The variable with the mark.
const MARK: &str = "SATLET_EXEC";

/// Where distributions have their SFTP server.
const SFTP: &str = "for p in /usr/lib/openssh/sftp-server /usr/lib/ssh/sftp-server \
/usr/libexec/openssh/sftp-server /usr/libexec/sftp-server; do [ -x $p ] && exec $p; done; \
echo 'the image has no sftp-server' >&2; exit 127";
const SHELL: &str = "cd; if [ -x /bin/bash ]; then exec /bin/bash -l; else exec /bin/sh -l; fi";

/// The words of a command.
pub(super) fn words(command: &ExecCommand) -> Vec<String> {
    let shell = |line: &str| ["/bin/sh", "-c", line].map(str::to_owned).to_vec();
    match command {
        ExecCommand::Shell => shell(SHELL),
        ExecCommand::Line(line) => shell(line),
        ExecCommand::Argv(argv) => argv.clone(),
        ExecCommand::Sftp => shell(SFTP),
    }
}

/// A line that sends a signal to all that carry the mark.
fn kill_line(mark: &str, signal: i32) -> String {
    format!(
        "for p in /proc/[0-9]*; do grep -q '{MARK}={mark}' $p/environ 2>/dev/null && \
         kill -{signal} ${{p#/proc/}}; done; true"
    )
}

struct Running {
    docker: bollard::Docker,
    container: String,
    exec: String,
    mark: String,
}

/// Starts a command.
pub(super) async fn run(
    docker: &bollard::Docker,
    container: &str,
    request: ExecRequest,
) -> Result<ExecSession, BackendError> {
    let mark = hex::encode(rand::random::<[u8; 12]>());
    let mut env: Vec<String> = vec![format!("{MARK}={mark}")];
    env.extend(
        request
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}")),
    );
    let options = CreateExecOptions {
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(request.tty.is_some()),
        env: Some(env),
        cmd: Some(words(&request.command)),
        privileged: Some(false),
        user: Some("0:0".to_owned()),
        ..CreateExecOptions::default()
    };
    let failed = |trouble: Trouble| match trouble {
        Trouble::Conflict(_) | Trouble::NotFound(_) => BackendError::NotRunning,
        trouble => trouble.doing("starting the command"),
    };
    let made = within(READ, docker.create_exec(container, options)).await;
    let running = Running {
        docker: docker.clone(),
        container: container.to_owned(),
        exec: made.map_err(failed)?.id,
        mark,
    };
    let options = StartExecOptions {
        tty: request.tty.is_some(),
        ..StartExecOptions::default()
    };
    let started = within(READ, docker.start_exec(&running.exec, Some(options))).await;
    let StartExecResults::Attached { output, input } = started.map_err(failed)? else {
        return Err(BackendError::OutcomeUnknown(
            "the command was started without us".to_owned(),
        ));
    };
    if let Some(size) = request.tty {
        running.control(ExecControl::Resize(size)).await;
    }
    let stdin: BoxWrite = match request.tty {
        Some(_) => Box::new(Terminal(input)),
        None => Box::new(input),
    };
    Ok(open(running, output, stdin, request.tty.is_some()))
}

fn open(
    running: Running,
    output: impl Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send + Unpin + 'static,
    stdin: BoxWrite,
    tty: bool,
) -> ExecSession {
    let (stdout_in, stdout) = tokio::io::duplex(BUFFER);
    let (stderr_in, stderr) = tokio::io::duplex(BUFFER);
    let (control_in, control) = mpsc::channel(CONTROLS);
    let (exit_in, exit) = oneshot::channel();
    let pumped = tokio::spawn(pump(output, stdout_in, stderr_in));
    tokio::spawn(attend(running, pumped, control, exit_in));
    ExecSession {
        stdin,
        stdout: Box::new(stdout),
        stderr: (!tty).then(|| Box::new(stderr) as BoxRead),
        control: control_in,
        exit,
    }
}

/// The input of a terminal, which has no half-close: the end-of-file character
/// says it. The engine would take a close for the end of the session.
struct Terminal(Pin<Box<dyn AsyncWrite + Send>>);

impl AsyncWrite for Terminal {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        const END_OF_TRANSMISSION: &[u8] = &[4];
        let written = self.0.as_mut().poll_write(cx, END_OF_TRANSMISSION);
        written.map_ok(drop)
    }
}

/// Until the command has closed its output. A reader who is gone is no reason
/// to stop the other.
async fn pump(
    mut output: impl Stream<Item = Result<LogOutput, bollard::errors::Error>> + Unpin,
    mut stdout: DuplexStream,
    mut stderr: DuplexStream,
) {
    while let Some(Ok(piece)) = output.next().await {
        let _ = match piece {
            LogOutput::StdErr { message } => stderr.write_all(&message).await,
            LogOutput::StdOut { message } | LogOutput::Console { message } => {
                stdout.write_all(&message).await
            }
            LogOutput::StdIn { .. } => Ok(()),
        };
    }
}

async fn attend(
    running: Running,
    mut pumped: tokio::task::JoinHandle<()>,
    mut control: mpsc::Receiver<ExecControl>,
    mut exit: oneshot::Sender<Result<ExitStatus, BackendError>>,
) {
    let mut told = true;
    loop {
        tokio::select! {
            _ = &mut pumped => {
                let _ = exit.send(running.status().await);
                return;
            }
            word = control.recv(), if told => match word {
                Some(word) => running.control(word).await,
                None => told = false,
            },
            () = exit.closed(), if !told => {
                running.signal(1).await;
                tokio::time::sleep(HANGUP).await;
                running.signal(9).await;
                pumped.abort();
                return;
            }
        }
    }
}

impl Running {
    async fn status(&self) -> Result<ExitStatus, BackendError> {
        for _ in 0..LOOKS {
            let answer = within(READ, self.docker.inspect_exec(&self.exec))
                .await
                .map_err(|trouble| trouble.asking("the end of the command"))?;
            let code = answer.exit_code.and_then(|code| i32::try_from(code).ok());
            if let Some(code) = code {
                return Ok(ExitStatus::Code(code));
            }
            // Its output may end a moment before the engine knows of its end.
            tokio::time::sleep(LOOK).await;
        }
        Err(BackendError::OutcomeUnknown(
            "the engine does not say how it ended".to_owned(),
        ))
    }

    async fn control(&self, word: ExecControl) {
        match word {
            ExecControl::Signal(number) => self.signal(number).await,
            ExecControl::Resize(size) => {
                let options = ResizeExecOptions {
                    h: i32::from(size.rows.max(1)),
                    w: i32::from(size.cols.max(1)),
                };
                // A command that has ended has no size.
                drop(within(READ, self.docker.resize_exec(&self.exec, options)).await);
            }
        }
    }

    async fn signal(&self, number: i32) {
        let options = CreateExecOptions {
            cmd: Some(vec![
                "/bin/sh".to_owned(),
                "-c".to_owned(),
                kill_line(&self.mark, number),
            ]),
            user: Some("0:0".to_owned()),
            ..CreateExecOptions::default()
        };
        let send = async {
            let made = self.docker.create_exec(&self.container, options).await?;
            let options = StartExecOptions {
                detach: true,
                ..StartExecOptions::default()
            };
            self.docker.start_exec(&made.id, Some(options)).await
        };
        if let Err(trouble) = within(READ, send).await {
            tracing::debug!(why = trouble.text(), "a signal could not be sent");
        }
    }
}
