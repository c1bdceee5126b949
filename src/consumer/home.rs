//! The consumer's home: settings, identity, SSH key, wallet and records, all
//! for the owner alone (0700, 0600).

use std::path::{Path, PathBuf};

use nostr_sdk::nips::nip19::ToBech32;
use nostr_sdk::{Keys, SecretKey};
use russh::keys::ssh_key::{self, LineEnding};
use serde::{Deserialize, Serialize};

use super::error::ClientError;
use super::files;
use crate::core::ids::PublicKey;

/// Relays of a home that has no settings yet.
pub const DEFAULT_RELAYS: [&str; 3] = [
    "wss://relay.damus.io",
    "wss://nos.lol",
    "wss://relay.primal.net",
];

/// A spawn or top-up of more than this asks first, in sat.
pub const DEFAULT_ASK_ABOVE_SAT: u64 = 10_000;

/// What the user decided; `config.json` in the home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Relays for discovery and messages.
    #[serde(default = "default_relays")]
    pub relays: Vec<String>,
    /// Mints that the wallet trusts with money.
    #[serde(default)]
    pub mints: Vec<String>,
    /// A payment of more than this many sat is asked about (or needs `--yes`).
    #[serde(default = "default_ask_above")]
    pub ask_above_sat: u64,
}

fn default_relays() -> Vec<String> {
    DEFAULT_RELAYS.map(str::to_owned).to_vec()
}

fn default_ask_above() -> u64 {
    DEFAULT_ASK_ABOVE_SAT
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            relays: default_relays(),
            mints: Vec::new(),
            ask_above_sat: DEFAULT_ASK_ABOVE_SAT,
        }
    }
}

/// Where a consumer's files are.
#[derive(Clone, Debug)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// Opens a home, making it where there is none.
    ///
    /// # Errors
    /// The directory cannot be made or closed to others.
    pub fn open(root: &Path) -> Result<Self, ClientError> {
        let home = Self {
            root: root.to_path_buf(),
        };
        for dir in [
            "",
            "wallet",
            "ssh",
            "ssh/known_hosts",
            "ssh/passwords",
            "requests",
            "leases",
            "refunds",
            "receipts",
            "given",
            "received",
            "paying",
            "locks",
            "together",
        ] {
            let path = home.root.join(dir);
            files::private_dir(&path).map_err(|error| unusable(&path, &error))?;
        }
        Ok(home)
    }

    /// `$SATLET_HOME`, else `$XDG_DATA_HOME/satlet`, else `~/.local/share/satlet`.
    ///
    /// # Errors
    /// None of the variables is set.
    pub fn default_root() -> Result<PathBuf, ClientError> {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(root) = var("SATLET_HOME") {
            return Ok(root.into());
        }
        if let Some(data) = var("XDG_DATA_HOME")
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
        {
            return Ok(data.join("satlet"));
        }
        match var("HOME") {
            Some(home) => Ok(PathBuf::from(home).join(".local/share/satlet")),
            None => Err(ClientError::usage(
                "no_home",
                "there is no home directory",
                "Set SATLET_HOME or give --home.",
            )),
        }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file or directory in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The settings; the defaults where there are none.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn settings(&self) -> Result<Settings, ClientError> {
        let path = self.path("config.json");
        match files::read_json(&path) {
            Ok(settings) => Ok(settings.unwrap_or_default()),
            Err(error) => Err(ClientError::usage(
                "bad_config",
                format!("the settings cannot be read: {error}"),
                format!("Mend or remove {}.", path.display()),
            )),
        }
    }

    /// Writes the settings.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save_settings(&self, settings: &Settings) -> Result<(), ClientError> {
        Ok(files::write_json(&self.path("config.json"), settings)?)
    }

    /// The Nostr key, made on first use.
    ///
    /// # Errors
    /// The file cannot be read or made, or holds no key.
    pub fn identity(&self) -> Result<Keys, ClientError> {
        let path = self.path("identity");
        let made = || {
            Keys::generate()
                .secret_key()
                .to_bech32()
                .map_err(|_| ClientError::internal("a new key has no text form"))
        };
        let text = read_or_make(&path, made)?;
        SecretKey::parse(text.trim()).map(Keys::new).map_err(|_| {
            ClientError::usage(
                "bad_identity",
                format!("{} holds no Nostr key", path.display()),
                "Put back the file from your backup; a new key does not own the old leases.",
            )
        })
    }

    /// Path of the private SSH key that is made on first use, and its public half.
    ///
    /// # Errors
    /// The files cannot be read or made.
    pub fn ssh_key(&self) -> Result<(PathBuf, String), ClientError> {
        let path = self.path("ssh/id_ed25519");
        let made = || -> Result<String, ClientError> {
            let mut seed = [0_u8; 32];
            rand::fill(&mut seed[..]);
            let pair = ssh_key::private::Ed25519Keypair::from_seed(&seed);
            let key = ssh_key::PrivateKey::new(pair.into(), "satlet").map_err(ssh_failed)?;
            let text = key.to_openssh(LineEnding::LF).map_err(ssh_failed)?;
            Ok(text.to_string())
        };
        let text = read_or_make(&path, made)?;
        let key = ssh_key::PrivateKey::from_openssh(&text).map_err(ssh_failed)?;
        let public = key.public_key().to_openssh().map_err(ssh_failed)?;
        files::create_private(
            &self.path("ssh/id_ed25519.pub"),
            format!("{public}\n").as_bytes(),
        )?;
        Ok((path, public))
    }
}

fn ssh_failed(error: ssh_key::Error) -> ClientError {
    ClientError::internal(format!("the SSH key: {error}"))
}

fn unusable(path: &Path, error: &std::io::Error) -> ClientError {
    ClientError::usage(
        "home_unusable",
        format!("{}: {error}", path.display()),
        "Give another directory with --home or SATLET_HOME.",
    )
}

/// The file's text; where there is none, what `make` gives is kept first. Two
/// processes that come at once end with the same text.
fn read_or_make(
    path: &Path,
    make: impl FnOnce() -> Result<String, ClientError>,
) -> Result<String, ClientError> {
    if let Some(text) = files::read_text(path)? {
        return Ok(text);
    }
    files::create_private(path, format!("{}\n", make()?.trim_end()).as_bytes())?;
    files::read_text(path)?
        .ok_or_else(|| ClientError::internal(format!("{} vanished", path.display())))
}

/// Our form of a Nostr key.
pub fn public_key(keys: &Keys) -> PublicKey {
    PublicKey::from_bytes(*keys.public_key().as_bytes())
}

/// A public key as `npub1…` (NIP-19).
pub fn npub(key: &PublicKey) -> String {
    nostr_sdk::PublicKey::from_slice(key.as_bytes())
        .ok()
        .and_then(|key| key.to_bech32().ok())
        .unwrap_or_else(|| key.to_hex())
}
