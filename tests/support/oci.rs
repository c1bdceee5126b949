//! Tiny OCI images, made on the spot: as a layout directory or a tarball, which
//! `Image::Layout` takes.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test helper may panic"
)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// An image of one layer in the making.
pub(crate) struct OciImage {
    layer: tar::Builder<Vec<u8>>,
    config: Value,
}

impl Default for OciImage {
    fn default() -> Self {
        Self::new()
    }
}

impl OciImage {
    /// With nothing but empty `/tmp`, `/proc`, `/dev`, `/sys`, `/etc` and `/root`.
    pub(crate) fn new() -> Self {
        let image = Self {
            layer: tar::Builder::new(Vec::new()),
            config: json!({}),
        };
        ["proc", "dev", "sys", "etc", "root"]
            .into_iter()
            .fold(image.dir("tmp", 0o1777), |image, dir| image.dir(dir, 0o755))
    }

    /// From (path, bytes, mode).
    pub(crate) fn from_files<'a>(
        files: impl IntoIterator<Item = (&'a str, &'a [u8], u32)>,
    ) -> Self {
        files
            .into_iter()
            .fold(Self::new(), |image, (path, bytes, mode)| {
                image.file(path, bytes, mode)
            })
    }

    /// From a directory of this host, links as they are.
    pub(crate) fn from_dir(dir: &Path) -> Self {
        let mut image = Self::new();
        image.layer.follow_symlinks(false);
        image.layer.append_dir_all("", dir).unwrap();
        image
    }

    /// With the host's static busybox and a link for each of its applets;
    /// `None` where there is no such program.
    pub(crate) fn busybox() -> Option<Self> {
        let paths = ["/bin/busybox", "/usr/bin/busybox", "/bin/busybox.static"];
        let path = paths.into_iter().find(|path| is_static(Path::new(path)))?;
        let image = Self::new().file("bin/busybox", &fs::read(path).ok()?, 0o755);
        let applets = Command::new(path).arg("--list").output().ok()?;
        let applets = String::from_utf8(applets.stdout).ok()?;
        let links = applets.lines().filter(|applet| *applet != "busybox");
        Some(links.fold(image, |image, applet| {
            image.symlink(&format!("bin/{applet}"), "busybox")
        }))
    }

    /// With programs of the host in `/bin` and the libraries that they want;
    /// `None` where one is missing. Works without busybox, wants `ldd`.
    pub(crate) fn with_programs(names: &[&str]) -> Option<Self> {
        let mut image = Self::new();
        let mut libraries = std::collections::BTreeSet::new();
        for name in names {
            let dirs = ["/bin", "/usr/bin", "/sbin", "/usr/sbin"];
            let mut paths = dirs.iter().map(|dir| Path::new(dir).join(name));
            let path = paths.find(|path| path.exists())?;
            libraries.extend(libraries_of(&path)?);
            image = image.file(&format!("bin/{name}"), &fs::read(path).ok()?, 0o755);
        }
        for path in libraries {
            image = image.file(path.to_str()?, &fs::read(&path).ok()?, 0o755);
        }
        Some(image)
    }

    /// Busybox where there is one, else a shell and a few programs of the
    /// host; `None` where neither is there. `/bin/sh` runs in either.
    pub(crate) fn with_shell() -> Option<Self> {
        let few = [
            "sh", "cat", "echo", "env", "id", "ls", "mkdir", "ps", "rm", "sleep", "stat",
        ];
        Self::busybox().or_else(|| Self::with_programs(&few))
    }

    pub(crate) fn file(mut self, path: &str, bytes: &[u8], mode: u32) -> Self {
        let mut header = header(tar::EntryType::Regular, mode);
        header.set_size(bytes.len() as u64);
        let path = path.trim_start_matches('/');
        self.layer.append_data(&mut header, path, bytes).unwrap();
        self
    }

    pub(crate) fn dir(mut self, path: &str, mode: u32) -> Self {
        let mut header = header(tar::EntryType::Directory, mode);
        self.layer
            .append_data(&mut header, path, std::io::empty())
            .unwrap();
        self
    }

    pub(crate) fn symlink(mut self, path: &str, target: &str) -> Self {
        let mut header = header(tar::EntryType::Symlink, 0o777);
        self.layer.append_link(&mut header, path, target).unwrap();
        self
    }

    pub(crate) fn entrypoint(self, words: &[&str]) -> Self {
        self.set("Entrypoint", json!(words))
    }

    pub(crate) fn cmd(self, words: &[&str]) -> Self {
        self.set("Cmd", json!(words))
    }

    /// `NAME=value` each.
    pub(crate) fn env(self, env: &[&str]) -> Self {
        self.set("Env", json!(env))
    }

    pub(crate) fn workdir(self, path: &str) -> Self {
        self.set("WorkingDir", json!(path))
    }

    pub(crate) fn user(self, user: &str) -> Self {
        self.set("User", json!(user))
    }

    fn set(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    /// Writes a layout directory, which is made; gives the manifest's digest.
    pub(crate) fn write_dir(self, dir: &Path) -> String {
        let (files, digest) = self.files();
        for (name, bytes) in files {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        digest
    }

    /// Writes a tarball of a layout; gives the manifest's digest.
    pub(crate) fn write_tarball(self, path: &Path) -> String {
        let (files, digest) = self.files();
        let mut tarball = tar::Builder::new(fs::File::create(path).unwrap());
        for (name, bytes) in files {
            let mut header = header(tar::EntryType::Regular, 0o644);
            header.set_size(bytes.len() as u64);
            tarball
                .append_data(&mut header, name, bytes.as_slice())
                .unwrap();
        }
        tarball.finish().unwrap();
        digest
    }

    /// Its files alone, as a tarball.
    pub(crate) fn into_tar(self) -> Vec<u8> {
        self.layer.into_inner().unwrap()
    }

    fn files(self) -> (Vec<(PathBuf, Vec<u8>)>, String) {
        let tar = self.layer.into_inner().unwrap();
        let diff = digest(&tar);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&tar).unwrap();
        let layer = gzip.finish().unwrap();
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = bytes(&json!({
            "os": "linux",
            "architecture": architecture,
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": [diff]},
        }));
        let manifest = bytes(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer)],
        }));
        let entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        let index = bytes(&json!({"schemaVersion": 2, "manifests": [entry]}));
        let name = digest(&manifest);
        let mut files: Vec<_> = [layer, config, manifest]
            .into_iter()
            .map(|blob| (blob_path(&blob), blob))
            .collect();
        files.push(("index.json".into(), index));
        files.push((
            "oci-layout".into(),
            br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
        ));
        (files, name)
    }
}

fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header
}

fn bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

fn blob_path(bytes: &[u8]) -> PathBuf {
    Path::new("blobs").join(digest(bytes).replace(':', "/"))
}

/// An ELF program that names no loader.
fn is_static(path: &Path) -> bool {
    path.exists() && libraries_of(path).is_some_and(|libraries| libraries.is_empty())
}

/// What `ldd` lists, as absolute paths; empty for a static program.
fn libraries_of(path: &Path) -> Option<Vec<PathBuf>> {
    let ldd = Command::new("ldd")
        .arg(path)
        .env("LC_ALL", "C")
        .output()
        .ok()?;
    let text = String::from_utf8(ldd.stdout).ok()?;
    if !ldd.status.success() {
        let error = String::from_utf8_lossy(&ldd.stderr).into_owned() + &text;
        return error.contains("not a dynamic executable").then(Vec::new);
    }
    let words = text.split_whitespace().filter(|word| word.starts_with('/'));
    Some(words.map(PathBuf::from).collect())
}
