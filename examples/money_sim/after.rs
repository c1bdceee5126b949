//! What becomes of refunds after they were made, as in `src/provider/refunds.rs`:
//! claimed by their owner, or taken back by us after a time.

use std::rc::Rc;

use satlet::core::ids::LeaseId;
use satlet::core::lease::{Lease, RefundState};
use satlet::core::money::Msat;

use super::disk::Token;
use super::mint::{Op, Redemption, WalletError};
use super::oracle;
use super::rules::{Mutant, at};
use super::world::{MINT, OPERATION, ROUND, Reply, State, World};

/// How long a refund is kept for its owner, in seconds.
const KEEP: u64 = 1_200;

/// A refund whose token is out.
struct Out {
    lease: LeaseId,
    id: String,
    token: Token,
    taking: bool,
}

fn all_out(s: &mut State) -> Vec<Out> {
    let leases = s.disk.leases.iter().chain(&s.disk.ended);
    let of_lease = |lease: &Lease| {
        let out = lease.refunds.iter().filter_map(|refund| {
            Some(Out {
                lease: lease.id.clone(),
                id: refund.id.clone(),
                token: Token::read(refund.token()?)?,
                taking: matches!(refund.state, RefundState::TakingBack { .. }),
            })
        });
        out.collect::<Vec<_>>()
    };
    leases.flat_map(of_lease).collect()
}

impl World {
    pub(super) async fn rounds(self: Rc<Self>) {
        loop {
            for out in self.with(all_out) {
                self.after(&out).await;
            }
            self.sleep(ROUND / 2).await;
        }
    }

    async fn after(&self, out: &Out) {
        if out.taking {
            return self.found_out(out).await;
        }
        let asked = self.ask(MINT, |s| {
            let purse = s.money.purse_of(&out.token);
            let worth = s.money.net(&out.token).is_ok();
            (!s.money.down[purse.mint]).then(|| (s.money.is_spent(&out.token), worth))
        });
        match asked.await.flatten() {
            Some((true, _)) => self.claimed(out).await,
            Some((false, true)) => self.take_back(out).await,
            Some((false, false)) | None => {}
        }
    }

    /// Redeems a token that nobody took, once, after it is on disk that we will.
    async fn take_back(&self, out: &Out) {
        let unnoted = self.rules.is(Mutant::TakeUnnoted);
        let noted = self.amend(out, |s, lease, _| {
            let now = s.now();
            let mut ys = out.token.0.iter().map(u64::to_string);
            let in_payment = |y: String| {
                let holder = s.disk.proofs.get(&y);
                holder.is_some_and(|id| s.disk.still_held(id))
            };
            if ys.any(in_payment) {
                return Ok(false);
            }
            if unnoted {
                return Ok(lease
                    .clone()
                    .refund_take_back(&out.id, KEEP, at(now))
                    .is_some());
            }
            Ok(lease.refund_take_back(&out.id, KEEP, at(now)).is_some())
        });
        if !noted.await {
            return;
        }
        self.with(|s| oracle::before_take_back(s, &out.lease, &out.id));
        let token = out.token.clone();
        match self.act(OPERATION, Op::TakeBack { token }).await {
            Some(Reply::Redeemed(Ok((net, fee)))) => self.taken_back(out, net, fee).await,
            Some(Reply::Redeemed(Err(WalletError::Spent))) => self.claimed(out).await,
            Some(Reply::Redeemed(Err(WalletError::OutcomeUnknown))) | None => {}
            Some(_) => self.left(out).await,
        }
    }

    async fn found_out(&self, out: &Out) {
        let found = self.ask(OPERATION, |s| {
            if s.is_flying(&out.token.payment()) || (!s.calm && s.rng.chance(10)) {
                return Ok(Redemption::Unknown);
            }
            s.money.taking(&out.token)
        });
        match found.await {
            Some(Ok(Redemption::Done { net, fee })) => self.taken_back(out, net, fee).await,
            Some(Ok(Redemption::SpentElsewhere)) => self.claimed(out).await,
            Some(Ok(Redemption::NotDone)) => self.left(out).await,
            Some(Ok(Redemption::Unknown) | Err(_)) | None => {}
        }
    }

    async fn claimed(&self, out: &Out) {
        self.amend(out, |s, lease, _| {
            let now = s.now();
            s.seen.insert("a refund was claimed");
            oracle::at_claimed(s, &out.token);
            Ok(lease.refund_claimed(&out.id, at(now)).is_some())
        })
        .await;
    }

    async fn taken_back(&self, out: &Out, net: u64, fee: u64) {
        let earns = self.rules.is(Mutant::EarnRefund);
        self.amend(out, |s, lease, n| {
            let (now, credit) = (s.now(), lease.money.credit);
            let (net, fee) = (Msat::new(net), Msat::new(fee));
            let booked = lease.refund_taken_back(&out.id, net, fee, at(now));
            if booked.is_none() {
                return Ok(false);
            }
            if earns {
                lease.money.credit = credit;
            }
            s.seen.insert("a refund was taken back");
            oracle::taken_back(s, &out.token);
            s.meter(&lease.id).taken_back(n, fee.get())?;
            Ok(true)
        })
        .await;
    }

    async fn left(&self, out: &Out) {
        self.amend(out, |s, lease, _| {
            s.seen.insert("a refund was left");
            Ok(lease.refund_left(&out.id).is_some())
        })
        .await;
    }

    /// Changes a lease's refund, wherever the lease is kept, in one commit; its
    /// proofs are being taken back while the refund says so.
    async fn amend(
        &self,
        out: &Out,
        edit: impl FnOnce(&mut State, &mut Lease, usize) -> Result<bool, String>,
    ) -> bool {
        self.pause().await;
        let done = self.commit(|s| {
            let Some(mut lease) = s.disk.any_lease(&out.lease).cloned() else {
                return false;
            };
            let n = lease.refunds.iter().position(|refund| refund.id == out.id);
            let n = n.unwrap_or(usize::MAX);
            match edit(s, &mut lease, n) {
                Ok(true) => {}
                Ok(false) => return false,
                Err(what) => {
                    s.fail(0, what);
                    return false;
                }
            }
            let state = lease.refunds.get(n).map(|refund| &refund.state);
            let taking = matches!(state, Some(RefundState::TakingBack { .. }));
            for y in out.token.0.iter().map(u64::to_string) {
                s.disk.taking.retain(|there| *there != y);
                if taking {
                    s.disk.taking.push(y);
                }
            }
            let leases = s.disk.leases.iter_mut().chain(&mut s.disk.ended);
            if let Some(row) = leases.into_iter().find(|row| row.id == lease.id) {
                *row = lease;
            }
            true
        });
        self.pause().await;
        done
    }
}
