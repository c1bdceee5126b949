//! `satletd run`: configuration, logs, signals, the daemon, and a drain that
//! a second signal cuts short.

use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::output::Output;
use super::reload::Reloader;
use super::{ConfigArg, Exit, load};
use crate::config::{Config, secrets};
use crate::provider::backend;
use crate::provider::control::Control;
#[cfg(not(feature = "demo"))]
use crate::provider::daemon::Provider;
use crate::provider::daemon::Setup;
use crate::provider::queries::{ProviderQueries, Reload};
use crate::relay::session::RelayOptions;
use crate::telemetry;

/// How long the end may take after the first signal.
const DRAIN: Duration = Duration::from_secs(45);

pub(super) fn run(output: &mut Output<'_>, arg: &ConfigArg) -> anyhow::Result<Exit> {
    let config = match load(output, arg) {
        Ok(config) => config,
        Err(exit) => return Ok(exit),
    };
    telemetry::init(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(until_signal(config, arg.config.clone()));
    // A blocking call that hangs must not hold the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    done
}

async fn until_signal(config: Config, path: PathBuf) -> anyhow::Result<Exit> {
    let mut term = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("SIGINT")?;
    let shutdown = CancellationToken::new();
    // Listened to from the beginning: unheard, it would end the process.
    let hangup = signal(SignalKind::hangup()).context("SIGHUP")?;
    let daemon = start(config, path, hangup, shutdown.clone());
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
async fn start(
    config: Config,
    path: PathBuf,
    hangup: Signal,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let secrets = secrets::read(&config)
        .map_err(|_| anyhow::anyhow!("the secret files have changed since they were checked"))?;
    let (settings, source) = (config.settings, config.source.0);
    let data_dir = settings.data_dir.clone();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&data_dir)
        .with_context(|| data_dir.display().to_string())?;
    let backend = backend::open(&settings)
        .await
        .context("the backend cannot be opened")?;
    let setup = Setup {
        settings,
        keys: secrets.keys,
        seed: secrets.mnemonic.to_seed(""),
        backend,
        relays: RelayOptions::default(),
    };
    // Tests have it die at a point of their choice.
    #[cfg(feature = "demo")]
    let provider = crate::demo::crash::start(setup).await?;
    #[cfg(not(feature = "demo"))]
    let provider = Provider::start(setup).await?;
    // The ledger's lock is held now, so the socket is no living daemon's.
    let control = Control::bind(&data_dir)?;
    let reloader = Reloader::new(path, source, Arc::clone(provider.ctx()));
    let reload: Reload = Arc::new(move || reloader.reload());
    let (ctx, relays) = (Arc::clone(provider.ctx()), provider.relays().clone());
    let queries = ProviderQueries::new(ctx, relays, Arc::clone(&reload));
    tracing::info!(
        provider = %provider.ctx().me(),
        gateway = %provider.gateway().local_addr(),
        "satletd runs"
    );
    tokio::select! {
        () = control.serve(Arc::new(queries)) => {}
        () = reload_on(hangup, reload) => {}
        () = shutdown.cancelled() => {}
    }
    if tokio::time::timeout(DRAIN, provider.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("not everything has ended in time; the next start finishes it");
    }
    Ok(())
}

/// Reads the configuration again at each SIGHUP. What came of it is in the log.
async fn reload_on(mut hangup: Signal, reload: Reload) {
    while hangup.recv().await.is_some() {
        let reload = Arc::clone(&reload);
        drop(tokio::task::spawn_blocking(move || reload()).await);
    }
    std::future::pending().await
}
