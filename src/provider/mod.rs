//! The daemon: one task a file, one request a file in `handlers/`.

pub mod settings;
