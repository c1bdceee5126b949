//! Keys that providers lock refunds to, so that who reads a refund on its way has
//! nothing of it. Each request has a key of its own, from the wallet's seed and a
//! number that counts up (`refund-keys.json`); a token says which key opens it.

use std::time::Duration;

use super::client::Client;
use super::error::ClientError;
use super::files::{self, Lock};
use super::purse::Session;
use crate::core::payment::lock::{Conditions, LockKey};
use crate::wallet::{Redeemed, TokenInfo, Wallet, WalletError};

/// The file with the number that the next key has.
const FILE: &str = "refund-keys.json";
/// How long to wait for another process that takes a number.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// Where the file is lost, keys beyond it that are tried for a token.
const BEYOND: u64 = 100;

impl Client {
    /// The key that refunds for the request that is being made are to be locked
    /// to. `None`: not wanted, or it cannot be had now; then they are not locked,
    /// which is no reason not to ask.
    pub(super) async fn refund_key(&self) -> Option<LockKey> {
        if self.no_lock {
            return None;
        }
        match self.next_refund_key().await {
            Ok(key) => Some(key),
            Err(error) => {
                tracing::warn!(message = error.message, "refunds are not locked to us");
                None
            }
        }
    }

    async fn next_refund_key(&self) -> Result<LockKey, ClientError> {
        let session = self.wallet().await?;
        let lock = Lock::within(&self.home.path("refund-keys.lock"), LOCK_WAIT).await?;
        let _lock = lock.ok_or_else(|| ClientError::internal("refund-keys.lock is held"))?;
        let next = self.refund_keys_drawn()?;
        files::write_json(&self.home.path(FILE), &next.saturating_add(1))?;
        Ok(session.wallet().claim_key(next)?)
    }

    /// How many keys were drawn; at least that many where the file is lost, since
    /// no request draws more than one.
    fn refund_keys_drawn(&self) -> Result<u64, ClientError> {
        if let Some(next) = files::read_json::<u64>(&self.home.path(FILE))? {
            return Ok(next);
        }
        let requests = self.records.requests()?.len();
        Ok(u64::try_from(requests).unwrap_or(u64::MAX))
    }

    /// Redeems a token of somebody else: one that is locked to a key of ours with
    /// that key. The caller has asked what became of it before.
    pub(super) async fn redeem(
        &self,
        session: &Session,
        info: &TokenInfo,
        token: &str,
    ) -> Result<Redeemed, WalletError> {
        let wallet = session.wallet();
        match self.opens(wallet, &info.locks)? {
            Some(index) => wallet.claim(info.payment, token, index).await,
            None => wallet.redeem(info.payment, token).await,
        }
    }

    /// The number of our key that a token is locked to; the newest are tried
    /// first. `None`: none is, or it is not locked.
    fn opens(
        &self,
        wallet: &dyn Wallet,
        locks: &[Option<Conditions>],
    ) -> Result<Option<u64>, WalletError> {
        let Some(stated) = locks.iter().flatten().next() else {
            return Ok(None);
        };
        let drawn = self.refund_keys_drawn();
        let drawn = drawn.map_err(|error| WalletError::Store(error.message))?;
        let all = drawn.saturating_add(BEYOND);
        for index in (0..all).rev() {
            if wallet.claim_key(index)?.as_str() == stated.data {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }
}
