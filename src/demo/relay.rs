//! A Nostr relay in this process, on loopback.
