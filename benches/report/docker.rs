//! Docker by hand: what the engine itself takes for the same containers.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bollard::models::{ContainerCreateBody, HostConfig, NetworkCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptions, CreateImageOptions, RemoveContainerOptions, StartContainerOptions,
};
use futures::TryStreamExt;
use satlet::compute::docker::{Docker, DockerConfig, Range};

/// The image of all containers: a busybox that this host has.
pub(crate) const IMAGE: &str = "satlet-bench/busybox:latest";
/// A network that all containers made by hand share.
const SHARED: &str = "satlet-bench-shared";

fn socket() -> PathBuf {
    std::env::var_os("SATLET_TEST_DOCKER")
        .map_or_else(|| PathBuf::from("/var/run/docker.sock"), PathBuf::from)
}

fn client() -> Result<bollard::Docker> {
    // The protocol of Docker 20.10, which later engines speak too.
    let version = bollard::ClientVersion {
        major_version: 1,
        minor_version: 41,
    };
    let path = socket();
    let path = path.to_str().context("a path in UTF-8")?;
    Ok(bollard::Docker::connect_with_unix(path, 120, &version)?)
}

/// The backend, with the image in its engine.
pub(crate) async fn open(root: &Path, helper: &str) -> Result<Docker> {
    import(&client()?).await?;
    let config = DockerConfig {
        root: root.to_owned(),
        helper: helper.into(),
        name: "docker".parse()?,
        socket: socket(),
        network: true,
        resolvers: vec![[1, 1, 1, 1].into()],
        subnets: Range::parse("10.97.0.0/20").context("a range")?,
        max_image_mib: 64,
        engine_exec: false,
    };
    Ok(Docker::open(config).await?)
}

async fn import(engine: &bollard::Docker) -> Result<()> {
    let program = std::fs::read("/bin/busybox").context("busybox-static is not installed")?;
    let mut archive = tar::Builder::new(Vec::new());
    let mut head = tar::Header::new_gnu();
    head.set_size(program.len() as u64);
    head.set_mode(0o755);
    archive.append_data(&mut head, "bin/busybox", program.as_slice())?;
    for link in ["bin/sh", "bin/sleep"] {
        let mut head = tar::Header::new_gnu();
        head.set_entry_type(tar::EntryType::Symlink);
        head.set_size(0);
        head.set_mode(0o777);
        archive.append_link(&mut head, link, "busybox")?;
    }
    let options = CreateImageOptions {
        from_src: Some("-".to_owned()),
        repo: Some(IMAGE.to_owned()),
        ..Default::default()
    };
    let body = bollard::body_full(archive.into_inner()?.into());
    let told = engine.create_image(Some(options), Some(body), None);
    told.try_collect::<Vec<_>>().await?;
    Ok(())
}

/// Makes and starts containers with nothing but the engine.
pub(crate) struct ByHand {
    engine: bollard::Docker,
    /// A network for each of them, as tenants have, or one for all.
    own_network: bool,
}

impl ByHand {
    pub(crate) async fn new(own_network: bool) -> Result<Self> {
        let engine = client()?;
        if !own_network {
            // It may be there from a run that broke off.
            engine.remove_network(SHARED).await.ok();
            engine.create_network(network(SHARED)).await?;
        }
        Ok(Self {
            engine,
            own_network,
        })
    }

    /// One container; its name.
    pub(crate) async fn make(&self) -> Result<String> {
        let name = format!("satlet-bench-{:016x}", rand::random::<u64>());
        let network_name = if self.own_network {
            self.engine.create_network(network(&name)).await?;
            name.clone()
        } else {
            SHARED.to_owned()
        };
        let body = ContainerCreateBody {
            image: Some(IMAGE.to_owned()),
            cmd: Some(vec!["/bin/sleep".to_owned(), "86400".to_owned()]),
            host_config: Some(HostConfig {
                network_mode: Some(network_name),
                memory: Some(64 << 20),
                ..Default::default()
            }),
            ..Default::default()
        };
        let options = CreateContainerOptions {
            name: Some(name.clone()),
            ..Default::default()
        };
        self.engine.create_container(Some(options), body).await?;
        let start = None::<StartContainerOptions>;
        self.engine.start_container(&name, start).await?;
        Ok(name)
    }

    /// Removes them again.
    pub(crate) async fn clear(&self, names: &[String]) -> Result<()> {
        for name in names {
            let force = RemoveContainerOptions {
                force: true,
                v: true,
                ..Default::default()
            };
            self.engine.remove_container(name, Some(force)).await?;
            if self.own_network {
                self.engine.remove_network(name).await?;
            }
        }
        Ok(())
    }

    /// Removes what is shared.
    pub(crate) async fn end(&self) {
        if !self.own_network {
            self.engine.remove_network(SHARED).await.ok();
        }
    }
}

fn network(name: &str) -> NetworkCreateRequest {
    NetworkCreateRequest {
        name: name.to_owned(),
        driver: Some("bridge".to_owned()),
        ..Default::default()
    }
}
