use std::fs;
use std::io::Cursor;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use tempfile::TempDir;

use super::super::ImageLimits;
use super::super::testing::{Tar, gzip};
use super::*;

/// `outside/` beside `root/`: what must not change, and the tree. Some way down
/// in a folder of its own, so that broken code does no harm to the host.
struct Bench {
    dir: TempDir,
    base: PathBuf,
    budget: Budget,
}

impl Bench {
    fn new() -> Self {
        Self::with(&ImageLimits::default())
    }

    fn with(limits: &ImageLimits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("1/2/3");
        fs::create_dir_all(base.join("root")).unwrap();
        fs::create_dir(base.join("outside")).unwrap();
        fs::write(base.join("outside/passwd"), "host").unwrap();
        Self {
            base,
            dir,
            budget: Budget::new(limits),
        }
    }

    fn root(&self) -> PathBuf {
        self.base.join("root")
    }

    fn outside(&self) -> String {
        self.base.join("outside").display().to_string()
    }

    fn try_put(&mut self, layer: &[u8]) -> Result<(), UnpackError> {
        let root = self.root();
        let result = unpack_layer(Cursor::new(layer), &root, &mut self.budget);
        // Whatever the layer was, the host is as it was.
        let names = fs::read_dir(self.base.join("outside")).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["passwd"], "something was put outside");
        let text = fs::read_to_string(self.base.join("outside/passwd")).unwrap();
        assert_eq!(text, "host", "something was written outside");
        assert_eq!(fs::read_dir(&self.base).unwrap().count(), 2);
        result
    }

    fn put(&mut self, layer: Tar) {
        self.try_put(&layer.end()).unwrap();
    }

    fn refuses(&mut self, layer: Tar) -> String {
        match self.try_put(&layer.end()) {
            Err(UnpackError::Bad(why)) => why,
            other => panic!("not refused as bad: {other:?}"),
        }
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap()
    }

    fn has(&self, path: &str) -> bool {
        self.root().join(path).symlink_metadata().is_ok()
    }

    fn mode(&self, path: &str) -> u32 {
        let facts = self.root().join(path).symlink_metadata().unwrap();
        facts.mode() & 0o7777
    }
}

fn is_root() -> bool {
    Uid::effective().is_root()
}

#[test]
fn files_links_and_modes_arrive() {
    let mut bench = Bench::new();
    let layer = Tar::new()
        .dir("./", 0o711)
        .dir("./bin/", 0o755)
        .file_mode("./bin/su", "program", 0o4755)
        .hard_link("bin/su2", "./bin/su")
        .symlink("bin/sh", "/bin/su")
        .dir("tmp", 0o1777)
        .file("no/parent/said", "x")
        .entry(b'6', b"pipe", b"", 0o600, b"", 0);
    bench.put(layer);
    assert_eq!(bench.read("bin/su"), "program");
    assert_eq!(bench.read("no/parent/said"), "x");
    assert_eq!(bench.mode("no/parent"), 0o755);
    assert_eq!(bench.mode("tmp"), 0o1777);
    assert_eq!(bench.mode(""), 0o711);
    let link = fs::read_link(bench.root().join("bin/sh")).unwrap();
    assert_eq!(link, PathBuf::from("/bin/su"));
    let (a, b) = (bench.root().join("bin/su"), bench.root().join("bin/su2"));
    assert_eq!(a.metadata().unwrap().ino(), b.metadata().unwrap().ino());
    assert_eq!(a.metadata().unwrap().mtime(), 1_000_000_000);
    let pipe = bench.root().join("pipe").symlink_metadata().unwrap();
    assert!(pipe.file_type().is_fifo());
    // Without root, a setuid program would be ours for everybody.
    let expected = if is_root() { 0o4755 } else { 0o755 };
    assert_eq!(bench.mode("bin/su"), expected);
}

#[test]
fn owners_are_kept_as_root() {
    if !is_root() {
        eprintln!("SKIPPED owners_are_kept_as_root: not root");
        return;
    }
    let mut bench = Bench::new();
    let owner: [(&str, &[u8]); 2] = [("uid", b"1234"), ("gid", b"70000")];
    let layer = Tar::new()
        .pax(&owner)
        .file_mode("f", "x", 0o6755)
        .pax(&owner)
        .symlink("l", "/outside")
        .pax(&owner)
        .dir("d", 0o2755);
    bench.put(layer);
    for name in ["f", "l", "d"] {
        let facts = bench.root().join(name).symlink_metadata().unwrap();
        assert_eq!((facts.uid(), facts.gid()), (1234, 70000), "{name}");
    }
    assert_eq!(bench.mode("f"), 0o6755);
    assert_eq!(bench.mode("d"), 0o2755);
    let why = bench.refuses(Tar::new().pax(&[("uid", b"4294967295")]).file("f", "x"));
    assert!(why.contains("belongs to nobody"), "{why}");
}

#[test]
fn without_root_everything_stays_ours_to_change() {
    if is_root() {
        eprintln!("SKIPPED without_root_everything_stays_ours_to_change: root");
        return;
    }
    let mut bench = Bench::new();
    bench.put(Tar::new().dir("d", 0o555).file_mode("d/f", "old", 0o000));
    bench.put(Tar::new().file("d/g", "new").file("d/.wh.f", ""));
    assert!(!bench.has("d/f"));
    assert_eq!(bench.mode("d"), 0o755);
}

#[test]
fn devices_are_left_out() {
    let mut bench = Bench::new();
    let layer = Tar::new()
        .entry(b'3', b"dev/null", b"", 0o666, b"", 0)
        .entry(b'4', b"dev/sda", b"", 0o666, b"", 0)
        .file("after", "x");
    bench.put(layer);
    assert!(!bench.has("dev/null") && !bench.has("dev/sda"));
    assert_eq!(bench.read("after"), "x");
}

#[test]
fn gzip_zstd_and_plain_are_told_by_their_bytes() {
    let plain = Tar::new().file("f", "x").end();
    let (first, second) = plain.split_at(700);
    let members = [gzip(first), gzip(second)].concat();
    let zstd = zstd::stream::encode_all(plain.as_slice(), 1).unwrap();
    let skip = [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9], zstd.as_slice()].concat();
    for layer in [plain.clone(), gzip(&plain), members, zstd, skip] {
        let mut bench = Bench::new();
        bench.try_put(&layer).unwrap();
        assert_eq!(bench.read("f"), "x");
    }
    let mut bench = Bench::new();
    bench.try_put(b"").unwrap();
    bench.try_put(&gzip(b"")).unwrap();
}

#[test]
fn an_absolute_path_counts_from_the_root() {
    let mut bench = Bench::new();
    let path = format!("{}/passwd", bench.outside());
    if path.len() < 100 {
        bench.put(Tar::new().file(&path, "evil"));
        assert_eq!(bench.read(path.trim_start_matches('/')), "evil");
    }
}

#[test]
fn dots_do_not_lead_out() {
    for path in ["../outside/passwd", "a/../../outside/x", "..", "a/.."] {
        let why = Bench::new().refuses(Tar::new().file(path, "evil"));
        assert!(why.contains("'..'"), "{why}");
        let dir = Bench::new().refuses(Tar::new().dir(path, 0o755));
        assert!(dir.contains("'..'"), "{dir}");
        let link = Bench::new().refuses(Tar::new().hard_link("x", path));
        assert!(link.contains("'..'"), "{link}");
    }
}

#[test]
fn a_link_on_the_way_is_followed_inside() {
    let mut bench = Bench::new();
    let outside = bench.outside();
    // Absolute: from the tree's root. Relative: no further up than the root.
    let up = "../../../../../../../../../..";
    let layer = Tar::new()
        .symlink("a", &outside)
        .file("a/passwd", "evil")
        .symlink("deep/b", &format!("{up}{outside}"))
        .file("deep/b/more", "evil")
        .symlink("c", "../outside")
        .file("c/passwd", "evil");
    bench.put(layer);
    let inside = outside.trim_start_matches('/');
    assert_eq!(bench.read(&format!("{inside}/passwd")), "evil");
    assert_eq!(bench.read(&format!("{inside}/more")), "evil");
    assert_eq!(bench.read("outside/passwd"), "evil");
}

#[test]
fn a_link_of_a_lower_layer_is_followed_inside() {
    let mut bench = Bench::new();
    let outside = bench.outside();
    bench.put(Tar::new().symlink("a", &outside).symlink("up", ".."));
    bench.put(
        Tar::new()
            .file("a/passwd", "evil")
            .file("up/outside/passwd", "evil")
            .dir("a/dir", 0o777)
            .symlink("a/link", "x"),
    );
    assert_eq!(bench.read("outside/passwd"), "evil");
}

#[test]
fn a_link_as_the_last_part_is_replaced() {
    let mut bench = Bench::new();
    let outside = bench.outside();
    bench.put(
        Tar::new()
            .symlink("f", &format!("{outside}/passwd"))
            .symlink("d", &outside)
            .symlink("n", &format!("{outside}/new")),
    );
    bench.put(Tar::new().file("f", "x").dir("d", 0o700).file("n", "y"));
    assert_eq!(bench.read("f"), "x");
    assert!(bench.root().join("d").symlink_metadata().unwrap().is_dir());
    assert_eq!(bench.read("n"), "y");
}

#[test]
fn links_in_a_ring_end() {
    let mut bench = Bench::new();
    let why = bench.refuses(
        Tar::new()
            .symlink("a", "b")
            .symlink("b", "a")
            .file("a/x", ""),
    );
    assert!(why.contains("too many links"), "{why}");
}

#[test]
fn a_hard_link_finds_only_what_is_inside() {
    let mut bench = Bench::new();
    let target = format!("{}/passwd", bench.outside());
    let why = bench.refuses(Tar::new().hard_link("x", &target));
    assert!(why.contains("not a file of the image"), "{why}");
    let through = Tar::new()
        .symlink("a", &bench.outside())
        .hard_link("x", "a/passwd");
    bench.refuses(through);
    bench.refuses(Tar::new().hard_link("x", "/"));
    bench.refuses(Tar::new().dir("d", 0o755).hard_link("x", "d"));
    bench.refuses(Tar::new().hard_link("x", "x"));
    assert!(!bench.has("x"));
    // To a link: the link itself is linked, and what it names is not touched.
    let link = Tar::new()
        .symlink("l", &target)
        .hard_link("m", "l")
        .file("m", "evil");
    bench.put(link);
    assert_eq!(bench.read("m"), "evil");
}

#[test]
fn a_hard_link_to_itself_stays() {
    let mut bench = Bench::new();
    bench.put(Tar::new().file("d/x", "data").hard_link("d/x", "./d//x"));
    assert_eq!(bench.read("d/x"), "data");
}

#[test]
fn whiteouts_hide_what_is_below() {
    let mut bench = Bench::new();
    bench.put(
        Tar::new()
            .file("a", "1")
            .file("d/x", "1")
            .file("d/sub/y", "1")
            .file("e/x", "1"),
    );
    bench.put(
        Tar::new()
            .file(".wh.a", "")
            .file("./d/.wh.sub", "")
            .file("gone/.wh.x", ""),
    );
    assert!(!bench.has("a") && !bench.has("d/sub") && bench.has("d/x"));
    bench.put(Tar::new().file(".wh.e", ""));
    assert!(!bench.has("e"));
    // No whiteout is ever a file.
    assert!(!bench.has(".wh.a") && !bench.has("gone"));
}

#[test]
fn an_opaque_directory_hides_what_is_below_and_only_that() {
    let lower = || {
        Tar::new()
            .file("d/old", "1")
            .file("d/sub/old", "1")
            .file("d/both", "1")
            .file("other", "1")
    };
    let opaque = |tar: Tar| tar.file("d/.wh..wh..opq", "");
    let upper = |tar: Tar| {
        tar.file("d/new", "2")
            .file("d/sub/new", "2")
            .file("d/both", "2")
    };
    // The order of the entries does not matter.
    for layer in [opaque(upper(Tar::new())), upper(opaque(Tar::new()))] {
        let mut bench = Bench::new();
        bench.put(lower());
        bench.put(layer);
        assert!(!bench.has("d/old") && !bench.has("d/sub/old"));
        assert_eq!(bench.read("d/new"), "2");
        assert_eq!(bench.read("d/sub/new"), "2");
        assert_eq!(bench.read("d/both"), "2");
        assert!(bench.has("other"));
        assert!(!bench.has("d/.wh..wh..opq"));
    }
}

#[test]
fn a_whiteout_of_what_the_same_layer_makes_hides_only_the_lower_one() {
    for whiteout_first in [true, false] {
        let mut bench = Bench::new();
        bench.put(Tar::new().file("d/old", "1"));
        let hide = |tar: Tar| tar.file(".wh.d", "");
        let make = |tar: Tar| tar.dir("d", 0o755).file("d/new", "2");
        bench.put(if whiteout_first {
            make(hide(Tar::new()))
        } else {
            hide(make(Tar::new()))
        });
        assert!(bench.has("d/new") && !bench.has("d/old"));
    }
}

#[test]
fn whiteouts_do_not_reach_outside() {
    let mut bench = Bench::new();
    let outside = bench.outside();
    bench.put(
        Tar::new()
            .symlink("a", &outside)
            .symlink("up", "../outside"),
    );
    bench.put(
        Tar::new()
            .file("a/.wh.passwd", "")
            .file("a/.wh..wh..opq", "")
            .file("up/.wh.passwd", "")
            .file("up/.wh..wh..opq", ""),
    );
    // The link goes, not what it names.
    bench.put(Tar::new().file(".wh.a", ""));
    assert!(!bench.has("a"));
    for name in [".wh.", ".wh..", ".wh...", "d/.wh...", "d/.wh.."] {
        let why = bench.refuses(Tar::new().dir("d", 0o755).file(name, ""));
        assert!(why.contains("no name"), "{name}: {why}");
    }
    bench.refuses(Tar::new().file(".wh.dir/file", ""));
    assert!(bench.has("d"));
}

#[test]
fn a_whiteout_of_a_tree_with_links_out_leaves_what_they_name() {
    let mut bench = Bench::new();
    let outside = bench.outside();
    bench.put(
        Tar::new()
            .symlink("d/a", &outside)
            .symlink("d/e/b", &format!("{outside}/passwd")),
    );
    bench.put(Tar::new().file(".wh.d", ""));
    assert!(!bench.has("d"));
}

#[test]
fn a_directory_becomes_a_file_and_back() {
    let mut bench = Bench::new();
    bench.put(Tar::new().file("x/a/b", "1").file("x/c", "1"));
    bench.put(Tar::new().file("x", "file"));
    assert_eq!(bench.read("x"), "file");
    bench.put(Tar::new().dir("x", 0o755).file("x/d", "2"));
    assert_eq!(bench.read("x/d"), "2");
    assert!(!bench.has("x/c"));
    // In one layer, and with a link in between.
    bench.put(
        Tar::new()
            .file("x", "f")
            .dir("x", 0o755)
            .file("x/e", "3")
            .symlink("x", "y")
            .dir("x", 0o755)
            .file("x/g", "4"),
    );
    assert_eq!(bench.read("x/g"), "4");
    assert!(!bench.has("x/e") && !bench.has("y"));
    let why = bench.refuses(Tar::new().file("f", "1").file("f/x", "2"));
    assert!(why.contains("through a file"), "{why}");
    bench.refuses(
        Tar::new()
            .file("./", "root as a file")
            .symlink("./", "/etc"),
    );
    bench.refuses(Tar::new().symlink("./", "/etc"));
}

#[test]
fn the_last_of_two_entries_wins() {
    let mut bench = Bench::new();
    bench.put(
        Tar::new()
            .file("f", "a longer first")
            .hard_link("g", "f")
            .file("f", "second"),
    );
    assert_eq!(bench.read("f"), "second");
    assert_eq!(bench.read("g"), "a longer first");
}

#[test]
fn names_that_do_not_fit_are_refused() {
    let long = vec![b'n'; 256];
    let why = Bench::new().refuses(Tar::new().extra(b'L', &long).file("short", "x"));
    assert!(why.contains("too long a name"), "{why}");
    let deep = b"a/".repeat(3000);
    let why = Bench::new().refuses(Tar::new().pax(&[("path", &deep)]).file("short", "x"));
    assert!(why.contains("too long"), "{why}");
    let deep = b"a/".repeat(200);
    let why = Bench::new().refuses(Tar::new().pax(&[("path", &deep)]).file("short", "x"));
    assert!(why.contains("too deep"), "{why}");
    let target = vec![b't'; 5000];
    let link = Tar::new().extra(b'K', &target).symlink("l", "short");
    assert!(Bench::new().refuses(link).contains("no good target"));
    Bench::new().refuses(Tar::new().symlink("l", ""));
    // Long, and good.
    let mut bench = Bench::new();
    let name = "d".repeat(200);
    bench.put(
        Tar::new()
            .extra(b'L', format!("{name}\0").as_bytes())
            .file("short", "x"),
    );
    bench.put(
        Tar::new()
            .pax(&[("path", name.as_bytes())])
            .file("short", "y"),
    );
    assert_eq!(bench.read(&name), "y");
}

/// Links into each other's ends would lead deeper than any path can be written.
#[test]
fn links_do_not_lead_deeper_than_paths_may_be() {
    let mut layer = Tar::new();
    let step = "d/".repeat(45);
    for n in 0..4 {
        layer = layer.dir(&step, 0o755).symlink(&format!("l{n}"), &step);
        layer = layer.symlink(&format!("l{n}/l{}", n + 1), "d");
    }
    let layer = layer
        .file("l0/l1/d/x", "fine")
        .symlink("far", &"d/".repeat(48))
        .symlink(&format!("{}far", "d/".repeat(40)), &"d/".repeat(48))
        .file(&format!("{}far/far/far/x", "d/".repeat(40)), "too deep");
    let mut bench = Bench::new();
    // Whether it fits or not, the tree can be removed again.
    let _ = bench.try_put(&layer.end());
    bench.dir.close().unwrap();
}

#[test]
fn nuls_are_refused() {
    let paths: [(&str, &[u8]); 2] = [("path", b"a\0b"), ("path", b"\0")];
    for record in paths {
        let why = Bench::new().refuses(Tar::new().pax(&[record]).file("f", "x"));
        assert!(why.contains("NUL"), "{why}");
    }
    let link = Tar::new().pax(&[("linkpath", b"a\0b")]).symlink("l", "x");
    assert!(Bench::new().refuses(link).contains("no good target"));
    let link = Tar::new()
        .file("a", "")
        .pax(&[("linkpath", b"a\0b")])
        .hard_link("l", "a");
    assert!(Bench::new().refuses(link).contains("NUL"));
    let name = Tar::new().extra(b'L', b"a\0b").file("f", "x");
    assert!(Bench::new().refuses(name).contains("NUL"));
}

#[test]
fn pax_values_may_have_newlines_and_broken_headers_are_refused() {
    let mut bench = Bench::new();
    let records: [(&str, &[u8]); 2] = [
        (
            "SCHILY.xattr.security.capability",
            b"\x01\n12 path=evil\n\n\x00",
        ),
        ("path", b"good"),
    ];
    bench.put(Tar::new().pax(&records).file("f", "x"));
    assert_eq!(bench.read("good"), "x");
    assert!(!bench.has("evil") && !bench.has("f"));
    let broken: [&[u8]; 8] = [
        b"5 a=b\n",
        b"99 a=b\n",
        b"x a=b\n",
        b"7 a=bcd",
        b"0 a=b\n",
        b"1 a=b\n",
        b"99999999999999999999999 a=b\n",
        b"6 abc\n",
    ];
    for data in broken {
        let why = Bench::new().refuses(Tar::new().extra(b'x', data).file("f", "x"));
        assert!(why.contains("pax"), "{why}");
    }
}

#[test]
fn a_header_for_nothing_is_refused() {
    for kind in [b'x', b'L', b'K'] {
        let why = Bench::new().refuses(Tar::new().file("f", "x").extra(kind, b"8 a=bcd\n"));
        assert!(why.contains("ends"), "{why}");
    }
    Bench::new().put(Tar::new().extra(b'g', b"comment").file("f", "x"));
}

#[test]
fn an_endless_name_takes_no_memory() {
    // 100 GiB of name, said and not sent; and 4 MiB that are sent.
    let said = Tar::new().entry(b'L', b"x", b"", 0, b"", 100 << 30);
    Bench::new().refuses(said);
    let why = Bench::new().refuses(Tar::new().extra(b'L', &vec![b'a'; 4 << 20]).file("f", ""));
    assert!(why.contains("1 MiB"), "{why}");
}

#[test]
fn sparse_files_are_refused() {
    let old = Tar::new().entry(b'S', b"hole", b"", 0o644, b"", 0);
    assert!(Bench::new().refuses(old).contains("sparse"));
    let new = Tar::new()
        .pax(&[("GNU.sparse.realsize", b"1099511627776")])
        .file("hole", "");
    assert!(Bench::new().refuses(new).contains("sparse"));
    let strange = Tar::new().entry(b'M', b"x", b"", 0o644, b"", 0);
    assert!(Bench::new().refuses(strange).contains("unknown kind"));
}

#[test]
fn bytes_are_limited_over_all_layers() {
    let limits = ImageLimits {
        max_unpacked_bytes: 1000,
        ..ImageLimits::default()
    };
    let mut bench = Bench::with(&limits);
    bench.put(Tar::new().file("a", &"x".repeat(600)));
    bench.put(Tar::new().file("b", &"x".repeat(400)));
    let more = bench.try_put(&Tar::new().file("c", "x").end());
    assert!(matches!(more, Err(UnpackError::TooLarge(1000))), "{more:?}");
    // Refused by what the header says, before anything is written.
    let huge = Tar::new().entry(b'0', b"huge", b"", 0o644, b"", 1 << 40);
    let mut bench = Bench::with(&limits);
    let huge = bench.try_put(&huge.cut());
    assert!(matches!(huge, Err(UnpackError::TooLarge(1000))), "{huge:?}");
    assert!(!bench.has("huge"));
    // A size in pax that is not the header's: readers would disagree.
    let pax = Tar::new().pax(&[("size", b"1099511627776")]).file("f", "x");
    assert!(Bench::with(&limits).refuses(pax).contains("too large"));
}

#[test]
fn files_are_limited_and_so_are_directories_that_nobody_announced() {
    let limits = ImageLimits {
        max_files: 5,
        ..ImageLimits::default()
    };
    let mut bench = Bench::with(&limits);
    bench.put(
        Tar::new()
            .file("a", "")
            .symlink("b", "a")
            .hard_link("c", "a"),
    );
    let more = bench.try_put(&Tar::new().file("1/2/3", "").end());
    assert!(
        matches!(more, Err(UnpackError::TooManyFiles(5))),
        "{more:?}"
    );
    let headers = Tar::new().dir("a", 0o755).cut().repeat(6);
    let again = Bench::with(&limits).try_put(&headers);
    assert!(
        matches!(again, Err(UnpackError::TooManyFiles(5))),
        "{again:?}"
    );
}

#[test]
fn what_is_compressed_away_is_limited_too() {
    let limits = ImageLimits {
        max_unpacked_bytes: 1000,
        max_files: 10,
        ..ImageLimits::default()
    };
    let zeros = vec![0; 64 << 20];
    // After the end of the archive, in a comment, and in a file that is left out.
    let after = [Tar::new().file("f", "x").end(), zeros.clone()].concat();
    let comment = Tar::new().extra(b'g', &zeros).end();
    let device = Tar::new().entry(b'3', b"d", b"", 0, &zeros, 64 << 20).end();
    for layer in [after, comment, device] {
        let result = Bench::with(&limits).try_put(&gzip(&layer));
        assert!(
            matches!(result, Err(UnpackError::TooLarge(1000))),
            "{result:?}"
        );
    }
}

#[test]
fn a_layer_that_ends_early_is_refused() {
    let plain = Tar::new()
        .file("f", &"text ".repeat(1000))
        .file("g", "x")
        .end();
    let packed = gzip(&plain);
    for cut in [1, 5, packed.len() / 2, packed.len() - 4] {
        let result = Bench::new().try_put(&packed[..packed.len() - cut]);
        assert!(
            matches!(result, Err(UnpackError::Bad(_))),
            "{cut}: {result:?}"
        );
    }
    for end in [100, 600, 3000] {
        let result = Bench::new().try_put(&plain[..end]);
        assert!(
            matches!(result, Err(UnpackError::Bad(_))),
            "{end}: {result:?}"
        );
    }
    let mut damaged = packed.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    assert!(Bench::new().try_put(&damaged).is_err());
    assert!(Bench::new().try_put(&[b'?'; 2048]).is_err());
}

#[test]
fn a_flag_ends_the_work() {
    let mut bench = Bench::new();
    bench
        .budget
        .stop_flag()
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let result = bench.try_put(&Tar::new().file("f", "x").end());
    assert!(matches!(result, Err(UnpackError::Stopped)), "{result:?}");
}

#[test]
fn control_characters_do_not_get_into_messages() {
    let why = Bench::new().refuses(Tar::new().file("\x1b[31m/../x", ""));
    assert!(!why.contains('\x1b'), "{why:?}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    /// Any few entries over a few colliding names: nothing leaves the tree.
    #[test]
    fn any_order_of_entries_stays_inside(
        steps in proptest::collection::vec((0u8..6, 0usize..8, 0usize..8), 1..24),
        layers in 1usize..4,
    ) {
        let mut bench = Bench::new();
        let outside = bench.outside();
        let names = ["a", "b", "a/b", "b/a", "a/b/a", "a/passwd", "b/a/passwd", "a/a"];
        let up = format!("{}{outside}", "../".repeat(20));
        let targets = [&outside, "a", "..", "../outside", "b", "a/b", &up, "."];
        for chunk in steps.chunks(steps.len().div_ceil(layers)) {
            let mut layer = Tar::new();
            for (what, name, target) in chunk {
                let (name, target) = (names[*name], targets[*target]);
                let whiteout = match name.rsplit_once('/') {
                    Some((dir, last)) => format!("{dir}/.wh.{last}"),
                    None => format!(".wh.{name}"),
                };
                layer = match what {
                    0 => layer.file(name, "evil"),
                    1 => layer.dir(name, 0o777),
                    2 => layer.symlink(name, target),
                    3 => layer.hard_link(name, names[target.len() % names.len()]),
                    4 => layer.file(&whiteout, ""),
                    _ => layer.file(&format!("{name}/.wh..wh..opq"), ""),
                };
            }
            // Good or bad: the bench looks at the outside itself.
            if let Err(error) = bench.try_put(&layer.end()) {
                proptest::prop_assert!(
                    matches!(error, UnpackError::Bad(_)), "no verdict on the layer: {error:?}"
                );
            }
        }
    }
}
