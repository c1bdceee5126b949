//! The file system that a workload is made in, built in a mount namespace of
//! the helper's own: a small root with `/rootfs` (the tenant's root to be),
//! `/state` and `/bundle` for libcontainer, and the host's /proc, /sys and
//! /dev. The host's own root is gone from it, so that a mistake in what
//! follows cannot reach it, and ids of the tenant can walk to `/rootfs`
//! although the data directory is closed to them.
//!
//! Nothing is mounted on the host: all of it ends with the last process.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use nix::unistd::{Gid, Uid};

use super::wire::{Failure, ImageSource, RunRequest};
use super::{disk, etc, sys};

/// Read-only parts of the host's root that come with its /usr: links on most
/// hosts, directories on some.
const USR_PARTS: &[&str] = &["bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// What stands in every root, as (name, mode).
const SKELETON: &[(&str, u32)] = &[
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("var", 0o755),
    ("var/cache", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/spool", 0o755),
    ("var/tmp", 0o1777),
];
/// Directories of the host that its programs need, read-only.
const ETC_BINDS: &[&str] = &[
    "etc/alternatives",
    "etc/ssl/certs",
    "etc/pki/tls/certs",
    "etc/pki/ca-trust",
    "etc/ca-certificates",
];

/// Builds it and moves into it.
pub(super) fn build(request: &RunRequest, userns: Option<&OwnedFd>) -> Result<(), Failure> {
    let builder = Builder {
        request,
        userns: userns.map(AsFd::as_fd),
        top: request.dir.join("mnt"),
    };
    builder
        .build()
        .map_err(|(what, err)| Failure::io(format!("preparing the file system ({what})"), &err))
}

/// Makes the helper's own namespaces. Rootless, a user namespace comes first,
/// in which whoever runs the daemon is root.
pub(super) fn isolate(rootless: bool) -> io::Result<()> {
    if rootless {
        let (uid, gid) = (Uid::effective(), Gid::effective());
        nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1\n"))?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1\n"))?;
        nix::unistd::setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0))?;
        nix::unistd::setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0))?;
    } else {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    }
    none_mount("/", MsFlags::MS_REC | MsFlags::MS_PRIVATE)
}

type Step<T> = Result<T, (&'static str, io::Error)>;

fn step<T, E: Into<io::Error>>(what: &'static str, result: Result<T, E>) -> Step<T> {
    result.map_err(|err| (what, err.into()))
}

struct Builder<'a> {
    request: &'a RunRequest,
    userns: Option<BorrowedFd<'a>>,
    top: PathBuf,
}

impl Builder<'_> {
    fn build(&self) -> Step<()> {
        step("directory", fs::create_dir_all(&self.top))?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        step(
            "root",
            fs_mount("tmpfs", &self.top, "tmpfs", flags, "mode=755,size=16m"),
        )?;
        for name in [
            "proc", "sys", "dev", "state", "bundle", "disk", "lower", "rootfs", "old",
        ] {
            step("directory", fs::create_dir(self.top.join(name)))?;
        }
        step("disk", self.mount_disk())?;
        match &self.request.image {
            ImageSource::Host => self.host_root()?,
            ImageSource::Unpacked(path) => step("image", self.image_root(path))?,
        }
        step("proc", bind("/proc", &self.top.join("proc"), true))?;
        step("dev", bind("/dev", &self.top.join("dev"), true))?;
        step("sys", self.mount_sys())?;
        step("pivot", self.pivot())
    }

    fn uid(&self) -> u32 {
        self.request.uid_base.unwrap_or(0)
    }

    fn mount_disk(&self) -> io::Result<()> {
        let target = self.top.join("disk");
        if self.request.disk_mib.is_some() {
            disk::mount(&disk::image_path(&self.request.dir), &target)
        } else {
            let dir = self.request.dir.join("disk");
            fs::create_dir_all(&dir)?;
            let tree = sys::clone_tree(&dir, false)?;
            let attrs = sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV;
            sys::set_mount_attr(tree.as_fd(), false, attrs, None)?;
            sys::attach_tree(tree.as_fd(), &target)
        }
    }

    /// The tenant's own root on its disk, with the host's /usr over it.
    fn host_root(&self) -> Step<()> {
        let kept = self.top.join("disk/rootfs");
        let fresh = !kept.exists();
        step("skeleton", self.skeleton(&kept))?;
        if fresh {
            step(
                "etc",
                etc::write(&kept.join("etc"), self.request, self.uid()),
            )?;
        }
        let root = self.top.join("rootfs");
        step("root", bind(&kept, &root, false))?;
        step("usr", self.bind_host(Path::new("/usr"), &root.join("usr")))?;
        for part in USR_PARTS {
            step("usr", self.usr_part(part, &root))?;
        }
        for path in ETC_BINDS {
            let source = Path::new("/").join(path);
            if source.is_dir() {
                step("etc", self.real_dirs(&root, path))?;
                step("etc", self.bind_host(&source, &root.join(path)))?;
            }
        }
        Ok(())
    }

    /// The directories that are mounted on are directories, whatever the
    /// tenant has made of them meanwhile.
    fn skeleton(&self, root: &Path) -> io::Result<()> {
        self.make_dir(root, 0o755)?;
        for (name, mode) in SKELETON {
            self.make_dir(&root.join(name), *mode)?;
        }
        Ok(())
    }

    fn make_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_dir() => return Ok(()),
            Ok(_) => fs::remove_file(path)?,
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(err),
        }
        fs::create_dir(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        chown(path, Some(self.uid()), Some(self.uid()))
    }

    /// Each component of `path` below `root`, as a real directory.
    fn real_dirs(&self, root: &Path, path: &str) -> io::Result<()> {
        let mut at = root.to_owned();
        for part in path.split('/') {
            at.push(part);
            self.make_dir(&at, 0o755)?;
        }
        Ok(())
    }

    fn usr_part(&self, part: &str, root: &Path) -> io::Result<()> {
        let source = Path::new("/").join(part);
        let target = root.join(part);
        let Ok(meta) = fs::symlink_metadata(&source) else {
            return Ok(());
        };
        if meta.is_symlink() {
            let link = fs::read_link(&source)?;
            if fs::read_link(&target).is_ok_and(|have| have == link) {
                return Ok(());
            }
            match fs::symlink_metadata(&target) {
                Ok(meta) if meta.is_dir() => fs::remove_dir_all(&target)?,
                Ok(_) => fs::remove_file(&target)?,
                Err(_) => {}
            }
            symlink(link, &target)?;
            return std::os::unix::fs::lchown(&target, Some(self.uid()), Some(self.uid()));
        }
        self.make_dir(&target, 0o755)?;
        self.bind_host(&source, &target)
    }

    /// A read-only view of a directory of the host. Its owners are nobody to
    /// the tenant: with the host's root shown as the tenant's, the tenant could
    /// read what is there for root alone, and take leases (fcntl(2)) that keep
    /// the host from its own programs.
    fn bind_host(&self, source: &Path, target: &Path) -> io::Result<()> {
        let attrs = sys::MOUNT_ATTR_RDONLY | sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV;
        let tree = sys::clone_tree(source, true)?;
        sys::set_mount_attr(tree.as_fd(), true, attrs, None)?;
        sys::attach_tree(tree.as_fd(), target)
    }

    /// The image below, the tenant's changes on its disk above. Files of the
    /// image belong to the tenant's ids by an id-mapped mount, or, where the
    /// kernel or the file system cannot, by a copy on the tenant's disk.
    fn image_root(&self, image: &Path) -> io::Result<()> {
        let disk = self.top.join("disk");
        let copied = disk.join("rootfs");
        if !copied.exists() {
            let changed = disk.join("upper").exists();
            match self.overlay(image) {
                Ok(()) => return self.image_mountpoints(),
                // What the tenant has changed cannot be carried over.
                Err(err) if changed => return Err(err),
                Err(_) => disk::shifted_copy(image, &copied, self.uid())?,
            }
        }
        bind(&copied, &self.top.join("rootfs"), false)?;
        self.image_mountpoints()
    }

    fn overlay(&self, image: &Path) -> io::Result<()> {
        let lower = self.top.join("lower");
        let tree = sys::clone_tree(image, false)?;
        sys::set_mount_attr(
            tree.as_fd(),
            false,
            sys::MOUNT_ATTR_RDONLY | sys::MOUNT_ATTR_NODEV,
            self.userns,
        )?;
        sys::attach_tree(tree.as_fd(), &lower)?;
        let disk = self.top.join("disk");
        self.make_dir(&disk.join("upper"), 0o755)?;
        self.make_dir(&disk.join("work"), 0o700)?;
        // Relative names: a colon in the data directory's path would end one.
        nix::unistd::chdir(&self.top)?;
        let mut options = "lowerdir=lower,upperdir=disk/upper,workdir=disk/work".to_owned();
        if self.request.uid_base.is_none() {
            options.push_str(",userxattr");
        }
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        fs_mount(
            "overlay",
            &self.top.join("rootfs"),
            "overlay",
            flags,
            &options,
        )
    }

    fn image_mountpoints(&self) -> io::Result<()> {
        let root = self.top.join("rootfs");
        for name in ["dev", "proc", "sys", "run", "tmp", "etc"] {
            let mode = SKELETON
                .iter()
                .find(|(known, _)| *known == name)
                .map_or(0o755, |(_, mode)| *mode);
            self.make_dir(&root.join(name), mode)?;
        }
        etc::write_network(&root.join("etc"), self.request, self.uid())
    }

    /// The host's /sys, for its control groups; rootless without a group of
    /// our own, an empty one, so that libcontainer finds none to fail on.
    fn mount_sys(&self) -> io::Result<()> {
        let target = self.top.join("sys");
        if self.request.cgroup.is_some() || self.request.uid_base.is_some() {
            return bind("/sys", &target, true);
        }
        let groups = target.join("fs/cgroup");
        fs::create_dir_all(&groups)?;
        fs_mount("tmpfs", &groups, "tmpfs", MsFlags::MS_NOSUID, "size=4k")
    }

    fn pivot(&self) -> io::Result<()> {
        nix::unistd::chdir(&self.top)?;
        nix::unistd::pivot_root(".", "old")?;
        nix::unistd::chdir("/")?;
        nix::mount::umount2("/old", MntFlags::MNT_DETACH)?;
        fs::remove_dir("/old")
    }
}

fn none_mount(target: &str, flags: MsFlags) -> io::Result<()> {
    nix::mount::mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
        .map_err(io::Error::from)
}

fn bind(source: impl AsRef<Path>, target: &Path, recursive: bool) -> io::Result<()> {
    let mut flags = MsFlags::MS_BIND;
    if recursive {
        flags |= MsFlags::MS_REC;
    }
    nix::mount::mount(
        Some(source.as_ref()),
        target,
        None::<&str>,
        flags,
        None::<&str>,
    )
    .map_err(io::Error::from)
}

/// Mounts a new file system.
pub(super) fn fs_mount(
    source: &str,
    target: &Path,
    kind: &str,
    flags: MsFlags,
    options: &str,
) -> io::Result<()> {
    nix::mount::mount(Some(source), target, Some(kind), flags, Some(options))
        .map_err(io::Error::from)
}
