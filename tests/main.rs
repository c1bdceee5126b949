//! The one integration binary: what needs binaries, real servers or real processes.

mod real;
mod support;
