//! A port of this machine that leads into the workload.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{SshClient, SshError, SshTarget};

/// Connections through one forward at once; more wait.
const MAX_CONNECTIONS: usize = 48;

/// A forward that is open until it is dropped.
pub struct Forward {
    local_addr: SocketAddr,
    closed: CancellationToken,
    _open: DropGuard,
}

impl Forward {
    /// Listens on `listen` (port 0: any free one), a loopback address unless
    /// others shall come in too, and carries each connection to `host:port` as
    /// the workload sees it.
    ///
    /// # Errors
    /// Any [`SshError`] but `Copy`.
    pub async fn open(
        target: &SshTarget,
        listen: SocketAddr,
        host: &str,
        port: u16,
    ) -> Result<Self, SshError> {
        let listener = TcpListener::bind(listen).await?;
        let local_addr = listener.local_addr()?;
        let client = Arc::new(SshClient::connect(target).await?);
        let (open, closed) = (CancellationToken::new(), CancellationToken::new());
        let ending = (open.clone(), closed.clone().drop_guard());
        let host = host.to_owned();
        tokio::spawn(async move {
            let (open, _closed) = ending;
            tokio::select! {
                () = open.cancelled() => {}
                () = client.gone() => {}
                () = carry(listener, client.clone(), host, port, &open) => {}
            }
            client.close().await;
        });
        Ok(Self {
            local_addr,
            closed,
            _open: open.drop_guard(),
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Returns when the connection to the gateway has ended.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

async fn carry(
    listener: TcpListener,
    client: Arc<SshClient>,
    host: String,
    port: u16,
    open: &CancellationToken,
) {
    let places = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    while let Ok(place) = places.clone().acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        let (client, host, open) = (client.clone(), host.clone(), open.child_token());
        tokio::spawn(async move {
            let _place = place;
            tokio::select! {
                () = open.cancelled() => {}
                () = one(stream, &client, &host, port) => {}
            }
        });
    }
}

async fn one(mut stream: TcpStream, client: &SshClient, host: &str, port: u16) {
    match client.dial(host, port).await {
        Ok(channel) => {
            let mut channel = channel.into_stream();
            // How one connection ends is the business of its two ends.
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut channel).await;
        }
        Err(why) => tracing::warn!(%why, port, "the workload does not take the connection"),
    }
}
