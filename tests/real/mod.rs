//! Tests that need a real part: root, a program of the host, a server.

mod images;
