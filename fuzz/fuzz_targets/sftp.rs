//! The SFTP server on a file system of its own: bytes as they come, or packets
//! put together from what is likely to do harm. Every packet has one answer.
#![no_main]

use std::io::{self, Write};
use std::path::Path;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use satlet::compute::sftp_server::{MAX_PACKET, serve_at};
use satlet_fuzz::cell;

const KINDS: &[u8] = &[
    1, 3, 3, 3, 4, 5, 5, 6, 6, 7, 8, 9, 10, 11, 12, 12, 13, 14, 15, 16, 17, 18, 19, 20, 200, 200,
    77,
];
const PATHS: &[&str] = &[
    "a", "b", "c", "a/b", "a/b/c", ".", "..", "", "a/../b", "~", "~/a", "./a/", "a\0b", "é",
];
const EXTENSIONS: &[&str] = &[
    "posix-rename@openssh.com",
    "hardlink@openssh.com",
    "fsync@openssh.com",
    "expand-path@openssh.com",
    "limits@openssh.com",
    "statvfs@openssh.com",
];

fn string(packet: &mut Vec<u8>, bytes: &[u8]) {
    packet.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    packet.extend_from_slice(bytes);
}

fn attrs(u: &mut Unstructured<'_>, packet: &mut Vec<u8>) -> Result<()> {
    let flags = u.int_in_range(0..=15_u32)? | if u.ratio(1, 10)? { 0x8000_0000 } else { 0 };
    packet.extend_from_slice(&flags.to_be_bytes());
    if flags & 1 != 0 {
        let size = *u.choose(&[0, 1, 5000, 1 << 33, 1 << 63, u64::MAX])?;
        packet.extend_from_slice(&u64::to_be_bytes(size));
    }
    for _ in 0..flags.count_ones() {
        packet.extend_from_slice(&u.arbitrary::<u32>()?.to_be_bytes());
    }
    Ok(())
}

/// Fields of any kind: what a request takes too many is ignored, what it lacks
/// is an error of the client's.
fn packet(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let kind = *u.choose(KINDS)?;
    let mut packet = vec![kind];
    packet.extend_from_slice(&u.arbitrary::<u16>().map(u32::from)?.to_be_bytes());
    match kind {
        200 => string(&mut packet, u.choose(EXTENSIONS)?.as_bytes()),
        4..=6 | 8 | 10 | 12 => {
            let handle = u.int_in_range(0..=5)?;
            string(&mut packet, handle.to_string().as_bytes());
        }
        _ => string(&mut packet, u.choose(PATHS)?.as_bytes()),
    }
    match kind {
        3 => {
            packet.extend_from_slice(&u.int_in_range(0..=63_u32)?.to_be_bytes());
            attrs(u, &mut packet)?;
        }
        5 | 6 => {
            let offset = *u.choose(&[0, 0, 1, 4096, 1 << 20, 1 << 62, 1 << 63, u64::MAX])?;
            packet.extend_from_slice(&u64::to_be_bytes(offset));
            let length = *u.choose(&[0, 1, 100, 4096, 300_000, u32::MAX])?;
            packet.extend_from_slice(&u32::to_be_bytes(length));
            packet.extend(vec![b'x'; length.min(5000) as usize]);
        }
        9 | 10 | 14 => attrs(u, &mut packet)?,
        _ => string(&mut packet, u.choose(PATHS)?.as_bytes()),
    }
    if u.ratio(1, 20)? {
        packet.truncate(u.int_in_range(1..=packet.len())?);
    }
    Ok(packet)
}

fn stream(data: &[u8]) -> Vec<u8> {
    let Some((how, data)) = data.split_first() else {
        return Vec::new();
    };
    if how % 4 == 0 {
        return data.to_vec();
    }
    let (mut u, mut stream) = (Unstructured::new(data), Vec::new());
    while !u.is_empty() && stream.len() < 1 << 20 {
        let Ok(packet) = packet(&mut u) else { break };
        string(&mut stream, &packet);
    }
    stream
}

/// Looks at answers and forgets them: length, kind, nothing too long.
#[derive(Default)]
struct Answers(u64);

impl Write for Answers {
    fn write(&mut self, answer: &[u8]) -> io::Result<usize> {
        let (length, body) = answer.split_at_checked(4).expect("a length");
        let length = u32::from_be_bytes(length.try_into().expect("four bytes"));
        assert_eq!(length as usize, body.len(), "answers are written whole");
        assert!(body.len() <= MAX_PACKET && !body.is_empty());
        assert!(matches!(body[0], 2 | 101..=105 | 201));
        self.0 += 1;
        Ok(answer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn packets(mut stream: &[u8]) -> u64 {
    let mut packets = 0;
    while let Some((length, rest)) = stream.split_at_checked(4) {
        let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
        let Some(rest) = rest.get(length..) else {
            break;
        };
        stream = rest;
        packets += 1;
    }
    packets
}

fn serve(data: &[u8], inside: &Path) {
    let stream = stream(data);
    let mut answers = Answers::default();
    let ended = serve_at(stream.as_slice(), &mut answers, inside);
    assert!(answers.0 <= packets(&stream));
    if ended.is_ok() {
        assert_eq!(answers.0, packets(&stream));
    }
}

fuzz_target!(init: cell::prepare(), |data: &[u8]| {
    cell::run(data, cell::Walls::Open, serve);
});
