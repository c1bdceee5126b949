//! Both sides of a lease, a relay and a mint in one process: `satlet demo` and
//! what integration tests run against.

pub mod crash;
pub mod mint;
pub mod port;
pub mod relay;
mod report;
mod scene;
pub mod store;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use crate::consumer::client::Client;
use crate::consumer::money::{Pay, SpawnOptions, Spawned, agree};
use crate::consumer::providers::Provider;
use crate::consumer::records::KnownLease;
use crate::core::money::Msat;
use crate::protocol::request::Wanted;
use crate::wallet::Unit;
use report::{Money, Report};
use scene::Scene;

/// What `satlet demo` was asked for.
#[derive(Clone, Debug, Default)]
pub struct DemoArgs {
    /// One JSON object a step on standard output.
    pub json: bool,
    /// What to run in the workload, for its shell.
    pub run: Option<String>,
    /// Leave everything up until Ctrl-C.
    pub keep: bool,
}

/// What runs in the workload when nothing else is asked for.
const DEFAULT_COMMAND: &str = "echo \"hello from $(id -un)@$(uname -n)\"";
/// What the consumer's wallet is given, in sat.
const FUNDS: u64 = 1_000;
/// What the lease is bought for, in seconds.
const BOUGHT: u64 = 600;
/// What the top-up adds, in seconds.
const TOPPED_UP: u64 = 300;
/// How long the consumer looks for the offer.
const FIND: Duration = Duration::from_secs(20);

/// Runs the demo and gives the exit code.
pub async fn run(args: DemoArgs) -> u8 {
    let mut report = Report::new(args.json);
    let walked = walk(&args, &mut report).await;
    match walked {
        Ok((output, money, code)) => report.end(&output, &money, code),
        Err(error) => report.failed(&error),
    }
}

async fn walk(args: &DemoArgs, report: &mut Report) -> anyhow::Result<(String, Money, i32)> {
    let signals = Signals::default();
    let scene = tokio::select! {
        scene = Scene::set() => scene?,
        why = signals.interrupted() => return Err(why),
    };
    for note in &scene.notes {
        report.note(note);
    }
    report.step(
        "start",
        "a relay, a mint, a provider and a wallet are up",
        json!({}),
    );
    let done = tokio::select! {
        done = act(args, report, &scene, &signals) => done,
        why = signals.interrupted() => Err(why),
    };
    scene.clear().await;
    done
}

/// Ctrl-C ends the demo, and leaves nothing; while it is kept up, it only ends
/// the wait.
#[derive(Default)]
struct Signals {
    waiting: AtomicBool,
    go_on: Notify,
}

impl Signals {
    /// Returns when the demo is to be broken off, with the reason.
    async fn interrupted(&self) -> anyhow::Error {
        loop {
            if let Err(error) = ctrl_c_or_sigterm().await {
                return error;
            }
            if !self.waiting.swap(false, Ordering::SeqCst) {
                return anyhow::anyhow!("interrupted; the lease and everything else is gone");
            }
            self.go_on.notify_one();
        }
    }

    /// Waits for Ctrl-C.
    async fn wait(&self) {
        self.waiting.store(true, Ordering::SeqCst);
        self.go_on.notified().await;
    }
}

async fn ctrl_c_or_sigterm() -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate()).context("SIGTERM")?;
    tokio::select! {
        done = tokio::signal::ctrl_c() => done.context("Ctrl-C"),
        _ = term.recv() => Ok(()),
    }
}

async fn act(
    args: &DemoArgs,
    report: &mut Report,
    scene: &Scene,
    signals: &Signals,
) -> anyhow::Result<(String, Money, i32)> {
    let client = scene.client()?;
    let session = client.wallet().await?;
    let cdk = session.cdk().context("the wallet is not the home's own")?;
    scene.mint.fund(cdk, FUNDS).await?;
    report.step(
        "fund",
        &format!("{FUNDS} sat minted over fake Lightning"),
        json!({}),
    );

    let provider = find(&client).await?;
    let found = format!(
        "found {} ({})",
        provider.offer.hostname,
        short(&provider.npub)
    );
    report.step("list", &found, json!({ "provider": provider.npub }));

    let wanted = Wanted::default();
    let quote = client
        .quote(&provider, wanted.clone(), Some(BOUGHT), &|_| {})
        .await?;
    let price = format!(
        "{} s of {} for {}",
        quote.seconds, quote.tier, quote.price_msat
    );
    report.step("quote", &price, json!({ "price_msat": quote.price_msat }));

    let given = session
        .wallet()
        .send(&scene.mint.url(), &Unit::Sat, quote.price_msat, true)
        .await?;
    report.step(
        "pay",
        &format!("a token of {}", given.face),
        json!({ "face_msat": given.face }),
    );

    let options = SpawnOptions {
        wanted,
        pay: Pay::Token(given.token),
        ..SpawnOptions::default()
    };
    let Spawned::Leased(leased) = client.spawn(&provider, options, &agree, &|_| {}).await? else {
        bail!("the spawn was not answered");
    };
    let (lease, sold) = (leased.lease, leased.answer);
    let text = format!(
        "lease {} is up for {} s",
        lease.status.lease, lease.status.remaining_seconds
    );
    report.step("spawn", &text, json!({ "lease": lease.status.lease }));

    let command = args.run.as_deref().unwrap_or(DEFAULT_COMMAND);
    let (output, code) = scene.exec(&lease, command).await?;
    report.step(
        "run",
        output.trim_end(),
        json!({ "output": output, "exit_code": code }),
    );

    let added = client
        .topup(&lease, Pay::Seconds(TOPPED_UP), &agree, &|_| {})
        .await?;
    let text = format!("{} s more", added.added_seconds);
    report.step(
        "topup",
        &text,
        json!({ "added_seconds": added.added_seconds }),
    );

    let now = client.status(&lease, &|_| {}).await?;
    let status = now.lease.status;
    let text = format!("{}, {} s left", status.why, status.remaining_seconds);
    report.step(
        "status",
        &text,
        json!({ "remaining_seconds": status.remaining_seconds }),
    );

    if args.keep {
        // Other commands want the wallet.
        drop(session);
        say_how_to_get_in(report, scene, &client, &lease)?;
        signals.wait().await;
        report.go_on();
    }
    let stopped = client.stop(&lease, &|_| {}).await?;
    let end = stopped.answer;
    let text = format!("{} s served for {}", end.served_seconds, end.served_msat);
    report.step(
        "stop",
        &text,
        json!({ "served_seconds": end.served_seconds }),
    );

    let back = end
        .refund
        .as_ref()
        .map_or(Msat::ZERO, |refund| refund.amount_msat);
    let text = format!("{back} came back, {} of it in the wallet", stopped.received);
    report.step("refund", &text, json!({ "refunded_msat": back }));

    let (mut paid, mut fees) = (
        sum([sold.paid_msat, added.paid_msat])?,
        sum([sold.mint_fee_msat, added.mint_fee_msat])?,
    );
    if args.keep {
        // Somebody may have topped it up meanwhile.
        (paid, fees) = scene.paid_for(&lease.status.lease)?;
    }
    let money = Money {
        paid,
        mint_fees: sum([fees, end.refund_fee_msat])?,
        served: end.served_msat,
        refunded: back,
        credit: end.credit_msat,
    };
    Ok((output, money, code))
}

/// The provider, as soon as relays show its offer and a heartbeat.
async fn find(client: &Client) -> anyhow::Result<Provider> {
    let deadline = tokio::time::Instant::now() + FIND;
    loop {
        let online = client
            .discover()
            .await?
            .into_iter()
            .find(|provider| provider.online);
        if let Some(provider) = online {
            return Ok(provider);
        }
        if tokio::time::Instant::now() > deadline {
            bail!("the provider's offer did not come up");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn say_how_to_get_in(
    report: &Report,
    scene: &Scene,
    client: &Client,
    lease: &KnownLease,
) -> anyhow::Result<()> {
    let me = std::env::current_exe().context("this program's own file")?;
    let access = lease.status.access.as_ref();
    let access = access.context("the lease cannot be entered")?;
    let commands = commands(&me, scene.home(), lease);
    let way_in = json!({
        "name": "keep",
        "home": scene.home(),
        "lease": lease.status.lease,
        "host": access.host,
        "port": access.port,
        "user": access.user,
        "host_key": access.host_key,
        "ssh_key": client.home().ssh_key()?.0,
        "commands": commands,
    });
    report.keep(&commands, &way_in);
    Ok(())
}

fn commands(me: &Path, home: &Path, lease: &KnownLease) -> Vec<String> {
    let satlet = format!("{} --home {}", me.display(), home.display());
    let id = &lease.status.lease;
    [
        "list".to_owned(),
        "ls".to_owned(),
        format!("ssh {id}"),
        format!("exec {id} -- uname -a"),
        format!("cp ./file {id}:/tmp/"),
        format!("status {id}"),
        format!("topup {id} --for 5m"),
    ]
    .map(|command| format!("{satlet} {command}"))
    .to_vec()
}

fn short(npub: &str) -> &str {
    npub.get(..16).unwrap_or(npub)
}

fn sum<const N: usize>(amounts: [Msat; N]) -> anyhow::Result<Msat> {
    Msat::checked_sum(amounts).context("the amounts do not fit")
}
