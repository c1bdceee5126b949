//! The binaries, run as people run them.

mod elder;
mod enter;
mod gift;
mod killed;
mod lightning;
mod rent;
mod satlet;
mod satletd;
