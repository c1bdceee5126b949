//! What did my workload print?

use std::time::Duration;

use super::{Handled, own_lease};
use crate::compute::Handle;
use crate::core::ids::PublicKey;
use crate::ledger::WORKLOADS;
use crate::protocol::MAX_LOG_BYTES;
use crate::protocol::error::{Code, WireError};
use crate::protocol::reply::Answer;
use crate::protocol::request::Logs;
use crate::provider::ctx::Ctx;
use crate::provider::refuse::{self, Refusal};

/// How long a backend may take to read a log.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn handle(ctx: &Ctx, owner: PublicKey, ask: &Logs) -> Result<Handled, Refusal> {
    let lease = own_lease(ctx, &owner, &ask.lease)?;
    if lease.has_ended() {
        return Err(refuse::ended());
    }
    let row = ctx
        .ledger()
        .read(|reader| reader.get(&WORKLOADS, lease.id.as_str()))
        .map_err(|error| refuse::internal(&error))?;
    let handle: Option<Handle> = row
        .and_then(|row| row.handle)
        .and_then(|value| serde_json::from_value(value).ok());
    let handle = handle.ok_or_else(|| {
        WireError::new(
            Code::NotFound,
            "the workload is not there yet",
            "ask again in a moment",
        )
    })?;
    let logs = ctx.parts.backend.logs().ok_or_else(|| {
        WireError::new(
            Code::Unsupported,
            "this backend keeps no logs",
            "enter the workload instead",
        )
    })?;
    let max = ask.max_bytes.unwrap_or(MAX_LOG_BYTES).min(MAX_LOG_BYTES);
    // One byte more tells whether anything was left out.
    let read = tokio::time::timeout(TIMEOUT, logs.logs(&handle, max + 1)).await;
    let bytes = read
        .map_err(|_| "no answer in time".to_owned())
        .and_then(|read| read.map_err(|error| error.to_string()))
        .map_err(|why| {
            WireError::new(
                Code::Internal,
                format!("the log cannot be read: {why}"),
                "try again later",
            )
        })?;
    let truncated = bytes.len() > max;
    let tail = bytes
        .get(bytes.len().saturating_sub(max)..)
        .unwrap_or_default();
    let output = String::from_utf8_lossy(tail).into_owned();
    Ok(Answer::Logs {
        lease: lease.id,
        output,
        truncated,
    }
    .into())
}
