//! The contract of `compute`, kept.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bollard::errors::Error;
use bollard::query_parameters::{
    ContainerArchiveInfoOptions, CreateContainerOptions, InspectContainerOptions,
    ListContainersOptions, RemoveContainerOptions, StartContainerOptions, StopContainerOptions,
};

use super::engine::{CHANGE, READ, Trouble, within};
use super::flights::Flying;
use super::images::Ready;
use super::observe::{self, Found};
use super::spec::{self, Wiring};
use super::{Docker, Inner, facts, networks};
use crate::compute::{
    Backend, BackendError, Capabilities, Dial, Exec, Handle, Health, Image, Inventory, Logs,
    Observed, Owned, Pause, WorkloadKey, WorkloadSpec,
};
use crate::core::capacity::Resources;
use crate::core::ids::Name;

/// Images are removed in each of so many rounds of tidying.
const PRUNE_EVERY: u32 = 60;
/// Subnets that are tried before giving up: others may hold some.
const SUBNETS_TRIED: usize = 64;
/// Looks at something that the engine is busy with.
const LOOKS: usize = 100;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

#[async_trait]
impl Backend for Docker {
    fn name(&self) -> &Name {
        &self.inner.name
    }

    fn capabilities(&self) -> &Capabilities {
        &self.inner.capabilities
    }

    async fn probe(&self) -> Result<Health, BackendError> {
        let version = within(READ, self.inner.docker.version())
            .await
            .map_err(|trouble| trouble.asking("asking the engine"))?;
        let component = version.components.iter().flatten().next();
        let name = component.map_or("Docker", |component| component.name.as_str());
        let number = version.version.unwrap_or_default();
        Ok(Health {
            engine: format!("{name} {number}").escape_debug().to_string(),
        })
    }

    async fn inventory(&self) -> Result<Inventory, BackendError> {
        let info = within(READ, self.inner.docker.info())
            .await
            .map_err(|trouble| trouble.asking("asking the engine"))?;
        let disk = self.inner.data_dir.as_ref().map_or(0, |dir| {
            let stat = nix::sys::statvfs::statvfs(dir);
            let bytes = stat.map_or(0, |stat| stat.blocks().saturating_mul(stat.fragment_size()));
            u32::try_from(bytes / (1024 * 1024)).unwrap_or(u32::MAX)
        });
        facts::inventory(&info, disk)
    }

    async fn prepare(&self, image: &Image) -> Result<(), BackendError> {
        self.inner.images.ensure(image).await.map(drop)
    }

    async fn create(&self, key: &WorkloadKey, spec: &WorkloadSpec) -> Result<Handle, BackendError> {
        let (flying, cancelled) = self.inner.flights.begin();
        let (inner, key, spec) = (self.inner.clone(), key.clone(), spec.clone());
        let task = tokio::spawn(async move { inner.create(&key, &spec, &flying).await });
        let _given_up = cancelled.drop_guard();
        task.await.unwrap_or_else(|error| {
            Err(BackendError::OutcomeUnknown(format!(
                "creating was interrupted: {error}"
            )))
        })
    }

    async fn observe(&self, handle: &Handle) -> Result<Observed, BackendError> {
        let key = self.inner.key(handle)?;
        if let Some(found) = self.inner.find(key).await? {
            return Ok(found.observed);
        }
        self.inner.same_engine(handle).await?;
        Ok(Observed::Absent)
    }

    async fn list_owned(&self) -> Result<Vec<Owned>, BackendError> {
        self.inner.flights.settle().await?;
        let options = ListContainersOptions {
            all: true,
            filters: Some(self.inner.instance.filter()),
            ..ListContainersOptions::default()
        };
        let containers = within(READ, self.inner.docker.list_containers(Some(options)))
            .await
            .map_err(|trouble| trouble.asking("listing containers"))?;
        // A network without a container is what a crash between the two left.
        let networks = self.inner.list_networks(None).await?;
        let labels = containers.into_iter().filter_map(|one| one.labels);
        let labels = labels.chain(networks.into_iter().filter_map(|one| one.labels));
        let mut owned: Vec<Owned> = Vec::new();
        for labels in labels.filter_map(|labels| self.inner.instance.read(&labels)) {
            if owned.iter().all(|known| known.labels.lease != labels.lease) {
                owned.push(Owned {
                    handle: self.inner.handle(&labels.lease),
                    labels,
                });
            }
        }
        Ok(owned)
    }

    async fn start(&self, handle: &Handle) -> Result<(), BackendError> {
        let key = self.inner.key(handle)?;
        let _turn = self.inner.flights.turn(key).await;
        match self.inner.find(key).await? {
            None => Err(BackendError::NotRunning),
            Some(found) if found.running() => Ok(()),
            Some(found) => self.inner.start(key, &found).await,
        }
    }

    async fn stop(&self, handle: &Handle, grace: Duration) -> Result<(), BackendError> {
        let key = self.inner.key(handle)?;
        let _turn = self.inner.flights.turn(key).await;
        match self.inner.find(key).await? {
            Some(found) if found.running() => self.inner.stop(&found, grace).await,
            _ => Ok(()),
        }
    }

    async fn destroy(&self, handle: &Handle) -> Result<(), BackendError> {
        let key = self.inner.key(handle)?;
        let _turn = self.inner.flights.turn(key).await;
        let was_there = self.inner.remove(key).await?;
        if !was_there {
            self.inner.same_engine(handle).await?;
        }
        Ok(())
    }

    async fn tidy(&self) -> Result<(), BackendError> {
        if let Some(networks) = &self.inner.networks {
            networks.uphold().await?;
        }
        let round = self.inner.rounds.fetch_add(1, Ordering::Relaxed);
        if round.is_multiple_of(PRUNE_EVERY) {
            let gone = self.inner.images.prune().await?;
            if gone > 0 {
                tracing::info!(images = gone, "images that nobody uses were removed");
            }
        }
        Ok(())
    }

    fn exec(&self) -> Option<&dyn Exec> {
        Some(self)
    }

    fn dial(&self) -> Option<&dyn Dial> {
        self.inner.door.is_some().then_some(self)
    }

    fn logs(&self) -> Option<&dyn Logs> {
        Some(self)
    }

    fn pause(&self) -> Option<&dyn Pause> {
        Some(self)
    }
}

impl Inner {
    /// A lease's container; `None`: the engine looked and has none.
    pub(super) async fn find(&self, key: &WorkloadKey) -> Result<Option<Found>, BackendError> {
        let name = self.instance.name(key);
        let asked = self
            .docker
            .inspect_container(&name, None::<InspectContainerOptions>);
        let found = match within(READ, asked).await {
            Ok(answer) => observe::found(answer)?,
            Err(Trouble::NotFound(_)) => return Ok(None),
            Err(trouble) => return Err(trouble.asking("looking at the container")),
        };
        let labels = self.instance.read(&found.labels);
        match labels.is_some_and(|labels| &labels.lease == key) {
            true => Ok(Some(found)),
            false => Err(BackendError::Permanent(format!(
                "the container {name} is not ours"
            ))),
        }
    }

    /// "Not there" counts only from the engine that made it.
    async fn same_engine(&self, handle: &Handle) -> Result<(), BackendError> {
        let made_by = handle.data.get("engine").and_then(|id| id.as_str());
        let info = within(READ, self.docker.info())
            .await
            .map_err(|trouble| trouble.asking("asking the engine"))?;
        let now = info.id.unwrap_or_default();
        match made_by {
            Some(id) if !id.is_empty() && !now.is_empty() && id != now => Err(BackendError::Retry(
                "another engine answers than the one that made the workload".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    async fn create(
        &self,
        key: &WorkloadKey,
        spec: &WorkloadSpec,
        flying: &Flying,
    ) -> Result<Handle, BackendError> {
        let _turn = self.flights.turn(key).await;
        flying.go_on()?;
        if let Some(found) = self.find(key).await? {
            return self.adopt(key, &found).await;
        }
        self.refuse_unenforced(&spec.resources)?;
        flying.go_on()?;
        let image = tokio::select! {
            image = self.images.ensure(&spec.image) => image?,
            () = flying.given_up() => return Err(BackendError::Retry("given up".to_owned())),
        };
        if self.quota && spec.resources.disk_mib > 0 && image.has_volumes {
            return Err(BackendError::Image(
                "it declares volumes, which no disk limit of this engine holds".to_owned(),
            ));
        }
        flying.go_on()?;
        match self.make(key, spec, &image, flying).await {
            Ok(()) => Ok(self.handle(key)),
            Err(error @ BackendError::OutcomeUnknown(_)) => Err(error),
            Err(error) => {
                // A caller who has given up sweeps; so does the next create.
                if flying.go_on().is_ok() {
                    self.remove(key).await?;
                }
                Err(error)
            }
        }
    }

    async fn adopt(&self, key: &WorkloadKey, found: &Found) -> Result<Handle, BackendError> {
        if !found.running() {
            self.start(key, found).await?;
        }
        Ok(self.handle(key))
    }

    async fn make(
        &self,
        key: &WorkloadKey,
        spec: &WorkloadSpec,
        image: &Ready,
        flying: &Flying,
    ) -> Result<(), BackendError> {
        let labels = self.instance.labels(key, spec);
        let (wiring, slot) = self.wire(key, labels).await?;
        flying.go_on()?;
        let body = spec::container(&self.instance, key, spec, image, &wiring, self.quota);
        let options = CreateContainerOptions {
            name: Some(self.instance.name(key)),
            ..CreateContainerOptions::default()
        };
        let made = self.docker.create_container(Some(options), body);
        let id = match within(CHANGE, made).await {
            Ok(made) => made.id,
            // A call that a dead daemon left behind got there first.
            Err(Trouble::Conflict(_)) => self.appears(key).await?,
            Err(Trouble::NotFound(text)) => return Err(BackendError::Image(text)),
            Err(trouble) => return Err(trouble.doing("creating the container")),
        };
        if let Some(program) = spec.command.first().filter(|name| name.starts_with('/')) {
            self.has_file(&id, program).await?;
        }
        flying.go_on()?;
        self.start_walled(key, &id, slot).await
    }

    /// A name that is taken belongs to something that can be seen soon.
    async fn appears(&self, key: &WorkloadKey) -> Result<String, BackendError> {
        for _ in 0..LOOKS {
            if let Some(found) = self.find(key).await? {
                return Ok(found.id);
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(BackendError::OutcomeUnknown(
            "the engine is still making the container".to_owned(),
        ))
    }

    /// The init that the engine puts before the program starts in any case, so
    /// that the engine itself does not notice a program that is missing.
    async fn has_file(&self, id: &str, path: &str) -> Result<(), BackendError> {
        let options = ContainerArchiveInfoOptions {
            path: path.to_owned(),
        };
        let asked = self.docker.get_container_archive_info(id, Some(options));
        match tokio::time::timeout(READ, asked).await {
            Ok(Err(Error::DockerResponseServerError {
                status_code: 404, ..
            })) => Err(BackendError::Permanent(format!(
                "the image has no program {}",
                path.escape_debug()
            ))),
            // Where it cannot be found out, the start will tell.
            _ => Ok(()),
        }
    }

    /// The lease's network, made where it is not there; its place.
    async fn wire(
        &self,
        key: &WorkloadKey,
        labels: std::collections::HashMap<String, String>,
    ) -> Result<(Wiring, Option<u32>), BackendError> {
        let Some(networks) = &self.networks else {
            return Ok((Wiring::Loopback, None));
        };
        let wiring = Wiring::Own {
            network: self.instance.name(key),
            resolvers: networks.resolvers().to_vec(),
        };
        let there = self.list_networks(Some(key)).await?;
        if let [one] = there.as_slice()
            && let Some(slot) = self.slot(one)
        {
            networks.note(slot);
            networks.stand().await?;
            return Ok((wiring, Some(slot)));
        }
        // Old engines make two of one name when they are asked at once.
        if !there.is_empty() {
            self.remove_networks(key).await?;
        }
        for _ in 0..SUBNETS_TRIED {
            let (slot, subnet) = networks.take().await?;
            let request = spec::network(&self.instance, key, labels.clone(), slot, &subnet);
            match within(CHANGE, self.docker.create_network(request)).await {
                Ok(_) => return Ok((wiring, Some(slot))),
                // Somebody else's network is there; the place stays taken.
                Err(Trouble::Refused(text) | Trouble::Failed(text))
                    if text.contains("overlap") || text.contains("bridge name") => {}
                Err(trouble) => {
                    if !matches!(trouble, Trouble::Unknown(_)) {
                        networks.give_back(slot).await;
                    }
                    return Err(trouble.doing("creating the network"));
                }
            }
        }
        Err(BackendError::NoCapacity(
            "the subnets of backend.subnets are taken by other networks".to_owned(),
        ))
    }

    /// Starts a container that has stopped.
    async fn start(&self, key: &WorkloadKey, found: &Found) -> Result<(), BackendError> {
        // Where somebody pruned unused networks, it is made again.
        let labels = found.labels.clone();
        let (_, slot) = self.wire(key, labels).await?;
        self.start_walled(key, &found.id, slot).await
    }

    /// Starts it, and sees that it is behind the wall.
    async fn start_walled(
        &self,
        key: &WorkloadKey,
        id: &str,
        mut slot: Option<u32>,
    ) -> Result<(), BackendError> {
        let start = || {
            let options = None::<StartContainerOptions>;
            within(CHANGE, self.docker.start_container(id, options))
        };
        let mut started = start().await;
        if matches!(&started, Err(trouble) if trouble.text().contains("ambiguous")) {
            slot = self.one_network(key).await?;
            started = start().await;
        }
        match started {
            Ok(()) | Err(Trouble::Unmodified) => {}
            Err(trouble) => return Err(start_error(trouble)),
        }
        let bridge = slot.map(|slot| self.instance.bridge(slot));
        match bridge.filter(|bridge| !networks::is_here(bridge)) {
            None => Ok(()),
            Some(bridge) => {
                let options = RemoveContainerOptions {
                    force: true,
                    v: true,
                    link: false,
                };
                drop(within(CHANGE, self.docker.remove_container(id, Some(options))).await);
                Err(BackendError::Permanent(format!(
                    "the engine made no bridge {bridge} on this host, so nothing walls the \
                     workload off; set backend.network to false"
                )))
            }
        }
    }

    async fn stop(&self, found: &Found, grace: Duration) -> Result<(), BackendError> {
        self.thaw(found).await?;
        let seconds = grace.as_millis().div_ceil(1000);
        let options = StopContainerOptions {
            t: Some(i32::try_from(seconds).unwrap_or(i32::MAX)),
            signal: None,
        };
        let stopped = self.docker.stop_container(&found.id, Some(options));
        match within(CHANGE.saturating_add(grace), stopped).await {
            Ok(()) | Err(Trouble::Unmodified | Trouble::NotFound(_)) => Ok(()),
            Err(trouble) => Err(trouble.doing("stopping the container")),
        }
    }

    /// Engines do not stop what is frozen.
    pub(super) async fn thaw(&self, found: &Found) -> Result<(), BackendError> {
        if !found.paused() {
            return Ok(());
        }
        match within(CHANGE, self.docker.unpause_container(&found.id)).await {
            Ok(()) => Ok(()),
            Err(Trouble::Unmodified | Trouble::NotFound(_) | Trouble::Conflict(_)) => Ok(()),
            // It is not paused, or does not run any more.
            Err(Trouble::Failed(text)) if text.contains("not paused") => Ok(()),
            Err(trouble) => Err(trouble.doing("resuming the container")),
        }
    }

    /// Removes a lease's container, its volumes and its network; whether there
    /// was a container.
    async fn remove(&self, key: &WorkloadKey) -> Result<bool, BackendError> {
        let found = self.find(key).await?;
        if let Some(found) = &found {
            self.thaw(found).await?;
            let options = RemoveContainerOptions {
                force: true,
                v: true,
                link: false,
            };
            let gone = self.docker.remove_container(&found.id, Some(options));
            match within(CHANGE, gone).await {
                Ok(()) | Err(Trouble::NotFound(_)) => {}
                // Somebody else removes it already.
                Err(Trouble::Conflict(_)) => self.disappears(key).await?,
                Err(trouble) => return Err(trouble.doing("removing the container")),
            }
        }
        self.remove_networks(key).await?;
        Ok(found.is_some())
    }

    /// Old engines make two networks of one name when they are asked at once,
    /// as after the death of a daemon: all but one go. The place of that one.
    async fn one_network(&self, key: &WorkloadKey) -> Result<Option<u32>, BackendError> {
        let mut there = self.list_networks(Some(key)).await?;
        let keep = there.pop();
        for network in &there {
            self.remove_network(network).await?;
        }
        Ok(keep.and_then(|network| self.slot(&network)))
    }

    async fn disappears(&self, key: &WorkloadKey) -> Result<(), BackendError> {
        for _ in 0..LOOKS {
            if self.find(key).await?.is_none() {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(BackendError::OutcomeUnknown(
            "the engine is still removing the container".to_owned(),
        ))
    }

    async fn remove_networks(&self, key: &WorkloadKey) -> Result<(), BackendError> {
        for network in self.list_networks(Some(key)).await? {
            self.remove_network(&network).await?;
        }
        Ok(())
    }

    async fn remove_network(&self, network: &bollard::models::Network) -> Result<(), BackendError> {
        let Some(id) = &network.id else {
            return Ok(());
        };
        let mut gone = within(CHANGE, self.docker.remove_network(id)).await;
        for _ in 0..LOOKS {
            // Endpoints of a container that is gone may take a moment.
            if !matches!(&gone, Err(Trouble::Refused(text)) if text.contains("endpoint")) {
                break;
            }
            tokio::time::sleep(LOOK).await;
            gone = within(CHANGE, self.docker.remove_network(id)).await;
        }
        match gone {
            Ok(()) | Err(Trouble::NotFound(_)) => {}
            Err(trouble) => return Err(trouble.doing("removing the network")),
        }
        if let (Some(networks), Some(slot)) = (&self.networks, self.slot(network)) {
            networks.give_back(slot).await;
        }
        Ok(())
    }

    /// A limit that does not hold here is not promised.
    fn refuse_unenforced(&self, ask: &Resources) -> Result<(), BackendError> {
        let kept = self.capabilities.enforces.of(*ask);
        if kept == *ask {
            return Ok(());
        }
        Err(BackendError::Permanent(format!(
            "limits that do not hold on this host: {ask:?} asked, {kept:?} held"
        )))
    }
}

/// What the engine says when a container does not start: a program or directory
/// that is not in the image comes as its runtime's words.
fn start_error(trouble: Trouble) -> BackendError {
    let runtime = |text: &str| {
        text.contains("OCI runtime") || text.contains("runc create") || text.contains("crun:")
    };
    match trouble {
        Trouble::Failed(text) if runtime(&text) && !text.contains("no space left") => {
            Trouble::Refused(text).doing("starting the container")
        }
        other => other.doing("starting the container"),
    }
}
