//! Spawns, from the request at the dispatcher to the stored answer, against the
//! same swaps at the mint and the same workloads made by hand.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use satlet::compute::fake::{FakeBackend, FakeHost};
use satlet::compute::sandbox::{NetworkChoice, Sandbox, SandboxConfig};
use satlet::compute::{
    ExecCommand, ExecRequest, Handle, Image, SharedBackend, WorkloadKey, WorkloadSpec,
};
use satlet::core::ids::{EventId, LeaseId, PublicKey, RequestId};
use satlet::core::money::Msat;
use satlet::demo::mint::{MintOptions, TestMint};
use satlet::ledger::{Ledger, REQUESTS, WORKLOADS, request_key};
use satlet::protocol::reply::{Access, Answer, Message, Outcome};
use satlet::protocol::request::{Ask, Request, Spawn, Wanted};
use satlet::provider::clock::SystemClock;
use satlet::provider::ctx::{Ctx, Parts};
use satlet::provider::dispatch::Dispatcher;
use satlet::relay::convert::now;
use satlet::relay::{Channel, Incoming};
use satlet::wallet::cdk_wallet::{CdkWallet, WalletMint, WalletOptions};
use satlet::wallet::fake::{FakeMint, FakeWallet};
use satlet::wallet::{Unit, Wallet};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::docker::{self, ByHand};
use crate::house;
use crate::machine::{median, ms, round};

/// Spawns at once.
const COUNT: usize = 20;
/// What each is paid, in sat.
const SAT: u64 = 64;
/// How long one spawn may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(120);

/// Backends that are measured; another one is another line.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Fake,
    Sandbox,
    /// Against containers made by hand on one network.
    Docker,
    /// Against containers made by hand on a network each, as tenants have.
    DockerNetworks,
}

impl Kind {
    const ALL: [Self; 4] = [
        Self::Fake,
        Self::Sandbox,
        Self::Docker,
        Self::DockerNetworks,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Fake => "fake",
            Self::Sandbox => "sandbox",
            Self::Docker => "docker",
            Self::DockerNetworks => "docker-networks",
        }
    }

    fn image(self) -> &'static str {
        match self {
            Self::Fake | Self::Sandbox => "host",
            Self::Docker | Self::DockerNetworks => docker::IMAGE,
        }
    }

    async fn bare(self, backend: &SharedBackend) -> Result<Bare> {
        Ok(match self {
            Self::Fake | Self::Sandbox => Bare::Backend(backend.clone()),
            Self::Docker => Bare::Engine(ByHand::new(false).await?),
            Self::DockerNetworks => Bare::Engine(ByHand::new(true).await?),
        })
    }

    async fn open(self, dir: &Path) -> Result<SharedBackend> {
        let name = self.name().parse()?;
        Ok(match self {
            Self::Fake => Arc::new(FakeBackend::new(name, FakeHost::default())),
            Self::Sandbox => {
                let config = SandboxConfig {
                    root: dir.join("sandbox"),
                    helper: env!("CARGO_BIN_EXE_satletd").into(),
                    name,
                    network: NetworkChoice::Loopback,
                    max_image_mib: 1024,
                };
                let backend = Sandbox::open(config).await?;
                satlet::compute::Backend::probe(&backend).await?;
                Arc::new(backend)
            }
            Self::Docker | Self::DockerNetworks => {
                let helper = env!("CARGO_BIN_EXE_satletd");
                let backend = docker::open(&dir.join("docker"), helper).await?;
                satlet::compute::Backend::probe(&backend).await?;
                Arc::new(backend)
            }
        })
    }
}

/// What makes workloads without us.
enum Bare {
    Backend(SharedBackend),
    Engine(ByHand),
}

impl Bare {
    /// One workload; its name where it has to be removed by name.
    async fn make(&self) -> Result<Option<String>> {
        match self {
            Self::Backend(backend) => {
                backend.create(&fresh(), &raw_spec(backend)).await?;
                Ok(None)
            }
            Self::Engine(engine) => Ok(Some(engine.make().await?)),
        }
    }
}

/// The engine of a provider, without a network.
struct Shop {
    ctx: Arc<Ctx>,
    dispatcher: Dispatcher,
    owner: PublicKey,
}

impl Shop {
    fn open(
        dir: &Path,
        mint: &str,
        wallet: Arc<dyn Wallet>,
        backend: SharedBackend,
        image: &str,
    ) -> Result<Self> {
        let mut settings = house::settings(dir, "ws://relay.test", mint);
        settings.images.default = image.to_owned();
        settings.images.allow = vec![image.to_owned()];
        let ctx = Ctx::new(Parts {
            settings,
            ledger: Ledger::open(dir)?,
            wallet,
            backend,
            clock: Arc::new(SystemClock),
            keys: nostr_sdk::Keys::generate(),
            ports: None,
            access: Access {
                host: "127.0.0.1".to_owned(),
                port: 2222,
                user: String::new(),
                host_key: "ssh-ed25519 AAAA".to_owned(),
            },
        });
        Ok(Self {
            dispatcher: Dispatcher::new(Arc::clone(&ctx)),
            ctx,
            owner: PublicKey::from_bytes([1; 32]),
        })
    }

    /// Buys a lease with this token; returns when its answer is stored.
    async fn spawn(&self, token: String) -> Result<LeaseId> {
        let id = RequestId::new(uuid::Uuid::new_v4());
        let wanted = Wanted {
            ssh_keys: vec![
                "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ"
                    .to_owned(),
            ],
            ..Wanted::default()
        };
        let ask = Ask::Spawn(Spawn {
            wanted,
            token,
            invoice: None,
            quote_id: None,
        });
        let message = Incoming {
            channel: Channel::GiftWrap,
            rumor: EventId::from_bytes(rand::random()),
            wrap: None,
            sender: self.owner,
            written_at: now(),
            received_at: now(),
            relay: "ws://relay.test".to_owned(),
            body: serde_json::to_string(&Request::new(id, ask))?,
        };
        self.dispatcher.dispatch(message).await;
        let answered = tokio::time::timeout(PATIENCE, self.answer(id)).await;
        answered.context("no answer to a spawn")?
    }

    async fn answer(&self, id: RequestId) -> Result<LeaseId> {
        let key = request_key(&self.owner, id);
        loop {
            let row = self.ctx.ledger().read(|r| r.get(&REQUESTS, &key))?;
            if let Some(answer) = row.and_then(|row| row.answer) {
                let Message::Reply(reply) = serde_json::from_str(&answer)? else {
                    bail!("no reply: {answer}");
                };
                return match reply.outcome {
                    Outcome::Result(answer) => match *answer {
                        Answer::Spawn(spawned) => Ok(spawned.status.lease),
                        other => bail!("{other:?}"),
                    },
                    Outcome::Error(error) => bail!("{error:?}"),
                };
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn handle(&self, lease: &LeaseId) -> Result<Handle> {
        let row = self
            .ctx
            .ledger()
            .read(|r| r.get(&WORKLOADS, lease.as_str()))?;
        let handle = row.and_then(|row| row.handle).context("no handle")?;
        Ok(serde_json::from_value(handle)?)
    }

    /// Ends the engine; workloads stay.
    async fn close(self) {
        self.dispatcher.abort().await;
        self.ctx.actors.stop().await;
    }
}

fn spec() -> WorkloadSpec {
    WorkloadSpec {
        owner: PublicKey::from_bytes([1; 32]),
        image: Image::Host,
        resources: house::tier().resources,
        command: Vec::new(),
        env: Vec::new(),
        expires_at: now().plus_secs(3600),
    }
}

/// What the engine asks of this host, which may not hold every limit.
fn raw_spec(backend: &SharedBackend) -> WorkloadSpec {
    let mut spec = spec();
    spec.resources = backend.capabilities().enforces.of(spec.resources);
    spec
}

fn fresh() -> WorkloadKey {
    LeaseId::from_random(rand::random())
}

async fn clear(backend: &SharedBackend) -> Result<()> {
    for workload in backend.list_owned().await? {
        backend.destroy(&workload.handle).await?;
    }
    Ok(())
}

async fn wallet(dir: &Path, mint: &TestMint, name: &str) -> Result<CdkWallet> {
    let options = WalletOptions {
        dir: dir.join(name),
        seed: rand::random(),
        mints: vec![WalletMint {
            url: mint.url().0,
            requests_per_minute: 1_000_000,
        }],
        timeout: PATIENCE,
        allow_any_mint: false,
    };
    Ok(CdkWallet::open(options).await?)
}

async fn tokens(purse: &CdkWallet, mint: &TestMint) -> Result<Vec<String>> {
    let amount = Msat::from_sat(SAT).context("an amount")?;
    let mut made = Vec::new();
    for _ in 0..COUNT {
        let sent = purse.send(&mint.url(), &Unit::Sat, amount, true).await?;
        made.push(sent.token);
    }
    Ok(made)
}

/// As many swaps, creates and starts at once as spawns, and nothing else.
async fn raw(wallet: &CdkWallet, bare: &Bare, tokens: Vec<String>) -> Result<Duration> {
    let began = Instant::now();
    let all = tokens.into_iter().map(|token| async move {
        let payment = wallet.inspect(&token)?.payment;
        wallet.redeem(payment, &token).await?;
        bare.make().await
    });
    let made = try_join_all(all).await?;
    let took = began.elapsed();
    if let Bare::Engine(engine) = bare {
        let names: Vec<String> = made.into_iter().flatten().collect();
        engine.clear(&names).await?;
    }
    Ok(took)
}

async fn through(shop: &Shop, tokens: Vec<String>) -> Result<Duration> {
    let began = Instant::now();
    try_join_all(tokens.into_iter().map(|token| shop.spawn(token))).await?;
    Ok(began.elapsed())
}

async fn at_once(dir: &Path, kind: Kind, rounds: usize) -> Result<Value> {
    let backend = kind.open(dir).await?;
    let mint = TestMint::start(MintOptions::default()).await?;
    let purse = wallet(dir, &mint, "purse").await?;
    mint.fund(&purse, 2 * (rounds * 2 + 2) as u64 * SAT * COUNT as u64)
        .await?;
    let own = wallet(dir, &mint, "raw").await?;
    let shop_wallet = Arc::new(wallet(dir, &mint, "shop").await?);
    let shop = Shop::open(
        dir,
        &mint.url().0,
        shop_wallet,
        backend.clone(),
        kind.image(),
    )?;
    let by_hands = kind.bare(&backend).await?;
    let (mut made, mut bare) = (Vec::new(), Vec::new());
    // The first round warms up: keysets are fetched, pages are read.
    for round in 0..=rounds {
        let by_hand = raw(&own, &by_hands, tokens(&purse, &mint).await?).await?;
        let by_us = through(&shop, tokens(&purse, &mint).await?).await?;
        if round > 0 {
            bare.push(ms(by_hand));
            made.push(ms(by_us));
        }
    }
    shop.close().await;
    clear(&backend).await?;
    if let Bare::Engine(engine) = by_hands {
        engine.end().await;
    }
    let ratios = made.iter().zip(&bare).map(|(made, bare)| made / bare);
    Ok(json!({
        "backend": kind.name(),
        "spawns": COUNT,
        "ratio": round(median(ratios.collect())),
        "satlet_ms": round(median(made)),
        "raw_ms": round(median(bare)),
    }))
}

/// The section on many spawns at once; a backend that does not work on this host
/// is named with the reason.
pub(crate) async fn measure(dir: &Path, rounds: usize) -> Vec<Value> {
    let mut out = Vec::new();
    for kind in Kind::ALL {
        let dir = dir.join(format!("spawns-{}", kind.name()));
        out.push(at_once(&dir, kind, rounds).await.unwrap_or_else(
            |error| json!({ "backend": kind.name(), "skipped": error.to_string() }),
        ));
    }
    out
}

/// Runs a shell in a workload until it says something.
async fn shell(backend: &SharedBackend, handle: &Handle) -> Result<()> {
    let exec = backend.exec().context("no exec")?;
    let request = ExecRequest {
        command: ExecCommand::Line("echo ready".to_owned()),
        env: Vec::new(),
        tty: None,
    };
    let mut session = exec.exec(handle, request).await?;
    let mut said = [0; 5];
    session.stdout.read_exact(&mut said).await?;
    Ok(())
}

async fn to_shell(dir: &Path, rounds: usize) -> Result<Value> {
    let backend = Kind::Sandbox.open(dir).await?;
    let mint = FakeMint::new("https://mint.test");
    let wallet = Arc::new(FakeWallet::new([mint.clone()]));
    let shop = Shop::open(dir, "https://mint.test", wallet, backend.clone(), "host")?;
    let amount = Msat::from_sat(SAT).context("an amount")?;
    let (mut made, mut bare) = (Vec::new(), Vec::new());
    for round in 0..=rounds * 3 {
        let began = Instant::now();
        backend.create(&fresh(), &raw_spec(&backend)).await?;
        let by_hand = began.elapsed();
        let token = mint.token(amount);
        let began = Instant::now();
        let lease = shop.spawn(token).await?;
        shell(&backend, &shop.handle(&lease)?).await?;
        let by_us = began.elapsed();
        if round > 0 {
            bare.push(ms(by_hand));
            made.push(ms(by_us));
        }
    }
    shop.close().await;
    clear(&backend).await?;
    let ratios = made.iter().zip(&bare).map(|(made, bare)| made / bare);
    Ok(json!({
        "backend": "sandbox",
        "ratio": round(median(ratios.collect())),
        "satlet_ms": round(median(made)),
        "raw_ms": round(median(bare)),
    }))
}

/// The section on the way from a request to a shell.
pub(crate) async fn measure_shell(dir: &Path, rounds: usize) -> Value {
    let done = to_shell(&dir.join("shell"), rounds).await;
    done.unwrap_or_else(|error| json!({ "backend": "sandbox", "skipped": error.to_string() }))
}
