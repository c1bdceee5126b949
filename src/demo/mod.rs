//! Both sides of a lease, a relay and a mint in one process.

pub mod mint;
pub mod relay;
