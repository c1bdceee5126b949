//! Whole stories over an in-process relay and mint.

mod answers;
pub mod consumer;
mod crash;
mod fiat;
mod holds;
mod lease;
mod load;
mod locked_refunds;
mod locks;
mod paygress;
mod receipt;
mod refunds;
mod refusals;
mod relay;
mod renter;
mod together;
mod twice;
mod wallet;
