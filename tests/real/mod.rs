//! Tests against real parts: kernels, servers and clients that nobody here wrote.

mod conformance_docker;
mod conformance_sandbox;
mod daemon;
mod demo;
mod docker;
mod gateway;
mod images;
mod isolation;
mod programs;
mod sandbox;
mod ssh_client;
