//! A workload for this money: everything that can be known is checked, room is
//! held, and the payment is written down. The lease's task does the rest.

use std::sync::Arc;

use rand::Rng;

use super::quote::{room, unit_name};
use super::{Handled, claim_proofs, commit, hold, link};
use crate::compute::WorkloadSpec;
use crate::core::ids::{LeaseId, PublicKey, RequestId};
use crate::core::lease::{Books, Lease, Phase};
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
use crate::protocol::request::Spawn;
use crate::provider::ctx::Ctx;
use crate::provider::refuse::{self, Refusal};
use crate::provider::validate::{self, Accepted, Price};
use crate::wallet::{TokenInfo, WalletError};

pub(super) async fn handle(
    ctx: &Arc<Ctx>,
    owner: PublicKey,
    id: RequestId,
    ask: &Spawn,
) -> Result<Handled, Refusal> {
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
    let refund_key = validate::refund_key(ask.refund_key.as_ref())?;
    let price = ask.quote_id.map_or(Price::AsOfNow, |_| Price::AsQuoted);
    let mut accepted = validate::wanted(ctx, &ask.wanted, true, price)?;
    if let Some(quote) = ask.quote_id {
        accepted.tier.rate_msat_per_s = quoted_rate(ctx, owner, quote, &accepted.tier)?;
    }
    let mut priced = priced(ctx, accepted, &ask.token, locks).await?;
    priced.refund_key = refund_key;
    Ok(priced)
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
    let (info, net) = token(ctx, text, locks).await?;
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
        let spec = serde_json::to_value(spec(&shared, &lease, &accepted))
            .map_err(|error| LedgerError::Rule(error.to_string()))?;
        tx.put(&PAYMENTS, &payment.id.to_hex(), &payment)?;
        tx.put(&LEASES, lease.id.as_str(), &lease)?;
        also(tx, &lease)?;
        Ok(tx.put(
            &WORKLOADS,
            lease.id.as_str(),
            &WorkloadRow { spec, handle: None },
        )?)
    })
    .await?;
    ctx.changed.notify_one();
    Ok(name)
}

/// Reads the token and finds out what it will give. A lock that cannot be relied
/// on is refused before the mint is asked anything.
pub(super) async fn token(
    ctx: &Ctx,
    token: &str,
    locks: Locks,
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
        hold,
    }
}

fn new_lease(now: Timestamp, owner: PublicKey, id: RequestId, accepted: &Accepted) -> Lease {
    Lease {
        id: LeaseId::from_random(rand::rng().random()),
        owner,
        request: id,
        tier: accepted.tier.clone(),
        image: accepted.image_name.clone(),
        ssh_keys: accepted.ssh_keys.clone(),
        phase: Phase::Reserved,
        why: "room is held, the payment is under way".to_owned(),
        cause: None,
        created_at: now,
        started_at: None,
        expires_at: None,
        waiting_seconds: 0,
        waiting_fees: Msat::ZERO,
        sold_seconds: 0,
        money: Books::default(),
        purse: None,
        payments: Vec::new(),
        refunds: Vec::new(),
        refund_key: None,
        warned: Vec::new(),
        stop_request: None,
        looked_at: now,
    }
}

/// What the backend is asked for. Limits that it cannot hold are left out: they
/// were sold as not enforced, or not at all.
fn spec(ctx: &Ctx, lease: &Lease, accepted: &Accepted) -> WorkloadSpec {
    let holds = ctx.parts.backend.capabilities().enforces;
    WorkloadSpec {
        owner: lease.owner,
        image: accepted.image.clone(),
        resources: holds.of(lease.tier.resources),
        command: accepted.command.clone(),
        env: accepted.env.clone(),
        expires_at: lease.created_at,
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
