//! Proofs of our own, and swapping many of them for few.

use std::collections::HashMap;

use cdk::amount::SplitTarget;
use cdk::nuts::{Id, Proofs, State};
use cdk_common::wallet::ProofInfo;

use super::WalletError;
use super::account::{Account, points};
use super::errors::{maybe_sent, nothing_sent, store};
use crate::core::money::Msat;
use crate::core::purse::{Merge, Piece};

impl Account {
    /// The proofs that can be spent here.
    pub(super) async fn pieces(&self) -> Result<Vec<Piece>, WalletError> {
        let held = self
            .store
            .get_proofs(
                Some(self.wallet.mint_url.clone()),
                Some(self.wallet.unit.clone()),
                Some(vec![State::Unspent]),
                None,
            )
            .await
            .map_err(store)?;
        if held.is_empty() {
            return Ok(Vec::new());
        }
        let keysets = self.keysets().await?;
        let known: HashMap<Id, (u64, bool)> = keysets
            .into_iter()
            .map(|keyset| (keyset.id, (keyset.input_fee_ppk, keyset.active)))
            .collect();
        let mut pieces = Vec::with_capacity(held.len());
        for one in held {
            // A keyset that the mint does not list: it can tell when it does again.
            let Some((ppk, active)) = known.get(&one.proof.keyset_id).copied() else {
                continue;
            };
            pieces.push(Piece {
                y: one.y.to_hex(),
                amount: self.msat(one.proof.amount)?,
                ppk,
                active,
            });
        }
        Ok(pieces)
    }

    /// Swaps these proofs for as few as can be, unless that was done before.
    pub(super) async fn merge(&self, merge: &Merge) -> Result<Msat, WalletError> {
        let mut held = self.held(merge).await?;
        if held.iter().any(|one| !is_settled(one.state)) {
            // An earlier try was cut off.
            self.settle().await?;
        }
        self.resync().await?;
        held = self.held(merge).await?;
        if held.iter().any(|one| !is_settled(one.state)) {
            return Err(WalletError::OutcomeUnknown(
                "the proofs are in an operation that is not over".to_owned(),
            ));
        }
        held.retain(|one| one.state == State::Unspent);
        if held.is_empty() {
            return Ok(merge.fee);
        }
        if held.len() != merge.ys.len() {
            return Err(WalletError::Refused(
                "some of the proofs were spent otherwise".to_owned(),
            ));
        }
        let proofs: Proofs = held.into_iter().map(|one| one.proof).collect();
        let fee = self.wallet.get_proofs_fee(&proofs).await;
        let fee = self.msat(fee.map_err(|error| nothing_sent(&error))?.total)?;
        self.knock().await.map_err(WalletError::MintDown)?;
        let before = self.sent.count();
        // An amount that is never reached: in powers of two, and few of them.
        let few = SplitTarget::Value(u64::MAX.into());
        let swap = self.wallet.swap(None, few, proofs, None, false, false);
        let Err(error) = swap.await else {
            return Ok(fee);
        };
        let sent = self.sent.count() > before;
        // What was begun and not sent is undone, and what was sent is found out.
        self.settle().await?;
        Err(if sent {
            maybe_sent(&error)
        } else {
            nothing_sent(&error)
        })
    }

    /// What the store has of these proofs, in whatever state.
    async fn held(&self, merge: &Merge) -> Result<Vec<ProofInfo>, WalletError> {
        let ys = points(&merge.ys)?;
        let held = self.store.get_proofs_by_ys(ys).await.map_err(store)?;
        Ok(held.into_iter().filter(|one| self.has(one)).collect())
    }

    fn has(&self, one: &ProofInfo) -> bool {
        one.mint_url == self.wallet.mint_url && one.unit == self.wallet.unit
    }
}

/// Whether no operation of ours holds a proof in this state.
fn is_settled(state: State) -> bool {
    matches!(state, State::Unspent | State::Spent)
}
