//! Leases that the pool gives, as `src/provider/handlers/gift.rs` and
//! `src/provider/pool.rs` make the commits; and whether the pool's books are right.

use satlet::core::ids::{LeaseId, PublicKey, RequestId};
use satlet::core::lease::{Event, Lease};
use satlet::core::money::Msat;
use satlet::core::pool::{Key, Pool, Terms};

use super::disk::Answer;
use super::handlers::{ROOM, Refused};
use super::meter::Meter;
use super::rules::{Mutant, Rules, at};
use super::world::{PROVISION, State, World};

/// A generous provider, so that there are many gifts.
const TERMS: Terms = Terms {
    share_percent: 50,
    max_seconds: 300,
    per_key: Msat::new(10_000_000),
    period: 1_000,
    per_day: Msat::new(10_000_000),
    new_per_day: Msat::new(10_000_000),
    known_per_day: Msat::new(10_000_000),
    regular_per_day: Msat::new(10_000_000),
    half_life: 10_000,
};

/// The pool's rows. There is one consumer, and so one key.
#[derive(Default)]
pub(super) struct Rows {
    pool: Pool,
    key: Option<Key>,
    /// What was in it at the start.
    begun: u64,
}

impl Rows {
    /// A pool that has earned something before.
    pub(super) fn begin(&mut self, earned: u64) {
        let done = self.pool.earn(&TERMS, Msat::new(earned));
        done.expect("it fits");
        self.begun = self.pool.credited.get();
    }
}

impl World {
    /// What a request for a gift comes to.
    pub(super) async fn gift(&self, request: RequestId) -> Result<LeaseId, Refused> {
        let rules = self.rules;
        let mut lease = self.with(|s| s.new_lease(request));
        lease.owner = PublicKey::from_bytes([17; 32]);
        self.pause().await;
        if rules.is(Mutant::GiftApart) {
            self.commit(|s| promise(s, &lease, rules)).ok_or(Refused)?;
            self.pause().await;
        }
        let id = self.commit(|s| {
            if s.disk.leases.iter().filter(|l| !l.has_ended()).count() >= ROOM {
                return Err(Refused);
            }
            let now = s.now();
            let gift = if rules.is(Mutant::GiftApart) {
                let (seconds, trust) = (60, satlet::core::pool::Trust::New);
                let at = at(now);
                satlet::core::pool::Gift { seconds, trust, at }
            } else {
                promise(s, &lease, rules).ok_or(Refused)?
            };
            let patience = PROVISION;
            let given = rules.on(&mut lease, Event::Given { gift, patience }, now);
            given.map_err(|_| Refused)?;
            let (id, rate) = (lease.id.clone(), lease.tier.rate_msat_per_s);
            s.meters.push(Meter::given(id.clone(), rate, gift.seconds));
            s.disk.leases.push(lease);
            s.disk.workloads.push((id.clone(), false));
            if let Some(row) = s.disk.request(request) {
                row.lease = Some(id.clone());
            }
            s.seen.insert("a lease was given");
            Ok(id)
        });
        self.pause().await;
        id
    }
}

/// Debits the pool.
fn promise(s: &mut State, lease: &Lease, rules: Rules) -> Option<satlet::core::pool::Gift> {
    let now = at(s.now());
    let rows = &mut s.disk.gifts;
    let mut key = rows.key.unwrap_or_else(|| Key::new(now));
    let mut grant = rows.pool.gift(&TERMS, &key, &lease.tier, now).ok()?;
    if rules.is(Mutant::GiftApart) {
        grant.gift.seconds = 60;
        grant.msat = Msat::new(60 * lease.tier.rate_msat_per_s);
    }
    if rules.is(Mutant::GiftUndebited) {
        return Some(grant.gift);
    }
    rows.pool.promise(&TERMS, &mut key, &grant)?;
    rows.key = Some(key);
    Some(grant.gift)
}

/// What a change of a lease means for the pool, in the same commit.
pub(super) fn settle(s: &mut State, rules: Rules, before: &Lease, lease: &Lease) -> Option<()> {
    let now = at(s.now());
    let rows = &mut s.disk.gifts;
    let mut key = rows.key.unwrap_or_else(|| Key::new(now));
    let back = lease.money.returned.checked_sub(before.money.returned)?;
    let over = lease.has_ended() && !before.has_ended();
    if let Some(gift) = lease.gift.filter(|_| !back.is_zero()) {
        s.seen.insert("a gift came back");
        if !rules.is(Mutant::GiftKept) {
            rows.pool.take_back(&mut key, &gift, back)?;
        }
    }
    if over {
        if lease.gift.is_some() {
            key.gift_over();
        }
        key.paid_for(&TERMS, lease.paid_served(), now);
        rows.pool.earn(&TERMS, lease.paid_served())?;
    }
    rows.key = Some(key);
    Some(())
}

/// What the request that asked for this lease as a gift is told, if it is time.
pub(super) fn told(lease: &Lease, request: RequestId, late: bool) -> Option<Option<Answer>> {
    lease.gift.filter(|_| lease.request == request)?;
    let over = lease.has_ended() || late;
    Some(match lease.started_at {
        Some(_) => Some(Answer::Spawned),
        None => over.then_some(Answer::Refused),
    })
}

/// Whether the pool's books say what the meters have heard.
pub(super) fn check(s: &State) -> Option<(u64, String)> {
    let pool = &s.disk.gifts.pool;
    let of = |part: fn(&Meter) -> u64| s.meters.iter().map(part).sum::<u64>();
    let share = of(|meter| meter.earned() * TERMS.share_percent / 100);
    let pairs = [
        ("given", pool.given.get(), of(Meter::gift)),
        ("returned", pool.returned.get(), of(|meter| meter.returned)),
        ("credited", pool.credited.get(), s.disk.gifts.begun + share),
    ];
    let off = pairs.iter().find(|(_, told, heard)| told != heard);
    if let Some((what, told, heard)) = off {
        let what = format!("the pool says {what} {told} msat, it is {heard}");
        return Some((told.abs_diff(*heard), what));
    }
    let in_all = pool.credited.get() + pool.returned.get();
    (in_all < pool.given.get()).then(|| (0, "more was given than earned".to_owned()))
}
