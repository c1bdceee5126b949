//! Locked tokens (NUT-10, NUT-11): reading their conditions, the wallet's keys,
//! and locking a token of ours to somebody else's key.
//!
//! # Keys
//!
//! All secrets come from the wallet's seed by SHA-256 with tags, as in BIP-340:
//! `SHA-256(SHA-256(tag) SHA-256(tag) seed parts… attempt)`, where `attempt` is
//! one byte, the first from 0 whose hash is a valid secret key (practically 0).
//! Numbers are 8 bytes, big-endian; texts end with a line feed.
//!
//! | tag | parts | what |
//! |---|---|---|
//! | `satlet/lock-key/1` | | what others lock to, [`Wallet::lock_key`](super::Wallet::lock_key) |
//! | `satlet/refund-key/1` | index | what opens our token `index` after its locktime |
//! | `satlet/claim-key/1` | index | what others lock to that give us money back, [`Wallet::claim_key`](super::Wallet::claim_key) |
//! | `satlet/locked-nonce/1` | key, locktime, index, position | nonce of a proof's secret (NUT-10) |
//! | `satlet/locked-blinding/1` | key, locktime, index, position | its blinding factor (NUT-00) |
//! | `satlet/hashed-nonce/1`, `satlet/hashed-blinding/1` | key, hash, locktime, index, position | the same where it is locked to a hash too (NUT-14) |
//! | `satlet/preimage/1` | index | a preimage, [`Wallet::preimage`](super::Wallet::preimage) |
//!
//! So a token that was locked can be made again from what is in [`LockTo`]: cdk's
//! own locked sends draw their outputs at random, and lose them with the mint's
//! answer.

use std::str::FromStr;

use cdk::dhke::{blind_message, construct_proofs};
use cdk::nuts::nut10::{Kind as CdkKind, Secret as Nut10Secret};
use cdk::nuts::{
    BlindSignature, BlindedMessage, Id, Proofs, ProofsMethods, RestoreRequest, SecretKey, SigFlag,
    SpendingConditions, SwapRequest, Token,
};
use cdk::secret::Secret;
use sha2::{Digest, Sha256};

use super::account::Account;
use super::errors::{maybe_sent, nothing_sent, store};
use super::recovery::Seed;
use super::token::{self, MAX_PROOFS, Read};
use super::{ProofsState, SentToken, WalletError};
use crate::core::payment::hash_lock::Preimage;
use crate::core::payment::lock::{Conditions, Kind, LockKey, LockTo};
use crate::core::time::Timestamp;

/// A token's amount so that after a fee of `ppk` thousandths for each of its
/// proofs (powers of two, NUT-02) `amount` is left; all in pieces of the unit.
pub fn face_for(ppk: u64, amount: u64) -> u64 {
    let left = |face: u64| face.saturating_sub(input_fee(ppk, u64::from(face.count_ones())));
    let mut face = amount;
    // The fee of 64 proofs bounds the search.
    let most = amount.saturating_add(input_fee(ppk, 64));
    while left(face) < amount && face < most {
        face += 1;
    }
    face
}

/// Fee for `proofs` inputs: the ceiling of `proofs * ppk / 1000` (NUT-02).
pub(super) fn input_fee(ppk: u64, proofs: u64) -> u64 {
    ppk.saturating_mul(proofs).div_ceil(1000)
}

/// The spending conditions that a secret states; `None`: a plain secret.
///
/// # Errors
/// `Malformed`: it states conditions that cannot be read for certain. Who reads
/// a repeated tag otherwise than we do would read other conditions.
pub(super) fn conditions(secret: &Secret) -> Result<Option<Conditions>, WalletError> {
    let Ok(stated) = Nut10Secret::try_from(secret.clone()) else {
        return Ok(None);
    };
    let unread = || WalletError::Malformed("its spending condition cannot be read".to_owned());
    let data = stated.secret_data();
    let tags = data.tags().into_iter().flatten();
    let mut names: Vec<&String> = tags.filter_map(|tag| tag.first()).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    if names.len() != all {
        return Err(unread());
    }
    let kind = match stated.kind() {
        CdkKind::P2PK => Kind::P2pk,
        CdkKind::HTLC => Kind::Htlc,
    };
    let text = data.data().to_owned();
    let stated = SpendingConditions::try_from(stated).map_err(|_| unread())?;
    let (SpendingConditions::P2PKConditions { conditions, .. }
    | SpendingConditions::HTLCConditions { conditions, .. }) = stated;
    let tags = conditions.unwrap_or_default();
    let keys = |keys: Option<Vec<cdk::nuts::PublicKey>>| {
        let keys = keys.unwrap_or_default();
        keys.iter().map(cdk::nuts::PublicKey::to_hex).collect()
    };
    Ok(Some(Conditions {
        kind,
        data: text,
        extra_keys: keys(tags.pubkeys),
        n_sigs: tags.num_sigs,
        sig_all: tags.sig_flag == SigFlag::SigAll,
        locktime: tags.locktime.map(Timestamp::from_secs),
        refund_keys: keys(tags.refund_keys),
        n_sigs_refund: tags.num_sigs_refund,
    }))
}

/// The secret of [`Wallet::lock_key`](super::Wallet::lock_key).
pub(super) fn lock_secret(seed: &Seed) -> Result<SecretKey, WalletError> {
    derive(seed, "satlet/lock-key/1", &[])
}

/// The [`Wallet::lock_key`](super::Wallet::lock_key) of a wallet with this seed,
/// without opening it.
///
/// # Errors
/// `Store`: no key follows from the seed, which does not happen.
pub fn lock_key_of(seed: [u8; 64]) -> Result<LockKey, WalletError> {
    public(&lock_secret(&Seed(seed))?)
}

/// The secret of the refund key `index`.
pub(super) fn refund_secret(seed: &Seed, index: u64) -> Result<SecretKey, WalletError> {
    derive(seed, "satlet/refund-key/1", &[&index.to_be_bytes()])
}

/// The secret of [`Wallet::claim_key`](super::Wallet::claim_key).
pub(super) fn claim_secret(seed: &Seed, index: u64) -> Result<SecretKey, WalletError> {
    derive(seed, "satlet/claim-key/1", &[&index.to_be_bytes()])
}

/// The preimage number `index`.
pub(super) fn preimage(seed: &Seed, index: u64) -> Result<Preimage, WalletError> {
    let secret = derive(seed, "satlet/preimage/1", &[&index.to_be_bytes()])?;
    Ok(Preimage::from_bytes(secret.to_secret_bytes()))
}

/// Whether a key is a point on the curve (secp256k1), so that somebody may have
/// its secret and a token can be locked to it.
pub fn is_point(key: &LockKey) -> bool {
    cdk::nuts::PublicKey::from_hex(key.as_str()).is_ok()
}

/// The public half, as others write it.
pub(super) fn public(secret: &SecretKey) -> Result<LockKey, WalletError> {
    secret.public_key().to_hex().parse().map_err(store)
}

fn derive(seed: &Seed, tag: &str, parts: &[&[u8]]) -> Result<SecretKey, WalletError> {
    let tag = Sha256::digest(tag.as_bytes());
    for attempt in 0..=u8::MAX {
        let mut hash = Sha256::new();
        hash.update(tag);
        hash.update(tag);
        hash.update(seed.0);
        for part in parts {
            hash.update(part);
        }
        hash.update([attempt]);
        if let Ok(secret) = SecretKey::from_slice(&hash.finalize()) {
            return Ok(secret);
        }
    }
    Err(store("no key can be derived from the seed"))
}

/// An output whose proof will be locked.
struct Output {
    secret: Secret,
    blinding: SecretKey,
    message: BlindedMessage,
}

/// The output at `position` of the token that `to` describes.
fn output(
    seed: &Seed,
    to: &LockTo,
    position: usize,
    keyset: Id,
    amount: u64,
) -> Result<Output, WalletError> {
    let (key, what) = match &to.hash {
        None => (format!("{}\n", to.key), "locked"),
        Some(hash) => (format!("{}\n{hash}\n", to.key), "hashed"),
    };
    let position = u64::try_from(position).unwrap_or(u64::MAX).to_be_bytes();
    let locktime = to.locktime.as_secs();
    let parts: [&[u8]; 4] = [
        key.as_bytes(),
        &locktime.to_be_bytes(),
        &to.index.to_be_bytes(),
        &position,
    ];
    let nonce = derive(seed, &format!("satlet/{what}-nonce/1"), &parts)?.to_secret_hex();
    let blinding = derive(seed, &format!("satlet/{what}-blinding/1"), &parts)?;
    let refund = public(&refund_secret(seed, to.index)?)?;
    // By hand: the same bytes each time. All of it is hexadecimal or digits.
    let tags =
        format!(r#"["locktime","{locktime}"],["refund","{refund}"],["sigflag","SIG_INPUTS"]"#);
    let secret = match &to.hash {
        None => format!(
            r#"["P2PK",{{"nonce":"{nonce}","data":"{}","tags":[{tags}]}}]"#,
            to.key
        ),
        Some(hash) => format!(
            r#"["HTLC",{{"nonce":"{nonce}","data":"{hash}","tags":[["pubkeys","{}"],{tags}]}}]"#,
            to.key
        ),
    };
    let secret = Secret::from_str(&secret).map_err(store)?;
    let blinded = blind_message(secret.as_bytes(), Some(blinding.clone()));
    let (blinded, blinding) = blinded.map_err(store)?;
    Ok(Output {
        secret,
        blinding,
        message: BlindedMessage::new(amount.into(), keyset, blinded),
    })
}

impl Account {
    /// Swaps a token that we made for one that only `to.key` can spend until
    /// `to.locktime`. Called again with the same, it gives the same token.
    pub(super) async fn lock(&self, read: &Read, to: &LockTo) -> Result<SentToken, WalletError> {
        cdk::nuts::PublicKey::from_hex(to.key.as_str())
            .map_err(|_| WalletError::Malformed("the lock key is not a point".to_owned()))?;
        self.lock_with(read, to, None).await
    }

    /// Takes a token back that was locked to a hash, after its locktime: as a token
    /// that is locked to `own`, which is ours, and that is redeemed like any other.
    /// cdk itself spends such a token with the preimage alone, which nobody is to
    /// see. Called again with the same, it gives the same token.
    pub(super) async fn open_hashed(
        &self,
        read: &Read,
        own: &LockTo,
        key: SecretKey,
    ) -> Result<SentToken, WalletError> {
        self.lock_with(read, own, Some(key)).await
    }

    async fn lock_with(
        &self,
        read: &Read,
        to: &LockTo,
        key: Option<SecretKey>,
    ) -> Result<SentToken, WalletError> {
        let proofs = match self.check(&read.info.ys).await? {
            ProofsState::Unspent => self.lock_now(read, to, key).await?,
            ProofsState::Spent => self.locked_before(to).await?,
            ProofsState::Pending => {
                return Err(WalletError::OutcomeUnknown(
                    "the mint is still at work on it".to_owned(),
                ));
            }
        };
        let url = self.wallet.mint_url.clone();
        let token = Token::new(url, proofs, None, self.wallet.unit.clone()).to_string();
        let info = token::read(&token)?.info;
        Ok(SentToken {
            token,
            mint: self.mint.clone(),
            unit: self.unit.clone(),
            face: info.face,
            fee: read.info.face.saturating_sub(info.face),
            ys: info.ys,
        })
    }

    async fn lock_now(
        &self,
        read: &Read,
        to: &LockTo,
        key: Option<SecretKey>,
    ) -> Result<Proofs, WalletError> {
        let (mut proofs, net) = self.worth(read).await?;
        if let Some(key) = key {
            for proof in &mut proofs {
                // Without a preimage: by the refund key (NUT-14).
                proof.add_preimage(String::new());
                proof.sign_p2pk(key.clone()).map_err(store)?;
            }
        }
        let keyset = self.wallet.active_keyset().await;
        let keyset = keyset.map_err(|error| nothing_sent(&error))?;
        let known = keyset.keys.iter().map(|(amount, _)| u64::from(*amount));
        let pieces = token::whole_units(&self.unit, net).ok_or(WalletError::TooSmall)?;
        let amounts = split(pieces, known.collect()).ok_or(WalletError::TooSmall)?;
        let outputs = amounts
            .into_iter()
            .enumerate()
            .map(|(position, amount)| output(&self.seed, to, position, keyset.id, amount))
            .collect::<Result<Vec<_>, _>>()?;
        let messages = outputs.iter().map(|output| output.message.clone());
        let request = SwapRequest::new(proofs, messages.collect());
        let before = self.sent.count();
        let signatures = match self.client.post_swap(request).await {
            Ok(answer) => answer.signatures,
            Err(error) if self.sent.count() == before => return Err(nothing_sent(&error)),
            Err(error) => return Err(maybe_sent(&error)),
        };
        let fits = signatures.len() == outputs.len()
            && signatures.iter().zip(&outputs).all(|(given, asked)| {
                given.amount == asked.message.amount && given.keyset_id == asked.message.keyset_id
            });
        if !fits {
            return Err(WalletError::OutcomeUnknown(
                "the mint's answer is not what was asked for".to_owned(),
            ));
        }
        self.unblind(signatures.into_iter().zip(outputs).collect())
            .await
    }

    /// The same token from the mint's memory (NUT-09), after an answer was lost.
    async fn locked_before(&self, to: &LockTo) -> Result<Proofs, WalletError> {
        let keyset = self.wallet.active_keyset().await;
        let keyset = keyset.map_err(|error| nothing_sent(&error))?.id;
        let outputs = (0..MAX_PROOFS)
            .map(|position| output(&self.seed, to, position, keyset, 0))
            .collect::<Result<Vec<_>, _>>()?;
        let request = RestoreRequest {
            outputs: outputs.iter().map(|one| one.message.clone()).collect(),
        };
        let answer = self.client.post_restore(request).await;
        let answer = answer.map_err(|error| nothing_sent(&error))?;
        let mut signed = Vec::new();
        for (message, signature) in answer.outputs.iter().zip(answer.signatures) {
            let ours = |one: &&Output| one.message.blinded_secret == message.blinded_secret;
            if let Some(found) = outputs.iter().find(ours) {
                signed.push((
                    signature,
                    Output {
                        secret: found.secret.clone(),
                        blinding: found.blinding.clone(),
                        message: found.message.clone(),
                    },
                ));
            }
        }
        if signed.is_empty() {
            return Err(WalletError::Spent);
        }
        self.unblind(signed).await
    }

    /// The proofs of signed outputs; the mint's proof (NUT-12) has to be right
    /// where there is one.
    async fn unblind(&self, signed: Vec<(BlindSignature, Output)>) -> Result<Proofs, WalletError> {
        let odd = |_| WalletError::OutcomeUnknown("the mint's signature is not good".to_owned());
        let mut proofs = Proofs::new();
        for (signature, output) in signed {
            let keyset = self.wallet.keyset(signature.keyset_id).await;
            let keys = keyset.map_err(|error| nothing_sent(&error))?.keys;
            let made = construct_proofs(
                vec![signature],
                vec![output.blinding],
                vec![output.secret],
                &keys,
            );
            for proof in made.map_err(odd)? {
                if let (Some(_), Some(key)) = (&proof.dleq, keys.amount_key(proof.amount)) {
                    proof.verify_dleq(key).map_err(|_| {
                        WalletError::OutcomeUnknown("the mint's signature is not good".to_owned())
                    })?;
                }
                proofs.push(proof);
            }
        }
        proofs.total_amount().map_err(store)?;
        Ok(proofs)
    }
}

/// `amount` in as few of the keyset's amounts as can be; `None` where it cannot.
fn split(mut amount: u64, mut known: Vec<u64>) -> Option<Vec<u64>> {
    known.sort_unstable();
    let mut parts = Vec::new();
    for piece in known.into_iter().rev().filter(|piece| *piece > 0) {
        while amount >= piece && parts.len() < MAX_PROOFS {
            parts.push(piece);
            amount -= piece;
        }
    }
    // Ascending, so that the order says nothing (NUT-03).
    parts.reverse();
    (amount == 0 && !parts.is_empty()).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::payment::hash_lock::{HashLock, accept_hashed};

    fn seed(n: u8) -> Seed {
        Seed([n; 64])
    }

    #[test]
    fn keys_are_the_seed_s() {
        let lock = |n| public(&lock_secret(&seed(n)).unwrap()).unwrap();
        let refund = |n, index| public(&refund_secret(&seed(n), index).unwrap()).unwrap();
        assert_eq!(lock(1), lock(1));
        let mut all = vec![lock(1), lock(2), refund(1, 0), refund(1, 1), refund(2, 0)];
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 5, "each is another key");
        let claim = |n, index| public(&claim_secret(&seed(n), index).unwrap()).unwrap();
        for other in [claim(1, 0), claim(1, 1), claim(2, 0)] {
            assert!(!all.contains(&other), "{other}");
        }
        assert_eq!(claim(1, 1), claim(1, 1));
        // For ever: money is locked to these.
        assert_eq!(
            lock(1).as_str(),
            "03dbb38bc35f7aa3056fdfb98e1a513016e3e1b3492e564e4d30184d30baa71083"
        );
        assert_eq!(
            refund(1, 1).as_str(),
            "032ca3455e4b7facb3b95227d39dfea42f21dce1372482e2360e350e9a7b15f903"
        );
    }

    #[test]
    fn a_locked_output_can_be_made_again() {
        let to = LockTo {
            key: public(&lock_secret(&seed(2)).unwrap()).unwrap(),
            locktime: Timestamp::from_secs(1_790_003_600),
            index: 7,
            hash: None,
        };
        let id = Id::from_str("00ad268c4d1f5826").unwrap();
        let make = |to: &LockTo, position| output(&seed(1), to, position, id, 8).unwrap();
        let one = make(&to, 0);
        assert_eq!(one.secret, make(&to, 0).secret);
        assert_eq!(one.message, make(&to, 0).message);
        let stated = conditions(&one.secret).unwrap().unwrap();
        assert_eq!(stated.data, to.key.as_str());
        assert_eq!(stated.locktime, Some(to.locktime));
        let refund = public(&refund_secret(&seed(1), 7).unwrap()).unwrap();
        assert_eq!(stated.refund_keys, [refund.to_string()]);
        let later = LockTo {
            locktime: to.locktime.plus_secs(1),
            ..to.clone()
        };
        let next = LockTo {
            index: 8,
            ..to.clone()
        };
        let preimage = preimage(&seed(1), 3).unwrap();
        let hashed = LockTo {
            hash: Some(preimage.hash()),
            ..to.clone()
        };
        let stated = conditions(&make(&hashed, 0).secret).unwrap().unwrap();
        let ours = std::slice::from_ref(&to.key);
        let lock = accept_hashed(
            &[Some(stated)],
            ours,
            Timestamp::default(),
            std::time::Duration::ZERO,
        );
        let good = HashLock {
            hash: preimage.hash(),
            until: to.locktime,
        };
        assert_eq!(lock, Ok(good));
        for other in [
            make(&to, 1),
            make(&later, 0),
            make(&next, 0),
            make(&hashed, 0),
        ] {
            assert_ne!(one.secret, other.secret);
            assert_ne!(one.blinding, other.blinding);
        }
    }

    #[test]
    fn the_face_pays_the_fee() {
        for ppk in [0, 1, 100, 999, 1000, 2500] {
            for amount in [1, 2, 63, 64, 65, 1000, 4095, 1 << 40] {
                let face = face_for(ppk, amount);
                let fee = input_fee(ppk, u64::from(face.count_ones()));
                assert!(face - fee >= amount, "{amount} at {ppk}");
                let less = face - 1;
                let left = less.saturating_sub(input_fee(ppk, u64::from(less.count_ones())));
                assert!(face == amount || left < amount, "{amount} at {ppk}");
            }
        }
    }

    #[test]
    fn amounts_are_split_into_what_the_keyset_has() {
        let powers: Vec<u64> = (0..10).map(|bit| 1 << bit).collect();
        assert_eq!(split(13, powers.clone()), Some(vec![1, 4, 8]));
        assert_eq!(split(1024, powers), Some(vec![512, 512]));
        assert_eq!(split(3, vec![2]), None);
        assert_eq!(split(0, vec![1]), None);
        assert_eq!(split(65, vec![1]), None, "too many proofs");
    }
}
