//! The binaries, run as people run them.

mod elder;
mod enter;
mod rent;
mod satlet;
mod satletd;
