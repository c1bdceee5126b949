//! Which of our own proofs are really unspent, after a send was cut off.
//!
//! cdk undoes a cut-off send by setting its proofs free, also where the mint has
//! taken them in a swap, whose outputs the same recovery then restores: the
//! balance would count both, and a token could be made of spent proofs. So the
//! proofs of such sends are written down before the recovery, and the mint is
//! asked about each (NUT-07) before anything is sent again. The same goes for
//! melts: one that is taken for failed may have reached the mint after all.

use std::collections::BTreeSet;

use cdk::nuts::{CheckStateRequest, PublicKey, State};
use cdk_common::wallet::{WalletSaga, WalletSagaState};
use sha2::{Digest, Sha256};

use super::WalletError;
use super::account::{Account, points};
use super::errors::{nothing_sent, store};
use super::token::unit_name;

/// Where doubtful proofs are written down in cdk's key-value table.
const SPACE: (&str, &str) = ("satlet", "resync");

impl Account {
    /// Writes down the proofs that these sagas hold. `true` where there are any.
    pub(super) async fn doubt(&self, sagas: &[WalletSaga]) -> Result<bool, WalletError> {
        let mut held = Vec::new();
        for saga in sagas {
            if matches!(
                saga.state,
                WalletSagaState::Send(_) | WalletSagaState::Swap(_) | WalletSagaState::Melt(_)
            ) {
                let reserved = self.store.get_reserved_proofs(&saga.id).await;
                held.extend(reserved.map_err(store)?);
            }
        }
        self.doubt_these(held.iter().map(|proof| proof.y.to_hex()))
            .await
    }

    /// Writes these down besides. `true` where there are any now.
    pub(super) async fn doubt_these(
        &self,
        more: impl Iterator<Item = String>,
    ) -> Result<bool, WalletError> {
        let mut ys: BTreeSet<String> = self.doubtful().await?.into_iter().collect();
        ys.extend(more);
        if ys.is_empty() {
            return Ok(false);
        }
        self.note_doubtful(&ys).await?;
        Ok(true)
    }

    /// Asks the mint about the proofs in doubt and marks those that are spent.
    ///
    /// # Errors
    /// `MintDown`, `Store`: they are still in doubt.
    pub(super) async fn resync(&self) -> Result<(), WalletError> {
        let doubtful = self.doubtful().await?;
        if doubtful.is_empty() {
            return Ok(());
        }
        let ys = points(&doubtful)?;
        let held = self.store.get_proofs_by_ys(ys).await.map_err(store)?;
        let free = held
            .into_iter()
            .filter(|proof| proof.state == State::Unspent)
            .map(|proof| proof.y);
        let (spent, open) = self.spent_of(free.collect()).await?;
        self.store
            .update_proofs_state(spent, State::Spent)
            .await
            .map_err(store)?;
        if open.is_empty() {
            return self
                .store
                .kv_remove(SPACE.0, SPACE.1, &self.name())
                .await
                .map_err(store);
        }
        self.note_doubtful(&open.iter().map(PublicKey::to_hex).collect())
            .await
    }

    async fn note_doubtful(&self, ys: &BTreeSet<String>) -> Result<(), WalletError> {
        let list = serde_json::to_vec(ys).map_err(store)?;
        self.store
            .kv_write(SPACE.0, SPACE.1, &self.name(), &list)
            .await
            .map_err(store)
    }

    /// Which of these the mint says are spent, and which are in somebody's
    /// unfinished operation.
    pub(super) async fn spent_of(
        &self,
        ys: Vec<PublicKey>,
    ) -> Result<(Vec<PublicKey>, Vec<PublicKey>), WalletError> {
        if ys.is_empty() {
            return Ok((ys, Vec::new()));
        }
        let asked = ys.clone();
        let answer = self
            .client
            .post_check_state(CheckStateRequest { ys })
            .await
            .map_err(|error| nothing_sent(&error))?;
        let of = |wanted: State| -> Vec<PublicKey> {
            let states = answer.states.iter().filter(|told| told.state == wanted);
            let ys = states.map(|told| told.y);
            ys.filter(|y| asked.contains(y)).collect()
        };
        Ok((of(State::Spent), of(State::Pending)))
    }

    async fn doubtful(&self) -> Result<Vec<String>, WalletError> {
        let list = self
            .store
            .kv_read(SPACE.0, SPACE.1, &self.name())
            .await
            .map_err(store)?;
        match list {
            Some(list) => serde_json::from_slice(&list).map_err(store),
            None => Ok(Vec::new()),
        }
    }

    /// The account's key: the table allows no URL.
    pub(super) fn name(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(self.mint.0.as_bytes());
        hash.update(b"\n");
        hash.update(unit_name(&self.unit).as_bytes());
        hex::encode(hash.finalize())
    }
}
