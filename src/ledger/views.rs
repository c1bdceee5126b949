//! What is asked all the time, kept in memory beside the file: which messages are
//! due, what leases that are not over hold, and whose the others were. Made from the tables when the
//! ledger is opened and brought up to date with each commit, so that nobody reads
//! a whole table for it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::rows::{ENDED, LEASES, OUTBOX, OutboxRow};
use super::table::{Reader, Rows, Tx};
use super::{LedgerError, Table};
use crate::core::capacity::Resources;
use crate::core::ids::PublicKey;
use crate::core::lease::{Lease, Phase, Purse};
use crate::core::money::Msat;
use crate::core::time::Timestamp;

/// What one lease that is not over holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Whose it is.
    pub owner: PublicKey,
    /// What it was sold.
    pub resources: Resources,
    /// Where it stands.
    pub phase: Phase,
    /// Whether it waits for its invoice to be paid.
    pub unpaid: bool,
}

impl Held {
    fn of(lease: &Lease) -> Self {
        Self {
            owner: lease.owner,
            resources: lease.tier.resources,
            phase: lease.phase,
            unpaid: lease.invoiced && lease.phase == Phase::Reserved,
        }
    }
}

/// Money of a lease's owner that lies on a lease that is over.
struct Credit {
    owner: PublicKey,
    purse: Purse,
    msat: Msat,
}

/// When a message is due, and in which order.
type Place = (Timestamp, Timestamp, String);

/// Messages in the order in which they are due.
#[derive(Default)]
struct Due {
    order: BTreeSet<Place>,
    /// By key: its place, and how many relays it names.
    rows: BTreeMap<String, (Timestamp, Timestamp, usize)>,
}

impl Due {
    fn put(&mut self, key: &str, row: &OutboxRow) {
        self.remove(key);
        let (next, written) = (row.next_attempt, row.written_at);
        self.order.insert((next, written, key.to_owned()));
        let row = (next, written, row.relays.len());
        self.rows.insert(key.to_owned(), row);
    }

    fn remove(&mut self, key: &str) {
        if let Some((key, (next, written, _))) = self.rows.remove_entry(key) {
            self.order.remove(&(next, written, key));
        }
    }
}

/// The views.
#[derive(Default)]
pub(super) struct Views {
    due: Due,
    held: BTreeMap<String, Held>,
    /// Leases that are over and were paid for, by owner, with when they were
    /// made. They are kept for ever, and so are these.
    ended: HashMap<PublicKey, BTreeSet<(Timestamp, String)>>,
    /// Leases with a refund that has a token which is out, or is being locked.
    refunds_out: BTreeSet<String>,
    /// Credit of leases that are over.
    credits: BTreeMap<String, Vec<Credit>>,
}

impl Views {
    /// The views of what is on disk. A row that cannot be read is named in the
    /// log and left out: what it is about waits for somebody to mend it, and all
    /// else goes on.
    pub(super) fn load(reader: &Reader) -> Result<Self, LedgerError> {
        let mut views = Self::default();
        reader.each(&OUTBOX, "", |key, row| {
            match row {
                Ok(row) => views.due.put(key, &row),
                Err(error) => tracing::error!(%key, %error, "left out"),
            }
            Ok(true)
        })?;
        reader.each(&LEASES, "", |key, row| {
            match row {
                Ok(lease) => views.hold(key, &lease),
                Err(error) => tracing::error!(lease = %key, %error, "left out"),
            }
            Ok(true)
        })?;
        reader.each(&ENDED, "", |key, row| {
            match row {
                Ok(lease) => views.end(key, &lease),
                Err(error) => tracing::error!(lease = %key, %error, "left out"),
            }
            Ok(true)
        })?;
        Ok(views)
    }

    /// Brings them up to date with what was committed.
    pub(super) fn apply(&mut self, rows: &Rows) {
        each(rows, &OUTBOX, |key, row| match row {
            Some(row) => self.due.put(key, &row),
            None => self.due.remove(key),
        });
        each(rows, &LEASES, |key, lease| match lease {
            Some(lease) => self.hold(key, &lease),
            None => drop(self.held.remove(key)),
        });
        each(rows, &ENDED, |key, lease| {
            // What is forgotten was never paid for, and is not here.
            if let Some(lease) = lease {
                self.end(key, &lease);
            }
        });
    }

    fn hold(&mut self, key: &str, lease: &Lease) {
        self.held.insert(key.to_owned(), Held::of(lease));
        self.note_refunds(key, lease);
    }

    fn note_refunds(&mut self, key: &str, lease: &Lease) {
        if lease.refunds.iter().any(|refund| refund.token().is_some()) {
            self.refunds_out.insert(key.to_owned());
        } else {
            self.refunds_out.remove(key);
        }
    }

    fn note_credit(&mut self, key: &str, lease: &Lease) {
        let owner = lease.owner;
        let credits = lease.credits().into_iter();
        let credits: Vec<Credit> = credits
            .map(|(purse, msat)| Credit { owner, purse, msat })
            .collect();
        if credits.is_empty() {
            self.credits.remove(key);
        } else {
            self.credits.insert(key.to_owned(), credits);
        }
    }

    /// Leases with a refund whose token is out, by key.
    pub(super) fn refunds_out(&self) -> Vec<String> {
        self.refunds_out.iter().cloned().collect()
    }

    /// Keys of an owner's leases that are over and have credit there.
    pub(super) fn credits_of(&self, owner: &PublicKey, purse: &Purse) -> Vec<String> {
        let own = |credit: &Credit| credit.owner == *owner && credit.purse == *purse;
        let credits = self.credits.iter();
        let credits = credits.filter(|(_, credits)| credits.iter().any(own));
        credits.map(|(key, _)| key.clone()).collect()
    }

    /// The sums, by purse.
    pub(super) fn credits(&self) -> Option<BTreeMap<Purse, Msat>> {
        let mut sums: BTreeMap<Purse, Msat> = BTreeMap::new();
        for credit in self.credits.values().flatten() {
            let sum = sums.entry(credit.purse.clone()).or_default();
            *sum = sum.checked_add(credit.msat)?;
        }
        Some(sums)
    }

    fn end(&mut self, key: &str, lease: &Lease) {
        self.note_refunds(key, lease);
        self.note_credit(key, lease);
        if lease.sold_seconds > 0 {
            let of_owner = self.ended.entry(lease.owner).or_default();
            of_owner.insert((lease.created_at, key.to_owned()));
        }
    }

    /// The keys of an owner's leases: those that are not archived, and of the
    /// others the newest ones.
    pub(super) fn owned(&self, owner: &PublicKey, ended: usize) -> (Vec<String>, Vec<String>) {
        let open = self.held.iter().filter(|(_, held)| held.owner == *owner);
        let over = self.ended.get(owner).into_iter().flatten().rev();
        (
            open.map(|(key, _)| key.clone()).collect(),
            over.take(ended).map(|(_, key)| key.clone()).collect(),
        )
    }

    /// Up to `limit` messages that are due at `now`, by key, first those that
    /// have waited longest. `skip` is asked with a key and how many relays that
    /// message names.
    pub(super) fn due(
        &self,
        now: Timestamp,
        limit: usize,
        mut skip: impl FnMut(&str, usize) -> bool,
    ) -> Vec<String> {
        let due = self.due.order.iter().take_while(|(next, ..)| *next <= now);
        due.map(|(.., key)| key)
            .filter(|key| {
                let relays = self.due.rows.get(*key).map_or(0, |(.., relays)| *relays);
                !skip(key, relays)
            })
            .take(limit)
            .cloned()
            .collect()
    }

    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.due.order.first().map(|(next, ..)| *next)
    }

    pub(super) fn held(&self) -> Vec<Held> {
        self.held.values().copied().collect()
    }

    /// What leases hold as a change sees it.
    pub(super) fn held_in(&self, tx: &Tx<'_>) -> Result<Vec<Held>, LedgerError> {
        let made = tx.made(&LEASES)?;
        let changed: HashSet<&str> = made.iter().map(|(key, _)| key.as_str()).collect();
        let rest = self
            .held
            .iter()
            .filter(|(key, _)| !changed.contains(key.as_str()));
        let mut held: Vec<Held> = rest.map(|(_, held)| *held).collect();
        // A key that is there twice counts as it was made last.
        let last: BTreeMap<_, _> = made.iter().map(|(key, row)| (key, row)).collect();
        held.extend(last.into_values().flatten().map(Held::of));
        Ok(held)
    }
}

fn each<V: serde::Serialize + serde::de::DeserializeOwned>(
    rows: &Rows,
    table: &Table<V>,
    mut change: impl FnMut(&str, Option<V>),
) {
    for (key, row) in rows.of(table) {
        match row.map(|row| table.decode(row)).transpose() {
            Ok(row) => change(key, row),
            // We wrote it a moment ago.
            Err(error) => tracing::error!(%key, %error, "left out"),
        }
    }
}
