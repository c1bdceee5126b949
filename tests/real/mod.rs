//! Tests against real parts: kernels, servers and clients that nobody here wrote.

mod gateway;
mod images;
mod sandbox;
mod ssh_client;
