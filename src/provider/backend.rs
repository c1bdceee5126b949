//! Opens the backend that the settings name.

use std::path::Path;

use super::settings::BackendSetting;
use crate::compute::{BackendError, SharedBackend};

/// Opens the backend, whose own files are below `data_dir`.
///
/// # Errors
/// This host cannot run it; the text says what is missing.
pub async fn open(
    setting: &BackendSetting,
    data_dir: &Path,
) -> Result<SharedBackend, BackendError> {
    let _ = data_dir;
    match setting {
        BackendSetting::Sandbox(_) => Err(BackendError::Permanent(
            "the sandbox backend is not part of this build".to_owned(),
        )),
        #[cfg(feature = "demo")]
        BackendSetting::Fake => Err(BackendError::Permanent(
            "the fake backend is not part of this build".to_owned(),
        )),
    }
}
