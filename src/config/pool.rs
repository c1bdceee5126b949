//! What is given away.

use std::time::Duration;

use super::reader::{Node, Object};
use crate::core::money::Msat;
use crate::core::pool::Terms;
use crate::provider::settings::POOL;

const DAY: Duration = Duration::from_secs(86_400);

/// A million bitcoin: no limit, and no number that does not fit.
const MAX_SAT: u64 = 100_000_000_000_000;

pub(super) fn pool(mut object: Object<'_>) -> Option<Terms> {
    let share_percent =
        object.optional("share_percent", POOL.share_percent, |n| n.integer(0..=100));
    let max_seconds = object.optional("max", POOL.max_seconds, |n| {
        seconds(n, Duration::from_secs(1)..=DAY)
    });
    let per_key = object.optional("per_key_sat", POOL.per_key, sat);
    let period = object.optional("period", POOL.period, |n| seconds(n, DAY..=DAY * 3650));
    let per_day = object.optional("per_day_sat", POOL.per_day, sat);
    let new_per_day = object.optional("new_per_day_sat", POOL.new_per_day, sat);
    let known_per_day = object.optional("known_per_day_sat", POOL.known_per_day, sat);
    let regular_per_day = object.optional("regular_per_day_sat", POOL.regular_per_day, sat);
    let half_life = object.optional("half_life", POOL.half_life, |n| {
        seconds(n, DAY..=DAY * 3650)
    });
    object.finish();
    Some(Terms {
        share_percent: share_percent?,
        max_seconds: max_seconds?,
        per_key: per_key?,
        period: period?,
        per_day: per_day?,
        new_per_day: new_per_day?,
        known_per_day: known_per_day?,
        regular_per_day: regular_per_day?,
        half_life: half_life?,
    })
}

fn seconds(node: &Node<'_>, range: std::ops::RangeInclusive<Duration>) -> Option<u64> {
    node.duration(range).map(|time| time.as_secs())
}

fn sat(node: &Node<'_>) -> Option<Msat> {
    Msat::from_sat(node.integer(0..=MAX_SAT)?)
}
