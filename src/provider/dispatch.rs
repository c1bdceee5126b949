//! From a stored message to a handler, and from its outcome to a stored answer.
//! Each request is handled once however often and by whatever way it comes; who
//! asks again gets the stored answer again.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::answers;
use super::ctx::Ctx;
use super::handlers::{self, Handled};
use super::paygress;
use super::refuse::{self, Refusal};
use crate::core::ids::{PublicKey, RequestId};
use crate::ledger::{INBOX, LedgerError, OldAsk, REQUESTS, RequestRow, request_key};
use crate::protocol::error::{Code, WireError};
use crate::protocol::reply::{Message, Reply};
use crate::protocol::request::Request;
use crate::protocol::{DIALECT, MAX_REQUEST};
use crate::relay::Incoming;

/// Requests that are handled at once; more wait in the inbox's channel.
const PARALLEL: usize = 64;

/// First wait before a message is handled again whose handling the ledger did
/// not take down; doubles up to [`AGAIN_MAX`].
const AGAIN: Duration = Duration::from_secs(1);
/// Longest such wait.
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// A message written longer ago than this is ignored: what is remembered of
/// requests that moved no money reaches back a week, and a relay that brings an
/// old one again must not buy anything. The inbox looks back three days.
const TOO_OLD: Duration = Duration::from_secs(5 * 24 * 3600);

/// Takes messages from the inbox and hands each to a task of its own.
pub struct Dispatcher {
    ctx: Arc<Ctx>,
    places: Arc<Semaphore>,
    busy: Arc<Busy>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Requests that are being handled.
#[derive(Default)]
struct Busy(Mutex<HashSet<(PublicKey, RequestId)>>);

struct BusyGuard {
    busy: Arc<Busy>,
    key: (PublicKey, RequestId),
}

impl Busy {
    fn enter(self: &Arc<Self>, key: (PublicKey, RequestId)) -> Option<BusyGuard> {
        let mut set = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        set.insert(key).then(|| BusyGuard {
            busy: Arc::clone(self),
            key,
        })
    }
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.busy
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
    }
}

/// The part of a request that is read first.
#[derive(Deserialize)]
struct Envelope {
    satlet: Option<u32>,
    request_id: Option<RequestId>,
}

impl Dispatcher {
    /// A dispatcher for `ctx`.
    pub fn new(ctx: Arc<Ctx>) -> Self {
        Self {
            ctx,
            places: Arc::new(Semaphore::new(PARALLEL)),
            busy: Arc::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// First what an earlier run left undone, then what comes, until the inbox
    /// closes.
    pub async fn run(&self, inbox: &mut mpsc::Receiver<Incoming>) {
        self.resume().await;
        while let Some(message) = inbox.recv().await {
            self.dispatch(message).await;
        }
    }

    /// Takes up what an earlier run left undone.
    pub async fn resume(&self) {
        match undone(&self.ctx) {
            Ok(left) => {
                for message in left {
                    self.dispatch(message).await;
                }
            }
            Err(error) => drop(refuse::internal(&error)),
        }
    }

    /// Breaks off what is being handled, and returns when it is gone; the
    /// messages are stored, and the next start takes them up.
    pub async fn abort(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Handles one message in a task of its own; waits only for a place.
    pub async fn dispatch(&self, message: Incoming) {
        let (ctx, busy) = (Arc::clone(&self.ctx), Arc::clone(&self.busy));
        let places = Arc::clone(&self.places);
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stop = self.stop.clone();
        self.tasks.spawn(stop.run_until_cancelled_owned(async move {
            let mut place = Some(place);
            let mut wait = AGAIN;
            while !handled(&ctx, &busy, &message).await {
                // The ledger failed: the message is stored, and nobody brings it
                // again before the next start.
                drop(place.take());
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(AGAIN_MAX);
                place = Arc::clone(&places).acquire_owned().await.ok();
            }
        }));
    }
}

/// Handles a message in a task of its own, so that a panic is an answer and not
/// the end. `false` where the ledger failed.
async fn handled(ctx: &Arc<Ctx>, busy: &Arc<Busy>, message: &Incoming) -> bool {
    let rumor = message.rumor;
    let inner = tokio::spawn(one(Arc::clone(ctx), Arc::clone(busy), message.clone()));
    let done = match AbortOnDropHandle::new(inner).await {
        Ok(done) => done,
        Err(panic) => {
            tracing::error!(%rumor, %panic, "a handler died");
            after_panic(ctx, message).await
        }
    };
    done.inspect_err(|error| drop(refuse::internal(error)))
        .is_ok()
}

/// Messages that were stored and not dealt with.
fn undone(ctx: &Ctx) -> Result<Vec<Incoming>, LedgerError> {
    let rows = ctx.ledger().read(|reader| reader.all(&INBOX))?;
    let mut left: Vec<_> = rows
        .into_iter()
        .filter(|(_, row)| !row.done)
        .filter_map(|(key, row)| {
            Some(Incoming {
                channel: row.channel,
                rumor: key.parse().ok()?,
                sender: row.sender,
                written_at: row.written_at,
                received_at: row.received_at,
                relay: row.relay,
                body: row.body,
            })
        })
        .collect();
    left.sort_by_key(|message| message.received_at);
    Ok(left)
}

async fn one(ctx: Arc<Ctx>, busy: Arc<Busy>, message: Incoming) -> Result<(), LedgerError> {
    if message.written_at < ctx.now().minus(TOO_OLD) {
        tracing::info!(rumor = %message.rumor, "written too long ago; ignored");
        return done(&ctx, &message, None).await;
    }
    if let Some(read) = paygress::read(&ctx, &message) {
        let key = (message.sender, paygress::request_id(&message.rumor));
        let Some(_guard) = busy.enter(key) else {
            return Ok(());
        };
        return paygress::handle(&ctx, &message, read).await;
    }
    let Ok(envelope) = serde_json::from_str::<Envelope>(&message.body) else {
        tracing::debug!(rumor = %message.rumor, "not a request; ignored");
        return done(&ctx, &message, None).await;
    };
    let (Some(dialect), Some(id)) = (envelope.satlet, envelope.request_id) else {
        tracing::debug!(rumor = %message.rumor, "not a request of this dialect; ignored");
        return done(&ctx, &message, None).await;
    };
    let Some(_guard) = busy.enter((message.sender, id)) else {
        // The one answer goes out when the first copy is dealt with.
        return done(&ctx, &message, Some(id)).await;
    };
    if let Err(refusal) = admit(&ctx, &message, dialect) {
        // A refusal says that the token is untouched. That is no answer to a
        // request that was taken before: it has its own.
        if !is_taken(&ctx, &message, id)? {
            return answers::unstored(&ctx, &message, id, refusal).await;
        }
        if refusal.code == Code::TooManyRequests {
            return done(&ctx, &message, Some(id)).await;
        }
    }
    let ready = ready(&ctx, &message, id).await?;
    match known(&ctx, &message, id, None, ready).await? {
        Known::Answered => Ok(()),
        Known::OtherBody => {
            let refusal = WireError::new(
                Code::RequestIdReused,
                "this request id came before with another body",
                "use a new request id for a new request",
            );
            answers::unstored(&ctx, &message, id, refusal).await
        }
        Known::Pending => done(&ctx, &message, Some(id)).await,
        Known::New => handle(&ctx, &message, id).await,
    }
}

/// The answer to a request that only asks and is not known yet: nothing has to
/// be written down before it is made, so that its row, its answer and the message
/// to send are one commit.
async fn ready(
    ctx: &Arc<Ctx>,
    message: &Incoming,
    id: RequestId,
) -> Result<Option<Reply>, LedgerError> {
    let Ok(request) = serde_json::from_str::<Request>(&message.body) else {
        return Ok(None);
    };
    let key = request_key(&message.sender, id);
    if !request.ask.only_asks() || ctx.ledger().read(|r| r.get(&REQUESTS, &key))?.is_some() {
        return Ok(None);
    }
    Ok(match attempt(ctx, message, &request).await {
        Ok(Handled::Answer(answer)) => Some(Reply::result(id, *answer)),
        Ok(Handled::Later(_)) => None,
        Err(refusal) => Some(refused(message, id, refusal)),
    })
}

fn refused(message: &Incoming, id: RequestId, refusal: Refusal) -> Reply {
    tracing::info!(request = %id, owner = %message.sender, code = %refusal.code, "refused");
    Reply::error(id, refusal)
}

/// Whether the request is answered or under way.
pub(super) fn is_taken(ctx: &Ctx, message: &Incoming, id: RequestId) -> Result<bool, LedgerError> {
    let key = request_key(&message.sender, id);
    let row = ctx.ledger().read(|reader| reader.get(&REQUESTS, &key))?;
    Ok(row.is_some_and(|row| row.lease.is_some() || row.answer.is_some()))
}

/// Whether this sender is served at all, and now.
pub(super) fn admit(ctx: &Ctx, message: &Incoming, dialect: u32) -> Result<(), Refusal> {
    let policy = &ctx.settings().requests;
    let welcome = policy.allow.is_empty() || policy.allow.contains(&message.sender);
    if !welcome || policy.deny.contains(&message.sender) {
        return Err(WireError::new(
            Code::NotAllowed,
            "this provider does not serve your key",
            "choose another provider",
        ));
    }
    if !ctx.allow(message.sender) {
        return Err(WireError::new(
            Code::TooManyRequests,
            format!(
                "more than {} requests in a minute",
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
    if dialect != DIALECT {
        return Err(WireError::new(
            Code::UnsupportedVersion,
            format!("this provider speaks version {DIALECT}, not {dialect}"),
            "use a client for that version, or look at `dialects` in the offer",
        ));
    }
    Ok(())
}

/// What is known of a request.
pub(super) enum Known {
    /// Nothing: it is written down now.
    New,
    /// It is answered, and the answer is in the outbox, maybe again.
    Answered,
    /// It is under way; its lease's task will answer.
    Pending,
    /// Its id came before with another body.
    OtherBody,
}

pub(super) async fn known(
    ctx: &Ctx,
    message: &Incoming,
    id: RequestId,
    paygress: Option<OldAsk>,
    ready: Option<Reply>,
) -> Result<Known, LedgerError> {
    let body_hash = hex::encode(Sha256::digest(message.body.as_bytes()));
    let (message, now, keep) = (message.clone(), ctx.now(), ctx.settings().timing.answer);
    let found = ctx
        .ledger()
        .write(move |tx| {
            let key = request_key(&message.sender, id);
            let Some(mut row) = tx.get(&REQUESTS, &key)? else {
                let row = RequestRow {
                    channel: message.channel,
                    owner: message.sender,
                    id,
                    body_hash,
                    relays: vec![message.relay.clone()],
                    received_at: message.received_at,
                    lease: None,
                    payment: None,
                    answer: None,
                    pending: None,
                    paygress,
                };
                let Some(reply) = ready else {
                    tx.put(&REQUESTS, &key, &row)?;
                    return Ok(Known::New);
                };
                answers::mark_done(tx, &message, Some(id))?;
                let text = answers::encode(&Message::Reply(reply))?;
                answers::store(tx, row, text, now, now.plus(keep))?;
                return Ok(Known::Answered);
            };
            if row.body_hash != body_hash {
                return Ok(Known::OtherBody);
            }
            if !row.relays.contains(&message.relay) && row.relays.len() < 8 {
                row.relays.push(message.relay.clone());
                tx.put(&REQUESTS, &key, &row)?;
            }
            if row.answer.is_some() {
                answers::mark_done(tx, &message, Some(id))?;
                answers::send_again(tx, &row, now, now.plus(keep))?;
                return Ok(Known::Answered);
            }
            if row.lease.is_none() {
                return Ok(Known::New);
            }
            answers::pending_again(tx, &row, now, now.plus(keep))?;
            Ok(Known::Pending)
        })
        .await?;
    if matches!(found, Known::Answered | Known::Pending) {
        ctx.outbox.notify_one();
    }
    Ok(found)
}

async fn handle(ctx: &Arc<Ctx>, message: &Incoming, id: RequestId) -> Result<(), LedgerError> {
    let outcome = match serde_json::from_str::<Request>(&message.body) {
        Ok(request) => attempt(ctx, message, &request).await,
        Err(error) => Err(WireError::new(
            Code::InvalidRequest,
            format!("the request cannot be read: {error}"),
            "see specs/requests.md for what a request looks like",
        )),
    };
    match outcome {
        Ok(Handled::Later(lease)) => {
            done(ctx, message, Some(id)).await?;
            ctx.actors.wake(ctx, &lease);
            Ok(())
        }
        Ok(Handled::Answer(answer)) => {
            answers::answer(ctx, message, Reply::result(id, *answer)).await
        }
        Err(refusal) => answers::answer(ctx, message, refused(message, id, refusal)).await,
    }
}

async fn attempt(
    ctx: &Arc<Ctx>,
    message: &Incoming,
    request: &Request,
) -> Result<Handled, Refusal> {
    if request.expires_at.is_some_and(|end| end < ctx.now()) {
        return Err(WireError::new(
            Code::RequestExpired,
            "the request's own deadline has passed",
            "ask again with a new request id",
        ));
    }
    handlers::handle(ctx, message.sender, request).await
}

pub(super) async fn done(
    ctx: &Ctx,
    message: &Incoming,
    id: Option<RequestId>,
) -> Result<(), LedgerError> {
    let message = message.clone();
    ctx.ledger()
        .write(move |tx| answers::mark_done(tx, &message, id))
        .await
}

/// Answers for a handler that died, unless its lease's task will.
async fn after_panic(ctx: &Ctx, message: &Incoming) -> Result<(), LedgerError> {
    let old = paygress::read(ctx, message).is_some();
    let id = if old {
        Some(paygress::request_id(&message.rumor))
    } else {
        let envelope = serde_json::from_str::<Envelope>(&message.body);
        envelope.ok().and_then(|e| e.request_id)
    };
    let Some(id) = id else {
        return done(ctx, message, None).await;
    };
    let key = request_key(&message.sender, id);
    let row = ctx.ledger().read(|reader| reader.get(&REQUESTS, &key))?;
    if row.is_some_and(|row| row.lease.is_some() || row.answer.is_some()) {
        return done(ctx, message, Some(id)).await;
    }
    if old {
        return answers::answer_text(ctx, message, id, &paygress::after_panic()).await;
    }
    let refusal = WireError::new(
        Code::Internal,
        "the provider failed at this request",
        "try again with a new request id; the token is still yours",
    );
    let reply = Reply::error(id, refusal);
    match known(ctx, message, id, None, Some(reply.clone())).await? {
        Known::New => answers::answer(ctx, message, reply).await,
        Known::Answered | Known::Pending | Known::OtherBody => done(ctx, message, Some(id)).await,
    }
}
