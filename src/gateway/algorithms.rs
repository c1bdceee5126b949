//! What the gateway speaks: algorithms of today's OpenSSH, nothing older.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use russh::keys::{Algorithm, EcdsaCurve};
use russh::server::Config;
use russh::{MethodKind, MethodSet, Preferred, SshId, cipher, compression, kex, mac};

use super::server::Entrance;
use super::{GatewayLimits, HostKey};

/// Bytes that a client may send on a channel before it has to wait for us.
pub(super) const WINDOW: u32 = 1024 * 1024;

/// A refused key costs this long, whatever the reason, so that the time says
/// nothing about leases.
const REFUSAL_TIME: Duration = Duration::from_millis(300);

/// A peer that vanished without a word is noticed after four of these.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// How much later than the idle watch the library itself gives up.
const AFTER_IDLE: Duration = Duration::from_secs(60);

const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::EXTENSION_SUPPORT_AS_CLIENT,
    kex::EXTENSION_SUPPORT_AS_SERVER,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
];

const KEYS: &[Algorithm] = &[
    Algorithm::Ed25519,
    Algorithm::SkEd25519,
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP256,
    },
    Algorithm::SkEcdsaSha2NistP256,
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP384,
    },
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP521,
    },
];

const CIPHERS: &[cipher::Name] = &[
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_GCM,
    cipher::AES_256_CTR,
    cipher::AES_128_CTR,
];

const MACS: &[mac::Name] = &[mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM];

const COMPRESSION: &[compression::Name] = &[compression::NONE];

/// The server side of a connection by `entrance` under these limits.
pub(super) fn config(
    host_key: &HostKey,
    limits: &GatewayLimits,
    entrance: Entrance,
) -> Arc<Config> {
    Arc::new(Config {
        server_id: SshId::Standard(Cow::Borrowed("SSH-2.0-satlet")),
        methods: methods(entrance),
        auth_rejection_time: REFUSAL_TIME,
        // Every client starts with "none"; refusing that says nothing.
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![host_key.private()],
        window_size: WINDOW,
        maximum_packet_size: 32 * 1024,
        channel_buffer_size: 16,
        event_buffer_size: 16,
        preferred: Preferred {
            kex: Cow::Borrowed(KEX),
            key: Cow::Borrowed(KEYS),
            host_key_certificates: Cow::Borrowed(&[]),
            cipher: Cow::Borrowed(CIPHERS),
            mac: Cow::Borrowed(MACS),
            compression: Cow::Borrowed(COMPRESSION),
        },
        max_auth_attempts: limits.auth_attempts,
        // The gateway's own idle watch is first, and says goodbye.
        inactivity_timeout: Some(limits.idle_timeout.saturating_add(AFTER_IDLE)),
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: 3,
        nodelay: true,
        ..Config::default()
    })
}

/// The only way in by `entrance`.
pub(super) fn methods(entrance: Entrance) -> MethodSet {
    let only = match entrance {
        Entrance::Main => MethodKind::PublicKey,
        Entrance::Port(_) => MethodKind::Password,
    };
    MethodSet::from(&[only][..])
}
