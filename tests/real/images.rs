//! Images made of the host's own programs, through the store.

use std::process::Command;

use satlet::compute::Image;
use satlet::compute::sandbox::image::{ImageLimits, ImageStore};

use crate::support::oci::OciImage;

/// Asks the program itself: what is unpacked runs.
#[tokio::test]
async fn an_unpacked_image_runs() {
    let name = "an_unpacked_image_runs";
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED {name}: chroot needs root");
        return;
    }
    let Some(image) = OciImage::with_shell() else {
        eprintln!("SKIPPED {name}: neither a static busybox nor sh with ldd");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let tarball = dir.path().join("image.tar");
    let digest = image
        .file("etc/motto", b"to let\n", 0o644)
        .cmd(&["/bin/sh"])
        .write_tarball(&tarball);
    let store = ImageStore::open(dir.path().join("store"), ImageLimits::default()).unwrap();
    let prepared = store.ensure(&Image::Layout(tarball)).await.unwrap();
    assert_eq!(prepared.digest, digest);
    assert_eq!(prepared.config.cmd, ["/bin/sh"]);
    let output = Command::new("chroot")
        .arg(&prepared.rootfs)
        .args(["/bin/sh", "-c", "cat /etc/motto; exit 7"])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "to let\n");
    assert_eq!(output.status.code(), Some(7));
}

/// A directory of the host becomes an image with the same files.
#[tokio::test]
async fn a_directory_becomes_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    std::fs::create_dir_all(from.join("sub")).unwrap();
    std::fs::write(from.join("sub/file"), "text").unwrap();
    std::os::unix::fs::symlink("sub/file", from.join("link")).unwrap();
    OciImage::from_dir(&from).write_dir(&dir.path().join("layout"));
    let store = ImageStore::open(dir.path().join("store"), ImageLimits::default()).unwrap();
    let layout = Image::Layout(dir.path().join("layout"));
    let prepared = store.ensure(&layout).await.unwrap();
    let text = std::fs::read_to_string(prepared.rootfs.join("link")).unwrap();
    assert_eq!(text, "text");
}

/// And so does a list of files, with all that can be said about running it.
#[tokio::test]
async fn a_list_of_files_becomes_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let files = [("bin/app", &b"program"[..], 0o755), ("etc/x", b"", 0o600)];
    OciImage::from_files(files)
        .entrypoint(&["/bin/app"])
        .env(&["A=b"])
        .workdir("/etc")
        .user("nobody")
        .write_dir(&dir.path().join("layout"));
    let store = ImageStore::open(dir.path().join("store"), ImageLimits::default()).unwrap();
    let layout = Image::Layout(dir.path().join("layout"));
    let prepared = store.ensure(&layout).await.unwrap();
    let app = std::fs::read(prepared.rootfs.join("bin/app")).unwrap();
    assert_eq!(app, b"program");
    let config = &prepared.config;
    assert_eq!(config.entrypoint, ["/bin/app"]);
    assert_eq!(config.env, [("A".to_owned(), "b".to_owned())]);
    assert_eq!(
        (config.workdir.as_str(), config.user.as_str()),
        ("/etc", "nobody")
    );
}
