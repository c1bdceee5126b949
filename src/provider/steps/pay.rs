//! Redeeming: at most one call of `redeem` for a payment, and after a lost
//! answer only questions.

use std::sync::Arc;

use super::{CALL, Taken, change, collect, credit, operation, workload};
use crate::compute::BackendError;
use crate::core::lease::{Event, Lease, Phase};
use crate::core::payment::{Learnt, Payment, PaymentState, Purpose, Rejection};
use crate::ledger::{LedgerError, PAYMENTS};
use crate::provider::ctx::Ctx;
use crate::provider::paygress::wait;
use crate::wallet::{ProofsState, Redeemed, RedemptionState, WalletError};

/// Asks the mint about the proofs, fetches the image for a spawn, then redeems.
pub(super) async fn redeem(
    ctx: &Arc<Ctx>,
    lease: &Lease,
    payment: Payment,
) -> Result<Taken, LedgerError> {
    let wallet = &ctx.parts.wallet;
    let patience = ctx.settings().timing.mint;
    if ctx.now() >= payment.deadline {
        return learn(ctx, payment, Learnt::NotTaken(Rejection::Late)).await;
    }
    if payment.purpose == Purpose::Topup && !lease.takes_topup() {
        return learn(ctx, payment, Learnt::NotTaken(Rejection::LeaseEnded)).await;
    }
    let asked = tokio::time::timeout(patience, wallet.check(&payment.token)).await;
    let state = asked.unwrap_or_else(|_| Err(WalletError::MintDown("no answer in time".into())));
    let refused = match state {
        Ok(ProofsState::Unspent) => None,
        Ok(ProofsState::Spent) => Some(Rejection::Spent),
        Ok(ProofsState::Pending) => Some(Rejection::InUse),
        Err(error) => Some(rejection(&error)),
    };
    let refused = match (refused, payment.purpose) {
        (None, Purpose::Spawn) => cannot_be_made(ctx, lease, &payment).await?,
        (refused, _) => refused,
    };
    if let Some(why) = refused {
        return learn(ctx, payment, Learnt::NotTaken(why)).await;
    }
    let payment = note(ctx, payment, Learnt::Unspent).await?;
    let preimage = payment
        .hold
        .as_ref()
        .and_then(|hold| hold.preimage.as_ref());
    let redeeming = async {
        match preimage {
            Some(preimage) => {
                let token = &payment.token;
                wallet.redeem_hashed(payment.id, token, preimage).await
            }
            None => wallet.redeem(payment.id, &payment.token).await,
        }
    };
    let done = tokio::time::timeout(operation(ctx), redeeming).await;
    let learnt = match done {
        Ok(Ok(Redeemed { net, fee })) => Learnt::Redeemed { net, fee },
        Ok(Err(WalletError::OutcomeUnknown(_))) | Err(_) => Learnt::Lost,
        Ok(Err(error)) => Learnt::NotTaken(rejection(&error)),
    };
    learn(ctx, payment, learnt).await
}

/// Finds out what became of a redemption. Past its deadline the request is told
/// that it is pending, and finding out goes on.
pub(super) async fn resolve(ctx: &Arc<Ctx>, mut payment: Payment) -> Result<Taken, LedgerError> {
    if payment.state == PaymentState::Redeeming {
        payment = note(ctx, payment, Learnt::Lost).await?;
    }
    let wallet = &ctx.parts.wallet;
    let asked = wallet.redemption(payment.id, &payment.token);
    let state = tokio::time::timeout(operation(ctx), asked).await;
    match state {
        Ok(Ok(RedemptionState::Done(Redeemed { net, fee }))) => {
            learn(ctx, payment, Learnt::Redeemed { net, fee }).await
        }
        Ok(Ok(RedemptionState::SpentElsewhere)) => {
            learn(ctx, payment, Learnt::NotTaken(Rejection::Spent)).await
        }
        Ok(Ok(RedemptionState::NotDone)) => {
            learn(ctx, payment, Learnt::NotTaken(Rejection::CutOff)).await
        }
        Ok(Ok(RedemptionState::Unknown) | Err(_)) | Err(_) => Ok(Taken::TryLater),
    }
}

/// Whether the host takes no work, or the image cannot be had: better known
/// before money is taken.
async fn cannot_be_made(
    ctx: &Ctx,
    lease: &Lease,
    payment: &Payment,
) -> Result<Option<Rejection>, LedgerError> {
    let (spec, _) = workload(ctx, &lease.id)?;
    let probed = tokio::time::timeout(CALL, ctx.parts.backend.probe()).await;
    match probed {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Ok(Some(Rejection::HostDown(error.to_string()))),
        Err(_) => return Ok(Some(Rejection::HostDown("no answer in time".to_owned()))),
    }
    let patience = std::time::Duration::from_secs(payment.deadline.secs_since(ctx.now()));
    let asked = tokio::time::timeout(patience, ctx.parts.backend.prepare(&spec.image)).await;
    let why = match asked {
        Ok(Ok(())) => return Ok(None),
        Ok(Err(error @ BackendError::Image(_))) => error.to_string(),
        Ok(Err(error)) => format!("the image cannot be made ready: {error}"),
        Err(_) => "the image could not be fetched in time".to_owned(),
    };
    Ok(Some(Rejection::Gone(why)))
}

fn rejection(error: &WalletError) -> Rejection {
    match error {
        WalletError::Spent => Rejection::Spent,
        WalletError::TooSmall => Rejection::TooSmall,
        WalletError::MintDown(why) => Rejection::MintDown(why.clone()),
        WalletError::Store(why) => Rejection::Internal(why.clone()),
        other => Rejection::Refused(other.to_string()),
    }
}

/// Writes down what was learnt, and nothing else.
async fn note(ctx: &Ctx, payment: Payment, learnt: Learnt) -> Result<Payment, LedgerError> {
    let payment = payment.learn(learnt)?;
    let row = payment.clone();
    ctx.ledger()
        .write(move |tx| tx.put(&PAYMENTS, &row.id.to_hex(), &row))
        .await?;
    Ok(payment)
}

/// Writes down what was learnt, with what follows for the lease, in one commit.
pub(super) async fn learn(
    ctx: &Arc<Ctx>,
    payment: Payment,
    learnt: Learnt,
) -> Result<Taken, LedgerError> {
    let now = ctx.now();
    let usual = ctx.settings().timing.provision.as_secs();
    let id = payment.lease.clone();
    let redeemed = matches!(learnt, Learnt::Redeemed { .. } | Learnt::Minted(_));
    let paid = redeemed.then_some(payment.owner);
    let credits = match paid {
        Some(owner) => {
            let purse = (payment.mint.clone(), payment.unit.clone());
            ctx.ledger().credits_of(&owner, &purse)
        }
        None => Vec::new(),
    };
    tracing::info!(lease = %id, payment = %payment.id, outcome = ?learnt, "payment");
    let shared = Arc::clone(ctx);
    change(ctx, &id, move |tx, lease| {
        let mut payment = payment.learn(learnt)?;
        match payment.state {
            PaymentState::Redeemed => {
                if collect::is_too_late(&shared, lease, &payment, now) {
                    let why = "the invoice was paid, and that was known too late".to_owned();
                    lease.on(Event::NotPaid(why), now)?;
                }
                let sold = lease.sold_seconds;
                credit::bring(tx, &credits, lease, &payment, now)?;
                let patience = wait::patience(tx, &payment, usual, now)?;
                let paid = Event::Paid {
                    face: payment.face,
                    fee: payment.fee,
                    patience,
                    mint: payment.mint.clone(),
                    unit: payment.unit.clone(),
                };
                lease.on(paid, now)?;
                payment = payment.learn(Learnt::Settled)?;
                payment.added_seconds = lease.sold_seconds.saturating_sub(sold);
            }
            // Given up before, its room is free already.
            PaymentState::Rejected if lease.phase == Phase::Reserved => {
                lease.on(Event::NotPaid("the payment was not taken".to_owned()), now)?;
            }
            PaymentState::Lapsed if lease.phase == Phase::Reserved => {
                lease.on(
                    Event::NotPaid("its invoice was not paid in time".to_owned()),
                    now,
                )?;
            }
            _ => {}
        }
        payment.forget_token();
        tx.put(&PAYMENTS, &payment.id.to_hex(), &payment)
    })
    .await?;
    if let Some(owner) = paid {
        ctx.admission.add_owner(owner);
    }
    Ok(Taken::Done)
}
