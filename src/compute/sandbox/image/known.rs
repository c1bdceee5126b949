//! What a name was found to mean, and when. Only hints: all of it may be lost.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::digest::Digest;

/// One small file for each name.
#[derive(Debug)]
pub(super) struct Known {
    dir: PathBuf,
}

/// What a name meant.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Meaning {
    name: String,
    pub(super) digest: Digest,
    found_at: SystemTime,
}

impl Meaning {
    /// Whether it was found within the last `span`. A clock that was set back
    /// makes it old.
    pub(super) fn is_newer_than(&self, span: Duration) -> bool {
        self.found_at.elapsed().is_ok_and(|age| age < span)
    }
}

impl Known {
    pub(super) const fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(super) fn get(&self, name: &str) -> Option<Meaning> {
        let bytes = fs::read(self.path(name)).ok()?;
        let meaning: Meaning = serde_json::from_slice(&bytes).ok()?;
        (meaning.name == name).then_some(meaning)
    }

    /// Not being able to write only means to ask again.
    pub(super) fn put(&self, name: &str, digest: &Digest) {
        let meaning = Meaning {
            name: name.to_owned(),
            digest: digest.clone(),
            found_at: SystemTime::now(),
        };
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
            file.write_all(&serde_json::to_vec(&meaning)?)?;
            file.persist(self.path(name))?;
            Ok(())
        };
        if let Err(error) = write() {
            tracing::debug!(%error, "cannot note what an image's name means");
        }
    }

    /// Drops what means none of these.
    pub(super) fn keep(&self, exists: impl Fn(&Digest) -> bool) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let bytes = fs::read(entry.path()).unwrap_or_default();
            let meaning: Option<Meaning> = serde_json::from_slice(&bytes).ok();
            if meaning.is_none_or(|meaning| !exists(&meaning.digest)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(Digest::of(name.as_bytes()).hex())
    }
}
