//! The consumer's side of a lease: what the CLI, the demo and other front ends
//! are made of. [`Client`] is the way in.
//!
//! The rule of this module: **what costs money is written down before it is
//! sent, and asked for again with the same request id and body until its answer
//! is there.** A token is always in one of these places: in a request that is
//! still open (and asked for again), with the provider that took it (and owes a
//! lease or a refund), back in our wallet, or back with the user who pasted it.
//!
//! * [`home`]: settings, keys; [`files`] writes whole or not at all.
//! * [`records`]: requests, refunds, leases.
//! * [`providers`]: from a name to an offer.
//! * [`post`], [`relay_post`], `mailbox`: messages out and in.
//! * `choice`: which mint pays. `locked`: tokens that only the provider can
//!   spend for a while. `refund_keys`: keys that refunds are locked to. [`purse`]: taking tokens back, receiving refunds.
//! * [`money`], [`settle`]: spawn, top-up, stop; and what earlier ones left.
//! * `invoice`: what is paid by Lightning.
//! * [`together`]: one purchase from several providers, all or none.
//! * [`history`]: what became of every token.
//! * [`receipts`]: what a lease cost, signed by its provider.
//! * [`paygress`]: the same with providers that speak only the older dialect.
//! * [`ssh`]: the built-in SSH client.

mod choice;
pub mod client;
pub mod error;
pub mod files;
mod gift;
pub mod history;
pub mod home;
mod invoice;
mod locked;
mod mailbox;
pub mod money;
pub mod paygress;
pub mod post;
pub mod providers;
pub mod purse;
pub mod reads;
pub mod receipts;
pub mod records;
mod refund_keys;
pub mod relay_post;
pub mod settle;
pub mod ssh;
pub mod together;

#[cfg(test)]
mod tests;

pub use client::{Client, ClientOptions, Progress, quiet};
pub use error::{ClientError, Kind};
pub use money::{Pay, SpawnOptions, Spawned};
