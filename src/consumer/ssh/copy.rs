//! Files and directories through the SFTP subsystem.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use russh_sftp::client::SftpSession;
use russh_sftp::client::fs::Metadata;
use russh_sftp::protocol::{FileAttributes, OpenFlags};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::SshError;

/// Directories inside directories; deeper is a loop or a trap.
const MAX_DEPTH: usize = 64;

/// Bytes that are read at once.
const PIECE: usize = 128 * 1024;

fn failed(path: impl ToString, why: impl ToString) -> SshError {
    SshError::Copy {
        path: path.to_string(),
        why: why.to_string(),
    }
}

/// Copies `from` into the workload.
pub(super) async fn up(
    sftp: &SftpSession,
    from: &Path,
    to: &str,
    recursive: bool,
) -> Result<u64, SshError> {
    let shown = from.display();
    let meta = tokio::fs::metadata(from)
        .await
        .map_err(|e| failed(shown, e))?;
    if meta.is_dir() && !recursive {
        return Err(failed(from.display(), "is a directory"));
    }
    let mut to = home(to);
    if is_dir(sftp, &to).await || to.ends_with('/') {
        let name = from.file_name().unwrap_or_default().to_string_lossy();
        to = join(&to, &name);
    }
    let mut bytes = 0;
    let mut waiting = vec![(from.to_owned(), to, 0)];
    while let Some((from, to, depth)) = waiting.pop() {
        let at = |e: std::io::Error| failed(from.display(), e);
        let meta = tokio::fs::metadata(&from).await.map_err(at)?;
        if !meta.is_dir() {
            bytes += up_file(sftp, &from, &to, meta.permissions().mode()).await?;
            continue;
        }
        if depth >= MAX_DEPTH {
            return Err(failed(from.display(), "too deep"));
        }
        if !is_dir(sftp, &to).await {
            sftp.create_dir(&to).await.map_err(|e| failed(&to, e))?;
        }
        let mut entries = tokio::fs::read_dir(&from).await.map_err(at)?;
        while let Some(entry) = entries.next_entry().await.map_err(at)? {
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                return Err(failed(entry.path().display(), "the name is not UTF-8"));
            };
            waiting.push((entry.path(), join(&to, name), depth + 1));
        }
    }
    Ok(bytes)
}

async fn up_file(sftp: &SftpSession, from: &Path, to: &str, mode: u32) -> Result<u64, SshError> {
    let attrs = FileAttributes {
        permissions: Some(mode & 0o777),
        ..FileAttributes::empty()
    };
    let file = tokio::fs::File::open(from);
    let file = file.await.map_err(|e| failed(from.display(), e))?;
    let flags = OpenFlags::CREATE | OpenFlags::TRUNCATE | OpenFlags::WRITE;
    let mut sink = sftp
        .open_with_flags_and_attributes(to, flags, attrs.clone())
        .await
        .map_err(|e| failed(to, e))?;
    let bytes = pour(file, &mut sink).await.map_err(|e| failed(to, e))?;
    // Again, for a file that was there already.
    let kept = sink.set_metadata(attrs).await;
    kept.map_err(|e| failed(to, e))?;
    sink.shutdown().await.map_err(|e| failed(to, e))?;
    Ok(bytes)
}

/// Copies `from` out of the workload. What the workload says is checked: a name
/// that leads anywhere else than into its directory is refused.
pub(super) async fn down(
    sftp: &SftpSession,
    from: &str,
    to: &Path,
    recursive: bool,
) -> Result<u64, SshError> {
    let from = home(from);
    let meta = sftp.metadata(&from).await.map_err(|e| failed(&from, e))?;
    if meta.is_dir() && !recursive {
        return Err(failed(&from, "is a directory"));
    }
    let mut to = to.to_owned();
    if to.is_dir() {
        let name = from.trim_end_matches('/').rsplit('/').next();
        to = safe_join(&to, name.unwrap_or_default()).unwrap_or(to);
    }
    let mut bytes = 0;
    let mut waiting = vec![(from, to, meta, 0)];
    while let Some((from, to, meta, depth)) = waiting.pop() {
        if !meta.is_dir() {
            bytes += down_file(sftp, &from, &to, &meta).await?;
            continue;
        }
        if depth >= MAX_DEPTH {
            return Err(failed(from, "too deep"));
        }
        make_dir(&to).await?;
        for entry in sftp.read_dir(&from).await.map_err(|e| failed(&from, e))? {
            let name = entry.file_name();
            let path = join(&from, &name);
            let Some(local) = safe_join(&to, &name) else {
                return Err(failed(path, "a name that leads elsewhere"));
            };
            let mut meta = entry.metadata();
            if meta.is_symlink() {
                // A link to a file is copied as the file; one to a directory
                // could be a loop, and one to nothing is nothing.
                match sftp.metadata(&path).await {
                    Ok(behind) if behind.is_regular() => meta = behind,
                    _ => continue,
                }
            }
            if meta.is_dir() || meta.is_regular() {
                waiting.push((path, local, meta, depth + 1));
            }
        }
    }
    Ok(bytes)
}

async fn down_file(
    sftp: &SftpSession,
    from: &str,
    to: &Path,
    meta: &Metadata,
) -> Result<u64, SshError> {
    let shown = to.display();
    let source = sftp.open(from).await.map_err(|e| failed(from, e))?;
    let mut file = tokio::fs::File::create(to)
        .await
        .map_err(|e| failed(shown, e))?;
    let bytes = pour(source, &mut file).await.map_err(|e| failed(from, e))?;
    file.flush().await.map_err(|e| failed(to.display(), e))?;
    if let Some(mode) = meta.permissions {
        let mode = PermissionsExt::from_mode(mode & 0o777);
        let set = file.set_permissions(mode).await;
        set.map_err(|e| failed(to.display(), e))?;
    }
    Ok(bytes)
}

async fn pour<R, W>(source: R, sink: &mut W) -> std::io::Result<u64>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut source = tokio::io::BufReader::with_capacity(PIECE, source);
    let bytes = tokio::io::copy_buf(&mut source, sink).await?;
    sink.flush().await?;
    Ok(bytes)
}

async fn make_dir(path: &Path) -> Result<(), SshError> {
    match tokio::fs::create_dir(path).await {
        Err(_) if path.is_dir() => Ok(()),
        made => made.map_err(|e| failed(path.display(), e)),
    }
}

async fn is_dir(sftp: &SftpSession, path: &str) -> bool {
    matches!(sftp.metadata(path).await, Ok(meta) if meta.is_dir())
}

/// A path of the workload; `~` is where relative paths start anyway.
fn home(path: &str) -> String {
    let path = match path.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest.trim_start_matches('/'),
        _ => path,
    };
    if path.is_empty() { "." } else { path }.to_owned()
}

fn join(folder: &str, name: &str) -> String {
    format!("{}/{name}", folder.trim_end_matches('/'))
}

fn safe_join(folder: &Path, name: &str) -> Option<PathBuf> {
    let safe = !matches!(name, "" | "." | "..") && !name.contains(['/', '\0']);
    safe.then(|| folder.join(name))
}
