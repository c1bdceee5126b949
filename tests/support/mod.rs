//! What tests are made of.

pub(crate) mod host;
pub(crate) mod lan;
pub(crate) mod outside;
