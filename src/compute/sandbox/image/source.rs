//! Where an image comes from.

use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::layout::Layout;
use super::limits::ImageLimits;
use super::manifest::{
    Descriptor, Document, MAX_CONFIG, MAX_MANIFEST, MAX_NESTING, Manifest, choose, image_error,
};
use super::registry::Repository;
use crate::compute::BackendError;

/// A place that has blobs by digest.
pub(super) enum Source {
    Registry(Repository),
    Layout(Layout),
}

impl Source {
    /// Most bytes of layers. A layout may hold them uncompressed.
    pub(super) fn max_bytes(&self, limits: &ImageLimits) -> u64 {
        match self {
            Self::Registry(_) => limits.max_compressed_bytes,
            Self::Layout(_) => limits.max_compressed_bytes.max(limits.max_unpacked_bytes),
        }
    }

    /// The manifest of the image for this host, and its digest.
    pub(super) async fn resolve(&self) -> Result<(Digest, Manifest), BackendError> {
        let (mut document, mut digest) = match self {
            Self::Registry(repository) => {
                let (body, digest) = repository.top().await?;
                (Document::parse(&body)?, Some(digest))
            }
            Self::Layout(layout) => {
                let layout = layout.clone();
                (
                    Document::Index(blocking(move || layout.index()).await?),
                    None,
                )
            }
        };
        // Only a layout's own index can hold images that have nothing to do
        // with each other.
        let mut only_one = digest.is_none();
        for _ in 0..=MAX_NESTING {
            let entries = match (document, digest) {
                (Document::Manifest(manifest), Some(digest)) => return Ok((digest, manifest)),
                (Document::Manifest(_), None) => break,
                (Document::Index(entries), _) => entries,
            };
            let entry = choose(&entries, only_one)?;
            only_one = false;
            document = Document::parse(&self.document(entry).await?)?;
            digest = Some(entry.digest()?);
        }
        Err(image_error("its indexes are nested too deep"))
    }

    async fn document(&self, entry: &Descriptor) -> Result<Vec<u8>, BackendError> {
        if entry.size > MAX_MANIFEST {
            return Err(image_error("its manifest is larger than 4 MiB"));
        }
        match self {
            Self::Registry(repository) => repository.document(entry).await,
            Self::Layout(layout) => read(layout, entry, MAX_MANIFEST).await,
        }
    }

    /// The configuration, checked.
    pub(super) async fn config(&self, entry: &Descriptor) -> Result<Vec<u8>, BackendError> {
        match self {
            Self::Registry(repository) => repository.blob(entry).await,
            Self::Layout(layout) => read(layout, entry, MAX_CONFIG).await,
        }
    }

    /// Files with the layers, in `dir` where they have to be fetched. The one
    /// who reads them checks digests.
    pub(super) async fn layers(
        &self,
        layers: &[Descriptor],
        dir: &Path,
    ) -> Result<Vec<PathBuf>, BackendError> {
        match self {
            Self::Registry(repository) => repository.layers(layers, dir).await,
            Self::Layout(layout) => layout.layers(layers),
        }
    }
}

async fn read(layout: &Layout, entry: &Descriptor, max: u64) -> Result<Vec<u8>, BackendError> {
    let (layout, entry) = (layout.clone(), entry.clone());
    blocking(move || layout.blob(&entry, max)).await
}

/// Work with the disk, off the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackendError> + Send + 'static,
) -> Result<T, BackendError> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|error| {
        Err(BackendError::Retry(format!(
            "work on an image was interrupted: {error}"
        )))
    })
}
