//! Opens the backend that the settings name.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::settings::{BackendSetting, SandboxSetting};
use crate::compute::sandbox::{NetworkChoice, Sandbox, SandboxConfig};
use crate::compute::{BackendError, SharedBackend};

/// Opens the backend, whose own files are below `data_dir`. Images may be up to
/// `max_image_mib` MiB, unpacked. Helpers are this program, started again: its
/// `main` begins with [`helper_main`](crate::compute::sandbox::helper_main).
///
/// # Errors
/// This host cannot run it; the text says what is missing.
pub async fn open(
    setting: &BackendSetting,
    data_dir: &Path,
    max_image_mib: u64,
) -> Result<SharedBackend, BackendError> {
    match setting {
        BackendSetting::Sandbox(sandbox) => {
            let helper = std::env::current_exe().map_err(|error| {
                BackendError::Permanent(format!("this program's own file: {error}"))
            })?;
            let config = sandbox_config(sandbox, data_dir, helper, max_image_mib);
            Ok(Arc::new(Sandbox::open(config?).await?))
        }
        #[cfg(feature = "demo")]
        BackendSetting::Fake => {
            let host = crate::compute::fake::FakeHost::default();
            let name = name("fake")?;
            Ok(Arc::new(crate::compute::fake::FakeBackend::new(name, host)))
        }
    }
}

fn name(text: &str) -> Result<crate::core::ids::Name, BackendError> {
    text.parse()
        .map_err(|error| BackendError::Permanent(format!("{text}: {error}")))
}

/// The sandbox below `data_dir`, with `helper` as its helper.
///
/// # Errors
/// None today: the name of the backend is fixed.
pub fn sandbox_config(
    setting: &SandboxSetting,
    data_dir: &Path,
    helper: PathBuf,
    max_image_mib: u64,
) -> Result<SandboxConfig, BackendError> {
    Ok(SandboxConfig {
        root: data_dir.join("sandbox"),
        helper,
        name: name("sandbox")?,
        network: network(setting),
        max_image_mib,
    })
}

fn network(setting: &SandboxSetting) -> NetworkChoice {
    if !setting.network {
        return NetworkChoice::Loopback;
    }
    let chosen: Vec<Ipv4Addr> = setting.resolvers.iter().filter_map(v4).collect();
    if chosen.is_empty() {
        NetworkChoice::default()
    } else {
        NetworkChoice::Outgoing { resolvers: chosen }
    }
}

/// Workloads have no IPv6, so a resolver with such an address is of no use.
fn v4(address: &IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    }
}
