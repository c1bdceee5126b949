//! A network for each lease: a bridge of its own, with a /28 cut from the range
//! in the settings, behind the installation's wall (`compute::wall`).
//!
//! The engine's own address pools have room for some 30 networks; so the
//! subnets are chosen here. Docker's chain for rules of others (DOCKER-USER)
//! belongs to the operator; so the wall is a table of its own, which holds
//! before the engine's rules and without them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::names::Instance;
use crate::compute::BackendError;
use crate::compute::wall::{self, Wall};

/// Bits of a lease's subnet: an address for the bridge, one for the container,
/// and some that engines keep.
const SUBNET_BITS: u32 = 28;
/// The wall is not looked at again within this: twenty creates at once look once.
const FRESH: Duration = Duration::from_secs(1);

/// A range of private addresses that subnets are cut from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    base: Ipv4Addr,
    bits: u32,
}

impl Range {
    /// From `10.123.0.0/16`: private, of 12 to 24 bits, at its first address.
    pub fn parse(text: &str) -> Option<Self> {
        let (base, bits) = text.split_once('/')?;
        let (base, bits): (Ipv4Addr, u32) = (base.parse().ok()?, bits.parse().ok()?);
        let inside = u32::MAX.checked_shr(bits).unwrap_or(0);
        let good = (12..=24).contains(&bits) && base.is_private() && u32::from(base) & inside == 0;
        good.then_some(Self { base, bits })
    }

    /// How many leases fit.
    pub const fn count(self) -> u32 {
        1 << (SUBNET_BITS - self.bits)
    }

    fn subnet(self, slot: u32) -> Ipv4Addr {
        let stride = 1_u32 << (32 - SUBNET_BITS);
        Ipv4Addr::from(u32::from(self.base).wrapping_add(slot.wrapping_mul(stride)))
    }
}

impl Default for Range {
    /// Seldom used elsewhere; room for 4096 leases.
    fn default() -> Self {
        Self {
            base: Ipv4Addr::new(10, 123, 0, 0),
            bits: 16,
        }
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

/// The networks of this installation.
#[derive(Debug)]
pub(super) struct Networks {
    range: Range,
    wall: Wall,
    resolvers: Vec<Ipv4Addr>,
    taken: Mutex<BTreeSet<u32>>,
    /// When the wall was put up last, and the host's routes at that time.
    upheld: tokio::sync::Mutex<Option<(Instant, String)>>,
}

impl Networks {
    pub(super) fn new(
        instance: &Instance,
        range: Range,
        resolvers: Vec<Ipv4Addr>,
        root: &std::path::Path,
    ) -> Self {
        Self {
            wall: Wall {
                table: format!("satlet_{}", instance.as_str()),
                prefix: instance.prefix(),
                network: range.to_string(),
                resolvers: resolvers.clone(),
                lock: root.join("net.lock"),
            },
            range,
            resolvers,
            taken: Mutex::default(),
            upheld: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn resolvers(&self) -> &[Ipv4Addr] {
        &self.resolvers
    }

    /// Notes that a place is in use.
    pub(super) fn note(&self, slot: u32) {
        self.lock().insert(slot);
    }

    /// A place that is free, taken from now on, and its subnet.
    ///
    /// # Errors
    /// `NoCapacity`: the range is full, or in the way of the host's routes.
    pub(super) async fn take(&self) -> Result<(u32, String), BackendError> {
        let routes = self.stand().await?;
        let mut taken = self.lock();
        let free = (0..self.range.count())
            .filter(|slot| !taken.contains(slot))
            .find(|slot| !wall::clashes(self.range.subnet(*slot), SUBNET_BITS, &routes));
        let slot = free.ok_or_else(|| {
            BackendError::NoCapacity(format!(
                "no free subnet in {} (backend.subnets)",
                self.range
            ))
        })?;
        taken.insert(slot);
        Ok((slot, format!("{}/{SUBNET_BITS}", self.range.subnet(slot))))
    }

    /// Gives a place back. With the last one, the wall goes.
    pub(super) async fn give_back(&self, slot: u32) {
        self.lock().remove(&slot);
        let mut upheld = self.upheld.lock().await;
        if !self.lock().is_empty() {
            return;
        }
        *upheld = None;
        let wall = self.wall.clone();
        let down = tokio::task::spawn_blocking(move || {
            wall::locked(&wall, || wall::take_down_if_unused(&wall))
        });
        if let Ok(Err(error)) = down.await {
            tracing::warn!(%error, "the rules of the network could not be removed");
        }
    }

    /// Sees to it that the wall stands; the host's routes but our own.
    ///
    /// # Errors
    /// It does not: no workload may start.
    pub(super) async fn stand(&self) -> Result<String, BackendError> {
        let mut upheld = self.upheld.lock().await;
        if let Some((at, routes)) = &*upheld
            && at.elapsed() < FRESH
        {
            return Ok(routes.clone());
        }
        let wall = self.wall.clone();
        let put_up = tokio::task::spawn_blocking(move || {
            wall::locked(&wall, || wall::apply(&wall))?;
            wall::routes()
        });
        let routes = put_up
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
            .map_err(|error| BackendError::Retry(format!("the rules of the network: {error}")))?;
        let others = routes
            .lines()
            .filter(|line| !line.contains(&self.wall.prefix));
        let others: String = others.flat_map(|line| [line, "\n"]).collect();
        *upheld = Some((Instant::now(), others.clone()));
        Ok(others)
    }

    /// Puts the wall back where it is needed and was taken away.
    ///
    /// # Errors
    /// It could not be put back.
    pub(super) async fn uphold(&self) -> Result<(), BackendError> {
        if self.lock().is_empty() {
            return Ok(());
        }
        self.stand().await.map(drop)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<u32>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the host has this bridge: only then the wall is around it.
pub(super) fn is_here(bridge: &str) -> bool {
    std::path::Path::new("/sys/class/net").join(bridge).exists()
}
