//! A provider in a process of its own, on the fake backend, with leases that run
//! already. It is told what to do by lines on its standard input.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use satlet::compute::fake::{FakeBackend, FakeEngine, FakeHost, Op};
use satlet::compute::{Backend, Image, WorkloadSpec};
use satlet::core::capacity::{Capacity, Resources};
use satlet::core::lease::{Event, Lease};
use satlet::core::money::Msat;
use satlet::core::pricing::Tier;
use satlet::core::time::Timestamp;
use satlet::gateway::GatewayLimits;
use satlet::ledger::{LEASES, Ledger, LedgerError, WORKLOADS, WorkloadRow};
use satlet::provider::daemon::{Provider, Setup};
use satlet::provider::settings::{
    BackendSetting, CREATES, Fiat, GatewaySettings, ImagePolicy, LightningPolicy, MintSetting,
    POOL, RefundPolicy, RequestPolicy, Settings, SweepPolicy, Timing,
};
use satlet::relay::convert::now;
use satlet::relay::session::RelayOptions;
use serde_json::{Value, json};

use crate::{machine, people};

/// What a house is made of.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Plan {
    /// Leases that run.
    pub(crate) leases: usize,
    /// Leases whose workload is being made and never is.
    pub(crate) hanging: usize,
}

pub(crate) fn tier() -> Tier {
    Tier {
        id: "small".parse().expect("a name"),
        name: "Small".to_owned(),
        description: String::new(),
        resources: Resources {
            cpu_millicores: 100,
            memory_mib: 64,
            disk_mib: 64,
            pids: 64,
        },
        rate_msat_per_s: 100,
        min_seconds: 60,
        max_seconds: 30 * 24 * 3600,
    }
}

/// Settings under which nobody is turned away.
pub(crate) fn settings(dir: &Path, relay: &str, mint: &str) -> Settings {
    let total = Resources {
        cpu_millicores: 1_000_000_000,
        memory_mib: 1_000_000_000,
        disk_mib: 1_000_000_000,
        pids: 0,
    };
    Settings {
        hostname: "bench".to_owned(),
        location: None,
        data_dir: dir.to_owned(),
        relays: vec![relay.to_owned()],
        mints: vec![MintSetting {
            url: mint.to_owned(),
            requests_per_minute: 1_000_000,
            ..MintSetting::default()
        }],
        tiers: vec![tier()],
        fiat: Fiat::default(),
        templates: Vec::new(),
        images: ImagePolicy {
            default: "host".to_owned(),
            allow: vec!["host".to_owned()],
            layouts: BTreeMap::new(),
            max_mib: 1024,
        },
        capacity: Capacity {
            total,
            max_leases: 100_000,
        },
        gateway: GatewaySettings {
            listen: "127.0.0.1:0".parse().expect("an address"),
            public_host: "127.0.0.1".to_owned(),
            public_port: None,
            limits: GatewayLimits::default(),
        },
        requests: RequestPolicy {
            per_key_per_minute: 1_000_000,
            per_minute: 10_000_000,
            leases_per_key: 100_000,
            ..RequestPolicy::default()
        },
        timing: Timing::default(),
        sell_unenforced: true,
        refunds: RefundPolicy::default(),
        pool: POOL,
        sweep: SweepPolicy::default(),
        lightning: Some(LightningPolicy::default()),
        creates: CREATES,
        backend: BackendSetting::Fake,
        paygress: None,
    }
}

/// A lease as it is after its payment; `up`: and after its workload is there.
fn lease(n: usize, at: Timestamp, up: bool) -> Result<Lease> {
    let tier = tier();
    let face = Msat::new(tier.rate_msat_per_s * 24 * 3600);
    let mut lease = Lease::reserve(
        people::lease_id(n),
        people::public(&people::owner(n)),
        satlet::core::ids::RequestId::new(uuid::Uuid::new_v4()),
        tier,
        "host".to_owned(),
        vec![
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ"
                .to_owned(),
        ],
        at,
    );
    let paid = Event::Paid {
        face,
        fee: Msat::ZERO,
        patience: 24 * 3600,
        mint: "https://mint.test".to_owned(),
        unit: "sat".to_owned(),
    };
    lease.on(paid, at)?;
    if up {
        lease.on(Event::Up, at)?;
    }
    Ok(lease)
}

fn spec(lease: &Lease) -> WorkloadSpec {
    WorkloadSpec {
        owner: lease.owner,
        image: Image::Host,
        resources: lease.tier.resources,
        command: Vec::new(),
        env: Vec::new(),
        expires_at: lease.created_at,
        note: String::new(),
    }
}

fn host() -> FakeHost {
    FakeHost {
        total: Resources {
            cpu_millicores: u32::MAX,
            memory_mib: u32::MAX,
            disk_mib: u32::MAX,
            pids: 0,
        },
        max_workloads: usize::MAX,
        ..FakeHost::default()
    }
}

/// Makes the machines, the same ones each time; where there is no ledger yet, its
/// rows too.
async fn furnish(dir: &Path, plan: Plan) -> Result<FakeBackend> {
    let engine = FakeEngine::new(host());
    let backend = FakeBackend::open("fake".parse()?, &engine);
    // Long ago, so that each lease is looked at when the provider starts.
    let at = now().minus(Duration::from_secs(3600));
    let mut rows = Vec::new();
    for n in 0..plan.leases + plan.hanging {
        let up = n < plan.leases;
        let lease = lease(n, at, up)?;
        let spec = spec(&lease);
        let handle = match up {
            true => Some(serde_json::to_value(
                backend.create(&lease.id, &spec).await?,
            )?),
            false => None,
        };
        let spec = serde_json::to_value(spec)?;
        rows.push((lease, WorkloadRow { spec, handle }));
    }
    engine.hang(Op::Create);
    if !dir.join(satlet::ledger::FILE).exists() {
        let ledger = Ledger::open(dir)?;
        ledger
            .write(move |tx| {
                rows.iter().try_for_each(|(lease, row)| {
                    tx.put(&LEASES, lease.id.as_str(), lease)?;
                    tx.put(&WORKLOADS, lease.id.as_str(), row)
                })
            })
            .await?;
    }
    Ok(backend)
}

/// The process: `--house DIR RELAY LEASES HANGING`.
pub(crate) fn main(args: &[String]) -> Result<()> {
    let [dir, relay, leases, hanging] = args else {
        bail!("--house DIR RELAY LEASES HANGING");
    };
    let plan = Plan {
        leases: leases.parse()?,
        hanging: hanging.parse()?,
    };
    machine::pin(0);
    // As the daemon does: as many threads as there are cores for this process.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(Path::new(dir), relay, plan))
}

async fn run(dir: &Path, relay: &str, plan: Plan) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let backend = furnish(dir, plan).await?;
    let empty = machine::rss_kib()?;
    say(&json!({ "rss_kib": empty }));
    let began = (Instant::now(), now());
    let provider = Provider::start(Setup {
        settings: settings(dir, relay, "http://127.0.0.1:9"),
        keys: people::provider(),
        seed: [7; 64],
        backend: Arc::new(backend),
        relays: RelayOptions::default(),
    })
    .await?;
    say(&json!({ "started_ms": machine::ms(began.0.elapsed()) }));
    let (tell, mut told) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            drop(tell.blocking_send(line));
        }
    });
    while let Some(line) = told.recv().await {
        match line.as_str() {
            "rss" => say(&json!({ "rss_kib": machine::rss_kib()? })),
            "adopted" => {
                adopted(&provider, began.1, plan.leases).await?;
                say(&json!({ "adopted_ms": machine::ms(began.0.elapsed()) }));
            }
            "crypto" => {
                let per_second = tokio::task::spawn_blocking(crate::status::crypto).await??;
                say(&json!({ "per_second": per_second }));
            }
            other => bail!("what is {other}?"),
        }
    }
    Ok(())
}

/// Waits until every lease was looked at since the start.
async fn adopted(provider: &Provider, since: Timestamp, leases: usize) -> Result<()> {
    loop {
        let rows = provider.ctx().ledger().read(|reader| reader.all(&LEASES));
        let rows = rows.map_err(|error: LedgerError| anyhow::anyhow!("{error}"))?;
        let seen = rows.iter().filter(|(_, lease)| lease.looked_at >= since);
        if seen.count() >= leases {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn say(value: &Value) {
    let mut out = std::io::stdout().lock();
    // Who started us may be gone.
    drop(writeln!(out, "{value}").and_then(|()| out.flush()));
}

/// A house that runs; it is killed when this is dropped.
pub(crate) struct House {
    child: Child,
    input: ChildStdin,
    output: std::io::Lines<std::io::BufReader<ChildStdout>>,
}

impl House {
    /// Starts one; returns when it is about to start the provider.
    pub(crate) fn begin(dir: &Path, relay: &str, plan: Plan) -> Result<(Self, u64)> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--house")
            .arg(dir)
            .args([relay, &plan.leases.to_string(), &plan.hanging.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().context("no input")?;
        let output = child.stdout.take().context("no output")?;
        let mut house = Self {
            child,
            input,
            output: std::io::BufReader::new(output).lines(),
        };
        let empty = house.said("rss_kib")?.as_u64().context("a number")?;
        Ok((house, empty))
    }

    /// Starts one, and returns when the provider runs.
    pub(crate) fn start(dir: &Path, relay: &str, plan: Plan) -> Result<(Self, u64)> {
        let (mut house, empty) = Self::begin(dir, relay, plan)?;
        house.said("started_ms")?;
        Ok((house, empty))
    }

    /// The next thing it says, which must be this.
    pub(crate) fn said(&mut self, what: &str) -> Result<Value> {
        let line = self.output.next().context("the house has ended")??;
        let value: Value = serde_json::from_str(&line)?;
        let found = value.get(what).cloned();
        found.with_context(|| format!("wanted {what}, got {line}"))
    }

    /// Asks it something.
    pub(crate) fn ask(&mut self, question: &str, what: &str) -> Result<Value> {
        writeln!(self.input, "{question}")?;
        self.said(what)
    }
}

impl Drop for House {
    fn drop(&mut self) {
        // As a power cut would: the ledger has to bear that.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
