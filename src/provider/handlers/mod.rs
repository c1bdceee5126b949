//! One request a file. A handler answers at once, or writes down what is to be
//! done and leaves the answer to the lease's own task.

mod gift;
mod hold;
mod invoice;
mod list;
mod logs;
mod quote;
mod receipt;
mod spawn;
mod status;
mod stop;
mod topup;

use std::sync::Arc;

use super::ctx::Ctx;
use super::refuse::{self, Refusal};
use crate::core::ids::{LeaseId, PublicKey};
use crate::core::lease::Lease;
use crate::core::payment::Payment;
use crate::ledger::{self, LedgerError, PROOFS, REQUESTS, TAKING, Tx, request_key};
use crate::protocol::error::{Code, WireError};
use crate::protocol::reply::Answer;
use crate::protocol::request::{Ask, Request};

pub(super) use invoice::{terms as lightning_terms, unit_of};
pub(super) use quote::{mint_terms, unit_name};
pub(super) use spawn::{Locks, buy, priced};
pub(super) use status::{describe, refund};
pub(super) use topup::handle as topup;

/// What a handler leaves.
pub(super) enum Handled {
    /// The answer.
    Answer(Box<Answer>),
    /// It is written down, with its request: this lease's task answers.
    Later(LeaseId),
}

impl From<Answer> for Handled {
    fn from(answer: Answer) -> Self {
        Self::Answer(Box::new(answer))
    }
}

/// Handles one request of `owner`.
pub(super) async fn handle(
    ctx: &Arc<Ctx>,
    owner: PublicKey,
    request: &Request,
) -> Result<Handled, Refusal> {
    match &request.ask {
        Ask::Quote(ask) => quote::handle(ctx, owner, request.request_id, ask).await,
        Ask::Spawn(ask) => spawn::handle(ctx, owner, request.request_id, ask).await,
        Ask::Hold(ask) => hold::handle(ctx, owner, request.request_id, ask).await,
        Ask::Claim(ask) => hold::claim(ctx, owner, request.request_id, ask).await,
        Ask::Release(ask) => hold::release(ctx, owner, &ask.hold).await,
        Ask::Topup(ask) => {
            topup::handle(ctx, owner, request.request_id, ask, None, Locks::Good).await
        }
        Ask::Status(ask) => status::handle(ctx, owner, &ask.lease),
        Ask::List => list::handle(ctx, owner),
        Ask::Logs(ask) => logs::handle(ctx, owner, ask).await,
        Ask::Receipt(ask) => receipt::handle(ctx, owner, &ask.lease),
        Ask::Stop(ask) => stop::handle(ctx, owner, request.request_id, ask).await,
    }
}

/// The asker's lease with this id; another's is as good as none.
fn own_lease(ctx: &Ctx, owner: &PublicKey, id: &LeaseId) -> Result<Lease, Refusal> {
    let found = ctx
        .ledger()
        .read(|reader| ledger::find_lease(reader, id))
        .map_err(|error| refuse::internal(&error))?;
    found
        .filter(|lease| lease.owner == *owner)
        .ok_or_else(refuse::not_found)
}

/// A refusal from inside a change, or a failure of the ledger.
enum Stopped {
    Refused(Box<Refusal>),
    Failed(LedgerError),
}

impl From<LedgerError> for Stopped {
    fn from(error: LedgerError) -> Self {
        Self::Failed(error)
    }
}

impl From<Refusal> for Stopped {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

/// Commits `change`; a refusal inside leaves nothing of it.
async fn commit<T, F>(ctx: &Ctx, change: F) -> Result<T, Refusal>
where
    T: Send + 'static,
    F: FnOnce(&Tx) -> Result<T, Stopped> + Send + 'static,
{
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let done = ctx
        .ledger()
        .write(move |tx| {
            change(tx).map_err(|stopped| match stopped {
                Stopped::Failed(error) => error,
                Stopped::Refused(refusal) => {
                    let why = LedgerError::Rule(refusal.message.clone());
                    // The receiver waits for this change: there is room for one.
                    drop(tell.try_send(*refusal));
                    why
                }
            })
        })
        .await;
    done.map_err(|error| match error {
        // Another error: the ledger as it was when we refused is not on disk.
        LedgerError::Rule(_) => told.try_recv().unwrap_or_else(|_| refuse::internal(&error)),
        _ => refuse::internal(&error),
    })
}

/// Notes in the request's row which lease and payment it is about.
fn link(tx: &Tx, payment: &Payment) -> Result<(), LedgerError> {
    let key = request_key(&payment.owner, payment.request);
    let Some(mut row) = tx.get(&REQUESTS, &key)? else {
        return Err(LedgerError::Rule(
            "a request that was not written down".to_owned(),
        ));
    };
    row.lease = Some(payment.lease.clone());
    row.payment = Some(payment.id);
    tx.put(&REQUESTS, &key, &row)
}

/// Claims the payment's proofs for it, for ever.
fn claim_proofs(tx: &Tx, payment: &Payment) -> Result<(), Stopped> {
    for y in &payment.ys {
        if in_payment(tx, y)? {
            return Err(WireError::new(
                Code::TokenInUse,
                "the token came with another request already",
                "ask again with that request's id, or pay with another token",
            )
            .into());
        }
        if tx.get(&TAKING, y)?.is_some() {
            return Err(WireError::new(
                Code::TokenInUse,
                "the token is an old refund of ours, which is being taken back",
                "ask for the status of its lease, or pay with another token",
            )
            .into());
        }
        tx.put(&PROOFS, y, &payment.id)?;
    }
    Ok(())
}

/// Whether a payment that was not rejected has the proof with this Y.
pub(super) fn in_payment(tx: &Tx, y: &str) -> Result<bool, LedgerError> {
    match tx.get(&PROOFS, y)? {
        Some(holder) => still_held(tx, holder),
        None => Ok(false),
    }
}

/// Whether a payment still has a claim on its proofs: one that was rejected
/// with nothing taken leaves them to whoever brings them next.
fn still_held(tx: &Tx, id: crate::core::ids::PaymentId) -> Result<bool, LedgerError> {
    let payment = tx.get(&ledger::PAYMENTS, &id.to_hex())?;
    Ok(payment.is_some_and(|p| p.state != crate::core::payment::PaymentState::Rejected))
}
