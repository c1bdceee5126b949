//! What the operator decided, validated. `config` makes it from a file, the
//! demo and the tests make it in code.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::payouts::lnurl::Address;
use crate::compute::docker::Range;
use crate::core::capacity::Capacity;
use crate::core::fiat::{Belief, Currency, HourPrice};
use crate::core::ids::{Name, PublicKey};
use crate::core::money::Msat;
use crate::core::policy::images::{self, ReferenceError};
use crate::core::pool;
use crate::core::pricing::Tier;
use crate::gateway::GatewayLimits;

/// All settings of a provider that are not secrets.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Friendly name in the offer, 1 to 64 printable characters.
    pub hostname: String,
    /// Where it stands, for people.
    pub location: Option<String>,
    /// Where the ledger, the wallet, the host key and images are kept.
    pub data_dir: PathBuf,
    /// Relays for offers, heartbeats and messages; at least one.
    pub relays: Vec<String>,
    /// Mints that are accepted; at least one. The first is preferred.
    pub mints: Vec<MintSetting>,
    /// What is for sale; at least one, ids unique. The first is the default.
    pub tiers: Vec<Tier>,
    /// Which tiers have a price in another money, and what that is worth.
    pub fiat: Fiat,
    /// Named images with a command; ids unique.
    pub templates: Vec<Template>,
    /// Which images may be asked for.
    pub images: ImagePolicy,
    /// What is sold in all.
    pub capacity: Capacity,
    /// The SSH gateway.
    pub gateway: GatewaySettings,
    /// How clients of the dialect in use are served, if they are.
    pub paygress: Option<PaygressSetting>,
    /// Who may ask and how often.
    pub requests: RequestPolicy,
    /// What becomes of refunds that nobody takes.
    pub refunds: RefundPolicy,
    /// What is given away.
    pub pool: pool::Terms,
    /// What leaves for the operator's Lightning address by itself.
    pub sweep: SweepPolicy,
    /// How Lightning is taken, if it is.
    pub lightning: Option<LightningPolicy>,
    /// When things happen.
    pub timing: Timing,
    /// Sell tiers although this host cannot enforce one of their limits.
    pub sell_unenforced: bool,
    /// What runs workloads.
    pub backend: BackendSetting,
    /// Workloads that the backend makes at once, at least 1; more wait.
    pub creates: usize,
}

/// Prices in the money of states. The tiers that have one stand in
/// [`Settings::tiers`] with the price that the fallback makes, if there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fiat {
    /// Prices, by tier.
    pub prices: BTreeMap<Name, HourPrice>,
    /// Where rates come from; each currency of `prices` has one.
    pub feeds: BTreeMap<Currency, FeedSetting>,
}

/// Where a rate comes from, and how far it is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedSetting {
    /// Asked by HTTP GET for JSON; none: there is only the fallback.
    pub url: Option<String>,
    /// Where in the answer the price of a bitcoin stands (RFC 6901).
    pub pointer: String,
    /// How far it is believed.
    pub belief: Belief,
}

/// Workloads that a backend makes at once, where the operator says nothing.
pub const CREATES: usize = 4;

/// What runs workloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendSetting {
    /// Namespaces and cgroups of this host, with no engine beside satletd.
    Sandbox(SandboxSetting),
    /// Containers of Docker, or of an engine that speaks its protocol.
    Docker(DockerSetting),
    /// Nothing at all: for demos and tests of everything else.
    #[cfg(feature = "demo")]
    Fake,
}

/// The embedded sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxSetting {
    /// Whether workloads reach the outside, where this host permits it.
    pub network: bool,
    /// Name servers of workloads, at most 3.
    pub resolvers: Vec<Ipv4Addr>,
}

impl Default for SandboxSetting {
    fn default() -> Self {
        Self {
            network: true,
            // The host's own are often on its loopback, which tenants do not reach.
            resolvers: vec![Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(9, 9, 9, 9)],
        }
    }
}

/// A container engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerSetting {
    /// Its socket.
    pub socket: PathBuf,
    /// Whether workloads reach the outside, where this host permits it.
    pub network: bool,
    /// Name servers of workloads, at most 3.
    pub resolvers: Vec<Ipv4Addr>,
    /// Where the subnets of workloads are cut from, a /28 each.
    pub subnets: Range,
}

impl Default for DockerSetting {
    fn default() -> Self {
        let SandboxSetting { network, resolvers } = SandboxSetting::default();
        Self {
            socket: PathBuf::from("/var/run/docker.sock"),
            network,
            resolvers,
            subnets: Range::default(),
        }
    }
}

/// A mint that is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MintSetting {
    /// Its URL, `https://…` (or `http://` on loopback).
    pub url: String,
    /// Requests to it that may be started in a minute; more wait their turn.
    pub requests_per_minute: u32,
    /// Above this fee for a proof, in thousandths of a sat (NUT-02), it is not fit.
    pub max_input_fee_ppk: u64,
    /// While more than this lies there no new lease is paid with its tokens;
    /// `None`: any amount.
    pub max_exposure: Option<Msat>,
    /// It is tried now and then with a proof of ours of at most so much, whether
    /// it swaps; `None`: it is only asked.
    pub probe_amount: Option<Msat>,
}

impl Default for MintSetting {
    fn default() -> Self {
        Self {
            url: String::new(),
            requests_per_minute: 120,
            max_input_fee_ppk: 1000,
            max_exposure: None,
            probe_amount: None,
        }
    }
}

/// A named image with a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Its name in requests.
    pub id: Name,
    /// One line for people.
    pub description: String,
    /// Its image: `host`, a reference, or a name in [`ImagePolicy::layouts`].
    pub image: String,
    /// Command line of the main process; empty: the image's own.
    pub command: Vec<String>,
    /// Environment.
    pub env: Vec<(String, String)>,
}

/// Which images may be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagePolicy {
    /// What is run where the request names none.
    pub default: String,
    /// Patterns of allowed images, `*` for any run of characters; `host` is a
    /// name like others.
    pub allow: Vec<String>,
    /// Names of OCI layouts (directories or tarballs) on this machine.
    pub layouts: BTreeMap<String, PathBuf>,
    /// Largest image, unpacked, in MiB.
    pub max_mib: u64,
}

impl ImagePolicy {
    /// The image's name as it is matched and run: `host`, the name of a layout,
    /// or a reference in full.
    ///
    /// # Errors
    /// Neither of these.
    pub fn normal(&self, image: &str) -> Result<String, ReferenceError> {
        if image == "host" || self.layouts.contains_key(image) {
            return Ok(image.to_owned());
        }
        images::validate_reference(image)
    }

    /// Whether this image may be asked for.
    pub fn allows(&self, image: &str) -> bool {
        self.normal(image)
            .is_ok_and(|image| images::allowed(&self.allow, &image))
    }
}

/// The SSH gateway.
#[derive(Clone, Debug)]
pub struct GatewaySettings {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Host name or address that consumers use.
    pub public_host: String,
    /// Port that consumers use; `None`: the one it listens on.
    pub public_port: Option<u16>,
    /// Its limits.
    pub limits: GatewayLimits,
}

/// Clients of the dialect in use ("paygress/1").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaygressSetting {
    /// Ports of single leases, on the gateway's address; reached from outside
    /// under the same numbers.
    pub ports: RangeInclusive<u16>,
    /// Images that such clients ask for, and what is run instead.
    pub images: BTreeMap<String, String>,
}

impl Default for PaygressSetting {
    fn default() -> Self {
        Self {
            ports: 31_000..=31_999,
            images: BTreeMap::new(),
        }
    }
}

/// Who may ask and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestPolicy {
    /// If not empty, only these keys are served.
    pub allow: Vec<PublicKey>,
    /// These keys are never served.
    pub deny: Vec<PublicKey>,
    /// Requests that one key may send in a minute.
    pub per_key_per_minute: u32,
    /// Requests of all keys in a minute that own no lease and bring no money.
    /// Those that bring some may send as many more, and so may owners.
    pub per_minute: u32,
    /// Leases that one key may have at once.
    pub leases_per_key: u32,
    /// Purchases under way that one key may have when it asks for a hold; 0: there
    /// are no holds.
    pub holds_per_key: u32,
    /// Refusals that one key without a lease is told in a minute.
    pub errors_per_key_per_minute: u32,
    /// Refusals that are told in a minute to all keys without a lease, and as
    /// many more to those that brought money.
    pub errors_per_minute: u32,
    /// Leading zero bits that a gift wrap's id has to have (NIP-13), at most
    /// [`MAX_BITS`](crate::relay::pow::MAX_BITS); 0: none.
    pub pow_bits: u8,
}

/// What becomes of refunds that nobody takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefundPolicy {
    /// How long a refund's token is kept for its owner, at least a day; then it is
    /// taken back and is the owner's credit. The offer tells it.
    pub keep: Duration,
}

impl Default for RefundPolicy {
    fn default() -> Self {
        Self {
            keep: Duration::from_secs(180 * 24 * 3600),
        }
    }
}

/// No pool; and what one would give where the operator says no more than a share.
pub const POOL: pool::Terms = pool::Terms {
    share_percent: 0,
    // Enough to look at a box, and to install something.
    max_seconds: 600,
    per_key: Msat::new(20_000),
    period: 30 * 24 * 3600,
    // Ten new keys a day at that; a flood of keys gets no more.
    per_day: Msat::new(400_000),
    new_per_day: Msat::new(200_000),
    known_per_day: Msat::new(200_000),
    regular_per_day: Msat::new(200_000),
    half_life: 30 * 24 * 3600,
};
/// What leaves for the operator's Lightning address by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepPolicy {
    /// Where to; none: nothing is swept.
    pub to: Option<Address>,
    /// A purse is swept where more than this may leave it.
    pub above: Msat,
    /// What stays in each purse besides what may have to go back.
    pub keep: Msat,
    /// Between two looks.
    pub every: Duration,
    /// What it may cost, in percent of the amount, and 10 sat in any case.
    pub max_fee_percent: u8,
}

impl Default for SweepPolicy {
    fn default() -> Self {
        Self {
            to: None,
            above: Msat::new(50_000_000),
            keep: Msat::new(10_000_000),
            every: Duration::from_secs(3600),
            max_fee_percent: 2,
        }
    }
}

/// How Lightning is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LightningPolicy {
    /// The mint that makes the invoices, one of those that are accepted; `None`:
    /// the first of them.
    pub mint: Option<String>,
    /// How long an invoice is to be paid, and room is held for it. The offer tells
    /// it.
    pub pay_within: Duration,
    /// How long the mint is asked about an invoice after that has expired; what is
    /// paid late goes back. The offer tells it.
    pub late: Duration,
    /// Leases that wait for an invoice to be paid, at most: nobody has shown any
    /// money for their room.
    pub unpaid: u32,
}

impl Default for LightningPolicy {
    fn default() -> Self {
        Self {
            mint: None,
            pay_within: Duration::from_secs(600),
            late: Duration::from_secs(24 * 3600),
            unpaid: 8,
        }
    }
}

impl Settings {
    /// How Lightning is taken, and the URL of the mint that makes the invoices.
    pub fn lightning(&self) -> Option<(&LightningPolicy, &str)> {
        let policy = self.lightning.as_ref()?;
        let first = || self.mints.first().map(|mint| mint.url.as_str());
        let mint = policy.mint.as_deref().or_else(first)?;
        Some((policy, mint))
    }
}

/// When things happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between heartbeats.
    pub heartbeat: Duration,
    /// Between publications of an unchanged offer.
    pub offer: Duration,
    /// How long a quote holds.
    pub quote: Duration,
    /// How long before the end of a lease its owner is warned; longest first.
    pub warnings: Vec<Duration>,
    /// How long a stopped lease waits for a top-up before it is destroyed.
    pub grace: Duration,
    /// Between sweeps over the ledger.
    pub sweep: Duration,
    /// Between looks at a running workload.
    pub look: Duration,
    /// How long a workload may take to come up, image pull included.
    pub provision: Duration,
    /// How long room is held for a token that is locked to a hash.
    pub hold: Duration,
    /// How long a mint may take to answer.
    pub mint: Duration,
    /// Between two probes of a mint that is well.
    pub mint_probe: Duration,
    /// How long a workload has to end by itself when it is stopped.
    pub stop_grace: Duration,
    /// How long an answer is sent again before it is given up.
    pub answer: Duration,
}

impl Timing {
    /// How far ahead the locktime of a locked token has to be: the payment's own
    /// deadline, what one redemption at the mint may take, and a minute for
    /// clocks that differ.
    pub fn lock_margin(&self) -> Duration {
        const CLOCKS: Duration = Duration::from_secs(60);
        self.provision + self.mint.saturating_mul(4) + CLOCKS
    }
}

impl Default for RequestPolicy {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            deny: Vec::new(),
            per_key_per_minute: 30,
            per_minute: 600,
            leases_per_key: 8,
            holds_per_key: 2,
            errors_per_key_per_minute: 10,
            errors_per_minute: 120,
            pow_bits: 0,
        }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(60),
            offer: Duration::from_secs(600),
            quote: Duration::from_secs(300),
            warnings: vec![Duration::from_secs(600), Duration::from_secs(60)],
            grace: Duration::from_secs(600),
            sweep: Duration::from_secs(5),
            look: Duration::from_secs(30),
            provision: Duration::from_secs(300),
            hold: Duration::from_secs(120),
            mint: Duration::from_secs(30),
            mint_probe: Duration::from_secs(24 * 3600),
            stop_grace: Duration::from_secs(10),
            answer: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

#[cfg(test)]
mod tests;
