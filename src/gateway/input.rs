//! What a client sent and the workload has not read yet.
//!
//! The SSH library must never wait for a workload: while it waits, nothing of
//! the connection moves, and a command that reads as it writes (`cat`) hangs
//! for good. So data is queued here, and the [`Meter`] tells the window control
//! to let the client send next to nothing while a queue is long. The library
//! counts a window as used up when data arrives, not when it is read, hence the
//! queue may grow by the window that was already given: about twice
//! [`WINDOW`](super::algorithms::WINDOW) a channel.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

use super::algorithms::WINDOW;

/// Bytes in all queues of a connection from which on it counts as stalled.
const STALLED: usize = WINDOW as usize / 4;

/// Bytes in all queues of a connection that no well-behaved client reaches
/// without dozens of channels that nobody reads.
const MAX_CONNECTION: usize = 16 * 1024 * 1024;

/// Bytes in all queues of the gateway.
const MAX_GATEWAY: usize = 512 * 1024 * 1024;

/// Small pieces are put together up to this size.
const PIECE: usize = 32 * 1024;

/// Counts the queued bytes of one connection, and of all.
pub(super) struct Meter {
    connection: AtomicUsize,
    gateway: Arc<AtomicUsize>,
}

impl Meter {
    pub(super) fn new(gateway: Arc<AtomicUsize>) -> Self {
        Self {
            connection: AtomicUsize::new(0),
            gateway,
        }
    }

    /// Whether a workload is not reading what this connection sends.
    pub(super) fn stalled(&self) -> bool {
        self.connection.load(Ordering::Relaxed) > STALLED
    }

    fn add(&self, bytes: usize) -> bool {
        let all = self.gateway.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let mine = self.connection.fetch_add(bytes, Ordering::Relaxed) + bytes;
        mine <= MAX_CONNECTION && (all <= MAX_GATEWAY || mine <= STALLED)
    }

    fn subtract(&self, bytes: usize) {
        self.connection.fetch_sub(bytes, Ordering::Relaxed);
        self.gateway.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// More is queued than can be allowed.
#[derive(Debug)]
pub(super) struct Overflow;

/// The queue of one channel; both ends share it.
pub(super) struct Input {
    state: Mutex<State>,
    changed: Notify,
    meter: Arc<Meter>,
}

#[derive(Default)]
struct State {
    pieces: VecDeque<Vec<u8>>,
    eof: bool,
    closed: bool,
}

impl Input {
    pub(super) fn new(meter: Arc<Meter>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            changed: Notify::new(),
            meter,
        })
    }

    /// Adds what the client sent. After [`close`](Self::close) it is thrown away.
    pub(super) fn push(&self, data: &[u8]) -> Result<(), Overflow> {
        if data.is_empty() {
            return Ok(());
        }
        // Counted first, so that a reader never takes off what was not put on.
        let fits = self.meter.add(data.len());
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed || state.eof {
            drop(state);
            self.meter.subtract(data.len());
            return Ok(());
        }
        match state.pieces.back_mut() {
            Some(last) if last.len() + data.len() <= PIECE => last.extend_from_slice(data),
            _ => state.pieces.push_back(data.to_vec()),
        }
        drop(state);
        self.changed.notify_one();
        if fits { Ok(()) } else { Err(Overflow) }
    }

    /// The client will send no more.
    pub(super) fn end(&self) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .eof = true;
        self.changed.notify_one();
    }

    /// Nobody reads any more: what is queued goes, and what comes later too.
    pub(super) fn close(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        let bytes = state.pieces.drain(..).map(|piece| piece.len()).sum();
        drop(state);
        self.meter.subtract(bytes);
    }

    /// The next piece, `None` at the end.
    async fn next(&self) -> Option<Vec<u8>> {
        loop {
            {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(piece) = state.pieces.pop_front() {
                    return Some(piece);
                }
                if state.eof || state.closed {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }

    /// Writes all of it to `sink` and ends `sink` when the client has ended. A
    /// sink that takes no more closes the queue.
    pub(super) async fn drain<W: AsyncWrite + Unpin>(&self, mut sink: W) {
        while let Some(piece) = self.next().await {
            let written = Written {
                bytes: piece.len(),
                meter: &self.meter,
            };
            let result = async {
                sink.write_all(&piece).await?;
                sink.flush().await
            };
            let broken = result.await.is_err();
            drop(written);
            if broken {
                break;
            }
        }
        // The result does not matter: whoever read it has gone.
        let _ = sink.shutdown().await;
        self.close();
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.close();
    }
}

/// A piece that left the queue counts until it is written, also when the
/// writing is cancelled.
struct Written<'a> {
    bytes: usize,
    meter: &'a Meter,
}

impl Drop for Written<'_> {
    fn drop(&mut self) {
        self.meter.subtract(self.bytes);
    }
}
