//! Whole stories over an in-process relay and mint.

mod relay;
mod wallet;
