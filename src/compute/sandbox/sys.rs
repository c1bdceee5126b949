//! System calls that no crate here wraps. Each function is as narrow as its
//! only use.
#![expect(
    unsafe_code,
    reason = "thin wrappers over system calls that nix has no safe form of"
)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::libc;
use nix::unistd::{ForkResult, Pid};

/// `MOUNT_ATTR_IDMAP` and its like of mount_setattr(2).
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
/// Read-only.
pub(super) const MOUNT_ATTR_RDONLY: u64 = 0x1;
/// No set-uid.
pub(super) const MOUNT_ATTR_NOSUID: u64 = 0x2;
/// No device nodes.
pub(super) const MOUNT_ATTR_NODEV: u64 = 0x4;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just gave this descriptor to us and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// fork(2). Only the helper forks: it has one thread.
pub(super) fn fork() -> io::Result<ForkResult> {
    // SAFETY: the helper process is single-threaded, so that the child may go
    // on using the allocator and locks.
    unsafe { nix::unistd::fork() }.map_err(io::Error::from)
}

/// Ends the process at once, with no destructors and no exit handlers.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Takes a descriptor that was inherited by number.
pub(super) fn take_fd(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD reads a flag of whatever descriptor it is.
    check(unsafe { libc::fcntl(fd, libc::F_GETFD) }.into())?;
    // SAFETY: it is open (checked above); callers name each descriptor once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Closes every descriptor from `first` on.
pub(super) fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: closes numbers only; callers own nothing at or above `first` any more.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) })?;
    Ok(())
}

/// Has every descriptor from `first` on closed by the next exec.
pub(super) fn close_from_on_exec(first: RawFd) -> io::Result<()> {
    // SAFETY: sets a flag on descriptors, whoever owns them.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })?;
    Ok(())
}

/// Has the effective user of this process be `uid`, and it alone: the powers
/// of root stay.
pub(super) fn borrow_identity(uid: u32) -> io::Result<()> {
    // SAFETY: prctl(2) with plain numbers.
    check(
        unsafe {
            libc::prctl(
                libc::PR_SET_SECUREBITS,
                libc::SECBIT_NO_SETUID_FIXUP,
                0,
                0,
                0,
            )
        }
        .into(),
    )?;
    nix::unistd::seteuid(nix::unistd::Uid::from_raw(uid)).map_err(io::Error::from)
}

/// Puts `fd` at the number `target`, which is closed first where it is open.
pub(super) fn dup_to(fd: impl AsFd, target: RawFd) -> io::Result<()> {
    // SAFETY: dup2(2) on an open descriptor; what `target` was is nobody's any more.
    check(unsafe { libc::dup2(fd.as_fd().as_raw_fd(), target) }.into())?;
    Ok(())
}

/// pidfd_open(2).
pub(super) fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers in, a new descriptor out.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })
}

/// pidfd_send_signal(2). A process that is gone is not an error.
pub(super) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo is allowed and means kill(2)'s.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    match check(result) {
        Err(err) if err.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other.map(drop),
    }
}

/// Sets a terminal's size.
pub(super) fn set_winsize(tty: BorrowedFd<'_>, cols: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one winsize.
    check(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }.into())?;
    Ok(())
}

/// The slave side of a pty master, unlocked and opened without a path, so that
/// nothing in a tenant's file system is followed.
pub(super) fn pty_peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) }.into())?;
    // SAFETY: TIOCGPTPEER takes open flags and gives a new descriptor.
    owned(
        unsafe {
            libc::ioctl(
                master.as_raw_fd(),
                libc::TIOCGPTPEER,
                libc::O_RDWR | libc::O_NOCTTY,
            )
        }
        .into(),
    )
}

/// Makes standard input the controlling terminal of this session.
pub(super) fn take_tty() -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes a number.
    check(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) }.into())?;
    Ok(())
}

/// Keeps in the bounding, permitted and effective sets only the capabilities
/// whose bits are in `keep`, and clears the inheritable and ambient sets.
pub(super) fn keep_capabilities(keep: u64) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    for cap in 0..64_u64 {
        if keep & (1 << cap) != 0 {
            continue;
        }
        // SAFETY: prctl(2) with plain numbers.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, cap, 0, 0, 0) };
        if result < 0 {
            let err = io::Error::last_os_error();
            // EINVAL: the kernel has no capability of this number, nor a higher one.
            if err.raw_os_error() == Some(libc::EINVAL) {
                break;
            }
            return Err(err);
        }
    }
    // SAFETY: prctl(2) with plain numbers.
    check(
        unsafe {
            libc::prctl(
                libc::PR_CAP_AMBIENT,
                libc::PR_CAP_AMBIENT_CLEAR_ALL,
                0,
                0,
                0,
            )
        }
        .into(),
    )?;
    let header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let half = |shift: u32| {
        let bits = u32::try_from((keep >> shift) & 0xffff_ffff).unwrap_or(0);
        Data {
            effective: bits,
            permitted: bits,
            inheritable: 0,
        }
    };
    let data = [half(0), half(32)];
    // SAFETY: capset(2), version 3, reads a header and two data elements.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })?;
    Ok(())
}

/// A free loop device with `file` behind it, which the kernel detaches when
/// its last user is gone. The descriptor keeps it until it is mounted.
pub(super) fn loop_attach(file: BorrowedFd<'_>) -> io::Result<(OwnedFd, String)> {
    const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
    const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
    const LO_FLAGS_AUTOCLEAR: u32 = 4;
    #[repr(C)]
    struct LoopInfo {
        device: u64,
        inode: u64,
        rdevice: u64,
        offset: u64,
        sizelimit: u64,
        number: u32,
        encrypt_type: u32,
        encrypt_key_size: u32,
        flags: u32,
        file_name: [u8; 64],
        crypt_name: [u8; 64],
        encrypt_key: [u8; 32],
        init: [u64; 2],
    }
    #[repr(C)]
    struct LoopConfig {
        fd: u32,
        block_size: u32,
        info: LoopInfo,
        reserved: [u64; 8],
    }
    let control = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/loop-control")?;
    // Between "which is free" and "take it" another process may take it: try again.
    for _ in 0..64 {
        // SAFETY: takes no argument, gives a number.
        let number = check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) }.into())?;
        let path = format!("/dev/loop{number}");
        let device = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)?;
        let config = LoopConfig {
            fd: u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?,
            block_size: 0,
            info: LoopInfo {
                device: 0,
                inode: 0,
                rdevice: 0,
                offset: 0,
                sizelimit: 0,
                number: 0,
                encrypt_type: 0,
                encrypt_key_size: 0,
                flags: LO_FLAGS_AUTOCLEAR,
                file_name: [0; 64],
                crypt_name: [0; 64],
                encrypt_key: [0; 32],
                init: [0; 2],
            },
            reserved: [0; 8],
        };
        // SAFETY: LOOP_CONFIGURE reads one loop_config of this layout (linux/loop.h).
        let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
        match check(result.into()) {
            Ok(_) => return Ok((device.into(), path)),
            Err(err) if err.raw_os_error() == Some(libc::EBUSY) => {}
            Err(err) => return Err(err),
        }
    }
    Err(io::Error::other("no loop device could be had"))
}

/// A detached copy of the mount tree at `path` (open_tree(2)).
pub(super) fn clone_tree(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut flags = libc::OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned();
    if recursive {
        flags |= libc::AT_RECURSIVE.cast_unsigned();
    }
    // SAFETY: a valid C string in, a new descriptor out.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })
}

/// Sets attributes on a detached mount, and maps its ids as `userns` does
/// where one is given (mount_setattr(2)).
pub(super) fn set_mount_attr(
    tree: BorrowedFd<'_>,
    recursive: bool,
    set: u64,
    userns: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let attr = Attr {
        set: set | userns.map_or(0, |_| MOUNT_ATTR_IDMAP),
        clear: 0,
        propagation: 0,
        userns_fd: userns
            .map_or(Ok(0), |fd| u64::try_from(fd.as_raw_fd()))
            .map_err(io::Error::other)?,
    };
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: an empty C string, one attribute block and its true size.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<Attr>(),
        )
    })?;
    Ok(())
}

/// Attaches a detached mount at `target` (move_mount(2)).
pub(super) fn attach_tree(tree: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
    let target = c_path(target)?;
    // SAFETY: two valid C strings and descriptors.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    })?;
    Ok(())
}

/// Brings the loopback interface of this network namespace up.
pub(super) fn loopback_up() -> io::Result<()> {
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).map_err(io::Error::other)?;
    // SAFETY: SIOCSIFFLAGS reads one ifreq.
    check(
        unsafe {
            libc::ioctl(
                socket.as_raw_fd(),
                libc::SIOCSIFFLAGS as _,
                &raw const request,
            )
        }
        .into(),
    )?;
    Ok(())
}

fn c_path(path: &Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Has tokio wait on a descriptor.
pub(super) fn watch(
    fd: OwnedFd,
    interest: tokio::io::Interest,
) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd always names the same descriptor, and closes it only
    // when it is dropped, after it is deregistered.
    unsafe { tokio::io::unix::AsyncFd::register_with_interest(fd, interest) }
        .map_err(io::Error::from)
}
