//! The ledger as the inbox and the outbox see it.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;

use async_trait::async_trait;

use super::admission::{self, Heard};
use super::answers::{self, Note};
use super::ctx::Ctx;
use super::paygress;
use crate::core::ids::EventId;
use crate::core::policy::rate::Class;
use crate::core::time::Timestamp;
use crate::ledger::{
    INBOX, InboxRow, LedgerError, OUTBOX, OutboxRow, RELAYS, Tx, WRAPS, event_key,
};
use crate::protocol::request::Request;
use crate::relay::{InboxStore, Incoming, OutboxStore, Outgoing, StoreError};

/// The ledger behind the inbox and the outbox.
pub struct Stores(Arc<Ctx>);

impl Stores {
    /// The stores of `ctx`.
    pub fn new(ctx: Arc<Ctx>) -> Self {
        Self(ctx)
    }

    /// For whom a message is stored, if it is to be at all. What is not is forgotten: the
    /// relay has it yet, and after a restart it is looked at once more.
    async fn admit(
        &self,
        message: &Incoming,
        wrap: &EventId,
    ) -> Result<Option<Class>, LedgerError> {
        if self.seen_wrap(wrap).await {
            return Ok(None);
        }
        match admission::hear(&self.0, message)? {
            Heard::Take(class) => Ok(Some(class)),
            Heard::Ignore => Ok(None),
            Heard::Refuse(refusal, paid) => {
                let note = if paid {
                    Note::Wrap(*wrap)
                } else {
                    Note::Nothing
                };
                answers::unstored(&self.0, message, *refusal, note).await?;
                Ok(None)
            }
        }
    }
}

fn failed(error: LedgerError) -> StoreError {
    StoreError(error.to_string())
}

/// Whether this is a request whose answer changes nothing.
fn only_asks(message: &Incoming) -> bool {
    serde_json::from_str::<Request>(&message.body).is_ok_and(|request| request.ask.only_asks())
}

/// The outbox's name of a row as it stands: with how many relays it names. A row
/// that is put again while it is being sent names one more, and a relay's word
/// on the attempt before says nothing about that.
fn attempt_id(key: &str, relays: usize) -> String {
    let mut name = String::new();
    write_attempt_id(&mut name, key, relays);
    name
}

fn write_attempt_id(name: &mut String, key: &str, relays: usize) {
    // A text takes whatever is written to it.
    let _ = write!(name, "{key}#{relays}");
}

/// The row that an attempt was about, unless it was put again meanwhile.
fn attempted(tx: &Tx, id: &str) -> Result<Option<(String, OutboxRow)>, LedgerError> {
    let key = id.rsplit_once('#').map_or(id, |(key, _)| key);
    let row = tx.get(&OUTBOX, key)?;
    let same = row.filter(|row| attempt_id(key, row.relays.len()) == id);
    Ok(same.map(|row| (key.to_owned(), row)))
}

#[async_trait]
impl InboxStore for Stores {
    async fn store(&self, message: &Incoming, wrap: &EventId) -> Result<bool, StoreError> {
        let Some(class) = self.admit(message, wrap).await.map_err(failed)? else {
            return Ok(false);
        };
        if only_asks(message) {
            // It is written down with its answer. A crash before that leaves it
            // to the relay, which is asked for all of the last days at the start.
            self.0.admission.hand_over(message.rumor, class);
            return Ok(true);
        }
        let (rumor, message) = (message.rumor, message.clone());
        let (wrap, now) = (event_key(wrap), self.0.now());
        let write = self.0.ledger().write(move |tx| {
            // The same wrap by another relay, at the same moment.
            if tx.get(&WRAPS, &wrap)?.is_some() {
                return Ok(false);
            }
            tx.put(&WRAPS, &wrap, &now)?;
            let key = event_key(&message.rumor);
            // Wrapped anew: its author asks for the answer again. What is handled
            // is undone on disk until then: another message with the same request
            // relies on it.
            if tx.get(&INBOX, &key)?.is_some_and(|known| !known.done) {
                return Ok(false);
            }
            let row = InboxRow {
                channel: message.channel,
                sender: message.sender,
                relay: message.relay,
                received_at: message.received_at,
                written_at: message.written_at,
                body: message.body,
                request: None,
                done: false,
            };
            tx.put(&INBOX, &key, &row)?;
            Ok(true)
        });
        let new = write.await.map_err(failed)?;
        if new {
            self.0.admission.hand_over(rumor, class);
        }
        Ok(new)
    }

    async fn seen_wrap(&self, wrap: &EventId) -> bool {
        let seen = self
            .0
            .ledger()
            .read(|reader| reader.get(&WRAPS, &event_key(wrap)));
        matches!(seen, Ok(Some(_)))
    }

    async fn last_seen(&self, relay: &str) -> Option<Timestamp> {
        self.0
            .ledger()
            .read(|reader| reader.get(&RELAYS, relay))
            .ok()
            .flatten()
    }

    async fn set_last_seen(&self, relay: &str, at: Timestamp) -> Result<(), StoreError> {
        let relay = relay.to_owned();
        self.0
            .ledger()
            .write(move |tx| tx.put(&RELAYS, &relay, &at))
            .await
            .map_err(failed)
    }
}

#[async_trait]
impl OutboxStore for Stores {
    async fn due(
        &self,
        now: Timestamp,
        limit: usize,
        in_work: &HashSet<String>,
    ) -> Result<Vec<Outgoing>, StoreError> {
        let ledger = self.0.ledger();
        let mut name = String::new();
        let keys = ledger.due(now, limit, |key, relays| {
            name.clear();
            write_attempt_id(&mut name, key, relays);
            in_work.contains(&name)
        });
        let rows = ledger.read(|reader| {
            let rows = keys.into_iter().map(|key| {
                let row = reader.get(&OUTBOX, &key)?;
                Ok(row.map(|row: OutboxRow| (key, row)))
            });
            rows.collect::<Result<Vec<_>, LedgerError>>()
        });
        // One that was confirmed this moment is not there any more.
        let due = rows.map_err(failed)?.into_iter().flatten();
        Ok(due
            .map(|(key, row)| Outgoing {
                id: attempt_id(&key, row.relays.len()),
                channel: row.channel,
                to: row.to,
                body: row.body,
                relays: row.relays,
                expires_at: row.expires_at,
                written_at: row.written_at,
                attempts: row.attempts,
                next_attempt: row.next_attempt,
            })
            .collect())
    }

    async fn next_due(&self) -> Option<Timestamp> {
        self.0.ledger().next_due()
    }

    async fn confirmed(&self, id: &str, _relay: &str, _at: Timestamp) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.0
            .ledger()
            .write(move |tx| match attempted(tx, &id)? {
                Some((key, _)) => tx.delete(&OUTBOX, &key),
                None => Ok(()),
            })
            .await
            .map_err(failed)
    }

    async fn postponed(&self, id: &str, attempts: u32, until: Timestamp) -> Result<(), StoreError> {
        let id = id.to_owned();
        let write = self.0.ledger().write(move |tx| {
            let Some((key, mut row)) = attempted(tx, &id)? else {
                return Ok(());
            };
            row.attempts = attempts;
            row.next_attempt = until;
            tx.put(&OUTBOX, &key, &row)
        });
        write.await.map_err(failed)
    }

    async fn given_up(&self, id: &str, _at: Timestamp) -> Result<(), StoreError> {
        tracing::warn!(message = %id, "no relay took it in time; given up (its answer is kept)");
        let (id, now) = (id.to_owned(), self.0.now());
        let write = self.0.ledger().write(move |tx| {
            let Some((key, _)) = attempted(tx, &id)? else {
                return Ok(None);
            };
            tx.delete(&OUTBOX, &key)?;
            paygress::unheard(tx, &key, now)
        });
        if let Some(lease) = write.await.map_err(failed)? {
            self.0.actors.wake(&self.0, &lease);
            // Nobody may listen: that is no failure.
            drop(self.0.closed.send(lease));
        }
        Ok(())
    }
}
