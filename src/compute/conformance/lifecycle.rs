//! Create, observe, start, stop, destroy, list.

use std::time::Duration;

use tokio::time::Instant;

use super::support::{
    CALL, Doing, GRACE, begin_line, create, create_new, destroy, ensure, eventually, file_appears,
    nothing_left, observe, owned_keys, plain, random_key, running, running_program, sh, sh_ok,
    start, started_at, stop, within,
};
use super::{Failure, Fixture, Outcome, Program};
use crate::compute::{BackendError, Handle, LABEL_SCHEMA, Labels, Observed};
use crate::core::ids::Name;

/// `create` twice with one key gives one workload.
pub async fn create_twice_gives_one(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let (key, spec) = (random_key(), plain(fixture));
    let first = create(&*backend, &key, &spec).await?;
    let since = started_at(&*backend, &first).await?;
    let second = create(&*backend, &key, &spec).await?;
    let keys = owned_keys(&*backend).await?;
    ensure(keys == [key], || format!("listed: {keys:?}"))?;
    for handle in [&first, &second] {
        let now = started_at(&*backend, handle).await?;
        ensure(now == since, || "it was started again".to_owned())?;
    }
    Ok(())
}

/// `create` four times at once with one key gives one workload.
pub async fn create_at_once_with_one_key_gives_one(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let (key, spec) = (random_key(), plain(fixture));
    let four = (0..4).map(|_| backend.create(&key, &spec));
    let made = within(CALL, "create", futures::future::join_all(four)).await?;
    for made in made {
        let handle = made.doing("create")?;
        started_at(&*backend, &handle).await?;
    }
    let keys = owned_keys(&*backend).await?;
    ensure(keys == [key], || format!("listed: {keys:?}"))
}

/// `create` of a workload that has stopped brings it to running, with its disk.
pub async fn create_brings_a_stopped_one_back(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let (key, spec) = (random_key(), plain(fixture));
    let handle = create(&*backend, &key, &spec).await?;
    sh_ok(&*backend, &handle, "echo kept > $HOME/kept").await?;
    stop(&*backend, &handle, Duration::from_secs(1)).await?;
    let again = create(&*backend, &key, &spec).await?;
    started_at(&*backend, &again).await?;
    let kept = sh_ok(&*backend, &again, "cat $HOME/kept").await?;
    ensure(kept == "kept", || format!("on its disk: {kept:?}"))
}

/// A `create` that fails has its class and leaves nothing.
pub async fn a_failed_create_leaves_nothing(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let mut spec = plain(fixture);
    spec.image = fixture.bad_image();
    let made = within(CALL, "create", backend.create(&random_key(), &spec)).await?;
    ensure(matches!(made, Err(BackendError::Image(_))), || {
        format!("an image that cannot be had gave {made:?}")
    })?;
    nothing_left(fixture).await?;
    let mut spec = plain(fixture);
    spec.command = fixture.bad_command();
    if spec.command.is_empty() {
        return Ok(());
    }
    let made = within(CALL, "create", backend.create(&random_key(), &spec)).await?;
    ensure(
        matches!(
            made,
            Err(BackendError::Permanent(_) | BackendError::Image(_))
        ),
        || format!("a main process that cannot be started gave {made:?}"),
    )?;
    nothing_left(fixture).await
}

/// `prepare` may be called twice, side by side, and says when an image cannot be had.
pub async fn prepare_is_repeatable(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let image = fixture.image();
    let both = async { tokio::join!(backend.prepare(&image), backend.prepare(&image)) };
    let (one, other) = within(CALL, "prepare", both).await?;
    one.doing("prepare")?;
    other.doing("prepare at the same time")?;
    let bad = within(CALL, "prepare", backend.prepare(&fixture.bad_image())).await?;
    ensure(matches!(bad, Err(BackendError::Image(_))), || {
        format!("an image that cannot be had gave {bad:?}")
    })
}

/// `observe` after `destroy` is `Absent`, and nothing is left on the host.
pub async fn destroyed_is_absent(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let handle = create_new(fixture, &plain(fixture)).await?;
    destroy(&*backend, &handle).await?;
    let seen = observe(&*backend, &handle).await?;
    ensure(seen == Observed::Absent, || format!("seen: {seen:?}"))?;
    nothing_left(fixture).await
}

/// `destroy` of what is gone is success; `stop` too; `start` is not.
pub async fn destroy_twice(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let handle = create_new(fixture, &plain(fixture)).await?;
    destroy(&*backend, &handle).await?;
    destroy(&*backend, &handle).await?;
    stop(&*backend, &handle, GRACE).await?;
    let started = within(CALL, "start", backend.start(&handle)).await?;
    ensure(started == Err(BackendError::NotRunning), || {
        format!("start of what is gone gave {started:?}")
    })
}

/// `stop` lets a main process end by itself within its grace.
pub async fn stop_honours_grace(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let program = Program::TrapTerm {
        ready: "/tmp/ready".to_owned(),
        file: "$HOME/bye".to_owned(),
        code: 7,
    };
    let handle = create_new(fixture, &running_program(fixture, &program)).await?;
    file_appears(&*backend, &handle, "/tmp/ready").await?;
    let grace = Duration::from_secs(30);
    let before = Instant::now();
    stop(&*backend, &handle, grace).await?;
    let took = before.elapsed();
    ensure(took < grace / 2, || {
        format!("it took {took:?} although it ended by itself")
    })?;
    let seen = observe(&*backend, &handle).await?;
    let by_itself = matches!(
        seen,
        Observed::Stopped {
            exit_code: Some(7) | None
        }
    );
    ensure(by_itself, || format!("seen: {seen:?}"))?;
    start(&*backend, &handle).await?;
    let bye = sh_ok(&*backend, &handle, "cat $HOME/bye").await?;
    ensure(bye == "bye", || format!("the trap wrote {bye:?}"))
}

/// `stop` kills a main process that ignores SIGTERM, after its grace.
pub async fn stop_kills_after_grace(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let ready = "/tmp/ready".to_owned();
    let program = Program::IgnoreTerm { ready };
    let handle = create_new(fixture, &running_program(fixture, &program)).await?;
    file_appears(&*backend, &handle, "/tmp/ready").await?;
    let grace = Duration::from_secs(2);
    let before = Instant::now();
    stop(&*backend, &handle, grace).await?;
    let took = before.elapsed();
    // Timers of the two sides may differ by a tick.
    ensure(took >= grace - Duration::from_millis(50), || {
        format!("killed after {took:?}")
    })?;
    ensure(took < grace + GRACE, || format!("it took {took:?}"))?;
    let seen = observe(&*backend, &handle).await?;
    ensure(matches!(seen, Observed::Stopped { .. }), || {
        format!("seen: {seen:?}")
    })
}

/// `stop` ends commands that run inside, and none can be started after it.
pub async fn stop_ends_what_runs_inside(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let handle = create_new(fixture, &plain(fixture)).await?;
    let session = begin_line(&*backend, &handle, "sleep 1000").await?;
    stop(&*backend, &handle, Duration::from_secs(1)).await?;
    let ended = within(GRACE, "the end of a command", session.exit).await?;
    ensure(ended.is_ok(), || {
        "a command ended without a status".to_owned()
    })?;
    let exec = super::support::exec_of(&*backend)?;
    let line = crate::compute::ExecCommand::Line("true".to_owned());
    let request = super::support::request(line);
    let refused = within(CALL, "exec", exec.exec(&handle, request)).await?;
    let refused = refused.err();
    ensure(refused == Some(BackendError::NotRunning), || {
        format!("exec in what has stopped gave {refused:?}")
    })
}

/// `stop`, then `start`, keeps the disk; both may be repeated.
pub async fn stop_then_start_keeps_the_disk(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let handle = create_new(fixture, &plain(fixture)).await?;
    sh_ok(&*backend, &handle, "echo kept > $HOME/kept").await?;
    for _ in 0..2 {
        stop(&*backend, &handle, Duration::from_secs(1)).await?;
        let seen = observe(&*backend, &handle).await?;
        ensure(matches!(seen, Observed::Stopped { .. }), || {
            format!("seen: {seen:?}")
        })?;
    }
    for _ in 0..2 {
        start(&*backend, &handle).await?;
        started_at(&*backend, &handle).await?;
    }
    let kept = sh_ok(&*backend, &handle, "cat $HOME/kept").await?;
    ensure(kept == "kept", || format!("on its disk: {kept:?}"))
}

/// A main process that ends by itself leaves a stopped workload with its exit code.
pub async fn the_end_of_the_main_process_is_seen(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let handle = create_new(fixture, &running(fixture, "sleep 0.5; exit 3")).await?;
    eventually("it has stopped", || async {
        match observe(&*backend, &handle).await? {
            Observed::Stopped {
                exit_code: Some(3) | None,
            } => Ok(Some(())),
            Observed::Running { .. } => Ok(None),
            other => Err(Failure::broken(format!("seen: {other:?}"))),
        }
    })
    .await
}

/// The start time stays the same while time goes by, and changes with a start.
pub async fn started_at_is_stable(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let handle = create_new(fixture, &plain(fixture)).await?;
    let first = started_at(&*backend, &handle).await?;
    // Start times are whole seconds: a moving one shows after more than one.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let again = started_at(&*backend, &handle).await?;
    ensure(first == again, || format!("{first}, later {again}"))?;
    let reopened = fixture.reopen().await?;
    let after = started_at(&*reopened, &handle).await?;
    ensure(first == after, || {
        format!("{first}, in a new process {after}")
    })?;
    stop(&*reopened, &handle, Duration::from_secs(1)).await?;
    start(&*reopened, &handle).await?;
    let restarted = started_at(&*reopened, &handle).await?;
    ensure(restarted > first, || {
        "a new start has the old time".to_owned()
    })
}

/// `list_owned` gives what is ours, with its labels, running or not.
pub async fn list_carries_labels(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let (key, spec) = (random_key(), plain(fixture));
    let handle = create(&*backend, &key, &spec).await?;
    let labels = Labels {
        lease: key,
        owner: spec.owner,
        expires_at: spec.expires_at,
        schema: LABEL_SCHEMA,
        note: spec.note.clone(),
    };
    for stopped in [false, true] {
        if stopped {
            stop(&*backend, &handle, Duration::from_secs(1)).await?;
        }
        let owned = within(CALL, "list_owned", backend.list_owned()).await?;
        let owned = owned.doing("list_owned")?;
        let seen: Vec<_> = owned.iter().map(|owned| &owned.labels).collect();
        ensure(seen == [&labels], || format!("labels: {seen:?}"))?;
    }
    for owned in backend.list_owned().await.doing("list_owned")? {
        destroy(&*backend, &owned.handle).await?;
    }
    nothing_left(fixture).await
}

/// `list_owned` ignores workloads that do not carry our label.
pub async fn list_ignores_strangers(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    fixture.plant_stranger().await?;
    let handle = create_new(fixture, &plain(fixture)).await?;
    let keys = owned_keys(&*backend).await?;
    ensure(keys == [handle.key], || format!("listed: {keys:?}"))
}

/// Eight at once are eight; where the backend counts, one more is refused.
pub async fn creates_at_once_up_to_capacity(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let spec = plain(fixture);
    let keys: Vec<_> = (0..fixture.slots().unwrap_or(8))
        .map(|_| random_key())
        .collect();
    let all = keys.iter().map(|key| backend.create(key, &spec));
    let made = within(CALL * 2, "create", futures::future::join_all(all)).await?;
    for made in made {
        let handle = made.doing("one of the creates")?;
        let said = sh_ok(&*backend, &handle, &format!("echo {}", handle.key)).await?;
        ensure(said == handle.key.as_str(), || format!("it said {said:?}"))?;
    }
    let mut sorted = keys.clone();
    sorted.sort();
    let listed = owned_keys(&*backend).await?;
    ensure(listed == sorted, || format!("listed: {listed:?}"))?;
    if fixture.slots().is_none() {
        return Ok(());
    }
    let more = within(CALL, "create", backend.create(&random_key(), &spec)).await?;
    ensure(matches!(more, Err(BackendError::NoCapacity(_))), || {
        format!("one more than there is room for gave {more:?}")
    })?;
    let listed = owned_keys(&*backend).await?;
    ensure(listed == sorted, || {
        format!("after the refusal: {listed:?}")
    })
}

/// The environment of the spec is seen by the main process and by commands.
pub async fn environment_is_seen_inside(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let line = "echo \"$GREETING\" > /tmp/greeting; sleep 1000";
    let mut spec = running(fixture, line);
    spec.env = vec![("GREETING".to_owned(), "hello, $HOME 'n all".to_owned())];
    let handle = create_new(fixture, &spec).await?;
    let main = file_appears(&*backend, &handle, "/tmp/greeting").await?;
    let command = sh(&*backend, &handle, "echo \"$GREETING\"").await?.text();
    ensure(main == "hello, $HOME 'n all", || {
        format!("the main process saw {main:?}")
    })?;
    ensure(command == main, || format!("a command saw {command:?}"))?;
    let home = sh_ok(&*backend, &handle, "echo x > $HOME/x; echo $HOME").await?;
    ensure(home.starts_with('/'), || format!("HOME is {home:?}"))
}

/// A handle of another backend or of a later version is an error, never `Absent`.
pub async fn foreign_handles_are_refused(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let handle = create_new(fixture, &plain(fixture)).await?;
    let other: Result<Name, _> = "somebody-else".parse();
    let backend_name = other.map_err(|error| Failure::broken(error.to_string()))?;
    let foreign = Handle {
        backend: backend_name,
        ..handle.clone()
    };
    let later = Handle {
        version: handle.version.saturating_add(1),
        ..handle.clone()
    };
    for wrong in [foreign, later] {
        let seen = within(CALL, "observe", backend.observe(&wrong)).await?;
        ensure(seen.is_err(), || format!("{wrong:?} was seen as {seen:?}"))?;
        let gone = within(CALL, "destroy", backend.destroy(&wrong)).await?;
        ensure(gone.is_err(), || format!("{wrong:?} was destroyed"))?;
    }
    started_at(&*backend, &handle).await.map(|_| ())
}
