//! The durable record, on redb: requests with their answers, payments, leases,
//! workloads, messages in and out. One writer, durable commits, one process.
//!
//! A change is a closure over [`Tx`]; what it returns decides: `Ok` commits all
//! of it (on disk when [`Ledger::write`] returns), `Err` leaves nothing of it,
//! and neither does a panic.
//!
//! Changes that come at the same time are committed together, with one sync of
//! the disk: each is carried out alone, in the order in which they came, and sees
//! what those before it did; it writes beside the file, and only what changes
//! that went well have written goes into the one transaction. Nobody is told
//! anything before that is on disk. Where the commit fails, none of them happened
//! and each is told so.
//!
//! What is asked all the time (which messages are due, what leases hold) is kept
//! in memory beside the file.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Weak};

use redb::Database;

mod containers;
mod migrate;
mod payouts;
mod pool;
mod rows;
mod table;
#[cfg(test)]
mod tests;
mod views;
mod writer;

pub use containers::*;
pub use payouts::*;
pub use pool::{KEYS, POOL, change_pool, pool_of, the_pool};
pub use rows::*;
pub use table::{Look, Reader, Table, Tx};
pub use views::Held;

use crate::core::ids::PublicKey;
use crate::core::lease::{Lease, Purse};
use crate::core::money::Msat;
use crate::core::time::Timestamp;
use writer::Writer;

/// The file's name in the data directory.
pub const FILE: &str = "ledger.redb";

/// Memory for pages of the file, in bytes: the leases that are open are read
/// again and again, what is over hardly ever. The default would be a GiB.
const CACHE: usize = 32 * 1024 * 1024;

/// What went wrong with the ledger. None of it is the consumer's fault.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another process has it open.
    #[error("the ledger in {0} is in use by another satletd; stop that one first")]
    Locked(String),
    /// The file was written by a later version.
    #[error("the ledger has version {found}, this satletd reads up to {known}; use the newer one")]
    TooNew {
        /// Version in the file.
        found: u32,
        /// Newest version that is read.
        known: u32,
    },
    /// A row cannot be read.
    #[error("a row of table {table} cannot be read: {why}")]
    Row {
        /// The table.
        table: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The rules do not allow the change: a defect of ours.
    #[error("{0}")]
    Rule(String),
    /// The disk, or the file on it.
    #[error("the ledger's file: {0}")]
    Io(String),
    /// A change panicked: a defect of ours.
    #[error("a change to the ledger died: {0}")]
    Died(String),
    /// The writer was cut off; whether the change happened is not known.
    #[error("the ledger's writer was cut off")]
    Writer,
}

macro_rules! io_error {
    ($($ty:ty),*) => {$(
        impl From<$ty> for LedgerError {
            fn from(error: $ty) -> Self {
                Self::Io(error.to_string())
            }
        }
    )*};
}

// Every one of these is the disk or the file, whatever was being done.
io_error!(
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError,
    redb::SetDurabilityError,
    io::Error
);

impl From<crate::core::lease::Misstep> for LedgerError {
    fn from(error: crate::core::lease::Misstep) -> Self {
        Self::Rule(error.to_string())
    }
}

impl From<crate::core::payment::Forbidden> for LedgerError {
    fn from(error: crate::core::payment::Forbidden) -> Self {
        Self::Rule(error.to_string())
    }
}

/// The open ledger; cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    writer: Arc<Writer>,
    lock: Arc<File>,
}

/// A ledger that this does not keep open.
#[derive(Clone)]
pub struct WeakLedger {
    writer: Weak<Writer>,
    lock: Weak<File>,
}

impl WeakLedger {
    /// The ledger, while somebody has it open.
    pub fn upgrade(&self) -> Option<Ledger> {
        Some(Ledger {
            writer: self.writer.upgrade()?,
            lock: self.lock.upgrade()?,
        })
    }
}

impl Ledger {
    /// The same, for those who must not keep it open.
    pub fn downgrade(&self) -> WeakLedger {
        WeakLedger {
            writer: Arc::downgrade(&self.writer),
            lock: Arc::downgrade(&self.lock),
        }
    }

    /// Opens the ledger in `dir`, makes it where there is none, brings an older
    /// one up to date. The file is readable by its owner alone: it holds tokens.
    ///
    /// # Errors
    /// In use by another process, too new, or the disk.
    pub fn open(dir: &Path) -> Result<Self, LedgerError> {
        std::fs::create_dir_all(dir)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(dir.join("satletd.lock"))?;
        lock.try_lock().map_err(|error| match error {
            std::fs::TryLockError::WouldBlock => LedgerError::Locked(dir.display().to_string()),
            std::fs::TryLockError::Error(error) => error.into(),
        })?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(dir.join(FILE))?;
        let db = Database::builder()
            .set_cache_size(CACHE)
            .create_file(file)
            .map_err(|error| {
                let path = dir.join(FILE);
                LedgerError::Io(format!(
                    "{} cannot be opened ({error}); nothing was changed. Put back a copy, or move it aside: leases are then rebuilt from their workloads",
                    path.display()
                ))
            })?;
        migrate::up_to_date(&db)?;
        Ok(Self {
            writer: Arc::new(Writer::new(db)?),
            lock: Arc::new(lock),
        })
    }

    /// Carries out `change` and commits it, durably, together with others that
    /// come at the same time. Changes are one after the other, in the order in
    /// which they come. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// What `change` returns, or the disk; then nothing has changed.
    pub async fn write<T, F>(&self, change: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T, LedgerError> + Send + 'static,
    {
        self.writer.write(change).await
    }

    /// A consistent look at everything, as of now. Quick: it reads memory or
    /// the page cache.
    ///
    /// # Errors
    /// What `look` returns, or the disk.
    pub fn read<T>(
        &self,
        look: impl FnOnce(&Reader) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        look(&self.writer.read()?)
    }

    /// Up to `limit` messages of the outbox that are due at `now`, by key, first
    /// those that have waited longest, but for those that `skip` is true of; it
    /// is asked with a key and how many relays that message names.
    pub fn due(
        &self,
        now: Timestamp,
        limit: usize,
        skip: impl FnMut(&str, usize) -> bool,
    ) -> Vec<String> {
        self.writer.views(|views| views.due(now, limit, skip))
    }

    /// Has `watch` told of every commit with changes: the tables that it changes,
    /// and `false` before it, `true` after it. For tests; the first one stays.
    pub fn watch(&self, watch: impl Fn(&[&str], bool) + Send + Sync + 'static) {
        self.writer.watch(Box::new(watch));
    }

    /// When the next message of the outbox is due, if any waits.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.writer.views(views::Views::next_due)
    }

    /// What the leases hold that are not archived.
    pub fn held(&self) -> Vec<Held> {
        self.writer.views(views::Views::held)
    }

    /// The same, as a change sees it.
    ///
    /// # Errors
    /// A row cannot be read.
    pub fn held_in(&self, tx: &Tx<'_>) -> Result<Vec<Held>, LedgerError> {
        self.writer.views(|views| views.held_in(tx))
    }

    /// Keys of the leases, over or not, with a refund whose token is out.
    pub fn with_refunds_out(&self) -> Vec<String> {
        self.writer.views(views::Views::refunds_out)
    }

    /// Keys of an owner's leases that are over and have credit at this mint and
    /// unit.
    pub fn credits_of(&self, owner: &PublicKey, purse: &Purse) -> Vec<String> {
        self.writer.views(|views| views.credits_of(owner, purse))
    }

    /// Credit that lies on leases that are over, in all, by mint and unit; `None`
    /// where a sum does not fit.
    pub fn credits(&self) -> Option<BTreeMap<Purse, Msat>> {
        self.writer.views(views::Views::credits)
    }

    /// An owner's leases: all that are not archived, and of the others that were
    /// paid for the newest, at most `ended`.
    ///
    /// # Errors
    /// A row cannot be read, or the disk.
    pub fn leases_of(&self, owner: &PublicKey, ended: usize) -> Result<Vec<Lease>, LedgerError> {
        let (open, over) = self.writer.views(|views| views.owned(owner, ended));
        self.read(|reader| {
            let mut leases = Vec::with_capacity(open.len() + over.len());
            for key in &open {
                // It may have been archived this moment.
                let lease = match reader.get(&LEASES, key)? {
                    Some(lease) => Some(lease),
                    None => reader.get(&ENDED, key)?,
                };
                leases.extend(lease);
            }
            for key in over.iter().filter(|key| !open.contains(key)) {
                leases.extend(reader.get(&ENDED, key)?);
            }
            Ok(leases)
        })
    }
}
