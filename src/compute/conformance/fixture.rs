//! What a backend's tests give to the suite.

use std::net::SocketAddr;

use async_trait::async_trait;

use super::{Failure, Program, debian_line};
use crate::compute::{Handle, Image, SharedBackend};
use crate::core::capacity::Resources;

/// What the host looks like from outside, for probes from inside.
#[derive(Clone, Debug, Default)]
pub struct HostSide {
    /// Addresses where the host itself listens now, loopback included.
    pub services: Vec<SocketAddr>,
    /// Addresses where other machines of the host's network listen now.
    pub lan: Vec<SocketAddr>,
    /// Addresses on the outside that answer and that workloads may reach.
    pub outside: Vec<SocketAddr>,
    /// Files of the host that no workload may read, and text in them.
    pub secrets: Vec<(String, String)>,
    /// Part of the command line of a host process that runs now.
    pub process: Option<String>,
    /// Namespaces of the host, as `("pid", "pid:[4026531836]")`; empty where
    /// workloads have a kernel of their own.
    pub namespaces: Vec<(String, String)>,
}

/// A backend under test, alone on its own state.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// The backend.
    fn backend(&self) -> SharedBackend;

    /// The same backend as a restarted daemon would open it.
    ///
    /// # Errors
    /// It does not open.
    async fn reopen(&self) -> Result<SharedBackend, Failure>;

    /// An image with a POSIX shell at `/bin/sh`.
    fn image(&self) -> Image {
        Image::Host
    }

    /// An image that cannot be had.
    fn bad_image(&self) -> Image {
        Image::Layout("/nonexistent/satlet-conformance".into())
    }

    /// A command line of a main process that cannot be started; empty: every
    /// one can.
    fn bad_command(&self) -> Vec<String> {
        vec!["/nonexistent/program".to_owned()]
    }

    /// What a workload of the suite is given; limits that the backend does not
    /// enforce are taken out.
    fn resources(&self) -> Resources {
        Resources {
            cpu_millicores: 500,
            memory_mib: 128,
            disk_mib: 64,
            pids: 64,
        }
    }

    /// The shell line that does this inside a workload.
    fn program(&self, program: &Program) -> String {
        debian_line(program)
    }

    /// How many workloads of [`Fixture::resources`] there is room for, if the
    /// backend itself counts.
    fn slots(&self) -> Option<usize> {
        None
    }

    /// The handle as the version before would have written it; `None` where
    /// there was none.
    fn old_handle(&self, _handle: &Handle) -> Option<Handle> {
        None
    }

    /// Puts a workload there that is not ours.
    ///
    /// # Errors
    /// Skipped where the fixture cannot.
    async fn plant_stranger(&self) -> Result<(), Failure> {
        Err(Failure::skipped("the fixture has no stranger"))
    }

    /// Makes the engine unable to answer, or able again.
    ///
    /// # Errors
    /// Skipped where there is no engine that could be down.
    async fn set_engine_down(&self, _down: bool) -> Result<(), Failure> {
        Err(Failure::skipped("no engine that could be down"))
    }

    /// What workloads that are gone have left on the host: files, control
    /// groups, interfaces, rules, processes.
    ///
    /// # Errors
    /// It could not be found out.
    async fn leftovers(&self) -> Result<Vec<String>, Failure> {
        Ok(Vec::new())
    }

    /// The host, seen while a workload runs.
    ///
    /// # Errors
    /// It could not be found out.
    async fn host(&self) -> Result<HostSide, Failure> {
        Ok(HostSide::default())
    }

    /// How many connections the services of [`HostSide`] (not those outside)
    /// have got from anybody.
    fn touched(&self) -> usize {
        0
    }

    /// Why a case about this limit, which does not hold here, cannot be tried.
    fn unlimited(&self, what: &str) -> Failure {
        Failure::skipped(format!("no limit of {what} on this host"))
    }

    /// Whether the root inside has to be nobody outside.
    ///
    /// # Errors
    /// Moot where the operator's own set-up of an engine decides that.
    async fn root_is_mapped(&self) -> Result<(), Failure> {
        Ok(())
    }

    /// Removes all workloads, after a case.
    async fn close(&self) {
        let backend = self.backend();
        for owned in backend.list_owned().await.unwrap_or_default() {
            // A workload that cannot be removed shows in the case itself.
            backend.destroy(&owned.handle).await.unwrap_or_default();
        }
    }
}
