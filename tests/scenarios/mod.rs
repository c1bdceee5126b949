//! Whole stories over an in-process relay and mint.

mod wallet;
