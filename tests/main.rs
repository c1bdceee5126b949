//! Tests that need a binary of ours, a real server, or a host.

mod real;
mod support;
