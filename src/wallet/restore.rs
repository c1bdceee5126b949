//! What a seed owns at a mint is read from the mint (NUT-09, NUT-13) before this
//! file makes any output there: a file that does not know how many outputs the
//! seed has made would make the same again, and the mint refuses those.
//!
//! Which keysets have been read is written down in the wallet's file, so that a
//! mint that was down at the start is asked later, also after a restart. Until
//! then nothing is redeemed and nothing sent there. A keyset with which this file
//! has made outputs was never lost.
//!
//! cdk's own restore is not used: it puts proofs of tokens that are out back
//! among those that can be spent, and moves the counter by as much as it finds,
//! past what a later restore would look through.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use cdk::dhke::construct_proofs;
use cdk::nuts::{
    CheckStateRequest, Id, KeySetInfo, PreMintSecrets, Proof, Proofs, ProofsMethods, PublicKey,
    RestoreRequest, State,
};
use cdk_common::common::ProofInfo;

use super::account::{Account, Store, points};
use super::errors::{nothing_sent, store};
use super::{OutTokens, WalletError, read_info};
use crate::core::money::Msat;

/// Outputs that a mint is asked about in one request (NUT-13).
const BATCH: u32 = 100;
/// So many requests without a find end the search (NUT-13).
const GAP: u32 = 3;

/// Where it is written down which keysets have been read.
const SPACE: (&str, &str) = ("satlet", "restored");
/// Key of the note that the seed was made with this file.
const NEW_SEED: &str = "new-seed";

/// Who tells which tokens are out; shared by all accounts.
#[derive(Clone, Default)]
pub(super) struct Out(Arc<Mutex<Option<OutTokens>>>);

impl fmt::Debug for Out {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Out")
    }
}

impl Out {
    pub(super) fn set(&self, tokens: OutTokens) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(tokens);
    }

    /// Ys of all tokens that are out.
    fn ys(&self) -> Result<BTreeSet<PublicKey>, WalletError> {
        let ask = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ask = ask.clone();
        let tokens = match ask {
            Some(ask) => ask().map_err(WalletError::Store)?,
            None => Vec::new(),
        };
        let mut ys = BTreeSet::new();
        for token in tokens {
            // One that cannot be read is no proof of ours.
            if let Ok(info) = read_info(&token) {
                ys.extend(points(&info.ys)?);
            }
        }
        Ok(ys)
    }
}

/// Keysets that were read; `None`: this file does not say yet.
pub(super) type Read = tokio::sync::Mutex<Option<BTreeSet<String>>>;

/// What was found with one keyset.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    /// Proofs that are ours now.
    proofs: usize,
    /// Proofs of tokens that are out, left alone.
    out: usize,
}

/// Notes that the seed is as new as the file: no mint has ever seen it.
pub(super) async fn note_new_seed(db: &Store) -> Result<(), WalletError> {
    db.kv_write(SPACE.0, SPACE.1, NEW_SEED, b"1")
        .await
        .map_err(store)
}

impl Account {
    /// Returns once all that the seed owns here is in this file.
    ///
    /// # Errors
    /// `MintDown`, `Refused`, `Store`: it is not yet, and nothing may be redeemed
    /// or sent.
    pub(super) async fn ready(&self) -> Result<(), WalletError> {
        let mut read = self.restored.lock().await;
        if read.is_none() {
            *read = self.read_before().await?;
        }
        let keysets = self.keysets().await?;
        let known = read.clone().unwrap_or_default();
        let missing = |keyset: &&KeySetInfo| !known.contains(&keyset.id.to_string());
        let missing: Vec<&KeySetInfo> = keysets.iter().filter(missing).collect();
        if missing.is_empty() && read.is_some() {
            return Ok(());
        }
        let mut done = known.clone();
        let fresh = self.is_new_seed().await? || !self.can_restore().await?;
        let mut found = Found::default();
        for keyset in missing {
            if !fresh && self.counter(&keyset.id, 0).await? == 0 {
                let here = self.read_keyset(keyset).await?;
                found.proofs += here.proofs;
                found.out += here.out;
            }
            done.insert(keyset.id.to_string());
            self.note_read(&done).await?;
        }
        if read.is_none() {
            self.note_read(&done).await?;
        }
        *read = Some(done);
        if found.proofs + found.out > 0 {
            let balance = self.balance().await?;
            tracing::warn!(mint = %self.mint.0, unit = ?self.unit, %balance, proofs = found.proofs, out = found.out, "the wallet was restored from its seed");
        }
        Ok(())
    }

    /// The same where this file does not say yet that it was ever done; asks no
    /// mint otherwise.
    pub(super) async fn ready_at_start(&self) -> Result<(), WalletError> {
        if self.restored.lock().await.is_some() || self.read_before().await?.is_some() {
            return Ok(());
        }
        if self.is_new_seed().await? {
            return Ok(());
        }
        self.ready().await
    }

    /// Reads all keysets, whatever was read before. Gives what can be spent more.
    pub(super) async fn restore(&self) -> Result<Msat, WalletError> {
        let before = self.balance().await?;
        for keyset in self.keysets().await? {
            self.read_keyset(&keyset).await?;
        }
        Ok(self.balance().await?.saturating_sub(before))
    }

    async fn is_new_seed(&self) -> Result<bool, WalletError> {
        let note = self.store.kv_read(SPACE.0, SPACE.1, NEW_SEED).await;
        Ok(note.map_err(store)?.is_some())
    }

    /// Whether the mint can tell at all (NUT-09). Where not, what was there is
    /// lost with the file.
    async fn can_restore(&self) -> Result<bool, WalletError> {
        let metadata = self
            .wallet
            .metadata_cache
            .load(&self.store, &self.client)
            .await;
        let metadata = metadata.map_err(|error| nothing_sent(&error))?;
        Ok(metadata.mint_info.nuts.nut09.supported)
    }

    async fn read_before(&self) -> Result<Option<BTreeSet<String>>, WalletError> {
        let list = self.store.kv_read(SPACE.0, SPACE.1, &self.name()).await;
        let list = list.map_err(store)?;
        list.map(|list| serde_json::from_slice(&list).map_err(store))
            .transpose()
    }

    async fn note_read(&self, keysets: &BTreeSet<String>) -> Result<(), WalletError> {
        let list = serde_json::to_vec(keysets).map_err(store)?;
        self.store
            .kv_write(SPACE.0, SPACE.1, &self.name(), &list)
            .await
            .map_err(store)
    }

    /// The keyset's counter of outputs, moved on by `more`.
    async fn counter(&self, id: &Id, more: u32) -> Result<u32, WalletError> {
        let counter = self.store.increment_keyset_counter(id, more).await;
        counter.map_err(store)
    }

    /// Asks the mint about every output that the seed may have made with this
    /// keyset, and takes in what is unspent. The counter is moved last: while it
    /// is at its beginning, a search that was cut off is made again.
    async fn read_keyset(&self, keyset: &KeySetInfo) -> Result<Found, WalletError> {
        let counter = self.counter(&keyset.id, 0).await?;
        let aside = self.out.ys()?;
        let (mut start, mut empty, mut next) = (0_u32, 0, 0);
        let mut found = Found::default();
        while empty < GAP || start < counter {
            let end = start.saturating_add(BATCH);
            let signed = self.signed(keyset.id, start, end).await?;
            match signed
                .iter()
                .map(|(index, _)| index.saturating_add(1))
                .max()
            {
                None => empty += 1,
                Some(last) => {
                    empty = 0;
                    next = next.max(last);
                    let here = self.take_in(keyset, signed, &aside).await?;
                    found.proofs += here.proofs;
                    found.out += here.out;
                }
            }
            if start == end {
                break;
            }
            start = end;
        }
        if next > counter {
            self.counter(&keyset.id, next - counter).await?;
        }
        Ok(found)
    }

    /// The proofs of those outputs of this range that the mint has signed.
    async fn signed(&self, id: Id, start: u32, end: u32) -> Result<Vec<(u32, Proof)>, WalletError> {
        let seed = self.seed.clone();
        let outputs = tokio::task::spawn_blocking(move || {
            PreMintSecrets::restore_batch(id, &seed.0, start, end)
        });
        let outputs = outputs.await.map_err(store)?.map_err(store)?;
        let request = RestoreRequest {
            outputs: outputs.blinded_messages(),
        };
        let answer = self.client.post_restore(request).await;
        let answer = answer.map_err(|error| nothing_sent(&error))?;
        if answer.signatures.is_empty() {
            return Ok(Vec::new());
        }
        if answer.outputs.len() != answer.signatures.len() {
            return Err(odd());
        }
        let keys = self.wallet.keyset(id).await;
        let keys = keys.map_err(|error| nothing_sent(&error))?.keys;
        let mut given: HashMap<PublicKey, _> = answer
            .outputs
            .iter()
            .map(|output| output.blinded_secret)
            .zip(answer.signatures)
            .collect();
        let mut proofs = Vec::new();
        for (index, output) in (start..end).zip(outputs.secrets) {
            let Some(signature) = given.remove(&output.blinded_message.blinded_secret) else {
                continue;
            };
            let made =
                construct_proofs(vec![signature], vec![output.r], vec![output.secret], &keys);
            for proof in made.map_err(|_| odd())? {
                if let (Some(_), Some(key)) = (&proof.dleq, keys.amount_key(proof.amount)) {
                    proof.verify_dleq(key).map_err(|_| odd())?;
                }
                proofs.push((index, proof));
            }
        }
        if given.is_empty() {
            Ok(proofs)
        } else {
            Err(odd())
        }
    }

    /// Takes those proofs into the file that are unspent, that it does not know,
    /// and that no token has which is out.
    async fn take_in(
        &self,
        keyset: &KeySetInfo,
        signed: Vec<(u32, Proof)>,
        aside: &BTreeSet<PublicKey>,
    ) -> Result<Found, WalletError> {
        let proofs: Proofs = signed.iter().map(|(_, proof)| proof.clone()).collect();
        let ys = proofs.ys().map_err(store)?;
        let held = self.store.get_proofs_by_ys(ys.clone()).await;
        let held: BTreeSet<PublicKey> = held.map_err(store)?.iter().map(|proof| proof.y).collect();
        let states = self.states(ys.clone()).await?;
        let mut found = Found::default();
        let mut ours = Vec::new();
        for (y, (index, proof)) in ys.into_iter().zip(signed) {
            let state = states.get(&y).copied().ok_or_else(odd)?;
            if state == State::Spent || held.contains(&y) {
                continue;
            }
            if aside.contains(&y) {
                found.out += 1;
                continue;
            }
            found.proofs += 1;
            let unit = keyset.unit.clone();
            let info = ProofInfo::new(proof, self.wallet.mint_url.clone(), state, unit);
            ours.push(info.map_err(store)?.with_derivation_index(index));
        }
        self.store
            .update_proofs(ours, Vec::new())
            .await
            .map_err(store)?;
        Ok(found)
    }

    async fn states(&self, ys: Vec<PublicKey>) -> Result<HashMap<PublicKey, State>, WalletError> {
        let answer = self.client.post_check_state(CheckStateRequest { ys }).await;
        let answer = answer.map_err(|error| nothing_sent(&error))?;
        let states = answer.states.into_iter();
        Ok(states.map(|state| (state.y, state.state)).collect())
    }

    /// Looks again at restored proofs that the mint called pending: some payment
    /// of before the loss was under way with them.
    ///
    /// # Errors
    /// `MintDown`, `Store`: nothing has changed.
    pub(super) async fn end_pending(&self) -> Result<(), WalletError> {
        let pending = self.store.get_proofs(
            Some(self.wallet.mint_url.clone()),
            Some(self.wallet.unit.clone()),
            Some(vec![State::Pending]),
            None,
        );
        let pending = pending.await.map_err(store)?.into_iter();
        let ours = |proof: &ProofInfo| {
            proof.used_by_operation.is_none()
                && proof.created_by_operation.is_none()
                && proof.derivation_index.is_some()
        };
        let ys: Vec<PublicKey> = pending.filter(ours).map(|proof| proof.y).collect();
        if ys.is_empty() {
            return Ok(());
        }
        let states = self.states(ys.clone()).await?;
        for state in [State::Unspent, State::Spent] {
            let now = ys.iter().copied();
            let now = now.filter(|y| states.get(y) == Some(&state)).collect();
            self.store
                .update_proofs_state(now, state)
                .await
                .map_err(store)?;
        }
        Ok(())
    }
}

fn odd() -> WalletError {
    WalletError::MintDown("its answer to a restore cannot be used".to_owned())
}
