//! Tests against the real things: kernels, engines, relays, mints.

mod sandbox;
