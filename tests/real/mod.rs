//! Tests against real parts: kernels, servers and clients that nobody here wrote.

mod gateway;
