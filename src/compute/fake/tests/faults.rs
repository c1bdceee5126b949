//! The knobs do what they say.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::compute::fake::{FakeBackend, FakeEngine, FakeHost, Happened, Op};
use crate::compute::{
    Backend, BackendError, ExecCommand, ExecRequest, Image, Observed, WorkloadSpec,
};
use crate::core::capacity::Resources;
use crate::core::ids::{LeaseId, PublicKey};
use crate::core::time::Timestamp;

type Tested = Result<(), Box<dyn std::error::Error>>;

fn backend() -> Result<Arc<FakeBackend>, Box<dyn std::error::Error>> {
    Ok(Arc::new(FakeBackend::new(
        "fake".parse()?,
        FakeHost::default(),
    )))
}

fn key() -> LeaseId {
    LeaseId::from_random([3; 12])
}

fn spec() -> WorkloadSpec {
    WorkloadSpec {
        owner: PublicKey::from_bytes([1; 32]),
        image: Image::Host,
        resources: Resources::default(),
        command: Vec::new(),
        env: Vec::new(),
        expires_at: Timestamp::from_secs(1),
        note: String::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn failures_come_in_order_and_do_nothing() -> Tested {
    let backend = backend()?;
    let engine = backend.engine();
    let errors = [
        BackendError::Retry("a".into()),
        BackendError::Permanent("b".into()),
        BackendError::OutcomeUnknown("c".into()),
        BackendError::NoCapacity("d".into()),
    ];
    for error in &errors {
        engine.fail_next(Op::Create, 1, error.clone());
    }
    for error in errors {
        assert_eq!(backend.create(&key(), &spec()).await, Err(error));
        assert!(engine.workloads().is_empty());
    }
    backend.create(&key(), &spec()).await?;
    assert_eq!(engine.count(Op::Create), 5);
    assert_eq!(engine.count_for(Op::Create, &key()), 5);
    let done = engine
        .events()
        .into_iter()
        .filter(|e| e.what == Happened::Done);
    assert_eq!(done.count(), 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_leaves_the_workload() -> Tested {
    let backend = backend()?;
    backend.engine().lose_reply(Op::Create, 1);
    let made = backend.create(&key(), &spec()).await;
    assert!(
        matches!(made, Err(BackendError::OutcomeUnknown(_))),
        "{made:?}"
    );
    assert_eq!(backend.list_owned().await?.len(), 1);
    backend.create(&key(), &spec()).await?;
    assert_eq!(backend.list_owned().await?.len(), 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_hang_lasts_until_it_is_released_and_counts() -> Tested {
    let backend = backend()?;
    let engine = backend.engine().clone();
    engine.hang_next(Op::Create, 1);
    let first = tokio::spawn({
        let backend = backend.clone();
        async move { backend.create(&key(), &spec()).await }
    });
    engine.called(Op::Create, 1).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(!first.is_finished());
    assert!(engine.workloads().is_empty());
    // The second one does not hang, and neither does anything else.
    backend
        .create(&LeaseId::from_random([4; 12]), &spec())
        .await?;
    assert_eq!(backend.list_owned().await?.len(), 1);
    engine.release();
    first.await??;
    assert_eq!(backend.list_owned().await?.len(), 2);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_hang_of_the_reply_has_done_its_work() -> Tested {
    let backend = backend()?;
    backend.engine().hang_reply(Op::Create);
    let minute = Duration::from_secs(60);
    let made = tokio::time::timeout(minute, backend.create(&key(), &spec())).await;
    assert!(made.is_err());
    assert!(backend.engine().workload(&key()).is_some());
    backend.engine().release();
    backend.create(&key(), &spec()).await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn slow_takes_as_long_as_said() -> Tested {
    let backend = backend()?;
    backend.engine().set_slow(Duration::from_secs(90));
    let before = tokio::time::Instant::now();
    backend.probe().await?;
    assert_eq!(before.elapsed().as_secs(), 90);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_workload_that_vanished_is_absent_and_its_commands_end() -> Tested {
    let backend = backend()?;
    let handle = backend.create(&key(), &spec()).await?;
    let exec = backend.exec().ok_or("exec")?;
    let request = ExecRequest {
        command: ExecCommand::Line("sleep infinity".to_owned()),
        env: Vec::new(),
        tty: None,
    };
    let session = exec.exec(&handle, request).await?;
    backend.engine().vanish(&key());
    session.exit.await??;
    assert_eq!(backend.observe(&handle).await?, Observed::Absent);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn start_times_come_from_the_clock_that_was_given() -> Tested {
    let at = Timestamp::from_secs(1_700_000_123);
    let engine = FakeEngine::with_clock(FakeHost::default(), Arc::new(move || at));
    let backend = FakeBackend::open("fake".parse()?, &engine);
    let handle = backend.create(&key(), &spec()).await?;
    let paused = false;
    let running = Observed::Running {
        started_at: at,
        paused,
    };
    assert_eq!(backend.observe(&handle).await?, running);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn every_workload_has_a_port_that_echoes() -> Tested {
    let backend = backend()?;
    let handle = backend.create(&key(), &spec()).await?;
    let dial = backend.dial().ok_or("dial")?;
    let mut stream = dial.dial(&handle, "127.0.0.1", 7).await?;
    stream.write_all(b"ping").await?;
    stream.shutdown().await?;
    let mut back = String::new();
    stream.read_to_string(&mut back).await?;
    assert_eq!(back, "ping");
    assert!(dial.dial(&handle, "127.0.0.1", 8).await.is_err());
    Ok(())
}
