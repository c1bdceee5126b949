//! Which proofs this wallet has ever begun to redeem. Most that come are new, and
//! to know that must not cost the more the more payments there were before.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use cdk::nuts::PublicKey;
use cdk_common::wallet::TransactionDirection;

use super::WalletError;
use super::account::Account;
use super::errors::store;

/// Eight bytes of each Y; `None`: not read yet. Two Ys that have them in common
/// cost a look at the books.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<Option<HashSet<[u8; 8]>>>);

/// A part of the x coordinate, which is as good as drawn at random.
fn mark(y: &PublicKey) -> [u8; 8] {
    let bytes = y.to_bytes();
    let mut mark = [0; 8];
    for (to, from) in mark.iter_mut().zip(bytes.iter().skip(1)) {
        *to = *from;
    }
    mark
}

impl Account {
    /// Whether the books may say something of a redemption of any of these.
    pub(super) async fn may_have_seen(&self, ys: &[PublicKey]) -> Result<bool, WalletError> {
        if let Some(known) = self.seen.any(ys) {
            return Ok(known);
        }
        let incoming = self
            .wallet
            .list_transactions(Some(TransactionDirection::Incoming))
            .await
            .map_err(store)?;
        let all = incoming.iter().flat_map(|tx| &tx.ys);
        self.seen.add(all);
        Ok(self.seen.any(ys).unwrap_or(true))
    }
}

impl Seen {
    fn any(&self, ys: &[PublicKey]) -> Option<bool> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = seen.as_ref()?;
        Some(ys.iter().any(|y| seen.contains(&mark(y))))
    }

    fn add<'a>(&self, ys: impl IntoIterator<Item = &'a PublicKey>) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get_or_insert_default()
            .extend(ys.into_iter().map(mark));
    }

    /// Notes that redeeming these begins. Before, they have to be asked about.
    pub(super) fn begin(&self, ys: &[PublicKey]) {
        self.add(ys);
    }
}
