//! The report: figures of the whole daemon, each a ratio of two things measured
//! side by side in the same run, as JSON and as the table in docs/PERFORMANCE.md.
//!
//! ```text
//! cargo bench --bench report              the table on standard output
//! cargo bench --bench report -- --json    all figures as JSON
//! cargo bench --bench report -- --write   the table into docs/PERFORMANCE.md
//! cargo bench --bench report -- --quick   smaller numbers; with any of these
//! cargo bench --bench report -- --only status   one section (status, spawns,
//!                                         shell, adoption, memory, binaries)
//! ```
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement that meets something else than it wants ends there"
)]

mod house;
mod leases;
mod machine;
mod people;
mod relay;
mod spawns;
mod status;
mod table;

use anyhow::Result;
use serde_json::{Map, Value};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "--house") {
        return house::main(args.get(1..).unwrap_or_default());
    }
    let has = |name: &str| args.iter().any(|arg| arg == name);
    let only = args.iter().position(|arg| arg == "--only");
    let only = only.and_then(|at| args.get(at + 1));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let figures = runtime.block_on(measure(has("--quick"), only.map(String::as_str)))?;
    if has("--json") {
        println!("{}", serde_json::to_string_pretty(&figures)?);
    } else if has("--write") {
        table::write(&figures)?;
    } else {
        println!("{}", table::render(&figures));
    }
    Ok(())
}

async fn measure(quick: bool, only: Option<&str>) -> Result<Value> {
    let wanted = |name: &str| only.is_none_or(|only| only == name);
    // On the disk that the build is on: /tmp may be memory, where a sync is free.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let dir = dir.path();
    let (requests, rounds) = if quick { (1_000, 1) } else { (10_000, 5) };
    let mut figures = Map::new();
    let mut note = |name: &str, value: Value| {
        eprintln!("{name}: {value}");
        figures.insert(name.to_owned(), value);
    };
    if wanted("spawns") {
        note("spawns", spawns::measure(dir, rounds).await.into());
    }
    if wanted("shell") {
        note("shell", spawns::measure_shell(dir, rounds).await);
    }
    // What follows measures another process, which has the first core.
    machine::pin(1);
    if wanted("status") {
        let size = status::Size { requests, rounds };
        note("status", status::measure(dir, size).await?);
    }
    if wanted("adoption") {
        note("adoption", leases::adoption(dir, rounds).await?);
    }
    if wanted("memory") {
        note("memory", leases::memory(dir).await?);
    }
    if wanted("binaries") {
        note("binaries", machine::binaries()?);
    }
    Ok(Value::Object(figures))
}
