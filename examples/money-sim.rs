//! Random histories of money against the pure core, with crashes at every write
//! and every call of a mint or the backend.
//!
//! ```text
//! cargo run --release --example money-sim -- --histories 100000 --seed 1
//! cargo run --release --example money-sim -- --histories 20000 --mutant redeem-again
//! ```
//!
//! The last line on standard output is `{"histories":N,"crashes":C,"drift_msat":0}`.
//! A failure names the seed that replays its history (`--histories 1 --seed X`) and
//! exits with 1.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a simulation that meets something else than it wants ends there"
)]

#[path = "money_sim/mod.rs"]
mod money_sim;

use std::process::ExitCode;

use clap::Parser;
use money_sim::{MUTANTS, Summary};

#[derive(Parser)]
struct Args {
    /// How many histories.
    #[arg(long, default_value_t = 10_000)]
    histories: u64,
    /// What all chance comes from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Forget this rule; `list` shows all.
    #[arg(long)]
    mutant: Option<String>,
}

fn last_line(summary: &Summary) {
    let seen: Vec<_> = summary.seen.iter().copied().collect();
    eprintln!("seen: {}", seen.join(", "));
    let Summary {
        histories,
        crashes,
        drift_msat,
        ..
    } = summary;
    println!("{{\"histories\":{histories},\"crashes\":{crashes},\"drift_msat\":{drift_msat}}}");
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mutant = match args.mutant.as_deref() {
        None => None,
        Some("list") => {
            for (_, name, what) in MUTANTS {
                println!("{name}:{what}");
            }
            return ExitCode::SUCCESS;
        }
        Some(name) => match MUTANTS.iter().find(|(_, known, _)| *known == name) {
            Some((mutant, ..)) => Some(*mutant),
            None => {
                eprintln!("no mutant {name}; --mutant list shows all");
                return ExitCode::from(2);
            }
        },
    };
    match money_sim::run(args.histories, args.seed, mutant) {
        Ok(summary) => {
            last_line(&summary);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{}", failure.what);
            eprintln!("replay: --histories 1 --seed {}", failure.seed);
            last_line(&failure.summary);
            ExitCode::FAILURE
        }
    }
}
