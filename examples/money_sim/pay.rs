//! Redeeming: at most one call of `redeem` for a payment, and after a lost answer
//! only questions; as in `src/provider/steps/pay.rs`.

use satlet::core::lease::{Event, Lease, Phase};
use satlet::core::money::Msat;
use satlet::core::payment::{Learnt, Payment, PaymentState, Purpose, Rejection};

use super::disk::Token;
use super::mint::{Op, Redemption, WalletError};
use super::rules::Mutant;
use super::steps::Taken;
use super::world::{CALL, MINT, OPERATION, PROVISION, Reply, World};

fn rejection(error: WalletError) -> Rejection {
    match error {
        WalletError::Spent => Rejection::Spent,
        WalletError::TooSmall => Rejection::TooSmall,
        WalletError::MintDown => Rejection::MintDown("down".to_owned()),
        other => Rejection::Refused(format!("{other:?}")),
    }
}

impl World {
    /// Asks the mint about the proofs, the host about the image, then redeems.
    pub(super) async fn redeem(&self, lease: &Lease, payment: Payment) -> Taken {
        if self.with(|s| s.now()) >= payment.deadline.as_secs() {
            return self.learn(payment, Learnt::NotTaken(Rejection::Late)).await;
        }
        if payment.purpose == Purpose::Topup && !self.rules.takes_topup(lease) {
            let ended = Learnt::NotTaken(Rejection::LeaseEnded);
            return self.learn(payment, ended).await;
        }
        let Some(token) = Token::read(&payment.token) else {
            self.with(|s| s.fail(0, format!("{payment:?}: its token is forgotten")));
            return Taken::TryLater;
        };
        let state = self
            .ask(MINT, |s| {
                let purse = s.money.purse_of(&token);
                if s.money.down[purse.mint] {
                    return Err(WalletError::MintDown);
                }
                let in_use = !s.calm && s.rng.chance(2);
                Ok((s.money.is_spent(&token), in_use))
            })
            .await;
        let mut refused = match state {
            Some(Ok((true, _))) => Some(Rejection::Spent),
            Some(Ok((_, true))) => Some(Rejection::InUse),
            Some(Ok(_)) => None,
            Some(Err(error)) => Some(rejection(error)),
            None => Some(Rejection::MintDown("no answer in time".to_owned())),
        };
        if refused.is_none() && payment.purpose == Purpose::Spawn {
            let asked = self.ask(CALL, |s| (s.backend.down, !s.calm && s.rng.chance(3)));
            refused = match asked.await {
                Some((false, false)) => None,
                Some((false, true)) => Some(Rejection::Gone("no such image".to_owned())),
                _ => Some(Rejection::HostDown("it does not answer".to_owned())),
            };
        }
        if let Some(why) = refused {
            return self.learn(payment, Learnt::NotTaken(why)).await;
        }
        let payment = if self.rules.is(Mutant::RedeemUnnoted) {
            payment
        } else if let Some(noted) = self.note(payment, Learnt::Unspent).await {
            noted
        } else {
            return Taken::TryLater;
        };
        let learnt = self.swap(&payment, &token).await;
        self.learn(payment, learnt).await
    }

    /// The one call of `redeem`.
    async fn swap(&self, payment: &Payment, token: &Token) -> Learnt {
        self.with(|s| super::oracle::before_redeem(s, payment));
        if self.with(|s| !s.calm && s.rng.chance(3)) {
            return Learnt::NotTaken(rejection(WalletError::Refused));
        }
        let op = Op::Redeem {
            request: payment.request,
            token: token.clone(),
        };
        match self.act(OPERATION, op).await {
            Some(Reply::Redeemed(Ok((net, fee)))) => Learnt::Redeemed {
                net: Msat::new(net),
                fee: Msat::new(fee),
            },
            Some(Reply::Redeemed(Err(WalletError::OutcomeUnknown))) | None => self.rules.lost(),
            Some(Reply::Redeemed(Err(error))) => Learnt::NotTaken(rejection(error)),
            Some(_) => self.rules.lost(),
        }
    }

    /// Finds out what became of a redemption.
    pub(super) async fn resolve(&self, mut payment: Payment) -> Taken {
        if payment.state == PaymentState::Redeeming {
            match self.note(payment, self.rules.lost()).await {
                Some(noted) => payment = noted,
                None => return Taken::TryLater,
            }
        }
        let Some(token) = Token::read(&payment.token) else {
            // Only a mutant gets here: it calls a payment closed that is not.
            return Taken::TryLater;
        };
        if self.rules.is(Mutant::RedeemAgain) {
            let learnt = self.swap(&payment, &token).await;
            if learnt == Learnt::Lost {
                return Taken::TryLater;
            }
            return self.learn(payment, learnt).await;
        }
        let found = self
            .ask(OPERATION, |s| {
                if s.is_flying(&token.payment()) || (!s.calm && s.rng.chance(10)) {
                    return Ok(Redemption::Unknown);
                }
                s.money.redemption(&token)
            })
            .await;
        let learnt = match found {
            Some(Ok(Redemption::Done { net, fee })) => Learnt::Redeemed {
                net: Msat::new(net),
                fee: Msat::new(fee),
            },
            Some(Ok(Redemption::SpentElsewhere)) => Learnt::NotTaken(Rejection::Spent),
            Some(Ok(Redemption::NotDone)) => Learnt::NotTaken(Rejection::CutOff),
            Some(Ok(Redemption::Unknown) | Err(_)) | None => return Taken::TryLater,
        };
        self.with(|s| match &learnt {
            Learnt::Redeemed { .. } => s.seen.insert("a lost redemption was done"),
            Learnt::NotTaken(Rejection::Spent) => s.seen.insert("a lost token was spent elsewhere"),
            _ => s.seen.insert("a lost redemption was not done"),
        });
        self.learn(payment, learnt).await
    }

    /// Writes down what was learnt, and nothing else.
    async fn note(&self, payment: Payment, learnt: Learnt) -> Option<Payment> {
        self.pause().await;
        let noted = match payment.learn(learnt) {
            Ok(noted) => noted,
            Err(error) => {
                self.with(|s| s.fail(0, error.to_string()));
                return None;
            }
        };
        let row = noted.clone();
        self.commit(|s| s.disk.put_payment(row));
        self.pause().await;
        Some(noted)
    }

    /// Writes down what was learnt, with what follows for the lease, in one commit.
    async fn learn(&self, payment: Payment, learnt: Learnt) -> Taken {
        let (id, rules) = (payment.lease.clone(), self.rules);
        self.change(&id, false, move |s, lease| {
            let now = s.now();
            let mut payment = payment.learn(learnt).map_err(|e| e.to_string())?;
            match payment.state {
                PaymentState::Redeemed => {
                    let sold = lease.sold_seconds;
                    let paid = Event::Paid {
                        face: payment.face,
                        fee: payment.fee,
                        patience: PROVISION,
                        mint: payment.mint.clone(),
                        unit: payment.unit.clone(),
                    };
                    rules.paid(lease, paid, now).map_err(|e| e.to_string())?;
                    // By what the mint says, not by what the core was told.
                    let mut done = s.money.done.iter();
                    let fee = done.find(|done| done.payment == payment.id);
                    let fee = fee.map_or(0, |done| done.fee);
                    let face = payment.face.get();
                    if s.meter(&lease.id).is_ending() {
                        s.seen.insert("money came after the end");
                    }
                    let place = (payment.mint.clone(), payment.unit.clone());
                    s.meter(&lease.id).paid(face, fee, place, now);
                    payment = payment.learn(Learnt::Settled).map_err(|e| e.to_string())?;
                    payment.added_seconds = lease.sold_seconds.saturating_sub(sold);
                }
                PaymentState::Rejected if lease.phase == Phase::Reserved => {
                    let event = Event::NotPaid("the payment was not taken".to_owned());
                    rules
                        .on(lease, event.clone(), now)
                        .map_err(|e| e.to_string())?;
                    s.meter(&lease.id).on(&event, now);
                }
                _ => {}
            }
            payment.forget_token();
            s.disk.put_payment(payment);
            Ok(())
        })
        .await;
        Taken::Done
    }
}
