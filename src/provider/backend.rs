//! Opens the backend that the settings name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::settings::{BackendSetting, DockerSetting, SandboxSetting, Settings};
use crate::compute::docker::{Docker, DockerConfig};
#[cfg(feature = "demo")]
use crate::compute::fake::{FakeBackend, FakeHost};
use crate::compute::sandbox::{NetworkChoice, Sandbox, SandboxConfig};
use crate::compute::{BackendError, SharedBackend};
use crate::core::ids::{IdError, Name};

/// Name of the sandbox in handles and offers.
const SANDBOX: &str = "sandbox";
/// Name of Docker in handles and offers.
const DOCKER: &str = "docker";
/// Name of the fake in handles and offers.
#[cfg(feature = "demo")]
const FAKE: &str = "fake";

/// Opens the backend for work; its own files are in the data directory, under
/// its name.
///
/// # Errors
/// This host cannot run it; the text says what is missing.
pub async fn open(settings: &Settings) -> Result<SharedBackend, BackendError> {
    let max_mib = settings.images.max_mib;
    open_in(&settings.backend, max_mib, &settings.data_dir).await
}

/// A backend that was opened to be asked what it can do here. Its files are in
/// a folder of its own, which goes away with it: a daemon that runs is not
/// disturbed, and nothing is left.
pub struct Looked {
    /// The backend; for questions only.
    pub backend: SharedBackend,
    _folder: tempfile::TempDir,
}

/// Opens the backend to ask what it can do here, on the file system of the
/// data directory where that can be written.
///
/// # Errors
/// This host cannot run it; the text says what is missing.
pub async fn look(setting: &BackendSetting, data_dir: &Path) -> Result<Looked, BackendError> {
    let there = data_dir.ancestors().find(|dir| dir.is_dir());
    let folder = there
        .and_then(|dir| tempfile::tempdir_in(dir).ok())
        .map_or_else(tempfile::tempdir, Ok)
        .map_err(|error| BackendError::Permanent(format!("a temporary folder: {error}")))?;
    let backend = open_in(setting, 1, folder.path()).await?;
    Ok(Looked {
        backend,
        _folder: folder,
    })
}

async fn open_in(
    setting: &BackendSetting,
    max_image_mib: u64,
    folder: &Path,
) -> Result<SharedBackend, BackendError> {
    match setting {
        BackendSetting::Sandbox(setting) => {
            let config = sandbox(setting, max_image_mib, folder.join(SANDBOX))?;
            Ok(Arc::new(Sandbox::open(config).await?))
        }
        BackendSetting::Docker(setting) => {
            let config = docker(setting, max_image_mib, folder.join(DOCKER))?;
            Ok(Arc::new(Docker::open(config).await?))
        }
        #[cfg(feature = "demo")]
        BackendSetting::Fake => Ok(Arc::new(FakeBackend::new(name(FAKE)?, FakeHost::default()))),
    }
}

fn sandbox(
    setting: &SandboxSetting,
    max_image_mib: u64,
    root: PathBuf,
) -> Result<SandboxConfig, BackendError> {
    Ok(SandboxConfig {
        root,
        helper: helper()?,
        name: name(SANDBOX)?,
        network: if setting.network {
            NetworkChoice::Outgoing {
                resolvers: setting.resolvers.clone(),
            }
        } else {
            NetworkChoice::Loopback
        },
        max_image_mib,
    })
}

fn docker(
    setting: &DockerSetting,
    max_image_mib: u64,
    root: PathBuf,
) -> Result<DockerConfig, BackendError> {
    Ok(DockerConfig {
        root,
        helper: helper()?,
        name: name(DOCKER)?,
        socket: setting.socket.clone(),
        network: setting.network,
        resolvers: setting.resolvers.clone(),
        subnets: setting.subnets,
        max_image_mib,
        engine_exec: false,
    })
}

fn helper() -> Result<PathBuf, BackendError> {
    std::env::current_exe()
        .map_err(|error| BackendError::Permanent(format!("our own program: {error}")))
}

fn name(text: &str) -> Result<Name, BackendError> {
    text.parse()
        .map_err(|error: IdError| BackendError::Permanent(error.to_string()))
}
