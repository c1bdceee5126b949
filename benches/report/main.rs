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

mod docker;
mod house;
mod leases;
mod machine;
mod people;
mod relay;
mod spawns;
mod status;
mod table;

use std::path::PathBuf;

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
    let (quick, only) = (has("--quick"), only.map(String::as_str));
    // On the disk that the build is on: /tmp may be memory, where a sync is free.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let mut figures = Figures {
        dir: dir.path().to_owned(),
        all: Map::new(),
        requests: if quick { 300 } else { 3_000 },
        rounds: if quick { 1 } else { 3 },
    };
    let wanted = |name: &str| only.is_none_or(|only| only == name);
    runtime()?.block_on(figures.of_parts(wanted))?;
    // What follows measures another process, which has the first core.
    machine::pin(1);
    runtime()?.block_on(figures.of_the_whole(wanted))?;
    let figures = Value::Object(figures.all);
    if has("--json") {
        println!("{}", serde_json::to_string_pretty(&figures)?);
    } else if has("--write") {
        table::write(&figures)?;
    } else {
        println!("{}", table::render(&figures));
    }
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.enable_all().build()?)
}

/// What is measured, and how much of it.
struct Figures {
    dir: PathBuf,
    all: Map<String, Value>,
    requests: usize,
    rounds: usize,
}

impl Figures {
    fn note(&mut self, name: &str, value: Value) {
        eprintln!("{name}: {value}");
        self.all.insert(name.to_owned(), value);
    }

    /// What runs in this process.
    async fn of_parts(&mut self, wanted: impl Fn(&str) -> bool) -> Result<()> {
        if wanted("spawns") {
            let spawns = spawns::measure(&self.dir, self.rounds).await;
            self.note("spawns", spawns.into());
        }
        if wanted("shell") {
            let shell = spawns::measure_shell(&self.dir, self.rounds).await;
            self.note("shell", shell);
        }
        Ok(())
    }

    /// What runs in a process of its own.
    async fn of_the_whole(&mut self, wanted: impl Fn(&str) -> bool) -> Result<()> {
        if wanted("status") {
            let (requests, rounds) = (self.requests, self.rounds);
            let size = status::Size { requests, rounds };
            let status = status::measure(&self.dir, size).await?;
            self.note("status", status);
        }
        if wanted("adoption") {
            let adoption = leases::adoption(&self.dir, self.rounds).await?;
            self.note("adoption", adoption);
        }
        if wanted("memory") {
            let memory = leases::memory(&self.dir).await?;
            self.note("memory", memory);
        }
        if wanted("binaries") {
            self.note("binaries", machine::binaries()?);
        }
        Ok(())
    }
}
