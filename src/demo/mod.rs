//! demo

pub mod relay;
