//! The parts of the demo, on free loopback ports and in a temporary folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use nostr_sdk::Keys;

use super::mint::{MintOptions, TestMint};
use super::relay::TestRelay;
use crate::compute::Capabilities;
use crate::consumer::client::{Client, ClientOptions};
use crate::consumer::home::{Home, Settings as ConsumerSettings};
use crate::consumer::records::KnownLease;
use crate::core::capacity::{Capacity, Resources};
use crate::core::ids::LeaseId;
use crate::core::money::Msat;
use crate::core::payment::PaymentState;
use crate::core::pricing::Tier;
use crate::gateway::GatewayLimits;
use crate::ledger::PAYMENTS;
use crate::provider::backend;
use crate::provider::daemon::{Provider, Setup};
use crate::provider::settings::{
    BackendSetting, CREATES, Fiat, GatewaySettings, ImagePolicy, LightningPolicy, MintSetting,
    POOL, RefundPolicy, RequestPolicy, SandboxSetting, Settings, SweepPolicy, Timing,
};
use crate::relay::session::RelayOptions;

/// How long the command in the workload may take.
const COMMAND: Duration = Duration::from_secs(300);

/// Both sides, a relay and a mint.
pub(super) struct Scene {
    pub(super) mint: TestMint,
    /// What this host cannot do, a sentence each.
    pub(super) notes: Vec<String>,
    relay: TestRelay,
    provider: Provider,
    home: PathBuf,
    _dir: tempfile::TempDir,
}

impl Scene {
    /// Starts everything.
    pub(super) async fn set() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("satlet-demo-").tempdir()?;
        let relay = TestRelay::start().await.context("the relay")?;
        let mint = TestMint::start(MintOptions::default())
            .await
            .context("the mint")?;
        let settings = settings(dir.path(), &relay.url(), &mint.url().0)?;
        let backend = backend::open(&settings)
            .await
            .context("this host cannot run the sandbox")?;
        let capabilities = backend.capabilities().clone();
        if !capabilities.host_image {
            bail!(
                "this host cannot run the sandbox: {}",
                capabilities.notes.join("; ")
            );
        }
        // It opens on hosts where no workload can run: there it says why.
        backend
            .probe()
            .await
            .context("this host cannot run the sandbox")?;
        let provider = Provider::start(Setup {
            settings,
            keys: Keys::generate(),
            seed: rand::random(),
            backend,
            relays: RelayOptions::default(),
        })
        .await
        .context("the provider")?;
        let home = dir.path().join("consumer");
        Home::open(&home)?.save_settings(&ConsumerSettings {
            relays: vec![relay.url()],
            mints: vec![mint.url().0],
            ..ConsumerSettings::default()
        })?;
        let notes = notes(&capabilities);
        Ok(Self {
            mint,
            notes,
            relay,
            provider,
            home,
            _dir: dir,
        })
    }

    /// The consumer's folder.
    pub(super) fn home(&self) -> &Path {
        &self.home
    }

    /// The consumer.
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::open(&self.home, ClientOptions::default())?)
    }

    /// Runs a line in the workload's shell as a user would: `satlet exec`.
    /// Gives what it printed and its exit code.
    pub(super) async fn exec(
        &self,
        lease: &KnownLease,
        line: &str,
    ) -> anyhow::Result<(String, i32)> {
        let me = std::env::current_exe().context("this program's own file")?;
        let mut command = tokio::process::Command::new(me);
        command
            .arg("--home")
            .arg(&self.home)
            .args(["exec", lease.status.lease.as_str(), "--", line])
            .stdin(std::process::Stdio::null())
            .stderr(std::process::Stdio::inherit())
            .kill_on_drop(true);
        let done = tokio::time::timeout(COMMAND, command.output());
        let done = done.await.context("the command took too long")??;
        let output = String::from_utf8_lossy(&done.stdout).into_owned();
        Ok((output, done.status.code().unwrap_or(255)))
    }

    /// What was paid for a lease in all, and what the mint kept of it, by the
    /// provider's books.
    pub(super) fn paid_for(&self, lease: &LeaseId) -> anyhow::Result<(Msat, Msat)> {
        let all = self
            .provider
            .ctx()
            .ledger()
            .read(|reader| reader.all(&PAYMENTS))?;
        let of_lease = all.into_iter().map(|(_, payment)| payment);
        let taken: Vec<_> = of_lease
            .filter(|payment| payment.lease == *lease && payment.state == PaymentState::Settled)
            .collect();
        let paid = Msat::checked_sum(taken.iter().map(|payment| payment.face));
        let fees = Msat::checked_sum(taken.iter().map(|payment| payment.fee));
        paid.zip(fees).context("the amounts do not fit")
    }

    /// Ends everything, the workloads too.
    pub(super) async fn clear(self) {
        let backend = std::sync::Arc::clone(&self.provider.ctx().parts.backend);
        self.provider.shutdown().await;
        if let Ok(left) = backend.list_owned().await {
            for workload in left {
                if let Err(error) = backend.destroy(&workload.handle).await {
                    tracing::warn!(lease = %workload.labels.lease, %error, "left behind");
                }
            }
        }
        self.relay.stop().await;
    }
}

/// What is missing on this host, and what follows.
fn notes(can: &Capabilities) -> Vec<String> {
    let holds = can.enforces;
    let missing: Vec<_> = [
        ("cpu", holds.cpu),
        ("memory", holds.memory),
        ("pids", holds.pids),
        ("disk", holds.disk),
    ]
    .into_iter()
    .filter(|(_, holds)| !holds)
    .map(|(name, _)| name)
    .collect();
    let mut notes = can.notes.clone();
    if !missing.is_empty() {
        notes.push(format!(
            "not enforced here, and sold all the same in this demo: {}",
            missing.join(", ")
        ));
    }
    notes
}

fn settings(dir: &Path, relay: &str, mint: &str) -> anyhow::Result<Settings> {
    let resources = Resources {
        cpu_millicores: 500,
        memory_mib: 256,
        disk_mib: 128,
        pids: 128,
    };
    let total = Resources {
        cpu_millicores: 2000,
        memory_mib: 1024,
        disk_mib: 512,
        pids: 512,
    };
    Ok(Settings {
        hostname: "BoldAmberHeron".to_owned(),
        location: None,
        data_dir: dir.join("provider"),
        relays: vec![relay.to_owned()],
        mints: vec![MintSetting {
            url: mint.to_owned(),
            requests_per_minute: 6000,
            ..MintSetting::default()
        }],
        fiat: Fiat::default(),
        tiers: vec![Tier {
            id: "basic".parse()?,
            name: "Basic".to_owned(),
            description: "half a core, 256 MiB".to_owned(),
            resources,
            rate_msat_per_s: 50,
            min_seconds: 60,
            max_seconds: 24 * 3600,
        }],
        templates: Vec::new(),
        images: ImagePolicy {
            default: "host".to_owned(),
            allow: vec!["host".to_owned()],
            layouts: BTreeMap::new(),
            max_mib: 1024,
        },
        capacity: Capacity {
            total,
            max_leases: 4,
        },
        gateway: GatewaySettings {
            listen: "127.0.0.1:0".parse()?,
            public_host: "127.0.0.1".to_owned(),
            public_port: None,
            limits: GatewayLimits::default(),
        },
        requests: RequestPolicy {
            allow: Vec::new(),
            deny: Vec::new(),
            per_key_per_minute: 600,
            per_minute: 6000,
            leases_per_key: 4,
            ..RequestPolicy::default()
        },
        timing: Timing::default(),
        sell_unenforced: true,
        paygress: None,
        backend: BackendSetting::Sandbox(SandboxSetting::default()),
        refunds: RefundPolicy::default(),
        pool: POOL,
        sweep: SweepPolicy::default(),
        lightning: Some(LightningPolicy::default()),
        creates: CREATES,
    })
}
