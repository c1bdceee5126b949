//! OCI images for workloads: pulled from a registry or read from a layout,
//! verified, unpacked once and kept.
//!
//! What can be relied on:
//!
//! * Everything is checked against a SHA-256 digest before it is interpreted,
//!   and against size limits before it is kept.
//! * Unpacking never touches anything outside its own directory.
//! * [`ImageStore::ensure`] does one pull however many ask at once; when
//!   nobody waits any more, the pull ends and leaves nothing.
//! * A [`PreparedImage`] that somebody holds is not removed.
//!
//! A tag is asked for again after a while ([`ImageLimits::recheck_tag_after`]);
//! where the registry does not answer then, the image that is here is used.

mod archive;
mod budget;
mod config;
mod digest;
mod entries;
mod known;
mod layout;
mod limits;
mod manifest;
mod registry;
mod source;
mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tree;
pub mod unpack;

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use oci_client::Client;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::AbortOnDropHandle;

pub(in crate::compute) use archive::LayoutImage;
pub use budget::{Budget, UnpackError};
pub use config::RunConfig;
pub use limits::ImageLimits;
pub use store::PreparedImage;

use digest::Digest;
use layout::Layout;
use manifest::{Document, Manifest, choose, image_error};
use registry::Repository;
use source::{Source, blocking};
use store::{Job, Store};

use crate::compute::{BackendError, Image};
use crate::core::policy::images::validate_reference;

/// Images that are fetched and unpacked side by side.
const PULLS: usize = 4;

type Outcome = Result<Arc<PreparedImage>, BackendError>;

/// The images of this host.
pub struct ImageStore {
    inner: Arc<Inner>,
    flights: Mutex<HashMap<Image, Weak<Flight>>>,
}

/// Work that several callers wait for. It ends when the last one is gone.
struct Flight {
    outcome: watch::Receiver<Option<Outcome>>,
    task: AbortOnDropHandle<()>,
}

struct Inner {
    store: Arc<Store>,
    limits: ImageLimits,
    plain_http: Vec<String>,
    client: OnceLock<Client>,
    slots: Semaphore,
}

impl std::fmt::Debug for ImageStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageStore").finish_non_exhaustive()
    }
}

impl ImageStore {
    /// Opens or makes the store in `dir`, which becomes ours alone (0700).
    ///
    /// # Errors
    /// The directory cannot be made or written.
    pub fn open(dir: PathBuf, limits: ImageLimits) -> Result<Self, BackendError> {
        Self::open_with_plain_http(dir, limits, Vec::new())
    }

    /// The same with registries (`host:port`) that are asked without TLS. Only
    /// this host's own addresses may be among them.
    ///
    /// # Errors
    /// The directory cannot be made or written, or a registry is not on loopback.
    pub fn open_with_plain_http(
        dir: PathBuf,
        limits: ImageLimits,
        registries: Vec<String>,
    ) -> Result<Self, BackendError> {
        if let Some(far) = registries.iter().find(|registry| !is_loopback(registry)) {
            return Err(BackendError::Permanent(format!(
                "the registry {far} is not on this host; it has to be asked with TLS"
            )));
        }
        let inner = Inner {
            store: Arc::new(Store::open(&dir)?),
            limits,
            plain_http: registries,
            client: OnceLock::new(),
            slots: Semaphore::new(PULLS),
        };
        Ok(Self {
            inner: Arc::new(inner),
            flights: Mutex::default(),
        })
    }

    /// The image, fetched and unpacked where it is not here yet. Calls for one
    /// image at once share one pull and its outcome. Dropping the call is safe.
    ///
    /// # Errors
    /// [`BackendError::Image`] where the image is not there, not for this host,
    /// over a limit or broken; `Retry` where a registry does not answer or takes
    /// too long; `NoCapacity` where the disk is full; `Permanent` for
    /// [`Image::Host`], which is no image.
    pub async fn ensure(&self, image: &Image) -> Result<Arc<PreparedImage>, BackendError> {
        let flight = self.join(wanted(image)?);
        let mut outcome = flight.outcome.clone();
        let outcome = outcome.wait_for(Option::is_some).await;
        let outcome = outcome.ok().and_then(|outcome| outcome.clone());
        outcome.unwrap_or_else(|| {
            Err(BackendError::Retry(
                "fetching the image was interrupted".to_owned(),
            ))
        })
    }

    /// Removes all images but those of these digests (`sha256:…`, as in
    /// [`PreparedImage::digest`]) and those that are held. Gives the digests of
    /// what was removed.
    ///
    /// # Errors
    /// A digest is malformed, or the disk's own.
    pub async fn prune(&self, keep: &[String]) -> Result<Vec<String>, BackendError> {
        let keep: Vec<_> = keep
            .iter()
            .map(|d| Digest::parse(d))
            .collect::<Result<_, _>>()?;
        let store = Arc::clone(&self.inner.store);
        let removed = blocking(move || {
            let failed = |error| BackendError::Retry(format!("cannot remove images: {error}"));
            store.prune(&keep).map_err(failed)
        });
        Ok(removed.await?.into_iter().map(String::from).collect())
    }

    /// The pull of this image that is under way, or a new one.
    fn join(&self, image: Image) -> Arc<Flight> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way =
            |flight: &Arc<Flight>| flight.outcome.borrow().is_none() && !flight.task.is_finished();
        let old = flights.get(&image).and_then(Weak::upgrade);
        if let Some(flight) = old.filter(under_way) {
            return flight;
        }
        let (done, outcome) = watch::channel(None);
        let (inner, wanted) = (Arc::clone(&self.inner), image.clone());
        let task = tokio::spawn(async move {
            let _ = done.send(Some(inner.prepare(&wanted).await));
        });
        let task = AbortOnDropHandle::new(task);
        let flight = Arc::new(Flight { outcome, task });
        flights.retain(|_, flight| flight.strong_count() > 0);
        flights.insert(image, Arc::downgrade(&flight));
        flight
    }
}

/// Reads a manifest and a configuration as a pull does, without asking for what
/// they name. Of an index the entry for this host is looked at and the rest is
/// left alone: `None`. For tests.
///
/// # Errors
/// [`BackendError::Image`]: what is wrong with them.
#[doc(hidden)]
pub fn read_documents(
    manifest: &[u8],
    config: &[u8],
    limits: &ImageLimits,
) -> Result<Option<RunConfig>, BackendError> {
    match Document::parse(manifest)? {
        Document::Index(entries) => {
            choose(&entries, false)?.digest()?;
            choose(&entries, true)?.digest()?;
            Ok(None)
        }
        Document::Manifest(manifest) => {
            manifest.check(limits, limits.max_compressed_bytes)?;
            for named in manifest.layers.iter().chain([&manifest.config]) {
                named.digest()?;
            }
            RunConfig::parse(config).map(Some)
        }
    }
}

/// One name for one image.
fn wanted(image: &Image) -> Result<Image, BackendError> {
    match image {
        Image::Host => Err(BackendError::Permanent(
            "the host's own files are no image that could be fetched".to_owned(),
        )),
        Image::Reference(text) => match validate_reference(text) {
            Ok(full) => Ok(Image::Reference(full)),
            Err(error) => Err(image_error(error.to_string())),
        },
        Image::Layout(path) => Ok(Image::Layout(path.clone())),
    }
}

fn is_loopback(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let ip: Result<std::net::IpAddr, _> = host.parse();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

impl Inner {
    async fn prepare(&self, image: &Image) -> Outcome {
        let work = async {
            match image {
                Image::Host => Err(BackendError::Permanent("no image".to_owned())),
                Image::Reference(reference) => self.pull(reference).await,
                Image::Layout(path) => self.read_layout(path).await,
            }
        };
        let limit = self.limits.pull_timeout;
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
            Err(BackendError::Retry(format!(
                "the image was not here within {} s; try again later",
                limit.as_secs()
            )))
        })
    }

    async fn pull(&self, reference: &str) -> Outcome {
        let meaning = self.store.known.get(reference);
        let pinned = reference.contains('@');
        let fresh = meaning
            .as_ref()
            .is_some_and(|m| pinned || m.is_newer_than(self.limits.recheck_tag_after));
        let here = meaning.and_then(|meaning| self.store.lookup(&meaning.digest));
        let here = match here {
            Some(image) if fresh => return Ok(image),
            other => other,
        };
        let repository = Repository::new(self.client()?, reference)?;
        let source = Source::Registry(repository);
        match (source.resolve().await, here) {
            (Ok((digest, manifest)), _) => self.finish(reference, &source, digest, manifest).await,
            (Err(BackendError::Retry(why)), Some(image)) => {
                tracing::warn!(reference, why, "the image that is here is used");
                Ok(image)
            }
            (Err(error), _) => Err(error),
        }
    }

    async fn read_layout(&self, path: &Path) -> Outcome {
        let facts = fs::metadata(path).map_err(|error| {
            image_error(format!(
                "the layout {} cannot be read: {error}",
                path.display()
            ))
        })?;
        if facts.is_dir() {
            let source = Source::Layout(Layout::open(path)?);
            let (digest, manifest) = source.resolve().await?;
            return self.assemble(&source, digest, manifest).await;
        }
        // As long as it is the same file, it is not read again.
        let name = format!(
            "{}|{}|{}|{}.{}",
            path.display(),
            facts.ino(),
            facts.size(),
            facts.mtime(),
            facts.mtime_nsec()
        );
        let meaning = self.store.known.get(&name);
        if let Some(image) = meaning.and_then(|m| self.store.lookup(&m.digest)) {
            return Ok(image);
        }
        let staging = self.extract(path).await?;
        let source = Source::Layout(Layout::open(staging.path())?);
        let (digest, manifest) = source.resolve().await?;
        self.finish(&name, &source, digest, manifest).await
    }

    async fn extract(&self, path: &Path) -> Result<tempfile::TempDir, BackendError> {
        let staging = self.store.staging()?;
        let max = self
            .limits
            .max_compressed_bytes
            .max(self.limits.max_unpacked_bytes);
        let mut budget = layout::extract_budget(max);
        let _stop = StopOnDrop(budget.stop_flag());
        let path = path.to_owned();
        blocking(move || {
            let tarball = File::open(&path).map_err(|error| {
                image_error(format!(
                    "the layout {} cannot be read: {error}",
                    path.display()
                ))
            })?;
            layout::extract(tarball, staging.path(), &mut budget)?;
            Ok(staging)
        })
        .await
    }

    async fn finish(
        &self,
        name: &str,
        source: &Source,
        digest: Digest,
        manifest: Manifest,
    ) -> Outcome {
        let image = self.assemble(source, digest.clone(), manifest).await?;
        self.store.known.put(name, &digest);
        Ok(image)
    }

    async fn assemble(&self, source: &Source, digest: Digest, manifest: Manifest) -> Outcome {
        let gone = || BackendError::Retry("the image was removed meanwhile".to_owned());
        manifest.check(&self.limits, source.max_bytes(&self.limits))?;
        if let Some(image) = self.store.lookup(&digest) {
            return Ok(image);
        }
        let _slot = self.slots.acquire().await.map_err(|_| gone())?;
        let config = RunConfig::parse(&source.config(&manifest.config).await?)?;
        let staging = self.store.staging()?;
        let files = source.layers(&manifest.layers, staging.path()).await?;
        let budget = Budget::new(&self.limits);
        let _stop = StopOnDrop(budget.stop_flag());
        let job = Job {
            staging,
            digest: digest.clone(),
            config,
            layers: files.into_iter().zip(manifest.layers).collect(),
            budget,
        };
        let store = Arc::clone(&self.store);
        blocking(move || store.build(job)).await?;
        self.store.lookup(&digest).ok_or_else(gone)
    }

    fn client(&self) -> Result<Client, BackendError> {
        if let Some(client) = self.client.get() {
            return Ok(client.clone());
        }
        let client = registry::client(&self.limits, &self.plain_http)?;
        Ok(self.client.get_or_init(|| client).clone())
    }
}

/// Tells work on another thread that nobody waits for it.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
