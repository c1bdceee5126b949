//! Whole stories over an in-process relay and mint.

mod answers;
pub mod consumer;
mod crash;
mod fiat;
mod holds;
mod lease;
mod lightning;
mod load;
mod locked_refunds;
mod locks;
pub mod lost;
mod mints;
mod opening;
mod paygress;
mod payouts;
mod pool;
mod receipt;
mod refunds;
mod refusals;
mod relay;
mod renter;
mod thousand;
mod together;
mod twice;
mod wallet;
