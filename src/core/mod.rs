//! Decisions. Nothing in here does I/O, reads a clock, draws a random number,
//! logs or awaits: every function is data in, data out, so that a test can put
//! any history through it. `tests/layering.rs` keeps it that way.

pub mod capacity;
pub mod fiat;
pub mod ids;
pub mod lease;
pub mod mint;
pub mod money;
pub mod payment;
pub mod payout;
pub mod policy;
pub mod pool;
pub mod pricing;
pub mod purse;
pub mod receipt;
pub mod text;
pub mod time;
