use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::attrs::Attrs;
use super::wire::{Body, Fields, read_packet};
use super::*;

/// Sends packets and gives the answers, after the handshake.
fn talk(home: &Path, packets: Vec<Body>) -> Vec<Vec<u8>> {
    let mut input = Body::new(request::INIT).u32(3).finish();
    packets.into_iter().for_each(|p| input.extend(p.finish()));
    let mut output = Vec::new();
    serve_at(&input[..], &mut output, home).unwrap();
    let (mut reader, mut answers) = (&output[..], Vec::new());
    let mut packet = Vec::new();
    while read_packet(&mut reader, &mut packet, MAX_PACKET).unwrap() {
        answers.push(packet.clone());
    }
    assert_eq!(answers[0][..5], [reply::VERSION, 0, 0, 0, 3]);
    answers.split_off(1)
}

fn code(answer: &[u8]) -> u32 {
    let mut fields = Fields::new(answer);
    assert_eq!(fields.u8().unwrap(), reply::STATUS);
    fields.u32().unwrap();
    fields.u32().unwrap()
}

fn ask(kind: u8, number: u32) -> Body {
    Body::new(kind).u32(number)
}

fn open(path: &str, flags: u32) -> Body {
    ask(request::OPEN, 1).text(path).u32(flags).u32(0)
}

/// What the first handle of a session is.
const HANDLE: &[u8] = b"0";

#[test]
fn a_file_is_written_and_read_back() {
    let home = tempfile::tempdir().unwrap();
    let mode = Attrs {
        mode: Some(0o640),
        times: Some((1_000, 2_000)),
        ..Attrs::default()
    };
    let answers = talk(
        home.path(),
        vec![
            open("file", 2 | 8 | 0x10),
            ask(request::WRITE, 2).bytes(HANDLE).u64(3).text("def"),
            ask(request::WRITE, 3).bytes(HANDLE).u64(0).text("abc"),
            ask(request::FSETSTAT, 4).bytes(HANDLE).attrs(&mode),
            ask(request::CLOSE, 5).bytes(HANDLE),
            open("file", 1),
            ask(request::STAT, 9).text("file"),
            ask(request::READ, 7).text("1").u64(1).u32(100),
            ask(request::READ, 8).text("1").u64(6).u32(100),
        ],
    );
    assert_eq!(answers[0][0], reply::HANDLE);
    assert!(answers[1..5].iter().all(|a| code(a) == 0));
    assert_eq!(answers[7], ask(reply::DATA, 7).text("bcdef").finish()[4..]);
    assert_eq!(code(&answers[8]), 1, "end of file");
    let mut fields = Fields::new(&answers[6][5..]);
    let attrs = fields.attrs().unwrap();
    assert_eq!(attrs.size, Some(6));
    assert_eq!(attrs.permissions(), Some(0o640));
    assert_eq!(attrs.times, Some((1_000, 2_000)));
    assert_eq!(std::fs::read(home.path().join("file")).unwrap(), b"abcdef");
}

#[test]
fn flags_of_open_are_kept() {
    let home = tempfile::tempdir().unwrap();
    let there = home.path().join("there");
    std::fs::write(&there, "old").unwrap();
    let append = |text| ask(request::WRITE, 9).bytes(HANDLE).u64(0).text(text);
    let answers = talk(
        home.path(),
        vec![
            open("there", 2 | 8 | 0x20),
            open("gone", 1),
            open("there", 2 | 4),
            append("+new"),
        ],
    );
    assert_eq!(code(&answers[0]), 4, "exclusive");
    assert_eq!(code(&answers[1]), 2, "no such file");
    assert_eq!(std::fs::read(&there).unwrap(), b"old+new");
    talk(home.path(), vec![open("there", 2 | 8 | 0x10)]);
    assert_eq!(std::fs::read(&there).unwrap(), b"");
}

#[test]
fn directories_links_and_names() {
    let home = tempfile::tempdir().unwrap();
    let real = home.path().canonicalize().unwrap();
    let path = |kind, number, path| ask(kind, number).text(path);
    let answers = talk(
        home.path(),
        vec![
            path(request::MKDIR, 1, "d").u32(0),
            path(request::SYMLINK, 2, "target").text("d/link"),
            path(request::READLINK, 3, "d/link"),
            path(request::REALPATH, 4, "."),
            path(request::REALPATH, 5, "d/../d/new"),
            path(request::OPENDIR, 6, "d"),
            ask(request::READDIR, 7).bytes(HANDLE),
            ask(request::READDIR, 8).bytes(HANDLE),
            path(request::RMDIR, 9, "d"),
            path(request::RENAME, 10, "d").text("d2"),
            path(request::REMOVE, 11, "d2/link"),
            path(request::REMOVE, 12, "d2"),
            path(request::RMDIR, 13, "d2"),
        ],
    );
    let codes = |range: std::ops::Range<usize>| answers[range].iter().map(|a| code(a));
    assert!(codes(0..2).all(|c| c == 0));
    let name = |i: usize| {
        let mut fields = Fields::new(&answers[i][5..]);
        assert_eq!(fields.u32().unwrap(), 1);
        String::from_utf8(fields.bytes().unwrap().to_vec()).unwrap()
    };
    assert_eq!(name(2), "target");
    assert_eq!(name(3), real.to_str().unwrap());
    assert_eq!(name(4), real.join("d/new").to_str().unwrap());
    let mut fields = Fields::new(&answers[6][5..]);
    let mut names = Vec::new();
    for _ in 0..fields.u32().unwrap() {
        names.push(fields.bytes().unwrap());
        fields.bytes().unwrap();
        fields.attrs().unwrap();
    }
    names.sort_unstable();
    assert_eq!(names, [&b"."[..], b"..", b"link"]);
    assert_eq!(code(&answers[7]), 1, "end of directory");
    assert_eq!(codes(8..13).collect::<Vec<_>>(), [4, 0, 0, 4, 0]);
}

#[test]
fn a_rename_replaces_nothing_unless_it_is_the_posix_one() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("a"), "a").unwrap();
    std::fs::write(home.path().join("b"), "b").unwrap();
    let posix = ask(request::EXTENDED, 2).text("posix-rename@openssh.com");
    let answers = talk(
        home.path(),
        vec![
            ask(request::RENAME, 1).text("a").text("b"),
            posix.text("a").text("b"),
        ],
    );
    assert_eq!((code(&answers[0]), code(&answers[1])), (4, 0));
    assert_eq!(std::fs::read(home.path().join("b")).unwrap(), b"a");
}

#[test]
fn modes_are_set_and_a_new_file_has_the_mode_asked_for() {
    let home = tempfile::tempdir().unwrap();
    let mode = Attrs {
        mode: Some(0o100_700),
        ..Attrs::default()
    };
    let create = ask(request::OPEN, 1).text("f").u32(2 | 8).attrs(&mode);
    talk(home.path(), vec![create]);
    let of = |name: &str| {
        let meta = std::fs::metadata(home.path().join(name)).unwrap();
        meta.permissions().mode() & 0o7777
    };
    assert_eq!(of("f"), 0o700);
    let mode = Attrs {
        mode: Some(0o100_604),
        size: Some(5),
        ..Attrs::default()
    };
    talk(
        home.path(),
        vec![ask(request::SETSTAT, 1).text("f").attrs(&mode)],
    );
    assert_eq!(of("f"), 0o604);
    assert_eq!(std::fs::read(home.path().join("f")).unwrap(), [0; 5]);
}

#[test]
fn open_handles_are_bounded_and_unknown_ones_refused() {
    let home = tempfile::tempdir().unwrap();
    let many = (0..200).map(|_| ask(request::OPENDIR, 1).text("."));
    let answers = talk(home.path(), many.collect());
    let open = answers.iter().filter(|a| a[0] == reply::HANDLE).count();
    assert_eq!(open, files::MAX_HANDLES);
    let answers = talk(
        home.path(),
        vec![
            ask(request::CLOSE, 1).bytes(HANDLE),
            ask(request::READ, 2).text("long handle").u64(0).u32(1),
            ask(99, 3),
            ask(request::OPEN, 4).u32(1_000_000),
        ],
    );
    let codes: Vec<u32> = answers.iter().map(|a| code(a)).collect();
    assert_eq!(codes, [4, 4, 8, 5]);
}

#[test]
fn a_packet_that_is_too_long_or_cut_ends_the_session() {
    let home = Path::new("/");
    let long = u32::try_from(MAX_PACKET + 1).unwrap().to_be_bytes();
    assert!(serve_at(&long[..], Vec::new(), home).is_err());
    assert!(serve_at(&[0, 0, 0, 9, 1][..], Vec::new(), home).is_err());
    assert!(serve_at(&[0, 0, 0, 0][..], Vec::new(), home).is_err());
    assert!(serve_at(&[][..], Vec::new(), home).is_ok());
}

#[test]
fn a_long_directory_comes_in_several_answers() {
    let home = tempfile::tempdir().unwrap();
    for i in 0..150 {
        let name = format!("{i:0>250}");
        std::fs::write(home.path().join(name), "").unwrap();
    }
    let mut packets = vec![ask(request::OPENDIR, 1).text("")];
    packets.extend((0..4).map(|_| ask(request::READDIR, 2).bytes(HANDLE)));
    let answers = talk(home.path(), packets);
    let names = |answer: &[u8]| match answer[0] {
        reply::NAME => Fields::new(&answer[5..]).u32().unwrap(),
        _ => 0,
    };
    assert_eq!(answers.iter().map(|a| names(a)).sum::<u32>(), 152);
    assert_eq!(code(&answers[4]), 1);
}
