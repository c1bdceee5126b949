//! Both sides of a lease, a relay and a mint in one process: `satlet demo` and
//! what integration tests run against.

pub mod mint;
