//! What goes over Nostr: kinds, tags, bodies, size limits. `specs/` says the
//! same without Rust; the JSON vectors there are read and written by tests.

pub mod channel;
pub mod error;
pub mod heartbeat;
pub mod kinds;
pub mod offer;
pub mod paygress;
pub mod receipt;
pub mod reply;
pub mod request;

/// Version of the dialect: the value of the `satlet` field of every message.
pub const DIALECT: u32 = 1;

/// The dialect's name in offers.
pub const DIALECT_NAME: &str = "satlet/1";

/// Longest request body that is read, in bytes.
pub const MAX_REQUEST: usize = 32 * 1024;

/// Longest token that is read, in bytes: 64 proofs with DLEQ stay below it.
pub const MAX_TOKEN: usize = 24 * 1024;

/// Longest piece of log output in a `logs` reply, in bytes.
pub const MAX_LOG_BYTES: usize = 24 * 1024;
