//! A workload's disk: one sparse ext4 image file, so that what it may fill is
//! bounded by the kernel and survives a stop.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::MsFlags;

use super::{stage, sys};

/// Smallest image that is made, in MiB: below it ext4 has no room for itself.
pub(super) const MIN_MIB: u32 = 16;
/// From this size on, in MiB, the file system has a journal.
const JOURNAL_FROM_MIB: u32 = 64;

/// Where a lease's image file is.
pub(super) fn image_path(dir: &Path) -> PathBuf {
    dir.join("disk.img")
}

/// Makes the image file unless it is there. A half-made one never has its name.
pub(super) fn make(dir: &Path, mib: u32) -> io::Result<()> {
    let path = image_path(dir);
    if path.exists() {
        return Ok(());
    }
    let fresh = dir.join("disk.new");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&fresh)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.set_len(u64::from(mib.max(MIN_MIB)) * 1024 * 1024)?;
    drop(file);
    format(&fresh, mib)?;
    fs::rename(&fresh, &path)
}

fn format(path: &Path, mib: u32) -> io::Result<()> {
    let features: &[&str] = if mib < JOURNAL_FROM_MIB {
        &["-O", "^has_journal,^resize_inode"]
    } else {
        &["-J", "size=4", "-O", "^resize_inode"]
    };
    let output = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-m", "0", "-b", "4096"])
        .args(["-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"])
        .args(features)
        .arg(path)
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("mkfs.ext4: {}", text.trim())))
}

/// Mounts the image file.
pub(super) fn mount(image: &Path, target: &Path) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(image)?;
    let (device, path) = sys::loop_attach(file.as_fd())?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    stage::fs_mount(&path, target, "ext4", flags, "errors=remount-ro")?;
    drop(device);
    let lost = target.join("lost+found");
    if lost.exists() {
        fs::remove_dir_all(lost)?;
    }
    Ok(())
}

/// A copy of an unpacked image whose owners are shifted by `base`.
pub(super) fn shifted_copy(from: &Path, to: &Path, base: u32) -> io::Result<()> {
    let fresh = to.with_extension("new");
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    copy_tree(from, &fresh, base)?;
    fs::rename(&fresh, to)
}

fn copy_tree(from: &Path, to: &Path, base: u32) -> io::Result<()> {
    let meta = fs::symlink_metadata(from)?;
    let kind = meta.file_type();
    if kind.is_dir() {
        fs::create_dir(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy_tree(&entry.path(), &to.join(entry.file_name()), base)?;
        }
    } else if kind.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from)?, to)?;
    } else if kind.is_file() {
        io::copy(&mut File::open(from)?, &mut File::create(to)?)?;
    } else {
        // Device nodes and pipes of an image are of no use to a tenant.
        return Ok(());
    }
    let shift = |id: u32| Some(base.saturating_add(id.min(65_535)));
    lchown(to, shift(meta.uid()), shift(meta.gid()))?;
    if !kind.is_symlink() {
        fs::set_permissions(to, meta.permissions())?;
    }
    Ok(())
}
