//! What the consumer must not forget, one file for each thing, each written
//! whole before the step that it announces:
//!
//! * `requests/<request id>.json`: a request that may cost or bring money, with
//!   its exact body and its token, written **before** it is sent.
//! * `refunds/<hash>.json`: money that came back, written before it is redeemed.
//! * `given/`, `received/`: tokens that were given away and put in by hand.
//! * `receipts/<lease>.<provider>.json`: the newest receipt of each lease, as its
//!   provider signed it.
//! * `locks/<index>.json`: a token that is being locked to a provider, written
//!   before the mint is asked; gone once a request has it.
//! * `together/<number>.json`: a purchase from several providers, written before
//!   its preimage is given away.
//! * `leases/<lease>.<provider>.json`: leases that are known. Passwords of leases
//!   that have one are in `ssh/passwords/`.
//!
//! Files rather than one database, so that commands may run side by side and a
//! person can get at the money with nothing but a text editor. Who works on a
//! request holds a lock on it, so no other process does the same.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::client::now;
use super::files::{self, Lock};
use super::history::Fate;
use super::together::{SavedTogether, Stage};
use crate::core::ids::{EventId, LeaseId, PaymentId, PublicKey, RequestId};
use crate::core::money::Msat;
use crate::core::payment::hash_lock::LockHash;
use crate::core::payment::lock::LockKey;
use crate::core::time::Timestamp;
use crate::protocol::offer::Spec;
use crate::protocol::receipt::SignedReceipt;
use crate::protocol::reply::{Invoice, LeaseStatus, LockTerms, MintTerms, Refund};
use crate::wallet::{LockTo, MintUrl, Unit};

/// Who made a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Our own wallet: it goes back there.
    Wallet,
    /// The user gave it: it is given back by printing it.
    Pasted,
}

/// The money that travels in a request.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paid {
    /// The token. Money.
    pub token: String,
    /// Its mint.
    pub mint: MintUrl,
    /// Its unit.
    pub unit: Unit,
    /// Sum of its proofs.
    pub face: Msat,
    /// Who made it.
    pub source: Source,
    /// To whom our wallet locked it, and how it comes back; `None`: not locked
    /// by us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockTo>,
}

impl std::fmt::Debug for Paid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Paid")
            .field("mint", &self.mint)
            .field("face", &self.face)
            .finish_non_exhaustive()
    }
}

/// A token that is being locked. Between writing this down and writing the
/// request down, the money is in `plain` or in `locked`, and the mint knows which.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedLock {
    /// To whom, and how it comes back.
    pub to: LockTo,
    /// The token as it was before. Money.
    pub plain: String,
    /// The locked token, where a crash left it without a request: it comes back
    /// after its locktime.
    #[serde(default)]
    pub locked: Option<Paid>,
}

impl std::fmt::Debug for SavedLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SavedLock")
            .field("to", &self.to)
            .field("locked", &self.locked)
            .finish_non_exhaustive()
    }
}

/// How a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Written down; it may or may not have been sent. No answer yet.
    Open,
    /// The provider said that the payment is not decided yet.
    Pending,
    /// The provider said that the token is untouched; it is to go back.
    TakeBack,
    /// The provider said untouched, but the mint says spent. Kept for a person.
    Disputed,
    /// Over, and the money is lost: the mint says spent, and nothing came of it.
    Lost,
    /// Over.
    Done,
}

/// A request that may cost or bring money.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedRequest {
    /// Its id.
    pub request_id: RequestId,
    /// To whom.
    pub provider: PublicKey,
    /// The provider's name, as it was then.
    pub provider_name: String,
    /// `spawn`, `topup` or `stop`.
    pub kind: String,
    /// The exact body: a request id always goes with the same body.
    pub body: String,
    /// The rumor's time: all attempts are one rumor.
    pub written_at: Timestamp,
    /// After this the provider refuses it unread.
    pub expires_at: Timestamp,
    /// Where the provider reads.
    pub relays: Vec<String>,
    /// Mints that the provider accepts.
    #[serde(default)]
    pub mints: Vec<MintTerms>,
    /// How the provider takes locked tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockTerms>,
    /// The money in it.
    pub paid: Option<Paid>,
    /// The private SSH key that will open the lease.
    pub ssh_key: Option<PathBuf>,
    /// How it stands.
    pub standing: Standing,
    /// Why it stands so, for people.
    pub note: String,
    /// What goes with it in the dialect "paygress/1"; `None`: ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paygress: Option<PaygressRequest>,
    /// What became of the money in it, once that is certain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fate: Option<Fate>,
    /// What is paid by Lightning, where no money is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<SavedOrder>,
    /// The purchase from several providers that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub together: Option<u64>,
}

/// What is paid by Lightning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedOrder {
    /// The most that its invoice may be over.
    pub most: Msat,
    /// The invoice, once the provider has sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invoice: Option<Invoice>,
}

/// What is remembered of a request in the dialect "paygress/1".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaygressRequest {
    /// Number of the lease's key.
    pub key_index: u64,
    /// What the token is worth to the provider, by the mint's published fees.
    pub net: Msat,
    /// The tier that is bought.
    pub spec: Spec,
    /// The lease: a new one for a spawn.
    pub lease: LeaseId,
    /// For a top-up: when the lease's time was over before it.
    #[serde(default)]
    pub ends: Option<Timestamp>,
}

/// What is remembered of a lease in the dialect "paygress/1".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaygressLease {
    /// Number of its key.
    pub key_index: u64,
    /// The provider's name of the workload.
    pub pod: String,
    /// The tier that was bought.
    pub spec: Spec,
    /// The host key that was shown first, `ssh-ed25519 AAAA…`; empty: none yet.
    #[serde(default)]
    pub host_key: String,
    /// Messages of the provider that were heard already, newest last.
    #[serde(default)]
    pub heard: Vec<EventId>,
}

/// How a refund stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefundStanding {
    /// Written down, not redeemed yet.
    Owed,
    /// In the wallet.
    Received,
    /// From a mint that is not on our list: the user decides.
    ForeignMint,
    /// The mint says that it was spent by somebody else, or it is no money.
    Bad,
}

/// Money that came back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedRefund {
    /// Who sent it.
    pub provider: PublicKey,
    /// It.
    pub refund: Refund,
    /// How it stands.
    pub standing: RefundStanding,
    /// Why it stands so, for people.
    pub note: String,
    /// What the wallet got, in msat.
    pub net: Msat,
    /// When it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// What it came back for.
    #[serde(flatten)]
    pub whence: Whence,
}

/// What a refund is for, as far as that was told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whence {
    /// The request that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    /// The lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseId>,
}

impl Whence {
    /// For a lease.
    pub fn of_lease(lease: &LeaseId) -> Self {
        Self {
            lease: Some(lease.clone()),
            ..Self::default()
        }
    }
}

/// Where a token of the user's stands that was to go into the wallet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TakenStanding {
    /// It is being redeemed, or the mint's answer was lost.
    Pending,
    /// In the wallet.
    Received,
}

/// A token of the user's that was put into the wallet.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// When.
    pub at: Timestamp,
    /// Its mint.
    pub mint: MintUrl,
    /// Its unit.
    pub unit: Unit,
    /// Sum of its proofs.
    pub face: Msat,
    /// What the wallet got.
    pub net: Msat,
    /// Where it stands.
    pub standing: TakenStanding,
    /// The token, until it is in the wallet. Money.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub token: String,
}

impl std::fmt::Debug for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Taken")
            .field("mint", &self.mint)
            .field("face", &self.face)
            .field("standing", &self.standing)
            .finish_non_exhaustive()
    }
}

/// A lease that is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownLease {
    /// Whose box it is on.
    pub provider: PublicKey,
    /// The provider's name, as it was then.
    pub provider_name: String,
    /// Where the provider reads.
    pub relays: Vec<String>,
    /// Mints that the provider accepts.
    #[serde(default)]
    pub mints: Vec<MintTerms>,
    /// How the provider takes locked tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockTerms>,
    /// The private SSH key that opens it.
    pub ssh_key: Option<PathBuf>,
    /// What the provider said last.
    pub status: LeaseStatus,
    /// When it said so.
    pub seen_at: Timestamp,
    /// What goes with it in the dialect "paygress/1"; `None`: ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paygress: Option<PaygressLease>,
}

/// A token that was given away by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// It.
    pub paid: Paid,
    /// When.
    pub at: Timestamp,
}

/// The records of one home.
#[derive(Clone, Debug)]
pub struct Records {
    root: PathBuf,
}

impl Records {
    /// The records in a home; its directories are there.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
        }
    }

    /// Writes a request down.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save_request(&self, request: &SavedRequest) -> io::Result<()> {
        files::write_json(&self.request_path(&request.request_id), request)
    }

    /// A request by its id.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn request(&self, id: &RequestId) -> io::Result<Option<SavedRequest>> {
        files::read_json(&self.request_path(id))
    }

    /// All requests, over or not, in no order.
    ///
    /// # Errors
    /// The directory or a file cannot be read.
    pub fn requests(&self) -> io::Result<Vec<SavedRequest>> {
        read_all(&self.root.join("requests"))
    }

    /// All requests that are not over, oldest first.
    ///
    /// # Errors
    /// The directory or a file cannot be read.
    pub fn open_requests(&self) -> io::Result<Vec<SavedRequest>> {
        let mut open: Vec<SavedRequest> = read_all(&self.root.join("requests"))?;
        open.retain(|request| !matches!(request.standing, Standing::Done | Standing::Lost));
        open.sort_by_key(|request| request.written_at);
        Ok(open)
    }

    /// Requests whose money was taken for nothing, oldest first.
    ///
    /// # Errors
    /// The directory or a file cannot be read.
    pub fn lost_requests(&self) -> io::Result<Vec<SavedRequest>> {
        let mut lost: Vec<SavedRequest> = read_all(&self.root.join("requests"))?;
        lost.retain(|request| request.standing == Standing::Lost);
        lost.sort_by_key(|request| request.written_at);
        Ok(lost)
    }

    /// The highest number of a lease's key in requests and leases.
    ///
    /// # Errors
    /// A directory or a file cannot be read.
    pub fn highest_key(&self) -> io::Result<Option<u64>> {
        let requests: Vec<SavedRequest> = read_all(&self.root.join("requests"))?;
        let asked = requests.into_iter().filter_map(|one| one.paygress);
        let rented = self.leases()?.into_iter().filter_map(|one| one.paygress);
        let numbers = asked.map(|one| one.key_index);
        Ok(numbers.chain(rented.map(|one| one.key_index)).max())
    }

    /// The right to ask about a lease, for those dialects whose replies do not
    /// name their request; `None` while another process has it.
    ///
    /// # Errors
    /// The lock file cannot be made.
    pub async fn claim_lease(
        &self,
        lease: &KnownLease,
        wait: Duration,
    ) -> io::Result<Option<Lock>> {
        let name = format!("{}.{}.lock", lease.status.lease, lease.provider);
        Lock::within(&self.root.join("leases").join(name), wait).await
    }

    /// The right to work on a request; `None` while another process has it.
    ///
    /// # Errors
    /// The lock file cannot be made.
    pub fn claim(&self, id: &RequestId) -> io::Result<Option<Lock>> {
        Lock::attempt(&self.root.join("requests").join(format!("{id}.lock")))
    }

    /// Writes a refund down unless it is known; the record as it stands, and
    /// the name to use with [`save_refund`](Self::save_refund).
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn note_refund(
        &self,
        provider: &PublicKey,
        refund: &Refund,
        whence: &Whence,
    ) -> io::Result<(String, SavedRefund)> {
        let name = refund_name(provider, refund);
        let path = self.refund_path(&name);
        if let Some(known) = files::read_json(&path)? {
            return Ok((name, known));
        }
        let saved = SavedRefund {
            provider: *provider,
            refund: refund.clone(),
            standing: RefundStanding::Owed,
            note: String::new(),
            net: Msat::ZERO,
            at: Some(now()),
            whence: whence.clone(),
        };
        files::write_json(&path, &saved)?;
        Ok((name, saved))
    }

    /// Changes a refund.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save_refund(&self, name: &str, refund: &SavedRefund) -> io::Result<()> {
        files::write_json(&self.refund_path(name), refund)
    }

    /// All refunds.
    ///
    /// # Errors
    /// The directory or a file cannot be read.
    pub fn refunds(&self) -> io::Result<Vec<(String, SavedRefund)>> {
        let all: Vec<SavedRefund> = read_all(&self.root.join("refunds"))?;
        Ok(all
            .into_iter()
            .map(|saved| (refund_name(&saved.provider, &saved.refund), saved))
            .collect())
    }

    /// Writes a lease down.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save_lease(&self, lease: &KnownLease) -> io::Result<()> {
        let name = format!("{}.{}.json", lease.status.lease, lease.provider);
        files::write_json(&self.root.join("leases").join(name), lease)
    }

    /// A lease of one provider.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn lease(&self, provider: &PublicKey, lease: &LeaseId) -> io::Result<Option<KnownLease>> {
        files::read_json(
            &self
                .root
                .join("leases")
                .join(format!("{lease}.{provider}.json")),
        )
    }

    /// All leases, newest first.
    ///
    /// # Errors
    /// The directory or a file cannot be read.
    pub fn leases(&self) -> io::Result<Vec<KnownLease>> {
        let mut all: Vec<KnownLease> = read_all(&self.root.join("leases"))?;
        all.sort_by_key(|lease| std::cmp::Reverse(lease.status.created_at));
        Ok(all)
    }

    /// Writes the newest receipt of a lease down.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save_receipt(
        &self,
        provider: &PublicKey,
        lease: &LeaseId,
        receipt: &SignedReceipt,
    ) -> io::Result<()> {
        files::write_json(&self.receipt_path(provider, lease), receipt)
    }

    /// The newest receipt of a lease; it was checked when it was kept.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn receipt(
        &self,
        provider: &PublicKey,
        lease: &LeaseId,
    ) -> io::Result<Option<SignedReceipt>> {
        files::read_json(&self.receipt_path(provider, lease))
    }

    /// The newest receipt of every lease that has one.
    ///
    /// # Errors
    /// The directory or a file cannot be read.
    pub fn receipts(&self) -> io::Result<Vec<SignedReceipt>> {
        read_all(&self.root.join("receipts"))
    }

    /// Whether we ever had a lease or a request with this provider.
    pub fn knows(&self, provider: &PublicKey) -> bool {
        let ours = |lease: &KnownLease| lease.provider == *provider;
        let asked = |request: &SavedRequest| request.provider == *provider;
        self.leases().is_ok_and(|all| all.iter().any(ours))
            || read_all(&self.root.join("requests")).is_ok_and(|all| all.iter().any(asked))
    }

    /// Notes that a token is about to be made; the note's path.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn mark(&self) -> io::Result<PathBuf> {
        let path = self
            .root
            .join("paying")
            .join(uuid::Uuid::new_v4().to_string());
        files::create_private(&path, b"")?;
        Ok(path)
    }

    /// Notes of tokens that may have been made and not written down.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn markers(&self) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(self.root.join("paying"))?
            .map(|entry| Ok(entry?.path()))
            .collect()
    }

    /// Writes down that `plain` is about to be locked, with a number that no
    /// other token of this home has.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn new_lock(
        &self,
        key: &LockKey,
        until: Timestamp,
        hash: Option<&LockHash>,
        plain: &str,
    ) -> io::Result<SavedLock> {
        let requests: Vec<SavedRequest> = read_all(&self.root.join("requests"))?;
        let used = requests.into_iter().filter_map(|one| one.paid?.lock);
        let begun = self.locks()?.into_iter().map(|one| one.to);
        let mut index = used.chain(begun).map(|to| to.index + 1).max().unwrap_or(0);
        loop {
            let lock = SavedLock {
                to: LockTo {
                    key: key.clone(),
                    locktime: until,
                    index,
                    hash: hash.cloned(),
                },
                plain: plain.to_owned(),
                locked: None,
            };
            let text = serde_json::to_vec(&lock).map_err(io::Error::other)?;
            if files::create_private(&self.lock_path(index), &text)? {
                return Ok(lock);
            }
            index += 1;
        }
    }

    /// Changes what is known of a token that is being locked.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save_lock(&self, lock: &SavedLock) -> io::Result<()> {
        files::write_json(&self.lock_path(lock.to.index), lock)
    }

    /// Forgets a token that was being locked: a request has it, or it is back.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove_lock(&self, index: u64) -> io::Result<()> {
        match fs::remove_file(self.lock_path(index)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Tokens that were being locked and that are not known to have a request.
    ///
    /// # Errors
    /// The directory or a file cannot be read.
    pub fn locks(&self) -> io::Result<Vec<SavedLock>> {
        read_all(&self.root.join("locks"))
    }

    /// Whether a request has the locked token of this number.
    ///
    /// # Errors
    /// The directory or a file cannot be read.
    pub fn is_sent(&self, index: u64) -> io::Result<bool> {
        let requests: Vec<SavedRequest> = read_all(&self.root.join("requests"))?;
        let mut locks = requests.into_iter().filter_map(|one| one.paid?.lock);
        Ok(locks.any(|to| to.index == index))
    }

    /// Where [`new_lock`](Self::new_lock) writes it.
    pub(super) fn lock_path(&self, index: u64) -> PathBuf {
        self.root.join("locks").join(format!("{index}.json"))
    }

    /// Tokens that our wallet made and that are written down: in requests, given
    /// away, or being locked. Money.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn sent_tokens(&self) -> io::Result<Vec<String>> {
        let requests: Vec<SavedRequest> = read_all(&self.root.join("requests"))?;
        let asked = requests.into_iter().filter_map(|request| request.paid);
        let given = self.given()?.into_iter().map(|given| given.paid);
        let sent = asked.chain(given).map(|paid| paid.token);
        let locking = self.locks()?.into_iter().map(|lock| lock.plain);
        Ok(sent.chain(locking).collect())
    }

    /// Begins a purchase from several providers, with a number that no other has.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn new_together(&self) -> io::Result<u64> {
        let all: Vec<SavedTogether> = read_all(&self.root.join("together"))?;
        let mut number = all.iter().map(|one| one.number + 1).max().unwrap_or(0);
        loop {
            let together = SavedTogether {
                number,
                stage: Stage::Holding,
            };
            let text = serde_json::to_vec(&together).map_err(io::Error::other)?;
            if files::create_private(&self.together_path(number), &text)? {
                return Ok(number);
            }
            number += 1;
        }
    }

    /// Changes what is known of a purchase from several providers.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save_together(&self, together: &SavedTogether) -> io::Result<()> {
        files::write_json(&self.together_path(together.number), together)
    }

    /// A purchase from several providers.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn together(&self, number: u64) -> io::Result<Option<SavedTogether>> {
        files::read_json(&self.together_path(number))
    }

    fn together_path(&self, number: u64) -> PathBuf {
        self.root.join("together").join(format!("{number}.json"))
    }

    /// Payment ids of all tokens that are written down.
    ///
    /// # Errors
    /// The directories or a file cannot be read.
    pub fn known_tokens(&self) -> io::Result<BTreeSet<PaymentId>> {
        let requests: Vec<SavedRequest> = read_all(&self.root.join("requests"))?;
        let given = self.given()?.into_iter().map(|given| given.paid);
        let all = requests
            .into_iter()
            .filter_map(|request| request.paid)
            .chain(given);
        Ok(all
            .filter_map(|paid| crate::wallet::read_info(&paid.token).ok())
            .map(|info| info.payment)
            .collect())
    }

    /// Writes a token down that is given away by hand.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save_given(&self, given: &Given) -> io::Result<()> {
        let name = hex::encode(Sha256::digest(given.paid.token.as_bytes()));
        files::write_json(&self.root.join("given").join(format!("{name}.json")), given)
    }

    /// Tokens that were given away by hand.
    ///
    /// # Errors
    /// The directory or a file cannot be read.
    pub fn given(&self) -> io::Result<Vec<Given>> {
        read_all(&self.root.join("given"))
    }

    /// Writes a token down that the user puts into the wallet.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save_taken(&self, payment: &PaymentId, taken: &Taken) -> io::Result<()> {
        files::write_json(&self.taken_path(payment), taken)
    }

    /// What is known of a token that the user put into the wallet.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn taken_of(&self, payment: &PaymentId) -> io::Result<Option<Taken>> {
        files::read_json(&self.taken_path(payment))
    }

    /// Forgets a token that was not put into the wallet after all.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn forget_taken(&self, payment: &PaymentId) -> io::Result<()> {
        fs::remove_file(self.taken_path(payment))
    }

    /// All tokens that the user put into the wallet.
    ///
    /// # Errors
    /// The directory or a file cannot be read.
    pub fn taken(&self) -> io::Result<Vec<Taken>> {
        read_all(&self.root.join("received"))
    }

    /// When we last told relays where we read messages, and which relays.
    pub fn announced(&self) -> Option<(Timestamp, Vec<String>)> {
        files::read_json(&self.root.join("announced.json"))
            .ok()
            .flatten()
    }

    /// Notes that relays were told where we read messages.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set_announced(&self, at: Timestamp, relays: &[String]) -> io::Result<()> {
        files::write_json(&self.root.join("announced.json"), &(at, relays))
    }

    fn request_path(&self, id: &RequestId) -> PathBuf {
        self.root.join("requests").join(format!("{id}.json"))
    }

    fn taken_path(&self, payment: &PaymentId) -> PathBuf {
        self.root.join("received").join(format!("{payment}.json"))
    }

    fn receipt_path(&self, provider: &PublicKey, lease: &LeaseId) -> PathBuf {
        let name = format!("{lease}.{provider}.json");
        self.root.join("receipts").join(name)
    }

    fn refund_path(&self, name: &str) -> PathBuf {
        self.root.join("refunds").join(format!("{name}.json"))
    }
}

/// The same refund of the same provider has the same name; another token under
/// a used id is another refund.
fn refund_name(provider: &PublicKey, refund: &Refund) -> String {
    let mut hash = Sha256::new();
    hash.update(provider.as_bytes());
    hash.update([0]);
    hash.update(refund.refund_id.as_bytes());
    hash.update([0]);
    hash.update(refund.token.as_bytes());
    hex::encode(hash.finalize())
}

fn read_all<T: DeserializeOwned>(dir: &Path) -> io::Result<Vec<T>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ext| ext == "json")
            && let Some(record) = files::read_json(&path)?
        {
            all.push(record);
        }
    }
    Ok(all)
}
