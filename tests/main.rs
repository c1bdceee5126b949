//! All tests that need a binary, a server, root or the source tree, in one
//! binary that links once. Units live beside the code.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a test that meets something else than it wants ends there"
)]

#[macro_use]
mod support;

mod cli;
mod docs;
mod layering;
mod money;
#[path = "../examples/money_sim/mod.rs"]
mod money_sim;
mod real;
mod scenarios;
mod vectors;
