//! What several tests use.

pub(crate) mod local_backend;
