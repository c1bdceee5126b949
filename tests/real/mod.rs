//! Tests against real parts: kernels, servers and clients that nobody here wrote.

mod clients;
mod conformance_docker;
mod conformance_sandbox;
mod crash_matrix;
mod crash_payouts;
mod daemon;
mod demo;
mod docker;
mod gateway;
mod images;
mod isolation;
mod locks;
mod lost;
mod melts;
mod mints;
mod network;
mod old_client;
mod paygress;
mod programs;
mod rows;
mod sandbox;
mod ssh_client;
