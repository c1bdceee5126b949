//! Whole stories over real parts.

mod consumer;
mod relay;
mod wallet;
