//! Tests against real parts: kernels, servers and clients that nobody here wrote.

mod gateway;
mod images;
mod conformance_sandbox;
mod programs;
mod sandbox;
mod ssh_client;
