//! What a user would notice, with real parts in one process.

mod relay;
