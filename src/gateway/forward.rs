//! A forwarded connection (`ssh -L`): into the workload's own network, dialled
//! by the workload's backend, never by the gateway's host.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use russh::ChannelOpenFailure;
use russh::server::ChannelOpenHandle;
use tokio_util::sync::CancellationToken;

use super::Door;
use super::channel::{Out, Stream};
use super::input::Input;
use crate::compute::Duplex;

/// How long a dial may take.
const DIAL: Duration = Duration::from_secs(10);

/// What a forward needs to run.
pub(super) struct Task {
    pub(super) door: Door,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) input: Arc<Input>,
    pub(super) out: Out,
    pub(super) reply: ChannelOpenHandle,
    /// Cancelled when the client closes the channel, or the connection ends.
    pub(super) cancel: CancellationToken,
}

impl Task {
    /// Dials, answers the client, and carries bytes both ways until both ends
    /// have finished.
    pub(super) async fn run(self) {
        let Self {
            door,
            host,
            port,
            input,
            out,
            reply,
            cancel,
        } = self;
        let Some(stream) = dial(&door, &host, port).await else {
            input.close();
            return reply.reject(ChannelOpenFailure::ConnectFailed).await;
        };
        reply.accept().await;
        let (from, to) = tokio::io::split(stream);
        let never = CancellationToken::new();
        let back = async {
            out.copy(from, Stream::Stdout, &never).await;
            out.eof().await;
        };
        let both = async { tokio::join!(input.drain(to), back) };
        tokio::select! {
            () = cancel.cancelled() => {}
            _ = both => {}
        }
        input.close();
        out.close().await;
    }
}

async fn dial(door: &Door, host: &str, port: u16) -> Option<Box<dyn Duplex>> {
    let dial = door.backend.dial()?;
    let dialling = dial.dial(&door.handle, host, port);
    match tokio::time::timeout(DIAL, dialling).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(why)) => {
            tracing::debug!(lease = %door.lease, port, %why, "forward refused by the workload");
            None
        }
        Err(_) => None,
    }
}

/// The host to dial inside the workload, where `host` is a name or an address
/// of its loopback. Everything else is refused: a backend could resolve a name
/// in the wrong place.
pub(super) fn loopback(host: &str) -> Option<String> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.eq_ignore_ascii_case("localhost") {
        return Some("localhost".to_owned());
    }
    let ip: IpAddr = bare.parse().ok()?;
    match ip.to_canonical() {
        IpAddr::V4(v4) if v4.is_unspecified() => Some("127.0.0.1".to_owned()),
        IpAddr::V6(v6) if v6.is_unspecified() => Some("::1".to_owned()),
        ip if ip.is_loopback() => Some(ip.to_string()),
        _ => None,
    }
}
