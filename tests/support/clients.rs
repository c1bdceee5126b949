//! The clients in `tests/clients/`, which run on node and on libraries that
//! nobody here wrote.

use std::path::PathBuf;
use std::process::{Output, Stdio};

use tempfile::TempDir;
use tokio::process::Command;

use super::openssh::missing;
use super::root;

const SCRIPTS: [&str; 3] = ["globals.mjs", "paygress1.mjs", "satlet1.mjs"];

/// The scripts beside their libraries, in a directory of the test.
pub(crate) struct Clients {
    dir: TempDir,
}

impl Clients {
    /// Those of the source tree on the libraries that `npm ci` put into
    /// `$SATLET_TEST_CLIENTS` or beside them; or what is missing.
    pub(crate) fn find() -> Result<Self, String> {
        if let Some(tool) = missing(&["node"]) {
            return Err(format!("{tool} is not installed"));
        }
        let sources = root().join("tests/clients");
        let libraries = std::env::var_os("SATLET_TEST_CLIENTS").map(PathBuf::from);
        let libraries = libraries.unwrap_or_else(|| sources.clone());
        let libraries = libraries.join("node_modules");
        if !libraries.is_dir() {
            return Err(format!("npm ci has not made {}", libraries.display()));
        }
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(&libraries, dir.path().join("node_modules")).unwrap();
        for script in SCRIPTS {
            std::fs::copy(sources.join(script), dir.path().join(script)).unwrap();
        }
        Ok(Self { dir })
    }

    /// `node SCRIPT ARGS…`, with pipes.
    pub(crate) fn command(&self, script: &str, args: &[&str]) -> Command {
        let mut command = Command::new("node");
        command
            .arg(self.dir.path().join(script))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs an old-style client to its end.
    pub(crate) async fn paygress(&self, secret: &str, args: &[&str]) -> Output {
        self.paygress_later(0, secret, args).await
    }

    /// The same, with a clock that is so many seconds ahead.
    pub(crate) async fn paygress_later(&self, ahead: u32, secret: &str, args: &[&str]) -> Output {
        let mut command = self.command("paygress1.mjs", args);
        command
            .env("NOSTR_SECRET", secret)
            .env("CLOCK_AHEAD", ahead.to_string())
            .stdin(Stdio::null());
        // Its own patience is two minutes, after a search.
        let patience = std::time::Duration::from_secs(180);
        let output = tokio::time::timeout(patience, command.output()).await;
        output.expect("the client ends").unwrap()
    }
}
