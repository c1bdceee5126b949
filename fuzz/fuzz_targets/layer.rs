//! Layers of an image, unpacked. Nothing outside of the directory changes, and
//! what is inside stays within the limits.
#![no_main]

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use satlet::compute::sandbox::image::unpack::unpack_layer;
use satlet::compute::sandbox::image::{Budget, ImageLimits};
use satlet_fuzz::{cell, tar};

const MAX_BYTES: u64 = 64 * 1024;
const MAX_FILES: u64 = 64;

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(data).expect("in memory");
    packed.finish().expect("in memory")
}

/// `data` again and again, packed: little that becomes much. As many members of
/// a stream, of which only one has to be made.
fn bomb(data: &[u8]) -> Vec<u8> {
    gzip(&data.repeat((64 * 1024 / data.len().max(1)).max(1))).repeat(96)
}

/// The first byte says what the others are.
fn layers(data: &[u8]) -> Vec<Vec<u8>> {
    let Some((how, data)) = data.split_first() else {
        return Vec::new();
    };
    let repaired = || {
        let mut archive = data.to_vec();
        tar::repair(&mut archive);
        archive
    };
    match how % 8 {
        0 => vec![data.to_vec()],
        1 => vec![repaired()],
        2 => vec![gzip(&repaired())],
        3 => vec![zstd::encode_all(repaired().as_slice(), 1).expect("in memory")],
        4 if data.len() > 4 => vec![bomb(data)],
        _ => tar::layers(data),
    }
}

fn unpack(data: &[u8], inside: &Path) {
    let limits = ImageLimits {
        max_unpacked_bytes: MAX_BYTES,
        max_files: MAX_FILES,
        ..ImageLimits::default()
    };
    let mut budget = Budget::new(&limits);
    for layer in layers(data) {
        let done = unpack_layer(layer.as_slice(), inside, &mut budget);
        if let Err(error) = done {
            assert!(error.to_string().len() < 2000, "a long message: {error}");
            break;
        }
    }
    let mut seen = HashSet::new();
    let (mut bytes, mut files) = (0, 0);
    measure(inside, &mut seen, &mut bytes, &mut files);
    assert!(bytes <= MAX_BYTES, "{bytes} bytes were written");
    assert!(files <= MAX_FILES, "{files} files were made");
}

fn measure(dir: &Path, seen: &mut HashSet<u64>, bytes: &mut u64, files: &mut u64) {
    for entry in fs::read_dir(dir).expect("a directory of ours") {
        let path = entry.expect("a name").path();
        let meta = path.symlink_metadata().expect("it is there");
        let kind = meta.file_type();
        assert!(!kind.is_block_device() && !kind.is_char_device() && !kind.is_socket());
        *files += 1;
        if kind.is_file() && seen.insert(meta.ino()) {
            *bytes += meta.len();
        }
        if kind.is_dir() {
            measure(&path, seen, bytes, files);
        }
    }
}

fuzz_target!(init: cell::prepare(), |data: &[u8]| {
    cell::run(data, cell::Walls::Guarded, unpack);
});
