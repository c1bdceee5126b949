//! What can be done at one (mint, unit): cdk's wallet with our guards around it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use cdk::nuts::{
    CheckStateRequest, KeySetInfo, Proofs, ProofsMethods, PublicKey, SecretKey, State,
};
use cdk::wallet::{MintConnector, MintMetadata, RateLimiterManager, ReceiveOptions, SendOptions};
use cdk_common::database::{self, WalletDatabase};
use cdk_common::wallet::{Transaction, TransactionDirection, TransactionStatus};

use super::errors::{maybe_sent, nothing_sent, store};
use super::token::{self, MAX_PROOFS, Read};
use super::transport::{Sent, knock};
use super::{
    MintFacts, MintUrl, ProofsState, Redeemed, RedemptionState, SentToken, Unit, WalletError,
};
use crate::core::ids::PaymentId;
use crate::core::money::Msat;
use crate::core::payment::hash_lock::Preimage;

/// Name of the payment's id in a transaction's metadata.
const PAY_ID: &str = "pay_id";

/// Where cdk and we keep what the wallet has.
pub(crate) type Store = Arc<dyn WalletDatabase<database::Error> + Send + Sync>;

/// One (mint, unit). Not `Debug` by derivation: cdk's wallet shows its seed.
pub(super) struct Account {
    pub(super) mint: MintUrl,
    pub(super) unit: Unit,
    pub(super) wallet: cdk::Wallet,
    pub(super) store: Store,
    pub(super) client: Arc<dyn MintConnector + Send + Sync>,
    /// Pacing, shared by the mint's units.
    pub(super) limiter: RateLimiterManager,
    pub(super) sent: Sent,
    /// Proofs that were redeemed here, or nearly.
    pub(super) seen: super::seen::Seen,
    /// What came of requests, shared by the mint's units.
    pub(super) calls: super::calls::Calls,
    pub(super) timeout: Duration,
    /// With which of the tokens that were sent the next recovery goes on.
    pub(super) asked: std::sync::atomic::AtomicUsize,
    /// The same for unpaid invoices.
    pub(super) collected: std::sync::atomic::AtomicUsize,
    /// The wallet's seed, to know our own outputs again (NUT-13).
    pub(super) seed: super::recovery::Seed,
    /// Which mint each keyset id belongs to, over all mints of this wallet.
    pub(super) keysets: super::keysets::Owners,
    /// Keysets of which all is here that the seed owns.
    pub(super) restored: super::restore::Read,
    /// Tokens that are out, which a restore leaves alone.
    pub(super) out: super::restore::Out,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account")
            .field("mint", &self.mint)
            .field("unit", &self.unit)
            .finish_non_exhaustive()
    }
}

/// What the wallet knows of an earlier redemption of some proofs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trace {
    /// Nothing.
    None,
    /// A saga is open: it may yet succeed.
    Open,
    /// It was undone.
    Undone,
    /// It succeeded, with this net amount.
    Done(Msat),
}

impl Account {
    pub(super) fn msat(&self, amount: cdk::Amount) -> Result<Msat, WalletError> {
        token::to_msat(&self.unit, amount.into())
            .ok_or_else(|| WalletError::Store("an amount is too large".to_owned()))
    }

    /// Keysets of this unit, from the cache while that is fresh.
    ///
    /// # Errors
    /// `MintDown`; `Refused` where another mint has a keyset of the same id:
    /// NUT-13 derives outputs from the id alone, so one would use up the other's.
    pub(super) async fn keysets(&self) -> Result<Vec<KeySetInfo>, WalletError> {
        let metadata = self
            .wallet
            .metadata_cache
            .load(&self.store, &self.client)
            .await;
        let metadata = self.admit(metadata)?;
        Ok(self.ours(&metadata))
    }

    /// As [`keysets`](Self::keysets), and an error where there are none.
    pub(super) async fn issues(&self) -> Result<(), WalletError> {
        if self.keysets().await?.iter().any(|keyset| keyset.active) {
            return Ok(());
        }
        let unit = token::unit_name(&self.unit);
        Err(WalletError::Refused(format!("it has no unit {unit}")))
    }

    pub(super) fn admit(
        &self,
        metadata: Result<Arc<MintMetadata>, cdk::Error>,
    ) -> Result<Arc<MintMetadata>, WalletError> {
        let metadata = metadata.map_err(|error| nothing_sent(&error))?;
        self.keysets
            .claim(&self.mint, metadata.keysets.keys().copied())?;
        Ok(metadata)
    }

    fn ours(&self, metadata: &MintMetadata) -> Vec<KeySetInfo> {
        let ours = |keyset: &&Arc<KeySetInfo>| keyset.unit == self.wallet.unit;
        let keysets = metadata.keysets.values().filter(ours);
        keysets.map(|keyset| KeySetInfo::clone(keyset)).collect()
    }

    pub(super) async fn facts(&self) -> Result<MintFacts, WalletError> {
        let metadata = self
            .wallet
            .metadata_cache
            .load(&self.store, &self.client)
            .await;
        let metadata = self.admit(metadata)?;
        let has = |unit: &Unit| {
            let name = token::unit_name(unit);
            let mut active = metadata.active_keysets.iter();
            active.any(|keyset| keyset.unit.to_string() == name)
        };
        let units = [Unit::Sat, Unit::Msat].into_iter().filter(has).collect();
        let keysets = self.ours(&metadata);
        let fee = |keyset: &KeySetInfo| keyset.active.then_some(keyset.input_fee_ppk);
        Ok(MintFacts {
            mint: self.mint.clone(),
            units,
            input_fee_ppk: keysets.iter().filter_map(fee).min().unwrap_or(0),
            locks: locks(&metadata),
            hash_locks: locks(&metadata) && metadata.mint_info.nuts.nut14.supported,
        })
    }

    /// The same, asked now.
    pub(super) async fn probe(&self) -> Result<super::MintProbe, WalletError> {
        let metadata = self
            .wallet
            .metadata_cache
            .load_from_mint(&self.store, &self.client)
            .await;
        let metadata = self.admit(metadata)?;
        Ok(super::calls::probed(&metadata, self.facts().await?))
    }

    /// The token's proofs; short keyset ids need the mint's list.
    async fn proofs(&self, read: &Read) -> Result<Proofs, WalletError> {
        if let Ok(proofs) = read.token.proofs(&self.keysets().await?) {
            return Ok(proofs);
        }
        // The mint may have a newer keyset than our list.
        let fresh = self
            .wallet
            .metadata_cache
            .load_from_mint(&self.store, &self.client)
            .await;
        let fresh = self.admit(fresh)?;
        read.token
            .proofs(&self.ours(&fresh))
            .map_err(|_| WalletError::Malformed("its keyset is not the mint's".to_owned()))
    }

    /// What redeeming will give (NUT-02: the fee of each proof's own keyset).
    pub(super) async fn net_of(&self, read: &Read) -> Result<Redeemed, WalletError> {
        let proofs = self.proofs(read).await?;
        self.expected(read, &proofs).await
    }

    /// The token's proofs and what a swap of them leaves.
    pub(super) async fn worth(&self, read: &Read) -> Result<(Proofs, Msat), WalletError> {
        let proofs = self.proofs(read).await?;
        let net = self.expected(read, &proofs).await?.net;
        Ok((proofs, net))
    }

    async fn expected(&self, read: &Read, proofs: &Proofs) -> Result<Redeemed, WalletError> {
        let fee = self
            .wallet
            .get_proofs_fee(proofs)
            .await
            .map_err(|error| nothing_sent(&error))?;
        let fee = self.msat(fee.total)?;
        match read.info.face.checked_sub(fee) {
            Some(net) if !net.is_zero() => Ok(Redeemed { net, fee }),
            _ => Err(WalletError::TooSmall),
        }
    }

    /// What the mint says of these proofs (NUT-07). Changes nothing here.
    pub(super) async fn check(&self, ys: &[String]) -> Result<ProofsState, WalletError> {
        let ys = points(ys)?;
        let wanted: BTreeSet<PublicKey> = ys.iter().copied().collect();
        let answer = self
            .client
            .post_check_state(CheckStateRequest { ys })
            .await
            .map_err(|error| nothing_sent(&error))?;
        let told: BTreeSet<PublicKey> = answer.states.iter().map(|state| state.y).collect();
        if told != wanted {
            return Err(WalletError::MintDown(
                "it answered about other proofs than asked".to_owned(),
            ));
        }
        let any = |state: State| answer.states.iter().any(|s| s.state == state);
        Ok(if any(State::Spent) {
            ProofsState::Spent
        } else if answer.states.iter().all(|s| s.state == State::Unspent) {
            ProofsState::Unspent
        } else {
            ProofsState::Pending
        })
    }

    /// Redeems. `receive` is called once at most, and not at all for proofs of
    /// which the wallet has a trace (payments.md defect 1: a second saga would
    /// take the first one's proofs over).
    ///
    /// What an error means hangs on whether a swap left (counted by the
    /// transport, which knocks before it sends one). If none did, the saga and
    /// the pending proofs are removed at once, so that no later recovery redeems
    /// a payment that was refused (E8), and nothing was taken. If one did, only
    /// the mint's own refusal says that nothing was taken.
    ///
    /// `key` signs proofs that are locked to it; `preimage` opens those that are
    /// locked to its hash.
    pub(super) async fn redeem(
        &self,
        payment: PaymentId,
        read: &Read,
        key: SecretKey,
        preimage: Option<Preimage>,
    ) -> Result<Redeemed, WalletError> {
        let ys = points(&read.info.ys)?;
        match self.trace(&ys).await? {
            Trace::Done(_) => return Err(WalletError::Spent),
            Trace::Open => {
                return Err(WalletError::OutcomeUnknown(
                    "it is being redeemed already".to_owned(),
                ));
            }
            Trace::None | Trace::Undone => {}
        }
        let proofs = self.proofs(read).await?;
        self.expected(read, &proofs).await?;
        self.seen.begin(&ys);
        let before = self.sent.count();
        let options = ReceiveOptions {
            metadata: HashMap::from([(PAY_ID.to_owned(), payment.to_hex())]),
            p2pk_signing_keys: vec![key],
            preimages: preimage.map(String::from).into_iter().collect(),
            ..ReceiveOptions::default()
        };
        let text = read.token.to_string();
        let received = self
            .wallet
            .receive_proofs(proofs, options, None, Some(text));
        let error = match received.await {
            Ok(amount) => {
                let net = self.msat(amount)?;
                let fee = read.info.face.saturating_sub(net);
                return Ok(Redeemed { net, fee });
            }
            Err(error) => error,
        };
        if self.sent.count() == before {
            self.forget(&ys).await?;
            return Err(nothing_sent(&error));
        }
        if matches!(error, cdk::Error::TokenAlreadySpent) {
            // By somebody else (E2), or by this swap, where something on the way
            // sent it twice: who holds our outputs tells.
            return match self.redemption(read).await {
                Ok(RedemptionState::Done(redeemed)) => Ok(redeemed),
                Ok(RedemptionState::SpentElsewhere) => Err(WalletError::Spent),
                _ => Err(maybe_sent(&error)),
            };
        }
        Err(maybe_sent(&error))
    }

    /// What we know of an earlier redemption of any of these proofs.
    pub(super) async fn trace(&self, ys: &[PublicKey]) -> Result<Trace, WalletError> {
        if !self.receives(ys).await?.is_empty() {
            return Ok(Trace::Open);
        }
        if !self.may_have_seen(ys).await? {
            return Ok(Trace::None);
        }
        let mut trace = Trace::None;
        for tx in self.redemptions(ys).await? {
            match tx.status {
                TransactionStatus::Completed => return Ok(Trace::Done(self.msat(tx.amount)?)),
                TransactionStatus::Pending | TransactionStatus::Failed => trace = Trace::Undone,
            }
        }
        Ok(trace)
    }

    /// What the books say of redemptions of any of these proofs. Ecash minted
    /// over Lightning is incoming too, and its proofs may come back to us.
    pub(super) async fn redemptions(
        &self,
        ys: &[PublicKey],
    ) -> Result<Vec<Transaction>, WalletError> {
        let incoming = self
            .wallet
            .list_transactions(Some(TransactionDirection::Incoming))
            .await
            .map_err(store)?;
        let wanted = |tx: &Transaction| tx.quote_id.is_none() && overlap(&tx.ys, ys);
        Ok(incoming.into_iter().filter(wanted).collect())
    }

    /// Makes a token.
    pub(super) async fn send(
        &self,
        amount: Msat,
        include_fee: bool,
    ) -> Result<SentToken, WalletError> {
        let pieces = token::whole_units(&self.unit, amount).ok_or(WalletError::TooSmall)?;
        self.resync().await?;
        let have = self.balance().await?;
        if have < amount {
            return Err(WalletError::NoBalance { have, need: amount });
        }
        self.issues().await?;
        let options = SendOptions {
            include_fee,
            max_proofs: Some(MAX_PROOFS),
            ..SendOptions::default()
        };
        let prepared = match self.wallet.prepare_send(pieces.into(), options).await {
            Ok(prepared) => prepared,
            Err(cdk::Error::InsufficientFunds) => {
                return Err(WalletError::NoBalance { have, need: amount });
            }
            Err(error) => return Err(nothing_sent(&error)),
        };
        if !prepared.proofs_to_swap().is_empty()
            && let Err(why) = self.knock().await
        {
            prepared.cancel().await.map_err(store)?;
            return Err(WalletError::MintDown(why));
        }
        let token = match prepared.confirm(None).await {
            Ok(token) => token,
            Err(cdk::Error::InsufficientFunds) => {
                self.wallet
                    .recover_incomplete_sagas()
                    .await
                    .map_err(store)?;
                return Err(WalletError::NoBalance { have, need: amount });
            }
            Err(error) => return Err(maybe_sent(&error)),
        };
        self.sent_token(token.to_string(), have).await
    }

    async fn sent_token(&self, text: String, before: Msat) -> Result<SentToken, WalletError> {
        let info = token::read(&text)?.info;
        let after = self.balance().await?;
        let cost = before.saturating_sub(after).saturating_sub(info.face);
        Ok(SentToken {
            token: text,
            mint: self.mint.clone(),
            unit: self.unit.clone(),
            face: info.face,
            fee: cost,
            ys: info.ys,
        })
    }

    pub(super) async fn knock(&self) -> Result<(), String> {
        let url = self
            .wallet
            .mint_url
            .join_paths(&["v1", "swap"])
            .map_err(|error| error.to_string())?;
        knock(&url, self.timeout).await
    }

    /// What can be spent here.
    pub(super) async fn balance(&self) -> Result<Msat, WalletError> {
        let total = self.wallet.total_balance().await.map_err(store)?;
        self.msat(total)
    }

    /// Swaps everything into few proofs where there are more than `most`.
    pub(super) async fn consolidate(&self, most: usize) -> Result<(), WalletError> {
        self.resync().await?;
        let proofs = self.wallet.get_unspent_proofs().await.map_err(store)?;
        if proofs.len() <= most {
            return Ok(());
        }
        self.knock().await.map_err(WalletError::MintDown)?;
        for part in proofs.chunks(MAX_PROOFS) {
            let part: Proofs = part.to_vec();
            self.wallet
                .swap(
                    None,
                    cdk::amount::SplitTarget::None,
                    part,
                    None,
                    false,
                    false,
                )
                .await
                .map_err(|error| maybe_sent(&error))?;
        }
        Ok(())
    }
}

/// Whether the mint says that it does all that locks need.
fn locks(metadata: &MintMetadata) -> bool {
    let nuts = &metadata.mint_info.nuts;
    [&nuts.nut07, &nuts.nut09, &nuts.nut10, &nuts.nut11]
        .iter()
        .all(|nut| nut.supported)
}

/// Ys as points.
pub(super) fn points(ys: &[String]) -> Result<Vec<PublicKey>, WalletError> {
    ys.iter()
        .map(PublicKey::from_hex)
        .collect::<Result<_, _>>()
        .map_err(|_| WalletError::Malformed("a Y is not a point".to_owned()))
}

/// Ys of these proofs.
pub(super) fn ys_of(proofs: &Proofs) -> Vec<PublicKey> {
    proofs.ys().unwrap_or_default()
}

pub(super) fn overlap(one: &[PublicKey], other: &[PublicKey]) -> bool {
    one.iter().any(|y| other.contains(y))
}
