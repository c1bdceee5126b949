//! Messages that came, kept until somebody asks for them. Replies are found by
//! sender **and** request id, so nobody can answer for somebody else.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, mpsc};

use super::receipts;
use super::records::{Records, Whence};
use crate::core::ids::{PublicKey, RequestId};
use crate::protocol::reply::{Message, Notice, Outcome};
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
    /// Takes messages to `me` until there are no more. Money and receipts in a
    /// notice are written down here, whoever waits for what.
    pub(super) async fn fill(
        self: Arc<Self>,
        mut from: mpsc::Receiver<Incoming>,
        records: Records,
        me: PublicKey,
    ) {
        while let Some(message) = from.recv().await {
            match serde_json::from_str::<Message>(&message.body) {
                Ok(Message::Reply(reply)) if reply.satlet == crate::protocol::DIALECT => {
                    self.keep((message.sender, reply.request_id), reply.outcome);
                }
                Ok(Message::Notice(notice)) => note(&records, &me, &message.sender, &notice),
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

/// Writes down what is of value in a notice.
fn note(records: &Records, me: &PublicKey, sender: &PublicKey, notice: &Notice) {
    // Strangers cannot fill the disk.
    if (notice.refund.is_none() && notice.receipt.is_none()) || !records.knows(sender) {
        return;
    }
    if let Some(refund) = &notice.refund
        && let Err(error) = records.note_refund(sender, refund, &Whence::of_lease(&notice.lease))
    {
        // The relay still has the notice: the next run notes it.
        tracing::warn!(%error, "a refund could not be written down");
    }
    let ours = matches!(records.lease(sender, &notice.lease), Ok(Some(_)));
    if let Some(receipt) = notice.receipt.as_ref().filter(|_| ours)
        && let Err(error) = receipts::keep(records, me, sender, Some(&notice.lease), receipt)
    {
        tracing::warn!(%error, lease = %notice.lease, "a receipt was not kept");
    }
}
