//! Tests against real parts: kernels, servers and clients that nobody here wrote.

mod gateway;
mod ssh_client;
mod images;
