//! Stand-in for the image store, which is written beside this.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::compute::{BackendError, Image};

/// Bounds of the image store.
#[derive(Clone, Debug)]
pub struct ImageLimits {
    /// Largest image, unpacked, in MiB.
    pub max_mib: u64,
}

/// Unpacked images on disk.
#[derive(Debug)]
pub struct ImageStore;

/// An image that is ready to run.
#[derive(Clone, Debug)]
pub struct PreparedImage {
    /// Unpacked; read-only.
    pub rootfs: PathBuf,
    /// What the image says about running it.
    pub config: RunConfig,
    /// Digest of its manifest.
    pub digest: String,
}

/// What an image says about running it.
#[derive(Clone, Debug, Default)]
pub struct RunConfig {
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments.
    pub cmd: Vec<String>,
    /// Environment.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub workdir: String,
    /// `user[:group]`.
    pub user: String,
}

impl ImageStore {
    /// Opens the store.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open(_dir: &Path, _limits: ImageLimits) -> Result<Self, BackendError> {
        Ok(Self)
    }

    /// Fetches and unpacks, once.
    ///
    /// # Errors
    /// It cannot be had.
    pub async fn ensure(&self, _image: &Image) -> Result<Arc<PreparedImage>, BackendError> {
        Err(BackendError::Image(
            "no image store in this build".to_owned(),
        ))
    }
}
