//! The stock OpenSSH client, with strict host key checking against the key that
//! was published and nothing of this machine's own configuration.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use super::world::LONG;

/// A way in, as a provider published it.
pub(crate) struct Stock {
    host: String,
    port: u64,
    user: String,
    key: PathBuf,
    dir: TempDir,
}

/// The first of these tools that is not installed.
pub(crate) fn missing(tools: &[&str]) -> Option<String> {
    let gone = tools.iter().find(|tool| in_path(tool).is_none())?;
    Some((*gone).to_owned())
}

/// Where a tool is installed.
pub(crate) fn in_path(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = std::env::split_paths(&path).map(|dir| dir.join(tool));
    all.find(|path| path.exists())
}

impl Stock {
    /// From `{host, port, user, host_key}` and a private key's file.
    pub(crate) fn new(access: &Value, key: &Path) -> Self {
        let text = |name: &str| access[name].as_str().unwrap().to_owned();
        let this = Self {
            host: text("host"),
            port: access["port"].as_u64().unwrap(),
            user: text("user"),
            key: key.to_owned(),
            dir: tempfile::tempdir().unwrap(),
        };
        let line = format!("[{}]:{} {}\n", this.host, this.port, text("host_key"));
        std::fs::write(this.known_hosts(), line).unwrap();
        this
    }

    fn known_hosts(&self) -> PathBuf {
        self.dir.path().join("known_hosts")
    }

    /// `user@host`.
    pub(crate) fn there(&self) -> String {
        format!("{}@{}", self.user, self.host)
    }

    /// ssh, scp or sftp with all options.
    pub(crate) fn command(&self, tool: &str) -> Command {
        let mut command = Command::new(tool);
        command.args(["-F", "/dev/null"]);
        for option in [
            format!("IdentityFile={}", self.key.display()),
            "IdentitiesOnly=yes".to_owned(),
            "IdentityAgent=none".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
            format!("UserKnownHostsFile={}", self.known_hosts().display()),
            "GlobalKnownHostsFile=/dev/null".to_owned(),
            "BatchMode=yes".to_owned(),
            "LogLevel=ERROR".to_owned(),
            format!("Port={}", self.port),
        ] {
            command.args(["-o".to_owned(), option]);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs a line in the workload.
    pub(crate) async fn run(&self, line: &str) -> Output {
        let mut ssh = self.command("ssh");
        ssh.arg(self.there()).arg(line);
        finish(ssh).await
    }
}

/// Runs it to its end.
pub(crate) async fn finish(mut command: Command) -> Output {
    let output = tokio::time::timeout(LONG, command.output()).await;
    output.expect("the client ends").unwrap()
}

/// What it printed.
pub(crate) fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a line as who logs in with a password, where no host key was published.
pub(crate) async fn by_password(
    host: &str,
    port: u64,
    user: &str,
    password: &str,
    line: &str,
) -> Output {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    // ssh asks this program instead of a terminal.
    let asked = dir.path().join("askpass");
    std::fs::write(&asked, "#!/bin/sh\nprintf '%s\\n' \"$PASSWORD\"\n").unwrap();
    std::fs::set_permissions(&asked, PermissionsExt::from_mode(0o700)).unwrap();
    let mut ssh = Command::new("ssh");
    ssh.args(["-F", "/dev/null"]);
    for option in [
        format!("UserKnownHostsFile={}", dir.path().join("known").display()),
        "GlobalKnownHostsFile=/dev/null".to_owned(),
        "StrictHostKeyChecking=accept-new".to_owned(),
        "PreferredAuthentications=password,keyboard-interactive".to_owned(),
        "PubkeyAuthentication=no".to_owned(),
        "NumberOfPasswordPrompts=1".to_owned(),
        "IdentityAgent=none".to_owned(),
        "LogLevel=ERROR".to_owned(),
        format!("Port={port}"),
    ] {
        ssh.args(["-o".to_owned(), option]);
    }
    ssh.arg(format!("{user}@{host}"))
        .arg(line)
        .env("SSH_ASKPASS", &asked)
        .env("SSH_ASKPASS_REQUIRE", "force")
        .env("PASSWORD", password)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    finish(ssh).await
}
