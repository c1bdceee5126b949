//! Commands, terminals, logs, pause.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::{
    CALL, Doing, begin, begin_line, create_new, ensure, eventually, file_appears, finish, observe,
    plain, request, running, running_program, sh, sh_ok, started_at, stop, within,
};
use super::{Failure, Fixture, Outcome, Program};
use crate::compute::{
    Backend, BackendError, BoxRead, ExecCommand, ExecControl, ExecRequest, ExitStatus, Handle,
    Logs, Observed, Pause, TtySize,
};

const MIB: usize = 1024 * 1024;

/// 1 MiB goes in and comes out as it was.
pub async fn exec_carries_stdin(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let handle = create_new(fixture, &plain(fixture)).await?;
    // Every byte value, in no simple order.
    let noise = |n: usize| n.wrapping_mul(2_654_435_761).to_le_bytes().get(1).copied();
    let input: Vec<u8> = (0..MIB).filter_map(noise).collect();
    let session = begin_line(&*backend, &handle, "cat").await?;
    let output = finish(session, &input).await?;
    ensure(output.status == ExitStatus::Code(0), || {
        format!("ended with {:?}", output.status)
    })?;
    let same = output.stdout == input;
    ensure(same, || {
        format!("{} bytes in, {} out", input.len(), output.stdout.len())
    })
}

/// Exit codes and signals come back.
pub async fn exec_carries_the_exit_code(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let handle = create_new(fixture, &plain(fixture)).await?;
    let expected = [
        ("true", ExitStatus::Code(0)),
        ("exit 7", ExitStatus::Code(7)),
        ("exit 255", ExitStatus::Code(255)),
        ("no-such-program-here", ExitStatus::Code(127)),
        ("kill -9 $$", ExitStatus::Signal(9)),
    ];
    for (line, status) in expected {
        let seen = sh(&*backend, &handle, line).await?.status;
        ensure(seen == status, || format!("`{line}` ended with {seen:?}"))?;
    }
    Ok(())
}

/// Standard error comes apart from standard output.
pub async fn exec_keeps_stderr_apart(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let handle = create_new(fixture, &plain(fixture)).await?;
    let output = sh(&*backend, &handle, "echo out; echo err >&2").await?;
    let seen = (output.text(), output.err_text());
    ensure(seen == ("out".to_owned(), "err".to_owned()), || {
        format!("seen: {seen:?}")
    })
}

/// Arguments are not looked at by a shell; a program that is not there is said.
pub async fn exec_of_arguments(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let handle = create_new(fixture, &plain(fixture)).await?;
    let argv = |words: &[&str]| ExecCommand::Argv(words.iter().map(|w| (*w).to_owned()).collect());
    let command = argv(&["echo", "$HOME;", "a  b", "'c'"]);
    let session = begin(&*backend, &handle, request(command)).await?;
    let output = finish(session, &[]).await?;
    let said = output.text();
    ensure(said == "$HOME; a  b 'c'", || format!("it said {said:?}"))?;
    let exec = super::support::exec_of(&*backend)?;
    let missing = request(argv(&["/no/such/program"]));
    let refused = within(CALL, "exec", exec.exec(&handle, missing))
        .await?
        .err();
    ensure(matches!(refused, Some(BackendError::Permanent(_))), || {
        format!("a program that is not there gave {refused:?}")
    })
}

/// The environment of a request is seen by its command.
pub async fn exec_adds_environment(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let handle = create_new(fixture, &plain(fixture)).await?;
    let line = ExecCommand::Line("echo \"$LANG:$MARK\"".to_owned());
    let pairs = [("LANG", "C.UTF-8"), ("MARK", "a b")];
    let env = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let request = ExecRequest {
        env: env.to_vec(),
        ..request(line)
    };
    let output = finish(begin(&*backend, &handle, request).await?, &[]).await?;
    let said = output.text();
    ensure(said == "C.UTF-8:a b", || format!("it said {said:?}"))
}

/// A shell takes lines from standard input.
pub async fn exec_of_a_shell(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let handle = create_new(fixture, &plain(fixture)).await?;
    let session = begin(&*backend, &handle, request(ExecCommand::Shell)).await?;
    let output = finish(session, b"echo from a shell\nexit 4\n").await?;
    let (said, status) = (output.text(), output.status);
    ensure(said.contains("from a shell"), || {
        format!("it said {said:?}")
    })?;
    ensure(status == ExitStatus::Code(4), || {
        format!("ended with {status:?}")
    })
}

/// A command has a terminal where one is asked for, with its size, and hears
/// of a new one.
pub async fn exec_has_a_terminal(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let handle = create_new(fixture, &plain(fixture)).await?;
    let on_tty = |line: String| ExecRequest {
        tty: Some(TtySize { cols: 90, rows: 30 }),
        ..request(ExecCommand::Line(line))
    };
    let session = begin(&*backend, &handle, on_tty("tty".to_owned())).await?;
    ensure(session.stderr.is_none(), || {
        "standard error beside a terminal".to_owned()
    })?;
    let output = finish(session, &[]).await?;
    ensure(output.text().contains("/dev/"), || {
        format!("tty said {:?}", output.text())
    })?;
    let watch = fixture.program(&Program::WatchTty);
    let mut session = begin(&*backend, &handle, on_tty(watch)).await?;
    read_until(&mut session.stdout, "30 90").await?;
    let resize = ExecControl::Resize(TtySize {
        cols: 121,
        rows: 41,
    });
    // The answer shows whether it was sent.
    session.control.send(resize).await.unwrap_or_default();
    read_until(&mut session.stdout, "41 121").await
}

/// ^C on a terminal interrupts the command.
pub async fn a_terminal_interrupts(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let handle = create_new(fixture, &plain(fixture)).await?;
    let line = ExecCommand::Line("echo begun; sleep 1000".to_owned());
    let tty = Some(TtySize { cols: 80, rows: 24 });
    let request = ExecRequest {
        tty,
        ..request(line)
    };
    let mut session = begin(&*backend, &handle, request).await?;
    read_until(&mut session.stdout, "begun").await?;
    session.stdin.write_all(&[3]).await.doing("write of ^C")?;
    session.stdin.flush().await.doing("flush of ^C")?;
    let ended = within(CALL / 3, "the end after ^C", session.exit).await?;
    let by_signal = matches!(ended, Ok(Ok(ExitStatus::Signal(2) | ExitStatus::Code(130))));
    ensure(by_signal, || format!("ended with {ended:?}"))
}

async fn read_until(stdout: &mut BoxRead, text: &str) -> Outcome {
    let mut seen = Vec::new();
    let reading = async {
        let mut buffer = [0; 1024];
        while !String::from_utf8_lossy(&seen).contains(text) {
            let got = stdout.read(&mut buffer).await.doing("read")?;
            let bytes = buffer.get(..got).unwrap_or_default();
            ensure(!bytes.is_empty(), || "standard output ended".to_owned())?;
            seen.extend_from_slice(bytes);
        }
        Ok(())
    };
    let read = within(CALL / 3, &format!("{text:?} on the terminal"), reading).await;
    let shown = String::from_utf8_lossy(&seen);
    read.and_then(|read| read)
        .map_err(|error| Failure::broken(format!("{error}; seen: {shown:?}")))
}

/// A signal ends the command.
pub async fn exec_carries_signals(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let handle = create_new(fixture, &plain(fixture)).await?;
    let mut session = begin_line(&*backend, &handle, "echo begun; sleep 1000").await?;
    read_until(&mut session.stdout, "begun").await?;
    // The end shows whether it was sent.
    session
        .control
        .send(ExecControl::Signal(15))
        .await
        .unwrap_or_default();
    let ended = within(CALL / 3, "the end after SIGTERM", session.exit).await?;
    let by_signal = matches!(
        ended,
        Ok(Ok(ExitStatus::Signal(15) | ExitStatus::Code(143)))
    );
    ensure(by_signal, || format!("ended with {ended:?}"))
}

/// Dropping a session ends its command.
pub async fn dropping_a_session_ends_its_command(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let handle = create_new(fixture, &plain(fixture)).await?;
    let line = fixture.program(&Program::Count("/tmp/count".to_owned()));
    let session = begin_line(&*backend, &handle, &line).await?;
    file_appears(&*backend, &handle, "/tmp/count").await?;
    drop(session);
    eventually("the command has ended", || async {
        let before = sh(&*backend, &handle, "cat /tmp/count").await?.text();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let after = sh(&*backend, &handle, "cat /tmp/count").await?.text();
        Ok((before == after).then_some(()))
    })
    .await
}

/// Commands run side by side, and one that nobody reads holds up no other.
pub async fn commands_run_side_by_side(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let handle = create_new(fixture, &plain(fixture)).await?;
    let lines = fixture.program(&Program::Lines(50_000));
    let unread = begin_line(&*backend, &handle, &lines).await?;
    let many = (0..8).map(|n| {
        let backend = backend.clone();
        let handle = &handle;
        async move { sh_ok(&*backend, handle, &format!("sleep 0.2; echo {n}")).await }
    });
    let said = within(CALL, "eight commands", futures::future::join_all(many)).await?;
    for (n, said) in said.into_iter().enumerate() {
        let said = said?;
        ensure(said == n.to_string(), || {
            format!("command {n} said {said:?}")
        })?;
    }
    let all = finish(unread, &[]).await?;
    let last = all.text().lines().last().unwrap_or_default().to_owned();
    ensure(last == "line 50000", || {
        format!("the last line is {last:?}")
    })
}

fn logs_of(backend: &dyn Backend) -> Result<&dyn Logs, Failure> {
    let logs = backend.logs();
    logs.ok_or_else(|| Failure::skipped("the backend has no logs"))
}

async fn log_text(backend: &dyn Backend, handle: &Handle, max: usize) -> Result<String, Failure> {
    let text = within(CALL, "logs", logs_of(backend)?.logs(handle, max)).await?;
    Ok(String::from_utf8_lossy(&text.doing("logs")?).into_owned())
}

/// Logs are bounded, begin at a line, end with the last one, and outlive a stop.
pub async fn logs_end_with_the_last_lines(fixture: &dyn Fixture) -> Outcome {
    const MOST: usize = 4096;
    let backend = fixture.backend();
    logs_of(&*backend)?;
    let lines = fixture.program(&Program::Lines(2000));
    let spec = running(fixture, &format!("{lines}; echo done >&2; sleep 1000"));
    let handle = create_new(fixture, &spec).await?;
    let text = eventually("the last line", || async {
        let text = log_text(&*backend, &handle, MOST).await?;
        Ok(text.ends_with("line 2000\ndone\n").then_some(text))
    })
    .await?;
    ensure(text.len() <= MOST, || format!("{} bytes", text.len()))?;
    ensure(text.len() > MOST / 2, || {
        format!("only {} bytes", text.len())
    })?;
    ensure(text.starts_with("line "), || {
        format!("begins with {:?}", text.lines().next())
    })?;
    stop(&*backend, &handle, Duration::ZERO).await?;
    let later = log_text(&*backend, &handle, MOST).await?;
    ensure(later == text, || {
        "the log is not the same after a stop".to_owned()
    })
}

fn pause_of(backend: &dyn Backend) -> Result<&dyn Pause, Failure> {
    let pause = backend.pause();
    pause.ok_or_else(|| Failure::skipped("the backend has no pause"))
}

async fn pause(backend: &dyn Backend, handle: &Handle) -> Outcome {
    within(CALL, "pause", pause_of(backend)?.pause(handle))
        .await?
        .doing("pause")
}

/// The last number that the main process printed.
async fn counted(backend: &dyn Backend, handle: &Handle) -> Result<u64, Failure> {
    let text = log_text(backend, handle, 256).await?;
    Ok(text
        .lines()
        .rev()
        .find_map(|line| line.trim().parse().ok())
        .unwrap_or(0))
}

/// Paused, a workload does nothing; resumed, it goes on where it was.
pub async fn pause_stops_the_clock(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    pause_of(&*backend)?;
    let handle = create_new(fixture, &running_program(fixture, &Program::CountAloud)).await?;
    let grown = |than: u64| {
        let (backend, handle) = (backend.clone(), &handle);
        async move { Ok(Some(counted(&*backend, handle).await?).filter(|n| *n > than)) }
    };
    eventually("it counts", || grown(5)).await?;
    let since = started_at(&*backend, &handle).await?;
    pause(&*backend, &handle).await?;
    pause(&*backend, &handle).await?;
    let seen = observe(&*backend, &handle).await?;
    let paused = seen
        == Observed::Running {
            started_at: since,
            paused: true,
        };
    ensure(paused, || format!("seen: {seen:?}"))?;
    // What was printed before may take a moment to arrive.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = counted(&*backend, &handle).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = counted(&*backend, &handle).await?;
    ensure(before == after, || {
        format!("paused, it counted from {before} to {after}")
    })?;
    for _ in 0..2 {
        let resumed = within(CALL, "resume", pause_of(&*backend)?.resume(&handle)).await?;
        resumed.doing("resume")?;
    }
    eventually("it goes on", || grown(after)).await?;
    let seen = observe(&*backend, &handle).await?;
    let same = seen
        == Observed::Running {
            started_at: since,
            paused: false,
        };
    ensure(same, || format!("seen: {seen:?}"))
}

/// A paused workload can be stopped and destroyed.
pub async fn a_paused_workload_can_be_ended(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    pause_of(&*backend)?;
    let handle = create_new(fixture, &plain(fixture)).await?;
    pause(&*backend, &handle).await?;
    stop(&*backend, &handle, Duration::from_secs(1)).await?;
    let seen = observe(&*backend, &handle).await?;
    ensure(matches!(seen, Observed::Stopped { .. }), || {
        format!("seen: {seen:?}")
    })?;
    super::support::start(&*backend, &handle).await?;
    sh_ok(&*backend, &handle, "true").await?;
    pause(&*backend, &handle).await?;
    super::support::destroy(&*backend, &handle).await?;
    super::support::nothing_left(fixture).await
}
