//! Clients of the dialect in use ("paygress/1"): their requests become ours, our
//! answers are rendered in their shape. `specs/paygress.md` says what holds.
//!
//! Such a client takes the first message of the provider for the answer to what
//! it asked last, so each request has one reply, sent while somebody waits for
//! it, and nothing else is ever sent.

use std::sync::Arc;

use uuid::Uuid;

use super::admission;
use super::answers::{self, Note, Unkept};
use super::ctx::Ctx;
use super::dispatch::{self, HeldPlace, Known};
use super::refuse::Refusal;
use crate::core::ids::{EventId, LeaseId, RequestId};
use crate::core::policy::rate::Class;
use crate::ledger::{LedgerError, OldAsk};
use crate::protocol::channel::Channel;
use crate::protocol::error::{Code, WireError};
use crate::protocol::paygress::reply::{ErrorReply, ErrorType, Reply};
use crate::protocol::paygress::request::{Request, Unreadable};
use crate::relay::Incoming;

mod errors;
mod existing;
pub mod ports;
mod refunds;
mod render;
mod spawn;
#[cfg(test)]
mod tests;
pub mod wait;

pub(super) use refunds::forget;
pub(super) use render::{render, text};
pub(super) use wait::unheard;

/// What a handler leaves.
enum Done {
    /// The reply.
    Reply(Reply),
    /// It is written down: this lease's task replies.
    Later(LeaseId),
}

/// The request in a message, if it is to be taken for one of this dialect; what
/// came by NIP-04 and is none says why not.
pub(super) fn read(ctx: &Ctx, message: &Incoming) -> Option<Result<Request, Unreadable>> {
    ctx.settings().paygress.as_ref()?;
    let by_nip04 = message.channel == Channel::Nip04;
    let value: Option<serde_json::Value> = serde_json::from_str(&message.body).ok();
    if value.is_some_and(|value| value.get("satlet").is_some()) {
        let why = "requests with a `satlet` field travel by NIP-17".to_owned();
        return by_nip04.then_some(Err(Unreadable::Shape(why)));
    }
    match Request::read(&message.body) {
        Err(_) if !by_nip04 => None,
        read => Some(read),
    }
}

/// The request's id: the first half of the id of its event or rumor.
pub(super) fn request_id(rumor: &EventId) -> RequestId {
    let (half, _) = rumor.as_bytes().split_at(16);
    RequestId::new(Uuid::from_slice(half).unwrap_or_default())
}

/// Handles one message to its end: the caller holds its place.
pub(super) async fn handle(
    ctx: &Arc<Ctx>,
    message: &Incoming,
    read: Result<Request, Unreadable>,
    place: HeldPlace,
) -> Result<(), LedgerError> {
    let id = request_id(&message.rumor);
    let ask = wait::ask(message, read.as_ref().ok());
    // Providers that answered each other's replies would never end.
    if message.sender == ctx.me() || Reply::read(&message.body).is_some() {
        tracing::debug!(rumor = %message.rumor, "a reply, and no request; ignored");
        return dispatch::done(ctx, message, None).await;
    }
    if wait::is_stale(&ask, ctx.now()) {
        tracing::info!(rumor = %message.rumor, "nobody waits for the answer any more; ignored");
        return dispatch::done(ctx, message, None).await;
    }
    let request = match read {
        Ok(request) => request,
        Err(why) => return garbage(ctx, message, ask, &why).await,
    };
    match dispatch::known(ctx, message, id, Some(ask.clone()), None).await? {
        Known::New => attempt(ctx, message, id, &ask, request, place).await,
        Known::Answered => Ok(()),
        Known::Pending | Known::OtherBody => dispatch::done(ctx, message, Some(id)).await,
    }
}

async fn attempt(
    ctx: &Arc<Ctx>,
    message: &Incoming,
    id: RequestId,
    ask: &OldAsk,
    request: Request,
    place: HeldPlace,
) -> Result<(), LedgerError> {
    let owner = message.sender;
    let token = match &request {
        Request::Spawn(spawn) => Some(spawn.cashu_token.as_str()),
        Request::TopUp(topup) => Some(topup.cashu_token.as_str()),
        Request::Status(_) => None,
    };
    // Who waits for a mint has a place in its lane, and none here.
    let _place = place.filter(|_| token.is_none());
    let lane = match token {
        Some(token) => ctx.lanes.enter_with(ctx, token).await,
        None => Ok(None),
    };
    let done = match (&request, lane.as_ref()) {
        (_, Err(full)) => Err(errors::reply(full)),
        (Request::Spawn(spawn), Ok(_)) => spawn::handle(ctx, owner, id, ask, spawn).await,
        (Request::TopUp(topup), Ok(_)) => existing::topup(ctx, owner, id, ask, topup).await,
        (Request::Status(status), Ok(_)) => existing::status(ctx, owner, status).await,
    };
    match done {
        Ok(Done::Later(lease)) => {
            dispatch::done(ctx, message, Some(id)).await?;
            ctx.actors.wake(ctx, &lease);
            Ok(())
        }
        Ok(Done::Reply(reply)) => answers::answer_text(ctx, message, id, &reply).await,
        Err(error) => {
            let class = admission::class(ctx, &owner, token);
            if error.details.is_none() && !admission::tells(ctx, &owner, class)? {
                return answers::silent(ctx, message, id).await;
            }
            tracing::info!(request = %id, %owner, error = %error.error_type, "refused");
            answers::answer_text(ctx, message, id, &Reply::Error(error)).await
        }
    }
}

/// Answers what came by NIP-04 and is no request, as often as its sender may
/// ask at all. Nothing of it is quoted: it may hold a token.
async fn garbage(
    ctx: &Ctx,
    message: &Incoming,
    ask: OldAsk,
    why: &Unreadable,
) -> Result<(), LedgerError> {
    if !admission::within_ration(ctx, &message.sender, Class::Stranger)? {
        return dispatch::done(ctx, message, None).await;
    }
    let error = ErrorReply::new(ErrorType::InvalidRequest, why.to_string());
    let refusal = Unkept::Old(ask, Reply::Error(error));
    answers::unstored(ctx, message, refusal, Note::Done).await
}

/// A refusal as such a client reads it.
pub(super) fn refusal(refusal: &Refusal) -> Reply {
    Reply::Error(errors::reply(refusal))
}

/// What a request is told whose handler died.
pub(super) fn after_panic() -> Reply {
    Reply::Error(errors::reply(&WireError::new(
        Code::Internal,
        "the provider failed at this request",
        "try again; the token is still yours",
    )))
}
