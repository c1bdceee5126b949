//! Reading the configuration again while the daemon runs: what may change, does;
//! a file that is wrong changes nothing.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::output::Output;
use super::{ConfigArg, Exit, load, runtime};
use crate::config::{self, Config};
use crate::provider::control::{self, Ask, ControlError, ReloadView};
use crate::provider::ctx::Ctx;

/// The section that is taken over.
const LIVE: &str = "/requests/";

/// Reads the file again for a running daemon.
pub(super) struct Reloader {
    path: PathBuf,
    ctx: Arc<Ctx>,
    /// What holds: the file of the start, with the live section of the last
    /// reload.
    holds: Mutex<Value>,
}

impl Reloader {
    /// For a daemon that was started with `source`, from `path`.
    pub(super) fn new(path: PathBuf, source: Value, ctx: Arc<Ctx>) -> Self {
        let holds = Mutex::new(source);
        Self { path, ctx, holds }
    }

    /// Takes over what may change.
    ///
    /// # Errors
    /// Everything that is wrong with the file; then nothing has changed.
    pub(super) fn reload(&self) -> Result<ReloadView, String> {
        match config::load(&self.path) {
            Ok(config) => {
                let view = self.take_over(config);
                tracing::info!(changed = ?view.changed, "the configuration was read again");
                if !view.needs_restart.is_empty() {
                    let keys = &view.needs_restart;
                    tracing::warn!(
                        ?keys,
                        "changed in the file, and taken over at a restart only"
                    );
                }
                Ok(view)
            }
            Err(problems) => {
                for problem in &problems {
                    tracing::error!(%problem, "the configuration is wrong; the old one holds");
                }
                let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
                Err(format!(
                    "the configuration is wrong, and the old one holds: {}",
                    all.join(" ")
                ))
            }
        }
    }

    fn take_over(&self, config: Config) -> ReloadView {
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        let found = config::differences(&holds, &config.source.0);
        let live = |pointer: &String| format!("{pointer}/").starts_with(LIVE);
        let (changed, needs_restart) = found.into_iter().partition(live);
        self.ctx.set_policy(config.settings.requests);
        if let Some(holds) = holds.as_object_mut() {
            match config.source.0.get("requests") {
                Some(requests) => drop(holds.insert("requests".to_owned(), requests.clone())),
                None => drop(holds.remove("requests")),
            }
        }
        ReloadView {
            changed,
            needs_restart,
        }
    }
}

/// `satletd reload`.
pub(super) fn reload(output: &mut Output<'_>, arg: &ConfigArg) -> anyhow::Result<Exit> {
    let config = match load(output, arg) {
        Ok(config) => config,
        Err(exit) => return Ok(exit),
    };
    let asked = control::ask(&config.settings.data_dir, Ask::Reload);
    let view: ReloadView = match runtime()?.block_on(asked) {
        Ok(view) => view,
        Err(error @ ControlError::NotRunning(_)) => {
            output.tell(&format!("satletd: {error}"));
            return Ok(Exit::NotRunning);
        }
        Err(error) => return Err(error.into()),
    };
    match view.changed.as_slice() {
        [] => output.line("nothing has changed that can be taken over")?,
        changed => output.line(&format!("taken over: {}", changed.join(", ")))?,
    }
    if !view.needs_restart.is_empty() {
        let keys = view.needs_restart.join(", ");
        output.line(&format!("needs a restart: {keys}"))?;
    }
    Ok(Exit::Done)
}
