//! Who may connect now: counts by address, in bounded memory.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::GatewayLimits;

const MINUTE: Duration = Duration::from_secs(60);

/// Between two looks for addresses that can be forgotten.
const SWEEP: Duration = Duration::from_secs(1);

/// Addresses remembered at once; with more, new ones wait for a place.
const MAX_ADDRESSES: usize = 65_536;

/// Counts connections; see [`GatewayLimits`].
#[derive(Clone)]
pub(super) struct Gate(Arc<Mutex<Counts>>);

struct Counts {
    limits: GatewayLimits,
    open: usize,
    addresses: HashMap<IpAddr, Address>,
    /// When addresses were last forgotten.
    swept: Option<Instant>,
}

struct Address {
    open: usize,
    minute: Instant,
    connects: u32,
    wrong: u32,
}

impl Address {
    fn new(now: Instant) -> Self {
        Self {
            open: 0,
            minute: now,
            connects: 0,
            wrong: 0,
        }
    }

    /// Begins to count anew where a minute is over.
    fn turn(&mut self, now: Instant) {
        if now.duration_since(self.minute) >= MINUTE {
            self.minute = now;
            self.connects = 0;
            self.wrong = 0;
        }
    }
}

/// Why a connection is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// `max_connections`.
    All,
    /// `max_connections_per_address`.
    Address,
    /// `connects_per_minute`.
    Rate,
}

/// A place that is taken until this is dropped.
pub(super) struct Place {
    gate: Gate,
    address: IpAddr,
}

impl Gate {
    pub(super) fn new(limits: GatewayLimits) -> Self {
        Self(Arc::new(Mutex::new(Counts {
            limits,
            open: 0,
            addresses: HashMap::new(),
            swept: None,
        })))
    }

    /// Takes a place for a connection from `ip` at `now`.
    pub(super) fn enter(&self, ip: IpAddr, now: Instant) -> Result<Place, Full> {
        let address = network(ip);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.enter(address, now)?;
        Ok(Place {
            gate: self.clone(),
            address,
        })
    }

    /// Whether a password from `ip` is looked at now.
    pub(super) fn may_guess(&self, ip: IpAddr, now: Instant) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let most = counts.limits.passwords_per_minute;
        counts
            .addresses
            .get_mut(&network(ip))
            .is_none_or(|address| {
                address.turn(now);
                address.wrong < most
            })
    }

    /// Counts a wrong password from `ip`, which has a connection open.
    pub(super) fn guessed_wrong(&self, ip: IpAddr, now: Instant) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(address) = counts.addresses.get_mut(&network(ip)) {
            address.turn(now);
            address.wrong = address.wrong.saturating_add(1);
        }
    }
}

impl Counts {
    fn enter(&mut self, key: IpAddr, now: Instant) -> Result<(), Full> {
        if self.addresses.len() >= MAX_ADDRESSES && !self.addresses.contains_key(&key) {
            // Once a second: whoever has many addresses must not make each
            // connection cost a look at all of them.
            if self.swept.is_none_or(|at| now.duration_since(at) >= SWEEP) {
                self.swept = Some(now);
                self.addresses
                    .retain(|_, a| a.open > 0 || now.duration_since(a.minute) < MINUTE);
            }
            if self.addresses.len() >= MAX_ADDRESSES {
                return Err(Full::All);
            }
        }
        let address = self.addresses.entry(key).or_insert(Address::new(now));
        address.turn(now);
        if address.connects >= self.limits.connects_per_minute {
            return Err(Full::Rate);
        }
        address.connects += 1;
        if address.open >= self.limits.max_connections_per_address {
            return Err(Full::Address);
        }
        if self.open >= self.limits.max_connections {
            return Err(Full::All);
        }
        address.open += 1;
        self.open += 1;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.gate.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.open = counts.open.saturating_sub(1);
        if let Some(address) = counts.addresses.get_mut(&self.address) {
            address.open = address.open.saturating_sub(1);
        }
    }
}

/// What counts as one address: an IPv4 address, or an IPv6 /64, which is what
/// one customer usually has.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => {
            let bits = v6.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(bits.into())
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}
