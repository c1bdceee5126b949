//! consumer
pub mod ssh;
