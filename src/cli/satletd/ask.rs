//! Commands that show what the running daemon says.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::output::Output;
use super::{ConfigArg, Exit, load, runtime};
use crate::provider::control::{Ask, ControlError, ask};

/// Asks the running daemon and shows its answer, as JSON or as these lines.
pub(super) fn show<T: Serialize + DeserializeOwned>(
    output: &mut Output<'_>,
    arg: &ConfigArg,
    question: Ask,
    json: bool,
    render: impl FnOnce(&T) -> Vec<String>,
) -> anyhow::Result<Exit> {
    let config = match load(output, arg) {
        Ok(config) => config,
        Err(exit) => return Ok(exit),
    };
    match runtime()?.block_on(ask::<T>(&config.settings.data_dir, question)) {
        Ok(answer) if json => output.json(&answer)?,
        Ok(answer) => {
            for line in render(&answer) {
                output.line(&line)?;
            }
        }
        Err(error @ ControlError::NotRunning(_)) => {
            output.tell(&format!("{error}; start it with `satletd run`."));
            return Ok(Exit::NotRunning);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(Exit::Done)
}
