//! Tests against the real things: kernels, engines, relays, mints.

mod conformance_sandbox;
mod programs;
mod sandbox;
