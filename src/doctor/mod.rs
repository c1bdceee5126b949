//! Is this host fit to be a provider, and as it is configured? Three steps:
//! facts are gathered ([`facts`], I/O, each look bounded in time), findings
//! follow from them ([`findings`], pure), and each finding carries its fix.

pub mod facts;
pub mod findings;
mod network;

pub use facts::{Facts, gather};
pub use findings::{Finding, Level, findings};

#[cfg(test)]
mod tests;
