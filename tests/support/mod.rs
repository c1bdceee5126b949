//! What several tests use.

pub(crate) mod local_backend;
pub(crate) mod local_gateway;
