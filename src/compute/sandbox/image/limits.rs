//! How large an image may be and how long a pull may take.

use std::time::Duration;

const MIB: u64 = 1024 * 1024;

/// Bounds on one image. What is over a bound is refused, not cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageLimits {
    /// Sum of the layers as they are transferred, in bytes.
    pub max_compressed_bytes: u64,
    /// Sum of all files that the layers write, in bytes; what a later layer
    /// removes or replaces counts too.
    pub max_unpacked_bytes: u64,
    /// Entries in all layers together: files, directories and links.
    pub max_files: u64,
    /// Layers; the kernel's overlay stops near 128 and so does Docker.
    pub max_layers: usize,
    /// How long a tag is believed before its registry is asked again. A digest
    /// is believed for ever.
    pub recheck_tag_after: Duration,
    /// How long a registry may take to accept a connection, and between two
    /// pieces of an answer.
    pub stall_timeout: Duration,
    /// How long one image may take from the first request to the last file.
    pub pull_timeout: Duration,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self {
            max_compressed_bytes: 2048 * MIB,
            max_unpacked_bytes: 4096 * MIB,
            max_files: 500_000,
            max_layers: 128,
            recheck_tag_after: Duration::from_secs(600),
            stall_timeout: Duration::from_secs(30),
            pull_timeout: Duration::from_secs(600),
        }
    }
}

impl ImageLimits {
    /// The defaults with this size, in MiB, for both the unpacked image and
    /// its transfer.
    #[must_use]
    pub fn with_max_mib(self, max_mib: u64) -> Self {
        let bytes = max_mib.saturating_mul(MIB);
        Self {
            max_compressed_bytes: bytes,
            max_unpacked_bytes: bytes,
            ..self
        }
    }
}
