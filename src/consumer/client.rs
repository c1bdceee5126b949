//! The client: one identity, its relays, its wallet, its records.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nostr_sdk::Keys;
use tokio::sync::{Mutex, OnceCell, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::error::{ClientError, Kind};
use super::home::{self, Home, Settings};
use super::mailbox::Mailbox;
use super::post::{Letter, Post};
use super::providers::{self, Provider};
use super::purse::Session;
use super::records::{KnownLease, Records, Whence};
use super::relay_post::RelayPost;
use crate::core::ids::{PublicKey, RequestId};
use crate::core::time::Timestamp;
use crate::protocol::MAX_REQUEST;
use crate::protocol::error::Money;
use crate::protocol::reply::{Invoice, Outcome};
use crate::protocol::request::{Ask, Request};
use crate::relay::Ack;
use crate::wallet::Wallet;

/// Told what is happening while a call waits: one sentence at a time.
pub type Progress<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// Shows an invoice of a request to whoever pays it.
pub type ShowInvoice = Arc<dyn Fn(&RequestId, &Invoice) + Send + Sync>;

/// What is done with an invoice that comes while an answer is waited for.
pub(super) struct Due<'a> {
    /// Writes it down, and shows it. `false`: it is not what was ordered, and the
    /// answer is waited for no more.
    pub(super) take: &'a (dyn Fn(&Invoice) -> bool + Send + Sync),
    /// Wait until it cannot be paid any more.
    pub(super) patient: bool,
}

impl Due<'static> {
    /// Nobody has ordered anything.
    pub(super) const NONE: Self = Self {
        take: &|_| true,
        patient: false,
    };
}

/// A [`Progress`] for those who do not care.
pub fn quiet(_: &str) {}

/// How long a quote, status, list or logs may take, unless told otherwise.
pub const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a spawn, top-up or stop may take, unless told otherwise: an image
/// may have to be pulled.
pub const MONEY_TIMEOUT: Duration = Duration::from_secs(300);
/// A locked token can be taken back so long after its request's deadline, or
/// later where the provider asks for more: by then every answer that was under
/// way is there.
pub const LOCK_AFTER: Duration = Duration::from_secs(3600);
/// A provider that wants tokens to be locked for longer ahead than this is not
/// paid with one.
pub const LOCK_MOST: Duration = Duration::from_secs(24 * 3600);
/// A request without an answer is sent again this often.
pub const RESEND: Duration = Duration::from_secs(10);
/// Relays are told where we read messages at least this often.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(24 * 3600);

/// How a client is opened. The default is what the CLI uses.
#[derive(Clone, Default)]
pub struct ClientOptions {
    /// Relays instead of those in the settings.
    pub relays: Vec<String>,
    /// How long an answer may take; `None`: [`READ_TIMEOUT`] or [`MONEY_TIMEOUT`].
    pub timeout: Option<Duration>,
    /// How often an unanswered request is sent again; `None`: [`RESEND`].
    pub resend: Option<Duration>,
    /// Pay with unlocked tokens, also where a provider takes locked ones.
    pub no_lock: bool,
    /// How long a token is locked, from when it is made; `None`: until
    /// [`LOCK_AFTER`] after its request's deadline.
    pub lock_for: Option<Duration>,
    /// Settings instead of those in the home.
    pub settings: Option<Settings>,
    /// A wallet instead of the one in the home.
    pub wallet: Option<Arc<dyn Wallet>>,
    /// Shown invoices that are to be paid by hand.
    pub show_invoice: Option<ShowInvoice>,
    /// Relays' stand-in, for tests.
    pub post: Option<Arc<dyn Post>>,
}

/// A consumer. All methods may be called side by side.
pub struct Client {
    pub(super) home: Home,
    pub(super) settings: Settings,
    pub(super) records: Records,
    pub(super) given_wallet: Option<Arc<dyn Wallet>>,
    pub(super) session: Mutex<std::sync::Weak<Session>>,
    pub(super) timeout: Option<Duration>,
    pub(super) no_lock: bool,
    pub(super) lock_for: Option<Duration>,
    pub(super) show_invoice: Option<ShowInvoice>,
    pub(super) keys: Keys,
    post: Arc<dyn Post>,
    pub(super) relays: Vec<String>,
    resend: Duration,
    mailbox: OnceCell<Listening>,
}

struct Listening {
    mailbox: Arc<Mailbox>,
    task: JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The time now; the one place of the client that reads the clock.
pub(super) fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_secs(since.as_secs())
}

impl Client {
    /// Opens the home in `root` (made where there is none). Nothing is sent yet.
    ///
    /// # Errors
    /// The home cannot be used, or its files cannot be read.
    pub fn open(root: &Path, options: ClientOptions) -> Result<Self, ClientError> {
        let home = Home::open(root)?;
        let settings = match options.settings {
            Some(settings) => settings,
            None => home.settings()?,
        };
        let keys = home.identity()?;
        let relays = if options.relays.is_empty() {
            settings.relays.clone()
        } else {
            options.relays
        };
        let post = match options.post {
            Some(post) => post,
            None => Arc::new(RelayPost::new(keys.clone(), relays.clone())),
        };
        Ok(Self {
            records: Records::new(home.root()),
            home,
            settings,
            given_wallet: options.wallet,
            session: Mutex::new(std::sync::Weak::new()),
            timeout: options.timeout,
            no_lock: options.no_lock,
            lock_for: options.lock_for,
            show_invoice: options.show_invoice,
            keys,
            post,
            relays,
            resend: options.resend.unwrap_or(RESEND),
            mailbox: OnceCell::new(),
        })
    }

    /// Our public key.
    pub fn public_key(&self) -> PublicKey {
        home::public_key(&self.keys)
    }

    /// The home.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The records.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// All offers that our relays have, online ones first.
    ///
    /// # Errors
    /// No relay could be asked.
    pub async fn discover(&self) -> Result<Vec<Provider>, ClientError> {
        let found = self.post.discover().await.map_err(|error| {
            ClientError::new(
                Kind::Network,
                "no_relay",
                format!("no relay could be asked: {error}"),
                "Look at the network and the relays (satlet config get relays).",
            )
        })?;
        let now = now();
        let mut all: Vec<Provider> = found
            .into_iter()
            .map(|one| Provider::new(one, now))
            .collect();
        providers::sort(&mut all);
        Ok(all)
    }

    /// The provider that `query` names: name, npub, hex, or an unambiguous
    /// beginning of one of these.
    ///
    /// # Errors
    /// As [`discover`](Self::discover); none fits, or several.
    pub async fn find_provider(&self, query: &str) -> Result<Provider, ClientError> {
        let all = self.discover().await?;
        providers::find(&all, query).cloned()
    }

    /// Leases that are known here, newest first; asks nobody.
    ///
    /// # Errors
    /// The records cannot be read.
    pub fn leases(&self) -> Result<Vec<KnownLease>, ClientError> {
        Ok(self.records.leases()?)
    }

    /// The known lease that `prefix` begins.
    ///
    /// # Errors
    /// None begins so, or several.
    pub fn find_lease(&self, prefix: &str) -> Result<KnownLease, ClientError> {
        let all = self.leases()?;
        find_lease(all, prefix)
    }

    /// Sends a question that costs nothing and waits for its answer.
    pub(super) async fn ask(
        &self,
        to: &PublicKey,
        relays: Vec<String>,
        ask: Ask,
        progress: Progress<'_>,
    ) -> Result<Box<crate::protocol::reply::Answer>, ClientError> {
        let id = RequestId::new(uuid::Uuid::new_v4());
        let letter = Letter {
            to: *to,
            body: body_of(&Request::new(id, ask))?,
            written_at: now(),
            relays,
        };
        let wait = self.timeout.unwrap_or(READ_TIMEOUT);
        match self
            .exchange(&letter, &id, wait, &Due::NONE, progress)
            .await?
        {
            Outcome::Result(answer) => Ok(answer),
            Outcome::Error(error) => {
                if let Some(refund) = &error.refund {
                    self.records.note_refund(to, refund, &Whence::default())?;
                }
                self.note_receipt(to, None, error.receipt.as_deref());
                Err(ClientError::from_wire(&error))
            }
        }
    }

    /// Sends a letter and waits for its reply, sending the same rumor again
    /// every few seconds. A reply that says `pending` is not the last word: it
    /// is given only when the time is over.
    pub(super) async fn exchange(
        &self,
        letter: &Letter,
        id: &RequestId,
        wait: Duration,
        due: &Due<'_>,
        progress: Progress<'_>,
    ) -> Result<Outcome, ClientError> {
        let mailbox = self.listening().await?;
        let (end, later) = watch::channel(Instant::now() + wait);
        let mut pending = None;
        let told = AtomicBool::new(false);
        let reply = mailbox.wait(&letter.to, id, |outcome| match outcome {
            Outcome::Error(error) if error.money == Money::Pending => {
                pending = Some(outcome.clone());
                let invoice = error.invoice.as_deref()?;
                if told.swap(true, Ordering::Relaxed) {
                    return None;
                }
                if !(due.take)(invoice) {
                    return Some(outcome.clone());
                }
                if due.patient {
                    let left = invoice.pay_by.secs_since(now());
                    let left = Duration::from_secs(left) + MONEY_TIMEOUT;
                    end.send_modify(|end| *end = (*end).max(Instant::now() + left));
                }
                None
            }
            last => Some(last.clone()),
        });
        let mut taken = false;
        let outcome = tokio::select! {
            biased;
            reply = reply => Some(reply),
            () = self.keep_sending(letter, &mut taken, &told, progress) => None,
            () = over(later) => None,
        };
        match outcome.or(pending) {
            Some(outcome) => Ok(outcome),
            None => Err(no_answer(taken, wait).with_request(*id)),
        }
    }

    /// Sends until a relay took it, at most `wait` long.
    pub(super) async fn hand_over(
        &self,
        letter: &Letter,
        wait: Duration,
        progress: Progress<'_>,
    ) -> Result<(), ClientError> {
        let sending = async {
            while !self.send_once(letter, progress).await {
                tokio::time::sleep(self.resend).await;
            }
        };
        tokio::time::timeout(wait, sending)
            .await
            .map_err(|_| no_answer(false, wait))
    }

    /// Sends again and again, and more seldom to a provider that has `told` us
    /// something.
    async fn keep_sending(
        &self,
        letter: &Letter,
        taken: &mut bool,
        told: &AtomicBool,
        progress: Progress<'_>,
    ) {
        loop {
            *taken |= self.send_once(letter, progress).await;
            let slowly = if told.load(Ordering::Relaxed) { 6 } else { 1 };
            tokio::time::sleep(self.resend.saturating_mul(slowly)).await;
        }
    }

    /// Whether a relay took it.
    async fn send_once(&self, letter: &Letter, progress: Progress<'_>) -> bool {
        let (acks, ()) = tokio::join!(self.post.send(letter), self.announce());
        for (relay, ack) in &acks {
            if let Ack::Refused(why) | Ack::NoAnswer(why) = ack {
                tracing::debug!(relay, why, "a relay did not take the request");
            }
        }
        let took = acks.iter().filter(|(_, ack)| *ack == Ack::Accepted).count();
        if took == 0 {
            progress("no relay took the request yet; it is sent again");
        }
        took > 0
    }

    async fn announce(&self) {
        let now = now();
        let fresh = self.records.announced().is_some_and(|(at, relays)| {
            relays == self.relays && now.secs_since(at) < ANNOUNCE_EVERY.as_secs()
        });
        if fresh {
            return;
        }
        let acks = self.post.announce().await;
        if acks.iter().any(|(_, ack)| *ack == Ack::Accepted)
            && let Err(error) = self.records.set_announced(now, &self.relays)
        {
            tracing::debug!(%error, "not noted; announced again next time");
        }
    }

    async fn listening(&self) -> Result<Arc<Mailbox>, ClientError> {
        let listening = self
            .mailbox
            .get_or_try_init(|| async {
                let messages = self.post.listen().await.map_err(|error| {
                    ClientError::new(
                        Kind::Network,
                        "no_relay",
                        format!("no relay can be listened to: {error}"),
                        "Set relays: satlet config set relays URL[,URL].",
                    )
                })?;
                let mailbox = Arc::new(Mailbox::default());
                let (records, me) = (self.records.clone(), self.public_key());
                let task = tokio::spawn(Arc::clone(&mailbox).fill(messages, records, me));
                Ok::<_, ClientError>(Listening { mailbox, task })
            })
            .await?;
        Ok(Arc::clone(&listening.mailbox))
    }
}

/// The JSON text of a request.
pub(super) fn body_of(request: &Request) -> Result<String, ClientError> {
    let body = serde_json::to_string(request).map_err(|error| {
        ClientError::internal(format!("the request cannot be written: {error}"))
    })?;
    if body.len() > MAX_REQUEST {
        return Err(ClientError::usage(
            "message_too_large",
            format!(
                "the request has {} bytes, {MAX_REQUEST} are allowed",
                body.len()
            ),
            "Use a token of fewer proofs, or a smaller command or environment.",
        ));
    }
    Ok(body)
}

fn find_lease(all: Vec<KnownLease>, prefix: &str) -> Result<KnownLease, ClientError> {
    let prefix = prefix.trim().to_lowercase();
    let mut fit: Vec<KnownLease> = all
        .into_iter()
        .filter(|lease| !prefix.is_empty() && lease.status.lease.as_str().starts_with(&prefix))
        .collect();
    match (fit.pop(), fit.len()) {
        (Some(one), 0) => Ok(one),
        (Some(last), _) => {
            let names: Vec<String> = fit
                .iter()
                .chain([&last])
                .map(|lease| format!("{} ({})", lease.status.lease, lease.provider_name))
                .collect();
            Err(ClientError::new(
                Kind::NotFound,
                "lease_ambiguous",
                format!("'{prefix}' fits several leases: {}", names.join(", ")),
                "Type more of the lease's id.",
            ))
        }
        (None, _) => Err(ClientError::new(
            Kind::NotFound,
            "lease_not_found",
            format!("no lease '{prefix}' is known here"),
            "See satlet ls, or ask the provider: satlet ls --refresh --provider NAME.",
        )),
    }
}

/// Returns at that instant, which may be put off meanwhile.
async fn over(end: watch::Receiver<Instant>) {
    loop {
        let until = *end.borrow();
        if Instant::now() >= until {
            return;
        }
        tokio::time::sleep_until(until).await;
    }
}

pub(super) fn no_answer(taken: bool, wait: Duration) -> ClientError {
    let seconds = wait.as_secs();
    if taken {
        ClientError::new(
            Kind::Timeout,
            "no_answer",
            format!("the provider did not answer within {seconds} s"),
            "Ask again later, with a longer --timeout, or choose a provider that is online.",
        )
    } else {
        ClientError::new(
            Kind::Network,
            "no_relay",
            format!("no relay took the request within {seconds} s"),
            "Look at the network and the relays (satlet config get relays).",
        )
    }
}
