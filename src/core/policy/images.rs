//! Names of images: what a reference means, and whether the operator allows it.

#[cfg(test)]
mod tests;

/// Longest reference that is looked at, in bytes: 255 of name (Docker's
/// limit), a host name, a tag and a digest.
const MAX_REFERENCE: usize = 768;
/// Longest name in a repository, in bytes (distribution's `NameTotalLengthMax`).
const MAX_NAME: usize = 255;
/// Longest tag, in bytes (OCI distribution specification, "Pulling manifests").
const MAX_TAG: usize = 128;
/// The registry of a reference that names none.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Where the default registry keeps images that have no owner in their name.
const DEFAULT_OWNER: &str = "library";

/// Why a text names no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing there.
    #[error("an image reference is not empty")]
    Empty,
    /// More than any reference can need.
    #[error(
        "an image reference has at most {MAX_REFERENCE} characters, its name at most {MAX_NAME}"
    )]
    TooLong,
    /// The registry part is no host name with an optional port.
    #[error("the registry of an image reference is a host name, with a port where needed")]
    Registry,
    /// The name does not fit the grammar.
    #[error(
        "the name of an image has lower-case letters, digits and single '.', '_', '-' between them, in parts that '/' separates"
    )]
    Name,
    /// The tag does not fit the grammar.
    #[error(
        "a tag has 1 to {MAX_TAG} letters, digits, '_', '.' and '-', and does not start with '.' or '-'"
    )]
    Tag,
    /// Only SHA-256 digests are known here.
    #[error("a digest is sha256: and 64 lower-case hexadecimal digits")]
    Digest,
}

/// Checks a reference and writes it out in full, as Docker understands it:
/// `debian` is `docker.io/library/debian:latest`, `me/app:1` is
/// `docker.io/me/app:1`, `localhost/x` stays. Where there is a digest, the tag
/// is dropped: it says nothing then, and a pattern for tags must not match it.
///
/// # Errors
/// Text that names no image. IPv6 addresses as registries are not supported.
pub fn validate_reference(text: &str) -> Result<String, ReferenceError> {
    if text.is_empty() {
        return Err(ReferenceError::Empty);
    }
    if text.len() > MAX_REFERENCE {
        return Err(ReferenceError::TooLong);
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    let (registry, rest) = split_registry(rest)?;
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    let path = full_path(&registry, path)?;
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(ReferenceError::Tag);
    }
    match digest {
        Some(digest) if is_digest(digest) => Ok(format!("{registry}/{path}@{digest}")),
        Some(_) => Err(ReferenceError::Digest),
        None => Ok(format!("{registry}/{path}:{}", tag.unwrap_or("latest"))),
    }
}

/// Whether one of the operator's patterns matches `image`: `host`, the name of
/// a layout, or a reference as [`validate_reference`] writes it. In a pattern
/// `*` stands for any run of characters, `/` and `:` included; everything else
/// stands for itself. A reference may be written short, with a `/` or `:` by
/// which it is known from a name: `debian:12`. An empty list allows nothing.
pub fn allowed<P: AsRef<str>>(patterns: &[P], image: &str) -> bool {
    patterns.iter().map(AsRef::as_ref).any(|pattern| {
        glob(pattern.as_bytes(), image.as_bytes())
            || (pattern.contains(['/', ':'])
                && validate_reference(pattern).is_ok_and(|whole| whole == image))
    })
}

/// The registry, and what follows it. The first part is a registry only where
/// it cannot be part of a name: with a dot or a port, or `localhost`.
fn split_registry(text: &str) -> Result<(String, &str), ReferenceError> {
    let Some((first, rest)) = text.split_once('/') else {
        return Ok((DEFAULT_REGISTRY.to_owned(), text));
    };
    // Host names do not tell capitals apart, patterns do.
    let registry = first.to_ascii_lowercase();
    let is_registry = registry == "localhost" || first.contains(['.', ':']);
    if !is_registry && registry == first {
        return Ok((DEFAULT_REGISTRY.to_owned(), text));
    }
    // Without a dot or port capitals alone would make it a registry: written
    // out in lower case it would be another image, the next time it is read.
    if !is_registry || !is_host_and_port(first) {
        return Err(ReferenceError::Registry);
    }
    if registry == "index.docker.io" {
        return Ok((DEFAULT_REGISTRY.to_owned(), rest));
    }
    Ok((registry, rest))
}

fn is_host_and_port(text: &str) -> bool {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let good_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let good_port = |port: &str| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|n| n > 0)
    };
    host.len() <= 253 && host.split('.').all(good_label) && port.is_none_or(good_port)
}

fn full_path(registry: &str, path: &str) -> Result<String, ReferenceError> {
    // A bare image id; Docker refuses it as a name too.
    let is_id = path.len() == 64 && path.bytes().all(is_lower_hex);
    let whole = if registry == DEFAULT_REGISTRY && !path.contains('/') {
        format!("{DEFAULT_OWNER}/{path}")
    } else {
        path.to_owned()
    };
    // The owner counts: what is written out must be readable again.
    if whole.len() > MAX_NAME {
        return Err(ReferenceError::TooLong);
    }
    if is_id || !path.split('/').all(is_path_part) {
        return Err(ReferenceError::Name);
    }
    Ok(whole)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` (OCI distribution specification).
fn is_path_part(part: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut run: Option<(u8, usize)> = None;
    let mut after_word = false;
    for byte in part.bytes() {
        if word(byte) {
            run = None;
            after_word = true;
            continue;
        }
        let length = match run {
            None if after_word => 1,
            Some((same, length)) if same == byte => length.saturating_add(1),
            _ => return false,
        };
        let longest = match byte {
            b'.' => 1,
            b'_' => 2,
            b'-' => usize::MAX,
            _ => return false,
        };
        if length > longest {
            return false;
        }
        run = Some((byte, length));
    }
    after_word && run.is_none()
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_digest(digest: &str) -> bool {
    digest
        .strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(is_lower_hex))
}

const fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// Greedy matching with one way back, so that no pattern takes longer than
/// pattern times text.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                star = Some((p, t));
            }
            Some(same) if same == byte => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((after, from)) => {
                    star = Some((after, from + 1));
                    p = after;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern
        .get(p..)
        .is_some_and(|rest| rest.iter().all(|b| *b == b'*'))
}
