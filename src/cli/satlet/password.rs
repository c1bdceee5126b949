//! Into a lease that asks for a password: the file that holds it, the host key
//! that was shown first, and the answer to ssh's question.

use std::ffi::OsString;
use std::path::PathBuf;

use super::App;
use super::enter::{Door, Way, failed, known_hosts, malformed, sane_host};
use crate::cli::output::out;
use crate::consumer::paygress::access::password_file;
use crate::consumer::records::KnownLease;
use crate::consumer::{Client, ClientError, Kind, files, ssh};
use crate::protocol::reply::Access;

/// The way into a lease in the older dialect: a password, and the host key that
/// was shown the first time.
pub(super) async fn password_door(
    app: &App,
    client: &Client,
    lease: KnownLease,
    access: &mut Access,
) -> Result<Door, ClientError> {
    if !sane_host(access) || access.user != "root" {
        return Err(malformed());
    }
    let file = password_file(client.home(), &lease);
    if !file.exists() {
        return Err(ClientError::new(
            Kind::NotFound,
            "no_password",
            format!("there is no password for lease {}", lease.status.lease),
            "It is kept where the lease was rented; nobody else has it.",
        ));
    }
    let pinned = client.pinned_host_key(&lease)?;
    let shown = ssh::host_key(&access.host, access.port, pinned.as_deref())
        .await
        .map_err(failed)?;
    let known = pinned.as_ref().map_or(&shown, |pinned| pinned);
    if first_words(known) != first_words(&shown) {
        return Err(changed(&lease, access));
    }
    if pinned.is_none() {
        client.pin_host_key(&lease, &shown)?;
        app.progress()(&format!(
            "first contact: {}:{} shows {shown}; no other host key is accepted from now on",
            access.host, access.port
        ));
    }
    access.host_key = shown;
    let known_hosts = known_hosts(client.home(), &lease, access)?;
    Ok(Door {
        access: access.clone(),
        lease: lease.status.lease,
        way: Way::Password(std::path::absolute(file)?),
        known_hosts,
    })
}

/// Type and data of a host key; a comment behind it does not matter.
fn first_words(key: &str) -> Vec<&str> {
    key.split_whitespace().take(2).collect()
}

fn changed(lease: &KnownLease, access: &Access) -> ClientError {
    ClientError::new(
        Kind::Network,
        "wrong_host_key",
        format!(
            "THE HOST KEY OF {}:{} HAS CHANGED: it is not the one that lease {} showed first. Somebody may be in between, or the port belongs to another workload by now. The password was not sent",
            access.host, access.port, lease.status.lease
        ),
        "Do not go on from this network; satlet status LEASE says whether the lease is alive.",
    )
}

/// What ssh needs to find the password: this program, which reads the file when
/// ssh asks. The password itself is in no environment and no argument.
pub(super) fn environment(door: &Door) -> Vec<(&'static str, OsString)> {
    let Way::Password(file) = &door.way else {
        return Vec::new();
    };
    let Ok(me) = std::env::current_exe() else {
        return Vec::new();
    };
    let mut set = vec![
        ("SSH_ASKPASS", me.into_os_string()),
        ("SSH_ASKPASS_REQUIRE", "force".into()),
        (ASKPASS, file.clone().into_os_string()),
    ];
    // Before OpenSSH 8.4 it asks only where there seems to be a display.
    if std::env::var_os("DISPLAY").is_none() {
        set.push(("DISPLAY", ":".into()));
    }
    set
}

/// Names the file of a password, for when ssh starts this program to ask for it.
const ASKPASS: &str = "SATLET_ASKPASS";

/// Answers ssh's question for the password; `None` if this is no such question.
pub(super) fn askpass(args: &[OsString]) -> Option<u8> {
    let file = PathBuf::from(std::env::var_os(ASKPASS)?);
    let prompt = args.get(1).map(|arg| arg.to_string_lossy().to_lowercase());
    // Not what ssh asks about host keys and the like.
    let asked = prompt.is_some_and(|prompt| prompt.trim_end().ends_with("password:"));
    match files::read_text(&file) {
        Ok(Some(password)) if asked && args.len() == 2 => {
            out(password.trim_end_matches('\n'));
            Some(0)
        }
        _ => Some(1),
    }
}
