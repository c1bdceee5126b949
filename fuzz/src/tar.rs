//! Layers out of bytes: a tar archive with right checksums around whatever the
//! fuzzer thinks of, or entries put together from what is likely to do harm.

use libfuzzer_sys::arbitrary::{Result, Unstructured};

const BLOCK: usize = 512;

/// Puts the right checksum on every header, so that mutations get past it.
pub fn repair(archive: &mut [u8]) {
    let mut at = 0;
    while let Some(header) = archive.get_mut(at..at + BLOCK) {
        at += BLOCK;
        if header.iter().all(|byte| *byte == 0) {
            continue;
        }
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let size = std::str::from_utf8(&header[124..135]).ok();
        let size =
            size.and_then(|text| usize::from_str_radix(text.trim_matches(['\0', ' ']), 8).ok());
        at = at.saturating_add(size.unwrap_or(0).next_multiple_of(BLOCK));
    }
}

const KINDS: &[u8] = b"00000005522211134xxLKg67S\0D";
const PARTS: &[&str] = &[
    "a",
    "b",
    "c",
    "a",
    "b",
    "c",
    "..",
    ".",
    "",
    "outside",
    "file",
    "inside",
    ".wh.a",
    ".wh.b",
    ".wh.outside",
    ".wh..wh..opq",
    ".wh..wh.plnk",
    ".wh.",
    ".wh...",
    "é",
];
const KEYS: &[&str] = &[
    "path",
    "linkpath",
    "size",
    "uid",
    "gid",
    "mtime",
    "GNU.sparse.size",
    "SCHILY.xattr.user.x",
];

fn path(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut path = Vec::new();
    if u.ratio(1, 5)? {
        path.push(b'/');
    }
    if u.ratio(1, 40)? {
        let (part, times) = (u.choose(PARTS)?, u.int_in_range(1..=600)?);
        path.extend(format!("{part}/").repeat(times).bytes());
    }
    if u.ratio(1, 40)? {
        path.extend(std::iter::repeat_n(b'n', u.int_in_range(250..=260)?));
        path.push(b'/');
    }
    for _ in 0..u.int_in_range(1..=4)? {
        path.extend_from_slice(u.choose(PARTS)?.as_bytes());
        path.push(b'/');
    }
    if u.ratio(7, 8)? {
        path.pop();
    }
    if u.ratio(1, 40)? {
        path.extend_from_slice(u.bytes(3.min(u.len()))?);
    }
    Ok(path)
}

/// A number as tar has it: octal, or with the highest bit set for binary.
fn number(field: &mut [u8], value: u64, binary: bool) {
    let digits = field.len() - 1;
    if binary {
        field.fill(0);
        field[0] = 0x80;
        let tail = field.len() - 8;
        field[tail..].copy_from_slice(&value.to_be_bytes());
    } else {
        let text = format!("{value:0digits$o}");
        field[..digits].copy_from_slice(&text.as_bytes()[text.len() - digits..]);
    }
}

fn put(field: &mut [u8], text: &[u8]) {
    let fits = text.len().min(field.len());
    field[..fits].copy_from_slice(&text[..fits]);
}

fn record(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let key = *u.choose(KEYS)?;
    let value = match key {
        "path" | "linkpath" => path(u)?,
        _ if u.ratio(1, 4)? => u.bytes(4.min(u.len()))?.to_vec(),
        _ => u
            .choose(&[
                "0",
                "1",
                "4096",
                "4294967295",
                "99999999999",
                "18446744073709551615",
                "-1",
            ])?
            .as_bytes()
            .to_vec(),
    };
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    if u.ratio(1, 20)? {
        length = length.wrapping_add(u.arbitrary::<u8>()?.into());
    }
    let mut record = format!("{length} {key}=").into_bytes();
    record.extend_from_slice(&value);
    record.push(b'\n');
    Ok(record)
}

fn entry(u: &mut Unstructured<'_>, archive: &mut Vec<u8>) -> Result<()> {
    let kind = *u.choose(KINDS)?;
    let mut header = [0; BLOCK];
    put(&mut header[..100], &path(u)?);
    number(&mut header[100..108], u.arbitrary::<u16>()?.into(), false);
    let owner = *u.choose(&[0, 0, 0, 1000, 65_535, 4_294_967_295, 1 << 40])?;
    number(&mut header[108..116], owner, owner > 0o7_777_777);
    number(&mut header[116..124], owner, owner > 0o7_777_777);
    number(&mut header[136..148], u.arbitrary::<u32>()?.into(), false);
    header[156] = kind;
    if matches!(kind, b'1' | b'2') {
        put(&mut header[157..257], &path(u)?);
    }
    put(
        &mut header[257..265],
        u.choose(&[b"ustar\x0000", b"ustar  \0", b"\0\0\0\0\0\0\0\0"])?
            .as_slice(),
    );
    let data = match kind {
        b'x' | b'g' => {
            let mut data = Vec::new();
            for _ in 0..u.int_in_range(1..=3)? {
                data.extend(record(u)?);
            }
            data
        }
        b'L' | b'K' => path(u)?,
        0 | b'0' | b'7' => vec![b'x'; *u.choose(&[0, 0, 1, 511, 512, 513, 5000, 40_000])?],
        _ => Vec::new(),
    };
    let said = match u.ratio(1, 30)? {
        true => *u.choose(&[0, 1, 1 << 20, 1 << 33, 1 << 62, u64::MAX])?,
        false => data.len() as u64,
    };
    number(&mut header[124..136], said, said > 0o77_777_777_777);
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive.extend_from_slice(&header);
    archive.extend_from_slice(&data);
    archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    Ok(())
}

/// One archive after the other, out of `data`.
pub fn layers(data: &[u8]) -> Vec<Vec<u8>> {
    let mut u = Unstructured::new(data);
    let mut layers = vec![Vec::new()];
    while !u.is_empty() {
        let next = u.ratio(1, 6).unwrap_or(false) && layers.len() < 4;
        if next {
            layers.push(Vec::new());
        }
        if let Some(layer) = layers.last_mut()
            && entry(&mut u, layer).is_err()
        {
            break;
        }
    }
    for layer in &mut layers {
        layer.resize(layer.len() + 2 * BLOCK, 0);
    }
    layers
}
