//! Paying invoices at one mint.
//!
//! A melt takes proofs that are worth exactly the amount, the reserve and their
//! own fee: they are made in a swap before, so that what a pending payment holds
//! is what it may cost and no more. The melt itself is sent once for a quote. cdk
//! writes its saga before; where an answer is lost, the mint is asked about the
//! quote.
//!
//! Where cdk takes a payment for failed it sets the proofs free. The request may
//! have reached the mint after all, so they are in doubt until the mint is asked
//! about each (`resync`).

use std::collections::HashMap;

use cdk::Amount;
use cdk::amount::SplitTarget;
use cdk::nuts::{Id, MeltQuoteState, PaymentMethod, Proofs, ProofsMethods, PublicKey, State};
use cdk::wallet::{MeltConfirmOptions, MeltOutcome};
use cdk_common::wallet::{
    MeltSagaState, OperationData, Transaction, TransactionDirection, TransactionStatus, WalletSaga,
    WalletSagaState,
};

use super::WalletError;
use super::account::Account;
use super::errors::{maybe_sent, nothing_sent, store, words};
use super::outgoing::{Melt, MeltQuote};
use super::token::MAX_PROOFS;
use super::transport::knock;
use crate::core::money::Msat;
use crate::core::time::Timestamp;

impl Account {
    /// Asks the mint what paying this invoice takes.
    pub(super) async fn melt_quote(&self, bolt11: &str) -> Result<MeltQuote, WalletError> {
        self.issues().await?;
        let quote = self
            .wallet
            .melt_quote(PaymentMethod::BOLT11, bolt11, None, None)
            .await
            .map_err(|error| nothing_sent(&error))?;
        let needed = sum([quote.amount.into(), quote.fee_reserve.into()])?;
        let (target, id) = self.target(needed).await?;
        let (inputs, swap) = match self.select(target, id).await {
            Ok(inputs) => inputs,
            // Too little for it: what all of it would cost.
            Err(_) => {
                let all = self.wallet.get_unspent_proofs().await.map_err(store)?;
                let fee = self.fee_of(&all).await?;
                (all, fee)
            }
        };
        let twice = if inputs.len() > MAX_PROOFS { 2 } else { 1 };
        let fees = (target - needed).saturating_add(swap.saturating_mul(twice));
        Ok(MeltQuote {
            amount: self.msat(quote.amount)?,
            reserve: self.msat(quote.fee_reserve)?,
            fees: self.msat(fees.into())?,
            expires_at: Timestamp::from_secs(quote.expiry),
            id: quote.id,
        })
    }

    /// Pays the invoice of a quote, once; at most `most` leaves the wallet.
    pub(super) async fn melt(&self, quote: &str, most: Msat) -> Result<Melt, WalletError> {
        if self.melted(quote).await?.is_some() || self.melt_saga(quote).await?.is_some() {
            return Err(WalletError::OutcomeUnknown(
                "it is being paid already".to_owned(),
            ));
        }
        let known = self.store.get_melt_quote(quote).await.map_err(store)?;
        let known = known.ok_or_else(|| WalletError::Refused("no such quote".to_owned()))?;
        self.resync().await?;
        self.issues().await?;
        let url = self
            .wallet
            .mint_url
            .join_paths(&["v1", "melt", "bolt11"])
            .map_err(store)?;
        knock(&url, self.timeout)
            .await
            .map_err(WalletError::MintDown)?;
        let needed = sum([known.amount.into(), known.fee_reserve.into()])?;
        let proofs = self.exact(needed, most).await?;
        let prepared = self
            .wallet
            .prepare_melt_proofs(quote, proofs, HashMap::new())
            .await
            .map_err(|error| nothing_sent(&error))?;
        if let Some(saga) = self.melt_saga(quote).await? {
            self.doubt(std::slice::from_ref(&saga)).await?;
        }
        self.sent.expect_melt();
        // The transport takes out that it should be answered early.
        let confirmed = prepared
            .confirm_prefer_async_with_options(MeltConfirmOptions::skip_swap())
            .await;
        match confirmed {
            Ok(MeltOutcome::Paid(paid)) => Ok(Melt::Paid {
                amount: self.msat(paid.amount())?,
                fee: self.msat(paid.fee_paid())?,
                preimage: preimage(paid.payment_proof()),
            }),
            Ok(MeltOutcome::Pending(_)) if self.sent.melt_was_answered() => Ok(Melt::Pending),
            // Neither the melt nor cdk's question about it was answered.
            Ok(MeltOutcome::Pending(_)) => self.after_doubt(quote, "no answer".to_owned()).await,
            Err(error) => self.after_doubt(quote, words(&error)).await,
        }
    }

    /// What is known right after a melt that did not say that it is paid.
    async fn after_doubt(&self, quote: &str, why: String) -> Result<Melt, WalletError> {
        let answered = self.sent.melt_was_answered();
        match self.melt_state(quote).await {
            Ok(Melt::NotPaid(_)) if answered => Ok(Melt::NotPaid(why)),
            Ok(Melt::NotPaid(_)) | Err(_) => Err(WalletError::OutcomeUnknown(why)),
            Ok(known) => Ok(known),
        }
    }

    /// What became of the melt of a quote, by asking; it never melts.
    pub(super) async fn melt_state(&self, quote: &str) -> Result<Melt, WalletError> {
        if self.melt_saga(quote).await?.is_some() {
            self.settle_melts().await?;
        }
        let done = self.melted(quote).await?;
        if let Some(tx) = &done
            && tx.status == TransactionStatus::Completed
        {
            return Ok(Melt::Paid {
                amount: self.msat(tx.amount)?,
                fee: self.msat(tx.fee)?,
                preimage: preimage(tx.payment_proof.as_deref()),
            });
        }
        let told = self
            .client
            .get_melt_quote_status(PaymentMethod::BOLT11, quote)
            .await
            .map_err(|error| nothing_sent(&error))?;
        if self.melt_saga(quote).await?.is_some() {
            return Ok(Melt::Pending);
        }
        let ys = done.as_ref().map(|tx| tx.ys.clone()).unwrap_or_default();
        match told.state() {
            MeltQuoteState::Paid => self.late_payment(done, told.amount()).await,
            MeltQuoteState::Pending | MeltQuoteState::Unknown => Ok(Melt::Pending),
            MeltQuoteState::Unpaid | MeltQuoteState::Failed => {
                self.resync_of(ys).await?;
                Ok(Melt::NotPaid("it was not paid".to_owned()))
            }
        }
    }

    /// A payment that was taken for failed here, and yet the mint made it: its
    /// request came late. The proofs are gone, and what was left is restored.
    async fn late_payment(
        &self,
        done: Option<Transaction>,
        amount: Amount,
    ) -> Result<Melt, WalletError> {
        let mut fee = Amount::ZERO;
        if let Some(mut tx) = done {
            let inputs = self.store.get_proofs_by_ys(tx.ys.clone()).await;
            let inputs = inputs.map_err(store)?.into_iter().map(|info| info.proof);
            let inputs: Proofs = inputs.collect();
            let gave = inputs.total_amount().map_err(store)?;
            self.store
                .update_proofs_state(tx.ys.clone(), State::Spent)
                .await
                .map_err(store)?;
            let before = self.wallet.total_balance().await.map_err(store)?;
            self.restore().await?;
            let after = self.wallet.total_balance().await.map_err(store)?;
            let back = after.checked_sub(before).unwrap_or_default();
            let cost = gave.checked_sub(back).unwrap_or_default();
            fee = cost.checked_sub(amount).unwrap_or_default();
            tx.status = TransactionStatus::Completed;
            tx.fee = fee;
            self.store.add_transaction(tx).await.map_err(store)?;
        }
        Ok(Melt::Paid {
            amount: self.msat(amount)?,
            fee: self.msat(fee)?,
            preimage: None,
        })
    }

    /// Ends the melts that were begun, as far as the mint says what became of
    /// them. Gives how many are still open.
    pub(super) async fn settle_melts(&self) -> Result<usize, WalletError> {
        let open = self.melt_sagas().await?;
        if open.is_empty() {
            return Ok(0);
        }
        self.doubt(&open).await?;
        if open.iter().any(|saga| !in_flight(saga)) {
            // One that was cut off before it was sent.
            self.wallet
                .recover_incomplete_sagas()
                .await
                .map_err(store)?;
        } else {
            self.wallet.finalize_pending_melts().await.map_err(store)?;
        }
        self.resync().await?;
        Ok(self.melt_sagas().await?.len())
    }

    pub(super) async fn melt_sagas(&self) -> Result<Vec<WalletSaga>, WalletError> {
        let sagas = self.sagas().await?.into_iter();
        let melts = sagas.filter(|saga| matches!(saga.state, WalletSagaState::Melt(_)));
        Ok(melts.collect())
    }

    async fn melt_saga(&self, quote: &str) -> Result<Option<WalletSaga>, WalletError> {
        let sagas = self.melt_sagas().await?.into_iter();
        let of = |saga: &WalletSaga| matches!(&saga.data, OperationData::Melt(data) if data.quote_id == quote);
        Ok(sagas.into_iter().find(of))
    }

    /// What the books say of the melt of a quote.
    async fn melted(&self, quote: &str) -> Result<Option<Transaction>, WalletError> {
        let outgoing = self
            .wallet
            .list_transactions(Some(TransactionDirection::Outgoing))
            .await
            .map_err(store)?;
        let mut of = outgoing
            .into_iter()
            .filter(|tx| tx.quote_id.as_deref() == Some(quote));
        Ok(of.next())
    }

    /// Proofs that are worth `needed` after the fee for them, of the active
    /// keyset; made by a swap where there are none such.
    async fn exact(&self, needed: u64, most: Msat) -> Result<Proofs, WalletError> {
        let (target, id) = self.target(needed).await?;
        let too_dear = |cost: u64| {
            let need = self.msat(cost.into())?;
            if need > most {
                return Err(WalletError::NoBalance { have: most, need });
            }
            Ok(())
        };
        too_dear(target)?;
        let there = self.wallet.get_unspent_proofs().await.map_err(store)?;
        if let Some(proofs) = pick(&there, target, id) {
            return Ok(proofs);
        }
        let (mut inputs, mut fee) = self.select(target, id).await?;
        if inputs.len() > MAX_PROOFS {
            // More than a mint may take at once.
            too_dear(sum([target, fee, fee])?)?;
            self.consolidate(MAX_PROOFS).await?;
            (inputs, fee) = self.select(target, id).await?;
        }
        too_dear(sum([target, fee])?)?;
        let pieces = bits(target).map(Amount::from).collect();
        self.wallet
            .swap(
                None,
                SplitTarget::Values(pieces),
                inputs,
                None,
                false,
                false,
            )
            .await
            .map_err(|error| maybe_sent(&error))?;
        let there = self.wallet.get_unspent_proofs().await.map_err(store)?;
        let proofs = pick(&there, target, id);
        proofs.ok_or_else(|| WalletError::Store("the swapped proofs are missing".to_owned()))
    }

    /// Proofs of which `target` is left after a swap, and the fee of that.
    async fn select(&self, target: u64, id: Id) -> Result<(Proofs, u64), WalletError> {
        let have = self.balance().await?;
        let fees = self.wallet.get_keyset_fees_and_amounts().await;
        let fees = fees.map_err(|error| nothing_sent(&error))?;
        let there = self.wallet.get_unspent_proofs().await.map_err(store)?;
        let selected = cdk::Wallet::select_proofs(target.into(), there, &vec![id], &fees, true);
        let need = self.msat(target.into())?;
        match selected {
            Ok(inputs) => {
                let fee = self.fee_of(&inputs).await?;
                Ok((inputs, fee))
            }
            Err(cdk::Error::InsufficientFunds) => Err(WalletError::NoBalance { have, need }),
            Err(error) => Err(nothing_sent(&error)),
        }
    }

    async fn fee_of(&self, proofs: &Proofs) -> Result<u64, WalletError> {
        let fee = self.wallet.get_proofs_fee(proofs).await;
        Ok(fee.map_err(|error| nothing_sent(&error))?.total.into())
    }

    /// The face of proofs that are worth `needed` after their own fee, and the
    /// keyset that they are of.
    async fn target(&self, needed: u64) -> Result<(u64, Id), WalletError> {
        let active = self.wallet.active_keyset().await;
        let id = active.map_err(|error| nothing_sent(&error))?.id;
        let keysets = self.keysets().await?;
        let ppk = keysets.iter().find(|keyset| keyset.id == id);
        let ppk = ppk.map_or(0, |keyset| keyset.input_fee_ppk);
        face(needed, ppk)
            .map(|face| (face, id))
            .ok_or_else(|| WalletError::Store("an amount is too large".to_owned()))
    }

    /// Asks the mint about those of these proofs that look unspent here.
    async fn resync_of(&self, ys: Vec<PublicKey>) -> Result<(), WalletError> {
        if ys.is_empty() {
            return Ok(());
        }
        let held = self.store.get_proofs_by_ys(ys).await.map_err(store)?;
        let free = held
            .into_iter()
            .filter(|proof| proof.state == State::Unspent);
        let (spent, _) = self.spent_of(free.map(|proof| proof.y).collect()).await?;
        self.store
            .update_proofs_state(spent, State::Spent)
            .await
            .map_err(store)
    }
}

/// Whether a melt was sent, or may have been.
pub(super) fn in_flight(saga: &WalletSaga) -> bool {
    matches!(
        saga.state,
        WalletSagaState::Melt(MeltSagaState::MeltRequested | MeltSagaState::PaymentPending)
    )
}

fn preimage(told: Option<&str>) -> Option<String> {
    told.filter(|text| !text.is_empty()).map(str::to_owned)
}

fn sum<const N: usize>(parts: [u64; N]) -> Result<u64, WalletError> {
    let sum = parts
        .into_iter()
        .try_fold(0u64, |sum, part| sum.checked_add(part));
    sum.ok_or_else(|| WalletError::Store("an amount is too large".to_owned()))
}

fn bits(amount: u64) -> impl Iterator<Item = u64> {
    let bits = (0..u64::BITS).map(|bit| 1u64 << bit);
    bits.filter(move |piece| amount & piece != 0)
}

/// The least face in powers of two that leaves `needed` after the fee for its
/// proofs (NUT-02); `None` on overflow.
fn face(needed: u64, ppk: u64) -> Option<u64> {
    let mut fee = 0;
    loop {
        let face = needed.checked_add(fee)?;
        let due = ppk.checked_mul(face.count_ones().into())?.div_ceil(1000);
        if due <= fee {
            return Some(face);
        }
        fee = due;
    }
}

/// One proof of each piece of `target`, of this keyset, if all are there.
fn pick(there: &Proofs, target: u64, id: Id) -> Option<Proofs> {
    let mut left: Vec<_> = there.iter().filter(|proof| proof.keyset_id == id).collect();
    bits(target)
        .map(|piece| {
            let at = left
                .iter()
                .position(|proof| u64::from(proof.amount) == piece)?;
            Some(left.swap_remove(at).clone())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_face_leaves_what_is_needed_after_its_fee() {
        assert_eq!(face(1000, 0), Some(1000));
        // 1000 is six pieces, and 1001 seven.
        assert_eq!(face(1000, 100), Some(1001));
        // 1023 is ten pieces and costs 1, but with it 1024 is one piece.
        assert_eq!(face(1023, 100), Some(1024));
        for ppk in [0, 1, 100, 999, 1000, 5000] {
            for needed in 1..3000 {
                let face = face(needed, ppk).unwrap();
                let fee = (ppk * u64::from(face.count_ones())).div_ceil(1000);
                assert!(face - fee >= needed, "{needed} at {ppk}");
                assert!(face - needed <= ppk * 13, "{needed} at {ppk}");
            }
        }
        assert_eq!(face(u64::MAX, 100), None);
    }
}
