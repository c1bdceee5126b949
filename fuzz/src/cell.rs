//! A directory that a thread takes for the root of the file system, so that
//! what escapes from where it should stay is seen, and hurts nobody.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, OnceLock};

use nix::sched::{CloneFlags, unshare};

/// What runs in the cell: it is given the one directory that it may write to.
pub type Work = fn(data: &[u8], inside: &Path);

/// Whether the work may change what is around its directory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Walls {
    /// It may not.
    Guarded,
    /// It may: the whole cell is emptied for each input.
    Open,
}

type Line = (SyncSender<Vec<u8>>, Receiver<()>);

/// Before any other thread starts: an ordinary user becomes the root of a user
/// namespace, who may have a root directory of its own.
pub fn prepare() {
    if nix::unistd::geteuid().is_root() {
        return;
    }
    let (user, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
    if unshare(CloneFlags::CLONE_NEWUSER).is_ok() {
        let _ = fs::write("/proc/self/setgroups", "deny");
        let _ = fs::write("/proc/self/uid_map", format!("0 {user} 1"));
        let _ = fs::write("/proc/self/gid_map", format!("0 {group} 1"));
    }
}

/// Runs `work` on `data` in an empty directory. Guarded, nothing around it may
/// have changed after that.
pub fn run(data: &[u8], walls: Walls, work: Work) {
    static CELL: OnceLock<Mutex<Line>> = OnceLock::new();
    let line = CELL.get_or_init(|| Mutex::new(start(walls, work)));
    let line = line.lock().expect("one input at a time");
    line.0.send(data.to_vec()).expect("the thread runs");
    line.1.recv().expect("the thread answers");
}

fn start(walls: Walls, work: Work) -> Line {
    let (to, inputs) = sync_channel::<Vec<u8>>(0);
    let (done, from) = sync_channel(0);
    std::thread::Builder::new()
        // As a thread of the daemon has.
        .stack_size(2 * 1024 * 1024)
        .spawn(move || {
            enter();
            for data in inputs {
                once(&data, walls, work);
                if done.send(()).is_err() {
                    return;
                }
            }
        })
        .expect("a thread");
    (to, from)
}

/// A new directory becomes this thread's root. Where that is not permitted the
/// work is not done: it may be harmful.
fn enter() {
    let base = tempfile::Builder::new().prefix("satlet-fuzz-").tempdir();
    let base = base.expect("a directory").keep();
    unshare(CloneFlags::CLONE_FS).expect("a root of its own");
    nix::unistd::chroot(&base).expect("this target needs root, or user namespaces");
    std::env::set_current_dir("/").expect("the new root");
}

fn once(data: &[u8], walls: Walls, work: Work) {
    let (inside, outside) = (Path::new("/inside"), Path::new("/outside"));
    if walls == Walls::Open {
        empty(Path::new("/"));
    }
    let _ = fs::remove_dir_all(inside);
    fs::create_dir(inside).expect("an empty directory");
    if !outside.exists() {
        fs::create_dir(outside).expect("another directory");
        fs::write(outside.join("file"), "untouched").expect("a file in it");
    }
    let before = facts();
    work(data, inside);
    if walls == Walls::Guarded {
        assert_eq!(before, facts(), "something outside was changed");
    }
}

fn empty(dir: &Path) {
    for entry in fs::read_dir(dir).expect("a directory of ours").flatten() {
        let path = entry.path();
        if fs::remove_file(&path).is_err() {
            fs::remove_dir_all(&path).expect("it can be removed");
        }
    }
}

/// All that is around: names, kinds, owners, links and content.
fn facts() -> Vec<String> {
    let mut facts = Vec::new();
    for dir in ["/", "/outside"] {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.ends_with("inside") {
                continue;
            }
            let meta = path.symlink_metadata().expect("it is still there");
            let content = meta.is_file().then(|| fs::read(&path).expect("a file"));
            let links = if meta.is_dir() { 0 } else { meta.nlink() };
            let (mode, owner, group) = (meta.mode(), meta.uid(), meta.gid());
            let when = meta.mtime();
            facts.push(format!(
                "{path:?} {mode:o} {owner} {group} {links} {when} {content:?}"
            ));
        }
    }
    facts.sort();
    facts
}
