//! All that a conformance fixture needs of this host, made when it is asked for.

use std::path::Path;

use satlet::compute::conformance::{Failure, HostSide};
use tokio::sync::OnceCell;

use super::host::{Marker, Secrets, Service, is_root, namespaces};
use super::lan::Machine;

/// This host and another machine.
pub(crate) struct Outside {
    service: Service,
    secrets: Secrets,
    marker: Marker,
    machine: Option<Machine>,
}

/// Made with the first look.
#[derive(Default)]
pub(crate) struct Lazy(OnceCell<Outside>);

impl Lazy {
    /// The host as it is now. Secrets are planted in `state` as well.
    pub(crate) async fn look(&self, state: &Path) -> Result<HostSide, Failure> {
        let outside = self.0.get_or_try_init(|| Outside::new(state)).await;
        Ok(outside?.side())
    }

    /// Connections that the host and its neighbours in the network have got.
    pub(crate) fn touched(&self) -> usize {
        let outside = self.0.get();
        outside.map_or(0, |outside| {
            let machine = outside.machine.as_ref().map_or(0, Machine::touched);
            outside.service.touched() + machine
        })
    }
}

impl Outside {
    async fn new(state: &Path) -> Result<Self, Failure> {
        let broken = |error: std::io::Error| Failure::broken(format!("the fixture: {error}"));
        let machine = match is_root() {
            true => Machine::start().map(Some).map_err(Failure::Broken)?,
            false => None,
        };
        let home = std::env::var("HOME").unwrap_or_else(|_| "/root".to_owned());
        let dirs = [
            state,
            Path::new(&home),
            Path::new("/var/tmp"),
            Path::new("/dev/shm"),
        ];
        Ok(Self {
            service: Service::start().await.map_err(broken)?,
            secrets: Secrets::plant(&dirs),
            marker: Marker::start().map_err(broken)?,
            machine,
        })
    }

    fn side(&self) -> HostSide {
        let machine = self.machine.as_ref();
        HostSide {
            services: self.service.addresses(),
            lan: machine.map(Machine::near).unwrap_or_default(),
            outside: machine.map(Machine::far).into_iter().collect(),
            secrets: self.secrets.list(),
            process: Some(self.marker.mark()),
            namespaces: namespaces(),
        }
    }
}
