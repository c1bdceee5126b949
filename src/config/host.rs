//! Where and how it runs: relays, gateway, requests, timing, backend, logs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use nostr_sdk::FromBech32;
use url::{Host, Url};

use super::reader::{Node, Object, escape};
use super::sale::level;
use crate::compute::docker::Range;
use crate::core::capacity::Capacity;
use crate::core::ids::PublicKey;
use crate::gateway::GatewayLimits;
use crate::protocol::heartbeat::ONLINE_SECS;
use crate::provider::settings::{
    BackendSetting, DockerSetting, GatewaySettings, ImagePolicy, PaygressSetting, RequestPolicy,
    SandboxSetting, Timing,
};
use crate::relay::pow::MAX_BITS;
use crate::telemetry::{LogFormat, LogSetting};

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const DAY: u64 = 86_400;

pub(super) fn relays(node: &Node<'_>) -> Option<Vec<String>> {
    node.unique(1..=16, relay, String::clone)
}

fn relay(node: &Node<'_>) -> Option<String> {
    let url = Url::parse(node.text()?).ok();
    match url {
        Some(url) if matches!(url.scheme(), "ws" | "wss") && url.host().is_some() => {
            Some(url.as_str().trim_end_matches('/').to_owned())
        }
        _ => node.problem(
            "It is not the URL of a relay.",
            "Write it with wss://, such as wss://relay.example.org.",
        ),
    }
}

pub(super) fn gateway(mut object: Object<'_>) -> Option<GatewaySettings> {
    let any = SocketAddr::from(([0, 0, 0, 0], 2222));
    let listen = object.optional("listen", any, |n| {
        n.parsed(
            "an address and a port",
            "Write it such as \"0.0.0.0:2222\" or \"[::]:2222\".",
        )
    });
    let public_host = object.required("public_host", public_host);
    let public_port = object.optional("public_port", None, |n| n.integer(1..=65_535).map(Some));
    let limits = limits(object.section("limits"));
    object.finish();
    Some(GatewaySettings {
        listen: listen?,
        public_host: public_host?,
        public_port: public_port?,
        limits: limits?,
    })
}

fn public_host(node: &Node<'_>) -> Option<String> {
    let text = node.text()?;
    let bare: Result<IpAddr, _> = text.parse();
    if bare.is_ok() || (Host::parse(text).is_ok() && !text.starts_with('[')) {
        return Some(text.to_owned());
    }
    node.problem(
        "It is neither a host name nor an address.",
        "Write what consumers reach this machine by, such as \"box.example.org\", with no port.",
    )
}

fn limits(mut object: Object<'_>) -> Option<GatewayLimits> {
    let default = GatewayLimits::default();
    let login_timeout = object.optional("login_timeout", default.login_timeout, |n| {
        n.duration(secs(1)..=secs(600))
    });
    let idle_timeout = object.optional("idle_timeout", default.idle_timeout, |n| {
        n.duration(secs(1)..=secs(30 * DAY))
    });
    let total_timeout = object.optional("total_timeout", default.total_timeout, |n| {
        n.duration(secs(1)..=secs(365 * DAY))
    });
    let auth_attempts = object.optional("auth_attempts", default.auth_attempts, |n| {
        n.integer(1..=100)
    });
    let passwords_per_minute =
        object.optional("passwords_per_minute", default.passwords_per_minute, |n| {
            n.integer(1..=100_000)
        });
    let max_connections = object.optional("max_connections", default.max_connections, |n| {
        n.integer(1..=100_000)
    });
    let max_connections_per_address = object.optional(
        "max_connections_per_address",
        default.max_connections_per_address,
        |n| n.integer(1..=100_000),
    );
    let connects_per_minute =
        object.optional("connects_per_minute", default.connects_per_minute, |n| {
            n.integer(1..=100_000)
        });
    let max_channels = object.optional("max_channels", default.max_channels, |n| {
        n.integer(1..=1000)
    });
    let max_connections_per_lease = object.optional(
        "max_connections_per_lease",
        default.max_connections_per_lease,
        |n| n.integer(1..=100_000),
    );
    let max_channels_per_lease = object.optional(
        "max_channels_per_lease",
        default.max_channels_per_lease,
        |n| n.integer(1..=100_000),
    );
    object.finish();
    Some(GatewayLimits {
        login_timeout: login_timeout?,
        idle_timeout: idle_timeout?,
        total_timeout: total_timeout?,
        auth_attempts: auth_attempts?,
        passwords_per_minute: passwords_per_minute?,
        max_connections: max_connections?,
        max_connections_per_address: max_connections_per_address?,
        connects_per_minute: connects_per_minute?,
        max_channels: max_channels?,
        max_connections_per_lease: max_connections_per_lease?,
        max_channels_per_lease: max_channels_per_lease?,
    })
}

/// Clients of the existing network: `None` where they are not served.
pub(super) fn paygress(mut object: Object<'_>) -> Option<Option<PaygressSetting>> {
    let default = PaygressSetting::default();
    let enabled = object.optional("enabled", false, Node::flag);
    let ports = object.optional("ports", default.ports, ports);
    let is_name = ("1 to 255 characters", |text: &str| {
        (1..=255).contains(&text.len())
    });
    let images = object.optional("images", Default::default(), |n| {
        n.map(is_name, |n| n.printable(255))
    });
    object.finish();
    let (ports, images) = (ports?, images?);
    Some(enabled?.then_some(PaygressSetting { ports, images }))
}

fn ports(node: &Node<'_>) -> Option<RangeInclusive<u16>> {
    let range = node.text()?.split_once('-').and_then(|(first, last)| {
        let range = first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?;
        (*range.start() > 0 && !range.is_empty()).then_some(range)
    });
    match range {
        Some(range) => Some(range),
        None => node.problem(
            "It is not a range of ports.",
            "Write the first and the last one, such as \"31000-31999\".",
        ),
    }
}

/// Whether the parts of the file that hang together with this setting fit it.
pub(super) fn paygress_fits(
    node: &Node<'_>,
    paygress: Option<&PaygressSetting>,
    gateway: Option<&GatewaySettings>,
    images: Option<&ImagePolicy>,
    capacity: Option<&Capacity>,
) {
    let Some(paygress) = paygress else { return };
    let ports = &paygress.ports;
    if let Some(gateway) = gateway
        && ports.contains(&gateway.listen.port())
    {
        node.problem_at(
            "/paygress/ports",
            "The gateway's own port is in this range.",
            "Choose a range without the port of gateway.listen.",
        );
    }
    let count = u32::from(ports.end() - ports.start()) + 1;
    if let Some(capacity) = capacity
        && count < capacity.max_leases
    {
        node.problem_at(
            "/paygress/ports",
            format!("{count} ports are fewer than capacity.max_leases."),
            format!("Write a range of at least {} ports.", capacity.max_leases),
        );
    }
    for (asked, run) in &paygress.images {
        if images.is_some_and(|policy| !policy.allows(run)) {
            node.problem_at(
                &format!("/paygress/images/{}", escape(asked)),
                format!("The image {run:?} is not allowed."),
                "Add it to images.allow, or take another.",
            );
        }
    }
}

pub(super) fn requests(mut object: Object<'_>) -> Option<RequestPolicy> {
    let default = RequestPolicy::default();
    let keys = |n: &Node<'_>| n.unique(0..=10_000, public_key, |key| *key);
    let allow = object.optional("allow", default.allow, keys);
    let deny = object.optional("deny", default.deny, keys);
    let per_key_per_minute =
        object.optional("per_key_per_minute", default.per_key_per_minute, |n| {
            n.integer(1..=100_000)
        });
    let per_minute = object.optional("per_minute", default.per_minute, |n| {
        n.integer(1..=1_000_000)
    });
    let leases_per_key = object.optional("leases_per_key", default.leases_per_key, |n| {
        n.integer(1..=10_000)
    });
    let holds_per_key = object.optional("holds_per_key", default.holds_per_key, |n| {
        n.integer(0..=1_000)
    });
    let errors_per_key_per_minute = object.optional(
        "errors_per_key_per_minute",
        default.errors_per_key_per_minute,
        |n| n.integer(0..=100_000),
    );
    let errors_per_minute = object.optional("errors_per_minute", default.errors_per_minute, |n| {
        n.integer(0..=1_000_000)
    });
    let pow_bits = object.optional("pow_bits", default.pow_bits, |n| {
        n.integer(0..=u64::from(MAX_BITS))
    });
    object.finish();
    Some(RequestPolicy {
        allow: allow?,
        deny: deny?,
        per_key_per_minute: per_key_per_minute?,
        per_minute: per_minute?,
        leases_per_key: leases_per_key?,
        holds_per_key: holds_per_key?,
        errors_per_key_per_minute: errors_per_key_per_minute?,
        errors_per_minute: errors_per_minute?,
        pow_bits: pow_bits?,
    })
}

fn public_key(node: &Node<'_>) -> Option<PublicKey> {
    let text = node.text()?;
    let npub =
        nostr_sdk::PublicKey::from_bech32(text).map(|key| PublicKey::from_bytes(key.to_bytes()));
    match npub.ok().or_else(|| text.parse().ok()) {
        Some(key) => Some(key),
        None => node.problem(
            "It is not a public key.",
            "Write npub1…, or 64 hexadecimal digits.",
        ),
    }
}

pub(super) fn timing(mut object: Object<'_>) -> Option<Timing> {
    let default = Timing::default();
    // Clients call a provider offline after ONLINE_SECS: one lost beat must not do it.
    let heartbeat = object.optional("heartbeat", default.heartbeat, |n| {
        n.duration(secs(1)..=secs(ONLINE_SECS / 2))
    });
    let offer = object.optional("offer", default.offer, |n| n.duration(secs(10)..=secs(DAY)));
    let quote = object.optional("quote", default.quote, |n| n.duration(secs(10)..=secs(DAY)));
    let warnings = object.optional("warnings", default.warnings, |n| {
        n.unique(0..=8, |n| n.duration(secs(1)..=secs(30 * DAY)), |d| *d)
    });
    let grace = object.optional("grace", default.grace, |n| {
        n.duration(secs(0)..=secs(30 * DAY))
    });
    let sweep = object.optional("sweep", default.sweep, |n| n.duration(secs(1)..=secs(300)));
    let look = object.optional("look", default.look, |n| n.duration(secs(1)..=secs(3600)));
    let provision = object.optional("provision", default.provision, |n| {
        n.duration(secs(5)..=secs(3600))
    });
    let hold = object.optional("hold", default.hold, |n| n.duration(secs(5)..=secs(600)));
    let mint = object.optional("mint", default.mint, |n| n.duration(secs(1)..=secs(300)));
    let mint_probe = object.optional("mint_probe", default.mint_probe, |n| {
        n.duration(secs(60)..=secs(30 * DAY))
    });
    let stop_grace = object.optional("stop_grace", default.stop_grace, |n| {
        n.duration(secs(0)..=secs(300))
    });
    let answer = object.optional("answer", default.answer, |n| {
        n.duration(secs(60)..=secs(30 * DAY))
    });
    object.finish();
    let mut warnings = warnings?;
    warnings.sort_by_key(|warning| std::cmp::Reverse(*warning));
    Some(Timing {
        heartbeat: heartbeat?,
        offer: offer?,
        quote: quote?,
        warnings,
        grace: grace?,
        sweep: sweep?,
        look: look?,
        provision: provision?,
        hold: hold?,
        mint: mint?,
        mint_probe: mint_probe?,
        stop_grace: stop_grace?,
        answer: answer?,
    })
}

pub(super) fn backend(mut object: Object<'_>) -> Option<BackendSetting> {
    let kind = object.optional("kind", Kind::Sandbox, kind);
    let default = SandboxSetting::default();
    let network = object.optional("network", default.network, Node::flag);
    let resolvers = object.optional("resolvers", default.resolvers, |n| {
        // resolv.conf(5): more than three are not read.
        n.unique(0..=3, resolver, |address| *address)
    });
    // The sandbox has no use for these two; a file may have them all the same,
    // so that changing the kind is changing one word.
    let engine = DockerSetting::default();
    let socket = object.optional("socket", engine.socket, |n| n.path(Path::new("/")));
    let subnets = object.optional("subnets", engine.subnets, range);
    object.finish();
    match kind? {
        Kind::Docker => Some(BackendSetting::Docker(DockerSetting {
            socket: socket?,
            network: network?,
            resolvers: resolvers?,
            subnets: subnets?,
        })),
        Kind::Sandbox => Some(BackendSetting::Sandbox(SandboxSetting {
            network: network?,
            resolvers: resolvers?,
        })),
        #[cfg(feature = "demo")]
        Kind::Fake => Some(BackendSetting::Fake),
    }
}

enum Kind {
    Sandbox,
    Docker,
    #[cfg(feature = "demo")]
    Fake,
}

fn kind(node: &Node<'_>) -> Option<Kind> {
    match node.text()? {
        "sandbox" => Some(Kind::Sandbox),
        "docker" => Some(Kind::Docker),
        #[cfg(feature = "demo")]
        "fake" => Some(Kind::Fake),
        other => node.problem(
            format!("There is no backend {other:?}."),
            "Write \"sandbox\" or \"docker\".",
        ),
    }
}

fn range(node: &Node<'_>) -> Option<Range> {
    match Range::parse(node.text()?) {
        Some(range) => Some(range),
        None => node.problem(
            "It is not a range of private addresses of 12 to 24 bits.",
            "Write it such as \"10.123.0.0/16\", by its first address.",
        ),
    }
}

fn resolver(node: &Node<'_>) -> Option<Ipv4Addr> {
    let address: Ipv4Addr =
        node.parsed("an IPv4 address", "Write the address of a name server.")?;
    if address.is_loopback() || address.is_unspecified() {
        return node.problem(
            "A workload does not reach this machine's loopback.",
            "Write the address of a name server elsewhere.",
        );
    }
    Some(address)
}

pub(super) fn log(mut object: Object<'_>) -> Option<LogSetting> {
    let default = LogSetting::default();
    let level = object.optional("level", default.level, level);
    let format = object.optional("format", default.format, |n| match n.text()? {
        "human" => Some(LogFormat::Human),
        "json" => Some(LogFormat::Json),
        _ => n.problem("There is no such format.", "Write \"human\" or \"json\"."),
    });
    object.finish();
    Some(LogSetting {
        level: level?,
        format: format?,
    })
}
