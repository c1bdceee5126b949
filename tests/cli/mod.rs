//! The binaries, run as people run them.

mod enter;
mod rent;
mod satlet;
mod satletd;
