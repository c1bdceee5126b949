//! Who may ask, how often, and for what.

pub mod images;
pub mod rate;
