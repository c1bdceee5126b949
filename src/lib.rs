//! satlet ("to let, for sats"): rent out a Linux box by the second, over Nostr,
//! paid in Cashu ecash.
//!
//! Read in this order:
//!
//! * [`core`]: decisions, pure.
//! * [`protocol`]: what goes over Nostr.
//! * [`ledger`], [`relay`], [`wallet`], [`compute`], [`gateway`]: the rim, a
//!   side effect each.
//! * [`provider`] and [`consumer`]: the two sides of a lease, made of the above.
//! * [`config`], [`doctor`], [`telemetry`], [`cli`]: what operators and users touch.
//! * [`demo`]: both sides, a relay and a mint in one process.
//!
//! Arrows point one way: `core <- protocol <- {ledger, relay, wallet, compute,
//! gateway} <- {provider, consumer} <- cli <- bin`; `tests/layering.rs` checks it.
//! `docs/ARCHITECTURE.md` says why.

pub mod cli;
#[cfg(feature = "provider")]
pub mod compute;
#[cfg(feature = "provider")]
pub mod config;
#[cfg(feature = "consumer")]
pub mod consumer;
pub mod core;
#[cfg(feature = "demo")]
pub mod demo;
#[cfg(feature = "provider")]
pub mod doctor;
#[cfg(feature = "provider")]
pub mod gateway;
#[cfg(feature = "provider")]
pub mod ledger;
pub mod protocol;
#[cfg(feature = "provider")]
pub mod provider;
pub mod relay;
pub mod telemetry;
pub mod wallet;
