//! From a stored message to a handler, and from its outcome to a stored answer.
//! Each request is handled once however often and by whatever way it comes; who
//! asks again gets the stored answer again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::admission::{self, Heard};
use super::answers::{self, Note, Unkept};
use super::ctx::Ctx;
use super::handlers::{self, Handled};
use super::lanes;
use super::paygress;
use super::refuse::{self, Refusal};
use crate::core::ids::{EventId, PublicKey, RequestId};
use crate::core::policy::rate::Class;
use crate::ledger::{INBOX, LedgerError, OldAsk, REQUESTS, RequestRow, request_key};
use crate::protocol::error::{Code, WireError};
use crate::protocol::reply::{Message, Reply};
use crate::protocol::request::Request;
use crate::relay::Incoming;

/// Requests that are handled at once; more wait in the inbox's channel.
const PARALLEL: usize = 64;

/// Requests of strangers that are handled at once.
const STRANGERS: usize = 4;
/// Requests of strangers that wait for that; their rate is limited too.
const STRANGERS_WAITING: usize = 256;

/// First wait before a message is handled again whose handling the ledger did
/// not take down; doubles up to [`AGAIN_MAX`].
const AGAIN: Duration = Duration::from_secs(1);
/// Longest such wait.
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// Takes messages from the inbox and hands each to a task of its own.
pub struct Dispatcher {
    ctx: Arc<Ctx>,
    places: Arc<Semaphore>,
    /// The same for strangers, and for those of them that wait.
    strangers: Arc<Semaphore>,
    strangers_waiting: Arc<Semaphore>,
    busy: Arc<Busy>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// A place among [`PARALLEL`], as long as it is needed.
pub(super) type HeldPlace = Option<OwnedSemaphorePermit>;

/// Requests that are being handled, each with the message that brought it.
#[derive(Default)]
struct Busy(Mutex<HashMap<(PublicKey, RequestId), EventId>>);

struct BusyGuard {
    busy: Arc<Busy>,
    key: (PublicKey, RequestId),
}

impl Busy {
    /// # Errors
    /// The message by which it is being handled already.
    fn enter(
        self: &Arc<Self>,
        key: (PublicKey, RequestId),
        rumor: EventId,
    ) -> Result<BusyGuard, EventId> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = map.get(&key) {
            return Err(*first);
        }
        map.insert(key, rumor);
        Ok(BusyGuard {
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
    request_id: Option<RequestId>,
}

impl Dispatcher {
    /// A dispatcher for `ctx`.
    pub fn new(ctx: Arc<Ctx>) -> Self {
        Self {
            ctx,
            places: Arc::new(Semaphore::new(PARALLEL)),
            strangers: Arc::new(Semaphore::new(STRANGERS)),
            strangers_waiting: Arc::new(Semaphore::new(STRANGERS_WAITING)),
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
        let class = ctx.admission.handed_over(&message.rumor);
        // Strangers queue by themselves: the ledger writes one after the other,
        // and whoever pays must not stand behind all of them.
        let (queue, places) = match class {
            Some(Class::Stranger) => (&self.strangers_waiting, &self.strangers),
            _ => (&self.places, &self.places),
        };
        let Ok(queued) = Arc::clone(queue).acquire_owned().await else {
            return;
        };
        let (apart, places) = (!Arc::ptr_eq(queue, places), Arc::clone(places));
        let stop = self.stop.clone();
        self.tasks.spawn(stop.run_until_cancelled_owned(async move {
            let mut place = Some(queued);
            if apart {
                place = Arc::clone(&places).acquire_owned().await.ok();
            }
            let mut wait = AGAIN;
            while !handled(&ctx, &busy, &message, class.is_some(), place).await {
                // The ledger failed: the message is stored, and nobody brings it
                // again before the next start.
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(AGAIN_MAX);
                place = Arc::clone(&places).acquire_owned().await.ok();
            }
        }));
    }
}

/// Handles a message in a task of its own, so that a panic is an answer and not
/// the end. `false` where the ledger failed.
async fn handled(
    ctx: &Arc<Ctx>,
    busy: &Arc<Busy>,
    message: &Incoming,
    admitted: bool,
    place: HeldPlace,
) -> bool {
    let rumor = message.rumor;
    let (shared, busy) = (Arc::clone(ctx), Arc::clone(busy));
    let inner = tokio::spawn(one(shared, busy, message.clone(), admitted, place));
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
                wrap: None,
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

async fn one(
    ctx: Arc<Ctx>,
    busy: Arc<Busy>,
    message: Incoming,
    admitted: bool,
    place: HeldPlace,
) -> Result<(), LedgerError> {
    // What an earlier run left undone was admitted by that one.
    if !admitted {
        match admission::hear(&ctx, &message)? {
            Heard::Take(_) => {}
            Heard::Ignore => return done(&ctx, &message, None).await,
            Heard::Refuse(refusal, _) => {
                return answers::unstored(&ctx, &message, *refusal, Note::Done).await;
            }
        }
    }
    if let Some(read) = paygress::read(&ctx, &message) {
        let key = (message.sender, paygress::request_id(&message.rumor));
        let Ok(_guard) = busy.enter(key, message.rumor) else {
            return Ok(());
        };
        return paygress::handle(&ctx, &message, read, place).await;
    }
    let id = serde_json::from_str::<Envelope>(&message.body)
        .ok()
        .and_then(|envelope| envelope.request_id);
    let Some(id) = id else {
        tracing::debug!(rumor = %message.rumor, "not a request of this dialect; ignored");
        return done(&ctx, &message, None).await;
    };
    let _guard = match busy.enter((message.sender, id), message.rumor) {
        Ok(guard) => guard,
        // At a start a message may be among what was left undone and come by its
        // relay too. It is dealt with when the copy is that is being handled: if
        // that is cut off, the next start has to find it undone.
        Err(first) if first == message.rumor => return Ok(()),
        // The one answer goes out when the first message is dealt with.
        Err(_) => return done(&ctx, &message, Some(id)).await,
    };
    let mut place = place;
    let ready = match ready(&ctx, &message, id, &mut place).await? {
        Ready::Silent => return done(&ctx, &message, Some(id)).await,
        Ready::Reply(reply) => Some(*reply),
        Ready::NotYet => None,
    };
    match known(&ctx, &message, id, None, ready).await? {
        Known::Answered => Ok(()),
        Known::OtherBody => {
            let refusal = WireError::new(
                Code::RequestIdReused,
                "this request id came before with another body",
                "use a new request id for a new request",
            );
            if !admission::within_ration(&ctx, &message.sender, Class::Stranger)? {
                return done(&ctx, &message, None).await;
            }
            answers::unstored(&ctx, &message, Unkept::Ours(id, refusal), Note::Done).await
        }
        Known::Pending => done(&ctx, &message, Some(id)).await,
        Known::New => handle(&ctx, &message, id, place).await,
    }
}

/// What comes of a request before it is written down.
enum Ready {
    /// Nothing: it has to be written down first, or is already.
    NotYet,
    /// Its answer.
    Reply(Box<Reply>),
    /// It is refused, and that is not told.
    Silent,
}

/// The answer to a request that only asks and is not known yet: nothing has to
/// be written down before it is made, so that its row, its answer and the message
/// to send are one commit.
async fn ready(
    ctx: &Arc<Ctx>,
    message: &Incoming,
    id: RequestId,
    place: &mut HeldPlace,
) -> Result<Ready, LedgerError> {
    let Ok(request) = serde_json::from_str::<Request>(&message.body) else {
        return Ok(Ready::NotYet);
    };
    let key = request_key(&message.sender, id);
    if !request.ask.only_asks() || ctx.ledger().read(|r| r.get(&REQUESTS, &key))?.is_some() {
        return Ok(Ready::NotYet);
    }
    Ok(match attempt(ctx, message, &request, place.take()).await {
        Ok(Handled::Answer(answer)) => Ready::Reply(Box::new(Reply::result(id, *answer))),
        Ok(Handled::Later(_)) => Ready::NotYet,
        Err(refusal) => {
            let class = admission::class(ctx, &message.sender, None);
            if !admission::tells(ctx, &message.sender, class)? {
                return Ok(Ready::Silent);
            }
            Ready::Reply(Box::new(refused(message, id, refusal)))
        }
    })
}

fn refused(message: &Incoming, id: RequestId, refusal: Refusal) -> Reply {
    tracing::info!(request = %id, owner = %message.sender, code = %refusal.code, "refused");
    Reply::error(id, refusal)
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

async fn handle(
    ctx: &Arc<Ctx>,
    message: &Incoming,
    id: RequestId,
    place: HeldPlace,
) -> Result<(), LedgerError> {
    let mut token = None;
    let outcome = match serde_json::from_str::<Request>(&message.body) {
        Ok(request) => {
            let outcome = attempt(ctx, message, &request, place).await;
            token = request.ask.token().map(str::to_owned);
            outcome
        }
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
        Err(refusal) => {
            let class = admission::class(ctx, &message.sender, token.as_deref());
            if !admission::tells(ctx, &message.sender, class)? {
                return answers::silent(ctx, message, id).await;
            }
            answers::answer(ctx, message, refused(message, id, refusal)).await
        }
    }
}

async fn attempt(
    ctx: &Arc<Ctx>,
    message: &Incoming,
    request: &Request,
    place: HeldPlace,
) -> Result<Handled, Refusal> {
    in_time(ctx, request)?;
    // Who waits for a mint has a place in its lane, and none here.
    let _place = place.filter(|_| !lanes::asks_a_mint(&request.ask));
    let _lane = ctx.lanes.enter(ctx, &request.ask).await?;
    // Its turn may have come too late.
    in_time(ctx, request)?;
    handlers::handle(ctx, message.sender, request).await
}

/// Whether the asker still wants it.
fn in_time(ctx: &Ctx, request: &Request) -> Result<(), Refusal> {
    if request.expires_at.is_none_or(|end| end >= ctx.now()) {
        return Ok(());
    }
    Err(WireError::new(
        Code::RequestExpired,
        "the request's own deadline has passed",
        "ask again with a new request id",
    ))
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
