//! Images on this host's disk:
//!
//! ```text
//! dir/lock                        shared by all who use the directory
//! dir/tmp/…                       work in progress; emptied at start
//! dir/known/<sha256 of a name>    which digest a name meant, and when
//! dir/rootfs/<digits of digest>/  one image: image.json and root/
//! ```
//!
//! An image appears under `rootfs` by one rename, when it is whole and on disk.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Seek};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nix::unistd::syncfs;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::budget::{Budget, disk_error};
use super::config::RunConfig;
use super::digest::Digest;
use super::known::Known;
use super::manifest::Descriptor;
use super::unpack::unpack_layer;
use crate::compute::BackendError;

/// An image that is ready to be run.
#[derive(Debug, PartialEq, Eq)]
pub struct PreparedImage {
    /// Its root file system, shared by all workloads of this image: to be read
    /// only. Links in it mean nothing on the host; open nothing through it
    /// without `RESOLVE_IN_ROOT` (openat2(2)).
    pub rootfs: PathBuf,
    /// How it wants to be run.
    pub config: RunConfig,
    /// `sha256:…` of its manifest for this platform.
    pub digest: String,
}

/// Contents of `image.json`.
#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    config: RunConfig,
}

const RECORD_VERSION: u32 = 1;

/// The directory of images.
#[derive(Debug)]
pub(super) struct Store {
    tmp: PathBuf,
    rootfs: PathBuf,
    pub(super) known: Known,
    /// Images that somebody holds: these are not removed.
    live: Mutex<HashMap<Digest, Weak<PreparedImage>>>,
    _lock: File,
}

impl Store {
    /// Opens or makes the directory. What an earlier process left half done is
    /// removed, unless another process uses the directory now.
    pub(super) fn open(dir: &Path) -> Result<Self, BackendError> {
        let failed = |error: io::Error| {
            let text = format!("cannot keep images in {}: {error}", dir.display());
            disk_error(&error, &text)
        };
        let (tmp, rootfs, known) = (dir.join("tmp"), dir.join("rootfs"), dir.join("known"));
        for path in [dir, &tmp, &rootfs, &known] {
            // Ours alone: images may have setuid programs.
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(failed)?;
        }
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        let lock = File::create(dir.join("lock")).map_err(failed)?;
        if lock.try_lock().is_ok() {
            for entry in fs::read_dir(&tmp).map_err(failed)?.flatten() {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        lock.lock_shared().map_err(failed)?;
        Ok(Self {
            tmp,
            rootfs,
            known: Known::new(known),
            live: Mutex::default(),
            _lock: lock,
        })
    }

    /// A place to work in; dropping it removes it.
    pub(super) fn staging(&self) -> Result<TempDir, BackendError> {
        tempfile::tempdir_in(&self.tmp)
            .map_err(|error| disk_error(&error, &format!("cannot make a directory: {error}")))
    }

    /// The image of this digest, where it is here and whole.
    pub(super) fn lookup(&self, digest: &Digest) -> Option<Arc<PreparedImage>> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = live.get(digest).and_then(Weak::upgrade) {
            return Some(image);
        }
        let dir = self.rootfs.join(digest.hex());
        let record = fs::read(dir.join("image.json")).ok()?;
        let record: Record = serde_json::from_slice(&record).ok()?;
        if record.version != RECORD_VERSION {
            return None;
        }
        let image = Arc::new(PreparedImage {
            rootfs: dir.join("root"),
            config: record.config,
            digest: digest.to_string(),
        });
        live.retain(|_, image| image.strong_count() > 0);
        live.insert(digest.clone(), Arc::downgrade(&image));
        Some(image)
    }

    /// Removes all images but these and those that somebody holds; says which.
    pub(super) fn prune(&self, keep: &[Digest]) -> io::Result<Vec<Digest>> {
        let mut removed = Vec::new();
        for entry in fs::read_dir(&self.rootfs)? {
            let entry = entry?;
            let digest = entry.file_name().to_str().and_then(Digest::from_hex);
            let Some(digest) = digest.filter(|digest| !keep.contains(digest)) else {
                continue;
            };
            let bin = tempfile::tempdir_in(&self.tmp)?;
            if self.throw_away(&digest, bin.path())? {
                bin.close()?;
                removed.push(digest);
            }
        }
        self.known
            .keep(|digest| self.rootfs.join(digest.hex()).is_dir());
        Ok(removed)
    }

    /// Out of sight by one rename; `false` where somebody holds it.
    fn throw_away(&self, digest: &Digest, bin: &Path) -> io::Result<bool> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if live
            .get(digest)
            .is_some_and(|image| image.strong_count() > 0)
        {
            return Ok(false);
        }
        fs::rename(self.rootfs.join(digest.hex()), bin.join("image"))?;
        Ok(true)
    }

    /// Unpacks layers and makes the image appear. Blocks.
    pub(super) fn build(&self, job: Job) -> Result<(), BackendError> {
        let Job {
            staging,
            digest,
            config,
            layers,
            mut budget,
        } = job;
        let image = staging.path().join("image");
        let root = image.join("root");
        fs::create_dir_all(&root)
            .and_then(|()| fs::set_permissions(&root, fs::Permissions::from_mode(0o755)))
            .map_err(|error| disk_error(&error, &format!("cannot unpack an image: {error}")))?;
        for (path, layer) in &layers {
            put_layer(path, layer, &root, &mut budget)?;
            if path.starts_with(staging.path()) {
                let _ = fs::remove_file(path);
            }
        }
        self.publish(&image, &digest, config)
            .map_err(|error| disk_error(&error, &format!("cannot keep an image: {error}")))
    }

    fn publish(&self, image: &Path, digest: &Digest, config: RunConfig) -> io::Result<()> {
        let record = Record {
            version: RECORD_VERSION,
            config,
        };
        fs::write(image.join("image.json"), serde_json::to_vec(&record)?)?;
        // All files before the name: after a power cut an image is whole or absent.
        syncfs(File::open(image)?)?;
        let target = self.rootfs.join(digest.hex());
        if self.lookup(digest).is_none() && target.exists() {
            // Not ours to read (damaged, or of another version).
            let bin = tempfile::tempdir_in(&self.tmp)?;
            fs::rename(&target, bin.path().join("image"))?;
        }
        match fs::rename(image, &target) {
            // Somebody else made the same image meanwhile.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            other => other?,
        }
        File::open(&self.rootfs)?.sync_all()
    }
}

/// What an image is made of.
pub(super) struct Job {
    /// Holds fetched layers, and the image while it grows.
    pub(super) staging: TempDir,
    pub(super) digest: Digest,
    pub(super) config: RunConfig,
    pub(super) layers: Vec<(PathBuf, Descriptor)>,
    pub(super) budget: Budget,
}

/// One layer: checked as a whole before a byte of it is interpreted.
fn put_layer(
    path: &Path,
    layer: &Descriptor,
    root: &Path,
    budget: &mut Budget,
) -> Result<(), BackendError> {
    let digest = layer.digest()?;
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => BackendError::Image(format!("the layer {digest} is missing")),
        _ => BackendError::Retry(format!("cannot read a layer: {error}")),
    };
    let mut file = File::open(path).map_err(failed)?;
    digest.check_read(&file, layer.size).map_err(failed)??;
    file.rewind().map_err(failed)?;
    Ok(unpack_layer(file, root, budget)?)
}
