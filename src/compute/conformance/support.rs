//! What cases are made of.

use std::future::Future;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::{Failure, Fixture, Program};
use crate::compute::{
    Backend, BackendError, Exec, ExecCommand, ExecRequest, ExecSession, ExitStatus, Handle,
    Observed, WorkloadKey, WorkloadSpec,
};
use crate::core::ids::{LeaseId, PublicKey};
use crate::core::time::Timestamp;

/// A call that takes longer than this hangs.
pub(super) const CALL: Duration = Duration::from_secs(60);

/// What should happen soon has happened by then, on a busy machine too.
pub(super) const SOON: Duration = Duration::from_secs(20);

/// Between two looks at something that should happen soon.
const LOOK: Duration = Duration::from_millis(20);

/// Standard grace of a stop.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// How a command went.
pub(super) struct Output {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

impl Output {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }

    pub(super) fn err_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim().to_owned()
    }
}

/// The result as it is, or what was being done and how it failed.
pub(super) trait Doing<T> {
    fn doing(self, what: &str) -> Result<T, Failure>;
}

impl<T> Doing<T> for Result<T, BackendError> {
    fn doing(self, what: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::broken(format!("{what}: {error:?}")))
    }
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, what: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::broken(format!("{what}: {error}")))
    }
}

pub(super) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    match holds {
        true => Ok(()),
        false => Err(Failure::Broken(otherwise())),
    }
}

pub(super) fn random_key() -> WorkloadKey {
    LeaseId::from_random(rand::random())
}

/// A plain workload that stays up, with the limits that hold here.
pub(super) fn plain(fixture: &dyn Fixture) -> WorkloadSpec {
    let enforces = fixture.backend().capabilities().enforces;
    let mut resources = fixture.resources();
    let limits = [
        (enforces.cpu, &mut resources.cpu_millicores),
        (enforces.memory, &mut resources.memory_mib),
        (enforces.pids, &mut resources.pids),
        (enforces.disk, &mut resources.disk_mib),
    ];
    for (holds, limit) in limits {
        if !holds {
            *limit = 0;
        }
    }
    WorkloadSpec {
        owner: PublicKey::from_bytes([7; 32]),
        image: fixture.image(),
        resources,
        command: Vec::new(),
        env: Vec::new(),
        expires_at: Timestamp::from_secs(1_900_000_000),
        note: r#"{"a note": "é"}"#.to_owned(),
    }
}

/// A workload whose main process is this shell line.
pub(super) fn running(fixture: &dyn Fixture, line: &str) -> WorkloadSpec {
    let command = ["/bin/sh", "-c", line];
    WorkloadSpec {
        command: command.map(str::to_owned).to_vec(),
        ..plain(fixture)
    }
}

/// A workload whose main process is this program.
pub(super) fn running_program(fixture: &dyn Fixture, program: &Program) -> WorkloadSpec {
    running(fixture, &fixture.program(program))
}

/// What `work` gives within `limit`.
pub(super) async fn within<T>(
    limit: Duration,
    what: &str,
    work: impl Future<Output = T>,
) -> Result<T, Failure> {
    let done = tokio::time::timeout(limit, work).await;
    done.map_err(|_| Failure::broken(format!("{what}: not done after {limit:?}")))
}

/// Looks until `look` gives something.
pub(super) async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<Option<T>, Failure>>,
{
    let end = Instant::now() + SOON;
    loop {
        if let Some(seen) = look().await? {
            return Ok(seen);
        }
        if Instant::now() > end {
            return Err(Failure::broken(format!("{what}: not so after {SOON:?}")));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Makes a workload.
pub(super) async fn create(
    backend: &dyn Backend,
    key: &WorkloadKey,
    spec: &WorkloadSpec,
) -> Result<Handle, Failure> {
    let made = within(CALL, "create", backend.create(key, spec)).await?;
    made.doing("create")
}

/// Makes a workload with a new key.
pub(super) async fn create_new(
    fixture: &dyn Fixture,
    spec: &WorkloadSpec,
) -> Result<Handle, Failure> {
    create(&*fixture.backend(), &random_key(), spec).await
}

pub(super) async fn observe(backend: &dyn Backend, handle: &Handle) -> Result<Observed, Failure> {
    let seen = within(CALL, "observe", backend.observe(handle)).await?;
    seen.doing("observe")
}

/// When it started, of a workload that runs.
pub(super) async fn started_at(
    backend: &dyn Backend,
    handle: &Handle,
) -> Result<Timestamp, Failure> {
    match observe(backend, handle).await? {
        Observed::Running { started_at, .. } => Ok(started_at),
        other => Err(Failure::broken(format!("it should run, and is {other:?}"))),
    }
}

pub(super) async fn stop(
    backend: &dyn Backend,
    handle: &Handle,
    grace: Duration,
) -> Result<(), Failure> {
    let limit = CALL.saturating_add(grace);
    within(limit, "stop", backend.stop(handle, grace))
        .await?
        .doing("stop")
}

pub(super) async fn start(backend: &dyn Backend, handle: &Handle) -> Result<(), Failure> {
    within(CALL, "start", backend.start(handle))
        .await?
        .doing("start")
}

pub(super) async fn destroy(backend: &dyn Backend, handle: &Handle) -> Result<(), Failure> {
    within(CALL, "destroy", backend.destroy(handle))
        .await?
        .doing("destroy")
}

/// Keys of all that is ours, sorted.
pub(super) async fn owned_keys(backend: &dyn Backend) -> Result<Vec<WorkloadKey>, Failure> {
    let owned = within(CALL, "list_owned", backend.list_owned()).await?;
    let owned = owned.doing("list_owned")?;
    let mut keys: Vec<_> = owned.into_iter().map(|owned| owned.handle.key).collect();
    keys.sort();
    Ok(keys)
}

/// Nothing of ours is there, and nothing is left of it.
pub(super) async fn nothing_left(fixture: &dyn Fixture) -> Result<(), Failure> {
    let keys = owned_keys(&*fixture.backend()).await?;
    ensure(keys.is_empty(), || format!("still listed: {keys:?}"))?;
    let left = fixture.leftovers().await?;
    ensure(left.is_empty(), || format!("left on the host: {left:?}"))
}

/// The power to run commands, or the case cannot be tried.
pub(super) fn exec_of(backend: &dyn Backend) -> Result<&dyn Exec, Failure> {
    let exec = backend.exec();
    exec.ok_or_else(|| Failure::skipped("the backend has no exec"))
}

/// Starts a command.
pub(super) async fn begin(
    backend: &dyn Backend,
    handle: &Handle,
    request: ExecRequest,
) -> Result<ExecSession, Failure> {
    let session = within(CALL, "exec", exec_of(backend)?.exec(handle, request)).await?;
    session.doing("exec")
}

pub(super) fn request(command: ExecCommand) -> ExecRequest {
    ExecRequest {
        command,
        env: Vec::new(),
        tty: None,
    }
}

/// Starts a shell line.
pub(super) async fn begin_line(
    backend: &dyn Backend,
    handle: &Handle,
    line: &str,
) -> Result<ExecSession, Failure> {
    let command = ExecCommand::Line(line.to_owned());
    begin(backend, handle, request(command)).await
}

/// Feeds a session and reads all it says until it ends.
pub(super) async fn finish(session: ExecSession, input: &[u8]) -> Result<Output, Failure> {
    let ExecSession {
        mut stdin,
        mut stdout,
        stderr,
        control,
        exit,
    } = session;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let feed = async {
        // A command may end without having read all.
        stdin.write_all(input).await.unwrap_or_default();
        stdin.shutdown().await.unwrap_or_default();
        drop(stdin);
    };
    let read_err = async {
        match stderr {
            Some(mut stderr) => stderr.read_to_end(&mut err).await,
            None => Ok(0),
        }
    };
    let all = async { tokio::join!(feed, stdout.read_to_end(&mut out), read_err, exit) };
    let ((), out_read, err_read, exit) = within(CALL, "the command", all).await?;
    drop(control);
    out_read.doing("read of standard output")?;
    err_read.doing("read of standard error")?;
    let status = exit.map_err(|_| Failure::broken("the session ended without a status"))?;
    Ok(Output {
        status: status.doing("end of the command")?,
        stdout: out,
        stderr: err,
    })
}

/// Runs a shell line to its end.
pub(super) async fn sh(
    backend: &dyn Backend,
    handle: &Handle,
    line: &str,
) -> Result<Output, Failure> {
    finish(begin_line(backend, handle, line).await?, &[]).await
}

/// What a shell line prints, where it must end well.
pub(super) async fn sh_ok(
    backend: &dyn Backend,
    handle: &Handle,
    line: &str,
) -> Result<String, Failure> {
    let output = sh(backend, handle, line).await?;
    ensure(output.status == ExitStatus::Code(0), || {
        format!(
            "`{line}` ended with {:?}: {}",
            output.status,
            output.err_text()
        )
    })?;
    Ok(output.text())
}

/// What a program prints, however it ends.
pub(super) async fn run(
    fixture: &dyn Fixture,
    handle: &Handle,
    program: &Program,
) -> Result<String, Failure> {
    let line = fixture.program(program);
    Ok(sh(&*fixture.backend(), handle, &line).await?.text())
}

/// Waits until the file is there and has a line.
pub(super) async fn file_appears(
    backend: &dyn Backend,
    handle: &Handle,
    file: &str,
) -> Result<String, Failure> {
    let line = format!("cat {file}");
    eventually(&format!("{file} appears"), || async {
        let text = sh(backend, handle, &line).await?.text();
        Ok(Some(text).filter(|text| !text.is_empty()))
    })
    .await
}

/// The workload still runs since the same instant, and does what it is told.
pub(super) async fn unharmed(
    fixture: &dyn Fixture,
    handle: &Handle,
    since: Timestamp,
) -> Result<(), Failure> {
    let backend = fixture.backend();
    let now = started_at(&*backend, handle).await?;
    ensure(now == since, || {
        format!("it was started again: {since} and {now}")
    })?;
    // Right after a fork bomb there may be no process left for the command yet.
    eventually("it does what it is told", || async {
        let output = sh(&*backend, handle, "echo alive").await;
        Ok(output
            .is_ok_and(|output| output.text() == "alive")
            .then_some(()))
    })
    .await
}
