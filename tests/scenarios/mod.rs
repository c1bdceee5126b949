//! Whole stories over an in-process relay and mint.

mod answers;
pub mod consumer;
mod crash;
mod lease;
mod load;
mod paygress;
mod refusals;
mod relay;
mod renter;
mod twice;
mod wallet;
