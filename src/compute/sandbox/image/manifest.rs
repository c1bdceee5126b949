//! Manifests and indexes (OCI image specification; Docker's are the same but
//! for their media types).

use serde::Deserialize;

use super::digest::Digest;
use super::limits::ImageLimits;
use crate::compute::BackendError;

/// Largest manifest or index, in bytes, as most registries have it too.
pub(super) const MAX_MANIFEST: u64 = 4 * 1024 * 1024;
/// Largest configuration, in bytes.
pub(super) const MAX_CONFIG: u64 = 4 * 1024 * 1024;
/// Indexes within indexes.
pub(super) const MAX_NESTING: usize = 4;

/// Media types that are asked for.
pub(super) const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// What names a piece of content.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    /// Bytes.
    pub(super) size: u64,
    platform: Option<Platform>,
}

#[derive(Clone, Debug, Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

impl Descriptor {
    pub(super) fn digest(&self) -> Result<Digest, BackendError> {
        Digest::parse(&self.digest)
    }

    fn is_layer(&self) -> bool {
        let kind = self.media_type.as_str();
        let known = kind.starts_with("application/vnd.oci.image.layer.v1.tar")
            || kind.starts_with("application/vnd.docker.image.rootfs.diff.tar");
        known && !kind.ends_with("+encrypted")
    }
}

/// An image for one platform.
#[derive(Clone, Debug)]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// What a registry or a layout may name an image by.
#[derive(Clone, Debug)]
pub(super) enum Document {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u32,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

pub(super) fn image_error(text: impl Into<String>) -> BackendError {
    BackendError::Image(text.into())
}

impl Document {
    /// # Errors
    /// No JSON, another version, or both kinds in one (CVE-2021-41190).
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, BackendError> {
        let raw: Raw = serde_json::from_slice(bytes)
            .map_err(|_| image_error("its manifest is no image manifest of version 2"))?;
        if raw.schema_version != 2 {
            return Err(image_error(
                "its manifest has an old version; push it again with a newer tool",
            ));
        }
        match (raw.manifests, raw.config, raw.layers) {
            (Some(manifests), None, None) => Ok(Self::Index(manifests)),
            (None, Some(config), Some(layers)) => Ok(Self::Manifest(Manifest { config, layers })),
            _ => Err(image_error("its manifest is neither an image nor an index")),
        }
    }
}

impl Manifest {
    /// # Errors
    /// Over a limit, or not made of layers that can be unpacked.
    pub(super) fn check(&self, limits: &ImageLimits, max_bytes: u64) -> Result<(), BackendError> {
        if self.layers.len() > limits.max_layers {
            return Err(image_error(format!(
                "it has {} layers, the most that is accepted here is {}",
                self.layers.len(),
                limits.max_layers
            )));
        }
        if self.config.size > MAX_CONFIG {
            return Err(image_error("its configuration is larger than 4 MiB"));
        }
        let mut sum: u64 = 0;
        for layer in &self.layers {
            if !layer.is_layer() {
                return Err(image_error(
                    "it has a layer that is no plain file system archive; is it a container image?",
                ));
            }
            sum = sum.saturating_add(layer.size);
        }
        if sum > max_bytes {
            return Err(image_error(format!(
                "its layers have {sum} bytes, the most that is accepted here is {max_bytes}"
            )));
        }
        Ok(())
    }
}

/// This host's architecture as images name it.
pub(super) fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        same => same,
    }
}

/// Whether what is for this platform runs here. Empty fields are given the
/// benefit of the doubt.
pub(super) fn runs_here(os: &str, architecture: &str) -> bool {
    matches!(os, "" | "linux") && (architecture.is_empty() || architecture == host_architecture())
}

/// The entry of an index for this host: the first that names its platform,
/// else the first that names none.
///
/// # Errors
/// Nothing for this host; or, where `only_one`, several of them.
pub(super) fn choose(entries: &[Descriptor], only_one: bool) -> Result<&Descriptor, BackendError> {
    let ours = |entry: &&Descriptor| {
        let platform = entry.platform.as_ref();
        platform.is_some_and(|p| runs_here(&p.os, &p.architecture))
    };
    let named: Vec<_> = entries.iter().filter(ours).collect();
    let unnamed = || {
        entries
            .iter()
            .filter(|entry| entry.platform.is_none())
            .collect()
    };
    let found = if named.is_empty() { unnamed() } else { named };
    let Some(first) = found.first() else {
        return Err(image_error(format!(
            "there is none for linux/{}, which is what this host runs",
            host_architecture()
        )));
    };
    let different = found.iter().any(|other| other.digest != first.digest);
    if only_one && different {
        return Err(image_error(
            "there are several images in the layout; make one layout for each",
        ));
    }
    Ok(first)
}
