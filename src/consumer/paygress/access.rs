//! Passwords of leases: made here, kept in a file of their own (0600), never in
//! a list, a log or an argument.

use std::path::PathBuf;

use rand::Rng;
use rand::distr::Alphanumeric;

use super::super::client::Client;
use super::super::error::ClientError;
use super::super::files;
use super::super::home::Home;
use super::super::records::KnownLease;
use crate::protocol::paygress::request::sane_password;

/// Characters of a password that is made here; providers take 12 to 64.
const LENGTH: usize = 24;

/// Longest password of a provider that is taken.
const MAX: usize = 128;

/// A new password of letters and digits.
pub(super) fn new_password() -> String {
    rand::rng()
        .sample_iter(Alphanumeric)
        .take(LENGTH)
        .map(char::from)
        .collect()
}

/// The password in a provider's instructions: ours where it is there or where
/// none is said, else the word behind `password:`.
pub(super) fn password_in(instructions: &[String], ours: &str) -> String {
    let said = |line: &String| -> Option<String> {
        // Lower case for ASCII only, so that positions stay.
        let at = line.to_ascii_lowercase().find("password:")? + "password:".len();
        let word = line.get(at..)?.split_whitespace().next()?;
        let sane = word.len() <= MAX && word.bytes().all(|b| b.is_ascii_graphic());
        sane.then(|| word.to_owned())
    };
    if sane_password(ours) && instructions.iter().any(|line| line.contains(ours)) {
        return ours.to_owned();
    }
    instructions
        .iter()
        .find_map(said)
        .unwrap_or_else(|| ours.to_owned())
}

impl Client {
    /// The host key that a lease showed first; `None` before the first contact.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn pinned_host_key(&self, lease: &KnownLease) -> Result<Option<String>, ClientError> {
        let known = self.records.lease(&lease.provider, &lease.status.lease)?;
        let key = known
            .and_then(|lease| lease.paygress)
            .map(|info| info.host_key);
        Ok(key.filter(|key| !key.is_empty()))
    }

    /// Keeps the host key that a lease showed first; a key that is kept stays.
    ///
    /// # Errors
    /// The record cannot be read or written.
    pub fn pin_host_key(&self, lease: &KnownLease, key: &str) -> Result<(), ClientError> {
        let known = self.records.lease(&lease.provider, &lease.status.lease)?;
        let Some(mut lease) = known else {
            return Ok(());
        };
        if let Some(info) = &mut lease.paygress
            && info.host_key.is_empty()
        {
            key.clone_into(&mut info.host_key);
            self.records.save_lease(&lease)?;
        }
        Ok(())
    }
}

/// Where a lease's password is kept.
pub fn password_file(home: &Home, lease: &KnownLease) -> PathBuf {
    let name = format!("{}.{}", lease.status.lease, lease.provider);
    home.path("ssh/passwords").join(name)
}

/// Keeps a lease's password.
///
/// # Errors
/// The file cannot be written.
pub(super) fn save_password(
    home: &Home,
    lease: &KnownLease,
    password: &str,
) -> std::io::Result<()> {
    files::write_private(
        &password_file(home, lease),
        format!("{password}\n").as_bytes(),
    )
}

/// A lease's password; `None` where there is none.
///
/// # Errors
/// The file cannot be read.
pub fn password(home: &Home, lease: &KnownLease) -> std::io::Result<Option<String>> {
    let text = files::read_text(&password_file(home, lease))?;
    Ok(text.map(|text| text.trim_end_matches('\n').to_owned()))
}
