//! The daemon: one task a file, one request a file in `handlers/`.
//!
//! A message comes from the inbox, stored. [`dispatch`] handles it once; what
//! takes time is written down and done by the lease's own task ([`actors`],
//! [`steps`]); [`answers`] go into the outbox in the commit that they announce.

pub mod actors;
pub mod admission;
pub mod answers;
pub mod backend;
pub mod clock;
pub mod control;
pub mod ctx;
pub mod daemon;
pub mod dispatch;
pub mod doors;
mod handlers;
mod lanes;
pub mod lost;
pub mod merges;
pub mod mints;
pub mod offer;
pub mod opening;
pub mod paygress;
pub mod payouts;
mod pool;
pub mod queries;
pub mod rates;
mod receipts;
pub mod refunds;
mod refuse;
pub mod settings;
pub mod solvency;
mod steps;
pub mod stores;
pub mod strays;
pub mod supervise;
pub mod upkeep;
mod validate;
