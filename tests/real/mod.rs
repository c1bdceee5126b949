//! Tests against real parts: kernels, servers and clients that nobody here wrote.

mod clients;
mod conformance_docker;
mod conformance_sandbox;
mod crash_matrix;
mod daemon;
mod demo;
mod docker;
mod gateway;
mod images;
mod isolation;
mod locks;
mod mints;
mod network;
mod old_client;
mod paygress;
mod programs;
mod sandbox;
mod ssh_client;
