//! What an image says about how to run it.

use serde::{Deserialize, Serialize};

use super::manifest::{host_architecture, image_error, runs_here};
use crate::compute::BackendError;

/// Most words and variables together.
const MAX_STRINGS: usize = 4096;

/// How an image wants to be run (OCI image specification, "Image
/// Configuration"). No string has a NUL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunConfig {
    /// First part of the command line; may be empty.
    pub entrypoint: Vec<String>,
    /// Rest of the command line, replaced where a command is given; may be empty.
    pub cmd: Vec<String>,
    /// Environment, in the image's order; a name may be there twice.
    pub env: Vec<(String, String)>,
    /// Absolute path inside; it may be missing in the image. `/` where the
    /// image names none.
    pub workdir: String,
    /// `user`, `uid`, `user:group` or `uid:gid` as written; empty is root.
    pub user: String,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    config: Option<RawRun>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawRun {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
}

impl RunConfig {
    /// Reads an image's configuration blob.
    ///
    /// # Errors
    /// No such JSON, or it is for another platform.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, BackendError> {
        let raw: Raw = serde_json::from_slice(bytes)
            .map_err(|_| image_error("its configuration cannot be read"))?;
        if !runs_here(&raw.os, &raw.architecture) {
            let theirs = format!("{}/{}", raw.os, raw.architecture);
            return Err(image_error(format!(
                "it is for {}, this host runs linux/{}",
                super::budget::shown(theirs),
                host_architecture()
            )));
        }
        let run = raw.config.unwrap_or_default();
        let config = Self {
            entrypoint: run.entrypoint.unwrap_or_default(),
            cmd: run.cmd.unwrap_or_default(),
            env: run
                .env
                .unwrap_or_default()
                .iter()
                .filter_map(|text| variable(text))
                .collect(),
            workdir: absolute(&run.working_dir.unwrap_or_default()),
            user: run.user.unwrap_or_default(),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), BackendError> {
        let env = self.env.iter().flat_map(|(name, value)| [name, value]);
        let words = self.entrypoint.iter().chain(&self.cmd).chain(env);
        let mut all = words.chain([&self.workdir, &self.user]);
        if all.any(|text| text.contains('\0')) {
            return Err(image_error("its configuration has a NUL"));
        }
        let words = self.entrypoint.len().saturating_add(self.cmd.len());
        if words.saturating_add(self.env.len()) > MAX_STRINGS {
            return Err(image_error("its configuration is too long"));
        }
        Ok(())
    }
}

fn variable(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
}

fn absolute(path: &str) -> String {
    format!("/{}", path.trim_start_matches('/'))
}
