//! Bringing unfinished operations to an end, and finding out about redemptions.
//!
//! cdk's sagas survive a crash, with four gaps that are closed here
//! (payments.md section 2): a saga whose proofs somebody else spent fails for
//! ever (E2), a recovery can call a redemption complete without its proofs
//! (E3b), a token that was sent counts as unfinished until it is claimed, and
//! proofs can be reserved for a saga that was never written (`orphans`).

use std::fmt;

use cdk::nuts::{BlindedMessage, PreMintSecrets, ProofsMethods, PublicKey, RestoreRequest, State};
use cdk_common::wallet::{
    OperationData, ReceiveOperationData, ReceiveSagaState, SendSagaState, SwapOperationData,
    TransactionId, TransactionStatus, WalletSaga, WalletSagaState,
};

use super::account::{Account, Trace, overlap, points};
use super::errors::{nothing_sent, store};
use super::orphans::sent_with;
use super::token::Read;
use super::{PendingSend, ProofsState, Recovery, Redeemed, RedemptionState, WalletError};
use crate::core::money::Msat;
use crate::core::payment::lock;
use crate::core::time::Timestamp;

/// The wallet's seed; not shown.
#[derive(Clone)]
pub(super) struct Seed(pub(super) [u8; 64]);

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed")
    }
}

impl Account {
    /// Brings the unfinished operations of this account to an end.
    pub(super) async fn recover(&self) -> Result<Recovery, WalletError> {
        let mut found = self.settle().await?;
        match self.restored().await {
            Ok(()) => {}
            Err(WalletError::Store(why)) => return Err(WalletError::Store(why)),
            Err(error) => {
                let unit = super::token::unit_name(&self.unit);
                tracing::warn!(mint = %self.mint.0, %unit, %error, "what the seed owns here is not known yet; nothing is redeemed or sent until it is");
                found.unfinished += 1;
                return Ok(found);
            }
        }
        let (paid, unknown) = self.collect_some().await?;
        found.recovered += paid;
        found.unfinished += unknown;
        self.melts(found).await
    }

    /// Whether all is here that the seed owns, and not held by a payment of before.
    async fn restored(&self) -> Result<(), WalletError> {
        self.ready_at_start().await?;
        self.end_pending().await
    }

    /// Ends Lightning payments that were begun.
    async fn melts(&self, mut found: Recovery) -> Result<Recovery, WalletError> {
        match self.settle_melts().await {
            Ok(open) => found.unfinished += open,
            Err(WalletError::Store(why)) => return Err(WalletError::Store(why)),
            Err(_) => found.unfinished += 1,
        }
        self.forget_spent().await?;
        Ok(found)
    }

    /// Removes proofs that we have spent ourselves. cdk keeps them for ever, and
    /// reads them all whenever it looks for one that can be spent.
    async fn forget_spent(&self) -> Result<(), WalletError> {
        let (mint, unit) = (self.wallet.mint_url.clone(), self.wallet.unit.clone());
        let spent = Some(vec![State::Spent]);
        let spent = self.store.get_proofs(Some(mint), Some(unit), spent, None);
        let spent = spent.await.map_err(store)?;
        if spent.is_empty() {
            return Ok(());
        }
        let open: Vec<uuid::Uuid> = self.sagas().await?.iter().map(|saga| saga.id).collect();
        let is_open = |id: &uuid::Uuid| open.contains(id);
        let over = spent
            .into_iter()
            .filter(|proof| !proof.used_by_operation.as_ref().is_some_and(is_open));
        let ys: Vec<PublicKey> = over.map(|proof| proof.y).collect();
        self.store.update_proofs(vec![], ys).await.map_err(store)
    }

    /// Ends the open sagas, as far as the mint answers.
    pub(super) async fn settle(&self) -> Result<Recovery, WalletError> {
        self.free_orphans().await?;
        let (before, waiting) = self.unfinished().await?;
        if before.is_empty() {
            // cdk would ask about each of them in a request of its own.
            self.close_spent(&waiting).await?;
            return self.resynced(Recovery::default()).await;
        }
        // Sends are not undone before the mint can be asked about their proofs.
        let melts = self.melt_sagas().await?;
        self.doubt(&melts).await?;
        if self.doubt(&before).await? && !self.answers().await {
            let unfinished = before.len();
            return Ok(Recovery {
                unfinished,
                ..Recovery::default()
            });
        }
        let found = self.end_sagas(before).await?;
        self.resynced(found).await
    }

    async fn resynced(&self, mut found: Recovery) -> Result<Recovery, WalletError> {
        match self.resync().await {
            Ok(()) => {}
            Err(WalletError::Store(why)) => return Err(WalletError::Store(why)),
            Err(_) => found.unfinished += 1,
        }
        Ok(found)
    }

    /// Whether the mint answers at all.
    async fn answers(&self) -> bool {
        self.client.get_mint_keysets().await.is_ok()
    }

    async fn end_sagas(&self, before: Vec<WalletSaga>) -> Result<Recovery, WalletError> {
        let report = self
            .wallet
            .recover_incomplete_sagas()
            .await
            .map_err(store)?;
        let mut purged = 0;
        for saga in &before {
            let gone = match (&saga.state, &saga.data) {
                (
                    WalletSagaState::Receive(ReceiveSagaState::SwapRequested),
                    OperationData::Receive(data),
                ) => self.settle_receive(saga, data).await?,
                (WalletSagaState::Swap(_), OperationData::Swap(data)) => {
                    self.settle_swap(saga, data).await?
                }
                _ => false,
            };
            purged += usize::from(gone);
        }
        let (left, _) = self.unfinished().await?;
        let unfinished = left.len();
        let compensated = report.compensated + purged;
        let ended = before.len().saturating_sub(unfinished);
        Ok(Recovery {
            recovered: ended.saturating_sub(compensated),
            compensated,
            unfinished,
        })
    }

    /// After cdk's own recovery: fetches proofs that it missed, and purges the
    /// saga where somebody else has spent the proofs. `true` if it was purged.
    async fn settle_receive(
        &self,
        saga: &WalletSaga,
        data: &ReceiveOperationData,
    ) -> Result<bool, WalletError> {
        let open = self.store.get_saga(&saga.id).await.map_err(store)?;
        if open.is_none() {
            if self.completed(saga).await? && !self.holds_outputs(data).await? {
                self.restore().await?;
            }
            return Ok(false);
        }
        let ys = self.inputs(saga, data).await?;
        // The order matters. Inputs first: a mint that says they are spent has
        // signed our outputs in the same step, if the spender was us.
        let spent = matches!(self.check_points(&ys).await, Ok(ProofsState::Spent));
        if !spent || !self.signed_nothing(data.blinded_messages.as_ref()).await {
            return Ok(false);
        }
        self.drop_saga(saga).await?;
        Ok(true)
    }

    /// The swap inside a send holds no proofs of its own, so cdk cannot repeat it
    /// once the send is undone, and tries for ever where it never reached the
    /// mint. `true` if it was purged for that.
    async fn settle_swap(
        &self,
        saga: &WalletSaga,
        data: &SwapOperationData,
    ) -> Result<bool, WalletError> {
        let open = self.store.get_saga(&saga.id).await.map_err(store)?;
        let held = self.store.get_reserved_proofs(&saga.id).await;
        if open.is_none() || !held.map_err(store)?.is_empty() {
            return Ok(false);
        }
        if !self.signed_nothing(data.blinded_messages.as_ref()).await {
            return Ok(false);
        }
        self.store.delete_saga(&saga.id).await.map_err(store)?;
        Ok(true)
    }

    async fn completed(&self, saga: &WalletSaga) -> Result<bool, WalletError> {
        let id = TransactionId::from_saga_id(saga.id);
        let tx = self.store.get_transaction(id).await.map_err(store)?;
        Ok(tx.is_some_and(|tx| tx.status == TransactionStatus::Completed))
    }

    /// Whether the proofs that this receive was to give are in our store.
    async fn holds_outputs(&self, data: &ReceiveOperationData) -> Result<bool, WalletError> {
        let (Some(start), Some(end)) = (data.counter_start, data.counter_end) else {
            return Ok(true);
        };
        let first = data.blinded_messages.as_ref().and_then(|b| b.first());
        let Some(keyset) = first.map(|message| message.keyset_id) else {
            return Ok(true);
        };
        let outputs =
            PreMintSecrets::restore_batch(keyset, &self.seed.0, start, end).map_err(store)?;
        let ys: Vec<PublicKey> = outputs
            .secrets
            .iter()
            .filter_map(|output| cdk::dhke::hash_to_curve(output.secret.as_bytes()).ok())
            .collect();
        let held = self.store.get_proofs_by_ys(ys).await.map_err(store)?;
        Ok(!held.is_empty())
    }

    /// `true` where the mint says that it never signed any of our outputs.
    async fn signed_nothing(&self, outputs: Option<&Vec<BlindedMessage>>) -> bool {
        let Some(outputs) = outputs.filter(|b| !b.is_empty()).cloned() else {
            return false;
        };
        let answer = self.client.post_restore(RestoreRequest { outputs }).await;
        matches!(answer, Ok(answer) if answer.signatures.is_empty())
    }

    async fn check_points(&self, ys: &[PublicKey]) -> Result<ProofsState, WalletError> {
        let ys: Vec<String> = ys.iter().map(PublicKey::to_hex).collect();
        self.check(&ys).await
    }

    /// Open sagas that have an end to be brought to, and those that have none: a
    /// token that was sent waits for its receiver. Without the melts that are on
    /// their way.
    async fn unfinished(&self) -> Result<(Vec<WalletSaga>, Vec<WalletSaga>), WalletError> {
        let is_waiting = |saga: &WalletSaga| {
            matches!(
                saga.state,
                WalletSagaState::Send(SendSagaState::TokenCreated)
            )
        };
        let sagas = self.sagas().await?.into_iter();
        let here = sagas.filter(|saga| !super::melts::in_flight(saga));
        let (waiting, open): (Vec<_>, Vec<_>) = here.partition(is_waiting);
        Ok((open, waiting))
    }

    /// All open sagas of this account.
    pub(super) async fn sagas(&self) -> Result<Vec<WalletSaga>, WalletError> {
        let sagas = self.store.get_incomplete_sagas().await.map_err(store)?;
        let ours = |saga: &WalletSaga| {
            saga.mint_url == self.wallet.mint_url && saga.unit == self.wallet.unit
        };
        Ok(sagas.into_iter().filter(ours).collect())
    }

    /// Open receive sagas over any of these proofs.
    pub(super) async fn receives(&self, ys: &[PublicKey]) -> Result<Vec<WalletSaga>, WalletError> {
        let mut found = Vec::new();
        for saga in self.sagas().await? {
            let OperationData::Receive(data) = &saga.data else {
                continue;
            };
            if overlap(&self.inputs(&saga, data).await?, ys) {
                found.push(saga);
            }
        }
        Ok(found)
    }

    /// Ys that a receive saga takes in: by its token, or by the proofs it holds.
    async fn inputs(
        &self,
        saga: &WalletSaga,
        data: &ReceiveOperationData,
    ) -> Result<Vec<PublicKey>, WalletError> {
        let told = data.token.as_deref().map(super::token::read);
        if let Some(Ok(read)) = told {
            return points(&read.info.ys);
        }
        let held = self
            .store
            .get_reserved_proofs(&saga.id)
            .await
            .map_err(store)?;
        Ok(held.into_iter().map(|proof| proof.y).collect())
    }

    /// Removes what a receive that is known to have taken nothing left behind:
    /// its saga, its pending proofs, and its transaction's "pending".
    pub(super) async fn forget(&self, ys: &[PublicKey]) -> Result<(), WalletError> {
        for saga in self.receives(ys).await? {
            self.drop_saga(&saga).await?;
        }
        Ok(())
    }

    async fn drop_saga(&self, saga: &WalletSaga) -> Result<(), WalletError> {
        let held = self
            .store
            .get_reserved_proofs(&saga.id)
            .await
            .map_err(store)?;
        let ys = held.into_iter().map(|proof| proof.y).collect();
        let id = TransactionId::from_saga_id(saga.id);
        // The transaction first: while the saga is there, this can be done again.
        if let Some(mut tx) = self.store.get_transaction(id).await.map_err(store)?
            && tx.status == TransactionStatus::Pending
        {
            tx.status = TransactionStatus::Failed;
            self.store.add_transaction(tx).await.map_err(store)?;
        }
        self.store.update_proofs(vec![], ys).await.map_err(store)?;
        self.store.delete_saga(&saga.id).await.map_err(store)
    }

    /// Finds out what became of a redemption. It begins none; it ends the one
    /// that is open, if the wallet has one.
    pub(super) async fn redemption(&self, read: &Read) -> Result<RedemptionState, WalletError> {
        let ys = points(&read.info.ys)?;
        let mut trace = self.trace(&ys).await?;
        if trace == Trace::Open {
            self.settle().await?;
            trace = self.trace(&ys).await?;
        }
        if let Trace::Done(net) = trace {
            let fee = read.info.face.saturating_sub(net);
            return Ok(RedemptionState::Done(Redeemed { net, fee }));
        }
        let state = self.check(&read.info.ys).await?;
        match (state, trace) {
            (_, Trace::Open) | (ProofsState::Pending, _) => Ok(RedemptionState::Unknown),
            (ProofsState::Unspent, _) => Ok(RedemptionState::NotDone),
            (ProofsState::Spent, Trace::Undone) => self.late_arrival(read).await,
            // Nobody else could: the trace was lost with an earlier file.
            (ProofsState::Spent, Trace::None) if self.only_ours(read)? => {
                self.restore().await?;
                Ok(RedemptionState::Done(self.net_of(read).await?))
            }
            (ProofsState::Spent, _) => Ok(RedemptionState::SpentElsewhere),
        }
    }

    /// Whether each proof is locked to our key for some time yet, so that nobody
    /// else can have spent it (NUT-11).
    fn only_ours(&self, read: &Read) -> Result<bool, WalletError> {
        let key = super::locks::public(&super::locks::lock_secret(&self.seed)?)?;
        let now = Timestamp::from_secs(cdk::util::unix_time());
        let locks = &read.info.locks;
        let locked = locks.iter().all(Option::is_some) && !locks.is_empty();
        let margin = std::time::Duration::from_secs(60);
        Ok(locked && lock::accept(locks, &[key], now, margin).is_ok())
    }

    /// A redemption that was undone here, and yet the proofs are spent: by
    /// somebody else, or by our own request that reached the mint after all.
    /// Then our outputs are there to be restored.
    async fn late_arrival(&self, read: &Read) -> Result<RedemptionState, WalletError> {
        let expected = self.net_of(read).await?;
        let before = self.balance().await?;
        self.restore().await?;
        let gained = self.balance().await?.saturating_sub(before);
        if gained < expected.net {
            return Ok(RedemptionState::SpentElsewhere);
        }
        self.book(&points(&read.info.ys)?, expected).await?;
        Ok(RedemptionState::Done(expected))
    }

    /// Notes on the undone redemption of these proofs that it succeeded.
    async fn book(&self, ys: &[PublicKey], redeemed: Redeemed) -> Result<(), WalletError> {
        if let Some(mut tx) = self.redemptions(ys).await?.pop() {
            tx.status = TransactionStatus::Completed;
            tx.amount = super::token::whole_units(&self.unit, redeemed.net)
                .unwrap_or(0)
                .into();
            self.store.add_transaction(tx).await.map_err(store)?;
        }
        Ok(())
    }

    /// Takes a token back that we sent and nobody has redeemed. Gives what came
    /// back, less the mint's fee.
    pub(super) async fn reclaim(&self, read: &Read) -> Result<Msat, WalletError> {
        let ys = points(&read.info.ys)?;
        let sagas = self.sagas().await?;
        let sent = sagas
            .into_iter()
            .find(|saga| overlap(&sent_with(saga), &ys));
        let Some(saga) = sent else {
            return Err(WalletError::Refused(
                "this wallet has no such token that is not claimed".to_owned(),
            ));
        };
        if self.check(&read.info.ys).await? == ProofsState::Spent {
            return Err(WalletError::Spent);
        }
        let back = self.wallet.revoke_send(saga.id).await;
        self.msat(back.map_err(|error| match error {
            cdk::Error::TokenAlreadySpent => WalletError::Spent,
            error => super::errors::maybe_sent(&error),
        })?)
    }

    /// Tokens that were sent and are not known to be claimed.
    pub(super) async fn pending_sends(&self) -> Result<Vec<PendingSend>, WalletError> {
        let mut pending = Vec::new();
        for saga in self.sagas().await? {
            let OperationData::Send(data) = saga.data else {
                continue;
            };
            let Some(proofs) = data.proofs else { continue };
            let face = proofs.total_amount().map_err(|e| nothing_sent(&e.into()))?;
            let token = cdk::nuts::Token::new(
                self.wallet.mint_url.clone(),
                proofs,
                None,
                self.wallet.unit.clone(),
            );
            pending.push(PendingSend {
                token: token.to_string(),
                mint: self.mint.clone(),
                unit: self.unit.clone(),
                face: self.msat(face)?,
                created: Timestamp::from_secs(saga.created_at),
            });
        }
        Ok(pending)
    }
}
