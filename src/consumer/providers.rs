//! Providers by name: from what people type to one offer.

use serde::Serialize;

use super::error::{ClientError, Kind};
use super::home::npub;
use super::paygress::LACKS;
use super::post::Found;
use crate::core::ids::PublicKey;
use crate::core::time::Timestamp;
use crate::protocol::DIALECT_NAME;
use crate::protocol::heartbeat::ONLINE_SECS;
use crate::protocol::offer::Offer;
use crate::protocol::paygress::DIALECT_NAME as OLDER;
use crate::relay::publisher::MAX_DM_RELAYS;

/// A provider, as its offer says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Provider {
    /// Its key.
    pub key: PublicKey,
    /// Its key as `npub1…`.
    pub npub: String,
    /// Whether its newest heartbeat is young enough.
    pub online: bool,
    /// Time of its newest heartbeat.
    pub last_heartbeat: Option<Timestamp>,
    /// When the offer was published.
    pub published_at: Timestamp,
    /// Its offer.
    pub offer: Offer,
}

impl Provider {
    /// Reads what was found, as of `now`.
    pub fn new(found: Found, now: Timestamp) -> Self {
        let key = found.offer.provider_npub;
        let last = found.heartbeat.map(|beat| beat.timestamp);
        Self {
            key,
            npub: npub(&key),
            online: last.is_some_and(|at| is_fresh(at, now)),
            last_heartbeat: last,
            published_at: found.published_at,
            offer: found.offer,
        }
    }

    /// Whether it understands our requests.
    pub fn speaks_satlet(&self) -> bool {
        self.offer
            .satlet
            .as_ref()
            .is_some_and(|more| more.dialects.iter().any(|name| name == DIALECT_NAME))
    }

    /// Whether it understands the older dialect's requests: it says so, or its
    /// offer names no dialects at all.
    pub fn speaks_paygress(&self) -> bool {
        let satlet = self.offer.satlet.as_ref();
        satlet.is_none_or(|more| more.dialects.iter().any(|name| name == OLDER))
    }

    /// The dialect that we would rent in: ours where it is spoken.
    pub fn dialect(&self) -> Option<&'static str> {
        match (self.speaks_satlet(), self.speaks_paygress()) {
            (true, _) => Some(DIALECT_NAME),
            (false, true) => Some(OLDER),
            (false, false) => None,
        }
    }

    /// What the dialect that we would rent in lacks, for people.
    pub fn lacks(&self) -> &'static [&'static str] {
        if self.dialect() == Some(OLDER) {
            &LACKS
        } else {
            &[]
        }
    }

    /// Where it reads requests; the first few, whatever it says.
    pub fn relays(&self) -> Vec<String> {
        self.offer
            .satlet
            .as_ref()
            .map(|more| more.relays.iter().take(MAX_DM_RELAYS).cloned().collect())
            .unwrap_or_default()
    }

    /// Price of its first tier in msat per second.
    pub fn first_rate(&self) -> Option<u64> {
        self.offer.specs.first().map(|spec| spec.rate_msats_per_sec)
    }

    fn is_exactly(&self, query: &str) -> bool {
        self.key.to_hex() == query
            || self.npub == query
            || self.offer.hostname.to_lowercase() == query
    }

    fn begins_with(&self, query: &str) -> bool {
        self.key.to_hex().starts_with(query)
            || self.npub.starts_with(query)
            || self.offer.hostname.to_lowercase().starts_with(query)
    }
}

/// Whether a heartbeat of then says that a provider is there now. One from the
/// future says nothing: clocks differ by less.
fn is_fresh(at: Timestamp, now: Timestamp) -> bool {
    now.secs_since(at) < ONLINE_SECS && at.secs_since(now) < ONLINE_SECS
}

/// Online ones first, those with our dialect before those with the older one,
/// then by price.
pub fn sort(providers: &mut [Provider]) {
    providers.sort_by_key(|provider| {
        (
            !provider.online,
            !provider.speaks_satlet(),
            provider.first_rate().unwrap_or(u64::MAX),
            provider.key,
        )
    });
}

/// The one provider that `query` names: its name, npub or hex key, or an
/// unambiguous beginning of one of these. Case does not matter.
///
/// # Errors
/// None fits, or several do: a name is not unique, and the first who takes it
/// has no right to it.
pub fn find<'a>(providers: &'a [Provider], query: &str) -> Result<&'a Provider, ClientError> {
    let query = query.trim().to_lowercase();
    if query.is_empty() {
        return Err(ClientError::usage(
            "no_provider",
            "no provider was named",
            "See satlet list.",
        ));
    }
    let exact: Vec<&Provider> = providers.iter().filter(|p| p.is_exactly(&query)).collect();
    let fit = if exact.is_empty() {
        providers.iter().filter(|p| p.begins_with(&query)).collect()
    } else {
        exact
    };
    match fit.as_slice() {
        [one] => Ok(one),
        [] => Err(ClientError::new(
            Kind::NotFound,
            "provider_not_found",
            format!("no offer of a provider '{query}' was found"),
            "See satlet list, or ask other relays with --relay.",
        )),
        several => Err(ClientError::new(
            Kind::NotFound,
            "provider_ambiguous",
            format!("'{query}' fits several providers: {}", candidates(several)),
            "Type more of the name or the npub.",
        )),
    }
}

fn candidates(several: &[&Provider]) -> String {
    let shown = 8;
    let mut names: Vec<String> = several
        .iter()
        .take(shown)
        .map(|p| format!("{} ({})", p.offer.hostname, p.npub))
        .collect();
    if several.len() > shown {
        names.push(format!("and {} more", several.len() - shown));
    }
    names.join(", ")
}
