//! The wallet's seed file: twelve words (BIP-39), readable by its owner only.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bip39::Mnemonic;

/// Longest seed file that is read, in bytes: 24 words fit.
const MAX_FILE: u64 = 1024;

/// Why the seed cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The file cannot be read or written.
    #[error("the seed file {path}: {source}")]
    Io {
        /// Its path.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others than its owner can read or write it.
    #[error("others can read the seed file {path}: chmod 600 it, and move the money if they did")]
    Open {
        /// Its path.
        path: String,
    },
    /// It holds something else than a BIP-39 mnemonic.
    #[error("the seed file {path} does not hold a BIP-39 mnemonic")]
    Words {
        /// Its path.
        path: String,
    },
    /// No randomness, or a temporary file could not be made.
    #[error("no new seed: {0}")]
    New(String),
}

/// Reads the seed in `path`, or makes one of 128 random bits and writes it
/// there (mode 0600, whole or not at all, never over an existing file). The
/// words are the backup of all the ecash (NUT-13); the seed is theirs by BIP-39
/// with an empty passphrase.
///
/// # Errors
/// [`SeedError`].
pub fn load_or_create_seed(path: &Path) -> Result<[u8; 64], SeedError> {
    load_or_new(path).map(|(seed, _)| seed)
}

/// The same, and whether it was made now, so that no mint can know it.
///
/// # Errors
/// [`SeedError`].
pub fn load_or_new(path: &Path) -> Result<([u8; 64], bool), SeedError> {
    match open(path) {
        Ok(file) => Ok((load(path, file)?, false)),
        Err(error) if error.kind() == ErrorKind::NotFound => create(path),
        Err(source) => Err(io(path, source)),
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).open(path)
}

fn load(path: &Path, file: File) -> Result<[u8; 64], SeedError> {
    let meta = file.metadata().map_err(|source| io(path, source))?;
    if meta.mode() & 0o077 != 0 {
        return Err(SeedError::Open { path: shown(path) });
    }
    let mut text = String::new();
    file.take(MAX_FILE)
        .read_to_string(&mut text)
        .map_err(|source| io(path, source))?;
    let words: Mnemonic = text
        .trim()
        .parse()
        .map_err(|_| SeedError::Words { path: shown(path) })?;
    Ok(words.to_seed(""))
}

fn create(path: &Path) -> Result<([u8; 64], bool), SeedError> {
    let words = Mnemonic::generate(12).map_err(|error| SeedError::New(error.to_string()))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = dir.unwrap_or_else(|| Path::new("."));
    // tempfile makes files with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(|source| io(path, source))?;
    writeln!(file, "{words}").map_err(|source| io(path, source))?;
    file.as_file()
        .sync_all()
        .map_err(|source| io(path, source))?;
    match file.persist_noclobber(path) {
        Ok(_) => {}
        // Another process was first: its seed is the seed.
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => {
            let file = open(path).map_err(|source| io(path, source))?;
            return Ok((load(path, file)?, false));
        }
        Err(error) => return Err(io(path, error.error)),
    }
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|source| io(path, source))?;
    Ok((words.to_seed(""), true))
}

fn io(path: &Path, source: std::io::Error) -> SeedError {
    SeedError::Io {
        path: shown(path),
        source,
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
