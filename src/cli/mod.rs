//! Arguments and rendering of both binaries.

#[cfg(feature = "provider")]
pub mod satletd;
