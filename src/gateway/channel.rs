//! The half of a channel that goes to the client.

use std::sync::Arc;
use std::time::Duration;

use russh::ChannelWriteHalf;
use russh::server::Msg;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;

/// Bytes read at once; a packet holds as many.
const PIECE: usize = 32 * 1024;

/// After a command has ended, its output is read until it has been silent for
/// this long: a background process it left may hold the other end open for ever.
const SILENCE: Duration = Duration::from_secs(2);

/// How long a client has to take the line that tells why it is cut.
const NOTICE: Duration = Duration::from_secs(1);

/// SSH_EXTENDED_DATA_STDERR, RFC 4254 section 5.2.
const STDERR: u32 = 1;

/// Which stream of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// Writes to the client, never more than its window allows.
pub(super) struct Out {
    half: ChannelWriteHalf<Msg>,
    connection: Arc<Connection>,
}

impl Out {
    pub(super) fn new(half: ChannelWriteHalf<Msg>, connection: Arc<Connection>) -> Self {
        Self { half, connection }
    }

    async fn send(&self, stream: Stream, data: Vec<u8>) -> Result<(), russh::Error> {
        self.connection.touch();
        match stream {
            Stream::Stdout => self.half.data_bytes(data).await,
            Stream::Stderr => self.half.extended_data_bytes(STDERR, data).await,
        }
    }

    /// Copies `source` to the client until it ends, or breaks, or is silent
    /// after `exited`.
    pub(super) async fn copy<R: AsyncRead + Unpin>(
        &self,
        mut source: R,
        stream: Stream,
        exited: &CancellationToken,
    ) {
        let mut buffer = vec![0; PIECE];
        loop {
            let read = tokio::select! {
                biased;
                read = source.read(&mut buffer) => read,
                () = silence_after(exited) => return,
            };
            // A terminal whose last process has gone gives EIO: an end too.
            let data = match read {
                Ok(0) | Err(_) => return,
                Ok(n) => buffer.get(..n).unwrap_or_default().to_vec(),
            };
            if self.send(stream, data).await.is_err() {
                return;
            }
        }
    }

    /// A line on standard error for the user, if the client takes it in time.
    pub(super) async fn notice(&self, text: &str) {
        let line = format!("{text}\r\n").into_bytes();
        let _ = tokio::time::timeout(NOTICE, self.send(Stream::Stderr, line)).await;
    }

    /// No more output. What goes wrong here is a client that has gone.
    pub(super) async fn eof(&self) {
        let _ = self.half.eof().await;
    }

    pub(super) async fn exit_status(&self, code: u32) {
        let _ = self.half.exit_status(code).await;
    }

    pub(super) async fn close(&self) {
        let _ = self.half.close().await;
    }

    pub(super) fn id(&self) -> russh::ChannelId {
        self.half.id()
    }
}

async fn silence_after(exited: &CancellationToken) {
    exited.cancelled().await;
    tokio::time::sleep(SILENCE).await;
}
