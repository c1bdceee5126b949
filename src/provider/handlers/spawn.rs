//! A workload for this money: everything that can be known is checked, room is
//! held, and the payment is written down. The lease's task does the rest.

use std::sync::Arc;

use rand::Rng;

use super::quote::{room, unit_name};
use super::{Handled, claim_proofs, commit, gift, hold, invoice, link};
use crate::compute::WorkloadSpec;
use crate::core::ids::{LeaseId, PublicKey, RequestId};
use crate::core::lease::Lease;
use crate::core::money::Msat;
use crate::core::payment::hash_lock::accept_hashed;
use crate::core::payment::lock::{self, LockKey};
use crate::core::payment::{Payment, PaymentState, Purpose};
use crate::core::pricing::Tier;
use crate::core::time::Timestamp;
use crate::ledger::{
    LEASES, LedgerError, PAYMENTS, REQUESTS, Tx, WORKLOADS, WorkloadRow, request_key,
};
use crate::protocol::MAX_TOKEN;
use crate::protocol::error::{Code, WireError};
use crate::protocol::reply::{Answer, Message, Outcome};
use crate::protocol::request::{Funds, Spawn};
use crate::provider::ctx::Ctx;
use crate::provider::pool;
use crate::provider::refuse::{self, Refusal};
use crate::provider::validate::{self, Accepted, Price};
use crate::wallet::{TokenInfo, WalletError};

pub(super) async fn handle(
    ctx: &Arc<Ctx>,
    owner: PublicKey,
    id: RequestId,
    ask: &Spawn,
) -> Result<Handled, Refusal> {
    match &ask.funds {
        Funds::Token(_) => {}
        Funds::Gift => {
            let (accepted, refund_key) = accepted(ctx, owner, ask)?;
            return gift::handle(ctx, owner, id, accepted, refund_key).await;
        }
        Funds::Invoice(order) => {
            let (accepted, refund_key) = accepted(ctx, owner, ask)?;
            return invoice::spawn(ctx, owner, id, accepted, order, refund_key).await;
        }
    }
    let priced = asked(ctx, owner, ask, Locks::Good).await?;
    let lease = buy(ctx, owner, id, priced, None, |_, _| Ok(())).await?;
    Ok(Handled::Later(lease))
}

/// What a spawn asks for, with the token that buys it.
pub(super) async fn asked(
    ctx: &Ctx,
    owner: PublicKey,
    ask: &Spawn,
    locks: Locks,
) -> Result<Priced, Refusal> {
    let token = ask.funds.token().ok_or_else(refuse::no_token)?;
    let (accepted, refund_key) = accepted(ctx, owner, ask)?;
    let mut priced = priced(ctx, accepted, token, locks).await?;
    priced.refund_key = refund_key;
    Ok(priced)
}

/// What a spawn asks for, and the key for its refunds.
fn accepted(
    ctx: &Ctx,
    owner: PublicKey,
    ask: &Spawn,
) -> Result<(Accepted, Option<LockKey>), Refusal> {
    let refund_key = validate::refund_key(ask.refund_key.as_ref())?;
    let price = ask.quote_id.map_or(Price::AsOfNow, |_| Price::AsQuoted);
    let mut wanted = ask.wanted.clone();
    if ask.funds == Funds::Gift && wanted.tier.is_none() {
        wanted.tier = pool::tier(&ctx.tiers()).map(|tier| tier.id.clone());
    }
    let mut accepted = validate::wanted(ctx, &wanted, true, price)?;
    if let Some(quote) = ask.quote_id {
        accepted.tier.rate_msat_per_s = quoted_rate(ctx, owner, quote, &accepted.tier)?;
    }
    Ok((accepted, refund_key))
}

/// Which spending conditions a token may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::provider) enum Locks {
    /// None, or a lock to our key that holds long enough.
    Good,
    /// To our key and a hash, held for as long as room is held besides.
    Hashed,
    /// None: what clients of the older dialect know.
    None,
}

/// What is wanted, with a token that buys it.
pub(in crate::provider) struct Priced {
    pub(super) accepted: Accepted,
    info: TokenInfo,
    token: String,
    refund_key: Option<LockKey>,
    /// What the token leaves after the mint's fee.
    pub(super) net: Msat,
}

/// Whether the token buys what is accepted; nothing is taken.
pub(in crate::provider) async fn priced(
    ctx: &Ctx,
    accepted: Accepted,
    text: &str,
    locks: Locks,
) -> Result<Priced, Refusal> {
    let (info, net) = token(ctx, text, locks, Purpose::Spawn).await?;
    let fee = info.face.saturating_sub(net);
    let sold = accepted.tier.sell(net);
    sold.map_err(|error| refuse::price(error, fee))?;
    let token = text.to_owned();
    Ok(Priced {
        accepted,
        info,
        token,
        refund_key: None,
        net,
    })
}

/// Writes the purchase down, with what `also` has to say about the new lease, in
/// one commit. `pay_by`: the token is not redeemed after this.
pub(in crate::provider) async fn buy<F>(
    ctx: &Arc<Ctx>,
    owner: PublicKey,
    id: RequestId,
    priced: Priced,
    pay_by: Option<Timestamp>,
    also: F,
) -> Result<LeaseId, Refusal>
where
    F: FnOnce(&Tx, &Lease) -> Result<(), LedgerError> + Send + 'static,
{
    let Priced {
        accepted,
        info,
        token,
        refund_key,
        net: _,
    } = priced;
    let mut lease = new_lease(ctx.now(), owner, id, &accepted);
    lease.refund_key = refund_key;
    let mut payment = payment(ctx, &lease, id, Purpose::Spawn, &info, &token);
    payment.deadline = pay_by.map_or(payment.deadline, |by| by.min(payment.deadline));
    let name = lease.id.clone();
    let shared = Arc::clone(ctx);
    commit(ctx, move |tx| {
        let leases = shared.ledger().held_in(tx)?;
        room(&shared, &leases, owner, &lease.tier)?;
        if payment.hold.is_some() {
            hold::few(&shared, &leases, owner)?;
        }
        claim_proofs(tx, &payment)?;
        link(tx, &payment)?;
        let mut lease = lease;
        lease.payments.push(payment.id);
        tx.put(&PAYMENTS, &payment.id.to_hex(), &payment)?;
        put_lease(&shared, tx, &lease, &accepted)?;
        Ok(also(tx, &lease)?)
    })
    .await?;
    ctx.changed.notify_one();
    Ok(name)
}

/// Writes down a new lease and what its workload should be.
pub(super) fn put_lease(
    ctx: &Ctx,
    tx: &Tx,
    lease: &Lease,
    accepted: &Accepted,
) -> Result<(), LedgerError> {
    let spec = serde_json::to_value(spec(ctx, lease, accepted))
        .map_err(|error| LedgerError::Rule(error.to_string()))?;
    tx.put(&LEASES, lease.id.as_str(), lease)?;
    let row = WorkloadRow { spec, handle: None };
    tx.put(&WORKLOADS, lease.id.as_str(), &row)
}

/// Reads the token and finds out what it will give. A lock that cannot be relied
/// on, and a mint that is not well, are refused before the mint is asked anything.
pub(super) async fn token(
    ctx: &Ctx,
    token: &str,
    locks: Locks,
    purpose: Purpose,
) -> Result<(TokenInfo, Msat), Refusal> {
    let mints: Vec<_> = ctx
        .settings()
        .mints
        .iter()
        .map(|mint| mint.url.clone())
        .collect();
    let refuse = |error| refuse::wallet(&error, &mints);
    if token.len() > MAX_TOKEN {
        return Err(refuse(WalletError::Malformed(format!(
            "it is longer than {MAX_TOKEN} bytes"
        ))));
    }
    let wallet = &ctx.parts.wallet;
    let info = wallet.inspect(token).map_err(refuse)?;
    if locks == Locks::None && info.locks.iter().any(Option::is_some) {
        return Err(refuse(WalletError::Malformed("it is locked".to_owned())));
    }
    let (key, margin) = (wallet.lock_key(), ctx.settings().timing.lock_margin());
    let (ours, now) = (std::slice::from_ref(&key), ctx.now());
    match locks {
        Locks::Good | Locks::None => {
            lock::accept(&info.locks, ours, now, margin)
                .map_err(|why| refuse::bad_lock(&why, &key, margin))?;
        }
        Locks::Hashed => {
            let margin = margin + ctx.settings().timing.hold;
            accept_hashed(&info.locks, ours, now, margin)
                .map_err(|why| refuse::bad_lock(&why, &key, margin))?;
        }
    }
    ctx.mints.takes(&info, purpose)?;
    let asked = tokio::time::timeout(ctx.settings().timing.mint, wallet.net_of(token)).await;
    let net = asked
        .unwrap_or_else(|_| Err(WalletError::MintDown("no answer in time".to_owned())))
        .map_err(refuse)?;
    Ok((info, net))
}

/// The payment that a token will be.
pub(super) fn payment(
    ctx: &Ctx,
    lease: &Lease,
    request: RequestId,
    purpose: Purpose,
    info: &TokenInfo,
    token: &str,
) -> Payment {
    let timing = &ctx.settings().timing;
    // After the locktime its owner may take it back: what is begun has to be
    // over by then.
    let locktimes = info.locks.iter().flatten().filter_map(|lock| lock.locktime);
    let spare = timing.lock_margin().saturating_sub(timing.provision);
    let in_time = locktimes.min().map(|until| until.minus(spare));
    let hold = hold::of(info, in_time);
    let deadline = ctx.now().plus(if hold.is_some() {
        timing.hold
    } else {
        timing.provision
    });
    Payment {
        id: info.payment,
        owner: lease.owner,
        request,
        lease: lease.id.clone(),
        purpose,
        mint: info.mint.0.clone(),
        unit: unit_name(&info.unit),
        face: info.face,
        token: token.to_owned(),
        ys: info.ys.clone(),
        state: if hold.is_some() {
            PaymentState::Held
        } else {
            PaymentState::Reserved
        },
        deadline: in_time.map_or(deadline, |in_time| in_time.min(deadline)),
        net: Msat::ZERO,
        fee: Msat::ZERO,
        added_seconds: 0,
        rejection: None,
        invoice: None,
        hold,
    }
}

pub(super) fn new_lease(
    now: Timestamp,
    owner: PublicKey,
    id: RequestId,
    accepted: &Accepted,
) -> Lease {
    Lease::reserve(
        LeaseId::from_random(rand::rng().random()),
        owner,
        id,
        accepted.tier.clone(),
        accepted.image_name.clone(),
        accepted.ssh_keys.clone(),
        now,
    )
}

/// What the backend is asked for. Limits that it cannot hold are left out: they
/// were sold as not enforced, or not at all.
pub(super) fn spec(ctx: &Ctx, lease: &Lease, accepted: &Accepted) -> WorkloadSpec {
    let holds = ctx.parts.backend.capabilities().enforces;
    WorkloadSpec {
        owner: lease.owner,
        image: accepted.image.clone(),
        resources: holds.of(lease.tier.resources),
        command: accepted.command.clone(),
        env: accepted.env.clone(),
        expires_at: lease.created_at,
        // What was paid is not known yet.
        note: String::new(),
    }
}

/// The rate of a quote that still holds: it is the stored answer to the request
/// with the quote's id.
fn quoted_rate(ctx: &Ctx, owner: PublicKey, quote: RequestId, tier: &Tier) -> Result<u64, Refusal> {
    let row = ctx
        .ledger()
        .read(|reader| reader.get(&REQUESTS, &request_key(&owner, quote)))
        .map_err(|error| refuse::internal(&error))?;
    let answer = row.and_then(|row| row.answer);
    let message = answer.and_then(|text| serde_json::from_str(&text).ok());
    if let Some(Message::Reply(reply)) = message
        && let Outcome::Result(answer) = reply.outcome
        && let Answer::Quote(quoted) = *answer
        && quoted.tier == tier.id
        && quoted.expires_at >= ctx.now()
    {
        return Ok(quoted.rate_msat_per_s);
    }
    Err(WireError::new(
        Code::QuoteExpired,
        "there is no such quote for this tier, or it has expired",
        "ask for a new quote",
    ))
}
