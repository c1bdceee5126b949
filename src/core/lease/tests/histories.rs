//! Leases driven through histories that nobody thought of, beside a model that
//! counts seconds and money in its own way.

use proptest::prelude::*;

use super::*;
use crate::core::payment::{Invoice, Learnt, Payment, PaymentState, Purpose, Rejection};
use crate::core::receipt::Receipt;

/// What happens to a lease from outside.
#[derive(Clone, Debug)]
enum Happens {
    Pass(u64),
    Topup { face: u64, fee: u64 },
    Order { face: u64, pays: bool },
    Stop,
}

/// How a step goes: 0 well, others in some bad way.
type Luck = u8;

/// What the model knows: counted forward in time, never read from the lease.
#[derive(Default)]
struct Model {
    served: u64,
    left: u64,
    waiting: u64,
    credit: u64,
    paid: u64,
    fees: u64,
    got_back: u64,
    gift: u64,
    runs: bool,
}

struct World {
    now: u64,
    lease: Lease,
    payments: Vec<Payment>,
    /// Whether a lost redemption was done after all, or an invoice will be paid, by
    /// payment.
    truth: Vec<bool>,
    fees: Vec<u64>,
    waits: Vec<Step>,
    luck: Vec<Luck>,
    model: Model,
}

impl World {
    fn new(face: u64, fee: u64, invoice: Option<bool>, luck: Vec<Luck>) -> Self {
        let mut world = Self {
            now: 0,
            lease: reserved(),
            payments: Vec::new(),
            truth: Vec::new(),
            fees: Vec::new(),
            waits: Vec::new(),
            luck,
            model: Model::default(),
        };
        match invoice {
            Some(pays) => world.order(Purpose::Spawn, face, pays),
            None => world.pay(Purpose::Spawn, face, fee),
        }
        world
    }

    /// One whose lease begins with a gift in place of a payment.
    fn given(seconds: u64, luck: Vec<Luck>) -> Self {
        let mut world = Self {
            now: 0,
            lease: reserved(),
            payments: Vec::new(),
            truth: Vec::new(),
            fees: Vec::new(),
            waits: Vec::new(),
            luck,
            model: Model::default(),
        };
        world.on(super::gifts::gift(seconds));
        world.model.waiting = seconds;
        world.model.gift = seconds;
        world
    }

    fn luck(&mut self) -> Luck {
        self.luck.pop().unwrap_or(0)
    }

    fn pay(&mut self, purpose: Purpose, face: u64, fee: u64) {
        let n = self.payments.len();
        let id = PaymentId::from_bytes([u8::try_from(n).unwrap(); 32]);
        self.payments.push(Payment {
            id,
            owner: self.lease.owner,
            request: request(100 + n as u128),
            lease: self.lease.id.clone(),
            purpose,
            mint: "https://mint.test".to_owned(),
            unit: "sat".to_owned(),
            face: Msat::new(face),
            token: "token".to_owned(),
            ys: Vec::new(),
            state: PaymentState::Reserved,
            deadline: at(self.now + 300),
            net: Msat::ZERO,
            fee: Msat::ZERO,
            added_seconds: 0,
            rejection: None,
            invoice: None,
            hold: None,
        });
        self.truth.push(false);
        self.fees.push(fee);
        self.lease.payments.push(id);
    }

    /// The same with an invoice.
    fn order(&mut self, purpose: Purpose, face: u64, pays: bool) {
        self.pay(purpose, face, 0);
        *self.truth.last_mut().unwrap() = pays;
        let payment = self.payments.last_mut().unwrap();
        payment.state = PaymentState::Invoiced;
        payment.token.clear();
        payment.invoice = Some(Invoice {
            quote: "quote".to_owned(),
            bolt11: "lnbc".to_owned(),
            issued_at: at(self.now),
            pay_by: at(self.now + 240),
            watch_until: at(self.now + 4_000),
        });
    }

    /// Asks about an invoice. `false`: ask again later.
    fn collect(&mut self, n: usize, luck: Luck) -> bool {
        let payment = &self.payments[n];
        let watched = payment.invoice.as_ref().unwrap().watch_until;
        if luck < 2 && self.truth[n] {
            self.learn(n, Learnt::Minted(payment.face));
        } else if luck == 7 {
            // The mint does not answer.
            return false;
        } else if payment.state == PaymentState::Invoiced && at(self.now) >= payment.deadline {
            self.learn(n, Learnt::Unpaid);
        } else if payment.state == PaymentState::Lapsed && at(self.now) >= watched {
            self.learn(n, Learnt::NotTaken(Rejection::NotPaid));
        } else {
            return false;
        }
        true
    }

    fn pass(&mut self, secs: u64) {
        self.now += secs;
        if self.model.runs {
            let ran = secs.min(self.model.left);
            self.model.served += ran;
            self.model.left -= ran;
        }
        self.waits.clear();
    }

    fn on(&mut self, event: Event) {
        let was = self.lease.clone();
        self.lease
            .on(event.clone(), at(self.now))
            .unwrap_or_else(|e| panic!("{event:?} in {:?}: {e}", was.phase));
    }

    /// Books in the model what a redeemed payment becomes.
    fn model_paid(&mut self, face: u64, fee: u64, taken: bool) {
        self.model.paid += face;
        self.model.fees += fee;
        if !taken {
            return;
        }
        let total = face - fee + self.model.credit;
        self.model.credit = total % RATE;
        if self.model.runs {
            self.model.left += total / RATE;
        } else {
            self.model.waiting += total / RATE;
        }
    }

    fn learn(&mut self, n: usize, learnt: Learnt) {
        let money = self.lease.money;
        let mut payment = self.payments[n].clone().learn(learnt).unwrap();
        match payment.state {
            PaymentState::Redeemed => {
                let taken = self.lease.phase == Phase::Reserved || self.lease.takes_topup();
                self.model_paid(payment.face.get(), payment.fee.get(), taken);
                let sold = self.lease.sold_seconds;
                self.on(paid(payment.face.get(), payment.fee.get()));
                payment = payment.learn(Learnt::Settled).unwrap();
                payment.added_seconds = self.lease.sold_seconds - sold;
            }
            PaymentState::Rejected | PaymentState::Lapsed => {
                if self.lease.phase == Phase::Reserved {
                    self.on(Event::NotPaid("no".to_owned()));
                }
                assert_eq!(self.lease.money, money, "nothing taken, nothing booked");
            }
            _ => assert_eq!(self.lease.money, money),
        }
        self.payments[n] = payment;
    }

    fn redeemed(&self, n: usize) -> Learnt {
        let face = self.payments[n].face.get();
        let fee = self.fees[n].min(face - 1);
        Learnt::Redeemed {
            net: Msat::new(face - fee),
            fee: Msat::new(fee),
        }
    }

    /// Carries out one step; `false` where it has to be tried later.
    fn take(&mut self, step: &Step) -> bool {
        let luck = self.luck() % 8;
        let well = luck < 5;
        match step {
            Step::Redeem(id) => {
                let n = self.payments.iter().position(|p| p.id == *id).unwrap();
                if luck == 5 {
                    self.learn(n, Learnt::NotTaken(Rejection::Spent));
                    return true;
                }
                self.learn(n, Learnt::Unspent);
                match luck {
                    6 => self.truth[n] = true,
                    // The process dies here.
                    7 => {}
                    _ => self.learn(n, self.redeemed(n)),
                }
                true
            }
            Step::EndHold(id) => panic!("nothing is held here: {id}"),
            Step::Resolve(id) => {
                let n = self.payments.iter().position(|p| p.id == *id).unwrap();
                if self.payments[n].state == PaymentState::Redeeming {
                    self.learn(n, Learnt::Lost);
                }
                if well {
                    let done = self.redeemed(n);
                    let none = Learnt::NotTaken(Rejection::Refused("no".to_owned()));
                    self.learn(n, if self.truth[n] { done } else { none });
                }
                well
            }
            Step::Collect(id) => {
                let n = self.payments.iter().position(|p| p.id == *id).unwrap();
                self.collect(n, luck)
            }
            Step::Provision | Step::Revive => {
                if luck == 7 {
                    self.on(Event::Failed("no".to_owned()));
                } else if well {
                    self.on(Event::Up);
                    self.model.left = std::mem::take(&mut self.model.waiting);
                    self.model.runs = true;
                }
                well || luck == 7
            }
            Step::GiveUp if self.lease.phase == Phase::Reserved => {
                self.told(Event::NotPaid("nobody knows".to_owned()))
            }
            Step::GiveUp => self.told(Event::Failed("too late".to_owned())),
            Step::BeginStop => self.told(Event::StopBegun),
            Step::TimeOver => self.told(Event::TimeOver),
            Step::GraceOver => self.told(Event::GraceOver),
            Step::Warn(lead) => self.told(Event::Warned(*lead)),
            Step::StopWorkload => well && self.told(Event::Stopped { grace: 600 }),
            Step::Destroy => well && self.told(Event::Destroyed),
            Step::Look if luck == 7 => self.told(Event::Gone),
            Step::Look => self.told(Event::Looked("seen".to_owned())),
            Step::MakeRefund(id) => self.refund(&id.clone(), luck),
        }
    }

    fn told(&mut self, event: Event) -> bool {
        self.on(event);
        true
    }

    fn refund(&mut self, id: &str, luck: Luck) -> bool {
        let refund = self.lease.refunds.iter().find(|r| r.id == id).unwrap();
        let (owed, fee) = (refund.owed, 1_000);
        let face = if refund.our_fault {
            owed.sat_ceil()
        } else {
            owed.whole_sat().saturating_sub(1)
        };
        let whole = Msat::from_sat(face).unwrap();
        if whole.is_zero() {
            self.lease.refund_credited(id).unwrap();
            return true;
        }
        match luck {
            6 => return false,
            // The purse is short.
            7 if owed.get() > 2_000 => self
                .lease
                .refund_split(id, Msat::new(owed.get() / 2 + 1))
                .unwrap(),
            _ => {
                self.lease
                    .refund_made(id, "token".to_owned(), whole, Msat::new(fee), at(self.now))
                    .unwrap();
                self.model.got_back += whole.get();
            }
        }
        true
    }

    /// Takes steps until there is nothing to do now.
    fn settle(&mut self) -> Plan {
        for _ in 0..200 {
            let waits = self.waits.clone();
            let plan = Plan::beside(&self.lease, &self.payments, &pace(), at(self.now), |step| {
                waits.contains(step)
            });
            let Plan::Do(step) = plan else {
                return plan;
            };
            if !self.take(&step) {
                self.waits.push(step);
            }
            self.check();
        }
        panic!("no end of steps in {:?}", self.lease);
    }

    fn check(&mut self) {
        let now = at(self.now);
        assert!(self.lease.balances(now), "{:?}", self.lease);
        if self.lease.phase != Phase::Active {
            // What is left goes back, or is waited with.
            self.model.runs = false;
            self.model.left = 0;
        }
        let served = Msat::new(self.model.served * RATE);
        assert_eq!(self.lease.served(now), Some(served), "{:?}", self.lease);
        if self.lease.phase == Phase::Active {
            assert_eq!(self.lease.unserved_seconds(now), self.model.left);
        }
        if self.lease.started_at.is_none() {
            assert!(served.is_zero());
        }
        assert_eq!(self.lease.money.paid.get(), self.model.paid);
        assert_eq!(self.lease.money.refunded.get(), self.model.got_back);
        // Whenever it is asked for, there is a receipt that adds up.
        let (me, payments) = (PublicKey::from_bytes([9; 32]), &self.payments);
        let receipt = Receipt::of(me, &self.lease, payments, now).unwrap();
        assert_eq!(receipt.check(now), Ok(()), "{receipt:?}");
        assert_eq!(receipt.served_seconds, self.model.served);
    }

    fn happens(&mut self, what: &Happens) {
        match what {
            Happens::Pass(secs) => self.pass(*secs),
            Happens::Topup { face, fee } if self.lease.takes_topup() => {
                self.pay(Purpose::Topup, *face, *fee);
            }
            // As the handlers do: refused with nothing touched.
            Happens::Topup { .. } => {}
            Happens::Order { face, pays } if self.lease.takes_topup() => {
                self.order(Purpose::Topup, *face, *pays);
            }
            Happens::Order { .. } => {}
            Happens::Stop => {
                let asked = self.lease.on(Event::StopAsked(request(7)), at(self.now));
                let may = self.lease.stop_request.is_none();
                assert!(asked.is_ok() || !may || super::super::ending(self.lease.phase));
            }
        }
    }

    /// From here on all goes well, and time passes.
    fn run_out(&mut self) {
        self.luck.clear();
        self.waits.clear();
        for _ in 0..10_000 {
            match self.settle() {
                Plan::Over => return,
                Plan::WaitUntil(until) => {
                    self.pass(until.secs_since(at(self.now)).clamp(1, 100_000));
                }
                Plan::Do(step) => panic!("{step:?} is not taken"),
            }
        }
        panic!("it never ends: {:?}", self.lease);
    }
}

/// Refunds are claimed, taken back, or left where they are, and what is credit in
/// the end pays for another lease: in all of it no msat is lost, and none earned.
fn afterwards(mut lease: Lease, now: Timestamp, luck: u64) {
    let served = lease.money.served;
    let refunds: Vec<_> = lease
        .refunds
        .iter()
        .filter_map(|refund| Some((refund.id.clone(), refund.is_out()?)))
        .collect();
    for (n, (id, face)) in (luck..).zip(refunds) {
        let all = Msat::checked_sum([
            lease.money.refunded,
            lease.money.credit,
            lease.money.refund_fees,
        ]);
        let fee = Msat::new((n % 2_000).min(face.get()));
        if n % 3 > 0 {
            lease.refund_take_back(&id, 0, now).unwrap();
        }
        match n % 3 {
            0 => lease.refund_claimed(&id, now).unwrap(),
            1 => lease.refund_left(&id).unwrap(),
            _ => {
                let net = face.checked_sub(fee).unwrap();
                lease.refund_taken_back(&id, net, fee, now).unwrap();
            }
        }
        let b = lease.money;
        assert_eq!(
            all,
            Msat::checked_sum([b.refunded, b.credit, b.refund_fees])
        );
        assert!(lease.balances(now), "{lease:?}");
    }
    let credit = lease.money.credit;
    let mut next = reserved();
    let taken = lease.take_credit(&purse(), next.room_for_credit(Msat::new(5_000), now));
    if let Some(taken) = taken {
        next.bring_credit(&purse(), taken).unwrap();
    }
    next.on(paid(5_000, 0), now).unwrap();
    let left = lease.money.credit.checked_add(taken.unwrap_or_default());
    assert_eq!(left, Some(credit));
    assert!(lease.balances(now) && next.balances(now));
    assert_eq!(lease.money.served, served);
}

fn history() -> impl Strategy<Value = Vec<Happens>> {
    let one = prop_oneof![
        4 => (0u64..200).prop_map(Happens::Pass),
        1 => (0u64..5_000).prop_map(Happens::Pass),
        3 => (1u64..60, 0u64..3).prop_map(|(face, fee)| Happens::Topup {
            face: face * 1_000,
            fee: fee * 1_000,
        }),
        2 => (1u64..60, any::<bool>()).prop_map(|(face, pays)| Happens::Order {
            face: face * 1_000,
            pays,
        }),
        1 => Just(Happens::Stop),
    ];
    proptest::collection::vec(one, 0..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_history_ends_with_every_msat_in_its_place(
        face in 1u64..100,
        fee in 0u64..3,
        odd in 0u64..1_000,
        gift in proptest::option::of(1u64..400),
        invoice in any::<Option<bool>>(),
        history in history(),
        luck in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let mut world = match gift {
            None => World::new(face * 1_000 + odd, fee * 1_000, invoice, luck),
            Some(seconds) => World::given(seconds, luck),
        };
        for what in &history {
            world.happens(what);
            world.settle();
        }
        world.run_out();
        let lease = &world.lease;
        prop_assert!(lease.has_ended());
        prop_assert!(lease.cause.is_some());
        prop_assert!(lease.money.owed.is_zero() && lease.unserved_seconds(at(world.now)) == 0);
        prop_assert!(world.payments.iter().all(|payment| !payment.is_open()));
        let b = lease.money;
        prop_assert_eq!(b.served.get(), world.model.served * RATE);
        // What was given is served first, and what is left of it is nobody's money.
        let served = world.model.served.min(world.model.gift);
        prop_assert_eq!(b.given.get(), world.model.gift * RATE);
        prop_assert_eq!(b.returned.get(), (world.model.gift - served) * RATE);
        prop_assert_eq!(
            b.paid.get() + b.absorbed.get() + served * RATE,
            world.model.fees + b.served.get() + world.model.got_back
                + b.refund_fees.get() + b.credit.get()
        );
        // Nothing was sold that was neither served nor given back.
        prop_assert!(b.served.get() <= lease.sold_seconds * RATE);
        afterwards(lease.clone(), at(world.now), odd);
    }
}
