//! The way into workloads on this host that another engine made: the same
//! helper, session and limits as for the sandbox's own.

use std::path::{Path, PathBuf};

use tokio::net::TcpStream;

use super::client::{self, Helper, Program};
use super::seats::Seats;
use super::wire::{DialRequest, EnterCommand, EnterRequest, Reply, Request, RunNote};
use super::{ENTER, backend, blocking, environment, merge, process, session, wrong_answer};
use crate::compute::{BackendError, Duplex, ExecCommand, ExecRequest, ExecSession, WorkloadKey};

/// A door that leads into any container of this host.
#[derive(Debug)]
pub(in crate::compute) struct Door {
    program: Program,
    seats: Seats,
}

/// A container's first process, held against a reuse of its number.
#[derive(Clone, Debug)]
pub(in crate::compute) struct Target {
    note: RunNote,
    cgroup: PathBuf,
}

impl Target {
    /// The process `pid`, if it is in a control group that is named after the
    /// container `id`: so it is on this host, and is that container's.
    pub(in crate::compute) async fn find(pid: i32, id: &str) -> Result<Self, BackendError> {
        let id = id.to_owned();
        let look = move || {
            let note = process::note(pid)?;
            let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
            Ok(group_of(&text, &id).map(|cgroup| Self { note, cgroup }))
        };
        match blocking(look).await {
            Ok(Some(target)) => Ok(target),
            Ok(None) => Err(BackendError::Permanent(
                "the container's process is not on this host".to_owned(),
            )),
            Err(_) => Err(BackendError::NotRunning),
        }
    }
}

/// The group of proc_pid_cgroup(5) whose path has the container's id in it.
fn group_of(text: &str, id: &str) -> Option<PathBuf> {
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let mut of_container = paths.filter(|path| id.len() >= 12 && path.contains(id));
    of_container.next().map(PathBuf::from)
}

impl Door {
    /// With the program whose `main` calls [`super::helper_main`].
    pub(in crate::compute) fn open(helper: &Path) -> Result<Self, BackendError> {
        let failed = |err| BackendError::Permanent(format!("the sandbox helper: {err}"));
        Ok(Self {
            program: Program::load(helper).map_err(failed)?,
            seats: Seats::default(),
        })
    }

    /// Runs a command in it, as its root. `env` is the container's own.
    pub(in crate::compute) async fn exec(
        &self,
        key: &WorkloadKey,
        target: Target,
        env: Vec<(String, String)>,
        request: ExecRequest,
    ) -> Result<ExecSession, BackendError> {
        let seat = self.seats.take(key)?;
        let request = EnterRequest {
            target: target.note,
            cgroup: Some(target.cgroup),
            command: match request.command {
                ExecCommand::Shell => EnterCommand::Shell,
                ExecCommand::Line(line) => EnterCommand::Line(line),
                ExecCommand::Argv(argv) => EnterCommand::Argv(argv),
                ExecCommand::Sftp => EnterCommand::Sftp,
            },
            env: merge(environment(env, &[]), &request.env),
            tty: request.tty.map(|size| (size.cols, size.rows)),
            foreign: true,
        };
        let failed = |err| BackendError::Retry(format!("the sandbox helper: {err}"));
        let start = async {
            let request = Request::Enter(Box::new(request));
            let mut helper = Helper::start(&self.program, &request)
                .await
                .map_err(failed)?;
            match helper.next().await.map_err(failed)? {
                Some((Reply::Started, fds)) => session::open(helper, fds, seat).map_err(failed),
                Some((Reply::Failed(failure), _)) => Err(failure.into()),
                None => Err(BackendError::NotRunning),
                Some(_) => Err(wrong_answer()),
            }
        };
        tokio::time::timeout(ENTER, start)
            .await
            .unwrap_or_else(|_| {
                Err(BackendError::OutcomeUnknown(
                    "the command did not start in time".to_owned(),
                ))
            })
    }

    /// Connects to `host:port` as seen from inside it.
    pub(in crate::compute) async fn dial(
        &self,
        key: &WorkloadKey,
        target: Target,
        host: &str,
        port: u16,
    ) -> Result<Box<dyn Duplex>, BackendError> {
        let _seat = self.seats.take(key)?;
        let request = Request::Dial(DialRequest {
            target: target.note,
            addresses: backend::addresses(host, port, key.as_str())?,
            foreign: true,
        });
        let (_, fds) = match client::call(&self.program, &request, ENTER).await? {
            answer @ (Reply::Connected, _) => answer,
            _ => return Err(wrong_answer()),
        };
        let failed = |err| BackendError::Retry(format!("the connection: {err}"));
        let fd = fds.into_iter().next().ok_or_else(wrong_answer)?;
        let stream = std::net::TcpStream::from(fd);
        stream.set_nonblocking(true).map_err(failed)?;
        Ok(Box::new(TcpStream::from_std(stream).map_err(failed)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_the_container_s_own_or_none() {
        let id = "0123456789abcdef";
        let v1 = "4:memory:/docker/0123456789abcdef\n0::/\n";
        let v2 = "0::/system.slice/docker-0123456789abcdef.scope\n";
        assert_eq!(
            group_of(v1, id),
            Some(PathBuf::from("/docker/0123456789abcdef"))
        );
        assert!(group_of(v2, id).is_some());
        assert_eq!(group_of("0::/user.slice\n", id), None);
        assert_eq!(group_of(v1, ""), None);
    }
}
