//! What happens to the provider from outside: a consumer who pays, pays again,
//! stops and tries things, and a world in which everything fails now and then.

use std::rc::Rc;

use satlet::core::ids::LeaseId;

use super::disk::{Ask, Msg, Token, request_id};
use super::mint::{MINTS, Purse};
use super::world::{State, World};

/// What the consumer remembers, and the relays for it.
#[derive(Default)]
pub(super) struct Consumer {
    /// All messages; a relay brings them again at each start.
    pub(super) sent: Vec<Msg>,
    tokens: Vec<Token>,
    requests: u64,
    rumors: u64,
    /// Leases that there were.
    pub(super) leases: u8,
}

impl State {
    /// A new token of the consumer's.
    fn new_token(&mut self) -> Token {
        let mint = self.rng.below(MINTS);
        let piece = if self.rng.chance(75) { 1_000 } else { 1 };
        let purse = Purse { mint, piece };
        let proofs = self.rng.within(1, 4);
        let most = if self.rng.chance(20) { 2_000 } else { 60_000 };
        let most = most / piece / proofs;
        let mut issue = || {
            let msat = self.rng.within(1, most.max(1)) * piece;
            self.money.issue(purse, msat)
        };
        let token = Token((0..proofs).map(|_| issue()).collect());
        self.consumer.tokens.push(token.clone());
        token
    }

    fn old_token(&mut self) -> Option<Token> {
        let n = self.consumer.tokens.len();
        (n > 0).then(|| self.consumer.tokens[self.rng.below(n)].clone())
    }

    /// A token that has a proof of an old one.
    fn overlapping_token(&mut self) -> Option<Token> {
        let old = self.old_token()?;
        let purse = self.money.purse_of(&old);
        let mut ids = vec![old.0[self.rng.below(old.0.len())]];
        if self.rng.chance(70) {
            let msat = self.rng.within(1, 20_000 / purse.piece) * purse.piece;
            ids.push(self.money.issue(purse, msat));
        }
        let token = Token(ids);
        self.consumer.tokens.push(token.clone());
        Some(token)
    }

    /// A refund's token that the consumer got and has not spent.
    fn refund_token(&mut self) -> Option<Token> {
        let mine = self.money.sent.iter().filter(|sent| sent.booked);
        let tokens: Vec<_> = mine.map(|sent| sent.token.clone()).collect();
        let n = tokens.len();
        (n > 0).then(|| tokens[self.rng.below(n)].clone())
    }

    fn some_lease(&mut self) -> Option<LeaseId> {
        let leases = self.disk.leases.iter().chain(&self.disk.ended);
        let ids: Vec<_> = leases.map(|lease| lease.id.clone()).collect();
        // Those that run are of more interest.
        let most = match self.disk.leases.len() {
            0 => ids.len(),
            open if self.rng.chance(90) => open,
            _ => ids.len(),
        };
        (most > 0).then(|| ids[self.rng.below(most)].clone())
    }

    fn new_request(&mut self, ask: Ask) -> Msg {
        self.consumer.requests += 1;
        self.consumer.rumors += 1;
        Msg {
            rumor: self.consumer.rumors,
            request: request_id(self.consumer.requests),
            ask,
        }
    }

    /// What money is used for.
    fn spend(&mut self, token: Token) -> Ask {
        match self.some_lease() {
            Some(lease) if self.rng.chance(60) => Ask::Topup(lease, token),
            _ => Ask::Spawn(token),
        }
    }

    /// What the consumer sends next, if anything.
    fn next_message(&mut self) -> Option<Msg> {
        let ask = match self.rng.below(100) {
            0..40 => {
                let token = self.new_token();
                self.spend(token)
            }
            40..45 => Ask::Gift,
            45..57 => Ask::Stop(self.some_lease()?),
            57..70 => {
                let n = self.consumer.sent.len();
                let mut again = self.consumer.sent.get(self.rng.below(n.max(1)))?.clone();
                if self.rng.chance(50) {
                    self.consumer.rumors += 1;
                    again.rumor = self.consumer.rumors;
                }
                return Some(again);
            }
            70..80 => {
                let token = self.old_token()?;
                self.spend(token)
            }
            80..88 => {
                let token = self.overlapping_token()?;
                self.spend(token)
            }
            88..93 => {
                let token = match self.rng.chance(50) {
                    true => self.new_token(),
                    false => self.old_token()?,
                };
                self.spend_elsewhere(&token);
                if self.rng.chance(50) {
                    return None;
                }
                self.spend(token)
            }
            93..97 => {
                let token = self.refund_token()?;
                self.spend_elsewhere(&token);
                return None;
            }
            _ => {
                let token = self.refund_token()?;
                self.consumer.tokens.push(token.clone());
                self.spend(token)
            }
        };
        Some(self.new_request(ask))
    }

    /// Something goes wrong, or well again.
    fn weather(&mut self) {
        match self.rng.below(100) {
            0..25 => {
                let mint = self.rng.below(MINTS);
                self.money.down[mint] = !self.money.down[mint] && self.rng.chance(60);
            }
            25..40 => self.backend.down = !self.backend.down && self.rng.chance(60),
            40..60 => {
                let n = self.backend.there.len();
                if n > 0 {
                    let lost = self.rng.below(n);
                    self.backend.there.remove(lost);
                }
            }
            60..70 => self
                .backend
                .there
                .iter_mut()
                .for_each(|(_, runs)| *runs = false),
            70..76 => {
                let mint = self.rng.below(MINTS);
                self.money.ppk[mint] = [0, 100, 100, 700][self.rng.below(4)];
                self.money.raised[mint] = true;
            }
            76..96 => {
                let by = i64::try_from(self.rng.within(1, 2_000)).unwrap_or(1);
                self.skew += if self.rng.chance(50) { by } else { -by };
            }
            _ => self.fund(5_000),
        }
    }

    /// The operator puts up to so much into each purse.
    pub(super) fn fund(&mut self, most: u64) {
        for mint in 0..MINTS {
            for piece in [1, 1_000] {
                let msat = self.rng.within(0, most) / piece * piece;
                self.money.fund(Purse { mint, piece }, msat);
            }
        }
    }

    fn some_time(&mut self) -> u64 {
        match self.rng.below(100) {
            0..60 => self.rng.within(1, 20),
            60..92 => self.rng.within(20, 400),
            _ => self.rng.within(400, 1_500),
        }
    }
}

impl World {
    /// Starts the process: what the wallet left open, then what an earlier run left
    /// undone, and what relays bring.
    pub(super) fn start(self: &Rc<Self>) {
        self.spawn(|world| async move {
            // A mint that is down is asked again at the next start.
            world.pause().await;
            world.with(State::take_back_orphans);
            world.pause().await;
            let (undone, unheard) = world.with(|s| {
                s.process.open = true;
                let inbox = &s.disk.inbox;
                let undone = inbox.iter().filter(|(_, done)| !done);
                let undone: Vec<_> = undone.map(|(msg, _)| msg.clone()).collect();
                let heard = |msg: &&Msg| inbox.iter().any(|(m, _)| m.rumor == msg.rumor);
                let unheard = s.consumer.sent.iter().filter(|msg| !heard(msg));
                (undone, unheard.cloned().collect::<Vec<_>>())
            });
            for msg in undone {
                world.spawn(|world| world.handle(msg));
            }
            for msg in unheard {
                world.spawn(|world| world.receive(msg));
            }
            world.spawn(World::sweep);
            world.spawn(World::upkeep);
            world.spawn(World::rounds);
        });
    }

    /// The process ends wherever it is, and another one starts some time later.
    pub(super) fn crash(self: &Rc<Self>) {
        self.kill();
        self.with(|s| {
            s.crashes += 1;
            // Some of what it had sent went with it.
            for n in (0..s.flying.len()).rev() {
                if s.rng.chance(50) {
                    s.flying.remove(n);
                }
            }
            if s.rng.chance(30) {
                let secs = s.some_time();
                s.pass(secs);
            }
        });
        self.start();
    }

    /// Something happens.
    pub(super) fn happens(self: &Rc<Self>) {
        match self.with(|s| s.rng.below(100)) {
            0..45 => self.asks(),
            45..60 => self.with(State::weather),
            _ => self.with(|s| {
                let secs = s.some_time();
                s.pass(secs);
            }),
        }
    }

    /// The consumer does something.
    pub(super) fn asks(self: &Rc<Self>) {
        let Some(msg) = self.with(State::next_message) else {
            return;
        };
        // A gift wrap of a message that is known is a message all the same.
        let heard = self.with(|s| {
            if !s.consumer.sent.iter().any(|known| known.rumor == msg.rumor) {
                s.consumer.sent.push(msg.clone());
            }
            s.process.open
        });
        if heard {
            self.spawn(|world| world.receive(msg));
        }
    }
}
