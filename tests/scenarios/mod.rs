//! Whole stories over real parts.

mod wallet;
