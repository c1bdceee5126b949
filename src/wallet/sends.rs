//! Tokens that were sent and wait for their receivers.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use cdk::nuts::{CheckStateRequest, PublicKey, State};
use cdk_common::wallet::{TransactionId, TransactionStatus, WalletSaga};

use super::WalletError;
use super::account::Account;
use super::errors::store;
use super::orphans::sent_with;

/// Proofs that the mint is asked about in one recovery, in one request (NUT-07).
const MOST_ASKED: usize = 200;

impl Account {
    /// Asks the mint about tokens that were sent, many in one request, and ends
    /// the sagas of those that are spent. Where there are more than one request
    /// asks about, the next call goes on with the others. A mint that does not
    /// answer is asked the next time.
    pub(super) async fn close_spent(&self, waiting: &[WalletSaga]) -> Result<(), WalletError> {
        let first = self.asked.load(Ordering::Relaxed) % waiting.len().max(1);
        let turn = waiting.iter().cycle().skip(first).take(waiting.len());
        let (mut sends, mut ys) = (Vec::new(), Vec::new());
        for saga in turn {
            let own = sent_with(saga);
            if !ys.is_empty() && ys.len() + own.len() > MOST_ASKED {
                break;
            }
            ys.extend(own.iter().copied());
            sends.push((saga, own));
        }
        self.asked.store(first + sends.len(), Ordering::Relaxed);
        if ys.is_empty() {
            return Ok(());
        }
        let request = CheckStateRequest { ys };
        let Ok(answer) = self.client.post_check_state(request).await else {
            return Ok(());
        };
        let spent: BTreeSet<PublicKey> = answer
            .states
            .iter()
            .filter(|state| state.state == State::Spent)
            .map(|state| state.y)
            .collect();
        for (saga, own) in sends {
            if !own.is_empty() && own.iter().all(|y| spent.contains(y)) {
                self.end_send(saga).await?;
            }
        }
        Ok(())
    }

    /// Ends the saga of a token that was spent. Where we have redeemed it, its
    /// proofs are not here any more.
    async fn end_send(&self, saga: &WalletSaga) -> Result<(), WalletError> {
        // Those of a swap inside the send do not bear its name.
        let held = self.store.get_proofs_by_ys(sent_with(saga)).await;
        let ys = held.map_err(store)?.into_iter().map(|proof| proof.y);
        self.store
            .update_proofs_state(ys.collect(), State::Spent)
            .await
            .map_err(store)?;
        let id = TransactionId::from_saga_id(saga.id);
        if let Some(mut tx) = self.store.get_transaction(id).await.map_err(store)? {
            tx.status = TransactionStatus::Completed;
            self.store.add_transaction(tx).await.map_err(store)?;
        }
        self.store.delete_saga(&saga.id).await.map_err(store)
    }
}
