//! Images out of a registry.

use std::path::{Path, PathBuf};

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use oci_client::Reference;
use oci_client::client::{Client, ClientConfig, ClientProtocol, LayerDescriptor};
use oci_client::errors::{DigestError, OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use tokio::io::AsyncWriteExt;

use super::budget::disk_error;
use super::digest::Digest;
use super::limits::ImageLimits;
use super::manifest::{ACCEPTED, Descriptor, MAX_MANIFEST, image_error};
use crate::compute::BackendError;

/// Layers that are fetched side by side.
const DOWNLOADS: usize = 3;

/// A client for registries, used for all pulls: it keeps tokens.
///
/// # Errors
/// No way to speak TLS on this host.
pub(super) fn client(limits: &ImageLimits, plain_http: &[String]) -> Result<Client, BackendError> {
    let config = ClientConfig {
        protocol: ClientProtocol::HttpsExcept(plain_http.to_vec()),
        read_timeout: Some(limits.stall_timeout),
        connect_timeout: Some(limits.stall_timeout),
        user_agent: concat!("satlet/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    };
    Client::try_from(config).map_err(|error| {
        BackendError::Permanent(format!("cannot make a client for registries: {error}"))
    })
}

/// One repository in a registry.
pub(super) struct Repository {
    client: Client,
    reference: Reference,
}

impl Repository {
    /// `reference` as [`crate::core::policy::images::validate_reference`] writes it.
    pub(super) fn new(client: Client, reference: &str) -> Result<Self, BackendError> {
        let reference = reference
            .parse()
            .map_err(|error| image_error(format!("{reference}: {error}")))?;
        Ok(Self { client, reference })
    }

    /// The digest that the reference pins.
    pub(super) fn pinned(&self) -> Result<Option<Digest>, BackendError> {
        self.reference.digest().map(Digest::parse).transpose()
    }

    /// What the reference names now, and its digest.
    pub(super) async fn top(&self) -> Result<(Vec<u8>, Digest), BackendError> {
        let body = self.manifest(&self.reference).await?;
        let digest = Digest::of(&body);
        match self.pinned()? {
            Some(pinned) if pinned != digest => Err(pinned.mismatch()),
            _ => Ok((body, digest)),
        }
    }

    /// A manifest by its digest.
    pub(super) async fn document(&self, entry: &Descriptor) -> Result<Vec<u8>, BackendError> {
        let digest = entry.digest()?;
        let pinned = self.reference.clone_with_digest(digest.to_string());
        let body = self.manifest(&pinned).await?;
        if body.len() as u64 != entry.size {
            return Err(digest.wrong_size());
        }
        digest.check(&body)?;
        Ok(body)
    }

    async fn manifest(&self, reference: &Reference) -> Result<Vec<u8>, BackendError> {
        let auth = RegistryAuth::Anonymous;
        let pull = self.client.pull_manifest_raw(reference, &auth, &ACCEPTED);
        let (body, _) = pull.await.map_err(|error| self.error(&error))?;
        if body.len() as u64 > MAX_MANIFEST {
            return Err(image_error("its manifest is larger than 4 MiB"));
        }
        Ok(body.into())
    }

    /// A small blob, whole, with the digest checked.
    pub(super) async fn blob(&self, entry: &Descriptor) -> Result<Vec<u8>, BackendError> {
        let mut bytes = Vec::new();
        self.fetch(entry, &mut bytes).await?;
        entry.digest()?.check(&bytes)?;
        Ok(bytes)
    }

    /// The layers into files of `dir`, in the same order.
    pub(super) async fn layers(
        &self,
        layers: &[Descriptor],
        dir: &Path,
    ) -> Result<Vec<PathBuf>, BackendError> {
        let mut fetches: Vec<BoxFuture<'_, _>> = Vec::new();
        for (n, layer) in layers.iter().enumerate() {
            fetches.push(self.layer(layer, dir.join(n.to_string())).boxed());
        }
        futures::stream::iter(fetches)
            .buffered(DOWNLOADS)
            .try_collect()
            .await
    }

    async fn layer(&self, layer: &Descriptor, path: PathBuf) -> Result<PathBuf, BackendError> {
        let disk =
            |error: std::io::Error| disk_error(&error, &format!("cannot keep a layer: {error}"));
        let mut file = tokio::fs::File::create_new(&path).await.map_err(disk)?;
        self.fetch(layer, &mut file).await?;
        file.flush().await.map_err(disk)?;
        Ok(path)
    }

    /// Streams a blob, which must have exactly the size announced. The client
    /// checks the digest at the end of the stream.
    async fn fetch(
        &self,
        entry: &Descriptor,
        into: &mut (impl AsyncWriteExt + Unpin),
    ) -> Result<(), BackendError> {
        let digest = entry.digest()?;
        let text = digest.to_string();
        // No URLs from the manifest: they would lead anywhere.
        let layer = LayerDescriptor {
            digest: &text,
            urls: &None,
        };
        let pull = self.client.pull_blob_stream(&self.reference, &layer);
        let mut stream = pull.await.map_err(|error| self.error(&error))?;
        let mut left = entry.size;
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|error| self.stream_error(&error, &digest))?;
            let after = left.checked_sub(piece.len() as u64);
            left = after.ok_or_else(|| digest.wrong_size())?;
            let written = into.write_all(&piece).await;
            written
                .map_err(|error| disk_error(&error, &format!("cannot keep a layer: {error}")))?;
        }
        if left > 0 {
            return Err(digest.wrong_size());
        }
        Ok(())
    }

    fn stream_error(&self, error: &std::io::Error, digest: &Digest) -> BackendError {
        if error
            .get_ref()
            .is_some_and(|inner| inner.is::<DigestError>())
        {
            return digest.mismatch();
        }
        self.silent()
    }

    fn silent(&self) -> BackendError {
        let registry = self.reference.registry();
        BackendError::Retry(format!(
            "the registry {registry} does not answer; try again later"
        ))
    }

    /// What a failure means for the one who asked. Text from the registry is
    /// not passed on.
    fn error(&self, error: &OciDistributionError) -> BackendError {
        use OciDistributionError as E;
        let (registry, reference) = (self.reference.registry(), &self.reference);
        let absent = || image_error(format!("{registry} has no image {reference}"));
        let private = || {
            image_error(format!(
                "{registry} does not give {reference} to everybody: it is private or not there"
            ))
        };
        let busy =
            || BackendError::Retry(format!("the registry {registry} is busy; try again later"));
        tracing::debug!(%reference, %error, "a registry refuses");
        match error {
            E::RequestError(_) | E::IoError(_) => self.silent(),
            E::ServerError { code: 404, .. } | E::ImageManifestNotFoundError(_) => absent(),
            E::ServerError { code: 403, .. } | E::UnauthorizedError { .. } => private(),
            E::AuthenticationFailure(_) => private(),
            E::ServerError {
                code: 408 | 429 | 500..,
                ..
            } => busy(),
            E::DigestError(_) => {
                image_error(format!("{registry} gives {reference} a wrong digest"))
            }
            E::RegistryError { envelope, .. } => match envelope.errors.first().map(|e| &e.code) {
                Some(OciErrorCode::Toomanyrequests) => busy(),
                Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => private(),
                _ => absent(),
            },
            _ => image_error(format!("{registry} does not answer as a registry does")),
        }
    }
}
