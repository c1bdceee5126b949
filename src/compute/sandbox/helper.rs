//! The helper: this program, run again with `sandbox-helper` as its first
//! argument, single-threaded, one request a process. libcontainer forks, and
//! joining namespaces is for a whole process; neither is for a daemon with
//! threads. The request comes on standard input.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use nix::unistd::ForkResult;

use super::channel::Channel;
use super::wire::{Failure, Probed, Reply, Request};
use super::{disk, enter, run, stage, sys};

/// The first argument that makes a binary of ours a helper.
pub const HELPER_ARG: &str = "sandbox-helper";

/// Runs one request and ends. Call it at the very top of `main` when the first
/// argument is [`HELPER_ARG`], before anything starts a thread.
pub fn helper_main(_args: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve() -> io::Result<()> {
    // What the daemon was started with is nobody's business here.
    sys::close_from(3)?;
    let socket = sys::take_fd(0)?;
    let socket = {
        let moved = socket.try_clone()?;
        sys::dup_to(std::fs::File::open("/dev/null")?, 0)?;
        // Number 0 is /dev/null now, and stays open for the tenant's process.
        std::mem::forget(socket);
        moved
    };
    let mut channel = Channel::new(socket);
    let Some(line) = channel.line()? else {
        return Ok(());
    };
    let request: Request = serde_json::from_slice(&line).map_err(io::Error::other)?;
    let reply = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        answer(&mut channel, request)
    }));
    match reply {
        Ok(Ok(None)) => Ok(()),
        Ok(Ok(Some(reply))) => channel.send(&reply, &[]),
        Ok(Err(failure)) => channel.send(&Reply::Failed(failure), &[]),
        Err(_) => channel.send(
            &Reply::Failed(Failure::retry("the sandbox helper panicked")),
            &[],
        ),
    }
}

/// Does what was asked; the answer, unless it was sent on the way.
fn answer(channel: &mut Channel, request: Request) -> Result<Option<Reply>, Failure> {
    match request {
        Request::Probe { dir } => Ok(Some(Reply::Probed(probe(&dir)))),
        Request::Run(request) => run::run(&request).map(|note| Some(Reply::Running(note))),
        Request::Enter(request) => enter::run(channel, &request).map(|()| None),
        Request::Dial(request) => enter::dial(channel, &request).map(|()| None),
        Request::Destroy(request) => run::destroy(&request).map(|()| Some(Reply::Destroyed)),
    }
}

/// Tries what the sandbox is made of; each `None` is "works".
fn probe(dir: &Path) -> Probed {
    let root = nix::unistd::geteuid().is_root();
    let why = |result: io::Result<()>| result.err().map(|err| err.to_string());
    Probed {
        userns: why(in_child(|| stage::isolate(!root))),
        disk: why(probe_disk(dir, root)),
        idmap: why(probe_idmap(dir, root)),
    }
}

fn in_child(work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    match sys::fork()? {
        ForkResult::Child => {
            let code = match work() {
                Ok(()) => 0,
                Err(err) => err.raw_os_error().unwrap_or(1),
            };
            sys::exit_now(code)
        }
        ForkResult::Parent { child } => match nix::sys::wait::waitpid(child, None)? {
            nix::sys::wait::WaitStatus::Exited(_, 0) => Ok(()),
            nix::sys::wait::WaitStatus::Exited(_, code) => Err(io::Error::from_raw_os_error(code)),
            _ => Err(io::Error::other("the trial process was killed")),
        },
    }
}

fn probe_disk(dir: &Path, root: bool) -> io::Result<()> {
    if !root {
        return Err(io::Error::other("mounting a disk image needs root"));
    }
    let trial = tempfile::tempdir_in(dir)?;
    disk::make(trial.path(), disk::MIN_MIB)?;
    let target = trial.path().join("mnt");
    std::fs::create_dir(&target)?;
    in_child(|| {
        stage::isolate(false)?;
        disk::mount(&disk::image_path(trial.path()), &target)
    })
}

fn probe_idmap(dir: &Path, root: bool) -> io::Result<()> {
    if !root {
        return Err(io::Error::other("id-mapped mounts need root"));
    }
    let userns = run::userns(1 << 20)?;
    let tree = sys::clone_tree(dir, false)?;
    sys::set_mount_attr(tree.as_fd(), false, 0, Some(userns.as_fd()))
}
