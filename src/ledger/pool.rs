//! The generosity pool, and what we know of keys.

use super::table::Table;
use super::{LedgerError, Reader, Tx};
use crate::core::ids::PublicKey;
use crate::core::pool::{Key, Pool};
use crate::core::time::Timestamp;

/// The pool, under one key.
pub const POOL: Table<Pool> = Table::new("pool");
/// What we know of those who rented, by public key.
pub const KEYS: Table<Key> = Table::new("keys");

const ONE: &str = "pool";

/// The pool, and what is known of `owner`, as of now.
///
/// # Errors
/// A row cannot be read, or the disk.
pub fn pool_of(
    reader: &Reader,
    owner: &PublicKey,
    now: Timestamp,
) -> Result<(Pool, Key), LedgerError> {
    let key = reader.get(&KEYS, &owner.to_hex())?;
    Ok((the_pool(reader)?, key.unwrap_or_else(|| Key::new(now))))
}

/// The pool.
///
/// # Errors
/// The row cannot be read, or the disk.
pub fn the_pool(reader: &Reader) -> Result<Pool, LedgerError> {
    Ok(reader.get(&POOL, ONE)?.unwrap_or_default())
}

/// Changes the pool and what is known of `owner`, as part of a commit. What
/// `change` does not change is not written.
///
/// # Errors
/// What `change` returns, a row that cannot be read, or the disk.
pub fn change_pool<T, E: From<LedgerError>>(
    tx: &Tx<'_>,
    owner: &PublicKey,
    now: Timestamp,
    change: impl FnOnce(&mut Pool, &mut Key) -> Result<T, E>,
) -> Result<T, E> {
    let name = owner.to_hex();
    let pool = tx.get(&POOL, ONE)?.unwrap_or_default();
    let key = tx.get(&KEYS, &name)?.unwrap_or_else(|| Key::new(now));
    let (mut pool_after, mut key_after) = (pool, key);
    let done = change(&mut pool_after, &mut key_after)?;
    if pool_after != pool {
        tx.put(&POOL, ONE, &pool_after)?;
    }
    if key_after != key {
        tx.put(&KEYS, &name, &key_after)?;
    }
    Ok(done)
}
