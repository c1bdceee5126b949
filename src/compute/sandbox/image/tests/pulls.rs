use std::time::{Duration, Instant};

use super::server::Registry;
use super::*;

struct Bench {
    dir: TempDir,
    registry: Registry,
    images: Arc<ImageStore>,
}

fn open(dir: &TempDir, registry: &Registry, limits: ImageLimits) -> Arc<ImageStore> {
    let plain = vec![registry.address().to_owned()];
    let path = dir.path().join("images");
    Arc::new(ImageStore::open_with_plain_http(path, limits, plain).unwrap())
}

impl Bench {
    async fn new() -> Self {
        Self::with(ImageLimits::default()).await
    }

    async fn with(limits: ImageLimits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::start().await;
        let images = open(&dir, &registry, limits);
        Self {
            dir,
            registry,
            images,
        }
    }

    fn image(&self, rest: &str) -> Image {
        Image::Reference(format!("{}/me/app{rest}", self.registry.address()))
    }

    async fn ensure(&self, rest: &str) -> Outcome {
        self.images.ensure(&self.image(rest)).await
    }

    async fn refused(&self, rest: &str) -> String {
        let why = refused(&self.images, &self.image(rest)).await;
        let kept = fs::read_dir(self.dir.path().join("images/rootfs")).unwrap();
        assert_eq!(kept.count(), 0, "something is kept");
        assert_clean(&self.dir);
        why
    }

    async fn must_retry(&self, rest: &str) {
        let result = self.ensure(rest).await;
        assert!(matches!(result, Err(BackendError::Retry(_))), "{result:?}");
    }
}

/// No time passes for tags: they are asked for each time.
fn always_ask() -> ImageLimits {
    ImageLimits {
        recheck_tag_after: Duration::ZERO,
        ..ImageLimits::default()
    }
}

#[tokio::test]
async fn an_image_is_pulled_and_kept() {
    let bench = Bench::new().await;
    let layers = [
        gzip(&Tar::new().file("hello", "lower").file("gone", "x").end()),
        Tar::new().file("hello", "upper").file(".wh.gone", "").end(),
    ];
    let image = TestImage::new(&layers);
    bench.registry.push("1", &image);
    let first = bench.ensure(":1").await.unwrap();
    assert_eq!(hello(&first), "upper");
    assert!(!first.rootfs.join("gone").exists());
    assert_eq!(first.digest, image.digest());
    assert_eq!(first.config.user, "www:www");
    assert_eq!(bench.registry.asked().len(), 1 + 1 + 2);
    // A tag is believed for a while, also by the next process.
    drop(first);
    let images = open(&bench.dir, &bench.registry, ImageLimits::default());
    assert_eq!(
        hello(&images.ensure(&bench.image(":1")).await.unwrap()),
        "upper"
    );
    assert_eq!(bench.registry.asked(), [""; 0]);
    assert_clean(&bench.dir);
}

#[tokio::test]
async fn ten_at_once_pull_once() {
    let bench = Bench::new().await;
    bench.registry.push("1", &TestImage::hello("hi"));
    bench.registry.hold_blobs(true);
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let (images, image) = (Arc::clone(&bench.images), bench.image(":1"));
            tokio::spawn(async move { images.ensure(&image).await })
        })
        .collect();
    bench.registry.wait_for_blob().await;
    bench.registry.hold_blobs(false);
    for call in calls {
        assert_eq!(hello(&call.await.unwrap().unwrap()), "hi");
    }
    let asked = bench.registry.asked();
    assert_eq!(
        asked.len(),
        3,
        "one manifest, one configuration, one layer: {asked:?}"
    );
}

#[tokio::test]
async fn ten_at_once_share_one_refusal() {
    let bench = Bench::new().await;
    let calls = (0..10).map(|_| bench.ensure(":none"));
    for result in futures::future::join_all(calls).await {
        assert!(matches!(result, Err(BackendError::Image(_))), "{result:?}");
    }
    assert_eq!(bench.registry.asked().len(), 1);
    // But the next one asks anew.
    bench.registry.push("none", &TestImage::hello("hi"));
    bench.ensure(":none").await.unwrap();
}

#[tokio::test]
async fn a_pull_that_nobody_waits_for_ends_and_leaves_nothing() {
    let bench = Bench::new().await;
    bench.registry.push("1", &TestImage::hello("hi"));
    bench.registry.hold_blobs(true);
    let (images, image) = (Arc::clone(&bench.images), bench.image(":1"));
    let one = tokio::spawn(async move { images.ensure(&image).await });
    bench.registry.wait_for_blob().await;
    // One of two goes: the other gets its image.
    let (images, image) = (Arc::clone(&bench.images), bench.image(":1"));
    let mut two = tokio::spawn(async move { images.ensure(&image).await });
    assert!(futures::poll!(&mut two).is_pending());
    tokio::task::yield_now().await;
    one.abort();
    let _ = one.await;
    two.abort();
    let _ = two.await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while fs::read_dir(bench.dir.path().join("images/tmp"))
        .unwrap()
        .count()
        > 0
    {
        assert!(Instant::now() < deadline, "a pull is still under way");
        tokio::task::yield_now().await;
    }
    assert_eq!(
        fs::read_dir(bench.dir.path().join("images/rootfs"))
            .unwrap()
            .count(),
        0
    );
    bench.registry.hold_blobs(false);
    assert_eq!(hello(&bench.ensure(":1").await.unwrap()), "hi");
}

#[tokio::test]
async fn the_one_who_stays_gets_the_image() {
    let bench = Bench::new().await;
    bench.registry.push("1", &TestImage::hello("hi"));
    bench.registry.hold_blobs(true);
    let (images, image) = (Arc::clone(&bench.images), bench.image(":1"));
    let one = tokio::spawn(async move { images.ensure(&image).await });
    bench.registry.wait_for_blob().await;
    let mut two = Box::pin(bench.ensure(":1"));
    assert!(futures::poll!(&mut two).is_pending());
    one.abort();
    let _ = one.await;
    bench.registry.hold_blobs(false);
    assert_eq!(hello(&two.await.unwrap()), "hi");
    assert_eq!(bench.registry.asked().len(), 3, "the pull went on");
}

#[tokio::test]
async fn a_tag_that_moved_is_noticed_and_a_digest_is_not_asked_for_again() {
    let bench = Bench::with(always_ask()).await;
    let (old, new) = (TestImage::hello("old"), TestImage::hello("new"));
    bench.registry.push("1", &old);
    assert_eq!(hello(&bench.ensure(":1").await.unwrap()), "old");
    bench.registry.asked();
    bench.ensure(":1").await.unwrap();
    assert_eq!(bench.registry.asked(), ["manifest 1"], "the same: no blobs");
    bench.registry.push("1", &new);
    assert_eq!(hello(&bench.ensure(":1").await.unwrap()), "new");
    let pinned = format!(":1@{}", old.digest());
    assert_eq!(hello(&bench.ensure(&pinned).await.unwrap()), "old");
    bench.registry.asked();
    assert_eq!(hello(&bench.ensure(&pinned).await.unwrap()), "old");
    assert_eq!(bench.registry.asked(), [""; 0]);
}

#[tokio::test]
async fn a_registry_that_is_down_is_tried_again_later() {
    let bench = Bench::with(always_ask()).await;
    bench.registry.push("1", &TestImage::hello("hi"));
    for status in [429, 500, 503] {
        bench.registry.answer_only(Some(status));
        bench.must_retry(":1").await;
    }
    bench.registry.answer_only(None);
    bench.ensure(":1").await.unwrap();
    // What is here is used while the registry is away, and while it is gone.
    bench.registry.answer_only(Some(503));
    assert_eq!(hello(&bench.ensure(":1").await.unwrap()), "hi");
    let image = bench.image(":1");
    let Bench {
        dir: _dir,
        registry,
        images,
    } = bench;
    drop(registry);
    assert_eq!(hello(&images.ensure(&image).await.unwrap()), "hi");
}

#[tokio::test]
async fn nobody_listening_is_tried_again_later() {
    let bench = Bench::new().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let path = bench.dir.path().join("other");
    let limits = ImageLimits::default();
    let images = ImageStore::open_with_plain_http(path, limits, vec![address.clone()]).unwrap();
    let result = images
        .ensure(&Image::Reference(format!("{address}/a")))
        .await;
    assert!(matches!(result, Err(BackendError::Retry(_))), "{result:?}");
}

#[tokio::test]
async fn a_registry_that_hangs_is_given_up() {
    let limits = ImageLimits {
        stall_timeout: Duration::from_millis(200),
        ..ImageLimits::default()
    };
    let bench = Bench::with(limits).await;
    bench.registry.push("1", &TestImage::hello("hi"));
    bench.registry.hold_blobs(true);
    bench.must_retry(":1").await;
    let limits = ImageLimits {
        pull_timeout: Duration::from_millis(200),
        ..ImageLimits::default()
    };
    let bench = Bench {
        images: open(&bench.dir, &bench.registry, limits),
        ..bench
    };
    bench.must_retry(":1").await;
    assert_clean(&bench.dir);
}

#[tokio::test]
async fn an_image_that_is_not_there_is_refused_in_our_words() {
    let bench = Bench::new().await;
    let why = bench.refused(":none").await;
    assert!(
        why.contains("has no image") && why.contains("me/app:none"),
        "{why}"
    );
    assert!(!why.contains("<b>"), "the registry's own words: {why}");
    let image = TestImage::hello("hi");
    bench.registry.push_manifest("1", &image.manifest);
    bench.refused(":1").await;
    for status in [401, 403] {
        bench.registry.answer_only(Some(status));
        let why = bench.refused(":1").await;
        assert!(why.contains("private"), "{why}");
    }
}

#[tokio::test]
async fn content_with_another_digest_is_refused() {
    let image = TestImage::hello("hi");
    for blob in &image.blobs {
        let bench = Bench::new().await;
        bench.registry.push("1", &image);
        let mut changed = blob.clone();
        *changed.last_mut().unwrap() ^= 1;
        bench.registry.push_blob(&sha256(blob), &changed);
        let why = bench.refused(":1").await;
        assert!(why.contains("another digest"), "{why}");
        changed.push(0);
        bench.registry.push_blob(&sha256(blob), &changed);
        let why = bench.refused(":1").await;
        assert!(why.contains("another size"), "longer: {why}");
        bench
            .registry
            .push_blob(&sha256(blob), &blob[..blob.len() - 1]);
        bench.refused(":1").await;
    }
    let bench = Bench::new().await;
    bench.registry.push("1", &image);
    let other = TestImage::hello("other");
    bench
        .registry
        .push_manifest(&image.digest(), &other.manifest);
    bench.refused(&format!("@{}", image.digest())).await;
}

#[tokio::test]
async fn an_image_over_a_limit_is_refused_before_its_layers_come() {
    let limits = ImageLimits {
        max_compressed_bytes: 100,
        ..ImageLimits::default()
    };
    let bench = Bench::with(limits).await;
    bench.registry.push("1", &TestImage::hello("hi"));
    let why = bench.refused(":1").await;
    assert!(why.contains("most that is accepted here is 100"), "{why}");
    assert_eq!(bench.registry.asked(), ["manifest 1"]);
    // A manifest that says little and a layer that has more.
    let bomb = gzip(&Tar::new().file("f", &"\0".repeat(1 << 20)).end());
    let limits = ImageLimits {
        max_unpacked_bytes: 1 << 19,
        ..ImageLimits::default()
    };
    let bench = Bench::with(limits).await;
    bench.registry.push("1", &TestImage::new(&[bomb]));
    let why = bench.refused(":1").await;
    assert!(why.contains("larger than"), "{why}");
}

#[tokio::test]
async fn an_index_leads_to_the_image_of_this_platform() {
    let bench = Bench::new().await;
    let (ours, theirs) = (TestImage::hello("ours"), TestImage::hello("theirs"));
    let here = super::super::manifest::host_architecture();
    let index = index(&[
        for_platform(&theirs.manifest, "linux", OTHER),
        for_platform(&ours.manifest, "linux", here),
    ]);
    bench.registry.push_manifest("1", &index);
    for image in [&ours, &theirs] {
        bench.registry.push_manifest("unused", &image.manifest);
        bench.registry.push_blobs(image);
    }
    let image = bench.ensure(":1").await.unwrap();
    assert_eq!(
        (hello(&image).as_str(), &image.digest),
        ("ours", &ours.digest())
    );
    // By the digest of the index too, which is then not asked for again.
    let pinned = format!("@{}", sha256(&index));
    assert!(Arc::ptr_eq(&image, &bench.ensure(&pinned).await.unwrap()));
    bench.registry.asked();
    bench.ensure(&pinned).await.unwrap();
    assert_eq!(bench.registry.asked(), [""; 0]);
}

#[tokio::test]
async fn a_token_is_fetched_where_one_is_wanted() {
    let bench = Bench::new().await;
    bench.registry.push("1", &TestImage::hello("hi"));
    bench.registry.want_token();
    assert_eq!(hello(&bench.ensure(":1").await.unwrap()), "hi");
    assert!(bench.registry.asked().contains(&"token".to_owned()));
}
