//! What every part of the provider has at hand.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use nostr_sdk::Keys;
use tokio::sync::{Notify, Semaphore};

use super::actors::Actors;
use super::admission::Admission;
use super::clock::Clock;
use super::lanes::Lanes;
use super::mints::Mints;
use super::offer;
use super::opening::Opening;
use super::paygress::ports::HeldPorts;
use super::payouts::Payouts;
use super::rates::Rates;
use super::settings::{RequestPolicy, Settings};
use super::solvency::Shortfalls;
use super::strays::Sends;
use crate::compute::SharedBackend;
use crate::core::capacity::Resources;
use crate::core::ids::{LeaseId, PublicKey};
use crate::core::lease::{Lease, Pace, Phase};
use crate::core::pricing::Tier;
use crate::core::time::Timestamp;
use crate::gateway::Ports;
use crate::ledger::{Held, Ledger};
use crate::protocol::reply::Access;
use crate::relay::convert::key_from;
use crate::wallet::Wallet;

/// The parts that a provider is made of.
pub struct Parts {
    /// What the operator decided.
    pub settings: Settings,
    /// The durable record.
    pub ledger: Ledger,
    /// Ecash.
    pub wallet: Arc<dyn Wallet>,
    /// What runs workloads.
    pub backend: SharedBackend,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Our own key, secret half too.
    pub keys: Keys,
    /// The gateway, with an empty user name.
    pub access: Access,
    /// The gateway's ports for single leases.
    pub ports: Option<Arc<dyn Ports>>,
}

/// The provider's parts, and what they share.
pub struct Ctx {
    /// What it is made of.
    pub parts: Parts,
    /// Rung when a message was put into the outbox.
    pub outbox: Notify,
    /// Rung when the offer may have changed: capacity was taken or freed.
    pub changed: Notify,
    /// Rung with the id of a lease that lets nobody in any more.
    pub closed: tokio::sync::broadcast::Sender<LeaseId>,
    /// One task for each lease.
    pub actors: Actors,
    /// Ports that are about to be a lease's.
    pub(super) held_ports: HeldPorts,
    /// Who is listened to.
    pub admission: Admission,
    /// Queues before the mints.
    pub(super) lanes: Lanes,
    /// Tokens that are being made.
    pub(super) sends: Arc<Sends>,
    /// Payouts that are to be sent.
    pub(super) payouts: Payouts,
    /// How far a start has come.
    pub opening: Opening,
    /// How the mints are.
    pub mints: Mints,
    /// Purses that hold too little.
    pub shortfalls: Shortfalls,
    /// For each mint: the place of the one that merges proofs or sends some.
    pub(super) purses: BTreeMap<String, Semaphore>,
    /// Workloads that may be made at once.
    pub(super) creates: Semaphore,
    /// What the inbox asks of gift wraps (NIP-13).
    pub pow_bits: Arc<AtomicU8>,
    /// What a bitcoin costs.
    pub rates: Rates,
    /// What of the settings may change while the daemon runs.
    policy: RwLock<Arc<RequestPolicy>>,
    me: PublicKey,
}

impl Ctx {
    /// A provider made of these parts; nothing runs yet.
    pub fn new(parts: Parts) -> Arc<Self> {
        let settings = &parts.settings;
        let policy = settings.requests.clone();
        Arc::new(Self {
            admission: Admission::new(&policy),
            lanes: Lanes::new(settings),
            opening: Opening::default(),
            mints: Mints::new(settings, parts.clock.now()),
            shortfalls: Shortfalls::default(),
            sends: Arc::default(),
            payouts: Payouts::default(),
            purses: settings
                .mints
                .iter()
                .map(|mint| (mint.url.clone(), Semaphore::new(1)))
                .collect(),
            creates: Semaphore::new(settings.creates.max(1)),
            pow_bits: Arc::new(AtomicU8::new(policy.pow_bits)),
            me: key_from(&parts.keys.public_key()),
            policy: RwLock::new(Arc::new(policy)),
            parts,
            outbox: Notify::new(),
            changed: Notify::new(),
            closed: tokio::sync::broadcast::Sender::new(64),
            actors: Actors::default(),
            held_ports: HeldPorts::default(),
            rates: Rates::default(),
        })
    }

    /// Our public key.
    pub fn me(&self) -> PublicKey {
        self.me
    }

    /// The wall clock.
    pub fn now(&self) -> Timestamp {
        self.parts.clock.now()
    }

    /// The operator's settings, as they were at the start. Those of
    /// [`policy`](Self::policy) may have changed since.
    pub fn settings(&self) -> &Settings {
        &self.parts.settings
    }

    /// The ledger.
    pub fn ledger(&self) -> &Ledger {
        &self.parts.ledger
    }

    /// Who may ask and how often, as of now.
    pub fn policy(&self) -> Arc<RequestPolicy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Another policy from now on; the offer follows.
    pub fn set_policy(&self, policy: RequestPolicy) {
        self.admission.set(&policy);
        self.pow_bits.store(policy.pow_bits, Ordering::Relaxed);
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
        self.changed.notify_one();
    }

    /// How fast leases go.
    pub fn pace(&self) -> Pace {
        let timing = &self.settings().timing;
        Pace {
            warnings: timing
                .warnings
                .iter()
                .map(std::time::Duration::as_secs)
                .collect(),
            look_every: timing.look.as_secs().max(1),
            patience: timing.grace.max(timing.stop_grace).as_secs().max(60),
        }
    }

    /// Where to get into `lease`, while that is possible.
    pub fn access(&self, lease: &Lease) -> Option<Access> {
        let open = lease.is_open(self.now());
        open.then(|| Access {
            user: lease.id.to_string(),
            ..self.parts.access.clone()
        })
    }

    /// Limits of a tier that this host cannot enforce.
    pub fn not_enforced(&self, tier: &Tier) -> Vec<String> {
        offer::not_enforced(tier.resources, self.parts.backend.capabilities().enforces)
    }

    /// Tiers that are sold on this host, in the operator's order, at their prices
    /// as of now; without those whose price cannot be told.
    pub fn tiers(&self) -> Vec<Tier> {
        let sold = self.unpriced_tiers();
        sold.filter_map(|tier| self.priced(tier)).collect()
    }

    /// The same, with all that have a price at other times.
    pub(super) fn unpriced_tiers(&self) -> impl Iterator<Item = &Tier> {
        offer::sold(self.settings(), self.parts.backend.capabilities().enforces)
    }

    /// A tier at its price as of now, if that can be told.
    pub(super) fn priced(&self, tier: &Tier) -> Option<Tier> {
        self.rates.priced(&self.settings().fiat, tier, self.now())
    }
}

/// Whether a lease's room is still taken.
pub fn holds(held: &Held) -> bool {
    !matches!(held.phase, Phase::Ended { .. })
}

/// What is promised: the sum over all leases that hold room, and their number.
pub fn promised(leases: &[Held]) -> (Resources, u32) {
    let holding = leases.iter().filter(|held| holds(held));
    holding.fold((Resources::default(), 0), |(sum, n), held| {
        let more = sum.checked_add(held.resources);
        let full = Resources {
            cpu_millicores: u32::MAX,
            memory_mib: u32::MAX,
            disk_mib: u32::MAX,
            pids: u32::MAX,
        };
        (more.unwrap_or(full), n + 1)
    })
}

/// Workloads that are there or about to be.
pub fn active(leases: &[Held]) -> u64 {
    let counts = |held: &&Held| matches!(held.phase, Phase::Active | Phase::Expiring);
    leases.iter().filter(counts).count() as u64
}
