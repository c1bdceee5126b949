//! Secrets by path: files that belong to us and that nobody else may read.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bip39::Mnemonic;
use nostr_sdk::Keys;

use super::{Config, ConfigProblem};

/// Longest secret file that is read, in bytes: 24 words fit.
const MAX_FILE: u64 = 1024;

/// What the files hold. Never printed.
pub struct Secrets {
    /// The provider's identity.
    pub keys: Keys,
    /// The wallet's words (BIP-39); the seed is theirs with an empty passphrase.
    pub mnemonic: Mnemonic,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

/// Reads both.
///
/// # Errors
/// Everything that is wrong with either.
pub fn read(config: &Config) -> Result<Secrets, Vec<ConfigProblem>> {
    let keys = keys(&config.nsec_file);
    let mnemonic = mnemonic(&config.mnemonic_file);
    match (keys, mnemonic) {
        (Ok(keys), Ok(mnemonic)) => Ok(Secrets { keys, mnemonic }),
        (keys, mnemonic) => Err(keys.err().into_iter().chain(mnemonic.err()).collect()),
    }
}

/// What is wrong with the files that the configuration names.
pub(super) fn problems(config: &Config) -> Vec<ConfigProblem> {
    read(config).err().unwrap_or_default()
}

fn keys(path: &Path) -> Result<Keys, ConfigProblem> {
    let pointer = "/identity/nsec_file";
    let text = private(path, pointer, "Make one with `satletd init`.")?;
    Keys::parse(text.trim()).map_err(|_| {
        problem(
            pointer,
            format!("{} does not hold a secret key.", path.display()),
            "It holds one line: nsec1…, or 64 hexadecimal digits.",
        )
    })
}

fn mnemonic(path: &Path) -> Result<Mnemonic, ConfigProblem> {
    let pointer = "/wallet/mnemonic_file";
    let text = private(path, pointer, "Make one with `satletd init`.")?;
    text.trim().parse().map_err(|_| {
        problem(
            pointer,
            format!("{} does not hold a BIP-39 mnemonic.", path.display()),
            "It holds one line of 12 to 24 English words.",
        )
    })
}

fn private(path: &Path, pointer: &str, missing: &str) -> Result<String, ConfigProblem> {
    let shown = path.display();
    let cannot = |error: std::io::Error| {
        let fix = match error.kind() {
            std::io::ErrorKind::NotFound => missing.to_owned(),
            _ => "Make it a file that the user of satletd can read.".to_owned(),
        };
        problem(pointer, format!("{shown} cannot be read: {error}."), fix)
    };
    let file = File::open(path).map_err(cannot)?;
    // Of the open file, so that what was checked is what is read.
    let meta = file.metadata().map_err(cannot)?;
    if !meta.is_file() {
        return Err(problem(
            pointer,
            format!("{shown} is not a file."),
            "Name a file.",
        ));
    }
    let us = nix::unistd::geteuid().as_raw();
    if meta.uid() != us {
        return Err(problem(
            pointer,
            format!(
                "{shown} belongs to user {}, and this is user {us}.",
                meta.uid()
            ),
            format!("chown {us} {shown}, or run satletd as its owner."),
        ));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(problem(
            pointer,
            format!("Others can read {shown} (mode {:o}).", meta.mode() & 0o777),
            format!("chmod 600 {shown}; if others have read it, make a new one."),
        ));
    }
    let mut text = String::new();
    file.take(MAX_FILE)
        .read_to_string(&mut text)
        .map_err(cannot)?;
    Ok(text)
}

fn problem(pointer: &str, message: String, fix: impl Into<String>) -> ConfigProblem {
    ConfigProblem {
        pointer: pointer.to_owned(),
        message,
        fix: fix.into(),
    }
}
