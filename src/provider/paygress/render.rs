//! Our answers in the shape that existing clients read.

use chrono::{DateTime, SecondsFormat};

use super::errors;
use crate::core::lease::{Lease, Phase};
use crate::core::time::Timestamp;
use crate::ledger::{ContainerRow, LedgerError, OldAsk, Tx, container_of};
use crate::protocol::paygress::container_name;
use crate::protocol::paygress::reply::{AccessDetails, Reply, StatusReply, TopUpDone};
use crate::protocol::reply::{self, Answer, Outcome};
use crate::provider::ctx::Ctx;

/// RFC 3339 with a numeric offset.
pub(super) fn date(at: Timestamp) -> String {
    i64::try_from(at.as_secs())
        .ok()
        .and_then(|secs| DateTime::from_timestamp(secs, 0))
        .unwrap_or(DateTime::<chrono::Utc>::MAX_UTC)
        .to_rfc3339_opts(SecondsFormat::Secs, false)
}

/// The reply of a lease's task as text.
///
/// # Errors
/// The lease has no workload number, or the disk.
pub(in crate::provider) fn render(
    ctx: &Ctx,
    tx: &Tx,
    ask: &OldAsk,
    lease: &Lease,
    ours: &reply::Reply,
) -> Result<String, LedgerError> {
    let container = container_of(tx, &lease.id)?;
    let Some((n, row)) = container else {
        let why = format!("lease {} has no workload number", lease.id);
        return Err(LedgerError::Rule(why));
    };
    let reply = match &ours.outcome {
        Outcome::Error(error) => Reply::Error(errors::reply(error)),
        Outcome::Result(answer) => match &**answer {
            Answer::Topup(done) => Reply::TopUp(TopUpDone {
                success: true,
                pod_npub: ask.name.clone(),
                extended_duration_seconds: done.added_seconds,
                new_expires_at: date(done.expires_at),
                message: format!("extended by {} s", done.added_seconds),
            }),
            _ => Reply::Access(Box::new(access(ctx, lease, n, &row))),
        },
    };
    text(&reply)
}

/// A reply as text.
///
/// # Errors
/// It cannot be written as JSON: a defect of ours.
pub(in crate::provider) fn text(reply: &Reply) -> Result<String, LedgerError> {
    serde_json::to_string(reply).map_err(|error| LedgerError::Rule(error.to_string()))
}

fn access(ctx: &Ctx, lease: &Lease, n: u32, row: &ContainerRow) -> AccessDetails {
    let host = &ctx.settings().gateway.public_host;
    let expires_at = date(lease.expires_at.unwrap_or_default());
    AccessDetails {
        pod_npub: container_name(n),
        node_port: row.port,
        cpu_millicores: lease.tier.resources.cpu_millicores.into(),
        memory_mb: lease.tier.resources.memory_mib.into(),
        pod_spec_name: lease.tier.name.clone(),
        pod_spec_description: lease.tier.description.clone(),
        instructions: vec![
            format!("{} is ready", container_name(n)),
            "Username: root".to_owned(),
            format!("Password: {}", row.password),
            format!("Expires: {expires_at}"),
            "Connect with SSH:".to_owned(),
            format!("ssh -p {} root@{host}", row.port),
        ],
        expires_at,
        host_address: host.clone(),
        template_ports: Vec::new(),
    }
}

/// A lease as a status tells it.
pub(super) fn status(ctx: &Ctx, lease: &Lease, n: u32, row: &ContainerRow) -> StatusReply {
    let now = ctx.now();
    let state = match lease.phase {
        Phase::Active if lease.is_open(now) => "Running",
        Phase::Reserved | Phase::Provisioning { .. } | Phase::Reviving { .. } => "Starting",
        _ => "Expired",
    };
    let left = match state {
        "Expired" => 0,
        _ => lease.unserved_seconds(now),
    };
    let end = lease.expires_at.filter(|_| state != "Starting");
    StatusReply {
        pod_id: n.to_string(),
        status: state.to_owned(),
        expires_at: date(end.unwrap_or(now.plus_secs(left))),
        time_remaining_seconds: left,
        cpu_millicores: lease.tier.resources.cpu_millicores.into(),
        memory_mb: lease.tier.resources.memory_mib.into(),
        ssh_host: ctx.settings().gateway.public_host.clone(),
        ssh_port: row.port,
        ssh_username: "root".to_owned(),
    }
}
