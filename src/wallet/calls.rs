//! What came of requests to mints: how long each took, once it left the queue of
//! our own pacing, and whether there was an answer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cdk::wallet::MintMetadata;
use serde::{Deserialize, Serialize};

use super::MintFacts;
use crate::core::time::Timestamp;

/// Calls that are remembered until somebody asks; older ones are forgotten.
const MOST: usize = 64;
/// Longest reason, in characters: it has a stranger's words in it.
const MAX_WORDS: usize = 160;

/// One request to a mint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// How long it took; of one that nobody waited for to the end, until then.
    pub took: Duration,
    /// Why there was no answer. A mint that says no has answered.
    pub failed: Option<String>,
}

/// What a mint says of itself when it is asked anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MintProbe {
    /// What it charges and issues.
    pub facts: MintFacts,
    /// Of the NUTs that satlet knows, those it does (NUT-06), ascending.
    pub nuts: Vec<u16>,
    /// When the first of its active keysets of ours expires (NUT-02).
    pub expires_at: Option<Timestamp>,
}

/// The calls of one mint.
#[derive(Clone, Debug, Default)]
pub(super) struct Calls(Arc<Mutex<VecDeque<Call>>>);

impl Calls {
    /// A request is about to leave.
    pub(super) fn begin(&self) -> Open {
        Open {
            calls: self.clone(),
            since: Some(Instant::now()),
        }
    }

    pub(super) fn put(&self, call: Call) {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.len() >= MOST {
            calls.pop_front();
        }
        calls.push_back(call);
    }

    /// Those since the last time.
    pub(super) fn take(&self) -> Vec<Call> {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.drain(..).collect()
    }
}

/// A request under way. Where it is dropped, nobody waits for it any more.
pub(super) struct Open {
    calls: Calls,
    since: Option<Instant>,
}

impl Open {
    /// It is over.
    pub(super) fn end(mut self, failed: Option<String>) {
        if let Some(since) = self.since.take() {
            let failed = failed.map(|why| clean(&why));
            let took = since.elapsed();
            self.calls.put(Call { took, failed });
        }
    }

    /// It does not count.
    pub(super) fn forget(mut self) {
        self.since = None;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(since) = self.since.take() {
            let (took, failed) = (since.elapsed(), None);
            self.calls.put(Call { took, failed });
        }
    }
}

fn clean(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(MAX_WORDS).collect()
}

/// What the mint's answers say.
pub(super) fn probed(metadata: &MintMetadata, facts: MintFacts) -> MintProbe {
    let nuts = &metadata.mint_info.nuts;
    let said = [
        (4, !nuts.nut04.disabled && !nuts.nut04.methods.is_empty()),
        (5, !nuts.nut05.disabled && !nuts.nut05.methods.is_empty()),
        (7, nuts.nut07.supported),
        (8, nuts.nut08.supported),
        (9, nuts.nut09.supported),
        (10, nuts.nut10.supported),
        (11, nuts.nut11.supported),
        (12, nuts.nut12.supported),
        (14, nuts.nut14.supported),
        (20, nuts.nut20.supported),
    ];
    let ours = |unit: &str| unit == "sat" || unit == "msat";
    let active = metadata.active_keysets.iter();
    let expiries = active
        .filter(|keyset| ours(&keyset.unit.to_string()))
        .filter_map(|keyset| keyset.final_expiry);
    MintProbe {
        facts,
        nuts: said
            .into_iter()
            .filter_map(|(nut, does)| does.then_some(nut))
            .collect(),
        expires_at: expiries.min().map(Timestamp::from_secs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_calls_are_kept_once() {
        let calls = Calls::default();
        for n in 0..MOST + 2 {
            calls.begin().end((n > 0).then(|| format!("no {n}\n")));
        }
        drop(calls.begin());
        calls.begin().forget();
        let told = calls.take();
        assert_eq!(told.len(), MOST);
        assert_eq!(told[0].failed.as_deref(), Some("no 3 "));
        assert_eq!(told[MOST - 1].failed, None);
        assert_eq!(calls.take(), []);
    }
}
