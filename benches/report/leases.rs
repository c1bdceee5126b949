//! Many leases: from a restart to serving, to having looked at all of them, and
//! what they cost in memory.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redb::{ReadableDatabase, ReadableTable, TableDefinition, TableHandle};
use serde_json::{Value, json};

use crate::house::{House, Plan};
use crate::machine::{median, ms, round};
use crate::people;
use crate::relay::Relay;

/// Leases that are adopted.
pub(crate) const LEASES: usize = 1000;

/// Reads every row of the ledger's file, without looking at it.
fn read_raw(dir: &Path) -> Result<Duration> {
    let began = Instant::now();
    let db = redb::Database::open(dir.join(satlet::ledger::FILE))?;
    let tx = db.begin_read()?;
    let mut bytes = 0;
    for table in tx.list_tables()? {
        let name = table.name().to_owned();
        let table: TableDefinition<'_, &str, &[u8]> = TableDefinition::new(&name);
        for row in tx.open_table(table)?.iter()? {
            bytes += row?.1.value().len();
        }
    }
    ensure!(bytes > 0, "the ledger is empty");
    Ok(began.elapsed())
}

/// One restart after a kill, with a status that was sent while it was down.
async fn restart(dir: &Path, relay: &mut Relay) -> Result<(f64, f64, f64)> {
    let raw = read_raw(dir)?;
    relay.forget();
    relay.store(&people::status(LEASES / 2));
    let plan = Plan {
        leases: LEASES,
        hanging: 0,
    };
    let (dir, url) = (dir.to_owned(), relay.url.clone());
    let begin = move || House::begin(&dir, &url, plan);
    let (mut house, _) = tokio::task::spawn_blocking(begin).await??;
    let began = Instant::now();
    let answer = tokio::time::timeout(Duration::from_secs(60), relay.answer());
    let served = answer.await.context("no answer")??.at.duration_since(began);
    house.said("started_ms")?;
    let adopted = house.ask("adopted", "adopted_ms")?;
    let adopted = adopted.as_f64().context("a number")?;
    Ok((ms(raw), ms(served), adopted))
}

/// The section on adoption.
pub(crate) async fn adoption(dir: &Path, rounds: usize) -> Result<Value> {
    let dir = dir.join("adoption");
    let mut relay = Relay::start().await?;
    let plan = Plan {
        leases: LEASES,
        hanging: 0,
    };
    // Makes the file, and is killed.
    let (at, url) = (dir.clone(), relay.url.clone());
    let begin = move || House::start(&at, &url, plan);
    drop(tokio::task::spawn_blocking(begin).await??);
    let mut all = Vec::new();
    for _ in 0..rounds {
        all.push(restart(&dir, &mut relay).await?);
    }
    let (raw, served) = (
        median(all.iter().map(|run| run.0).collect()),
        median(all.iter().map(|run| run.1).collect()),
    );
    Ok(json!({
        "leases": LEASES,
        "ratio": round(served / raw),
        "serving_ms": round(served),
        "all_looked_at_ms": round(median(all.iter().map(|run| run.2).collect())),
        "raw_read_ms": round(raw),
    }))
}

/// What the provider takes beyond the fake machines, in KiB.
async fn rss(dir: &Path, leases: usize) -> Result<(u64, u64)> {
    let relay = Relay::start().await?;
    let (at, url) = (dir.join(format!("memory-{leases}")), relay.url.clone());
    let plan = Plan { leases, hanging: 0 };
    let (mut house, before) =
        tokio::task::spawn_blocking(move || House::start(&at, &url, plan)).await??;
    house.ask("adopted", "adopted_ms")?;
    let after = house.ask("rss", "rss_kib")?.as_u64().context("a number")?;
    Ok((before, after))
}

/// The section on memory.
pub(crate) async fn memory(dir: &Path) -> Result<Value> {
    let (empty, idle) = rss(dir, 0).await?;
    let (machines, full) = rss(dir, LEASES).await?;
    let of_leases = (full.saturating_sub(machines)) as f64 - (idle.saturating_sub(empty)) as f64;
    let row = row_bytes(&dir.join(format!("memory-{LEASES}")))?;
    let per_lease = of_leases * 1024.0 / LEASES as f64;
    Ok(json!({
        "ratio": round(per_lease / row),
        "per_lease_bytes": round(per_lease),
        "rows_of_a_lease_bytes": round(row),
        "idle_rss_mib": round(idle as f64 / 1024.0),
        "rss_with_leases_mib": round(full as f64 / 1024.0),
        "leases": LEASES,
    }))
}

/// Bytes of one lease's rows in the ledger.
fn row_bytes(dir: &Path) -> Result<f64> {
    let db = redb::Database::open(dir.join(satlet::ledger::FILE))?;
    let tx = db.begin_read()?;
    let mut bytes = 0;
    for name in ["leases", "workloads"] {
        let table: TableDefinition<'_, &str, &[u8]> = TableDefinition::new(name);
        for row in tx.open_table(table)?.iter()? {
            bytes += row?.1.value().len();
        }
    }
    Ok(bytes as f64 / LEASES as f64)
}
