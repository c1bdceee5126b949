//! Who may ask, how often, for what.

pub mod rate;
