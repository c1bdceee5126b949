//! What several tests need.

pub(crate) mod local_backend;
pub mod proxy;
