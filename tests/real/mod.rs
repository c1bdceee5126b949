//! Tests against real parts: kernels, servers and clients that nobody here wrote.

mod conformance_sandbox;
mod gateway;
mod images;
mod programs;
mod sandbox;
mod ssh_client;
