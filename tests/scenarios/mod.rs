//! Whole stories over real parts.

pub(crate) mod consumer;
mod relay;
mod wallet;
