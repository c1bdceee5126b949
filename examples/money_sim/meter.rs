//! The books of a lease, kept once more by somebody else: a meter that hears what
//! truly happened and reckons in its own way. It never reads the core's lease but
//! to compare.

use satlet::core::ids::LeaseId;
use satlet::core::lease::{Event, Lease, Phase};

/// Where a lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Reserved,
    Coming,
    Active,
    Stopping,
    Ending,
    Ended,
}

/// A refund, by its place among the lease's refunds.
#[derive(Clone, Debug)]
pub(super) struct Owed {
    pub(super) msat: u64,
    pub(super) our_fault: bool,
    /// Face and fee of the token that was made for it.
    pub(super) made: Option<(u64, u64)>,
    credited: bool,
    /// Mint and unit at which it goes back.
    pub(super) at: Place,
}

/// A mint and a unit.
pub(super) type Place = (String, String);

/// The meter of one lease; all amounts in msat.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    pub(super) lease: LeaseId,
    rate: u64,
    kind: Kind,
    stop: bool,
    pub(super) paid: u64,
    pub(super) fees: u64,
    absorbed: u64,
    credit: u64,
    pub(super) refunded: u64,
    pub(super) refund_fees: u64,
    /// Seconds bought and not given back, served or not.
    seconds: u64,
    waiting: u64,
    waiting_fees: u64,
    expires: u64,
    /// What came and has not gone back, the newest last, and where it lies.
    came: Vec<(Place, u64)>,
    last: Option<Place>,
    /// Seconds of them that were given.
    gift: u64,
    /// Of those, what was not served and went back.
    pub(super) returned: u64,
    pub(super) refunds: Vec<Owed>,
}

impl Meter {
    pub(super) fn new(lease: LeaseId, rate: u64) -> Self {
        Self {
            lease,
            rate,
            kind: Kind::Reserved,
            stop: false,
            paid: 0,
            fees: 0,
            absorbed: 0,
            credit: 0,
            refunded: 0,
            refund_fees: 0,
            seconds: 0,
            waiting: 0,
            waiting_fees: 0,
            expires: 0,
            came: Vec::new(),
            last: None,
            gift: 0,
            returned: 0,
            refunds: Vec::new(),
        }
    }

    /// One that begins with a gift of so many seconds.
    pub(super) fn given(lease: LeaseId, rate: u64, seconds: u64) -> Self {
        Self {
            kind: Kind::Coming,
            seconds,
            waiting: seconds,
            gift: seconds,
            ..Self::new(lease, rate)
        }
    }

    /// What was given, used or not.
    pub(super) fn gift(&self) -> u64 {
        self.gift * self.rate
    }

    /// What was served for money, once the lease is over.
    pub(super) fn earned(&self) -> u64 {
        match self.kind {
            Kind::Ended => self.seconds * self.rate - (self.gift() - self.returned),
            _ => 0,
        }
    }

    /// Whether a top-up's money may be taken, as far as the phase goes.
    pub(super) fn is_ending(&self) -> bool {
        matches!(self.kind, Kind::Ending | Kind::Ended)
    }

    fn unserved(&self, now: u64) -> u64 {
        match self.kind {
            Kind::Active => self.expires.saturating_sub(now).min(self.seconds),
            _ => self.waiting,
        }
    }

    fn owed(&self) -> u64 {
        let open = |owed: &&Owed| owed.made.is_none() && !owed.credited;
        self.refunds.iter().filter(open).map(|owed| owed.msat).sum()
    }

    fn owe(&mut self, msat: u64, our_fault: bool, at: Place) {
        if msat > 0 {
            self.refunds.push(Owed {
                msat,
                our_fault,
                made: None,
                credited: false,
                at,
            });
        }
    }

    /// The mint gave `face - fee`.
    pub(super) fn paid(&mut self, face: u64, fee: u64, at: Place, now: u64) {
        self.paid += face;
        self.fees += fee;
        if self.kind != Kind::Reserved && (self.is_ending() || self.stop) {
            self.absorbed += fee;
            self.owe(face, true, at);
            return;
        }
        self.came.push((at.clone(), face - fee));
        self.last = Some(at);
        let total = face - fee + self.credit;
        let bought = total / self.rate;
        self.credit = total - bought * self.rate;
        self.seconds += bought;
        if self.kind == Kind::Active {
            self.expires = self.expires.max(now) + bought;
            return;
        }
        self.waiting += bought;
        self.waiting_fees += fee;
        self.kind = Kind::Coming;
    }

    fn end(&mut self, came_up: bool, our_fault: bool, now: u64) {
        let left = self.unserved(now);
        let ours = if came_up { 0 } else { self.waiting_fees };
        // The gift was served first.
        let unused = self.gift.saturating_sub(self.seconds - left);
        self.returned = unused * self.rate;
        let paid = (left - unused) * self.rate;
        let mut back = Vec::new();
        if paid + ours > 0 {
            back = self.newest(paid + self.credit);
            self.credit = 0;
        }
        self.absorbed += ours;
        self.seconds -= left;
        self.waiting = 0;
        self.waiting_fees = 0;
        self.kind = Kind::Ending;
        // What we bear goes with what is last given back.
        if let Some((_, msat)) = back.last_mut() {
            *msat += ours;
        } else if let Some(at) = self.last.clone() {
            back.push((at, ours));
        }
        for (at, msat) in back {
            self.owe(msat, our_fault, at);
        }
    }

    /// Takes the newest of what came, by where it lies: the oldest first, and where
    /// was last paid at the end.
    fn newest(&mut self, mut msat: u64) -> Vec<(Place, u64)> {
        let mut taken: Vec<(Place, u64)> = Vec::new();
        while msat > 0 {
            let Some((at, there)) = self.came.last_mut() else {
                break;
            };
            let now = msat.min(*there);
            taken.push((at.clone(), now));
            msat -= now;
            *there -= now;
            if *there == 0 {
                self.came.pop();
            }
        }
        let mut all: Vec<(Place, u64)> = Vec::new();
        for (at, msat) in taken.into_iter().rev() {
            match all.iter_mut().find(|(known, _)| *known == at) {
                Some((_, sum)) => *sum += msat,
                None => all.push((at, msat)),
            }
        }
        all.sort_by_key(|(at, _)| Some(at) == self.last.as_ref());
        all
    }

    /// What happened besides money.
    pub(super) fn on(&mut self, event: &Event, now: u64) {
        match event {
            Event::NotPaid(_) | Event::Destroyed => self.kind = Kind::Ended,
            Event::Up => {
                self.kind = Kind::Active;
                self.expires = now + self.waiting;
                self.waiting = 0;
                self.waiting_fees = 0;
            }
            Event::Failed(_) => self.end(false, true, now),
            Event::TimeOver | Event::Stopped { .. } => self.kind = Kind::Stopping,
            Event::GraceOver | Event::StopBegun => self.end(true, false, now),
            Event::Gone => self.end(true, true, now),
            Event::StopAsked(_) => self.stop = true,
            _ => {}
        }
    }

    /// A token of `face` was made for the `n`th refund and cost `fee` besides, no
    /// more than was reckoned with unless the mint's fees were `raised`.
    pub(super) fn made(
        &mut self,
        n: usize,
        face: u64,
        fee: u64,
        raised: bool,
    ) -> Result<(), String> {
        let owed = self.open(n)?.clone();
        if owed.our_fault && face < owed.msat {
            let msat = owed.msat;
            return Err(format!("our fault: {msat} msat are owed, {face} were made"));
        }
        if !owed.our_fault && (face > owed.msat || (face + fee > owed.msat && !raised)) {
            let msat = owed.msat;
            return Err(format!("{face} + {fee} msat were made of {msat}"));
        }
        self.refunded += face;
        self.refund_fees += fee;
        if owed.our_fault {
            self.absorbed += face - owed.msat + fee;
        } else {
            let spent = face + fee;
            self.absorbed += spent.saturating_sub(owed.msat);
            self.credit += owed.msat.saturating_sub(spent);
            let rest = owed.msat.saturating_sub(spent);
            self.came.push((owed.at, rest));
        }
        self.refunds[n].made = Some((face, fee));
        Ok(())
    }

    /// The token of the `n`th refund was taken back, which cost `fee`.
    pub(super) fn taken_back(&mut self, n: usize, fee: u64) -> Result<(), String> {
        let face = self.refunds.get(n).and_then(|owed| owed.made);
        let (face, _) = face.ok_or("a refund that was not made")?;
        self.refunded -= face;
        self.refund_fees += fee;
        self.credit += face - fee;
        self.came.push((self.refunds[n].at.clone(), face - fee));
        Ok(())
    }

    /// The `n`th refund is too little for a token.
    pub(super) fn credited(&mut self, n: usize) -> Result<(), String> {
        let owed = self.open(n)?.clone();
        self.credit += owed.msat;
        self.came.push((owed.at, owed.msat));
        self.refunds[n].credited = true;
        Ok(())
    }

    /// The `n`th refund is made in two parts.
    pub(super) fn split(&mut self, n: usize, part: u64) -> Result<(), String> {
        let owed = self.open(n)?.clone();
        self.refunds[n].msat = part;
        self.owe(owed.msat - part, owed.our_fault, owed.at);
        Ok(())
    }

    fn open(&self, n: usize) -> Result<&Owed, String> {
        let owed = self.refunds.get(n);
        owed.filter(|owed| owed.made.is_none() && !owed.credited)
            .ok_or_else(|| "a refund that is not owed".to_owned())
    }

    /// Compares with the core's lease, and gives the msat by which the core's
    /// books are off: `paid + absorbed + given - (mint_fees + served + unserved +
    /// owed + refunded + refund_fees + credit + returned)`, the time by this meter.
    pub(super) fn compare(&self, lease: &Lease, now: u64) -> Result<(), (u64, String)> {
        let b = &lease.money;
        let unserved = self.unserved(now) * self.rate;
        let served = self.seconds * self.rate - unserved;
        let left = b.paid.get() + b.absorbed.get() + b.given.get();
        let right = b.mint_fees.get() + served + unserved + b.owed.get();
        let right = right + b.refunded.get() + b.refund_fees.get() + b.credit.get();
        let right = right + b.returned.get();
        if left != right {
            let off = left.abs_diff(right);
            return Err((off, format!("the books are off by {off} msat: {b:?}")));
        }
        let at = satlet::core::time::Timestamp::from_secs(now);
        let told = lease.served(at).map_or(u64::MAX, |served| served.get());
        let pairs = [
            ("paid", b.paid.get(), self.paid),
            ("mint fees", b.mint_fees.get(), self.fees),
            ("absorbed", b.absorbed.get(), self.absorbed),
            ("credit", b.credit.get(), self.credit),
            ("owed", b.owed.get(), self.owed()),
            ("refunded", b.refunded.get(), self.refunded),
            ("refund fees", b.refund_fees.get(), self.refund_fees),
            ("given", b.given.get(), self.gift()),
            ("returned", b.returned.get(), self.returned),
            ("served", told, served),
            (
                "unserved seconds",
                lease.unserved_seconds(at),
                self.unserved(now),
            ),
            (
                "refunds",
                lease.refunds.len() as u64,
                self.refunds.len() as u64,
            ),
        ];
        if let Some((what, core, ours)) = pairs.iter().find(|(_, core, ours)| core != ours) {
            let off = core.abs_diff(*ours);
            return Err((off, format!("{what}: the lease says {core}, it is {ours}")));
        }
        let mut places = lease.refunds.iter().zip(&self.refunds);
        if let Some((refund, owed)) = places.find(|(refund, owed)| refund.purse() != owed.at) {
            let (off, at) = (owed.msat, &owed.at);
            return Err((off, format!("{refund:?} goes back at {at:?}")));
        }
        if kind(lease.phase) != self.kind {
            let (phase, kind) = (lease.phase, self.kind);
            return Err((0, format!("the lease is {phase:?}, it should be {kind:?}")));
        }
        if !lease.balances(at) {
            return Err((0, "the lease says that its books do not balance".to_owned()));
        }
        Ok(())
    }
}

fn kind(phase: Phase) -> Kind {
    match phase {
        Phase::Reserved => Kind::Reserved,
        Phase::Provisioning { .. } | Phase::Reviving { .. } => Kind::Coming,
        Phase::Active => Kind::Active,
        Phase::Expiring | Phase::Grace { .. } => Kind::Stopping,
        Phase::Ending => Kind::Ending,
        Phase::Ended { .. } => Kind::Ended,
    }
}
