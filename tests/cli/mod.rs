//! The binaries, run as people run them.

mod satletd;
