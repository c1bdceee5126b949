//! Tests against real parts: kernels, servers and clients that nobody here wrote.

mod conformance_sandbox;
mod daemon;
mod demo;
mod gateway;
mod images;
mod isolation;
mod network;
mod programs;
mod sandbox;
mod ssh_client;
