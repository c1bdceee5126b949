//! Who is listened to, before anything is written down: what is no request, what
//! comes too often and whom the operator does not serve costs no commit. Refusals
//! are rationed; beyond the ration they are counted, and the log says so once a
//! minute.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::answers::Unkept;
use super::ctx::Ctx;
use super::paygress;
use super::refuse::Refusal;
use super::settings::RequestPolicy;
use crate::core::ids::{EventId, PublicKey, RequestId};
use crate::core::lease::Phase;
use crate::core::policy::rate::{Class, RateLimiter};
use crate::ledger::{Held, LedgerError, OUTBOX, OldAsk, REQUESTS, request_key};
use crate::protocol::error::{Code, WireError};
use crate::protocol::paygress::request as old;
use crate::protocol::{DIALECT, MAX_REQUEST};
use crate::relay::Incoming;

/// A message written longer ago than this is ignored: what is remembered of
/// requests that moved no money reaches back a week, and a relay that brings an
/// old one again must not buy anything. The inbox looks back three days.
const TOO_OLD: Duration = Duration::from_secs(5 * 24 * 3600);

/// Messages between store and dispatcher whose admission is remembered.
const TICKETS: usize = 4096;

/// With so many messages waiting to be sent, no refusal is added.
const OUTBOX_FULL: u64 = 2_000;

/// What is done with a message.
pub(super) enum Heard {
    /// It is handled, for one of this class.
    Take(Class),
    /// It is forgotten.
    Ignore,
    /// Its author is told why not. Whether it brought money.
    Refuse(Box<Unkept>, bool),
}

/// The part of a request that is read first.
#[derive(Deserialize)]
struct Envelope {
    satlet: Option<u32>,
    request_id: Option<RequestId>,
    token: Option<serde_json::Value>,
}

/// What a message asks, as far as it matters here.
struct Asked {
    dialect: u32,
    id: RequestId,
    token: Option<String>,
    /// It is of the dialect in use on the network.
    old: Option<OldAsk>,
}

impl Asked {
    /// `None` for what is no request of any dialect.
    fn read(ctx: &Ctx, message: &Incoming) -> Option<Self> {
        if let Ok(Envelope {
            satlet: Some(dialect),
            request_id: Some(id),
            token,
        }) = serde_json::from_str(&message.body)
        {
            let token = token.map(|token| token.as_str().unwrap_or_default().to_owned());
            let old = None;
            return Some(Self {
                dialect,
                id,
                token,
                old,
            });
        }
        let read = paygress::read(ctx, message)?;
        let token = match read.as_ref().ok() {
            Some(old::Request::Spawn(spawn)) => Some(spawn.cashu_token.clone()),
            Some(old::Request::TopUp(topup)) => Some(topup.cashu_token.clone()),
            Some(old::Request::Status(_)) | None => None,
        };
        // What comes too late is nothing: nobody waits for a refusal either.
        let ask = paygress::wait::ask(message, read.as_ref().ok());
        let in_time = !paygress::wait::is_stale(&ask, ctx.now());
        in_time.then(|| Self {
            dialect: DIALECT,
            id: paygress::request_id(&message.rumor),
            token,
            old: Some(ask),
        })
    }
}

/// Counts and buckets. All memory in it is bounded.
pub struct Admission {
    started: Instant,
    requests: Mutex<RateLimiter>,
    errors: Mutex<RateLimiter>,
    /// Keys with a lease that is paid; no more than there are leases.
    owners: Mutex<HashSet<PublicKey>>,
    /// Messages that were admitted and are on their way to the dispatcher.
    tickets: Mutex<HashMap<EventId, Class>>,
    ignored: AtomicU64,
    silenced: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Admission {
    pub(super) fn new(policy: &RequestPolicy) -> Self {
        let requests = RateLimiter::new(policy.per_key_per_minute, policy.per_minute, 0);
        let (own, all) = (policy.errors_per_key_per_minute, policy.errors_per_minute);
        Self {
            started: Instant::now(),
            requests: Mutex::new(requests),
            errors: Mutex::new(RateLimiter::new(own, all, 0)),
            owners: Mutex::default(),
            tickets: Mutex::default(),
            ignored: AtomicU64::new(0),
            silenced: AtomicU64::new(0),
        }
    }

    pub(super) fn set(&self, policy: &RequestPolicy) {
        let now = self.now_ms();
        lock(&self.requests).set(policy.per_key_per_minute, policy.per_minute, now);
        let (own, all) = (policy.errors_per_key_per_minute, policy.errors_per_minute);
        lock(&self.errors).set(own, all, now);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Notes whose leases these are. A lease that is not paid makes nobody an
    /// owner: a token that looks good costs nothing.
    pub(super) fn set_owners(&self, leases: &[Held]) {
        let paid = leases.iter().filter(|lease| lease.phase != Phase::Reserved);
        *lock(&self.owners) = paid.map(|lease| lease.owner).collect();
    }

    /// Notes that this key has paid for a lease; the next sweep says the same.
    pub(super) fn add_owner(&self, owner: PublicKey) {
        lock(&self.owners).insert(owner);
    }

    /// Notes that a message was admitted and will be dispatched.
    pub(super) fn hand_over(&self, rumor: EventId, class: Class) {
        let mut tickets = lock(&self.tickets);
        if tickets.len() >= TICKETS {
            // Whoever loses one is looked at again.
            tickets.clear();
        }
        tickets.insert(rumor, class);
    }

    /// For whom a message was admitted before it was stored; told once.
    pub(super) fn handed_over(&self, rumor: &EventId) -> Option<Class> {
        lock(&self.tickets).remove(rumor)
    }

    /// Messages that were no requests, and refusals that were not told, so far.
    pub fn counts(&self) -> (u64, u64) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (load(&self.ignored), load(&self.silenced))
    }

    /// Keys that the buckets remember.
    pub fn keys(&self) -> usize {
        lock(&self.requests).keys() + lock(&self.errors).keys()
    }
}

/// What is done with a message. It takes a token of its sender's share.
pub(super) fn hear(ctx: &Ctx, message: &Incoming) -> Result<Heard, LedgerError> {
    let admission = &ctx.admission;
    let asked = Asked::read(ctx, message);
    let asked = asked.filter(|_| message.written_at >= ctx.now().minus(TOO_OLD));
    let Some(asked) = asked else {
        tracing::debug!(rumor = %message.rumor, "no request of ours, or too old; ignored");
        admission.ignored.fetch_add(1, Ordering::Relaxed);
        return Ok(Heard::Ignore);
    };
    let class = class(ctx, &message.sender, asked.token.as_deref());
    let Err(refusal) = admit(ctx, message, &asked, class) else {
        return Ok(Heard::Take(class));
    };
    let id = asked.id;
    // A refusal says that the token is untouched. That is no answer to a request
    // that was taken before: it has its own.
    if is_taken(ctx, message, id)? {
        return Ok(match refusal.code {
            Code::TooManyRequests => Heard::Ignore,
            _ => Heard::Take(class),
        });
    }
    if !within_ration(ctx, &message.sender, class)? {
        return Ok(Heard::Ignore);
    }
    let unkept = match asked.old {
        Some(ask) => Unkept::Old(ask, paygress::refusal(&refusal)),
        None => Unkept::Ours(id, refusal),
    };
    Ok(Heard::Refuse(Box::new(unkept), asked.token.is_some()))
}

/// What a sender is to us, who maybe brings this token.
pub(super) fn class(ctx: &Ctx, sender: &PublicKey, token: Option<&str>) -> Class {
    if lock(&ctx.admission.owners).contains(sender) {
        return Class::Owner;
    }
    match token {
        Some(token) if ctx.parts.wallet.inspect(token).is_ok() => Class::Payer,
        _ => Class::Stranger,
    }
}

/// Whether the refusal of a request that was handled is told: always to who owns
/// a lease, whose requests are limited themselves; to others within the ration.
pub(super) fn tells(ctx: &Ctx, sender: &PublicKey, class: Class) -> Result<bool, LedgerError> {
    Ok(class == Class::Owner || within_ration(ctx, sender, class)?)
}

/// Takes one refusal from the sender's ration, while the outbox has room. What
/// is not told is counted.
pub(super) fn within_ration(
    ctx: &Ctx,
    sender: &PublicKey,
    class: Class,
) -> Result<bool, LedgerError> {
    let admission = &ctx.admission;
    let room = ctx.ledger().read(|reader| reader.count(&OUTBOX))? < OUTBOX_FULL;
    let tells = room && lock(&admission.errors).allow(*sender, class, admission.now_ms());
    if !tells {
        admission.silenced.fetch_add(1, Ordering::Relaxed);
    }
    Ok(tells)
}

/// Whether the request is answered or under way.
fn is_taken(ctx: &Ctx, message: &Incoming, id: RequestId) -> Result<bool, LedgerError> {
    let key = request_key(&message.sender, id);
    let row = ctx.ledger().read(|reader| reader.get(&REQUESTS, &key))?;
    Ok(row.is_some_and(|row| row.lease.is_some() || row.answer.is_some()))
}

/// Whether this sender is served at all, and now.
fn admit(ctx: &Ctx, message: &Incoming, asked: &Asked, class: Class) -> Result<(), Refusal> {
    let policy = ctx.policy();
    let welcome = policy.allow.is_empty() || policy.allow.contains(&message.sender);
    if !welcome || policy.deny.contains(&message.sender) {
        return Err(WireError::new(
            Code::NotAllowed,
            "this provider does not serve your key",
            "choose another provider",
        ));
    }
    let admission = &ctx.admission;
    let now = admission.now_ms();
    if !lock(&admission.requests).allow(message.sender, class, now) {
        return Err(WireError::new(
            Code::TooManyRequests,
            format!(
                "more than {} requests in a minute, or too many of all",
                policy.per_key_per_minute
            ),
            "wait a minute and ask again with the same request id",
        ));
    }
    if message.body.len() > MAX_REQUEST {
        return Err(WireError::new(
            Code::MessageTooLarge,
            format!("the request is longer than {MAX_REQUEST} bytes"),
            "send a token of fewer proofs, or a shorter command or environment",
        ));
    }
    if asked.dialect != DIALECT {
        return Err(WireError::new(
            Code::UnsupportedVersion,
            format!(
                "this provider speaks version {DIALECT}, not {}",
                asked.dialect
            ),
            "use a client for that version, or look at `dialects` in the offer",
        ));
    }
    Ok(())
}

/// Says how much was ignored and not told since the counts before; returns the
/// counts now.
pub(super) fn report(ctx: &Ctx, before: (u64, u64)) -> (u64, u64) {
    let now = ctx.admission.counts();
    let ignored = now.0.saturating_sub(before.0);
    let silenced = now.1.saturating_sub(before.1);
    if ignored + silenced > 0 {
        tracing::info!(
            ignored,
            silenced,
            "messages that were no requests, and refusals beyond the ration that were not sent"
        );
    }
    now
}
