//! What is left of an image's limits while its layers are unpacked.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::limits::ImageLimits;
use crate::compute::BackendError;

/// Headers and padding that one file may take in an archive besides its bytes:
/// its own header and padding, and a long name or pax header with theirs.
const OVERHEAD_PER_FILE: u64 = 8 * 1024;
/// Padding at the end of an archive; some tools write whole tape records.
const OVERHEAD: u64 = 4 * 1024 * 1024;

/// Why a layer was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive is broken, or asks for something that no image needs.
    #[error("{0}")]
    Bad(String),
    /// The layers write more than allowed.
    #[error("it is larger than {0} bytes when unpacked, which is the most that is accepted here")]
    TooLarge(u64),
    /// The layers have more entries than allowed.
    #[error("it has more than {0} files, which is the most that is accepted here")]
    TooManyFiles(u64),
    /// Nobody wants it any more.
    #[error("the work was cancelled")]
    Stopped,
    /// The disk of this host.
    #[error("cannot write {path}: {source}")]
    Io {
        /// Path in the image, escaped.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl From<UnpackError> for BackendError {
    fn from(error: UnpackError) -> Self {
        match &error {
            UnpackError::Bad(_) | UnpackError::TooLarge(_) | UnpackError::TooManyFiles(_) => {
                Self::Image(error.to_string())
            }
            UnpackError::Stopped => Self::Retry(error.to_string()),
            UnpackError::Io { source, .. } => disk_error(source, &error.to_string()),
        }
    }
}

/// The class of a failure of the provider's own disk.
pub(super) fn disk_error(source: &io::Error, text: &str) -> BackendError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            BackendError::NoCapacity("no room on the provider's disk for the image".to_owned())
        }
        _ => BackendError::Retry(text.to_owned()),
    }
}

/// What is left of the limits. One for all layers of an image.
#[derive(Debug)]
pub struct Budget {
    bytes: u64,
    max_bytes: u64,
    files: u64,
    max_files: u64,
    stream: u64,
    stop: Arc<AtomicBool>,
}

impl Budget {
    /// All of `limits`, nothing used.
    pub fn new(limits: &ImageLimits) -> Self {
        Self::of(limits.max_unpacked_bytes, limits.max_files)
    }

    /// So many bytes of files in so many entries.
    pub(super) fn of(max_bytes: u64, max_files: u64) -> Self {
        let stream = max_files
            .saturating_mul(OVERHEAD_PER_FILE)
            .saturating_add(max_bytes)
            .saturating_add(OVERHEAD);
        Self {
            bytes: max_bytes,
            max_bytes,
            files: max_files,
            max_files,
            stream,
            stop: Arc::default(),
        }
    }

    /// Setting it makes the work end soon, with [`UnpackError::Stopped`].
    pub(super) fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    pub(super) fn take_file(&mut self) -> Result<(), UnpackError> {
        let left = self.files.checked_sub(1);
        self.files = left.ok_or(UnpackError::TooManyFiles(self.max_files))?;
        Ok(())
    }

    pub(super) fn take_bytes(&mut self, bytes: u64) -> Result<(), UnpackError> {
        let left = self.bytes.checked_sub(bytes);
        self.bytes = left.ok_or(UnpackError::TooLarge(self.max_bytes))?;
        Ok(())
    }

    /// A reader that ends with an error where the archive, headers and padding
    /// included, is longer than the limits can explain.
    pub(super) fn meter<R: Read>(&self, inner: R) -> Metered<R> {
        Metered {
            inner,
            left: self.stream,
            max_bytes: self.max_bytes,
            stop: Arc::clone(&self.stop),
        }
    }

    /// Books what a metered reader has read.
    pub(super) fn settle(&mut self, left: u64) {
        self.stream = left;
    }
}

/// See [`Budget::meter`].
pub(super) struct Metered<R> {
    inner: R,
    left: u64,
    max_bytes: u64,
    stop: Arc<AtomicBool>,
}

impl<R> Metered<R> {
    pub(super) const fn left(&self) -> u64 {
        self.left
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other(UnpackError::Stopped));
        }
        let read = self.inner.read(buf)?;
        let left = self.left.checked_sub(read as u64);
        self.left = left.ok_or_else(|| io::Error::other(UnpackError::TooLarge(self.max_bytes)))?;
        Ok(read)
    }
}

/// An error while reading an archive: one of ours that came through `Read`, or
/// a broken archive.
pub(super) fn read_error(error: io::Error) -> UnpackError {
    match error.downcast::<UnpackError>() {
        Ok(ours) => ours,
        Err(error) => UnpackError::Bad(format!("a layer is broken: {}", shown(error.to_string()))),
    }
}

/// Text from an image, short and without control characters.
pub(super) fn shown(text: impl AsRef<[u8]>) -> String {
    const MOST: usize = 120;
    let text = text.as_ref();
    let cut = text.get(..MOST).unwrap_or(text);
    let dots = if cut.len() < text.len() { "…" } else { "" };
    format!("{}{dots}", String::from_utf8_lossy(cut).escape_debug())
}
