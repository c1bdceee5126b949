//! The daemon: one task a file, one request a file in `handlers/`.

pub mod backend;
pub mod control;
pub mod offer;
pub mod settings;
