//! More time for a lease.

use std::sync::Arc;

use super::invoice::{self, Funds};
use super::spawn::{Locks, payment, token};
use super::{Handled, Stopped, claim_proofs, commit, link, own_lease};
use crate::core::ids::{PublicKey, RequestId};
use crate::core::lease::Lease;
use crate::core::money::Msat;
use crate::core::payment::Purpose;
use crate::core::pricing::{PriceError, purchase};
use crate::core::time::Timestamp;
use crate::ledger::{LEASES, PAYMENTS};
use crate::protocol::request::Topup;
use crate::provider::ctx::Ctx;
use crate::provider::refuse::{self, Refusal};

/// `pay_by`: the token is not redeemed after this.
pub(in crate::provider) async fn handle(
    ctx: &Arc<Ctx>,
    owner: PublicKey,
    id: RequestId,
    ask: &Topup,
    pay_by: Option<Timestamp>,
    locks: Locks,
) -> Result<Handled, Refusal> {
    let text = match invoice::funds(&ask.token, ask.invoice.as_ref())? {
        Funds::Token(token) => token,
        Funds::Invoice(order) => return invoice::topup(ctx, owner, id, ask, order).await,
    };
    let lease = own_lease(ctx, &owner, &ask.lease)?;
    if !lease.takes_topup() {
        return Err(refuse::no_topup(&lease));
    }
    let (info, net) = token(ctx, text, locks).await?;
    let fee = info.face.saturating_sub(net);
    fits(&lease, net, fee, ctx.now())?;
    let mut payment = payment(ctx, &lease, id, Purpose::Topup, &info, text);
    payment.deadline = pay_by.map_or(payment.deadline, |by| by.min(payment.deadline));
    let (name, now) = (lease.id, ctx.now());
    commit(ctx, move |tx| {
        let Some(mut lease) = tx.get(&LEASES, payment.lease.as_str())? else {
            return Err(Stopped::from(refuse::ended()));
        };
        if !lease.takes_topup() {
            return Err(refuse::no_topup(&lease).into());
        }
        fits(&lease, net, fee, now)?;
        claim_proofs(tx, &payment)?;
        link(tx, &payment)?;
        lease.payments.push(payment.id);
        tx.put(&PAYMENTS, &payment.id.to_hex(), &payment)?;
        Ok(tx.put(&LEASES, lease.id.as_str(), &lease)?)
    })
    .await?;
    Ok(Handled::Later(name))
}

/// Whether `net` buys at least a second, and no more than the tier's maximum
/// ahead of now.
pub(super) fn fits(lease: &Lease, net: Msat, fee: Msat, now: Timestamp) -> Result<(), Refusal> {
    let rate = lease.tier.rate_msat_per_s;
    let refuse = |error| Err(refuse::price(error, fee));
    let Some(bought) = purchase(net, rate) else {
        return refuse(PriceError::Overflow);
    };
    let left = lease.unserved_seconds(now);
    let Some(ahead) = left.checked_add(bought.seconds) else {
        return refuse(PriceError::Overflow);
    };
    if bought.seconds == 0 {
        let needed = Msat::new(rate);
        return refuse(PriceError::UnderMinimum {
            bought_seconds: 0,
            min_seconds: 1,
            needed,
        });
    }
    if ahead > lease.tier.max_seconds {
        let max_seconds = lease.tier.max_seconds.saturating_sub(left);
        let accepted = Msat::new(max_seconds.saturating_mul(rate));
        return refuse(PriceError::OverMaximum {
            bought_seconds: bought.seconds,
            max_seconds,
            accepted,
        });
    }
    Ok(())
}
