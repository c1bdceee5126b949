//! Making a refund: owed on disk, then a token from the wallet, then the books;
//! as in `src/provider/steps/refund.rs`.
//!
//! What becomes of it then is in [`after`](super::after).

use satlet::core::lease::{Lease, Refund};
use satlet::core::money::Msat;

use super::mint::{Op, Purse, Sent, WalletError};
use super::oracle;
use super::steps::Taken;
use super::world::{MINT, OPERATION, Reply, State, World};

/// Proofs that a refund is assumed to be made from.
const ASSUMED_PROOFS: u64 = 10;

fn purse(refund: &Refund) -> Purse {
    Purse::read(&refund.mint, &refund.unit)
}

/// A refund's place among its lease's.
fn place(lease: &Lease, id: &str) -> usize {
    let found = lease.refunds.iter().position(|refund| refund.id == id);
    found.unwrap_or(usize::MAX)
}

impl World {
    pub(super) async fn make_refund(&self, lease: &Lease, id: &str) -> Taken {
        let Some(refund) = lease.refunds.iter().find(|refund| refund.id == id) else {
            return Taken::TryLater;
        };
        let sent = match self.amount(refund).await {
            Ok(0) => Err(WalletError::TooSmall),
            Ok(msat) => {
                self.with(|s| oracle::before_send(s, &lease.id, id));
                self.send(purse(refund), msat).await
            }
            Err(error) => Err(error),
        };
        match sent {
            Ok(sent) => self.book(lease, id, sent).await,
            Err(WalletError::TooSmall) => self.credit(lease, id).await,
            Err(WalletError::NoBalance { have }) => self.divide(lease, refund, have).await,
            Err(_) => Taken::TryLater,
        }
    }

    /// What the mint's fee is assumed to be, in msat.
    async fn assumed_fee(&self, purse: Purse) -> Result<u64, WalletError> {
        let asked = self.ask(MINT, |s| {
            let fee = s.money.input_fee(purse, ASSUMED_PROOFS);
            (!s.money.down[purse.mint]).then_some(fee)
        });
        asked.await.flatten().ok_or(WalletError::MintDown)
    }

    /// The face of the token in msat; 0 if nothing is left.
    async fn amount(&self, refund: &Refund) -> Result<u64, WalletError> {
        let (purse, owed) = (purse(refund), refund.owed.get());
        if self.rules.is_our_fault(refund.our_fault) {
            return Ok(owed.div_ceil(purse.piece) * purse.piece);
        }
        let fee = self.assumed_fee(purse).await?;
        let whole = owed / purse.piece * purse.piece;
        Ok(whole.saturating_sub(fee))
    }

    async fn send(&self, purse: Purse, msat: u64) -> Result<Sent, WalletError> {
        let inputs = self.with(|s| s.rng.within(1, ASSUMED_PROOFS));
        let op = Op::Send {
            purse,
            msat,
            inputs,
        };
        match self.act(OPERATION, op).await {
            Some(Reply::Sent(sent)) => sent,
            _ => Err(WalletError::OutcomeUnknown),
        }
    }

    async fn book(&self, lease: &Lease, id: &str, sent: Sent) -> Taken {
        let (n, rules) = (place(lease, id), self.rules);
        self.change(&lease.id, false, |s, lease| {
            let token = sent.token.text();
            let now = s.now();
            let booked = rules.made(lease, id, token, sent.face, sent.fee, now);
            booked.ok_or_else(|| format!("refund {id} is not owed"))?;
            oracle::booked(s, &sent.token);
            s.seen.insert("a refund was made");
            let raised = s.money.raised[sent.purse.mint];
            s.meter(&lease.id).made(n, sent.face, sent.fee, raised)
        })
        .await;
        Taken::Done
    }

    async fn credit(&self, lease: &Lease, id: &str) -> Taken {
        let (n, rules) = (place(lease, id), self.rules);
        self.change(&lease.id, false, |s: &mut State, lease| {
            let booked = rules.credited(lease, id);
            booked.ok_or_else(|| format!("refund {id} is not owed"))?;
            s.seen.insert("a refund became credit");
            s.meter(&lease.id).credited(n)
        })
        .await;
        Taken::Done
    }

    /// The purse is short: what it can give is given at once.
    async fn divide(&self, lease: &Lease, refund: &Refund, have: u64) -> Taken {
        let purse = purse(refund);
        let Ok(fee) = self.assumed_fee(purse).await else {
            return Taken::TryLater;
        };
        let part = (have / purse.piece * purse.piece).saturating_sub(fee);
        let owed = refund.owed.get();
        if part <= owed / 2 || part >= owed {
            return Taken::TryLater;
        }
        let (n, id) = (place(lease, &refund.id), &refund.id);
        self.change(&lease.id, false, |s, lease| {
            let split = lease.refund_split(id, Msat::new(part));
            split.ok_or_else(|| format!("refund {id} is not owed"))?;
            s.seen.insert("a refund was split");
            s.meter(&lease.id).split(n, part)
        })
        .await;
        Taken::Done
    }

    /// What a mutant does: a token for what an end would owe, before it is owed.
    pub(super) async fn send_unowed(&self, lease: &Lease) {
        let Some((mint, unit)) = &lease.purse else {
            return;
        };
        let now = self.with(|s| s.now());
        let left = lease.unserved_seconds(super::rules::at(now));
        let msat = left * lease.tier.rate_msat_per_s;
        let id = format!("{}-{}", lease.id, lease.refunds.len() + 1);
        self.with(|s| oracle::before_send(s, &lease.id, &id));
        drop(self.send(Purse::read(mint, unit), msat).await);
    }
}
