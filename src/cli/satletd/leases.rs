//! `satletd leases`.

use super::output::{Output, clean, table};
use super::{ConfigArg, Exit, load, runtime};
use crate::config::units::show_duration;
use crate::protocol::reply::LeaseState;
use crate::provider::control::{Ask, ControlError, LeaseView, ask};

pub(super) fn leases(output: &mut Output<'_>, arg: &ConfigArg, json: bool) -> anyhow::Result<Exit> {
    let config = match load(output, arg) {
        Ok(config) => config,
        Err(exit) => return Ok(exit),
    };
    let asked = runtime()?.block_on(ask::<Vec<LeaseView>>(
        &config.settings.data_dir,
        Ask::Leases,
    ));
    match asked {
        Ok(leases) if json => output.json(&leases)?,
        Ok(leases) => {
            for line in render(&leases) {
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

pub(super) fn render(leases: &[LeaseView]) -> Vec<String> {
    if leases.is_empty() {
        return vec!["No leases.".to_owned()];
    }
    let head = ["LEASE", "STATE", "TIER", "LEFT", "OWNER", "IMAGE", "WHY"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(leases.iter().map(row));
    table(&rows)
}

fn row(lease: &LeaseView) -> Vec<String> {
    let status = &lease.status;
    let state = match status.state {
        LeaseState::Starting => "starting",
        LeaseState::Active => "active",
        LeaseState::Grace => "grace",
        LeaseState::Ended => "ended",
    };
    let left = std::time::Duration::from_secs(status.remaining_seconds);
    vec![
        status.lease.to_string(),
        state.to_owned(),
        status.tier.to_string(),
        show_duration(left),
        lease.owner.to_hex().chars().take(8).collect(),
        clean(&status.image),
        clean(&status.why),
    ]
}
