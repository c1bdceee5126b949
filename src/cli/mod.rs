//! Arguments and rendering of both binaries.

pub mod output;
#[cfg(feature = "consumer")]
pub mod satlet;
