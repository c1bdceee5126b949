//! Questions to a running daemon, over a unix socket in its data directory that
//! only its own user can open. One line of JSON asks, one line of JSON answers,
//! and the connection ends: `{"ask":"leases"}` -> `{"ok":[…]}` or `{"error":"…"}`.
//! Two questions do something: `reload` makes the daemon read its own file, and
//! `withdraw` pays an invoice, once.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::core::ids::{Name, PublicKey};
use crate::core::mint::Standing;
use crate::core::money::Msat;
use crate::core::payout::{Cause, Payout, PayoutState};
use crate::core::time::Timestamp;
use crate::protocol::offer::Offer;
use crate::protocol::reply::LeaseStatus;

/// Name of the socket in the data directory.
pub const SOCKET: &str = "satletd.sock";

/// Longest question, in bytes: an invoice fits.
const MAX_QUESTION: u64 = 8192;
/// Longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;
/// How long a question and its answer may take together.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The same where mints and servers of addresses are asked meanwhile.
const LONG_TIMEOUT: Duration = Duration::from_secs(180);
/// Questions that are answered side by side; more wait.
const SIDE_BY_SIDE: usize = 8;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase")]
pub enum Ask {
    /// All leases that have not been forgotten: [`LeaseView`]s.
    Leases,
    /// The offer as it is published now.
    Offer,
    /// How the daemon is: a [`StatusView`].
    Status,
    /// What the wallet holds: a [`MoneyView`].
    Money,
    /// How the mints are: [`MintView`]s.
    Mints,
    /// Read the configuration file again: a [`ReloadView`].
    Reload,
    /// Pay a Lightning invoice, or to an address: a [`PayoutView`].
    Withdraw(Withdrawal),
    /// What has become of that: a [`PayoutView`].
    Payout {
        /// The invoice's payment hash.
        payout: String,
    },
}

impl Ask {
    fn timeout(&self) -> Duration {
        match self {
            Self::Withdraw(_) => LONG_TIMEOUT,
            _ => TIMEOUT,
        }
    }
}

/// How much is to be paid to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Amount {
    /// So much.
    Msat(Msat),
    /// As much as may leave one purse.
    All,
}

/// What to pay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawal {
    /// A Lightning invoice, or a Lightning address.
    pub to: String,
    /// How much, for an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<Amount>,
    /// From which mint; else from that from which most may leave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mint: Option<String>,
    /// In which unit; else in any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// What it may cost; else two percent, and 10 sat in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_fee_msat: Option<Msat>,
    /// Whether it may take what no row of the ledger explains.
    #[serde(default)]
    pub unexplained: bool,
}

/// One payment over Lightning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayoutView {
    /// The invoice's payment hash.
    pub payout: String,
    /// The Lightning address that it went to, where it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Who wanted it.
    pub cause: Cause,
    /// From which mint.
    pub mint: String,
    /// In which unit.
    pub unit: String,
    /// What the invoice asks for.
    pub amount_msat: Msat,
    /// What it may take beyond that until it is over: what is not used comes back.
    pub reserve_msat: Msat,
    /// What it cost, once it is paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fee_msat: Option<Msat>,
    /// `melting`, `pending`, `unknown`: it is asked about; `paid`, `failed`: over.
    pub state: String,
    /// Why.
    pub why: String,
    /// When it was begun.
    pub begun_at: Timestamp,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// The proof of payment, where the mint told one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preimage: Option<String>,
}

impl PayoutView {
    /// What the ledger says of it.
    pub fn of(payout: &Payout) -> Self {
        let (mint, unit) = payout.purse.clone();
        let (fee, ended, preimage) = match &payout.state {
            PayoutState::Paid { at, fee, preimage } => (Some(*fee), Some(*at), preimage.clone()),
            PayoutState::Failed { at } => (None, Some(*at), None),
            _ => (None, None, None),
        };
        Self {
            payout: payout.hash.clone(),
            to: payout.to.clone(),
            cause: payout.cause,
            mint,
            unit,
            amount_msat: payout.amount,
            reserve_msat: payout.most.saturating_sub(payout.amount),
            fee_msat: fee,
            state: payout.state.name().to_owned(),
            why: payout.why.clone(),
            begun_at: payout.begun,
            ended_at: ended,
            preimage,
        }
    }
}

/// What reading the configuration again has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadView {
    /// JSON pointers of what holds from now on.
    pub changed: Vec<String>,
    /// JSON pointers of what has changed in the file and needs a restart.
    pub needs_restart: Vec<String>,
}

/// A lease, for the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseView {
    /// Whose it is.
    pub owner: PublicKey,
    /// What runs it.
    pub backend: Name,
    /// How it stands. Refunds are left out: their tokens are the owner's.
    #[serde(flatten)]
    pub status: LeaseStatus,
}

/// A relay, as the daemon sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayView {
    /// Its URL.
    pub url: String,
    /// Whether it is connected now.
    pub connected: bool,
}

/// How the daemon is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Its key.
    pub provider: PublicKey,
    /// When it was started.
    pub started_at: Timestamp,
    /// Whether it ends and takes no new work.
    pub draining: bool,
    /// Leases that hold capacity.
    pub leases: u32,
    /// Its relays.
    pub relays: Vec<RelayView>,
}

/// The wallet and the books at one mint, in one unit. What a lease's books say is
/// counted where its money lies, and fees where its last payment was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurseView {
    /// The mint.
    pub mint: String,
    /// The unit.
    pub unit: String,
    /// What the wallet can spend.
    pub balance_msat: Msat,
    /// Refunds that are owed and not yet made.
    pub owed_msat: Msat,
    /// Refund tokens that are made and that nobody has taken yet. They have left
    /// the balance.
    pub unclaimed_msat: Msat,
    /// Payments that are not over, by what they are over: invoices that nobody has
    /// paid yet, holds, tokens about which the mint has not answered. Counted
    /// nowhere else.
    #[serde(default)]
    pub coming_msat: Msat,
    /// Credit of owners of leases.
    pub credit_msat: Msat,
    /// Price of the time that is paid and not served.
    pub unserved_msat: Msat,
    /// What may have to go back, so that the wallet has to hold it: owed, credit
    /// and unserved.
    pub float_msat: Msat,
    /// Price of the time that was served, less the fees that we bore; below zero
    /// where these are more.
    pub earned_msat: i64,
    /// What was taken out over Lightning, by hand or by the sweep.
    pub withdrawn_msat: Msat,
    /// What that cost.
    #[serde(default)]
    pub payout_fees_msat: Msat,
    /// What payouts that are not over may take. It may have left the balance.
    #[serde(default)]
    pub leaving_msat: Msat,
    /// What mints kept: of payments, for making refunds and for taking them back.
    pub mint_fees_msat: Msat,
    /// What of the balance no row of the ledger explains. It is not counted as
    /// earned, and stays.
    #[serde(default)]
    pub unexplained_msat: Msat,
    /// What swapping many small proofs into few cost us; on no lease's books.
    #[serde(default)]
    pub merge_fees_msat: Msat,
    /// What the balance lacks of the float; zero: solvent.
    pub short_msat: Msat,
    /// Since when it lacks it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub short_since: Option<Timestamp>,
}

/// The generosity pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolView {
    /// Per cent of what is served for money that go into it; 0: it is off.
    pub share_percent: u64,
    /// What may be given.
    pub balance_msat: Msat,
    /// Price of the time that was served for money while it was on.
    pub earned_msat: Msat,
    /// What of that went into it.
    pub credited_msat: Msat,
    /// Price of the time that was promised.
    pub given_msat: Msat,
    /// Price of what of that was not served.
    pub returned_msat: Msat,
    /// What was given today and did not come back.
    pub today_msat: Msat,
}

/// A mint, as the daemon sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MintView {
    /// Its URL.
    pub mint: String,
    /// How it stands.
    pub state: Standing,
    /// Why: one sentence, which may quote the mint.
    pub why: String,
    /// Since when it stands so.
    pub since: Timestamp,
    /// How long its answers take, on average over the last few.
    pub latency_ms: Option<u64>,
    /// How many of the last requests in a thousand it did not answer, on average.
    pub failing_per_thousand: u64,
    /// What spending a proof costs, in thousandths of a sat; `None`: not told yet.
    pub input_fee_ppk: Option<u64>,
    /// What it may cost.
    pub max_input_fee_ppk: u64,
    /// Of the NUTs that satlet knows, those that it does.
    pub nuts: Vec<u16>,
    /// When the first of its active keysets expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyset_expires_at: Option<Timestamp>,
    /// What lies there.
    pub exposure_msat: Msat,
    /// What may lie there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_exposure_msat: Option<Msat>,
    /// When it last told what it offers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probed_at: Option<Timestamp>,
}

/// What the wallet holds, and what has come and gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoneyView {
    /// By mint and unit.
    pub purses: Vec<PurseView>,
    /// What was received, after mint fees.
    pub received_msat: Msat,
    /// What was served of it. Time that was given is not in it.
    pub served_msat: Msat,
    /// What was given back: face of refund tokens, but for those taken back.
    pub refunded_msat: Msat,
    /// The generosity pool, where there is one or was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolView>,
    /// Payouts that are not over, and the last that were, newest first.
    #[serde(default)]
    pub payouts: Vec<PayoutView>,
}

/// Answers questions; the daemon does, from its ledger.
#[async_trait]
pub trait Queries: Send + Sync {
    /// All leases that have not been forgotten, newest first.
    async fn leases(&self) -> Result<Vec<LeaseView>, String>;
    /// The offer as it is published now.
    async fn offer(&self) -> Result<Offer, String>;
    /// How the daemon is.
    async fn status(&self) -> Result<StatusView, String>;
    /// What the wallet holds.
    async fn money(&self) -> Result<MoneyView, String>;
    /// How the mints are.
    async fn mints(&self) -> Result<Vec<MintView>, String>;
    /// Reads the configuration file again; a bad one changes nothing.
    async fn reload(&self) -> Result<ReloadView, String>;
    /// Pays an invoice, once, or to an address.
    async fn withdraw(&self, ask: Withdrawal) -> Result<PayoutView, String>;
    /// What has become of a payout.
    async fn payout(&self, hash: &str) -> Result<PayoutView, String>;
}

/// What goes back.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Ok(serde_json::Value),
    Error(String),
}

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No daemon listens there.
    #[error("no satletd runs with this data directory ({0})")]
    NotRunning(PathBuf),
    /// The socket cannot be made or reached.
    #[error("the control socket {path}: {source}")]
    Io {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No answer in time.
    #[error("satletd does not answer")]
    Timeout,
    /// The answer cannot be read: another version.
    #[error("satletd's answer cannot be read: {0}")]
    Unreadable(String),
    /// The daemon could not answer.
    #[error("satletd: {0}")]
    Refused(String),
}

/// The daemon's end of the socket. Dropping it takes the socket away.
pub struct Control {
    path: PathBuf,
    listener: UnixListener,
}

impl Control {
    /// Listens in `data_dir`. A socket that a dead daemon left is replaced; the
    /// caller holds the single-instance lock, so it is not a living one's.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn bind(data_dir: &Path) -> Result<Self, ControlError> {
        let path = data_dir.join(SOCKET);
        let made = data_dir.join("satletd.sock.new");
        let bind = || -> std::io::Result<UnixListener> {
            match std::fs::remove_file(&made) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(&made)?;
            // Closed to others before anybody can find it under its name.
            std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o600))?;
            std::fs::rename(&made, &path)?;
            Ok(listener)
        };
        match bind() {
            Ok(listener) => Ok(Self { path, listener }),
            Err(source) => Err(ControlError::Io { path, source }),
        }
    }

    /// Answers questions until it is dropped.
    pub async fn serve(&self, queries: Arc<dyn Queries>) {
        let places = Arc::new(Semaphore::new(SIDE_BY_SIDE));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let queries = Arc::clone(&queries);
                    tokio::spawn(async move {
                        let _place = place;
                        if let Err(error) = serve_one(stream, &*queries).await {
                            tracing::debug!(%error, "a control connection broke");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket does not accept");
                    // Out of descriptors, most likely: others must end first.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve_one(mut stream: UnixStream, queries: &dyn Queries) -> std::io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut question = String::new();
    let mut lines = BufReader::new(reader.take(MAX_QUESTION));
    timely(TIMEOUT, lines.read_line(&mut question)).await?;
    let answer = match serde_json::from_str::<Ask>(&question) {
        Ok(ask) => {
            let answering = async { Ok(answer(ask.clone(), queries).await) };
            timely(ask.timeout(), answering).await?
        }
        Err(error) => Answer::Error(format!("not a question: {error}")),
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    let telling = async {
        writer.write_all(&line).await?;
        writer.shutdown().await
    };
    timely(TIMEOUT, telling).await
}

async fn timely<T>(
    wait: Duration,
    step: impl Future<Output = std::io::Result<T>>,
) -> std::io::Result<T> {
    tokio::time::timeout(wait, step).await?
}

async fn answer(ask: Ask, queries: &dyn Queries) -> Answer {
    fn pack<T: Serialize>(answer: Result<T, String>) -> Answer {
        match answer.map(|value| serde_json::to_value(value)) {
            Ok(Ok(value)) => Answer::Ok(value),
            Ok(Err(error)) => Answer::Error(error.to_string()),
            Err(error) => Answer::Error(error),
        }
    }
    match ask {
        Ask::Leases => pack(queries.leases().await.map(|mut leases| {
            for lease in &mut leases {
                lease.status.refunds.clear();
            }
            leases
        })),
        Ask::Offer => pack(queries.offer().await),
        Ask::Status => pack(queries.status().await),
        Ask::Money => pack(queries.money().await),
        Ask::Mints => pack(queries.mints().await),
        Ask::Reload => pack(queries.reload().await),
        Ask::Withdraw(ask) => pack(queries.withdraw(ask).await),
        Ask::Payout { payout } => pack(queries.payout(&payout).await),
    }
}

/// Asks the daemon whose data directory this is.
///
/// # Errors
/// [`ControlError`].
pub async fn ask<T: serde::de::DeserializeOwned>(
    data_dir: &Path,
    ask: Ask,
) -> Result<T, ControlError> {
    let path = data_dir.join(SOCKET);
    let line = tokio::time::timeout(ask.timeout(), exchange(&path, &ask))
        .await
        .map_err(|_| ControlError::Timeout)?
        .map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
                ControlError::NotRunning(data_dir.to_owned())
            }
            _ => ControlError::Io { path, source },
        })?;
    let unreadable = |error: serde_json::Error| ControlError::Unreadable(error.to_string());
    match serde_json::from_str(&line).map_err(unreadable)? {
        Answer::Ok(value) => serde_json::from_value(value).map_err(unreadable),
        Answer::Error(error) => Err(ControlError::Refused(error)),
    }
}

async fn exchange(path: &Path, ask: &Ask) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(path).await?;
    let mut question = serde_json::to_vec(ask)?;
    question.push(b'\n');
    stream.write_all(&question).await?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_ANSWER))
        .read_line(&mut line)
        .await?;
    Ok(line)
}

#[cfg(test)]
mod tests;
