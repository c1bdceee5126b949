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

/// Longest output as it stands in a rumor, in bytes: a rumor of 40,960 bytes can
/// be wrapped (NIP-44 twice), and the rest of the answer is short.
const MAX_GROWN: usize = 36 * 1024;

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
    let tail = bytes
        .get(bytes.len().saturating_sub(max)..)
        .unwrap_or_default();
    let (output, cut) = fitting(&String::from_utf8_lossy(tail));
    Ok(Answer::Logs {
        lease: lease.id,
        truncated: cut || bytes.len() > max,
        output,
    }
    .into())
}

/// The end of `text` that fits an answer, and whether anything was cut. A
/// message is JSON in JSON, so that newlines and quotes grow on the way.
fn fitting(text: &str) -> (String, bool) {
    let mut tail = text;
    while grown(tail) > MAX_GROWN {
        let drop = tail.len().div_ceil(8);
        let from = (drop..=tail.len()).find(|at| tail.is_char_boundary(*at));
        tail = from.and_then(|from| tail.get(from..)).unwrap_or_default();
    }
    (tail.to_owned(), tail.len() < text.len())
}

fn grown(text: &str) -> usize {
    let once = serde_json::to_string(text).unwrap_or_default();
    serde_json::to_string(&once).map_or(usize::MAX, |twice| twice.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_that_grows_on_the_way_is_cut_from_the_front() {
        let text = "\"\n".repeat(12_000) + "the end";
        let (tail, cut) = fitting(&text);
        assert!(cut && tail.ends_with("the end"));
        assert!(grown(&tail) <= MAX_GROWN);
        assert_eq!(fitting("short"), ("short".to_owned(), false));
    }
}
