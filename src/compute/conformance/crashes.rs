//! What a dead daemon, a dead engine and a cancelled call leave behind.

use std::time::Duration;

use tokio::time::Instant;

use super::support::{
    CALL, create, create_new, destroy, ensure, nothing_left, observe, owned_keys, plain,
    random_key, sh_ok, started_at, within,
};
use super::{Failure, Fixture, Outcome};
use crate::compute::{Backend, Observed};

/// A call is dropped after so many milliseconds: before, within and after
/// whatever a backend does first.
const DROPPED_AFTER_MS: [u64; 8] = [0, 1, 3, 6, 10, 20, 40, 100];

/// How long after a sweep something might still turn up.
const SETTLED: Duration = Duration::from_secs(1);

/// `create` again after a daemon died in the middle of one gives the same
/// workload, and one only.
pub async fn create_after_a_crash_is_adopted(fixture: &dyn Fixture) -> Outcome {
    let spec = plain(fixture);
    for after in DROPPED_AFTER_MS {
        let (backend, key) = (fixture.backend(), random_key());
        let after = Duration::from_millis(after);
        // Dropped in the middle, or just done: both are a crash before the reply.
        drop(tokio::time::timeout(after, backend.create(&key, &spec)).await);
        let reopened = fixture.reopen().await?;
        let handle = create(&*reopened, &key, &spec).await?;
        let keys = owned_keys(&*reopened).await?;
        ensure(keys == [key], || {
            format!("dropped after {after:?}: listed {keys:?}")
        })?;
        let said = sh_ok(&*reopened, &handle, "echo up").await?;
        ensure(said == "up", || {
            format!("dropped after {after:?}: it said {said:?}")
        })?;
        destroy(&*reopened, &handle).await?;
    }
    nothing_left(fixture).await
}

/// A `create` whose reply was lost is found by the next one.
pub async fn create_again_gives_what_was_made(fixture: &dyn Fixture) -> Outcome {
    let (backend, key, spec) = (fixture.backend(), random_key(), plain(fixture));
    let lost = create(&*backend, &key, &spec).await?;
    let since = started_at(&*backend, &lost).await?;
    sh_ok(&*backend, &lost, "echo mine > $HOME/mark").await?;
    let reopened = fixture.reopen().await?;
    let found = create(&*reopened, &key, &spec).await?;
    let now = started_at(&*reopened, &found).await?;
    ensure(now == since, || format!("started {since}, then {now}"))?;
    let mark = sh_ok(&*reopened, &found, "cat $HOME/mark").await?;
    ensure(mark == "mine", || format!("on its disk: {mark:?}"))?;
    let keys = owned_keys(&*reopened).await?;
    ensure(keys == [key], || format!("listed: {keys:?}"))
}

/// A handle means the same in a new process, and so does one of the version before.
pub async fn a_handle_survives_a_new_process(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let handle = create_new(fixture, &plain(fixture)).await?;
    let since = started_at(&*backend, &handle).await?;
    let text = serde_json::to_string(&handle).map_err(|e| Failure::broken(e.to_string()))?;
    let read = serde_json::from_str(&text).map_err(|e| Failure::broken(e.to_string()))?;
    let reopened = fixture.reopen().await?;
    let versions = [Some(read), fixture.old_handle(&handle)];
    for handle in versions.iter().flatten() {
        let now = started_at(&*reopened, handle).await?;
        ensure(now == since, || format!("started {since}, then {now}"))?;
        let said = sh_ok(&*reopened, handle, "echo here").await?;
        ensure(said == "here", || format!("it said {said:?}"))?;
    }
    if let Some(Some(handle)) = versions.last() {
        destroy(&*reopened, handle).await?;
    } else {
        destroy(&*reopened, &handle).await?;
    }
    let seen = observe(&*reopened, &handle).await?;
    ensure(seen == Observed::Absent, || format!("seen: {seen:?}"))
}

/// An engine that does not answer is an error, never `Absent` and never an
/// empty list; what runs goes on.
pub async fn engine_down_is_an_error(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let handle = create_new(fixture, &plain(fixture)).await?;
    let since = started_at(&*backend, &handle).await?;
    fixture.set_engine_down(true).await?;
    let answers = within(CALL * 4, "calls to a dead engine", async {
        (
            backend.observe(&handle).await,
            backend.list_owned().await,
            backend.probe().await,
            backend.create(&random_key(), &plain(fixture)).await,
        )
    });
    let answers = answers.await;
    fixture.set_engine_down(false).await?;
    let (seen, listed, probed, made) = answers?;
    ensure(seen.is_err(), || format!("observe said {seen:?}"))?;
    ensure(listed.is_err(), || format!("list_owned said {listed:?}"))?;
    ensure(probed.is_err(), || format!("probe said {probed:?}"))?;
    ensure(made.is_err(), || format!("create said {made:?}"))?;
    let now = started_at(&*backend, &handle).await?;
    ensure(now == since, || format!("started {since}, then {now}"))
}

/// A `create` that is dropped in the middle leaves nothing after one sweep.
pub async fn a_cancelled_create_is_swept(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let spec = plain(fixture);
    for after in DROPPED_AFTER_MS {
        let key = random_key();
        let after = Duration::from_millis(after);
        drop(tokio::time::timeout(after, backend.create(&key, &spec)).await);
        sweep(&*backend).await?;
    }
    let end = Instant::now() + SETTLED;
    while Instant::now() < end {
        let keys = owned_keys(&*backend).await?;
        ensure(keys.is_empty(), || {
            format!("turned up after the sweep: {keys:?}")
        })?;
        tokio::time::sleep(SETTLED / 10).await;
    }
    nothing_left(fixture).await
}

/// Destroys all that is ours: the ledger of this test knows no lease.
async fn sweep(backend: &dyn Backend) -> Outcome {
    let owned = within(CALL, "list_owned", backend.list_owned()).await?;
    let owned = owned.map_err(|error| Failure::broken(format!("list_owned: {error}")))?;
    for owned in owned {
        destroy(backend, &owned.handle).await?;
    }
    Ok(())
}
