use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::core::ids::RequestId;
use crate::core::lease::Event;
use crate::core::pricing::Tier;

const RATE: u64 = 100;
const MINT: &str = "https://mint.test";

fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(1_790_000_000 + secs)
}

fn request(n: u128) -> RequestId {
    RequestId::new(uuid::Uuid::from_u128(n))
}

pub(crate) fn provider() -> PublicKey {
    PublicKey::from_bytes([9; 32])
}

/// A lease with what was paid for it.
pub(crate) struct Sample {
    pub(crate) lease: Lease,
    pub(crate) payments: Vec<Payment>,
}

impl Sample {
    pub(crate) fn new(face: u64, fee: u64) -> Self {
        let mut sample = Self::reserved();
        sample.pay(0, face, fee);
        sample
    }

    fn reserved() -> Self {
        let lease = Lease::reserve(
            "k3zpq7vtt2lm".parse().unwrap(),
            PublicKey::from_bytes([1; 32]),
            request(1),
            Tier {
                id: "small".parse().unwrap(),
                name: String::new(),
                description: String::new(),
                resources: Resources::default(),
                rate_msat_per_s: RATE,
                min_seconds: 1,
                max_seconds: 100_000,
            },
            "host".to_owned(),
            Vec::new(),
            at(0),
        );
        Self {
            lease,
            payments: Vec::new(),
        }
    }

    pub(crate) fn on(&mut self, secs: u64, event: Event) {
        self.lease.on(event, at(secs)).unwrap();
    }

    pub(crate) fn pay(&mut self, secs: u64, face: u64, fee: u64) {
        let n = u8::try_from(self.payments.len()).unwrap();
        let before = self.lease.sold_seconds;
        let paid = Event::Paid {
            face: Msat::new(face),
            fee: Msat::new(fee),
            patience: 300,
            mint: MINT.to_owned(),
            unit: "sat".to_owned(),
        };
        self.on(secs, paid);
        let id = PaymentId::from_bytes([n; 32]);
        self.lease.payments.push(id);
        self.payments.push(Payment {
            id,
            owner: self.lease.owner,
            request: request(10 + u128::from(n)),
            lease: self.lease.id.clone(),
            purpose: if n == 0 {
                Purpose::Spawn
            } else {
                Purpose::Topup
            },
            mint: MINT.to_owned(),
            unit: "sat".to_owned(),
            face: Msat::new(face),
            token: "a secret token".to_owned(),
            ys: Vec::new(),
            state: PaymentState::Settled,
            deadline: at(300),
            net: Msat::new(face - fee),
            fee: Msat::new(fee),
            added_seconds: self.lease.sold_seconds - before,
            rejection: None,
            invoice: None,
            hold: None,
        });
    }

    pub(crate) fn receipt(&self, secs: u64) -> Receipt {
        Receipt::of(provider(), &self.lease, &self.payments, at(secs)).unwrap()
    }

    /// Paid twice, stopped early, the rest given back.
    pub(crate) fn stopped() -> Self {
        let mut sample = Self::new(10_050, 1_000);
        sample.on(5, Event::Up);
        sample.pay(15, 5_000, 0);
        sample.on(35, Event::StopAsked(request(3)));
        sample.on(35, Event::StopBegun);
        sample.on(36, Event::Destroyed);
        let id = sample.lease.refunds[0].id.clone();
        let (face, fee) = (Msat::new(9_000), Msat::new(1_000));
        let token = "another secret token".to_owned();
        sample
            .lease
            .refund_made(&id, token, face, fee, Timestamp::from_secs(0))
            .unwrap();
        sample
    }

    /// Given 100 s, paid for 50 more, stopped after 30.
    pub(crate) fn given() -> Self {
        let mut sample = Self::reserved();
        let (seconds, trust) = (100, crate::core::pool::Trust::New);
        let gift = crate::core::pool::Gift {
            seconds,
            trust,
            at: at(0),
        };
        let patience = 300;
        sample.on(0, Event::Given { gift, patience });
        sample.on(5, Event::Up);
        sample.pay(15, 6_000, 1_000);
        sample.payments[0].purpose = Purpose::Topup;
        sample.on(35, Event::StopAsked(request(3)));
        sample.on(35, Event::StopBegun);
        sample.on(36, Event::Destroyed);
        let id = sample.lease.refunds[0].id.clone();
        let (face, fee) = (Msat::new(4_000), Msat::new(1_000));
        let token = "another secret token".to_owned();
        let made = Timestamp::from_secs(0);
        let done = sample.lease.refund_made(&id, token, face, fee, made);
        done.unwrap();
        sample
    }

    /// Paid for nothing: it never came up.
    pub(crate) fn failed() -> Self {
        let mut sample = Self::new(10_000, 1_000);
        sample.on(9, Event::Failed("no such image".to_owned()));
        sample.on(9, Event::Destroyed);
        let id = sample.lease.refunds[0].id.clone();
        let (face, fee) = (Msat::new(10_000), Msat::new(1_000));
        let token = "another secret token".to_owned();
        sample
            .lease
            .refund_made(&id, token, face, fee, Timestamp::from_secs(0))
            .unwrap();
        sample
    }
}

#[test]
fn an_early_stop_is_told_to_the_msat() {
    let receipt = Sample::stopped().receipt(40);
    assert_eq!(receipt.check(at(40)), Ok(()));
    assert!(receipt.is_final());
    // 9.05 sat and 5 sat buy 90 and 50 s, and 0.05 sat are left over.
    assert_eq!(receipt.sold_seconds, 140);
    assert_eq!(receipt.served_seconds, 30);
    assert_eq!(receipt.books.served_msat, Msat::new(3_000));
    let [refund] = receipt.refunds.as_slice() else {
        panic!("{:?}", receipt.refunds)
    };
    assert_eq!(refund.ground, Ground::OwnerChoice);
    assert_eq!(refund.owed_msat, Msat::new(11_050), "110 s and the credit");
    assert_eq!(receipt.books.credit_msat, Msat::new(1_050));
    assert_eq!(receipt.cause, Some(EndCause::Stopped));
}

#[test]
fn what_never_came_up_costs_its_owner_nothing() {
    let receipt = Sample::failed().receipt(40);
    assert_eq!(receipt.check(at(40)), Ok(()));
    assert_eq!(receipt.started_at, None);
    assert_eq!(receipt.books.refunded_msat, receipt.books.paid_msat);
    assert_eq!(receipt.refunds[0].ground, Ground::ProviderFault);
    assert_eq!(receipt.books.absorbed_msat, Msat::new(2_000), "both fees");
}

#[test]
fn a_running_lease_has_its_account_so_far() {
    let mut sample = Sample::new(10_000, 1_000);
    assert_eq!(sample.receipt(1).check(at(1)), Ok(()), "not up yet");
    sample.on(5, Event::Up);
    let receipt = sample.receipt(35);
    assert_eq!(receipt.check(at(35)), Ok(()));
    assert!(!receipt.is_final());
    assert_eq!((receipt.served_seconds, receipt.unserved_seconds), (30, 60));
}

#[test]
fn no_token_is_in_it() {
    for sample in [Sample::stopped(), Sample::failed()] {
        let text = serde_json::to_string(&sample.receipt(40)).unwrap();
        assert!(!text.contains("secret"), "{text}");
    }
}

#[test]
fn what_does_not_fit_a_message_is_summed_up() {
    let mut sample = Sample::new(10_050, 1_000);
    sample.on(5, Event::Up);
    for n in 0..100 {
        sample.pay(6, 5_010 + n, 1_000);
    }
    sample.lease.why = "x".repeat(100_000);
    let receipt = sample.receipt(35);
    assert_eq!(receipt.check(at(35)), Ok(()));
    assert_eq!(receipt.payments.len(), MAX_PAYMENTS);
    assert_eq!(receipt.earlier_payments.count, 101 - MAX_PAYMENTS as u64);
    let text = serde_json::to_string(&receipt).unwrap();
    assert!(text.len() < 8 * 1024, "{}", text.len());
    // Fewer lines than there is room for hide something.
    let mut hidden = receipt;
    let line = hidden.payments.remove(0);
    hidden.earlier_payments.count += 1;
    hidden.earlier_payments.face_msat =
        Msat::checked_sum([hidden.earlier_payments.face_msat, line.face_msat]).unwrap();
    assert!(matches!(hidden.check(at(35)), Err(Flaw::Listed(_))));
}

#[test]
fn what_cannot_be_is_refused_with_its_reason() {
    let good = Sample::stopped().receipt(40);
    let refused = |change: fn(&mut Receipt)| {
        let mut bad = good.clone();
        change(&mut bad);
        bad.check(at(40)).unwrap_err().to_string()
    };
    let reason = refused(|r| r.books.served_msat = Msat::new(3_100));
    assert!(reason.contains("served_msat"), "{reason}");
    let reason = refused(|r| {
        r.served_seconds += 10;
        r.books.served_msat = Msat::new(4_000);
        r.books.credit_msat = Msat::new(50);
    });
    assert!(reason.contains("40 s were charged"), "{reason}");
    let reason = refused(|r| {
        r.served_seconds -= 10;
        r.books.served_msat = Msat::new(2_000);
    });
    assert!(
        reason.contains("paid_msat + brought_msat + absorbed_msat"),
        "{reason}"
    );
    let reason = refused(|r| r.payments.push(r.payments[0].clone()));
    assert!(reason.contains("listed twice"), "{reason}");
    let reason = refused(|r| r.version = 2);
    assert!(reason.contains("version 2"), "{reason}");
    let reason = refused(|r| {
        r.refunds[0].ground = Ground::ProviderFault;
    });
    assert!(reason.contains("11.05 sat that were owed"), "{reason}");
}

/// Paths of all numbers that others follow from; not of times, which are the
/// provider's word, nor of what a refund that was made would have been.
fn numbers(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let free = name.ends_with("_at") || name == "gives" || name == "count";
                let bounded = path.starts_with("/refunds/") && name == "owed_msat";
                if !free && !bounded {
                    numbers(value, &format!("{path}/{name}"), found);
                }
            }
        }
        Value::Array(items) => {
            for (n, value) in items.iter().enumerate() {
                numbers(value, &format!("{path}/{n}"), found);
            }
        }
        Value::Number(_) => found.push(path.to_owned()),
        _ => {}
    }
}

proptest! {
    #[test]
    fn a_number_that_is_changed_does_not_add_up(
        which in any::<prop::sample::Index>(),
        other in any::<u64>(),
        by in 1u64..1_000,
        sample in 0..3,
    ) {
        let made = match sample {
            0 => Sample::stopped(),
            1 => Sample::failed(),
            _ => Sample::given(),
        };
        let good = serde_json::to_value(made.receipt(40)).unwrap();
        let mut paths = Vec::new();
        numbers(&good, "", &mut paths);
        prop_assert!(paths.len() > 15, "{paths:?}");
        // Where nothing was served, the same money buys as much at nearly the price.
        paths.retain(|path| sample != 1 || path != "/rate_msat_per_s");
        let path = which.get(&paths);
        let was = good.pointer(path).and_then(Value::as_u64).unwrap();
        for new in [other, was.saturating_add(by), was.saturating_sub(by)] {
            if new == was {
                continue;
            }
            let mut bad = good.clone();
            *bad.pointer_mut(path).unwrap() = new.into();
            let refused = serde_json::from_value::<Receipt>(bad)
                .map_err(|error| error.to_string())
                .and_then(|bad| bad.check(at(40)).map_err(|flaw| flaw.to_string()));
            prop_assert!(refused.is_err(), "{path}: {was} -> {new}");
        }
    }
}
