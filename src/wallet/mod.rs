//! Cashu ecash. [`Wallet`] is what the rest of satlet sees of it: look at a
//! token, ask the mint about it, redeem it once, make a token to send.
//! [`CdkWallet`](cdk_wallet::CdkWallet) is the real one (cdk on cdk-redb, one
//! actor for each mint and unit), [`FakeWallet`](fake::FakeWallet) the one that
//! scenario tests use; both pass the suite in `conformance`.

pub(crate) mod account;
mod actor;
mod calls;
pub mod cdk_wallet;
#[cfg(any(test, feature = "demo"))]
pub mod conformance;
mod errors;
#[cfg(any(test, feature = "demo"))]
pub mod fake;
mod hashed;
mod invoices;
mod keysets;
mod locks;
mod melts;
mod merge;
mod orphans;
mod outgoing;
mod owner;
mod recovery;
mod restore;
mod resync;
pub mod seed;
mod seen;
mod sends;
#[cfg(test)]
mod tests;
mod token;
mod transport;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::core::ids::PaymentId;
use crate::core::money::Msat;
use crate::core::payment::hash_lock::Preimage;
use crate::core::payment::lock::{Conditions, LockKey};
use crate::core::purse::{Merge, Piece};
use crate::core::time::Timestamp;

pub use crate::core::payment::lock::LockTo;
pub use calls::{Call, MintProbe};
pub use invoices::{MintQuote, amount_of};
pub use locks::{face_for, is_point, lock_key_of};
pub use outgoing::{Invoice, MAX_INVOICE, Melt, MeltQuote, read_invoice};
pub use token::{MAX_PROOFS, normalise, read_info};

/// A mint's URL, normalised (no trailing slash, lower-case host).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MintUrl(pub String);

/// The unit of a token. Only these two are accepted; others are named.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Satoshi; 1000 msat.
    Sat,
    /// Millisatoshi.
    Msat,
}

/// What a token says of itself, read without asking anybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// SHA-256 over mint, unit and sorted Ys (payments.md section 9).
    pub payment: PaymentId,
    /// Where it can be redeemed.
    pub mint: MintUrl,
    /// Its unit.
    pub unit: Unit,
    /// Sum of its proofs.
    pub face: Msat,
    /// Y of every proof (NUT-00), hex of the compressed point, sorted.
    pub ys: Vec<String>,
    /// Spending conditions of every proof, in the token's order; `None`: whoever
    /// holds it can spend it. Whether they are any good is for
    /// [`lock::accept`](crate::core::payment::lock::accept).
    #[serde(default)]
    pub locks: Vec<Option<Conditions>>,
}

/// What redeeming a token gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redeemed {
    /// What the wallet has more.
    pub net: Msat,
    /// What the mint kept (NUT-02): face - net.
    pub fee: Msat,
}

/// A token made to be sent.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentToken {
    /// The token, `cashuB…`. Money: never logged.
    pub token: String,
    /// Its mint.
    pub mint: MintUrl,
    /// Its unit.
    pub unit: Unit,
    /// Sum of its proofs.
    pub face: Msat,
    /// What making it cost us beyond `face`.
    pub fee: Msat,
    /// Y of every proof, as in [`TokenInfo::ys`].
    pub ys: Vec<String>,
}

impl std::fmt::Debug for SentToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SentToken")
            .field("mint", &self.mint)
            .field("face", &self.face)
            .finish_non_exhaustive()
    }
}

/// A token that was made and is not known to be redeemed.
#[derive(Clone, PartialEq, Eq)]
pub struct PendingSend {
    /// The token. Money: never logged.
    pub token: String,
    /// Its mint.
    pub mint: MintUrl,
    /// Its unit.
    pub unit: Unit,
    /// Sum of its proofs.
    pub face: Msat,
    /// When it was made.
    pub created: Timestamp,
}

impl std::fmt::Debug for PendingSend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PendingSend")
            .field("mint", &self.mint)
            .field("face", &self.face)
            .finish_non_exhaustive()
    }
}

/// What the mint says of a set of proofs (NUT-07).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProofsState {
    /// All of them can be redeemed.
    Unspent,
    /// At least one is in somebody's unfinished operation.
    Pending,
    /// At least one is spent.
    Spent,
}

/// What a mint charges and offers, as of the last time it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MintFacts {
    /// Its URL.
    pub mint: MintUrl,
    /// Units of its active keysets, of those we know.
    pub units: Vec<Unit>,
    /// Input fee of the active `sat` keyset in parts per thousand per proof (NUT-02).
    pub input_fee_ppk: u64,
    /// Whether it keeps locks (NUT-10, NUT-11), and answers what it takes to get
    /// at locked money again (NUT-07, NUT-09). At others a lock is worth nothing.
    #[serde(default)]
    pub locks: bool,
    /// Whether it keeps locks to a hash besides (NUT-14).
    #[serde(default)]
    pub hash_locks: bool,
}

impl Unit {
    /// What one piece of it is worth.
    pub const fn piece(&self) -> Msat {
        match self {
            Self::Sat => Msat::new(crate::core::money::MSAT_PER_SAT),
            Self::Msat => Msat::new(1),
        }
    }
}

/// What went wrong with a token, a mint or the wallet, by what may be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalletError {
    /// Not a Cashu token, or one that is not accepted as it is (several mints,
    /// duplicate proofs, more than 64 proofs, a condition that cannot be read).
    #[error("the token cannot be read: {0}")]
    Malformed(String),
    /// Not on our list; the mint was not contacted.
    #[error("the mint {0} is not accepted")]
    MintNotAccepted(String),
    /// Neither sat nor msat.
    #[error("the unit {0} is not accepted")]
    WrongUnit(String),
    /// The mint says that it is spent; nothing was taken by this call.
    #[error("the token is already spent")]
    Spent,
    /// Too small to be worth its own fee (NUT-02).
    #[error("the amount is not more than the mint's fee")]
    TooSmall,
    /// Our own balance at this mint is too small.
    #[error("not enough balance: {have} of {need}")]
    NoBalance {
        /// What there is.
        have: Msat,
        /// What was asked for.
        need: Msat,
    },
    /// The mint does not answer, and nothing was sent that could have an effect.
    #[error("the mint does not answer: {0}")]
    MintDown(String),
    /// The mint understood and refused; nothing was taken.
    #[error("the mint refuses: {0}")]
    Refused(String),
    /// It may have happened. Ask later; never try again blindly.
    #[error("the mint's answer was lost: {0}")]
    OutcomeUnknown(String),
    /// The wallet's own store failed; nothing was sent.
    #[error("the wallet's store: {0}")]
    Store(String),
}

/// What `recover` found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// Unfinished operations that were brought to their end.
    pub recovered: usize,
    /// Unfinished operations that were undone.
    pub compensated: usize,
    /// Still unfinished (mint down): try again later.
    pub unfinished: usize,
}

/// Where a redemption stands whose answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedemptionState {
    /// The money is in the wallet.
    Done(Redeemed),
    /// The proofs are unspent and no operation of ours holds them.
    NotDone,
    /// Somebody else has spent them: the money never was ours.
    SpentElsewhere,
    /// Still not known.
    Unknown,
}

/// Tells which tokens of ours are out, by whoever keeps the books: made, given away
/// or about to be, and not known to be redeemed or taken back. An error is a
/// sentence: they are not known now.
pub type OutTokens = Arc<dyn Fn() -> Result<Vec<String>, String> + Send + Sync>;

/// Cashu ecash, as the provider and the consumer use it. One value for each
/// seed; all methods may be called side by side.
#[async_trait]
pub trait Wallet: Send + Sync {
    /// Reads a token and checks all that can be checked without the network:
    /// form, mint against the allow-list, unit.
    ///
    /// # Errors
    /// `Malformed`, `MintNotAccepted`, `WrongUnit`.
    fn inspect(&self, token: &str) -> Result<TokenInfo, WalletError>;

    /// What the mint charges; from a cache of at most 10 minutes.
    ///
    /// # Errors
    /// `MintNotAccepted`, `MintDown`.
    async fn facts(&self, mint: &MintUrl) -> Result<MintFacts, WalletError>;

    /// What `redeem` will give for this token, by the mint's published fees.
    ///
    /// # Errors
    /// As `inspect`; `MintDown`; `TooSmall`.
    async fn net_of(&self, token: &str) -> Result<Msat, WalletError>;

    /// Asks the mint whether the token's proofs are unspent (NUT-07).
    ///
    /// # Errors
    /// As `inspect`; `MintDown`.
    async fn check(&self, token: &str) -> Result<ProofsState, WalletError>;

    /// The key that tokens for this wallet are locked to (NUT-11). It comes from
    /// the wallet's seed alone, and has nothing to do with the Nostr key.
    fn lock_key(&self) -> LockKey;

    /// Swaps the token's proofs for our own (NUT-03); what is locked to
    /// [`lock_key`](Self::lock_key) is signed. The caller calls this
    /// **at most once** for the same proofs (payments.md defect 1) and writes
    /// the payment down before.
    ///
    /// # Errors
    /// As `inspect`; `Spent`, `TooSmall`, `Refused` (among others: locked to
    /// somebody else): nothing taken.
    /// `MintDown`: nothing sent. `OutcomeUnknown`: ask `redemption` later.
    async fn redeem(&self, payment: PaymentId, token: &str) -> Result<Redeemed, WalletError>;

    /// Finds out what became of a redemption whose answer was lost or whose
    /// process died, by asking; it never redeems.
    ///
    /// # Errors
    /// `MintDown`, `Store`: not known now.
    async fn redemption(
        &self,
        payment: PaymentId,
        token: &str,
    ) -> Result<RedemptionState, WalletError>;

    /// Makes a token worth `face` at `mint` (swap where needed). With
    /// `include_fee` its face is larger by what redeeming it will cost the receiver.
    ///
    /// # Errors
    /// `NoBalance`, `TooSmall`, `MintDown`, `Refused`: nothing happened.
    /// `OutcomeUnknown`: the amount may be reserved; `recover` frees it.
    async fn send(
        &self,
        mint: &MintUrl,
        unit: &Unit,
        amount: Msat,
        include_fee: bool,
    ) -> Result<SentToken, WalletError>;

    /// Tokens that this wallet made and that it does not know to be redeemed;
    /// [`recover`](Self::recover) asks the mints about them. No mint is asked.
    ///
    /// # Errors
    /// `Store`.
    async fn pending_sends(&self) -> Result<Vec<PendingSend>, WalletError>;

    /// Takes a token back that this wallet made, if nobody has redeemed it
    /// (NUT-03). Gives what came back, less the mint's fee. Safe to call again.
    ///
    /// # Errors
    /// As `inspect`; `Spent`: somebody has redeemed it. `Refused`: it is not among
    /// the pending ones, or the mint refuses. `MintDown`: nothing sent.
    /// `OutcomeUnknown`: `recover` finishes it, and then it is pending or not.
    async fn reclaim(&self, token: &str) -> Result<Msat, WalletError>;

    /// Swaps a token that [`send`](Self::send) made for one that only `to.key`
    /// can spend until `to.locktime`, and we alone after it. Costs the mint's
    /// fee for the token's proofs. Call it again with the same token and the
    /// same `to` until it succeeds: it gives the same token, however often the
    /// mint's answer was lost. Until then neither token may be given away.
    ///
    /// # Errors
    /// As `inspect`; `TooSmall`, `MintDown`, `Refused`: nothing happened.
    /// `OutcomeUnknown`: call it again. `Spent`: `token` was spent otherwise.
    async fn lock(&self, token: &str, to: &LockTo) -> Result<SentToken, WalletError>;

    /// Redeems a token that [`lock`](Self::lock) made with this `index`, after its
    /// locktime. As with [`redeem`](Self::redeem), ask `redemption` first.
    ///
    /// # Errors
    /// As `redeem`; before the locktime `Refused`, by the mint's clock.
    async fn take_back(
        &self,
        payment: PaymentId,
        token: &str,
        index: u64,
    ) -> Result<Redeemed, WalletError>;

    /// Our key number `index` for money that comes back to us: whoever owes it
    /// locks it to this key. From the seed and the number alone.
    ///
    /// # Errors
    /// `Store`.
    fn claim_key(&self, index: u64) -> Result<LockKey, WalletError>;

    /// As [`redeem`](Self::redeem), for what is locked to
    /// [`claim_key`](Self::claim_key) `index`.
    ///
    /// # Errors
    /// As `redeem`.
    async fn claim(
        &self,
        payment: PaymentId,
        token: &str,
        index: u64,
    ) -> Result<Redeemed, WalletError>;

    /// Asks the mint what paying this Lightning invoice takes (NUT-05, NUT-23).
    /// Nothing is paid by it.
    ///
    /// # Errors
    /// `MintNotAccepted`, `MintDown`, `Refused`, `Malformed`, `Store`.
    async fn melt_quote(
        &self,
        mint: &MintUrl,
        unit: &Unit,
        bolt11: &str,
    ) -> Result<MeltQuote, WalletError>;

    /// Pays the invoice of a quote. The caller writes the quote down before and
    /// calls this **at most once** for it; whatever comes back, at most `most`
    /// has left the wallet.
    ///
    /// # Errors
    /// `NoBalance` (also where it would take more than `most`), `MintDown`,
    /// `Refused`: nothing was paid, nor will be. `OutcomeUnknown`, `Store`: ask
    /// [`melt_state`](Self::melt_state) later.
    async fn melt(
        &self,
        mint: &MintUrl,
        unit: &Unit,
        quote: &str,
        most: Msat,
    ) -> Result<Melt, WalletError>;

    /// Finds out what became of a melt, by asking; it never melts. Where its
    /// request may still be on the way, `NotPaid` is what the mint knows by now.
    ///
    /// # Errors
    /// `MintNotAccepted`, `MintDown`, `Refused`, `Store`: not known now.
    async fn melt_state(
        &self,
        mint: &MintUrl,
        unit: &Unit,
        quote: &str,
    ) -> Result<Melt, WalletError>;
    /// Asks `mint` for an invoice over `amount`, which becomes ecash of this wallet
    /// once it is paid (NUT-04, NUT-23), and of nobody else's where the mint knows
    /// NUT-20. The caller writes it down before anybody is told.
    ///
    /// # Errors
    /// `MintNotAccepted`, `MintDown`, `Refused`, `TooSmall` (not whole pieces of the
    /// unit), `Store`. `OutcomeUnknown`: there may be an invoice that nobody knows.
    /// Nothing is lost by any of them.
    async fn invoice(
        &self,
        mint: &MintUrl,
        unit: &Unit,
        amount: Msat,
    ) -> Result<MintQuote, WalletError>;

    /// Asks whether an invoice is paid, and if so makes the ecash. Gives what was
    /// made of it in all, `None` while it is not paid. Safe to call again at any
    /// time, also side by side with `recover`: the money comes once.
    ///
    /// # Errors
    /// `MintDown`, `OutcomeUnknown`, `Store`: call it again. `Refused`: the mint or
    /// this wallet does not know it.
    async fn collect(&self, quote: &MintQuote) -> Result<Option<Msat>, WalletError>;

    /// Has [`recover`](Self::recover) ask about an unpaid invoice no more.
    ///
    /// # Errors
    /// `Store`.
    async fn forget_invoice(&self, quote: &MintQuote) -> Result<(), WalletError>;

    /// The proofs that can be spent at `mint` in this unit, in no order. The mint
    /// may be asked for its keysets.
    ///
    /// # Errors
    /// `MintNotAccepted`, `MintDown`, `Refused`, `Store`.
    async fn pieces(&self, mint: &MintUrl, unit: &Unit) -> Result<Vec<Piece>, WalletError>;

    /// Swaps proofs of ours for as few as can be (NUT-03), and gives what that
    /// cost. Write `merge` down before: called again with the same it finds out
    /// whether they were swapped, and swaps them where they were not, so that it
    /// may be called until it answers.
    ///
    /// # Errors
    /// `Refused`: some of them were spent otherwise meanwhile, or the mint
    /// refuses; nothing happened, and it need not be called again. `MintDown`,
    /// `Store`: nothing was sent. `OutcomeUnknown`: call it again.
    async fn merge(&self, mint: &MintUrl, unit: &Unit, merge: &Merge) -> Result<Msat, WalletError>;

    /// Asks the mint anew what it offers and charges (NUT-01, NUT-02, NUT-06).
    ///
    /// # Errors
    /// `MintNotAccepted`, `MintDown`; `Refused`: it has a keyset id that is
    /// another mint's.
    async fn probe(&self, mint: &MintUrl) -> Result<MintProbe, WalletError>;

    /// What came of the requests to mints since this was last called: the newest
    /// of each mint, 64 at most, oldest first.
    fn calls(&self) -> Vec<(MintUrl, Call)>;

    /// Preimage number `index`, to lock tokens to its hash. From the seed and the
    /// number alone.
    ///
    /// # Errors
    /// `Store`.
    fn preimage(&self, index: u64) -> Result<Preimage, WalletError>;

    /// As [`redeem`](Self::redeem), for what is locked to the hash of `preimage`
    /// and to [`lock_key`](Self::lock_key).
    ///
    /// # Errors
    /// As `redeem`; with another preimage `Refused`.
    async fn redeem_hashed(
        &self,
        payment: PaymentId,
        token: &str,
        preimage: &Preimage,
    ) -> Result<Redeemed, WalletError>;

    /// Takes a token back that [`lock`](Self::lock) locked to a hash, after its
    /// locktime and without the preimage. Costs two fees of the mint. It asks
    /// before it redeems: safe to call again, until it succeeds.
    ///
    /// # Errors
    /// As `redeem`; before the locktime `Refused`, and nothing is sent. `Spent`: its
    /// receiver had the preimage. `OutcomeUnknown`: call it again; also where the
    /// mint's clock is behind ours.
    async fn take_back_hashed(&self, token: &str, to: &LockTo) -> Result<Redeemed, WalletError>;

    /// What the wallet holds, spendable, by mint and unit.
    ///
    /// # Errors
    /// `Store`.
    async fn balances(&self) -> Result<BTreeMap<(MintUrl, Unit), Msat>, WalletError>;

    /// Has the wallet ask `tokens` before it takes in what its seed owns (NUT-09,
    /// NUT-13), as it does before it first uses a file: the proofs of these are
    /// unspent at the mint, and are not ours to spend. Called before
    /// [`recover`](Self::recover).
    fn set_out_tokens(&self, tokens: OutTokens);

    /// Brings unfinished operations to an end. Called at start before any
    /// request is taken, and later while some are unfinished.
    ///
    /// # Errors
    /// `Store`.
    async fn recover(&self) -> Result<Recovery, WalletError>;
}
