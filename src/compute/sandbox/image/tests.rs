//! The store as its callers see it.

#[cfg(feature = "demo")]
mod pulls;
#[cfg(feature = "demo")]
mod server;

use std::fs;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use super::testing::{Tar, TestImage, descriptor, for_platform, gzip, index, sha256};
use super::*;

const OTHER: &str = if cfg!(target_arch = "x86_64") {
    "arm64"
} else {
    "amd64"
};

#[test]
fn what_a_registry_says_is_refused_in_few_words() {
    let limits = ImageLimits::default();
    let digest = format!("sha256:{}", "a".repeat(64));
    let manifest = |digest: &str| {
        let layer = json!({ "mediaType": super::testing::LAYER, "digest": digest, "size": 1 });
        let config = json!({ "digest": digest, "size": 1 });
        json!({ "schemaVersion": 2, "config": config, "layers": [layer] }).to_string()
    };
    let read = |manifest: &str, config: &str| {
        read_documents(manifest.as_bytes(), config.as_bytes(), &limits)
    };
    let run = read(&manifest(&digest), r#"{"config":{"WorkingDir":"srv"}}"#).unwrap();
    assert_eq!(run.unwrap().workdir, "/srv");
    // Characters of several bytes, so that a cut may fall into one of them.
    for strange in ["é", "€", "\u{1f980}"].map(|c| format!("x{}", c.repeat(100_000))) {
        let error = read(&manifest(&strange), "{}").unwrap_err().to_string();
        assert!(error.len() < 500, "{} bytes", error.len());
    }
}

fn store(dir: &TempDir) -> ImageStore {
    ImageStore::open(dir.path().join("images"), ImageLimits::default()).unwrap()
}

/// Files of a layout that has these blobs and this index.
fn files(blobs: &[Vec<u8>], index: Vec<u8>) -> Vec<(String, Vec<u8>)> {
    let mut files = vec![
        (
            "oci-layout".to_owned(),
            br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
        ),
        ("index.json".to_owned(), index),
    ];
    for blob in blobs {
        let name = sha256(blob).replace(':', "/");
        files.push((format!("blobs/{name}"), blob.clone()));
    }
    files
}

fn files_of(image: &TestImage) -> Vec<(String, Vec<u8>)> {
    let mut blobs = image.blobs.clone();
    blobs.push(image.manifest.clone());
    let entry = descriptor(super::testing::MANIFEST, &image.manifest);
    files(&blobs, index(&[entry]))
}

fn write_layout(dir: &Path, files: &[(String, Vec<u8>)]) -> Image {
    for (name, bytes) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    Image::Layout(dir.to_owned())
}

fn layout(dir: &TempDir, name: &str, image: &TestImage) -> Image {
    write_layout(&dir.path().join(name), &files_of(image))
}

async fn refused(store: &ImageStore, image: &Image) -> String {
    match store.ensure(image).await {
        Err(BackendError::Image(why)) => why,
        other => panic!("not refused: {other:?}"),
    }
}

fn hello(image: &PreparedImage) -> String {
    fs::read_to_string(image.rootfs.join("hello")).unwrap()
}

/// Nothing half done is left.
fn assert_clean(dir: &TempDir) {
    let tmp = dir.path().join("images/tmp");
    assert_eq!(
        fs::read_dir(tmp).unwrap().count(),
        0,
        "something is left in tmp"
    );
}

#[tokio::test]
async fn a_layout_directory_is_unpacked_once() {
    let dir = tempfile::tempdir().unwrap();
    let image = TestImage::hello("hi");
    let wanted = layout(&dir, "l", &image);
    let images = store(&dir);
    let first = images.ensure(&wanted).await.unwrap();
    assert_eq!(hello(&first), "hi");
    assert_eq!(first.digest, image.digest());
    assert!(
        !first.rootfs.display().to_string().contains(':'),
        "overlay options have no ':'"
    );
    let again = images.ensure(&wanted).await.unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    // And kept over a restart, even without its layers.
    drop((images, first, again));
    fs::remove_dir_all(dir.path().join("l/blobs")).unwrap();
    let digest = image.digest().replace(':', "/");
    fs::create_dir_all(dir.path().join("l/blobs/sha256")).unwrap();
    fs::write(dir.path().join("l/blobs").join(digest), &image.manifest).unwrap();
    let kept = store(&dir).ensure(&wanted).await.unwrap();
    assert_eq!(hello(&kept), "hi");
    assert_clean(&dir);
}

#[tokio::test]
async fn the_configuration_says_how_to_run_it() {
    let dir = tempfile::tempdir().unwrap();
    let image = store(&dir)
        .ensure(&layout(&dir, "l", &TestImage::hello("hi")))
        .await
        .unwrap();
    let env = [("A", "1"), ("B", "x=y"), ("C", "")];
    let expected = RunConfig {
        entrypoint: vec!["/bin/app".to_owned()],
        cmd: vec!["serve".to_owned()],
        env: env.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec(),
        workdir: "/srv".to_owned(),
        user: "www:www".to_owned(),
    };
    assert_eq!(image.config, expected);
    let bare = TestImage::with_config(&[], json!({"config": {"Env": null, "Cmd": null}}));
    let bare = store(&dir)
        .ensure(&layout(&dir, "bare", &bare))
        .await
        .unwrap();
    assert_eq!(
        bare.config,
        RunConfig {
            workdir: "/".to_owned(),
            ..RunConfig::default()
        }
    );
}

#[tokio::test]
async fn a_tarball_of_a_layout_is_unpacked_plain_or_compressed() {
    let dir = tempfile::tempdir().unwrap();
    let image = TestImage::hello("hi");
    let mut tar = Tar::new().dir("blobs/", 0o755).file("manifest.json", "[]");
    for (name, bytes) in files_of(&image) {
        let name = format!("./{name}");
        tar = tar.entry(
            b'0',
            name.as_bytes(),
            b"",
            0o644,
            &bytes,
            bytes.len() as u64,
        );
    }
    // What is no part of a layout stays where it is.
    let tar = tar
        .symlink("blobs/sha256/link", "/etc/passwd")
        .file("blobs/sha256/short", "x")
        .file("other/index.json", "x")
        .end();
    for (name, bytes) in [("plain.tar", tar.clone()), ("packed.tgz", gzip(&tar))] {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let images = store(&dir);
        let image = images.ensure(&Image::Layout(path)).await.unwrap();
        assert_eq!(hello(&image), "hi");
        drop(image);
        assert_eq!(images.prune(&[]).await.unwrap().len(), 1);
        assert_clean(&dir);
    }
}

#[tokio::test]
async fn a_tarball_that_changed_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    let images = store(&dir);
    for text in ["one", "three"] {
        let mut tar = Tar::new();
        for (name, bytes) in files_of(&TestImage::hello(text)) {
            tar = tar.entry(
                b'0',
                name.as_bytes(),
                b"",
                0o644,
                &bytes,
                bytes.len() as u64,
            );
        }
        fs::write(&path, tar.end()).unwrap();
        let image = images.ensure(&Image::Layout(path.clone())).await.unwrap();
        assert_eq!(hello(&image), text);
    }
}

#[tokio::test]
async fn what_is_no_layout_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let images = store(&dir);
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    for (path, words) in [
        (dir.path().join("gone"), "cannot be read"),
        (empty, "oci-layout"),
    ] {
        let why = refused(&images, &Image::Layout(path)).await;
        assert!(why.contains(words), "{why}");
    }
    let text = dir.path().join("text");
    fs::write(
        &text,
        "not a tarball, but long enough to look at".repeat(50),
    )
    .unwrap();
    refused(&images, &Image::Layout(text)).await;
    let old = dir.path().join("old.tar");
    fs::write(&old, Tar::new().file("manifest.json", "[]").end()).unwrap();
    let why = refused(&images, &Image::Layout(old)).await;
    assert!(why.contains("oci-layout"), "{why}");
    assert_clean(&dir);
}

#[tokio::test]
async fn content_that_is_not_what_its_digest_says_is_refused() {
    let image = TestImage::hello("hi");
    let manifest = files_of(&image).len() - 1;
    let (layer, config) = (2, 3);
    for which in [manifest, layer, config] {
        let dir = tempfile::tempdir().unwrap();
        let mut changed = files_of(&image);
        // Same size, other bytes; then another size.
        *changed[which].1.last_mut().unwrap() ^= 1;
        let images = store(&dir);
        let why = refused(&images, &write_layout(&dir.path().join("a"), &changed)).await;
        assert!(why.contains("another digest"), "{which}: {why}");
        changed[which].1.push(0);
        let why = refused(&images, &write_layout(&dir.path().join("b"), &changed)).await;
        assert!(why.contains("another size"), "{which}: {why}");
        changed.remove(which);
        refused(&images, &write_layout(&dir.path().join("c"), &changed)).await;
        assert_eq!(
            fs::read_dir(dir.path().join("images/rootfs"))
                .unwrap()
                .count(),
            0
        );
        assert_clean(&dir);
    }
}

#[tokio::test]
async fn the_platform_of_this_host_is_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (TestImage::hello("ours"), TestImage::hello("theirs"));
    let here = super::manifest::host_architecture();
    let inner = index(&[
        for_platform(&theirs.manifest, "linux", OTHER),
        for_platform(&theirs.manifest, "windows", here),
        for_platform(&theirs.manifest, "unknown", "unknown"),
        for_platform(&ours.manifest, "linux", here),
    ]);
    let entry = descriptor(super::testing::INDEX, &inner);
    let mut blobs = [ours.blobs.clone(), theirs.blobs.clone()].concat();
    blobs.extend([inner, ours.manifest.clone(), theirs.manifest.clone()]);
    let nested = write_layout(&dir.path().join("l"), &files(&blobs, index(&[entry])));
    let image = store(&dir).ensure(&nested).await.unwrap();
    assert_eq!(hello(&image), "ours");
    assert_eq!(image.digest, ours.digest());

    let only = index(&[for_platform(&theirs.manifest, "linux", OTHER)]);
    let only = write_layout(&dir.path().join("o"), &files(&blobs, only));
    let why = refused(&store(&dir), &only).await;
    assert!(why.contains(&format!("none for linux/{here}")), "{why}");
    let config = json!({"os": "linux", "architecture": OTHER});
    let lying = TestImage::with_config(&[], config);
    let why = refused(&store(&dir), &layout(&dir, "lying", &lying)).await;
    assert!(why.contains(OTHER), "{why}");
}

#[tokio::test]
async fn a_layout_of_several_images_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let entries = ["a", "b"]
        .map(|text| descriptor(super::testing::MANIFEST, &TestImage::hello(text).manifest));
    let two = write_layout(&dir.path().join("l"), &files(&[], index(&entries)));
    let why = refused(&store(&dir), &two).await;
    assert!(why.contains("several images"), "{why}");
}

#[tokio::test]
async fn limits_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let layer = |n: usize| gzip(&Tar::new().file(&format!("f{n}"), &"x".repeat(5000)).end());
    let image = TestImage::new(&[layer(1), layer(2), layer(3)]);
    let wanted = layout(&dir, "l", &image);
    let all = ImageLimits::default();
    let open = |limits| ImageStore::open(dir.path().join("images"), limits).unwrap();
    let cases = [
        (
            ImageLimits {
                max_layers: 2,
                ..all.clone()
            },
            "3 layers",
        ),
        (
            ImageLimits {
                max_files: 2,
                ..all.clone()
            },
            "more than 2 files",
        ),
        (
            ImageLimits {
                max_unpacked_bytes: 14_999,
                ..all.clone()
            },
            "larger than 14999 bytes",
        ),
        (
            ImageLimits {
                max_compressed_bytes: 100,
                max_unpacked_bytes: 100,
                ..all.clone()
            },
            "most that is accepted here is 100",
        ),
    ];
    for (limits, words) in cases {
        let why = refused(&open(limits), &wanted).await;
        assert!(why.contains(words), "{words}: {why}");
        assert_clean(&dir);
    }
    open(ImageLimits {
        max_unpacked_bytes: 15_000,
        ..all
    })
    .ensure(&wanted)
    .await
    .unwrap();
}

#[tokio::test]
async fn manifests_that_are_none_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let images = store(&dir);
    let config = descriptor("application/vnd.oci.image.config.v1+json", b"{}");
    let layer = |kind: &str| json!({"schemaVersion": 2, "config": config, "layers": [descriptor(kind, b"")]});
    let cases = [
        (json!("text"), "no image manifest"),
        (json!({"schemaVersion": 1, "fsLayers": []}), "old version"),
        (json!({"schemaVersion": 2}), "neither"),
        (
            json!({"schemaVersion": 2, "manifests": [], "config": config, "layers": []}),
            "neither",
        ),
        (layer("application/vnd.in-toto+json"), "container image"),
        (
            layer("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"),
            "container image",
        ),
        (
            json!({"schemaVersion": 2, "layers": [], "config": {"digest": "sha256:../../x", "size": 1}}),
            "no SHA-256",
        ),
        (
            json!({"schemaVersion": 2, "manifests": []}),
            "none for linux",
        ),
    ];
    for (n, (manifest, words)) in cases.into_iter().enumerate() {
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let top = index(&[descriptor(super::testing::MANIFEST, &bytes)]);
        let wanted = write_layout(&dir.path().join(n.to_string()), &files(&[bytes], top));
        let why = refused(&images, &wanted).await;
        assert!(why.contains(words), "{words}: {why}");
    }
}

#[tokio::test]
async fn nul_in_a_configuration_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({"config": {"Cmd": ["a\u{0}b"]}});
    let wanted = layout(&dir, "l", &TestImage::with_config(&[], config));
    let why = refused(&store(&dir), &wanted).await;
    assert!(why.contains("NUL"), "{why}");
}

#[tokio::test]
async fn pruning_takes_what_nobody_holds_or_names() {
    let dir = tempfile::tempdir().unwrap();
    let images = store(&dir);
    let mut prepared = Vec::new();
    for text in ["named", "held", "loose"] {
        let wanted = layout(&dir, text, &TestImage::hello(text));
        prepared.push(images.ensure(&wanted).await.unwrap());
    }
    let loose = prepared.pop().unwrap();
    let held = prepared.pop().unwrap();
    let named = prepared.pop().unwrap();
    let (named_root, loose_digest) = (named.rootfs.clone(), loose.digest.clone());
    let keep = vec![named.digest.clone()];
    drop((named, loose));
    assert_eq!(images.prune(&keep).await.unwrap(), [loose_digest]);
    assert!(named_root.join("hello").exists());
    assert_eq!(hello(&held), "held");
    assert_clean(&dir);
    // What was removed is made again.
    let wanted = Image::Layout(dir.path().join("loose"));
    assert_eq!(hello(&images.ensure(&wanted).await.unwrap()), "loose");
    assert!(images.prune(&["../../etc".to_owned()]).await.is_err());
}

#[tokio::test]
async fn what_a_crash_left_is_removed_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let first = store(&dir);
    let half = dir.path().join("images/tmp/half/image/root");
    fs::create_dir_all(&half).unwrap();
    // Not while somebody else is at work there.
    let second = store(&dir);
    assert!(half.exists());
    drop((first, second));
    let _third = store(&dir);
    assert_clean(&dir);
}

#[tokio::test]
async fn a_damaged_image_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let wanted = layout(&dir, "l", &TestImage::hello("hi"));
    let image = store(&dir).ensure(&wanted).await.unwrap();
    let record = image.rootfs.parent().unwrap().join("image.json");
    drop(image);
    fs::write(record, "{").unwrap();
    let image = store(&dir).ensure(&wanted).await.unwrap();
    assert_eq!(hello(&image), "hi");
    assert_clean(&dir);
}

#[tokio::test]
async fn others_on_the_host_cannot_get_at_images() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("images");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    let _store = store(&dir);
    assert_eq!(
        fs::metadata(path).unwrap().permissions().mode() & 0o777,
        0o700
    );
}

#[tokio::test]
async fn the_host_is_no_image() {
    let dir = tempfile::tempdir().unwrap();
    let result = store(&dir).ensure(&Image::Host).await;
    assert!(
        matches!(result, Err(BackendError::Permanent(_))),
        "{result:?}"
    );
    refused(&store(&dir), &Image::Reference("Not A Name".to_owned())).await;
    let far = vec!["registry.example:80".to_owned()];
    let far = ImageStore::open_with_plain_http(dir.path().join("x"), ImageLimits::default(), far);
    assert!(far.is_err(), "plain HTTP is for this host only");
}
