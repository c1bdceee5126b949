//! Exec, dial, logs and pause of the fake.

use async_trait::async_trait;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, oneshot};

use super::backend::FakeBackend;
use super::faults::{Defect, Op};
use super::shell;
use super::workload::Life;
use crate::compute::{
    BackendError, Dial, Duplex, Exec, ExecCommand, ExecRequest, ExecSession, Handle, Logs, Pause,
};

/// Bytes between the two ends of a pipe.
const PIPE: usize = 64 * 1024;

#[async_trait]
impl Exec for FakeBackend {
    async fn exec(
        &self,
        handle: &Handle,
        request: ExecRequest,
    ) -> Result<ExecSession, BackendError> {
        let work = async {
            let (serial, life) = self.alive(handle)?;
            match &request.command {
                ExecCommand::Sftp => {
                    return Err(BackendError::Permanent("no sftp server".to_owned()));
                }
                ExecCommand::Argv(argv) if !shell::is_program(argv) => {
                    return Err(BackendError::Permanent("no such program".to_owned()));
                }
                _ => {}
            }
            let (stdin, stdin_in) = tokio::io::duplex(PIPE);
            let (stdout_in, stdout) = tokio::io::duplex(PIPE);
            let (stderr_in, stderr) = tokio::io::duplex(PIPE);
            let (control, control_in) = mpsc::channel(16);
            let (exit_in, exit) = oneshot::channel();
            let with_tty = request.tty.is_some();
            tokio::spawn(shell::run_session(shell::Session {
                engine: self.engine.clone(),
                serial,
                life,
                request,
                stdin: stdin_in,
                stdout: stdout_in,
                stderr: stderr_in,
                control: control_in,
                exit: exit_in,
            }));
            Ok(ExecSession {
                stdin: Box::new(stdin),
                stdout: Box::new(stdout),
                stderr: (!with_tty).then(|| Box::new(stderr) as _),
                control,
                exit,
            })
        };
        self.engine.call(Op::Exec, Some(&handle.key), work).await
    }
}

#[async_trait]
impl Dial for FakeBackend {
    async fn dial(
        &self,
        handle: &Handle,
        host: &str,
        port: u16,
    ) -> Result<Box<dyn Duplex>, BackendError> {
        let work = async {
            let (serial, life) = self.alive(handle)?;
            let inner = self.engine.lock();
            let greeting = shell::listener(&inner, serial, host, port).ok_or_else(|| {
                BackendError::Permanent(format!("nobody listens on {host}:{port}"))
            })?;
            let (ours, theirs) = tokio::io::duplex(PIPE);
            tokio::spawn(echo(theirs, greeting, life));
            Ok(Box::new(ours) as Box<dyn Duplex>)
        };
        self.engine.call(Op::Dial, Some(&handle.key), work).await
    }
}

/// Greets, then sends back what comes, for as long as the workload lives.
async fn echo(stream: DuplexStream, greeting: Vec<u8>, life: Life) {
    let (mut from, mut to) = tokio::io::split(stream);
    let talk = async {
        to.write_all(&greeting).await?;
        tokio::io::copy(&mut from, &mut to).await?;
        to.shutdown().await
    };
    tokio::select! {
        () = life.end.cancelled() => {}
        _ = talk => {}
    }
}

#[async_trait]
impl Logs for FakeBackend {
    async fn logs(&self, handle: &Handle, max_bytes: usize) -> Result<Vec<u8>, BackendError> {
        let work = async {
            let inner = self.engine.lock();
            let serial = self.serial(&inner, handle)?;
            let found = serial.and_then(|serial| inner.workloads.get(&serial));
            let log = &found.ok_or(BackendError::NotRunning)?.log;
            if inner.has(Defect::UnboundedLogs) {
                return Ok(log.clone());
            }
            Ok(tail(log, max_bytes).to_vec())
        };
        self.engine.call(Op::Logs, Some(&handle.key), work).await
    }
}

/// The last `max` bytes, from the first line that is whole.
fn tail(log: &[u8], max: usize) -> &[u8] {
    let cut = log.len().saturating_sub(max);
    let rest = log.get(cut..).unwrap_or_default();
    let at_a_line = cut == 0 || log.get(cut.saturating_sub(1)) == Some(&b'\n');
    if at_a_line {
        return rest;
    }
    let next_line = rest.iter().position(|byte| *byte == b'\n');
    next_line
        .and_then(|at| rest.get(at.saturating_add(1)..))
        .filter(|lines| !lines.is_empty())
        .unwrap_or(rest)
}

#[async_trait]
impl Pause for FakeBackend {
    async fn pause(&self, handle: &Handle) -> Result<(), BackendError> {
        let work = async {
            let (_, life) = self.alive(handle)?;
            if !self.engine.lock().has(Defect::PauseDoesNothing) {
                life.paused.send_replace(true);
            }
            Ok(())
        };
        self.engine.call(Op::Pause, Some(&handle.key), work).await
    }

    async fn resume(&self, handle: &Handle) -> Result<(), BackendError> {
        let work = async {
            let (_, life) = self.alive(handle)?;
            life.paused.send_replace(false);
            Ok(())
        };
        self.engine.call(Op::Resume, Some(&handle.key), work).await
    }
}
