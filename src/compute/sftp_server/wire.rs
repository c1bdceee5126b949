//! Bytes of the protocol: numbers big-endian, strings with a length before them
//! (draft-ietf-secsh-filexfer-02, sections 3 to 5).

use std::io::{self, Read};

use super::attrs::{ACMODTIME, Attrs, EXTENDED, PERMISSIONS, SIZE, UIDGID};
use super::files::Failure;

/// A packet or field that is cut short or too long.
#[derive(Debug)]
pub(super) struct Malformed;

impl From<Malformed> for io::Error {
    fn from(_: Malformed) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, "malformed SFTP packet")
    }
}

impl From<Malformed> for Failure {
    fn from(_: Malformed) -> Self {
        Self::BadMessage
    }
}

/// Reads one packet into `packet`; `false` at the end of the stream.
pub(super) fn read_packet<R: Read>(
    reader: &mut R,
    packet: &mut Vec<u8>,
    max: usize,
) -> io::Result<bool> {
    let mut length = [0; 4];
    match reader.read_exact(&mut length) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(e) => return Err(e),
    }
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| Malformed)?;
    if length == 0 || length > max {
        return Err(Malformed.into());
    }
    packet.resize(length, 0);
    reader.read_exact(packet)?;
    Ok(true)
}

/// Reads fields off the front of a packet.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn new(packet: &'a [u8]) -> Self {
        Self(packet)
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(bytes).ok_or(Malformed)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        self.take(length)
    }

    pub(super) fn attrs(&mut self) -> Result<Attrs, Malformed> {
        let flags = self.u32()?;
        let mut attrs = Attrs::default();
        if flags & SIZE != 0 {
            attrs.size = Some(self.u64()?);
        }
        if flags & UIDGID != 0 {
            attrs.owner = Some((self.u32()?, self.u32()?));
        }
        if flags & PERMISSIONS != 0 {
            attrs.mode = Some(self.u32()?);
        }
        if flags & ACMODTIME != 0 {
            attrs.times = Some((self.u32()?, self.u32()?));
        }
        if flags & EXTENDED != 0 {
            // Known to nobody; read over them.
            for _ in 0..self.u32()? {
                self.bytes()?;
                self.bytes()?;
            }
        }
        Ok(attrs)
    }
}

/// A packet being written.
pub(super) struct Body(Vec<u8>);

impl Body {
    pub(super) fn new(kind: u8) -> Self {
        Self(vec![0, 0, 0, 0, kind])
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn bytes(mut self, value: &[u8]) -> Self {
        // What is sent is bounded far below 4 GiB.
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        self = self.u32(length);
        self.0.extend_from_slice(value);
        self
    }

    pub(super) fn text(self, value: &str) -> Self {
        self.bytes(value.as_bytes())
    }

    pub(super) fn attrs(mut self, attrs: &Attrs) -> Self {
        self = self.u32(attrs.flags());
        if let Some(size) = attrs.size {
            self = self.u64(size);
        }
        if let Some((user, group)) = attrs.owner {
            self = self.u32(user).u32(group);
        }
        if let Some(mode) = attrs.mode {
            self = self.u32(mode);
        }
        if let Some((accessed, modified)) = attrs.times {
            self = self.u32(accessed).u32(modified);
        }
        self
    }

    /// The whole packet, with its length in front.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len().saturating_sub(4)).unwrap_or(u32::MAX);
        for (place, byte) in self.0.iter_mut().zip(length.to_be_bytes()) {
            *place = byte;
        }
        self.0
    }
}
