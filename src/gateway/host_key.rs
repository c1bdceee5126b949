//! The gateway's own key: made once, the same after every restart.

use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rand::RngCore;
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};
use russh::keys::{PrivateKey, PublicKey};

use super::GatewayError;

/// A key file larger than this is not one of ours.
const MAX_FILE: u64 = 16 * 1024;

/// The gateway's ed25519 host key.
#[derive(Clone)]
pub struct HostKey(PrivateKey);

impl std::fmt::Debug for HostKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HostKey(…)")
    }
}

impl HostKey {
    /// A new random key that is stored nowhere.
    pub fn generate() -> Self {
        let mut seed = [0; 32];
        rand::rng().fill_bytes(&mut seed);
        Self(PrivateKey::from(Ed25519Keypair::from_seed(&seed)))
    }

    /// Reads the key at `path`, or makes one there (mode 0600). Two that do
    /// this at once end with the same key.
    ///
    /// # Errors
    /// [`GatewayError::HostKeyExposed`] where group or others have any right
    /// to the file; else where it cannot be read, written or understood.
    pub fn load_or_create(path: &Path) -> Result<Self, GatewayError> {
        match Self::load(path) {
            Err(GatewayError::HostKeyFile { why, .. }) if why.kind() == io::ErrorKind::NotFound => {
            }
            other => return other,
        }
        let key = Self::generate();
        match key.store(path) {
            Ok(()) => Ok(key),
            Err(why) if why.kind() == io::ErrorKind::AlreadyExists => Self::load(path),
            Err(why) => Err(file_error(path, why)),
        }
    }

    /// The public half as `ssh-ed25519 AAAA…`, with no comment.
    pub fn openssh(&self) -> String {
        openssh(self.0.public_key())
    }

    pub(super) fn private(&self) -> PrivateKey {
        self.0.clone()
    }

    fn load(path: &Path) -> Result<Self, GatewayError> {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
            .open(path)
            .map_err(|why| file_error(path, why))?;
        let meta = file.metadata().map_err(|why| file_error(path, why))?;
        if meta.mode() & 0o077 != 0 {
            return Err(GatewayError::HostKeyExposed(path.to_owned()));
        }
        let malformed = || GatewayError::HostKeyMalformed(path.to_owned());
        if !meta.is_file() || meta.len() > MAX_FILE {
            return Err(malformed());
        }
        let mut text = String::new();
        file.take(MAX_FILE)
            .read_to_string(&mut text)
            .map_err(|why| file_error(path, why))?;
        let key = PrivateKey::from_openssh(&text).map_err(|_| malformed())?;
        match key.key_data() {
            KeypairData::Ed25519(_) => Ok(Self(key)),
            _ => Err(malformed()),
        }
    }

    /// Writes the whole file beside its place and links it in, so that a crash
    /// leaves the whole key or none, and a key that is there already stays.
    fn store(&self, path: &Path) -> io::Result<()> {
        let text = self
            .0
            .to_openssh(LineEnding::LF)
            .map_err(|why| io::Error::other(why.to_string()))?;
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        // A temporary file of this crate is 0600 from its creation.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist_noclobber(path).map_err(|e| e.error)?;
        std::fs::File::open(folder)?.sync_all()
    }
}

/// A public key as `<algorithm> <base64>`.
pub(super) fn openssh(key: &PublicKey) -> String {
    PublicKey::new(key.key_data().clone(), "")
        .to_openssh()
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

fn file_error(path: &Path, why: io::Error) -> GatewayError {
    GatewayError::HostKeyFile {
        path: path.to_owned(),
        why,
    }
}
