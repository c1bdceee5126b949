//! What is published: the offer and the heartbeat, from settings and ledger.

use super::ctx::{Ctx, active, open_leases, promised};
use super::handlers::mint_terms;
use crate::core::pricing::Tier;
use crate::ledger::{ENDED, LedgerError};
use crate::protocol::heartbeat::{AvailableCapacity, Heartbeat};
use crate::protocol::offer::{Extension, Gateway, Limits, Offer, Spec, TemplateTerms, TierTerms};
use crate::protocol::{DIALECT_NAME, MAX_REQUEST, kinds};

/// MiB in a GB as offers count it.
const MIB_PER_GB: u32 = 1024;

/// The offer as of now.
///
/// # Errors
/// The ledger cannot be read.
pub async fn offer(ctx: &Ctx) -> Result<Offer, LedgerError> {
    let (leases, ended) = ctx
        .ledger()
        .read(|reader| Ok((open_leases(reader)?, reader.count(&ENDED)?)))?;
    let (taken, count) = promised(&leases);
    let settings = ctx.settings();
    let can = ctx.parts.backend.capabilities();
    let terms = |tier: &Tier| TierTerms {
        id: tier.id.clone(),
        gives: tier.resources,
        rate_msat_per_s: tier.rate_msat_per_s,
        min_seconds: tier.min_seconds,
        max_seconds: tier.max_seconds,
        free_slots: settings.capacity.free_slots(taken, count, tier.resources),
    };
    let mut not_enforced: Vec<_> = ctx
        .tiers()
        .flat_map(|tier| ctx.not_enforced(tier))
        .collect();
    not_enforced.sort();
    not_enforced.dedup();
    let access = &ctx.parts.access;
    Ok(Offer {
        provider_npub: ctx.parts.me,
        hostname: settings.hostname.clone(),
        location: settings.location.clone(),
        capabilities: vec![ctx.parts.backend.name().to_string()],
        specs: ctx.tiers().map(spec).collect(),
        whitelisted_mints: settings.mints.iter().map(|mint| mint.url.clone()).collect(),
        uptime_percent: 100.0,
        total_jobs_completed: ended,
        api_endpoint: None,
        version: kinds::SCHEMA,
        isolation_level: can.isolation.clone(),
        satlet: Some(Extension {
            dialects: vec![DIALECT_NAME.to_owned()],
            gateway: Gateway {
                host: access.host.clone(),
                port: access.port,
                host_key: access.host_key.clone(),
            },
            tiers: ctx.tiers().map(terms).collect(),
            templates: settings
                .templates
                .iter()
                .map(|template| TemplateTerms {
                    id: template.id.clone(),
                    description: template.description.clone(),
                    image: template.image.clone(),
                })
                .collect(),
            images: settings.images.allow.clone(),
            mints: mint_terms(ctx).await,
            relays: settings.relays.clone(),
            limits: Limits {
                max_request_bytes: MAX_REQUEST,
                requests_per_minute: settings.requests.per_key_per_minute,
                leases_per_key: settings.requests.leases_per_key,
                grace_seconds: settings.timing.grace.as_secs(),
            },
            not_enforced,
            outgoing_network: can.outgoing_network,
        }),
    })
}

fn spec(tier: &Tier) -> Spec {
    Spec {
        id: tier.id.to_string(),
        name: tier.name.clone(),
        description: tier.description.clone(),
        cpu_millicores: u64::from(tier.resources.cpu_millicores),
        memory_mb: u64::from(tier.resources.memory_mib),
        rate_msats_per_sec: tier.rate_msat_per_s,
    }
}

/// The heartbeat as of now.
///
/// # Errors
/// The ledger cannot be read.
pub fn heartbeat(ctx: &Ctx) -> Result<Heartbeat, LedgerError> {
    let leases = ctx.ledger().read(open_leases)?;
    let (taken, _) = promised(&leases);
    let free = ctx.settings().capacity.total.saturating_sub(taken);
    Ok(Heartbeat {
        provider_npub: ctx.parts.me,
        timestamp: ctx.now(),
        active_workloads: active(&leases),
        available_capacity: AvailableCapacity {
            cpu_available: u64::from(free.cpu_millicores),
            memory_mb_available: u64::from(free.memory_mib),
            storage_gb_available: u64::from(free.disk_mib / MIB_PER_GB),
        },
        version: kinds::SCHEMA,
    })
}
