//! Tokens that are locked to a provider (NUT-11): made of plain ones, in a way
//! that a crash or a lost answer cannot lose, and taken back after their
//! locktime.

use super::choice::Way;
use super::client::{Client, now};
use super::error::{ClientError, Kind};
use super::purse::{Landed, Session, Unwritten, paid_by};
use super::records::{Paid, SavedLock};
use crate::core::money::Msat;
use crate::core::payment::hash_lock::LockHash;
use crate::core::payment::lock::LockKey;
use crate::core::time::Timestamp;
use crate::wallet::{LockTo, ProofsState, RedemptionState, Unit, WalletError, face_for};

/// How often a mint is asked again for a locked token whose answer was lost.
const LOCK_ATTEMPTS: usize = 3;

/// To whom a token is locked, and until when.
#[derive(Clone, Debug)]
pub(super) struct Locking {
    pub(super) key: LockKey,
    pub(super) until: Timestamp,
    /// A hash that it is locked to besides.
    pub(super) hash: Option<LockHash>,
}

impl Client {
    /// Makes a locked token; a plain one at a mint that keeps no locks, where a
    /// lock is worth nothing.
    pub(super) async fn make_locked_if_kept(
        &self,
        session: &Session,
        way: &Way,
        lock: &Locking,
    ) -> Result<(Paid, Unwritten), ClientError> {
        let facts = session.wallet().facts(&way.mint).await?;
        if lock.hash.is_some() && !facts.hash_locks {
            return Err(ClientError::new(
                Kind::Payment,
                "no_hash_locks",
                format!("the mint {} does not keep locks to a hash", way.mint.0),
                "Use ecash of another mint that all of the providers accept.",
            ));
        }
        if facts.locks {
            self.make_locked(way, facts.input_fee_ppk, lock).await
        } else {
            self.make_plain(way).await
        }
    }

    /// Makes a token that is locked to the provider, worth the way's amount to
    /// it. It is made of a plain one, and what turns it into the locked one is
    /// written down in between.
    async fn make_locked(
        &self,
        way: &Way,
        fee_ppk: u64,
        lock: &Locking,
    ) -> Result<(Paid, Unwritten), ClientError> {
        let face = face_with_fee(way, fee_ppk).ok_or(WalletError::TooSmall)?;
        let (plain, mut unwritten) = self.make_token(&way.mint, &way.unit, face, true).await?;
        let saved = {
            let hash = lock.hash.as_ref();
            self.records
                .new_lock(&lock.key, lock.until, hash, &plain.token)?
        };
        unwritten.lock = Some(self.records.lock_path(saved.to.index));
        let session = self.wallet().await?;
        let mut left = LOCK_ATTEMPTS;
        loop {
            left -= 1;
            match session.wallet().lock(&plain.token, &saved.to).await {
                Ok(sent) => return Ok((paid_by(sent, Some(saved.to)), unwritten)),
                Err(WalletError::OutcomeUnknown(_)) if left > 0 => {}
                // What is written down stays for the next opening.
                Err(error @ WalletError::OutcomeUnknown(_)) => return Err(error.into()),
                Err(error) => {
                    if put_back_plain(&session, &saved).await.is_ok() {
                        unwritten.written();
                    }
                    return Err(error.into());
                }
            }
        }
    }

    /// Finds out about tokens that were being locked just before a crash. What
    /// cannot be found out now is looked at again next time.
    pub(super) async fn end_locks(&self, session: &Session) -> Result<(), ClientError> {
        let wallet = session.wallet();
        for mut lock in self.records.locks()? {
            if lock.locked.is_some() {
                continue;
            }
            if self.records.is_sent(lock.to.index)? {
                self.records.remove_lock(lock.to.index)?;
                continue;
            }
            let spent = match wallet.check(&lock.plain).await {
                Ok(ProofsState::Unspent) => put_back_plain(session, &lock).await,
                Ok(ProofsState::Spent) => Err(WalletError::Spent),
                Ok(ProofsState::Pending) => continue,
                Err(error) => Err(error),
            };
            let locked = match spent {
                Ok(()) => {
                    self.records.remove_lock(lock.to.index)?;
                    continue;
                }
                Err(WalletError::Spent) => wallet.lock(&lock.plain, &lock.to).await,
                Err(error) => Err(error),
            };
            match locked {
                Ok(sent) => {
                    lock.locked = Some(paid_by(sent, Some(lock.to.clone())));
                    self.records.save_lock(&lock)?;
                }
                // Put back before.
                Err(WalletError::Spent) => self.records.remove_lock(lock.to.index)?,
                Err(error) => tracing::warn!(%error, "a locked token is looked at again next time"),
            }
        }
        Ok(())
    }

    /// Takes tokens back that were locked and never sent, once that is possible;
    /// the sum that came in.
    pub(super) async fn unlock_unsent(&self) -> Result<Msat, ClientError> {
        let mut sum = Msat::ZERO;
        for lock in self.records.locks()? {
            let Some(paid) = lock.locked.as_ref().filter(|_| now() > lock.to.locktime) else {
                continue;
            };
            match self.put_back(paid).await {
                Landed::Wallet(net) => sum = sum.checked_add(net).unwrap_or(sum),
                Landed::Later(error) => {
                    tracing::debug!(message = error.message, "taken back later");
                    continue;
                }
                Landed::Gone | Landed::Worthless(_) => {}
            }
            self.records.remove_lock(lock.to.index)?;
        }
        Ok(sum)
    }
}

/// Puts the plain token of a lock back, which the mint says is unspent.
async fn put_back_plain(session: &Session, lock: &SavedLock) -> Result<(), WalletError> {
    if let Some(cdk) = session.cdk() {
        match cdk.reclaim(&lock.plain).await {
            // The wallet no longer counts it as sent: as any other token.
            Err(WalletError::Refused(_)) => {}
            done => return done.map(drop),
        }
    }
    let wallet = session.wallet();
    let payment = wallet.inspect(&lock.plain)?.payment;
    match wallet.redemption(payment, &lock.plain).await? {
        RedemptionState::Done(_) => Ok(()),
        RedemptionState::NotDone => wallet.redeem(payment, &lock.plain).await.map(drop),
        RedemptionState::SpentElsewhere => Err(WalletError::Spent),
        RedemptionState::Unknown => Err(WalletError::OutcomeUnknown("asked again later".into())),
    }
}

/// The face of a locked token that leaves the way's amount to its receiver.
fn face_with_fee(way: &Way, fee_ppk: u64) -> Option<Msat> {
    match way.unit {
        Unit::Sat => Msat::from_sat(face_for(fee_ppk, way.amount.whole_sat())),
        Unit::Msat => Some(Msat::new(face_for(fee_ppk, way.amount.get()))),
    }
}

pub(super) fn locked_until(lock: &LockTo) -> ClientError {
    ClientError::new(
        Kind::Payment,
        "locked",
        format!("it is locked to the provider until {}", lock.locktime),
        "Nothing is lost: the first command with money after that takes it back.",
    )
}
