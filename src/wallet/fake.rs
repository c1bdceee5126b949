//! [`FakeMint`] and [`FakeWallet`]: ecash in memory for scenario tests. No
//! cryptography, no network (delays are tokio's, so a paused clock runs them),
//! and the same tokens in every run. Locktimes are kept by the system's clock,
//! or by the time that a test sets. Faults are knobs of the mint, and the mint
//! counts what it was asked. Invoices say themselves what becomes of them:
//! [`invoice`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::locks::{face_for, input_fee, is_point};
use super::token::{MAX_PROOFS, normalise, payment_id};
use super::{
    Call, LockTo, Melt, MeltQuote, MintFacts, MintProbe, MintQuote, MintUrl, PendingSend,
    ProofsState, Recovery, Redeemed, RedemptionState, SentToken, TokenInfo, Unit, Wallet,
    WalletError,
};
use crate::core::ids::PaymentId;
use crate::core::money::Msat;
use crate::core::payment::hash_lock::Preimage;
use crate::core::payment::lock::{Conditions, Kind, LockKey};
use crate::core::purse::{Merge, Piece};
use crate::core::time::Timestamp;
use crate::protocol::MAX_TOKEN;

mod melts;

pub use melts::{Fate, invoice, stale_invoice};

/// What the fake's tokens begin with.
const PREFIX: &str = "fakecash";

/// Inputs of one request, as real mints bound them.
const MAX_INPUTS: usize = 1000;

/// What such a mint says that it does (NUT-06).
const NUTS: [u16; 10] = [4, 5, 7, 8, 9, 10, 11, 12, 14, 20];

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FakeProof {
    id: u64,
    amount: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lock: Option<Conditions>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FakeToken {
    mint: String,
    unit: String,
    proofs: Vec<FakeProof>,
}

impl FakeToken {
    fn encode(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        format!("{PREFIX}{}", hex::encode(json))
    }

    fn decode(text: &str) -> Result<Self, WalletError> {
        let malformed = || WalletError::Malformed("not a token".to_owned());
        if text.len() > MAX_TOKEN {
            return Err(WalletError::Malformed("too long".to_owned()));
        }
        let hexed = text.strip_prefix(PREFIX).ok_or_else(malformed)?;
        let json = hex::decode(hexed).map_err(|_| malformed())?;
        serde_json::from_slice(&json).map_err(|_| malformed())
    }

    fn y(&self, proof: &FakeProof) -> String {
        let mut hash = Sha256::new();
        hash.update(self.mint.as_bytes());
        hash.update(proof.id.to_be_bytes());
        format!("02{}", hex::encode(hash.finalize()))
    }

    fn ids(&self) -> Vec<u64> {
        self.proofs.iter().map(|proof| proof.id).collect()
    }

    fn units(&self) -> u64 {
        self.proofs
            .iter()
            .fold(0, |sum, proof| sum.saturating_add(proof.amount))
    }
}

/// What is done, and its answer held back for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    Send,
    Redeem,
    Melt,
}

#[derive(Debug, Default)]
struct MintState {
    next: u64,
    spent: BTreeMap<u64, bool>,
    fee_ppk: u64,
    down: bool,
    pending: bool,
    delay: Duration,
    fail_redeem: Option<WalletError>,
    lose_redeem: bool,
    unknown_for: u32,
    fail_send: Option<WalletError>,
    lose_send: bool,
    hold: Option<Hold>,
    redeem_calls: BTreeMap<PaymentId, u32>,
    checks: u32,
    keeps_no_locks: bool,
    now: Option<Timestamp>,
    /// What became of a token, by its payment id, that was locked so.
    locked: BTreeMap<(PaymentId, u64), String>,
    lose_lock: bool,
    refuse_locks: bool,
    lightning: melts::Lightning,
    invoices: BTreeMap<String, FakeInvoice>,
    expiry: Option<Timestamp>,
    fail_invoice: Option<WalletError>,
    lose_collect: bool,
    lose_merge: bool,
    merges: u32,
    /// NUTs that it does not do.
    lacks: Vec<u16>,
    expires_at: Option<Timestamp>,
    calls: Vec<Call>,
}

/// An invoice of the fake.
#[derive(Clone, Debug)]
struct FakeInvoice {
    bolt11: String,
    units: u64,
    unit: Unit,
    /// Whose key may make the ecash of it.
    seed: u64,
    paid: bool,
    asked: u32,
}

/// A mint in memory: makes tokens, remembers which are spent, fails on request.
/// Clones are the same mint.
#[derive(Clone, Debug)]
pub struct FakeMint {
    url: MintUrl,
    state: Arc<Mutex<MintState>>,
}

impl FakeMint {
    /// A mint at this URL (never contacted), without fees.
    pub fn new(url: &str) -> Self {
        let url = normalise(url).unwrap_or_else(|_| MintUrl(url.to_owned()));
        Self {
            url,
            state: Arc::default(),
        }
    }

    /// Its URL, normalised.
    pub fn url(&self) -> MintUrl {
        self.url.clone()
    }

    /// Sets the input fee, in parts per thousand per proof (NUT-02).
    pub fn set_fee_ppk(&self, ppk: u64) {
        self.lock().fee_ppk = ppk;
    }

    /// Takes the mint down, or up again: while down it answers nothing.
    pub fn set_down(&self, down: bool) {
        self.lock().down = down;
    }

    /// While set, `check` says that proofs are in an unfinished operation.
    pub fn set_pending(&self, pending: bool) {
        self.lock().pending = pending;
    }

    /// Every answer takes this long.
    pub fn set_delay(&self, delay: Duration) {
        self.lock().delay = delay;
    }

    /// The next `redeem` fails like this and takes nothing.
    pub fn fail_next_redeem(&self, error: WalletError) {
        self.lock().fail_redeem = Some(error);
    }

    /// The next `redeem` or `reclaim` takes the money, and its answer is lost.
    pub fn lose_next_redeem(&self) {
        self.lock().lose_redeem = true;
    }

    /// The next `times` calls of `redemption` do not find out.
    pub fn unknown_for(&self, times: u32) {
        self.lock().unknown_for = times;
    }

    /// The next `send` fails like this and takes nothing.
    pub fn fail_next_send(&self, error: WalletError) {
        self.lock().fail_send = Some(error);
    }

    /// The next `send` makes its token, and its answer is lost.
    pub fn lose_next_send(&self) {
        self.lock().lose_send = true;
    }

    /// The next `send` makes its token and never answers: for a process that dies
    /// there.
    pub fn hold_next_send(&self) {
        self.lock().hold = Some(Hold::Send);
    }

    /// The next `redeem` takes the money and never answers.
    pub fn hold_next_redeem(&self) {
        self.lock().hold = Some(Hold::Redeem);
    }

    /// Whether it says that it keeps locks; it does so in any case.
    pub fn set_locks(&self, locks: bool) {
        self.lock().keeps_no_locks = !locks;
    }

    /// The time by which it keeps locks from now on.
    pub fn set_now(&self, now: Timestamp) {
        self.lock().now = Some(now);
    }

    /// The next time that a token is locked, the answer is lost.
    pub fn lose_next_lock(&self) {
        self.lock().lose_lock = true;
    }

    /// While set, it refuses to lock tokens, though it says that it does.
    pub fn refuse_locks(&self, refuse: bool) {
        self.lock().refuse_locks = refuse;
    }

    /// When invoices expire that are made from now on; never at first.
    pub fn set_expiry(&self, expiry: Option<Timestamp>) {
        self.lock().expiry = expiry;
    }

    /// The next time that an invoice is asked for, it fails like this.
    pub fn fail_next_invoice(&self, error: WalletError) {
        self.lock().fail_invoice = Some(error);
    }

    /// The next time that ecash is made of a paid invoice, the answer is lost.
    pub fn lose_next_collect(&self) {
        self.lock().lose_collect = true;
    }

    /// Pays an invoice of this mint; `false`: it has none like it, or it is paid.
    pub fn pay(&self, bolt11: &str) -> bool {
        let mut state = self.lock();
        let mut invoices = state.invoices.values_mut();
        let unpaid = invoices.find(|one| one.bolt11 == bolt11 && !one.paid);
        unpaid.map(|one| one.paid = true).is_some()
    }

    /// How often it was asked whether this invoice is paid.
    pub fn asked_about(&self, bolt11: &str) -> u32 {
        let state = self.lock();
        let mut invoices = state.invoices.values();
        invoices
            .find(|one| one.bolt11 == bolt11)
            .map_or(0, |one| one.asked)
    }

    /// How many invoices it has made.
    pub fn invoices(&self) -> usize {
        self.lock().invoices.len()
    }

    /// The next time that proofs are merged, they are, and the answer is lost.
    pub fn lose_next_merge(&self) {
        self.lock().lose_merge = true;
    }

    /// How often proofs were to be merged.
    pub fn merges(&self) -> u32 {
        self.lock().merges
    }

    /// From now on it says that it does not do these NUTs, and all others.
    pub fn set_lacks(&self, nuts: &[u16]) {
        self.lock().lacks = nuts.to_vec();
    }

    /// When its keyset expires.
    pub fn set_keyset_expiry(&self, at: Option<Timestamp>) {
        self.lock().expires_at = at;
    }

    /// A new token over `amount` in sat (rounded up), in nobody's wallet.
    pub fn token(&self, amount: Msat) -> String {
        self.issue("sat", amount.sat_ceil(), None).encode()
    }

    /// As [`token`](Self::token), with these spending conditions.
    pub fn locked_token(&self, amount: Msat, lock: &Conditions) -> String {
        self.issue("sat", amount.sat_ceil(), Some(lock)).encode()
    }

    /// A new token over `amount` pieces of any unit: `sat`, `msat`, `usd`…
    pub fn token_in(&self, unit: &str, amount: u64) -> String {
        self.issue(unit, amount, None).encode()
    }

    /// Marks the token's proofs as spent by somebody else.
    pub fn spend(&self, token: &str) {
        if let Ok(token) = FakeToken::decode(token) {
            let mut state = self.lock();
            for id in token.ids() {
                state.spent.insert(id, true);
            }
        }
    }

    /// `true` once any proof of the token is spent.
    pub fn is_spent(&self, token: &str) -> bool {
        FakeToken::decode(token).is_ok_and(|token| spent(&self.lock(), &token))
    }

    /// How often `redeem` was called for this payment, with any result.
    pub fn redeem_calls(&self, payment: PaymentId) -> u32 {
        self.lock().redeem_calls.get(&payment).copied().unwrap_or(0)
    }

    /// How often `redeem` was called in all.
    pub fn total_redeem_calls(&self) -> u32 {
        self.lock().redeem_calls.values().sum()
    }

    /// How often proofs were asked about.
    pub fn checks(&self) -> u32 {
        self.lock().checks
    }

    fn lock(&self) -> MutexGuard<'_, MintState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Proofs in powers of two, as real mints make them.
    fn issue(&self, unit: &str, amount: u64, lock: Option<&Conditions>) -> FakeToken {
        let mut state = self.lock();
        let proofs = split(amount)
            .map(|amount| {
                state.next += 1;
                let id = state.next;
                state.spent.insert(id, false);
                let lock = lock.cloned();
                FakeProof { id, amount, lock }
            })
            .collect();
        FakeToken {
            mint: self.url.0.clone(),
            unit: unit.to_owned(),
            proofs,
        }
    }

    /// Waits for ever where that was asked for.
    async fn held(&self, what: Hold) {
        let hold = {
            let mut state = self.lock();
            let hold = state.hold == Some(what);
            if hold {
                state.hold = None;
            }
            hold
        };
        if hold {
            std::future::pending::<()>().await;
        }
    }

    /// Waits as long as the mint takes; fails where it is down by then.
    async fn ask(&self) -> Result<(), WalletError> {
        let delay = self.lock().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let mut state = self.lock();
        let failed = state.down.then(|| "connection refused".to_owned());
        state.calls.push(Call {
            took: delay,
            failed,
        });
        if state.calls.len() > 64 {
            state.calls.remove(0);
        }
        if state.down {
            return Err(WalletError::MintDown("connection refused".to_owned()));
        }
        Ok(())
    }
}

fn split(amount: u64) -> impl Iterator<Item = u64> {
    (0..u64::BITS)
        .map(|bit| 1u64 << bit)
        .filter(move |piece| amount & piece != 0)
}

fn spent(state: &MintState, token: &FakeToken) -> bool {
    token
        .proofs
        .iter()
        .any(|proof| state.spent.get(&proof.id).copied().unwrap_or(true))
}

impl MintState {
    /// Whether the holder of `key` can spend this token now (NUT-11).
    fn opens(&self, token: &FakeToken, key: &LockKey, preimage: Option<&Preimage>) -> bool {
        let now = self.now.unwrap_or_else(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            Timestamp::from_secs(since.unwrap_or_default().as_secs())
        });
        let mut locks = token.proofs.iter().filter_map(|proof| proof.lock.as_ref());
        locks.all(|lock| {
            let late = lock.locktime.is_some_and(|locktime| locktime < now);
            let refund = lock.refund_keys.iter().any(|one| one == key.as_str());
            let receiver = match lock.kind {
                Kind::P2pk => lock.data == key.as_str(),
                Kind::Htlc => {
                    let ours = |one: &String| one == key.as_str();
                    let opened = preimage.is_some_and(|one| one.hash().as_str() == lock.data);
                    opened && (lock.extra_keys.is_empty() || lock.extra_keys.iter().any(ours))
                }
            };
            receiver || late && (refund || lock.refund_keys.is_empty())
        })
    }
}

fn in_msat(unit: &Unit, amount: u64) -> Result<Msat, WalletError> {
    super::token::to_msat(unit, amount)
        .ok_or_else(|| WalletError::Malformed("the amount is too large".to_owned()))
}

#[derive(Debug, Default)]
struct Books {
    /// Proofs of ours, in pieces of the unit, by a number of our own.
    holdings: BTreeMap<(MintUrl, Unit), BTreeMap<u64, u64>>,
    /// The next proof's number.
    next: u64,
    /// Numbers of proofs of keysets that the mint has turned away from.
    idle: BTreeSet<u64>,
    done: BTreeMap<PaymentId, Redeemed>,
    sent: BTreeMap<PaymentId, PendingSend>,
    /// What was made of invoices, by the mint's name of them.
    minted: BTreeMap<String, Msat>,
    /// Since when tokens are made, as this wallet tells; it has no clock.
    now: Timestamp,
}

/// Which key of a wallet.
#[derive(Clone, Copy)]
enum Key {
    Lock,
    Refund(u64),
    Claim(u64),
}

impl Books {
    /// What lies there.
    fn sum(&self, purse: &(MintUrl, Unit)) -> Result<Msat, WalletError> {
        let held = self.holdings.get(purse).into_iter().flatten();
        let sum = held.fold(0u64, |sum, (_, piece)| sum.saturating_add(*piece));
        in_msat(&purse.1, sum)
    }

    /// Proofs over so many pieces, in powers of two.
    fn put(&mut self, purse: (MintUrl, Unit), units: u64) {
        for piece in split(units) {
            self.next += 1;
            let number = self.next;
            self.holdings
                .entry(purse.clone())
                .or_default()
                .insert(number, piece);
        }
    }

    /// Takes proofs out, the largest first, that pay `face` and what the mint takes
    /// for them. Gives what it takes; what is left over stays.
    fn take(&mut self, purse: &(MintUrl, Unit), face: u64, ppk: u64) -> Result<Msat, WalletError> {
        let held = self.holdings.entry(purse.clone()).or_default();
        let mut all: Vec<(u64, u64)> = held.iter().map(|(id, piece)| (*piece, *id)).collect();
        all.sort_unstable_by_key(|one| std::cmp::Reverse(*one));
        let (mut sum, mut used) = (0u64, Vec::new());
        let mut fee = input_fee(ppk, 1);
        for (piece, id) in all {
            if sum >= face.saturating_add(fee) {
                break;
            }
            sum = sum.saturating_add(piece);
            used.push(id);
            fee = input_fee(ppk, used.len() as u64);
        }
        let need = face.saturating_add(fee);
        let Some(left) = sum.checked_sub(need) else {
            return Err(WalletError::NoBalance {
                have: in_msat(&purse.1, sum)?,
                need: in_msat(&purse.1, need)?,
            });
        };
        if used.len() > MAX_INPUTS {
            return Err(WalletError::Refused("too many inputs".to_owned()));
        }
        held.retain(|id, _| !used.contains(id));
        self.put(purse.clone(), left);
        in_msat(&purse.1, fee)
    }
}

/// A wallet in memory at some [`FakeMint`]s. Keep it over a simulated restart:
/// it stands for the wallet's file.
#[derive(Clone, Debug)]
pub struct FakeWallet {
    mints: BTreeMap<MintUrl, FakeMint>,
    books: Arc<Mutex<Books>>,
    /// Stands for the seed: each wallet has another one.
    seed: u64,
}

impl FakeWallet {
    /// A wallet that accepts these mints.
    pub fn new(mints: impl IntoIterator<Item = FakeMint>) -> Self {
        static SEEDS: AtomicU64 = AtomicU64::new(0);
        Self {
            seed: SEEDS.fetch_add(1, Ordering::Relaxed),
            mints: mints.into_iter().map(|mint| (mint.url(), mint)).collect(),
            books: Arc::default(),
        }
    }

    /// Gives the wallet ecash from nowhere.
    pub fn fund(&self, mint: &MintUrl, unit: &Unit, amount: Msat) {
        self.credit(mint, unit, amount);
    }

    /// Tokens are made at this instant from now on; the epoch at first.
    pub fn set_time(&self, now: Timestamp) {
        self.lock().now = now;
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn credit(&self, mint: &MintUrl, unit: &Unit, amount: Msat) {
        let units = amount.get() / unit.piece().get();
        self.lock().put((mint.clone(), unit.clone()), units);
    }

    /// The mint signs with another keyset from now on: what the wallet has there
    /// is of one that it does not use any more.
    pub fn rotate(&self, mint: &MintUrl) {
        let mut books = self.lock();
        let here = books.holdings.iter().filter(|((at, _), _)| at == mint);
        let idle: Vec<u64> = here.flat_map(|(_, purse)| purse.keys().copied()).collect();
        books.idle.extend(idle);
    }

    /// How many proofs it has in all.
    pub fn proofs(&self) -> usize {
        self.lock().holdings.values().map(BTreeMap::len).sum()
    }

    fn mint(&self, url: &MintUrl) -> Result<&FakeMint, WalletError> {
        self.mints
            .get(url)
            .ok_or_else(|| WalletError::MintNotAccepted(url.0.clone()))
    }

    fn read(&self, text: &str) -> Result<(FakeToken, TokenInfo, &FakeMint), WalletError> {
        let token = FakeToken::decode(text)?;
        let url = normalise(&token.mint)?;
        let mint = self.mint(&url)?;
        let unit = match token.unit.as_str() {
            "sat" => Unit::Sat,
            "msat" => Unit::Msat,
            other => return Err(WalletError::WrongUnit(other.to_owned())),
        };
        let mut ids = token.ids();
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() || ids.len() != token.proofs.len() || ids.len() > MAX_PROOFS {
            return Err(WalletError::Malformed("bad number of proofs".to_owned()));
        }
        let mut ys: Vec<String> = token.proofs.iter().map(|proof| token.y(proof)).collect();
        ys.sort_unstable();
        let info = TokenInfo {
            payment: payment_id(&url, &unit, &ys),
            face: in_msat(&unit, token.units())?,
            mint: url,
            unit,
            ys,
            locks: token
                .proofs
                .iter()
                .map(|proof| proof.lock.clone())
                .collect(),
        };
        Ok((token, info, mint))
    }

    /// What redeeming this token leaves, by the mint's fees of now.
    fn after_fee(
        state: &MintState,
        token: &FakeToken,
        info: &TokenInfo,
    ) -> Result<Redeemed, WalletError> {
        let fee = input_fee(state.fee_ppk, token.proofs.len() as u64);
        let fee = in_msat(&info.unit, fee)?;
        match info.face.checked_sub(fee) {
            Some(net) if !net.is_zero() => Ok(Redeemed { net, fee }),
            _ => Err(WalletError::TooSmall),
        }
    }

    /// A key that is this wallet's alone, on the curve as real ones are.
    fn key(&self, of: Key) -> LockKey {
        let (kind, index) = match of {
            Key::Lock => (0, 0),
            Key::Refund(index) => (1, index),
            Key::Claim(index) => (2, index),
        };
        let mut attempt = 0_u64;
        loop {
            let mut hash = Sha256::new();
            hash.update(self.seed.to_be_bytes());
            hash.update([kind]);
            hash.update(index.to_be_bytes());
            hash.update(attempt.to_be_bytes());
            let text = format!("02{}", hex::encode(hash.finalize()));
            match text.parse() {
                Ok(key) if is_point(&key) => return key,
                _ => attempt += 1,
            }
        }
    }

    async fn redeem_with(
        &self,
        payment: PaymentId,
        token: &str,
        key: &LockKey,
        preimage: Option<&Preimage>,
    ) -> Result<Redeemed, WalletError> {
        let (token, info, mint) = self.read(token)?;
        *mint.lock().redeem_calls.entry(payment).or_default() += 1;
        mint.ask().await?;
        let (redeemed, lost) = {
            let mut state = mint.lock();
            if let Some(error) = state.fail_redeem.take() {
                return Err(error);
            }
            if spent(&state, &token) {
                return Err(WalletError::Spent);
            }
            let redeemed = Self::after_fee(&state, &token, &info)?;
            if !state.opens(&token, key, preimage) {
                return Err(WalletError::Refused("it is locked".to_owned()));
            }
            for id in token.ids() {
                state.spent.insert(id, true);
            }
            (redeemed, std::mem::take(&mut state.lose_redeem))
        };
        self.credit(&info.mint, &info.unit, redeemed.net);
        self.lock().done.insert(info.payment, redeemed);
        mint.held(Hold::Redeem).await;
        if lost {
            return Err(WalletError::OutcomeUnknown(
                "the connection was closed".to_owned(),
            ));
        }
        Ok(redeemed)
    }
}

#[async_trait]
impl Wallet for FakeWallet {
    fn inspect(&self, token: &str) -> Result<TokenInfo, WalletError> {
        self.read(token).map(|(_, info, _)| info)
    }

    async fn facts(&self, mint: &MintUrl) -> Result<MintFacts, WalletError> {
        let fake = self.mint(mint)?;
        fake.ask().await?;
        let state = fake.lock();
        Ok(MintFacts {
            mint: mint.clone(),
            units: vec![Unit::Sat, Unit::Msat],
            input_fee_ppk: state.fee_ppk,
            locks: !state.keeps_no_locks,
            hash_locks: !state.keeps_no_locks,
        })
    }

    async fn net_of(&self, token: &str) -> Result<Msat, WalletError> {
        let (token, info, mint) = self.read(token)?;
        mint.ask().await?;
        let redeemed = Self::after_fee(&mint.lock(), &token, &info)?;
        Ok(redeemed.net)
    }

    async fn check(&self, token: &str) -> Result<ProofsState, WalletError> {
        let (token, _, mint) = self.read(token)?;
        mint.ask().await?;
        let mut state = mint.lock();
        state.checks += 1;
        Ok(if spent(&state, &token) {
            ProofsState::Spent
        } else if state.pending {
            ProofsState::Pending
        } else {
            ProofsState::Unspent
        })
    }

    fn lock_key(&self) -> LockKey {
        self.key(Key::Lock)
    }

    async fn redeem(&self, payment: PaymentId, token: &str) -> Result<Redeemed, WalletError> {
        self.redeem_with(payment, token, &self.key(Key::Lock), None)
            .await
    }

    async fn take_back(
        &self,
        payment: PaymentId,
        token: &str,
        index: u64,
    ) -> Result<Redeemed, WalletError> {
        self.redeem_with(payment, token, &self.key(Key::Refund(index)), None)
            .await
    }

    fn claim_key(&self, index: u64) -> Result<LockKey, WalletError> {
        Ok(self.key(Key::Claim(index)))
    }

    async fn claim(
        &self,
        payment: PaymentId,
        token: &str,
        index: u64,
    ) -> Result<Redeemed, WalletError> {
        self.redeem_with(payment, token, &self.key(Key::Claim(index)), None)
            .await
    }

    fn preimage(&self, index: u64) -> Result<Preimage, WalletError> {
        let mut hash = Sha256::new();
        hash.update(self.seed.to_be_bytes());
        hash.update([3]);
        hash.update(index.to_be_bytes());
        Ok(Preimage::from_bytes(hash.finalize().into()))
    }

    async fn redeem_hashed(
        &self,
        payment: PaymentId,
        token: &str,
        preimage: &Preimage,
    ) -> Result<Redeemed, WalletError> {
        self.redeem_with(payment, token, &self.key(Key::Lock), Some(preimage))
            .await
    }

    async fn take_back_hashed(&self, token: &str, to: &LockTo) -> Result<Redeemed, WalletError> {
        let payment = self.inspect(token)?.payment;
        if let RedemptionState::Done(done) = self.redemption(payment, token).await? {
            return Ok(done);
        }
        self.take_back(payment, token, to.index).await
    }

    async fn lock(&self, token: &str, to: &LockTo) -> Result<SentToken, WalletError> {
        let (source, info, mint) = self.read(token)?;
        mint.ask().await?;
        let known = (info.payment, to.index);
        if !mint.lock().locked.contains_key(&known) {
            let net = {
                let mut state = mint.lock();
                if spent(&state, &source) {
                    return Err(WalletError::Spent);
                }
                if state.refuse_locks {
                    return Err(WalletError::Refused("no locks today".to_owned()));
                }
                let net = Self::after_fee(&state, &source, &info)?.net;
                for id in source.ids() {
                    state.spent.insert(id, true);
                }
                net
            };
            let units = super::token::whole_units(&info.unit, net).ok_or(WalletError::TooSmall)?;
            let (kind, data, extra_keys) = match &to.hash {
                None => (Kind::P2pk, to.key.to_string(), Vec::new()),
                Some(hash) => (Kind::Htlc, hash.to_string(), vec![to.key.to_string()]),
            };
            let lock = Conditions {
                kind,
                data,
                extra_keys,
                n_sigs: None,
                sig_all: false,
                locktime: Some(to.locktime),
                refund_keys: vec![self.key(Key::Refund(to.index)).to_string()],
                n_sigs_refund: None,
            };
            let name = super::token::unit_name(&info.unit);
            let made = mint.issue(name, units, Some(&lock)).encode();
            mint.lock().locked.insert(known, made);
        }
        let (made, lost) = {
            let mut state = mint.lock();
            let made = state.locked.get(&known).cloned();
            (made, std::mem::take(&mut state.lose_lock))
        };
        let Some(token) = made.filter(|_| !lost) else {
            return Err(WalletError::OutcomeUnknown(
                "the connection was closed".to_owned(),
            ));
        };
        let made = self.inspect(&token)?;
        Ok(SentToken {
            token,
            mint: made.mint,
            unit: made.unit,
            face: made.face,
            fee: info.face.saturating_sub(made.face),
            ys: made.ys,
        })
    }

    async fn redemption(
        &self,
        _payment: PaymentId,
        token: &str,
    ) -> Result<RedemptionState, WalletError> {
        let (token, info, mint) = self.read(token)?;
        mint.ask().await?;
        {
            let mut state = mint.lock();
            if state.unknown_for > 0 {
                state.unknown_for -= 1;
                return Ok(RedemptionState::Unknown);
            }
        }
        if let Some(done) = self.lock().done.get(&info.payment) {
            return Ok(RedemptionState::Done(*done));
        }
        Ok(if spent(&mint.lock(), &token) {
            RedemptionState::SpentElsewhere
        } else {
            RedemptionState::NotDone
        })
    }

    async fn send(
        &self,
        mint: &MintUrl,
        unit: &Unit,
        amount: Msat,
        include_fee: bool,
    ) -> Result<SentToken, WalletError> {
        let fake = self.mint(mint)?;
        fake.ask().await?;
        let units = super::token::whole_units(unit, amount).ok_or(WalletError::TooSmall)?;
        let ppk = {
            let mut state = fake.lock();
            if let Some(error) = state.fail_send.take() {
                return Err(error);
            }
            state.fee_ppk
        };
        let face_units = if include_fee {
            face_for(ppk, units)
        } else {
            units
        };
        let face = in_msat(unit, face_units)?;
        let purse = (mint.clone(), unit.clone());
        let fee = self.lock().take(&purse, face_units, ppk)?;
        let name = super::token::unit_name(unit);
        let token = fake.issue(name, face_units, None).encode();
        let info = self.inspect(&token)?;
        {
            let mut books = self.lock();
            let sent = PendingSend {
                token: token.clone(),
                mint: info.mint.clone(),
                unit: info.unit.clone(),
                face,
                created: books.now,
            };
            books.sent.insert(info.payment, sent);
        }
        fake.held(Hold::Send).await;
        if std::mem::take(&mut fake.lock().lose_send) {
            return Err(WalletError::OutcomeUnknown(
                "the connection was closed".to_owned(),
            ));
        }
        Ok(SentToken {
            token,
            mint: info.mint,
            unit: info.unit,
            face,
            fee,
            ys: info.ys,
        })
    }

    async fn melt_quote(
        &self,
        mint: &MintUrl,
        unit: &Unit,
        bolt11: &str,
    ) -> Result<MeltQuote, WalletError> {
        self.quote(mint, unit, bolt11).await
    }

    async fn melt(
        &self,
        mint: &MintUrl,
        unit: &Unit,
        quote: &str,
        most: Msat,
    ) -> Result<Melt, WalletError> {
        self.pay(mint, unit, quote, most).await
    }

    async fn melt_state(
        &self,
        mint: &MintUrl,
        unit: &Unit,
        quote: &str,
    ) -> Result<Melt, WalletError> {
        self.state_of(mint, unit, quote).await
    }

    async fn invoice(
        &self,
        mint: &MintUrl,
        unit: &Unit,
        amount: Msat,
    ) -> Result<MintQuote, WalletError> {
        let fake = self.mint(mint)?;
        let units = super::token::whole_units(unit, amount).ok_or(WalletError::TooSmall)?;
        fake.ask().await?;
        let text = cdk_fake_wallet::create_fake_invoice(amount.get(), String::new()).to_string();
        let mut state = fake.lock();
        if let Some(error) = state.fail_invoice.take() {
            return Err(error);
        }
        let id = format!("quote-{}", state.invoices.len());
        let made = FakeInvoice {
            bolt11: text.clone(),
            units,
            unit: unit.clone(),
            seed: self.seed,
            paid: false,
            asked: 0,
        };
        state.invoices.insert(id.clone(), made);
        Ok(MintQuote {
            id,
            mint: mint.clone(),
            unit: unit.clone(),
            bolt11: text,
            expires_at: state.expiry,
        })
    }

    async fn collect(&self, quote: &MintQuote) -> Result<Option<Msat>, WalletError> {
        let fake = self.mint(&quote.mint)?;
        fake.ask().await?;
        let (amount, lost) = {
            let mut state = fake.lock();
            let lost = state.lose_collect;
            let known = state.invoices.get_mut(&quote.id);
            let Some(known) = known.filter(|one| one.seed == self.seed) else {
                return Err(WalletError::Refused("no such invoice".to_owned()));
            };
            known.asked += 1;
            if !known.paid {
                return Ok(None);
            }
            let amount = in_msat(&known.unit, known.units)?;
            state.lose_collect = false;
            (amount, lost)
        };
        let first = self
            .lock()
            .minted
            .insert(quote.id.clone(), amount)
            .is_none();
        if first {
            self.credit(&quote.mint, &quote.unit, amount);
        }
        if lost {
            return Err(WalletError::OutcomeUnknown(
                "the connection was closed".to_owned(),
            ));
        }
        Ok(Some(amount))
    }

    async fn forget_invoice(&self, _quote: &MintQuote) -> Result<(), WalletError> {
        Ok(())
    }

    async fn balances(&self) -> Result<BTreeMap<(MintUrl, Unit), Msat>, WalletError> {
        let books = self.lock();
        let sums = books.holdings.iter().map(|(purse, held)| {
            let sum = held
                .values()
                .fold(0u64, |sum, piece| sum.saturating_add(*piece));
            Ok((purse.clone(), in_msat(&purse.1, sum)?))
        });
        sums.collect()
    }

    async fn pieces(&self, mint: &MintUrl, unit: &Unit) -> Result<Vec<Piece>, WalletError> {
        let ppk = self.mint(mint)?.lock().fee_ppk;
        let books = self.lock();
        let held = books.holdings.get(&(mint.clone(), unit.clone()));
        let pieces = held.into_iter().flatten().map(|(id, piece)| {
            Ok(Piece {
                y: id.to_string(),
                amount: in_msat(unit, *piece)?,
                ppk,
                active: !books.idle.contains(id),
            })
        });
        pieces.collect()
    }

    async fn merge(&self, mint: &MintUrl, unit: &Unit, merge: &Merge) -> Result<Msat, WalletError> {
        let fake = self.mint(mint)?;
        fake.ask().await?;
        let (ppk, lost) = {
            let mut state = fake.lock();
            state.merges += 1;
            (state.fee_ppk, std::mem::take(&mut state.lose_merge))
        };
        let ids: Vec<u64> = merge.ys.iter().filter_map(|y| y.parse().ok()).collect();
        {
            let mut books = self.lock();
            let purse = (mint.clone(), unit.clone());
            let held = books.holdings.entry(purse.clone()).or_default();
            let there: Vec<u64> = ids.iter().filter_map(|id| held.get(id).copied()).collect();
            if there.is_empty() {
                return Ok(merge.fee);
            }
            let fee = input_fee(ppk, there.len() as u64);
            let left = there.iter().sum::<u64>().checked_sub(fee);
            let Some(left) = left.filter(|_| there.len() == ids.len()) else {
                return Err(WalletError::Refused(
                    "they are not there any more".to_owned(),
                ));
            };
            held.retain(|id, _| !ids.contains(id));
            books.put(purse, left);
        }
        if lost {
            return Err(WalletError::OutcomeUnknown(
                "the connection was closed".to_owned(),
            ));
        }
        in_msat(unit, input_fee(ppk, ids.len() as u64))
    }

    async fn probe(&self, mint: &MintUrl) -> Result<MintProbe, WalletError> {
        let facts = self.facts(mint).await?;
        let state = self.mint(mint)?.lock();
        let mut nuts = NUTS.to_vec();
        nuts.retain(|nut| !state.lacks.contains(nut));
        if state.keeps_no_locks {
            nuts.retain(|nut| !matches!(nut, 10 | 11));
        }
        Ok(MintProbe {
            facts,
            nuts,
            expires_at: state.expires_at,
        })
    }

    fn calls(&self) -> Vec<(MintUrl, Call)> {
        let each = self.mints.values().flat_map(|mint| {
            let calls = std::mem::take(&mut mint.lock().calls);
            calls.into_iter().map(|call| (mint.url(), call))
        });
        each.collect()
    }

    async fn pending_sends(&self) -> Result<Vec<PendingSend>, WalletError> {
        Ok(self.lock().sent.values().cloned().collect())
    }

    async fn reclaim(&self, token: &str) -> Result<Msat, WalletError> {
        let (token, info, mint) = self.read(token)?;
        if !self.lock().sent.contains_key(&info.payment) {
            return Err(WalletError::Refused("no such token is pending".to_owned()));
        }
        mint.ask().await?;
        let (redeemed, lost) = {
            let mut state = mint.lock();
            if spent(&state, &token) {
                return Err(WalletError::Spent);
            }
            let redeemed = Self::after_fee(&state, &token, &info)?;
            for id in token.ids() {
                state.spent.insert(id, true);
            }
            (redeemed, std::mem::take(&mut state.lose_redeem))
        };
        self.credit(&info.mint, &info.unit, redeemed.net);
        self.lock().sent.remove(&info.payment);
        if lost {
            return Err(WalletError::OutcomeUnknown(
                "the connection was closed".to_owned(),
            ));
        }
        Ok(redeemed.net)
    }

    fn set_out_tokens(&self, _: super::OutTokens) {
        // It has no seed, and its books are not on disk.
    }

    async fn recover(&self) -> Result<Recovery, WalletError> {
        let sent: Vec<_> = self.lock().sent.clone().into_iter().collect();
        for (payment, pending) in sent {
            let (token, _, mint) = self.read(&pending.token)?;
            let gone = {
                let state = mint.lock();
                !state.down && spent(&state, &token)
            };
            if gone {
                self.lock().sent.remove(&payment);
            }
        }
        Ok(Recovery {
            unfinished: self.under_way(),
            ..Recovery::default()
        })
    }
}
