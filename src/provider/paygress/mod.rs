//! Clients of the dialect in use ("paygress/1"): their requests become ours, our
//! answers are rendered in their shape. `specs/paygress.md` says what holds.
//!
//! Such a client takes the first message of the provider for the answer to what
//! it asked last, so each request has one reply, sent while somebody waits for
//! it, and nothing else is ever sent.

use std::sync::Arc;

use uuid::Uuid;

use super::answers;
use super::ctx::Ctx;
use super::dispatch::{self, Known};
use crate::core::ids::{EventId, LeaseId, RequestId};
use crate::ledger::{LedgerError, OldAsk};
use crate::protocol::DIALECT;
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
) -> Result<(), LedgerError> {
    let id = request_id(&message.rumor);
    let ask = wait::ask(message, read.as_ref().ok());
    // Providers that answered each other's replies would never end.
    if message.sender == ctx.parts.me || Reply::read(&message.body).is_some() {
        tracing::debug!(rumor = %message.rumor, "a reply, and no request; ignored");
        return dispatch::done(ctx, message, None).await;
    }
    if wait::is_stale(&ask, ctx.now()) {
        tracing::info!(rumor = %message.rumor, "nobody waits for the answer any more; ignored");
        return dispatch::done(ctx, message, None).await;
    }
    let admitted = dispatch::admit(ctx, message, DIALECT);
    let request = match read {
        Ok(request) => request,
        Err(why) => return garbage(ctx, message, &ask, &why, admitted.is_ok()).await,
    };
    if let Err(refusal) = admitted
        && !dispatch::is_taken(ctx, message, id)?
    {
        let reply = errors::reply(&refusal);
        return answers::unstored_text(ctx, message, &ask, &Reply::Error(reply)).await;
    }
    match dispatch::known(ctx, message, id, Some(ask.clone()), None).await? {
        Known::New => attempt(ctx, message, id, &ask, request).await,
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
) -> Result<(), LedgerError> {
    let owner = message.sender;
    let done = match &request {
        Request::Spawn(spawn) => spawn::handle(ctx, owner, id, ask, spawn).await,
        Request::TopUp(topup) => existing::topup(ctx, owner, id, ask, topup).await,
        Request::Status(status) => existing::status(ctx, owner, status).await,
    };
    match done {
        Ok(Done::Later(lease)) => {
            dispatch::done(ctx, message, Some(id)).await?;
            ctx.actors.wake(ctx, &lease);
            Ok(())
        }
        Ok(Done::Reply(reply)) => answers::answer_text(ctx, message, id, &reply).await,
        Err(error) => {
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
    ask: &OldAsk,
    why: &Unreadable,
    admitted: bool,
) -> Result<(), LedgerError> {
    if !admitted {
        return dispatch::done(ctx, message, None).await;
    }
    let error = ErrorReply::new(ErrorType::InvalidRequest, why.to_string());
    answers::unstored_text(ctx, message, ask, &Reply::Error(error)).await
}

/// What a request is told whose handler died.
pub(super) fn after_panic() -> Reply {
    Reply::Error(errors::reply(&WireError::new(
        Code::Internal,
        "the provider failed at this request",
        "try again; the token is still yours",
    )))
}
