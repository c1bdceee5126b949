//! Images out of an OCI layout on this host: a directory, or a tarball of one
//! (OCI image specification, "Image Layout"; `docker save` of version 25 and
//! later writes one too).

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::budget::{Budget, UnpackError};
use super::digest::Digest;
use super::entries::{self, Kind};
use super::manifest::{Descriptor, Document, MAX_CONFIG, MAX_MANIFEST, image_error};
use super::unpack::{components, decompress};
use crate::compute::BackendError;

/// Most entries in a tarball; a layout has one for each blob.
const MAX_ENTRIES: u64 = 4096;

/// A layout directory.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    dir: PathBuf,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    image_layout_version: String,
}

impl Layout {
    /// # Errors
    /// Not a layout of version 1.
    pub(super) fn open(dir: &Path) -> Result<Self, BackendError> {
        let layout = Self {
            dir: dir.to_owned(),
        };
        let marker = layout.read(Path::new("oci-layout"), MAX_CONFIG)?;
        let marker: Option<Marker> = serde_json::from_slice(&marker).ok();
        if marker.is_none_or(|m| m.image_layout_version.split('.').next() != Some("1")) {
            return Err(image_error("the layout is of no known version"));
        }
        Ok(layout)
    }

    /// The images that are in it.
    pub(super) fn index(&self) -> Result<Vec<Descriptor>, BackendError> {
        let index = self.read(Path::new("index.json"), MAX_MANIFEST)?;
        match Document::parse(&index)? {
            Document::Index(entries) => Ok(entries),
            Document::Manifest(_) => Err(image_error("the layout's index.json is no index")),
        }
    }

    /// A small blob, whole, checked.
    pub(super) fn blob(&self, entry: &Descriptor, max: u64) -> Result<Vec<u8>, BackendError> {
        let digest = entry.digest()?;
        let bytes = self.read(&blob_path(&digest), max)?;
        if bytes.len() as u64 != entry.size {
            return Err(digest.wrong_size());
        }
        digest.check(&bytes)?;
        Ok(bytes)
    }

    /// Where the layers are, in the same order; not checked yet.
    pub(super) fn layers(&self, layers: &[Descriptor]) -> Result<Vec<PathBuf>, BackendError> {
        let path = |layer: &Descriptor| Ok(self.dir.join(blob_path(&layer.digest()?)));
        layers.iter().map(path).collect()
    }

    fn read(&self, name: &Path, max: u64) -> Result<Vec<u8>, BackendError> {
        let mut bytes = Vec::new();
        let read = File::open(self.dir.join(name))
            .and_then(|file| file.take(max.saturating_add(1)).read_to_end(&mut bytes));
        match read {
            Ok(read) if read as u64 > max => Err(image_error(format!(
                "{} in the layout is too large",
                name.display()
            ))),
            Ok(_) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(image_error(format!("the layout has no {}", name.display())))
            }
            Err(error) => Err(BackendError::Retry(format!(
                "cannot read {} of the layout: {error}",
                name.display()
            ))),
        }
    }
}

fn blob_path(digest: &Digest) -> PathBuf {
    Path::new("blobs/sha256").join(digest.hex())
}

/// Takes the files of a layout, and nothing else, out of a tarball.
///
/// # Errors
/// A broken tarball, or one with more than `max_bytes` of blobs.
pub(super) fn extract(tarball: File, dir: &Path, budget: &mut Budget) -> Result<(), UnpackError> {
    let io = |source| UnpackError::Io {
        path: "a layout".to_owned(),
        source,
    };
    fs::create_dir_all(dir.join("blobs/sha256")).map_err(io)?;
    let reader = budget.meter(decompress(tarball)?);
    entries::walk(reader, |item, data| {
        budget.take_file()?;
        if item.kind != Kind::File {
            return Ok(());
        }
        let Some(name) = wanted(&components(&item.path)?) else {
            return Ok(());
        };
        budget.take_bytes(item.size)?;
        let mut file = File::create(dir.join(name)).map_err(io)?;
        super::unpack::copy(data, &mut file, item)
    })?;
    Ok(())
}

/// Files for a tarball.
pub(super) fn extract_budget(max_bytes: u64) -> Budget {
    Budget::of(max_bytes.saturating_add(MAX_CONFIG), MAX_ENTRIES)
}

/// The path of a file that belongs to a layout.
fn wanted(path: &[&[u8]]) -> Option<PathBuf> {
    match path {
        [b"oci-layout"] => Some("oci-layout".into()),
        [b"index.json"] => Some("index.json".into()),
        [b"blobs", b"sha256", name] => {
            let digest = Digest::from_hex(std::str::from_utf8(name).ok()?)?;
            Some(blob_path(&digest))
        }
        _ => None,
    }
}
