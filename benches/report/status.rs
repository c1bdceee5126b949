//! Status requests through the whole daemon, from the relay's socket and back to
//! it, against the cryptography that each of them cannot do without.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nostr_sdk::{Event, JsonUtil};
use satlet::protocol::reply::{Answer, Message, Outcome};
use satlet::relay::convert::now;
use satlet::relay::wrap::{unwrap, wrap};
use serde_json::{Value, json};

use crate::house::{House, Plan};
use crate::machine::{median, quantile, round};
use crate::people;
use crate::relay::Relay;

/// Leases, each of an owner of its own.
const LEASES: usize = 1000;
/// Requests under way at once where throughput is measured.
const WINDOW: usize = 256;
/// How long an answer may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// How much is measured.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    /// Requests in one measurement.
    pub(crate) requests: usize,
    /// Measurements, of which the middle one counts.
    pub(crate) rounds: usize,
}

/// What one status costs at least: signature, two decryptions and the seal's
/// signature; then two encryptions, two signatures and a new key. In requests a
/// second on this core.
pub(crate) fn crypto() -> Result<f64> {
    const COUNT: usize = 1000;
    let keys = people::provider();
    let events: Vec<Event> = (0..COUNT).map(people::status).collect();
    let body = "x".repeat(700);
    let began = Instant::now();
    for event in &events {
        event.verify()?;
        let opened = unwrap(&keys, event).map_err(|why| anyhow::anyhow!("{why:?}"))?;
        wrap(&keys, &opened.sender, &body, now(), now().plus_secs(3600))?;
    }
    Ok(COUNT as f64 / began.elapsed().as_secs_f64())
}

/// Requests of all owners in turn.
fn requests(count: usize) -> Vec<(String, String)> {
    let made = (0..count).map(|n| {
        let n = n % LEASES;
        let owner = people::owner(n).public_key().to_hex();
        (owner, people::status(n).as_json())
    });
    made.collect()
}

/// Answers a second, with a window of requests always under way.
async fn throughput(relay: &mut Relay, count: usize) -> Result<f64> {
    let requests = requests(count);
    let mut waiting = requests.iter().map(|(_, event)| event);
    let began = Instant::now();
    waiting
        .by_ref()
        .take(WINDOW)
        .for_each(|event| relay.send(event));
    for _ in 0..count {
        let answer = tokio::time::timeout(PATIENCE, relay.answer()).await;
        answer.context("no answer")??;
        if let Some(event) = waiting.next() {
            relay.send(event);
        }
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

/// Latencies in milliseconds at a steady rate, from when a request was due.
async fn latencies(relay: &mut Relay, count: usize, per_second: f64) -> Result<Vec<f64>> {
    let requests = requests(count);
    let gap = Duration::from_secs_f64(1.0 / per_second);
    let began = tokio::time::Instant::now() + Duration::from_millis(50);
    let mut sent: HashMap<&str, Vec<tokio::time::Instant>> = HashMap::new();
    let mut next = 0;
    let mut out = Vec::new();
    let mut last = None;
    while out.len() < count {
        let due = began + gap.mul_f64(next as f64);
        tokio::select! {
            () = tokio::time::sleep_until(due), if next < count => {
                let Some((owner, event)) = requests.get(next) else { break };
                relay.send(event);
                sent.entry(owner).or_default().insert(0, due);
                next += 1;
            }
            answer = tokio::time::timeout(PATIENCE, relay.answer()) => {
                let answer = answer.context("no answer")??;
                let times = sent.get_mut(answer.to.as_str());
                let due = times.and_then(Vec::pop).context("an answer nobody waits for")?;
                let at = tokio::time::Instant::from_std(answer.at);
                out.push(at.duration_since(due).as_secs_f64() * 1000.0);
                last = Some(answer.event);
            }
        }
    }
    is_status(last.context("nothing was answered")?)?;
    Ok(out)
}

/// What was measured is worth something only if the answers are right.
fn is_status(event: Value) -> Result<()> {
    let event = Event::from_json(event.to_string())?;
    let to = event.tags.public_keys().next().context("no receiver")?;
    let owner = (0..LEASES)
        .map(people::owner)
        .find(|keys| keys.public_key() == *to)
        .context("a stranger")?;
    let opened = unwrap(&owner, &event).map_err(|why| anyhow::anyhow!("{why:?}"))?;
    let Message::Reply(reply) = serde_json::from_str(&opened.body)? else {
        anyhow::bail!("no reply");
    };
    let Outcome::Result(answer) = reply.outcome else {
        anyhow::bail!("refused: {}", opened.body);
    };
    ensure!(matches!(*answer, Answer::Status(_)), "{}", opened.body);
    Ok(())
}

async fn one(dir: &Path, size: Size, hanging: usize, rate: Option<f64>) -> Result<Value> {
    let mut relay = Relay::start().await?;
    let leases = LEASES;
    let url = relay.url.clone();
    let dir = dir.join(format!("status-{hanging}"));
    let plan = Plan { leases, hanging };
    let starting = tokio::task::spawn_blocking(move || House::start(&dir, &url, plan));
    let (mut house, _) = starting.await??;
    // Adoption is over, everybody's relays are looked up, all code has run once.
    house.ask("adopted", "adopted_ms")?;
    throughput(&mut relay, LEASES.min(size.requests)).await?;
    eprintln!("status: {hanging} spawns hang, {leases} leases run");
    let (mut made, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..size.rounds {
        bare.push(house.ask("crypto", "per_second")?.as_f64().unwrap_or(0.0));
        made.push(throughput(&mut relay, size.requests).await?);
    }
    let ratios = made.iter().zip(&bare).map(|(made, bare)| made / bare);
    let ratio = median(ratios.collect());
    let (made, bare) = (median(made), median(bare));
    let rate = rate.unwrap_or(made / 2.0);
    let mut times = latencies(&mut relay, size.requests, rate).await?;
    Ok(json!({
        "hanging_spawns": hanging,
        "ratio": round(ratio),
        "per_second": round(made),
        "crypto_per_second": round(bare),
        "load_per_second": round(rate),
        "p50_ms": round(quantile(&mut times, 0.5)),
        "p99_ms": round(quantile(&mut times, 0.99)),
    }))
}

/// The section of the report.
pub(crate) async fn measure(dir: &Path, size: Size) -> Result<Value> {
    let quiet = one(dir, size, 0, None).await?;
    let rate = quiet["load_per_second"].as_f64();
    let hanging = one(dir, size, 5, rate).await?;
    Ok(json!({ "quiet": quiet, "five_hanging_spawns": hanging }))
}
