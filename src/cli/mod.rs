//! Arguments and rendering of both binaries.

pub mod output;
#[cfg(feature = "consumer")]
pub mod satlet;
#[cfg(feature = "provider")]
pub mod satletd;
