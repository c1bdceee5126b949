//! What tests of this binary share.

pub(crate) mod oci;
