//! The binaries, run as people run them.

mod satlet;
mod satletd;
