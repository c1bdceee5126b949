//! `satletd run`: configuration, logs, signals, the daemon, and a drain that
//! a second signal cuts short.

use std::sync::Arc;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::output::Output;
use super::{ConfigArg, Exit, load};
use crate::config::{Config, secrets};
use crate::provider::backend;
use crate::provider::control::Control;
use crate::provider::daemon::{Provider, Setup};
use crate::provider::queries::Desk;
use crate::relay::session::RelayOptions;
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
    let settings = config.settings;
    let backend = backend::open(
        &settings.backend,
        &settings.data_dir,
        settings.images.max_mib,
    )
    .await?;
    for note in &backend.capabilities().notes {
        tracing::warn!("{note}");
    }
    let control = Control::bind(&settings.data_dir)?;
    let provider = Provider::start(Setup {
        settings,
        keys: secrets.keys,
        seed: secrets.mnemonic.to_seed(""),
        backend,
        relays: RelayOptions::default(),
    })
    .await?;
    tracing::info!(gateway = %provider.gateway().local_addr(), "satletd serves");
    let desk = Desk::new(Arc::clone(provider.ctx()), provider.relays().clone());
    tokio::select! {
        () = control.serve(Arc::new(desk)) => anyhow::bail!("the control socket ended"),
        () = provider.gateway().stopped() => anyhow::bail!("the SSH gateway ended"),
        () = shutdown.cancelled() => {}
    }
    provider.shutdown().await;
    Ok(())
}
