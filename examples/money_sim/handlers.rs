//! From a message to what is written down, as `src/provider/dispatch.rs` and
//! `src/provider/handlers` do it: what can be known is checked first, and the
//! payment, its claim on its proofs and its lease are one commit.

use std::rc::Rc;

use satlet::core::ids::{LeaseId, RequestId};
use satlet::core::lease::{Event, Lease};
use satlet::core::money::Msat;
use satlet::core::payment::{Payment, Purpose};
use satlet::core::pricing::purchase;

use super::answers;
use super::disk::{Answer, Ask, Msg, RequestRow, Token, lease_id};
use super::meter::Meter;
use super::oracle;
use super::rules::at;
use super::world::{MINT, PROVISION, State, World};

/// How many leases there is room for.
pub(super) const ROOM: usize = 4;

/// It was refused, with nothing touched.
pub(super) struct Refused;

impl World {
    /// A message comes from a relay: it is stored, then handled.
    pub(super) async fn receive(self: Rc<Self>, msg: Msg) {
        self.pause().await;
        let new = self.commit(|s| {
            let mut inbox = s.disk.inbox.iter_mut();
            match inbox.find(|(m, _)| m.rumor == msg.rumor) {
                // What is handled is undone on disk until then.
                Some((_, done)) => std::mem::take(done),
                None => {
                    s.disk.inbox.push((msg.clone(), false));
                    true
                }
            }
        });
        if new {
            self.handle(msg).await;
        }
    }

    /// Handles a message that is stored.
    pub(super) async fn handle(self: Rc<Self>, msg: Msg) {
        self.pause().await;
        let (id, rumor) = (msg.request, msg.rumor);
        let in_work = |s: &mut State| {
            let mut busy = s.process.busy.iter();
            busy.find(|(request, _)| *request == id)
                .map(|(_, rumor)| *rumor)
        };
        match self.with(in_work) {
            // The same message twice: it is done when its first copy is.
            Some(first) if first == rumor => return,
            Some(_) => return self.commit(|s| s.disk.done(rumor)),
            None => self.with(|s| s.process.busy.push((id, rumor))),
        }
        if self.known(id) {
            self.commit(|s| s.disk.done(rumor));
        } else {
            self.pause().await;
            match self.attempt(&msg).await {
                Ok(lease) => {
                    self.pause().await;
                    self.commit(|s| s.disk.done(rumor));
                    self.wake(&lease);
                }
                Err(Refused) => {
                    self.pause().await;
                    self.commit(|s| {
                        s.disk.done(rumor);
                        if let Some(row) = s.disk.request(id)
                            && row.answer.is_none()
                        {
                            answers::store(row, Answer::Refused);
                        }
                    });
                }
            }
        }
        self.with(|s| s.process.busy.retain(|(busy, _)| *busy != id));
    }

    /// Writes a request down; `true` where it is answered or under way already.
    fn known(&self, id: RequestId) -> bool {
        self.commit(|s| {
            let now = s.now();
            if let Some(row) = s.disk.request(id) {
                return row.answer.is_some() || row.lease.is_some();
            }
            s.disk.requests.push(RequestRow {
                id,
                received_at: now,
                lease: None,
                answer: None,
                answers: 0,
                pending: false,
            });
            false
        })
    }

    async fn attempt(&self, msg: &Msg) -> Result<LeaseId, Refused> {
        match &msg.ask {
            Ask::Spawn(token) => self.buy(msg.request, token).await,
            Ask::Gift => self.gift(msg.request).await,
            Ask::Topup(lease, token) => self.topup(msg.request, lease, token).await,
            Ask::Stop(lease) => self.stop(msg.request, lease),
        }
    }

    /// What redeeming the token will give.
    async fn net(&self, token: &Token) -> Result<Msat, Refused> {
        let asked = self.ask(MINT, |s| {
            let purse = s.money.purse_of(token);
            (!s.money.down[purse.mint]).then(|| s.money.net(token))
        });
        match asked.await.flatten() {
            Some(Ok((net, _))) => Ok(Msat::new(net)),
            _ => Err(Refused),
        }
    }

    async fn buy(&self, request: RequestId, token: &Token) -> Result<LeaseId, Refused> {
        let net = self.net(token).await?;
        let mut lease = self.with(|s| s.new_lease(request));
        lease.tier.sell(net).map_err(|_| Refused)?;
        let payment = self.with(|s| s.new_payment(request, &lease, Purpose::Spawn, token));
        self.pause().await;
        let rules = self.rules;
        let id = self.commit(|s| {
            if s.disk.leases.iter().filter(|l| !l.has_ended()).count() >= ROOM {
                return Err(Refused);
            }
            if rules.is_held(&s.disk, &payment) {
                s.seen.insert("a token was in use");
                return Err(Refused);
            }
            s.claim(&payment);
            lease.payments.push(payment.id);
            let (id, rate) = (lease.id.clone(), lease.tier.rate_msat_per_s);
            s.meters.push(Meter::new(id.clone(), rate));
            s.disk.leases.push(lease);
            s.disk.workloads.push((id.clone(), false));
            s.disk.put_payment(payment);
            Ok(id)
        });
        self.pause().await;
        id
    }

    async fn topup(
        &self,
        request: RequestId,
        id: &LeaseId,
        token: &Token,
    ) -> Result<LeaseId, Refused> {
        let rules = self.rules;
        let lease = self
            .with(|s| s.disk.any_lease(id).cloned())
            .ok_or(Refused)?;
        if !rules.takes_topup(&lease) {
            return Err(Refused);
        }
        let net = self.net(token).await?;
        let payment = self.with(|s| s.new_payment(request, &lease, Purpose::Topup, token));
        self.pause().await;
        let done = self.commit(|s| {
            let now = s.now();
            let lease = s.disk.lease(id).ok_or(Refused)?;
            if !rules.takes_topup(lease) || !fits(lease, net, now) {
                return Err(Refused);
            }
            if rules.is_held(&s.disk, &payment) {
                return Err(Refused);
            }
            s.claim(&payment);
            let paid = payment.id;
            s.disk.put_payment(payment);
            if let Some(lease) = s.disk.lease_mut(id) {
                lease.payments.push(paid);
            }
            Ok(id.clone())
        });
        self.pause().await;
        done
    }

    fn stop(&self, request: RequestId, id: &LeaseId) -> Result<LeaseId, Refused> {
        let rules = self.rules;
        self.commit(|s| {
            let now = s.now();
            let event = Event::StopAsked(request);
            let lease = s.disk.lease_mut(id).ok_or(Refused)?;
            rules.on(lease, event.clone(), now).map_err(|_| Refused)?;
            s.meter(id).on(&event, now);
            if let Some(row) = s.disk.request(request) {
                row.lease = Some(id.clone());
            }
            Ok(id.clone())
        })
    }
}

impl State {
    pub(super) fn new_lease(&mut self, request: RequestId) -> Lease {
        self.consumer.leases += 1;
        let mut lease = self.blank.lease.clone();
        lease.id = lease_id(self.consumer.leases);
        lease.request = request;
        lease.tier.rate_msat_per_s = self.rate;
        lease.tier.max_seconds = 1_000;
        lease.created_at = at(self.now());
        lease.looked_at = at(self.now());
        lease
    }

    fn new_payment(
        &mut self,
        request: RequestId,
        lease: &Lease,
        purpose: Purpose,
        token: &Token,
    ) -> Payment {
        let purse = self.money.purse_of(token);
        Payment {
            id: token.payment(),
            request,
            lease: lease.id.clone(),
            purpose,
            mint: purse.url(),
            unit: purse.unit().to_owned(),
            face: Msat::new(self.money.face(token)),
            token: token.text(),
            ys: token.0.iter().map(u64::to_string).collect(),
            deadline: at(self.now() + PROVISION),
            ..self.blank.payment.clone()
        }
    }

    /// Claims the payment's proofs for it, and links its request to it.
    fn claim(&mut self, payment: &Payment) {
        oracle::before_claim(self, payment);
        for y in &payment.ys {
            self.disk.proofs.insert(y.clone(), payment.id);
        }
        if let Some(row) = self.disk.request(payment.request) {
            row.lease = Some(payment.lease.clone());
        }
    }
}

/// Whether `net` buys at least a second, and no more than the maximum ahead.
fn fits(lease: &Lease, net: Msat, now: u64) -> bool {
    let left = lease.unserved_seconds(at(now));
    let bought = purchase(net, lease.tier.rate_msat_per_s);
    bought.is_some_and(|b| b.seconds > 0 && left + b.seconds <= lease.tier.max_seconds)
}
