//! The binaries, run as people run them.

mod enter;
mod satlet;
mod satletd;
