//! Messages that came, kept until somebody asks for them. Replies are found by
//! sender **and** request id, so nobody can answer for somebody else.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, mpsc};

use super::records::Records;
use crate::core::ids::{PublicKey, RequestId};
use crate::protocol::reply::{Message, Outcome};
use crate::relay::Incoming;

/// Requests whose replies are kept; older ones are asked for again.
const MAX_KEPT: usize = 256;
/// Replies kept for one request: `pending` may come before the last word.
const MAX_EACH: usize = 16;

type Key = (PublicKey, RequestId);

#[derive(Default)]
struct Kept {
    replies: HashMap<Key, Vec<Outcome>>,
    order: VecDeque<Key>,
}

/// Replies that came and were not asked for yet.
#[derive(Default)]
pub(super) struct Mailbox {
    kept: Mutex<Kept>,
    came: Notify,
}

impl Mailbox {
    /// Takes messages until there are no more. Money in a notice is written
    /// down here, whoever waits for what.
    pub(super) async fn fill(
        self: Arc<Self>,
        mut from: mpsc::Receiver<Incoming>,
        records: Records,
    ) {
        while let Some(message) = from.recv().await {
            match serde_json::from_str::<Message>(&message.body) {
                Ok(Message::Reply(reply)) if reply.satlet == crate::protocol::DIALECT => {
                    self.keep((message.sender, reply.request_id), reply.outcome);
                }
                Ok(Message::Notice(notice)) => {
                    let Some(refund) = notice.refund else {
                        continue;
                    };
                    // Strangers cannot fill the disk.
                    if !records.knows(&message.sender) {
                        continue;
                    }
                    if let Err(error) = records.note_refund(&message.sender, &refund) {
                        // The relay still has the notice: the next run notes it.
                        tracing::warn!(%error, "a refund could not be written down");
                    }
                }
                Ok(Message::Reply(_)) | Err(_) => {
                    tracing::debug!(rumor = %message.rumor, "a message of another dialect");
                }
            }
        }
    }

    fn keep(&self, key: Key, outcome: Outcome) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let replies = kept.replies.entry(key).or_default();
        let first = replies.is_empty();
        if replies.len() < MAX_EACH && !replies.contains(&outcome) {
            replies.push(outcome);
        }
        if first {
            kept.order.push_back(key);
        }
        if kept.order.len() > MAX_KEPT
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.replies.remove(&oldest);
        }
        drop(kept);
        self.came.notify_waiters();
    }

    /// All replies of `sender` to this request, and those that come: the first
    /// that `accept` takes.
    pub(super) async fn wait<T>(
        &self,
        sender: &PublicKey,
        request: &RequestId,
        mut accept: impl FnMut(&Outcome) -> Option<T>,
    ) -> T {
        let mut seen = 0;
        loop {
            let came = self.came.notified();
            tokio::pin!(came);
            came.as_mut().enable();
            let found = {
                let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                let replies = kept.replies.get(&(*sender, *request));
                let new = replies.map(Vec::as_slice).unwrap_or_default();
                let found = new.iter().skip(seen).find_map(&mut accept);
                seen = new.len();
                found
            };
            if let Some(found) = found {
                return found;
            }
            came.await;
        }
    }
}
