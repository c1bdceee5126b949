//! Whole stories over an in-process relay and mint.

mod answers;
pub mod consumer;
mod crash;
mod fiat;
mod lease;
mod load;
mod locks;
mod mints;
mod paygress;
mod receipt;
mod refunds;
mod refusals;
mod relay;
mod renter;
mod thousand;
mod twice;
mod wallet;
