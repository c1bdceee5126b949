//! Users of a workload, from its own /etc/passwd and /etc/group. Read by hand:
//! the C library's lookups would load modules out of a stranger's file system.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

/// Longest passwd or group file that is looked at.
const MAX_FILE: u64 = 1024 * 1024;

/// Whom a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    /// User id inside.
    pub(super) uid: u32,
    /// Group id inside.
    pub(super) gid: u32,
    /// Name, where the files have one.
    pub(super) name: Option<String>,
    /// Home directory.
    pub(super) home: String,
    /// Login shell, where the files name one.
    pub(super) shell: Option<String>,
}

impl User {
    /// The workload's root.
    pub(super) fn root(passwd: &str) -> Self {
        by_uid(passwd, 0).unwrap_or(Self {
            uid: 0,
            gid: 0,
            name: Some("root".to_owned()),
            home: "/root".to_owned(),
            shell: None,
        })
    }

    /// `user[:group]`, names or numbers, as image configs have it; empty is root.
    pub(super) fn parse(text: &str, passwd: &str, group: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::root(passwd));
        }
        let (user, wanted_group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let mut found = match user.parse::<u32>() {
            Ok(uid) => by_uid(passwd, uid).unwrap_or(Self {
                uid,
                gid: 0,
                name: None,
                home: "/".to_owned(),
                shell: None,
            }),
            Err(_) => lines(passwd).find(|entry| entry.name.as_deref() == Some(user))?,
        };
        if let Some(wanted) = wanted_group.filter(|group| !group.is_empty()) {
            found.gid = match wanted.parse() {
                Ok(gid) => gid,
                Err(_) => gid_of(group, wanted)?,
            };
        }
        Some(found)
    }
}

fn by_uid(passwd: &str, uid: u32) -> Option<User> {
    lines(passwd).find(|entry| entry.uid == uid)
}

fn lines(passwd: &str) -> impl Iterator<Item = User> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).filter(|home| home.starts_with('/'));
        let shell = fields.next().filter(|shell| shell.starts_with('/'));
        Some(User {
            uid,
            gid,
            name: Some(name.to_owned()),
            home: home.unwrap_or("/").to_owned(),
            shell: shell.map(str::to_owned),
        })
    })
}

fn gid_of(group: &str, name: &str) -> Option<u32> {
    group.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// A file of the workload's, as text, cut at a bound; nothing where it is
/// missing or is not a plain file (a pipe there must not hang us).
pub(super) fn read_file(path: &str) -> String {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY)
        .open(path);
    let Ok(file) = file else {
        return String::new();
    };
    if !file.metadata().is_ok_and(|meta| meta.is_file()) {
        return String::new();
    }
    let mut bytes = Vec::new();
    let _ = file.take(MAX_FILE).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}
