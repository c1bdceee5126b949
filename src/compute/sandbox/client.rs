//! The daemon's side of a helper process.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, SealFlag};
use nix::sys::memfd::MFdFlags;
use nix::sys::socket::{ControlMessageOwned, MsgFlags};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::helper::HELPER_ARG;
use super::wire::{MAX_LINE, Reply, Request};
use crate::compute::BackendError;

/// The program that helpers are: a sealed copy in memory, which nobody can
/// write to, whatever a tenant finds under /proc (CVE-2019-5736).
#[derive(Clone, Debug)]
pub(super) struct Program {
    copy: Option<Arc<File>>,
    path: PathBuf,
}

impl Program {
    /// Copies and seals; where the host forbids running from memory
    /// (`vm.memfd_noexec`), the file itself is run.
    pub(super) fn load(path: &Path) -> io::Result<Self> {
        let copy = match seal(path) {
            Ok(copy) => Some(Arc::new(copy)),
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Err(err),
            Err(_) => None,
        };
        Ok(Self {
            copy,
            path: path.to_owned(),
        })
    }

    fn command(&self) -> Command {
        match &self.copy {
            Some(copy) => Command::new(format!("/proc/self/fd/{}", copy.as_raw_fd())),
            None => Command::new(&self.path),
        }
    }
}

fn seal(path: &Path) -> io::Result<File> {
    const MFD_EXEC: u32 = 0x10;
    let mut source = File::open(path)?;
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Kernels before 6.3 do not know the flag, and need none.
    let with_exec = flags | MFdFlags::from_bits_retain(MFD_EXEC);
    let memory = nix::sys::memfd::memfd_create(c"satlet-helper", with_exec)
        .or_else(|_| nix::sys::memfd::memfd_create(c"satlet-helper", flags))?;
    let mut copy = File::from(memory);
    io::copy(&mut source, &mut copy)?;
    let seals = SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_SEAL;
    nix::fcntl::fcntl(&copy, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(copy)
}

/// A running helper. Dropping it kills the helper, and what it has started
/// that is not a workload yet.
#[derive(Debug)]
pub(super) struct Helper {
    child: Child,
    stream: UnixStream,
    pending: Vec<u8>,
    fds: Vec<OwnedFd>,
    kill: bool,
}

impl Helper {
    /// Starts one and hands it its request.
    pub(super) async fn start(program: &Program, request: &Request) -> io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let child = program
            .command()
            .arg0("satlet-sandbox")
            .arg(HELPER_ARG)
            .env_clear()
            .env("PATH", super::launch::DEFAULT_PATH)
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let mut stream = UnixStream::from_std(ours)?;
        let mut line = serde_json::to_vec(request).map_err(io::Error::other)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        Ok(Self {
            child,
            stream,
            pending: Vec::new(),
            fds: Vec::new(),
            kill: true,
        })
    }

    /// The next answer, and the descriptors that came with it; `None` when the
    /// helper has ended. May be dropped and called again.
    pub(super) async fn next(&mut self) -> io::Result<Option<(Reply, Vec<OwnedFd>)>> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let rest = self.pending.split_off(end + 1);
                let line = std::mem::replace(&mut self.pending, rest);
                let reply = serde_json::from_slice(&line).map_err(io::Error::other)?;
                return Ok(Some((reply, std::mem::take(&mut self.fds))));
            }
            if self.pending.len() > MAX_LINE {
                return Err(io::Error::other("the helper does not stop talking"));
            }
            self.stream.readable().await?;
            let read = self
                .stream
                .try_io(Interest::READABLE, || receive(self.stream.as_raw_fd()));
            match read {
                Ok((bytes, _)) if bytes.is_empty() => return Ok(None),
                Ok((bytes, fds)) => {
                    self.pending.extend(bytes);
                    self.fds.extend(fds);
                }
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                Err(err) => return Err(err),
            }
        }
    }

    /// Tells a helper that runs a command something.
    pub(super) async fn tell<T: serde::Serialize + Sync>(&mut self, word: &T) -> io::Result<()> {
        let mut line = serde_json::to_vec(word).map_err(io::Error::other)?;
        line.push(b'\n');
        self.stream.write_all(&line).await
    }

    /// From now on dropping it only hangs up, and the helper sees to the rest.
    pub(super) const fn let_go(&mut self) {
        self.kill = false;
    }

    /// Hangs up and waits for the helper's end, which it sees to itself.
    pub(super) async fn hang_up(mut self, limit: Duration) {
        let _ = self.stream.shutdown().await;
        self.kill = true;
        let _ = tokio::time::timeout(limit, self.child.wait()).await;
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // None once it was waited for; until then its number is its own.
        let group = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let (true, Some(group)) = (self.kill, group) {
            let _ = nix::sys::signal::killpg(
                nix::unistd::Pid::from_raw(group),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
    }
}

#[expect(unsafe_code, reason = "descriptors that were received by number")]
fn receive(socket: i32) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; 16 * 1024];
    let mut space = nix::cmsg_space!([i32; 4]);
    let (count, raw) = {
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let message = nix::sys::socket::recvmsg::<()>(
            socket,
            &mut slices,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        let mut raw = Vec::new();
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = control {
                raw.extend(fds);
            }
        }
        (message.bytes, raw)
    };
    bytes.truncate(count);
    let fds = raw
        .into_iter()
        // SAFETY: the kernel just made these for us in recvmsg(2).
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
        .collect();
    Ok((bytes, fds))
}

/// One request that has one answer. A helper that does not answer in `limit`
/// is killed, and the outcome is not known.
pub(super) async fn call(
    program: &Program,
    request: &Request,
    limit: Duration,
) -> Result<(Reply, Vec<OwnedFd>), BackendError> {
    let work = async {
        let mut helper = Helper::start(program, request)
            .await
            .map_err(|err| BackendError::Retry(format!("the sandbox helper: {err}")))?;
        match helper.next().await {
            Ok(Some((Reply::Failed(failure), _))) => Err(failure.into()),
            Ok(Some(answer)) => {
                let _ = helper.child.wait().await;
                Ok(answer)
            }
            Ok(None) => Err(BackendError::OutcomeUnknown(
                "the sandbox helper ended without an answer".to_owned(),
            )),
            Err(err) => Err(BackendError::OutcomeUnknown(format!(
                "the sandbox helper: {err}"
            ))),
        }
    };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Err(BackendError::OutcomeUnknown(
            "the sandbox helper did not answer in time".to_owned(),
        ))
    })
}
