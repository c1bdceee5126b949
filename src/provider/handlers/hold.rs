//! Room that is held for a token which is locked to a hash (NUT-14): of purchases
//! from several providers all come about or none, since no preimage is given away
//! before all hold. A hold costs nothing, so that it is short, and each key has few.

use std::sync::Arc;

use super::spawn::{Locks, asked, buy};
use super::{Handled, Stopped, commit, link, own_lease};
use crate::compute::BackendError;
use crate::core::ids::{LeaseId, PublicKey, RequestId};
use crate::core::lease::{Lease, Phase};
use crate::core::payment::Payment;
use crate::core::payment::hold::{Hold, NotClaimed};
use crate::core::payment::lock::Kind;
use crate::core::pricing::purchase;
use crate::core::time::Timestamp;
use crate::ledger::{
    Held, LEASES, LedgerError, PAYMENTS, REQUESTS, Tx, all_payments_of, request_key,
};
use crate::protocol::error::{Code, WireError};
use crate::protocol::reply::{Answer, HoldAnswer, Message, Reply};
use crate::protocol::request::{Claim, Spawn};
use crate::provider::answers;
use crate::provider::ctx::Ctx;
use crate::provider::refuse::{self, Refusal};
use crate::provider::steps::drop_hold;
use crate::wallet::{ProofsState, TokenInfo, WalletError};

/// Checks all that a spawn checks, asks the mint, and holds room. The answer is in
/// the same commit.
pub(super) async fn handle(
    ctx: &Arc<Ctx>,
    owner: PublicKey,
    id: RequestId,
    ask: &Spawn,
) -> Result<Handled, Refusal> {
    let priced = asked(ctx, owner, ask, Locks::Hashed).await?;
    let token = ask.funds.token().ok_or_else(refuse::no_token)?;
    unspent(ctx, token).await?;
    ready(ctx, &priced.accepted.image).await?;
    let rate = priced.accepted.tier.rate_msat_per_s;
    let (net, now) = (priced.net, ctx.now());
    let seconds = purchase(net, rate).map_or(0, |bought| bought.seconds);
    let (until, keep) = (
        now.plus(ctx.settings().timing.hold),
        ctx.settings().timing.answer,
    );
    let lease = buy(ctx, owner, id, priced, None, move |tx, lease| {
        let answer = Answer::Hold(HoldAnswer {
            hold: lease.id.clone(),
            until,
            net_msat: net,
            seconds,
        });
        let row = tx.get(&REQUESTS, &request_key(&owner, id))?;
        let row = row.ok_or_else(|| LedgerError::Rule("a request that is not here".to_owned()))?;
        let text = answers::encode(&Message::Reply(Reply::result(id, answer)))?;
        answers::store(tx, row, text, now, now.plus(keep))
    })
    .await?;
    ctx.outbox.notify_one();
    Ok(Handled::Later(lease))
}

/// What a payment with this token waits for, if it is locked to a hash; the caller
/// has looked whether the lock is good.
pub(super) fn of(info: &TokenInfo, redeem_by: Option<Timestamp>) -> Option<Hold> {
    let lock = info.locks.iter().flatten().next()?;
    if lock.kind != Kind::Htlc {
        return None;
    }
    Some(Hold {
        hash: lock.data.clone().try_into().ok()?,
        redeem_by: redeem_by?,
        preimage: None,
    })
}

/// Whether `owner` may have one more hold.
pub(super) fn few(ctx: &Ctx, leases: &[Held], owner: PublicKey) -> Result<(), Refusal> {
    let most = ctx.settings().requests.holds_per_key;
    let own = |held: &&Held| held.owner == owner && held.phase == Phase::Reserved;
    if leases.iter().filter(own).count() < most as usize {
        return Ok(());
    }
    Err(WireError::new(
        Code::NoCapacity,
        format!("one key may have {most} holds here"),
        "claim or release one of your holds first, or wait until it is over",
    ))
}

/// A token that is spent holds nothing.
async fn unspent(ctx: &Ctx, token: &str) -> Result<(), Refusal> {
    let asked = tokio::time::timeout(ctx.settings().timing.mint, ctx.parts.wallet.check(token));
    let state = asked
        .await
        .unwrap_or_else(|_| Err(WalletError::MintDown("no answer in time".to_owned())));
    let error = match state {
        Ok(ProofsState::Unspent) => return Ok(()),
        Ok(ProofsState::Spent) => WalletError::Spent,
        Ok(ProofsState::Pending) => {
            return Err(WireError::new(
                Code::TokenInUse,
                "the mint says that the token is in use",
                "wait until what uses it has ended, or pay with another token",
            ));
        }
        Err(error) => error,
    };
    Err(refuse::wallet(&error, &[]))
}

/// What would fail after the preimage is out had better fail now.
async fn ready(ctx: &Ctx, image: &crate::compute::Image) -> Result<(), Refusal> {
    let patience = ctx.settings().timing.mint;
    let asked = tokio::time::timeout(patience, ctx.parts.backend.prepare(image)).await;
    let why = match asked {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error @ BackendError::Image(_))) => error.to_string(),
        Ok(Err(error)) => format!("the image cannot be made ready: {error}"),
        Err(_) => "the image is being fetched".to_owned(),
    };
    Err(WireError::new(
        Code::ImageUnavailable,
        why,
        "choose another image or try again in a while; the token is still yours",
    ))
}

/// Takes the preimage of a hold; from here it is a spawn, and answered as one.
pub(super) async fn claim(
    ctx: &Arc<Ctx>,
    owner: PublicKey,
    id: RequestId,
    ask: &Claim,
) -> Result<Handled, Refusal> {
    let lease = own_lease(ctx, &owner, &ask.hold)?;
    let (name, preimage, now) = (lease.id.clone(), ask.preimage.clone(), ctx.now());
    let patience = ctx.settings().timing.provision.as_secs();
    commit(ctx, move |tx| {
        let Some(payment) = held(tx, &lease)? else {
            return Err(Stopped::from(refuse::hold_over()));
        };
        let key = payment.id.to_hex();
        let payment = payment
            .claim(&preimage, id, now, patience)
            .map_err(not_claimed)?;
        link(tx, &payment)?;
        Ok(tx.put(&PAYMENTS, &key, &payment)?)
    })
    .await?;
    Ok(Handled::Later(name))
}

/// The payment that was held for, also once it is done with.
fn held(tx: &Tx, lease: &Lease) -> Result<Option<Payment>, LedgerError> {
    let mut all = all_payments_of(tx, lease)?.into_iter();
    Ok(all.find(|payment| payment.hold.is_some()))
}

fn not_claimed(why: NotClaimed) -> Refusal {
    match why {
        NotClaimed::Over => refuse::hold_over(),
        NotClaimed::Before => WireError::new(
            Code::TokenInUse,
            why.to_string(),
            "ask again with that request's id",
        ),
        NotClaimed::Preimage => WireError::new(
            Code::BadPreimage,
            why.to_string(),
            "claim it again with the right one",
        ),
    }
}

/// Ends a hold at its owner's wish; one that is over stays so.
pub(super) async fn release(
    ctx: &Arc<Ctx>,
    owner: PublicKey,
    hold: &LeaseId,
) -> Result<Handled, Refusal> {
    let lease = own_lease(ctx, &owner, hold)?;
    let now = ctx.now();
    let known = lease.clone();
    commit(ctx, move |tx| {
        let known_payments = all_payments_of(tx, &known)?;
        let Some(payment) = known_payments.first() else {
            return Ok(());
        };
        if payment
            .hold
            .as_ref()
            .is_none_or(|held| held.preimage.is_some())
        {
            return Err(Stopped::from(not_claimed(NotClaimed::Before)));
        }
        if let Some(mut lease) = tx.get(&LEASES, known.id.as_str())?
            && drop_hold(tx, &mut lease, payment.id, now)?
        {
            tx.put(&LEASES, known.id.as_str(), &lease)?;
        }
        Ok(())
    })
    .await?;
    ctx.actors.wake(ctx, &lease.id);
    ctx.changed.notify_one();
    let hold = lease.id;
    Ok(Handled::from(Answer::Release { hold }))
}
