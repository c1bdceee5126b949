//! The small private /etc of a workload that runs on the host's /usr, and the
//! network files of every workload. Nothing of the host's that is private is
//! in it: no shadow, no keys, no host names.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use super::wire::RunRequest;

const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
bin:x:2:2:bin:/bin:/usr/sbin/nologin
sys:x:3:3:sys:/dev:/usr/sbin/nologin
man:x:6:12:man:/var/cache/man:/usr/sbin/nologin
mail:x:8:8:mail:/var/mail:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
_apt:x:42:65534::/nonexistent:/usr/sbin/nologin
user:x:1000:1000::/home:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
";
const GROUP: &str = "\
root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
mail:x:8:
man:x:12:
www-data:x:33:
staff:x:50:
users:x:100:
user:x:1000:
nogroup:x:65534:
";
const NSSWITCH: &str = "\
passwd: files
group: files
shadow: files
hosts: files dns
services: files
protocols: files
";
const PROFILE: &str = "\
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
";
/// Public files of the host's, copied where they are plain files of a sane size.
const COPIES: &[&str] = &[
    "ld.so.cache",
    "ld.so.conf",
    "localtime",
    "timezone",
    "protocols",
    "services",
    "mime.types",
    "debian_version",
];
/// Largest file that is copied, in bytes.
const MAX_COPY: u64 = 4 * 1024 * 1024;

/// Writes all of it, once, when the workload is made.
pub(super) fn write(etc: &Path, request: &RunRequest, owner: u32) -> io::Result<()> {
    put(etc, "passwd", PASSWD.as_bytes(), owner)?;
    put(etc, "group", GROUP.as_bytes(), owner)?;
    put(etc, "nsswitch.conf", NSSWITCH.as_bytes(), owner)?;
    put(etc, "profile", PROFILE.as_bytes(), owner)?;
    for name in COPIES {
        let source = Path::new("/etc").join(name);
        if fs::metadata(&source).is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_COPY) {
            put(etc, name, &fs::read(&source)?, owner)?;
        }
    }
    if let Ok(release) = fs::read("/usr/lib/os-release") {
        put(etc, "os-release", &release, owner)?;
    }
    write_network(etc, request, owner)
}

/// Host name, hosts and name servers.
pub(super) fn write_network(etc: &Path, request: &RunRequest, owner: u32) -> io::Result<()> {
    let name = &request.key;
    put(etc, "hostname", format!("{name}\n").as_bytes(), owner)?;
    let hosts = format!("127.0.0.1 localhost {name}\n::1 localhost\n");
    put(etc, "hosts", hosts.as_bytes(), owner)?;
    let servers: String = request
        .resolvers
        .iter()
        .map(|server| format!("nameserver {server}\n"))
        .collect();
    put(etc, "resolv.conf", servers.as_bytes(), owner)
}

/// Replaces whatever is there, a link too, without following it.
fn put(etc: &Path, name: &str, bytes: &[u8], owner: u32) -> io::Result<()> {
    let path = etc.join(name);
    match fs::symlink_metadata(&path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(&path)?,
        Ok(_) => fs::remove_file(&path)?,
        Err(_) => {}
    }
    fs::write(&path, bytes)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
    chown(&path, Some(owner), Some(owner))
}
