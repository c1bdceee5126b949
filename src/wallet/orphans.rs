//! What an operation took that nobody knows of any more.
//!
//! cdk reserves the proofs that an operation takes in one write and notes the
//! operation (its saga) in a later one. Cut off between them, the proofs stay
//! reserved for something that no recovery finds, and their money is nobody's. So
//! do those that the swap inside a send has made, where it is cut off before the
//! send's note names them. A token is given out after that note, so they are free;
//! all the same the mint is asked about each before it is spent again (`resync`).

use std::collections::BTreeSet;

use cdk::nuts::{PublicKey, State};
use cdk_common::wallet::{OperationData, ProofInfo, WalletSaga};
use uuid::Uuid;

use super::WalletError;
use super::account::{Account, ys_of};
use super::errors::store;

impl Account {
    /// Sets free what is reserved for an operation that left no note. To be called
    /// in the account's turn, when no operation is under way.
    ///
    /// # Errors
    /// `Store`.
    pub(super) async fn free_orphans(&self) -> Result<(), WalletError> {
        let (mint, unit) = (self.wallet.mint_url.clone(), self.wallet.unit.clone());
        let reserved = Some(vec![State::Reserved, State::PendingSpent]);
        let reserved = self
            .store
            .get_proofs(Some(mint), Some(unit), reserved, None);
        let reserved = reserved.await.map_err(store)?;
        if reserved.is_empty() {
            return Ok(());
        }
        let sagas = self.sagas().await?;
        let known: BTreeSet<Uuid> = sagas.iter().map(|saga| saga.id).collect();
        let sent: BTreeSet<PublicKey> = sagas.iter().flat_map(sent_with).collect();
        let is_orphan = |proof: &&ProofInfo| {
            let operation = proof.used_by_operation.as_ref();
            let is_unknown = operation.is_none_or(|operation| !known.contains(operation));
            is_unknown && !sent.contains(&proof.y)
        };
        let orphans: Vec<&ProofInfo> = reserved.iter().filter(is_orphan).collect();
        if orphans.is_empty() {
            return Ok(());
        }
        tracing::info!(mint = %self.mint.0, proofs = orphans.len(), "proofs of an operation that was cut off are free again");
        let ys = orphans.iter().map(|proof| proof.y.to_hex());
        self.doubt_these(ys).await?;
        let ys = orphans.iter().map(|proof| proof.y).collect();
        self.store
            .update_proofs_state(ys, State::Unspent)
            .await
            .map_err(store)
    }
}

/// The proofs of the token that a send has made.
pub(super) fn sent_with(saga: &WalletSaga) -> Vec<PublicKey> {
    match &saga.data {
        OperationData::Send(data) => data.proofs.as_ref().map(ys_of).unwrap_or_default(),
        _ => Vec::new(),
    }
}
