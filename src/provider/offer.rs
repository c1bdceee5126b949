//! What is published: from the settings and what the host can do.

use super::ctx::{Ctx, active, promised};
use super::handlers::{lightning_terms, mint_terms};
use super::pool;
use super::settings::Settings;
use crate::compute::{Capabilities, Enforced};
use crate::core::capacity::Resources;
use crate::core::ids::{Name, PublicKey};
use crate::core::payment::lock::LockKey;
use crate::core::pricing::Tier;
use crate::ledger::{ENDED, LedgerError};
use crate::protocol::heartbeat::{AvailableCapacity, Heartbeat};
use crate::protocol::offer::{Extension, Gateway, Limits, Offer, Spec, TemplateTerms, TierTerms};
use crate::protocol::reply::MintTerms;
use crate::protocol::{DIALECT_NAME, MAX_REQUEST, kinds, paygress};

/// What an offer says beside the settings.
#[derive(Clone, Debug)]
pub struct OfferFacts {
    /// Our own key.
    pub provider: PublicKey,
    /// Name of the backend.
    pub backend: Name,
    /// What the backend can do on this host.
    pub capabilities: Capabilities,
    /// The gateway's port and host key, `ssh-ed25519 AAAA…`.
    pub gateway: (u16, String),
    /// The key that tokens may be locked to; `None`: not known here.
    pub lock_key: Option<LockKey>,
    /// The accepted mints and their fees.
    pub mints: Vec<MintTerms>,
    /// The sum of what is promised, and to how many leases.
    pub promised: (Resources, u32),
    /// Leases that ended well.
    pub completed: u64,
}

/// Limits of `gives` that this host cannot enforce.
pub fn not_enforced(gives: Resources, holds: Enforced) -> Vec<String> {
    [
        ("cpu", holds.cpu, gives.cpu_millicores),
        ("memory", holds.memory, gives.memory_mib),
        ("pids", holds.pids, gives.pids),
        ("disk", holds.disk, gives.disk_mib),
    ]
    .into_iter()
    .filter(|(_, holds, amount)| !holds && *amount > 0)
    .map(|(name, ..)| name.to_owned())
    .collect()
}

/// Tiers that are sold on a host with these limits, in the operator's order.
pub fn sold(settings: &Settings, holds: Enforced) -> impl Iterator<Item = &Tier> {
    settings.tiers.iter().filter(move |tier| {
        settings.sell_unenforced || not_enforced(tier.resources, holds).is_empty()
    })
}

/// The offer that these settings and facts make.
pub fn build(settings: &Settings, facts: &OfferFacts) -> Offer {
    let tiers: Vec<&Tier> = sold(settings, facts.capabilities.enforces).collect();
    Offer {
        provider_npub: facts.provider,
        hostname: settings.hostname.clone(),
        location: settings.location.clone(),
        capabilities: vec![facts.backend.to_string()],
        specs: tiers.iter().map(|tier| spec(tier)).collect(),
        // Who reads only this does not know of states, nor of locks.
        whitelisted_mints: facts
            .mints
            .iter()
            .filter(|mint| mint.sells(false))
            .map(|mint| mint.url.clone())
            .collect(),
        uptime_percent: 100.0,
        total_jobs_completed: facts.completed,
        api_endpoint: None,
        version: kinds::SCHEMA,
        isolation_level: facts.capabilities.isolation.clone(),
        satlet: Some(extension(settings, facts, &tiers)),
    }
}

fn spec(tier: &Tier) -> Spec {
    Spec {
        id: tier.id.to_string(),
        name: tier.name.clone(),
        description: tier.description.clone(),
        cpu_millicores: tier.resources.cpu_millicores.into(),
        memory_mb: tier.resources.memory_mib.into(),
        rate_msats_per_sec: tier.rate_msat_per_s,
    }
}

fn extension(settings: &Settings, facts: &OfferFacts, tiers: &[&Tier]) -> Extension {
    let (port, host_key) = facts.gateway.clone();
    let holds = facts.capabilities.enforces;
    let mut missing: Vec<String> = tiers
        .iter()
        .flat_map(|tier| not_enforced(tier.resources, holds))
        .collect();
    missing.sort();
    missing.dedup();
    let templates = settings.templates.iter().map(|template| TemplateTerms {
        id: template.id.clone(),
        description: template.description.clone(),
        image: template.image.clone(),
    });
    Extension {
        dialects: dialects(settings),
        gateway: Gateway {
            host: settings.gateway.public_host.clone(),
            port: settings.gateway.public_port.unwrap_or(port),
            host_key,
        },
        tiers: tiers
            .iter()
            .map(|tier| terms(settings, facts, tier))
            .collect(),
        templates: templates.collect(),
        images: settings.images.allow.clone(),
        mints: facts.mints.clone(),
        lock_key: facts.lock_key.clone(),
        pool: pool::terms(settings, tiers),
        lightning: lightning_terms(settings),
        relays: settings.relays.clone(),
        limits: Limits {
            max_request_bytes: MAX_REQUEST,
            requests_per_minute: settings.requests.per_key_per_minute,
            leases_per_key: settings.requests.leases_per_key,
            grace_seconds: settings.timing.grace.as_secs(),
            pow_bits: settings.requests.pow_bits,
            refund_keep_seconds: settings.refunds.keep.as_secs(),
        },
        not_enforced: missing,
        outgoing_network: facts.capabilities.outgoing_network,
    }
}

fn dialects(settings: &Settings) -> Vec<String> {
    let mut spoken = vec![DIALECT_NAME.to_owned()];
    if settings.paygress.is_some() {
        spoken.push(paygress::DIALECT_NAME.to_owned());
    }
    spoken
}

fn terms(settings: &Settings, facts: &OfferFacts, tier: &Tier) -> TierTerms {
    let (promised, leases) = facts.promised;
    TierTerms {
        id: tier.id.clone(),
        gives: tier.resources,
        rate_msat_per_s: tier.rate_msat_per_s,
        min_seconds: tier.min_seconds,
        max_seconds: tier.max_seconds,
        free_slots: settings
            .capacity
            .free_slots(promised, leases, tier.resources),
    }
}

/// MiB in a GB as heartbeats count it.
const MIB_PER_GB: u32 = 1024;

/// The offer of a running provider, as of now.
///
/// # Errors
/// The ledger cannot be read.
pub async fn current(ctx: &Ctx) -> Result<Offer, LedgerError> {
    let leases = ctx.ledger().held();
    let completed = ctx.ledger().read(|reader| reader.count(&ENDED))?;
    let access = &ctx.parts.access;
    let facts = OfferFacts {
        provider: ctx.me(),
        backend: ctx.parts.backend.name().clone(),
        capabilities: ctx.parts.backend.capabilities().clone(),
        gateway: (access.port, access.host_key.clone()),
        lock_key: Some(ctx.parts.wallet.lock_key()),
        mints: mint_terms(ctx).await,
        promised: promised(&leases),
        completed,
    };
    let settings = Settings {
        requests: (*ctx.policy()).clone(),
        tiers: ctx.tiers(),
        ..ctx.settings().clone()
    };
    Ok(build(&settings, &facts))
}

/// The heartbeat as of now.
pub fn heartbeat(ctx: &Ctx) -> Heartbeat {
    let leases = ctx.ledger().held();
    let (taken, _) = promised(&leases);
    let free = ctx.settings().capacity.total.saturating_sub(taken);
    Heartbeat {
        provider_npub: ctx.me(),
        timestamp: ctx.now(),
        active_workloads: active(&leases),
        available_capacity: AvailableCapacity {
            cpu_available: free.cpu_millicores.into(),
            memory_mb_available: free.memory_mib.into(),
            storage_gb_available: (free.disk_mib / MIB_PER_GB).into(),
        },
        version: kinds::SCHEMA,
    }
}
