//! Into a lease: `ssh`, `exec`, `cp`. The system's OpenSSH where there is one,
//! with a known_hosts file of the lease's own, so that the only host key that
//! is accepted is the one the provider published; the built-in client elsewhere.

use std::ffi::OsString;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use serde_json::json;

use super::args::SshArgs;
use super::password::{environment, password_door};
use super::{App, Outcome};
use crate::cli::output::Done;
use crate::consumer::home::Home;
use crate::consumer::records::KnownLease;
use crate::consumer::ssh::{self, CopyPath, SshError, SshKey, SshTarget};
use crate::consumer::{ClientError, Kind, files};
use crate::core::ids::LeaseId;
use crate::protocol::reply::{Access, LeaseState};
use crate::relay::convert::now;

/// A lease that can be entered, checked: nothing in it is an option of ssh.
pub(super) struct Door {
    pub(super) access: Access,
    pub(super) lease: LeaseId,
    pub(super) way: Way,
    pub(super) known_hosts: PathBuf,
}

/// What opens a lease.
pub(super) enum Way {
    /// The private key in this file.
    Key(PathBuf),
    /// The password in this file.
    Password(PathBuf),
}

pub(super) async fn ssh(app: &App, args: SshArgs) -> Outcome {
    let door = door(app, &args.lease).await?;
    let command = remote_command(&args.command);
    let tty = command.is_none();
    let forwards = args
        .forward
        .iter()
        .flat_map(|spec| [OsString::from("-L"), spec.into()]);
    let program = program("ssh").filter(|_| !args.builtin);
    if app.global.json {
        return match (&program, &command) {
            (_, Some(command)) => captured(&door, program.as_deref(), command).await,
            (Some(program), None) => Ok(Done::new(
                json!({
                    "access": door.access,
                    "command": shown(&system(program, &door, tty, forwards, None)),
                    "environment": environment(&door)
                        .into_iter()
                        .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
                        .collect::<std::collections::BTreeMap<_, _>>(),
                }),
                "",
            )),
            (None, None) => Ok(Done::new(
                json!({ "access": door.access, "command": null }),
                "",
            )),
        };
    }
    match program {
        Some(program) => Err(replaced(system(
            &program,
            &door,
            tty,
            forwards,
            command.as_deref(),
        ))),
        None => {
            let code = ssh::run(&door.target()?, command.as_deref(), tty)
                .await
                .map_err(failed)?;
            Ok(Done {
                code: exit_code(code),
                ..Done::default()
            })
        }
    }
}

pub(super) async fn exec(app: &App, lease: &str, builtin: bool, command: &[String]) -> Outcome {
    let door = door(app, lease).await?;
    let command = remote_command(command).unwrap_or_default();
    let program = program("ssh").filter(|_| !builtin);
    if app.global.json {
        return captured(&door, program.as_deref(), &command).await;
    }
    match program {
        Some(program) => Err(replaced(system(&program, &door, false, [], Some(&command)))),
        None => {
            let code = ssh::run(&door.target()?, Some(&command), false)
                .await
                .map_err(failed)?;
            Ok(Done {
                code: exit_code(code),
                ..Done::default()
            })
        }
    }
}

/// Runs a command and gives what it printed as JSON. Standard input is empty.
async fn captured(door: &Door, program: Option<&Path>, command: &str) -> Outcome {
    let (code, stdout, stderr) = match program {
        Some(program) => {
            let mut ssh = system(program, door, false, [], Some(command));
            ssh.stdin(Stdio::null());
            let output = tokio::process::Command::from(ssh).output().await?;
            (status_code(output.status), output.stdout, output.stderr)
        }
        None => ssh::output(&door.target()?, command, &[])
            .await
            .map_err(failed)?,
    };
    let json = json!({
        "lease": door.lease,
        "exit_code": code,
        "stdout": String::from_utf8_lossy(&stdout),
        "stderr": String::from_utf8_lossy(&stderr),
    });
    Ok(Done {
        json,
        text: String::new(),
        code: exit_code(code),
    })
}

pub(super) async fn cp(app: &App, recursive: bool, builtin: bool, from: &str, to: &str) -> Outcome {
    let (lease, from, to) = match (remote_path(from), remote_path(to)) {
        (Some((lease, path)), None) => (lease, CopyPath::Remote(path), CopyPath::Local(to.into())),
        (None, Some((lease, path))) => {
            (lease, CopyPath::Local(from.into()), CopyPath::Remote(path))
        }
        _ => {
            return Err(ClientError::usage(
                "usage",
                "exactly one side is in a workload",
                "Write LEASE:PATH for that side; a local path with a colon begins with ./",
            ));
        }
    };
    let door = door(app, &lease).await?;
    let bytes = match program("scp").filter(|_| !builtin) {
        Some(program) => {
            let status = tokio::process::Command::from(scp(&program, &door, recursive, &from, &to))
                .status()
                .await?;
            if !status.success() {
                return Err(ClientError::new(
                    Kind::Network,
                    "copy_failed",
                    format!("scp ended with {}", status_code(status)),
                    "Look at the paths; try --builtin.",
                ));
            }
            None
        }
        None => Some(
            ssh::copy(&door.target()?, from, to, recursive)
                .await
                .map_err(failed)?,
        ),
    };
    Ok(Done::new(
        json!({ "lease": door.lease, "copied": true, "bytes": bytes }),
        "",
    ))
}

/// `LEASE:PATH`; a colon behind a slash belongs to a local path.
fn remote_path(text: &str) -> Option<(String, String)> {
    let (lease, path) = text.split_once(':')?;
    let is_lease = !lease.is_empty() && lease.bytes().all(|b| b.is_ascii_alphanumeric());
    let path = if path.is_empty() { "." } else { path };
    is_lease.then(|| (lease.to_owned(), path.to_owned()))
}

/// One word is a shell command line; several are quoted, so that they arrive
/// as they are.
fn remote_command(words: &[String]) -> Option<String> {
    match words {
        [] => None,
        [line] => Some(line.clone()),
        words => Some(
            words
                .iter()
                .map(|word| quote(word))
                .collect::<Vec<_>>()
                .join(" "),
        ),
    }
}

fn quote(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./=:@%+,".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Finds the lease and how to get in; asks the provider where that is not known.
async fn door(app: &App, query: &str) -> Result<Door, ClientError> {
    let client = app.client()?;
    let mut lease = client.find_lease(query)?;
    let old = lease.status.expires_at.is_some_and(|at| at <= now());
    if lease.status.access.is_none() || old {
        lease = client.status(&lease, &app.progress()).await?.lease;
    }
    let mut access = lease.status.access.clone().ok_or_else(|| closed(&lease))?;
    if lease.paygress.is_some() {
        return password_door(app, &client, lease, &mut access).await;
    }
    let key = match &lease.ssh_key {
        Some(key) => key.clone(),
        None => client.home().ssh_key()?.0,
    };
    check(&access)?;
    let known_hosts = known_hosts(client.home(), &lease, &access)?;
    Ok(Door {
        access,
        lease: lease.status.lease,
        way: Way::Key(key),
        known_hosts,
    })
}

fn closed(lease: &KnownLease) -> ClientError {
    let suggestion = match lease.status.state {
        LeaseState::Grace => "Top it up: satlet topup LEASE.",
        LeaseState::Starting => "Wait a moment: satlet status LEASE.",
        LeaseState::Active | LeaseState::Ended => "See satlet status LEASE.",
    };
    ClientError::new(
        Kind::NotFound,
        "no_access",
        format!(
            "lease {} cannot be entered: {}",
            lease.status.lease, lease.status.why
        ),
        suggestion,
    )
}

/// What a provider says is not put on a command line unless it is what it
/// should be.
fn check(access: &Access) -> Result<(), ClientError> {
    let host = sane_host(access);
    let user = access.user.parse::<LeaseId>().is_ok();
    let mut words = access.host_key.split_whitespace();
    let key = match (words.next(), words.next()) {
        (Some(kind), Some(data)) => {
            kind.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-@.".contains(&b))
                && data
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b))
        }
        _ => false,
    };
    if host && user && key {
        return Ok(());
    }
    Err(malformed())
}

pub(super) fn sane_host(access: &Access) -> bool {
    let host_char = |b: u8| b.is_ascii_alphanumeric() || b".-:_".contains(&b);
    access.port != 0
        && !access.host.is_empty()
        && access.host.len() <= 255
        && !access.host.starts_with('-')
        && access.host.bytes().all(host_char)
}

pub(super) fn malformed() -> ClientError {
    ClientError::new(
        Kind::Refused,
        "bad_answer",
        "the provider's way in is malformed",
        "Tell the provider's operator, or choose another provider.",
    )
}

pub(super) fn known_hosts(
    home: &Home,
    lease: &KnownLease,
    access: &Access,
) -> Result<PathBuf, ClientError> {
    let path = home
        .path("ssh/known_hosts")
        .join(lease.status.lease.as_str());
    let mut words = access.host_key.split_whitespace();
    let key = [
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    ]
    .join(" ");
    let line = match access.port {
        22 => format!("{} {key}\n", access.host),
        port => format!("[{}]:{port} {key}\n", access.host),
    };
    files::write_private(&path, line.as_bytes())?;
    Ok(std::path::absolute(path)?)
}

impl Door {
    fn target(&self) -> Result<SshTarget, ClientError> {
        let key = match &self.way {
            Way::Key(path) => SshKey::File(path.clone()),
            Way::Password(file) => {
                let text = files::read_text(file)?.unwrap_or_default();
                SshKey::Password(text.trim_end_matches('\n').into())
            }
        };
        Ok(SshTarget {
            host: self.access.host.clone(),
            port: self.access.port,
            user: self.access.user.clone(),
            host_key: self.access.host_key.clone(),
            key,
        })
    }

    /// Options that ssh and scp have in common. The user's own configuration
    /// stays out: it may forward an agent or accept other host keys.
    fn options(&self) -> Vec<OsString> {
        let mut options = vec![OsString::from("-F"), "none".into()];
        let methods: &[&str] = match &self.way {
            Way::Key(path) => {
                options.extend([OsString::from("-i"), path.clone().into()]);
                &["PreferredAuthentications=publickey"]
            }
            Way::Password(_) => &[
                "PubkeyAuthentication=no",
                "PreferredAuthentications=password,keyboard-interactive",
                "NumberOfPasswordPrompts=1",
            ],
        };
        for method in methods {
            options.extend([OsString::from("-o"), method.into()]);
        }
        let mut hosts = OsString::from("UserKnownHostsFile=\"");
        hosts.push(&self.known_hosts);
        hosts.push("\"");
        let set = [
            hosts,
            "GlobalKnownHostsFile=/dev/null".into(),
            "StrictHostKeyChecking=yes".into(),
            "UpdateHostKeys=no".into(),
            "IdentitiesOnly=yes".into(),
            "ForwardAgent=no".into(),
            "ForwardX11=no".into(),
            "LogLevel=ERROR".into(),
        ];
        for option in set {
            options.extend([OsString::from("-o"), option]);
        }
        options
    }
}

/// The system's ssh, ready to run.
fn system(
    program: &Path,
    door: &Door,
    tty: bool,
    more: impl IntoIterator<Item = OsString>,
    command: Option<&str>,
) -> Command {
    let mut ssh = Command::new(program);
    ssh.args(door.options()).args(more).envs(environment(door));
    if !tty {
        ssh.arg("-T");
    }
    ssh.arg("-p").arg(door.access.port.to_string());
    ssh.arg("-l").arg(&door.access.user);
    ssh.arg("--").arg(&door.access.host);
    if let Some(command) = command {
        ssh.arg(command);
    }
    ssh
}

fn scp(program: &Path, door: &Door, recursive: bool, from: &CopyPath, to: &CopyPath) -> Command {
    let mut scp = Command::new(program);
    scp.args(door.options()).envs(environment(door));
    // JSON goes to standard output; scp's progress is for terminals.
    scp.arg("-q").stdout(Stdio::null()).stdin(Stdio::null());
    if recursive {
        scp.arg("-r");
    }
    scp.arg("-P").arg(door.access.port.to_string()).arg("--");
    for side in [from, to] {
        scp.arg(match side {
            CopyPath::Local(path) if path.is_relative() => {
                Path::new(".").join(path).into_os_string()
            }
            CopyPath::Local(path) => path.clone().into_os_string(),
            CopyPath::Remote(path) if door.access.host.contains(':') => {
                format!("{}@[{}]:{path}", door.access.user, door.access.host).into()
            }
            CopyPath::Remote(path) => {
                format!("{}@{}:{path}", door.access.user, door.access.host).into()
            }
        });
    }
    scp
}

fn shown(command: &Command) -> Vec<String> {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect()
}

/// This process becomes the command; returns only if it cannot.
fn replaced(mut command: Command) -> ClientError {
    let error = command.exec();
    ClientError::internal(format!(
        "{}: {error}",
        command.get_program().to_string_lossy()
    ))
}

/// A program of OpenSSH in PATH that can be run. OpenSSH does nothing for a
/// user that the host has no name for, as there often is in a container.
fn program(name: &str) -> Option<PathBuf> {
    let me = nix::unistd::User::from_uid(nix::unistd::getuid());
    if matches!(me, Ok(None)) {
        return None;
    }
    let dirs = std::env::var_os("PATH")?;
    let runs = |path: &PathBuf| {
        let mode = std::fs::metadata(path)
            .ok()
            .filter(std::fs::Metadata::is_file);
        mode.map(|meta| meta.permissions())
            .is_some_and(|mode: Permissions| mode.mode() & 0o111 != 0)
    };
    std::env::split_paths(&dirs)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(runs)
}

fn status_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(255)
}

fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(255)
}

pub(super) fn failed(error: SshError) -> ClientError {
    let (kind, code, suggestion) = match &error {
        SshError::BadHostKey => (Kind::Refused, "bad_answer", "Tell the provider's operator."),
        SshError::BadKey(_) => (
            Kind::Usage,
            "bad_ssh_key",
            "The built-in client needs a key without a passphrase.",
        ),
        SshError::Connect { .. } => (
            Kind::Network,
            "no_gateway",
            "Look at the network; satlet status LEASE says whether the lease is alive.",
        ),
        SshError::WrongHostKey => (
            Kind::Network,
            "wrong_host_key",
            "Somebody may be in between: do not go on from this network.",
        ),
        SshError::Refused => (
            Kind::NotFound,
            "ssh_refused",
            "See satlet status LEASE; was the lease bought with another key?",
        ),
        SshError::Session(_) => (Kind::Network, "ssh_failed", "Try again."),
        SshError::Copy { .. } => (Kind::Usage, "copy_failed", "Look at the path."),
        SshError::Io(_) => (Kind::Internal, "internal", ""),
    };
    ClientError::new(kind, code, error.to_string(), suggestion)
}
