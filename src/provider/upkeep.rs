//! What is done now and then: forget what needs no memory, finish what mints
//! left open, remove workloads whose lease is over.

use std::sync::Arc;
use std::time::Duration;

use super::admission;
use super::ctx::Ctx;
use super::lost;
use super::merges;
use super::paygress;
use super::solvency;
use super::strays;
use crate::core::ids::LeaseId;
use crate::core::lease::{Books, Lease, Phase};
use crate::core::payment::{Payment, PaymentState};
use crate::core::time::Timestamp;
use crate::ledger::{
    ENDED, INBOX, LEASES, LedgerError, PAYMENTS, PROOFS, REQUESTS, Reader, Tx, WRAPS, find_lease,
};

/// Between two rounds.
const EVERY: Duration = Duration::from_secs(60);

/// Gift wraps and messages are remembered this long: longer than the inbox ever
/// looks back (3 days and a margin).
const REMEMBER: Duration = Duration::from_secs(7 * 24 * 3600);

/// Messages, and requests, that are remembered at most; beyond it those that
/// moved no money are forgotten early, the oldest first, down to three quarters.
const MOST: usize = 50_000;
/// The same for gift wraps, which are small: half a day of a flood at the default
/// rate. One that is forgotten is opened again when a relay brings it again.
const MOST_WRAPS: usize = 400_000;

/// How long one call of the backend or the wallet may take.
const CALL: Duration = Duration::from_secs(60);

/// Runs a round at once and then every minute.
pub(super) async fn run(ctx: Arc<Ctx>) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut rounds: u64 = 0;
    let mut counts = (0, 0);
    let mut suspects = strays::Suspects::default();
    loop {
        tick.tick().await;
        counts = admission::report(&ctx, counts);
        orphans(&ctx).await;
        ctx.opening.wallet().await;
        match tokio::time::timeout(CALL, ctx.parts.wallet.recover()).await {
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the wallet could not recover"),
        }
        if let Err(error) = strays::look(&ctx, &mut suspects).await {
            tracing::error!(%error, "tokens that nobody knows of were not looked for");
        }
        if let Err(error) = merges::round(&ctx).await {
            tracing::error!(%error, "proofs could not be merged");
        }
        if let Err(error) = solvency::watch(&ctx).await {
            tracing::error!(%error, "whether there is enough ecash is not known");
        }
        if (rounds.is_multiple_of(60) || is_full(&ctx))
            && let Err(error) = forget(&ctx).await
        {
            tracing::error!(%error, "old messages could not be forgotten");
        }
        tidy(&ctx).await;
        rounds += 1;
    }
}

async fn tidy(ctx: &Ctx) {
    match tokio::time::timeout(CALL, ctx.parts.backend.tidy()).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the backend could not tidy up"),
    }
}

/// Forgets what nobody can ask for any more: old messages, the answers to
/// requests that moved no money, and leases that were never paid, with their
/// payments and their claims on proofs. What is about money is kept.
pub async fn forget(ctx: &Ctx) -> Result<(), LedgerError> {
    let (ledger, before) = (ctx.ledger().clone(), ctx.now().minus(REMEMBER));
    // It reads whole tables, and those who serve requests do not wait for that.
    let read = move || ledger.read(|reader| Gone::of(reader, before));
    let gone = tokio::task::spawn_blocking(read).await;
    let gone = gone.map_err(|error| LedgerError::Died(error.to_string()))??;
    for part in gone.parts() {
        ctx.ledger().write(move |tx| part.delete(tx)).await?;
    }
    paygress::forget(ctx).await
}

/// Whether more is remembered than should be.
fn is_full(ctx: &Ctx) -> bool {
    let full = ctx.ledger().read(|reader| {
        let messages = reader.count(&INBOX)?.max(reader.count(&REQUESTS)?);
        Ok(messages > MOST as u64 || reader.count(&WRAPS)? > MOST_WRAPS as u64)
    });
    full.unwrap_or(false)
}

/// The instant before which a table with these stamps is forgotten.
fn horizon(mut stamps: Vec<Timestamp>, before: Timestamp, most: usize) -> Timestamp {
    let keep = most / 4 * 3;
    if stamps.len() <= most {
        return before;
    }
    let oldest_kept = stamps.len() - keep;
    let (_, at, _) = stamps.select_nth_unstable(oldest_kept);
    (*at).max(before)
}

/// Rows of a kind that are deleted in one change, at most: others wait for it.
const AT_ONCE: usize = 500;

/// Keys of rows to be forgotten.
#[derive(Default)]
struct Gone {
    wraps: Vec<String>,
    inbox: Vec<String>,
    requests: Vec<String>,
    payments: Vec<Payment>,
    leases: Vec<String>,
}

impl Gone {
    fn of(reader: &Reader, before: Timestamp) -> Result<Self, LedgerError> {
        fn keys<V>(rows: Vec<(String, V)>, old: impl Fn(&V) -> bool) -> Vec<String> {
            let old = rows.into_iter().filter(|(_, row)| old(row));
            old.map(|(key, _)| key).collect()
        }
        let forgotten = |lease: Option<&LeaseId>| {
            lease.is_none_or(|id| matches!(find_lease(reader, id), Ok(None)))
        };
        let ended = |at: &Lease| matches!(at.phase, Phase::Ended { at } if at < before);
        let payments = reader.all(&PAYMENTS)?.into_iter().map(|(_, row)| row);
        let rejected = |p: &Payment| p.state == PaymentState::Rejected && p.deadline < before;
        let (wraps, inbox) = (reader.all(&WRAPS)?, reader.all(&INBOX)?);
        let asked = reader.all(&REQUESTS)?;
        let wraps_before = horizon(
            wraps.iter().map(|(_, at)| *at).collect(),
            before,
            MOST_WRAPS,
        );
        let received = inbox.iter().map(|(_, row)| row.received_at);
        let inbox_before = horizon(received.collect(), before, MOST);
        let received = asked.iter().map(|(_, row)| row.received_at);
        let asked_before = horizon(received.collect(), before, MOST);
        Ok(Self {
            wraps: keys(wraps, |at| *at < wraps_before),
            inbox: keys(inbox, |row| row.done && row.received_at < inbox_before),
            requests: keys(asked, |row| {
                row.answer.is_some()
                    && row.received_at < asked_before
                    && forgotten(row.lease.as_ref())
            }),
            payments: payments.filter(rejected).collect(),
            leases: keys(reader.all(&ENDED)?, |lease| {
                ended(lease) && lease.money == Books::default()
            }),
        })
    }

    /// The same, in parts. Requests come before the leases that they name: a
    /// part that is not done is found again in the next round.
    fn parts(self) -> Vec<Self> {
        fn cut<V: Clone>(rows: &[V]) -> impl Iterator<Item = Vec<V>> {
            rows.chunks(AT_ONCE).map(<[V]>::to_vec)
        }
        let none = Self::default;
        let wraps = cut(&self.wraps).map(|wraps| Self { wraps, ..none() });
        let inbox = cut(&self.inbox).map(|inbox| Self { inbox, ..none() });
        let requests = cut(&self.requests).map(|requests| Self { requests, ..none() });
        let payments = cut(&self.payments).map(|payments| Self { payments, ..none() });
        let leases = cut(&self.leases).map(|leases| Self { leases, ..none() });
        let first = wraps.chain(inbox).chain(requests);
        first.chain(payments).chain(leases).collect()
    }

    fn delete(&self, tx: &Tx) -> Result<(), LedgerError> {
        let Self { wraps, inbox, .. } = self;
        wraps.iter().try_for_each(|key| tx.delete(&WRAPS, key))?;
        inbox.iter().try_for_each(|key| tx.delete(&INBOX, key))?;
        let requests = &mut self.requests.iter();
        requests.try_for_each(|key| tx.delete(&REQUESTS, key))?;
        let leases = &mut self.leases.iter();
        leases.try_for_each(|key| tx.delete(&ENDED, key))?;
        for payment in &self.payments {
            let key = payment.id.to_hex();
            // Its proofs may have been brought again since this was read.
            if tx.get(&PAYMENTS, &key)?.as_ref() != Some(payment) {
                continue;
            }
            tx.delete(&PAYMENTS, &key)?;
            for y in &payment.ys {
                if tx.get(&PROOFS, y)? == Some(payment.id) {
                    tx.delete(&PROOFS, y)?;
                }
            }
        }
        Ok(())
    }
}

/// Destroys workloads of ours whose lease is over. One whose lease is not known
/// at all becomes a lease again, or is left alone and named where its labels do
/// not say enough: its ledger may be lost.
async fn orphans(ctx: &Arc<Ctx>) {
    let listed = tokio::time::timeout(CALL, ctx.parts.backend.list_owned()).await;
    let Ok(Ok(owned)) = listed else { return };
    for workload in owned {
        let id = workload.labels.lease.clone();
        let known = ctx.ledger().read(|reader| {
            let open = reader.get(&LEASES, id.as_str())?.is_some();
            Ok((open, reader.get(&ENDED, id.as_str())?.is_some()))
        });
        match known {
            Ok((true, _)) | Err(_) => {}
            Ok((false, true)) => {
                tracing::info!(lease = %id, "its lease is over; removing what was left");
                let gone = ctx.parts.backend.destroy(&workload.handle);
                drop(tokio::time::timeout(CALL, gone).await);
            }
            Ok((false, false)) => {
                if matches!(lost::rebuild(ctx, &workload).await, Ok(true)) {
                    continue;
                }
                tracing::warn!(lease = %id, owner = %workload.labels.owner, "a workload without a lease in this ledger");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_most_the_oldest_quarter_is_forgotten_early() {
        let at = Timestamp::from_secs;
        let stamps = |n: u64| (0..n).rev().map(|n| at(1_000 + n)).collect::<Vec<_>>();
        assert_eq!(horizon(stamps(100), at(5), 100), at(5));
        let all = stamps(101);
        let from = horizon(all.clone(), at(5), 100);
        assert_eq!(all.iter().filter(|stamp| **stamp >= from).count(), 75);
        // What is old enough goes anyway.
        assert_eq!(horizon(all, at(1_000_000), 100), at(1_000_000));
    }
}
