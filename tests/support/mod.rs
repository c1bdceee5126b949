//! What several tests need.

pub mod proxy;
