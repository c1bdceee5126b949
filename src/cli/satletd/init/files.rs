//! Files for their owner alone, never written over.

use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::Context;

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// It is new.
    New,
    /// It was there, and is as it was.
    Kept,
}

/// Makes a directory (0700), and those above it; one that is there stays as it is.
pub(super) fn private_dir(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// Makes a file (0600) with this content unless there is one: whole or not at
/// all, also when two do it at once.
pub(super) fn private_file(path: &Path, text: &str) -> anyhow::Result<Made> {
    let shown = || path.display().to_string();
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    // tempfile makes it 0600.
    let mut file = tempfile::NamedTempFile::new_in(dir).with_context(shown)?;
    file.write_all(text.as_bytes()).with_context(shown)?;
    file.as_file().sync_all().with_context(shown)?;
    match file.persist_noclobber(path) {
        Ok(_) => {
            std::fs::File::open(dir)
                .and_then(|dir| dir.sync_all())
                .with_context(shown)?;
            Ok(Made::New)
        }
        Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => Ok(Made::Kept),
        Err(error) => Err(error.error).with_context(shown),
    }
}
