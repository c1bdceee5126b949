//! `satletd run`: configuration, logs, signals, the daemon, and a drain that
//! a second signal cuts short.

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::output::Output;
use super::{ConfigArg, Exit, load};
use crate::config::{Config, secrets};
use crate::telemetry;

pub(super) fn run(output: &mut Output<'_>, arg: &ConfigArg) -> anyhow::Result<Exit> {
    let config = match load(output, arg) {
        Ok(config) => config,
        Err(exit) => return Ok(exit),
    };
    telemetry::init(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(until_signal(config));
    // A blocking call that hangs must not hold the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    done
}

async fn until_signal(config: Config) -> anyhow::Result<Exit> {
    let mut term = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("SIGINT")?;
    let shutdown = CancellationToken::new();
    let daemon = start(config, shutdown.clone());
    tokio::pin!(daemon);
    tokio::select! {
        done = &mut daemon => return done.map(|()| Exit::Done),
        name = either(&mut term, &mut int) => tracing::info!("{name}: no new work; a second one ends at once"),
    }
    shutdown.cancel();
    tokio::select! {
        done = &mut daemon => done.map(|()| Exit::Done),
        name = either(&mut term, &mut int) => {
            tracing::warn!("{name} again: ends at once; the next start finishes what was begun");
            Ok(Exit::Failed)
        }
    }
}

async fn either(term: &mut Signal, int: &mut Signal) -> &'static str {
    tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    }
}

/// The daemon, until `shutdown` and its drain.
async fn start(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let secrets = secrets::read(&config)
        .map_err(|_| anyhow::anyhow!("the secret files have changed since they were checked"))?;
    let _ = (secrets, shutdown);
    anyhow::bail!("the daemon is not part of this build")
}
