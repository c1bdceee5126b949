//! An image of a layout in the form that every engine loads: the archive of
//! `docker save` before version 25 (`manifest.json`, a configuration, layers).
//! Engines before that version do not load layouts.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use super::ImageLimits;
use super::layout::{self, Layout};
use super::manifest::{Manifest, image_error};
use super::source::{Source, blocking};
use super::{Digest, RunConfig, StopOnDrop};
use crate::compute::BackendError;

/// An image in a layout, found and within limits.
pub(in crate::compute) struct LayoutImage {
    source: Source,
    digest: Digest,
    manifest: Manifest,
    _staging: Option<TempDir>,
}

impl LayoutImage {
    /// Finds the image of the layout (a directory, or a tarball, which is
    /// taken apart in a folder in `work`).
    ///
    /// # Errors
    /// [`BackendError::Image`] where it is none, not for this host, or over a limit.
    pub(in crate::compute) async fn open(
        path: &Path,
        limits: &ImageLimits,
        work: &Path,
    ) -> Result<Self, BackendError> {
        let unread = |error: io::Error| {
            image_error(format!(
                "the layout {} cannot be read: {error}",
                path.display()
            ))
        };
        let facts = std::fs::metadata(path).map_err(unread)?;
        let staging = match facts.is_dir() {
            true => None,
            false => Some(extract(path, limits, work).await?),
        };
        let dir = staging.as_ref().map_or(path, TempDir::path);
        let source = Source::Layout(Layout::open(dir)?);
        let (digest, manifest) = source.resolve().await?;
        manifest.check(limits, source.max_bytes(limits))?;
        Ok(Self {
            source,
            digest,
            manifest,
            _staging: staging,
        })
    }

    /// Its manifest's SHA-256, 64 hexadecimal digits.
    pub(in crate::compute) fn digest(&self) -> &str {
        self.digest.hex()
    }

    /// The archive, in a file that has no name, at its beginning; loading it
    /// gives the image this tag (`repository:tag`).
    ///
    /// # Errors
    /// [`BackendError::Image`] where something is not what its digest says.
    pub(in crate::compute) async fn archive(
        &self,
        tag: &str,
        work: &Path,
    ) -> Result<File, BackendError> {
        let config = self.source.config(&self.manifest.config).await?;
        RunConfig::parse(&config)?;
        let files = self.source.layers(&self.manifest.layers, work).await?;
        let layers = self.manifest.layers.clone();
        let (tag, work) = (tag.to_owned(), work.to_owned());
        blocking(move || {
            let failed = |error| BackendError::Retry(format!("writing an archive: {error}"));
            let mut tar = tar::Builder::new(tempfile::tempfile_in(work).map_err(failed)?);
            let mut names = Vec::new();
            for (entry, path) in layers.iter().zip(files) {
                let digest = entry.digest()?;
                let name = format!("{}.tar", digest.hex());
                let missing = |error| image_error(format!("a layer cannot be read: {error}"));
                let mut file = File::open(path).map_err(missing)?;
                digest.check_read(&file, entry.size).map_err(failed)??;
                file.seek(SeekFrom::Start(0)).map_err(failed)?;
                if !names.contains(&name) {
                    append(&mut tar, &name, entry.size, file).map_err(failed)?;
                }
                names.push(name);
            }
            let config_name = format!("{}.json", Digest::of(&config).hex());
            append(&mut tar, &config_name, len(&config), config.as_slice()).map_err(failed)?;
            let manifest = json!([{"Config": config_name, "RepoTags": [tag], "Layers": names}]);
            let manifest = manifest.to_string().into_bytes();
            append(
                &mut tar,
                "manifest.json",
                len(&manifest),
                manifest.as_slice(),
            )
            .map_err(failed)?;
            let mut file = tar.into_inner().map_err(failed)?;
            file.seek(SeekFrom::Start(0)).map_err(failed)?;
            Ok(file)
        })
        .await
    }
}

async fn extract(path: &Path, limits: &ImageLimits, work: &Path) -> Result<TempDir, BackendError> {
    let staging = tempfile::tempdir_in(work)
        .map_err(|error| BackendError::Retry(format!("a folder for an image: {error}")))?;
    let max = limits.max_compressed_bytes.max(limits.max_unpacked_bytes);
    let mut budget = layout::extract_budget(max);
    let _stop = StopOnDrop(budget.stop_flag());
    let path = path.to_owned();
    blocking(move || {
        let unread = |error| {
            image_error(format!(
                "the layout {} cannot be read: {error}",
                path.display()
            ))
        };
        let tarball = File::open(&path).map_err(unread)?;
        layout::extract(tarball, staging.path(), &mut budget)?;
        Ok(staging)
    })
    .await
}

fn len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn append(
    tar: &mut tar::Builder<File>,
    name: &str,
    size: u64,
    data: impl io::Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(size);
    tar.append_data(&mut header, name, data)
}
