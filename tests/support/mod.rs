//! What several tests need.

pub(crate) mod local_backend;
pub(crate) mod local_gateway;
pub mod proxy;
