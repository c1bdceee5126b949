//! From a URL to an open WebSocket, within a time and with bounded messages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Once;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async_tls_with_config};

/// An open connection to a relay.
pub(super) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Longest message that is taken from a relay, in bytes. It is far more than
/// [`MAX_EVENT`](super::session::MAX_EVENT): a longer message ends the
/// connection, and nobody may end ours to a good relay by publishing a big event.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// The next address is tried when one has not answered for this long (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);

/// Connects within `timeout`; only to public addresses where `public_only`.
pub(super) async fn connect(
    url: &str,
    public_only: bool,
    timeout: Duration,
) -> Result<Socket, String> {
    let opened = tokio::time::timeout(timeout, open(url, public_only)).await;
    opened.unwrap_or_else(|_| Err(format!("no connection within {timeout:?}")))
}

async fn open(url: &str, public_only: bool) -> Result<Socket, String> {
    choose_tls();
    let tcp = dial(&addresses(url, public_only).await?).await?;
    // Requests are small and each waits for its answer.
    tcp.set_nodelay(true).map_err(|e| e.to_string())?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let shake = client_async_tls_with_config(url, tcp, Some(config), None);
    let (socket, _) = Box::pin(shake).await.map_err(|e| e.to_string())?;
    Ok(socket)
}

/// rustls panics on first use where two providers are compiled in and none is
/// chosen. The choice is per process; one made before stands.
fn choose_tls() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let chosen = rustls::crypto::ring::default_provider().install_default();
        tracing::trace!(first = chosen.is_ok(), "TLS provider chosen");
    });
}

pub(super) async fn addresses(url: &str, public_only: bool) -> Result<Vec<SocketAddr>, String> {
    let url = url::Url::parse(url).map_err(|e| e.to_string())?;
    let port = url.port_or_known_default().ok_or("the URL has no port")?;
    let mut found: Vec<SocketAddr> = match url.host() {
        // Also where the host's files do not name it (RFC 6761, section 6.3).
        Some(url::Host::Domain("localhost")) => {
            vec![
                (Ipv4Addr::LOCALHOST, port).into(),
                (Ipv6Addr::LOCALHOST, port).into(),
            ]
        }
        Some(url::Host::Domain(name)) => tokio::net::lookup_host((name, port))
            .await
            .map_err(|e| format!("cannot resolve {name}: {e}"))?
            .collect(),
        Some(url::Host::Ipv4(ip)) => vec![(ip, port).into()],
        Some(url::Host::Ipv6(ip)) => vec![(ip, port).into()],
        None => return Err("the URL has no host".to_owned()),
    };
    found.retain(|addr| !public_only || is_public(addr.ip()));
    if found.is_empty() {
        return Err("the host has no address that may be used".to_owned());
    }
    Ok(found)
}

/// The first of the addresses that answers; they are started one after another.
async fn dial(addresses: &[SocketAddr]) -> Result<TcpStream, String> {
    let mut running = FuturesUnordered::new();
    let mut waiting = addresses.iter();
    let mut last = "no address".to_owned();
    loop {
        if let Some(addr) = waiting.next() {
            running.push(TcpStream::connect(addr));
        } else if running.is_empty() {
            return Err(last);
        }
        let more = waiting.len() > 0;
        tokio::select! {
            Some(answer) = running.next() => match answer {
                Ok(tcp) => return Ok(tcp),
                Err(e) => last = e.to_string(),
            },
            () = tokio::time::sleep(STAGGER), if more => {}
        }
    }
}

pub(super) fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

/// Not one of the special blocks of RFC 6890.
fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let benchmark = a == 198 && (18..20).contains(&b);
    let special = a == 0 || a >= 240 || shared || benchmark;
    !(special
        || ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_documentation())
}

/// Within 2000::/3, which is all that is handed out so far.
fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [first, second, ..] = ip.segments();
    (0x2000..0x4000).contains(&first) && !(first == 0x2001 && second == 0x0db8)
}
