//! `satletd leases`.

use super::ask::show;
use super::output::{Output, clean, table};
use super::{ConfigArg, Exit};
use crate::config::units::show_duration;
use crate::protocol::reply::LeaseState;
use crate::provider::control::{Ask, LeaseView};

pub(super) fn leases(output: &mut Output<'_>, arg: &ConfigArg, json: bool) -> anyhow::Result<Exit> {
    show(output, arg, Ask::Leases, json, |leases: &Vec<LeaseView>| {
        render(leases)
    })
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
