//! The binaries, run as people run them.

mod elder;
mod enter;
mod gift;
mod rent;
mod satlet;
mod satletd;
