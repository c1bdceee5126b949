//! Hand-made layers and images for tests, malformed ones included.

use std::io::Write;

use sha2::{Digest as _, Sha256};

/// A tar archive in the making. Nothing is checked.
#[derive(Clone, Default)]
pub(super) struct Tar(Vec<u8>);

impl Tar {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// An entry with everything said: its size may lie.
    pub(super) fn entry(
        mut self,
        kind: u8,
        path: &[u8],
        link: &[u8],
        mode: u32,
        data: &[u8],
        size: u64,
    ) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(size);
        header.set_mtime(1_000_000_000);
        header.set_entry_type(tar::EntryType::new(kind));
        let bytes = header.as_mut_bytes();
        for (to, from) in bytes[..100].iter_mut().zip(path) {
            *to = *from;
        }
        for (to, from) in bytes[157..257].iter_mut().zip(link) {
            *to = *from;
        }
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(super) fn file(self, path: &str, data: &str) -> Self {
        self.file_mode(path, data, 0o644)
    }

    pub(super) fn file_mode(self, path: &str, data: &str, mode: u32) -> Self {
        let size = data.len() as u64;
        self.entry(b'0', path.as_bytes(), b"", mode, data.as_bytes(), size)
    }

    pub(super) fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(b'5', path.as_bytes(), b"", mode, b"", 0)
    }

    pub(super) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(b'2', path.as_bytes(), target.as_bytes(), 0o777, b"", 0)
    }

    pub(super) fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(b'1', path.as_bytes(), target.as_bytes(), 0o644, b"", 0)
    }

    /// A header with text for the next entry: `x`, `g`, `L` or `K`.
    pub(super) fn extra(self, kind: u8, data: &[u8]) -> Self {
        self.entry(kind, b"extra", b"", 0o644, data, data.len() as u64)
    }

    pub(super) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while rest + length.to_string().len() != length {
                length = rest + length.to_string().len();
            }
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.extra(b'x', &data)
    }

    /// Without the end of the archive.
    pub(super) fn cut(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

pub(super) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A descriptor of `bytes`, for this host's platform.
pub(super) fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    serde_json::json!({
        "mediaType": media_type,
        "digest": sha256(bytes),
        "size": bytes.len(),
    })
}

/// The same with a platform.
pub(super) fn for_platform(manifest: &[u8], os: &str, architecture: &str) -> serde_json::Value {
    let mut entry = descriptor(MANIFEST, manifest);
    entry["platform"] = serde_json::json!({"os": os, "architecture": architecture});
    entry
}

pub(super) fn index(entries: &[serde_json::Value]) -> Vec<u8> {
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    serde_json::to_vec(&index).unwrap()
}

/// An image with these layers: its manifest, and all its blobs.
pub(super) struct TestImage {
    pub(super) manifest: Vec<u8>,
    pub(super) blobs: Vec<Vec<u8>>,
}

impl TestImage {
    pub(super) fn new(layers: &[Vec<u8>]) -> Self {
        Self::with_config(
            layers,
            serde_json::json!({
                "os": "linux",
                "architecture": super::manifest::host_architecture(),
                "config": {
                    "Entrypoint": ["/bin/app"], "Cmd": ["serve"], "Env": ["A=1", "B=x=y", "C"],
                    "WorkingDir": "srv", "User": "www:www",
                },
                "rootfs": {"type": "layers", "diff_ids": []},
            }),
        )
    }

    pub(super) fn with_config(layers: &[Vec<u8>], config: serde_json::Value) -> Self {
        let config = serde_json::to_vec(&config).unwrap();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers.iter().map(|l| descriptor(LAYER, l)).collect::<Vec<_>>(),
        });
        let mut blobs = layers.to_vec();
        blobs.push(config);
        Self {
            manifest: serde_json::to_vec(&manifest).unwrap(),
            blobs,
        }
    }

    /// With one file, `hello`.
    pub(super) fn hello(text: &str) -> Self {
        Self::new(&[gzip(&Tar::new().file("hello", text).end())])
    }

    pub(super) fn digest(&self) -> String {
        sha256(&self.manifest)
    }
}
