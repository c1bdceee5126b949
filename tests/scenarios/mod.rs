//! Whole stories over an in-process relay and mint.

mod lease;
mod refusals;
mod relay;
mod wallet;
