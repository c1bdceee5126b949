//! Images in the engine: one that is there is used as it is; one that is not
//! is pulled by the engine, or loaded from a layout on this machine. However
//! many ask for one at once, it is fetched once, and when nobody waits any
//! more the fetch ends.
//!
//! What we fetched has a tag of ours beside its own, so that it can be removed
//! again; what the operator brought has not, and stays.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bollard::models::{CreateImageInfo, ImageInspect};
use bollard::query_parameters::{
    CreateImageOptions, ImportImageOptions, ListContainersOptions, ListImagesOptions,
    RemoveImageOptions, TagImageOptions,
};
use futures::StreamExt;
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, watch};
use tokio_util::io::ReaderStream;
use tokio_util::task::AbortOnDropHandle;

use super::engine::{CHANGE, READ, Trouble, within};
use super::names::Instance;
use crate::compute::sandbox::image::{ImageLimits, LayoutImage};
use crate::compute::{BackendError, Image};

/// Images that are fetched side by side.
const FETCHES: usize = 4;
/// Between two lines in the log about one pull.
const PROGRESS: Duration = Duration::from_secs(10);
/// An image that was fetched just now may have no container yet.
const YOUNG: Duration = Duration::from_secs(600);
/// What comes before a layout's tag.
const LAYOUT: &str = "layout";
/// What comes before the tag of what was pulled.
const PULLED: &str = "pulled";

/// An image that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ready {
    /// The engine's id of it, which names its content.
    pub(super) id: String,
    /// Whether it names a command.
    pub(super) has_command: bool,
    /// Whether it wants volumes, which no quota of the engine holds.
    pub(super) has_volumes: bool,
}

type Outcome = Result<Ready, BackendError>;

/// The images of an engine.
#[derive(Debug)]
pub(super) struct Images {
    inner: Arc<Inner>,
    flights: Mutex<HashMap<Image, Weak<Flight>>>,
}

#[derive(Debug)]
struct Flight {
    outcome: watch::Receiver<Option<Outcome>>,
    task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Inner {
    docker: bollard::Docker,
    instance: Instance,
    limits: ImageLimits,
    /// For archives on their way.
    work: PathBuf,
    slots: Semaphore,
    /// What was fetched when.
    young: Mutex<BTreeMap<String, Instant>>,
}

impl Images {
    pub(super) fn new(
        docker: bollard::Docker,
        instance: Instance,
        limits: ImageLimits,
        work: PathBuf,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                docker,
                instance,
                limits,
                work,
                slots: Semaphore::new(FETCHES),
                young: Mutex::default(),
            }),
            flights: Mutex::default(),
        }
    }

    /// The image, fetched where it is not there yet. Dropping the call is safe.
    ///
    /// # Errors
    /// [`BackendError::Image`] where it cannot be had or is too large; `Retry`
    /// where the engine or a registry does not answer.
    pub(super) async fn ensure(&self, image: &Image) -> Outcome {
        let flight = self.join(image);
        let mut outcome = flight.outcome.clone();
        let outcome = outcome.wait_for(Option::is_some).await;
        let outcome = outcome.ok().and_then(|outcome| outcome.clone());
        outcome.unwrap_or_else(|| {
            Err(BackendError::Retry(
                "fetching the image was interrupted".to_owned(),
            ))
        })
    }

    fn join(&self, image: &Image) -> Arc<Flight> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way =
            |flight: &Arc<Flight>| flight.outcome.borrow().is_none() && !flight.task.is_finished();
        let old = flights.get(image).and_then(Weak::upgrade);
        if let Some(flight) = old.filter(under_way) {
            return flight;
        }
        let (done, outcome) = watch::channel(None);
        let (inner, wanted) = (Arc::clone(&self.inner), image.clone());
        let task = tokio::spawn(async move {
            let _ = done.send(Some(inner.fetch(&wanted).await));
        });
        let task = AbortOnDropHandle::new(task);
        let flight = Arc::new(Flight { outcome, task });
        flights.retain(|_, flight| flight.strong_count() > 0);
        flights.insert(image.clone(), Arc::downgrade(&flight));
        flight
    }

    /// Removes what we fetched and no container stands on.
    ///
    /// # Errors
    /// The engine could not be asked.
    pub(super) async fn prune(&self) -> Result<usize, BackendError> {
        self.inner.prune().await
    }
}

impl Inner {
    async fn fetch(&self, image: &Image) -> Outcome {
        let work = async {
            match image {
                Image::Host => Err(BackendError::Permanent(
                    "the image `host` is this machine's own system, which only the sandbox runs"
                        .to_owned(),
                )),
                Image::Reference(reference) => self.reference(reference).await,
                Image::Layout(path) => self.layout(path).await,
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

    async fn reference(&self, reference: &str) -> Outcome {
        if let Some(image) = self.look(reference).await? {
            return self.check(image);
        }
        let _slot = self.slot().await?;
        self.pull(reference).await?;
        let mark = hex::encode(Sha256::digest(reference));
        let image = self.fetched(reference, reference).await?;
        let options = TagImageOptions {
            repo: Some(self.instance.repository(PULLED)),
            tag: mark.get(..32).map(str::to_owned),
        };
        within(CHANGE, self.docker.tag_image(&image.id, Some(options)))
            .await
            .map_err(|trouble| trouble.asking("marking an image"))?;
        Ok(image)
    }

    async fn layout(&self, path: &Path) -> Outcome {
        let layout = LayoutImage::open(path, &self.limits, &self.work).await?;
        let tag = format!("{}:{}", self.instance.repository(LAYOUT), layout.digest());
        if let Some(image) = self.look(&tag).await? {
            return self.check(image);
        }
        let _slot = self.slot().await?;
        let archive = layout.archive(&tag, &self.work).await?;
        self.load(archive).await?;
        tracing::info!(layout = %path.display(), "an image was loaded into the engine");
        self.fetched(&tag, &tag).await
    }

    async fn slot(&self) -> Result<tokio::sync::SemaphorePermit<'_>, BackendError> {
        let gone = |_| BackendError::Retry("fetching the image was interrupted".to_owned());
        self.slots.acquire().await.map_err(gone)
    }

    /// What has just come; where it is too large it goes again.
    async fn fetched(&self, name: &str, remove: &str) -> Outcome {
        let image = self.look(name).await?;
        let image = image.ok_or_else(|| {
            BackendError::Image("the engine does not have it after fetching it".to_owned())
        })?;
        let id = image.id.clone().unwrap_or_default();
        self.young().insert(id, Instant::now());
        let checked = self.check(image);
        if checked.is_err() {
            self.remove(remove).await;
        }
        checked
    }

    fn young(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Instant>> {
        self.young.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look(&self, name: &str) -> Result<Option<ImageInspect>, BackendError> {
        match within(READ, self.docker.inspect_image(name)).await {
            Ok(image) => Ok(Some(image)),
            Err(Trouble::NotFound(_)) => Ok(None),
            Err(trouble) => Err(trouble.asking("looking for an image")),
        }
    }

    fn check(&self, image: ImageInspect) -> Outcome {
        let size = image.size.and_then(|size| u64::try_from(size).ok());
        let max = self.limits.max_unpacked_bytes;
        if size.is_some_and(|size| size > max) {
            return Err(BackendError::Image(format!(
                "it has {} bytes, the most that is accepted here is {max}",
                size.unwrap_or_default()
            )));
        }
        ready(image)
    }

    async fn pull(&self, reference: &str) -> Result<(), BackendError> {
        let started = Instant::now();
        let options = CreateImageOptions {
            from_image: Some(reference.to_owned()),
            ..CreateImageOptions::default()
        };
        let mut progress = Progress::default();
        let mut told = started;
        // Dropping the stream has the engine give up.
        let mut stream = self.docker.create_image(Some(options), None, None);
        loop {
            let next = tokio::time::timeout(self.limits.stall_timeout.max(CHANGE), stream.next());
            let Some(step) = next.await.map_err(|_| {
                BackendError::Retry("the engine says nothing more about the pull".to_owned())
            })?
            else {
                break;
            };
            progress.add(step.map_err(|error| pull_error(reference, error.into()))?);
            if progress.total() > self.limits.max_compressed_bytes {
                return Err(BackendError::Image(format!(
                    "its layers have over {} bytes, which is the most that is accepted here",
                    self.limits.max_compressed_bytes
                )));
            }
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                let (here, total) = (progress.here(), progress.total());
                tracing::info!(reference, here, total, "an image is on its way, in bytes");
            }
        }
        let seconds = started.elapsed().as_secs();
        tracing::info!(reference, seconds, "an image was pulled");
        Ok(())
    }

    async fn load(&self, archive: std::fs::File) -> Result<(), BackendError> {
        let body = bollard::body_try_stream(ReaderStream::with_capacity(
            tokio::fs::File::from_std(archive),
            256 * 1024,
        ));
        let options = ImportImageOptions {
            quiet: true,
            ..ImportImageOptions::default()
        };
        let mut stream = self.docker.import_image(options, body, None);
        while let Some(step) = stream.next().await {
            step.map_err(|error| match Trouble::from(error) {
                Trouble::Failed(text) | Trouble::Refused(text) => BackendError::Image(text),
                other => other.asking("loading an image"),
            })?;
        }
        Ok(())
    }

    /// Takes a name away from an image; with its last one it goes.
    async fn remove(&self, name: &str) {
        let options = RemoveImageOptions::default();
        let gone = within(CHANGE, self.docker.remove_image(name, Some(options), None)).await;
        match gone {
            Ok(_) | Err(Trouble::NotFound(_) | Trouble::Conflict(_)) => {}
            Err(trouble) => {
                tracing::warn!(name, why = trouble.text(), "an image could not be removed");
            }
        }
    }

    async fn prune(&self) -> Result<usize, BackendError> {
        self.young().retain(|_, at| at.elapsed() < YOUNG);
        let (layouts, pulled) = (
            self.instance.repository(LAYOUT),
            self.instance.repository(PULLED),
        );
        let ours = [layouts.clone(), pulled.clone()];
        let options = ListImagesOptions {
            filters: Some(HashMap::from([("reference".to_owned(), ours.to_vec())])),
            ..ListImagesOptions::default()
        };
        let images = within(READ, self.docker.list_images(Some(options)))
            .await
            .map_err(|trouble| trouble.asking("listing images"))?;
        let options = ListContainersOptions {
            all: true,
            ..ListContainersOptions::default()
        };
        let containers = within(READ, self.docker.list_containers(Some(options)))
            .await
            .map_err(|trouble| trouble.asking("listing containers"))?;
        let used = |id: &str| {
            let of = |one: &bollard::models::ContainerSummary| one.image_id.as_deref() == Some(id);
            containers.iter().any(of) || self.young().contains_key(id)
        };
        let mut gone = 0;
        for image in images.iter().filter(|image| !used(&image.id)) {
            // A name that came with the pull goes with our mark; one of an
            // operator's image that is only loaded has no other name.
            let was_pulled = image.repo_tags.iter().any(|tag| tag.starts_with(&pulled));
            let (marks, names): (Vec<&String>, Vec<&String>) = image
                .repo_tags
                .iter()
                .partition(|tag| tag.starts_with(&layouts) || tag.starts_with(&pulled));
            let names = names.into_iter().chain(&image.repo_digests);
            for name in names.filter(|_| was_pulled) {
                self.remove(name).await;
            }
            for mark in marks {
                self.remove(mark).await;
            }
            gone += 1;
        }
        Ok(gone)
    }
}

/// # Errors
/// The engine's answer has no id.
pub(super) fn ready(image: ImageInspect) -> Outcome {
    let id = image
        .id
        .ok_or_else(|| BackendError::Retry("the engine's image has no id".to_owned()))?;
    let config = image.config.unwrap_or_default();
    let some = |words: &Option<Vec<String>>| words.as_ref().is_some_and(|words| !words.is_empty());
    Ok(Ready {
        id,
        has_command: some(&config.cmd) || some(&config.entrypoint),
        has_volumes: some(&config.volumes),
    })
}

/// How far a pull is, in bytes as they are transferred, by layer.
#[derive(Debug, Default)]
pub(super) struct Progress {
    layers: BTreeMap<String, (u64, u64)>,
}

impl Progress {
    pub(super) fn add(&mut self, step: CreateImageInfo) {
        let (Some(layer), Some(detail)) = (step.id, step.progress_detail) else {
            return;
        };
        let bytes = |number: Option<i64>| number.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        if step.status.as_deref() == Some("Downloading") {
            self.layers
                .insert(layer, (bytes(detail.current), bytes(detail.total)));
        }
    }

    pub(super) fn here(&self) -> u64 {
        self.layers.values().map(|(here, _)| here).sum()
    }

    /// What is known of it so far.
    pub(super) fn total(&self) -> u64 {
        self.layers
            .values()
            .map(|(here, total)| here.max(total))
            .sum()
    }
}

/// The engine hands on in words what a registry said.
pub(super) fn pull_error(reference: &str, trouble: Trouble) -> BackendError {
    let text = trouble.text();
    let final_words = [
        "not found",
        "unknown",
        "denied",
        "unauthorized",
        "no matching manifest",
        "invalid reference",
        "unsupported",
    ];
    let is_final = match &trouble {
        Trouble::NotFound(_) | Trouble::Refused(_) => true,
        Trouble::Failed(text) => final_words.iter().any(|word| text.contains(word)),
        _ => false,
    };
    if is_final {
        let text: String = text.trim().chars().take(300).collect();
        return BackendError::Image(format!("{reference}: {}", text.escape_debug()));
    }
    trouble.asking("pulling an image")
}
