//! The daemon's command line.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done; `check`: nothing that stops the daemon (warnings may be there) |
//! | 1 | it failed while running |
//! | 2 | wrong command line (also: `init` has to ask and may not) |
//! | 3 | the configuration is wrong |
//! | 4 | `check`: the host is not fit; with `--strict` also for warnings |
//! | 5 | no daemon runs, where one is needed |

mod ask;
mod check;
mod init;
mod leases;
mod mints;
mod money;
mod offer;
mod output;
mod reload;
mod run;
mod withdraw;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Config, ConfigProblem};
use output::Output;

pub use init::InitArgs;

/// Exit codes: they are stable, and in docs/operating.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// It failed while running.
    Failed = 1,
    /// Wrong command line.
    Usage = 2,
    /// The configuration is wrong.
    Config = 3,
    /// The host is not fit.
    Unfit = 4,
    /// No daemon runs.
    NotRunning = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Rents out this machine by the second, over Nostr, paid in Cashu ecash.
#[derive(Debug, Parser)]
#[command(name = "satletd", version, arg_required_else_help = true)]
#[command(
    after_help = "Start with `satletd init`, then `satletd check`, then `satletd run`.
Exit codes: 0 done, 1 failed, 2 wrong command line, 3 wrong configuration,
4 host not fit (check), 5 no daemon runs. SATLET_LOG sets the log level."
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where the configuration is.
#[derive(Clone, Debug, clap::Args)]
pub struct ConfigArg {
    /// The configuration file.
    #[arg(
        long,
        short,
        value_name = "FILE",
        env = "SATLETD_CONFIG",
        default_value = "/etc/satlet/provider.json"
    )]
    pub config: PathBuf,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon in the foreground, until SIGTERM or SIGINT.
    ///
    /// Logs go to standard error. On the first signal it takes no new work,
    /// finishes what it has begun and ends; on the second it ends at once.
    /// Workloads keep running either way, and the next start adopts them.
    Run {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Write a configuration and its key files.
    ///
    /// Asks on a terminal; with --yes it takes flags and defaults, and asks
    /// nothing. Capacity and tiers are proposed from what this host has. The
    /// files get mode 0600; a file that is there is never overwritten.
    Init(InitArgs),
    /// Say all that is wrong with the configuration, and what this host can and cannot do.
    ///
    /// Every problem comes with its place and a fix. Nothing is changed.
    Check {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigArg,
        /// One JSON object on standard output.
        #[arg(long)]
        json: bool,
        /// Ask no relay and no mint.
        #[arg(long)]
        offline: bool,
        /// Exit with 4 for warnings too.
        #[arg(long)]
        strict: bool,
    },
    /// Have the running daemon read its configuration again, as SIGHUP does.
    ///
    /// What `requests` holds is taken over at once: allow and deny lists, rates,
    /// proof of work. Everything else needs a restart, and is named. With a file
    /// that is wrong the old one holds.
    Reload {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Show the leases of the running daemon, and why each stands as it does.
    Leases {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigArg,
        /// One JSON array on standard output.
        #[arg(long)]
        json: bool,
    },
    /// Show the running daemon's ecash beside its books.
    ///
    /// For each mint and unit: what the wallet can spend, what may have to go back
    /// (refunds that are owed, credit, time that is not served), and whether the
    /// one covers the other.
    Money {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigArg,
        /// One JSON object on standard output.
        #[arg(long)]
        json: bool,
    },
    /// Pay what is yours out over Lightning: an invoice, or to a Lightning address.
    ///
    /// The running daemon pays it from one mint, and never so that less is left
    /// there than may have to go back to consumers. The same invoice is paid once,
    /// however often it is asked for: asked again, it says what became of it.
    Withdraw {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigArg,
        /// A Lightning invoice (lnbc…), or an address (name@host).
        #[arg(value_name = "INVOICE|ADDRESS")]
        to: String,
        /// How much, in sat, or "all": for an address.
        #[arg(long, value_name = "SAT|all")]
        amount: Option<String>,
        /// From this mint; else from the one from which most may leave.
        #[arg(long, value_name = "URL")]
        mint: Option<String>,
        /// From ecash in this unit.
        #[arg(long, value_parser = ["sat", "msat"])]
        unit: Option<String>,
        /// What it may cost, in sat; else two percent, and 10 sat in any case.
        #[arg(long, value_name = "SAT")]
        max_fee: Option<u64>,
        /// Take also what no row of the ledger explains: you know whose it is.
        #[arg(long)]
        unexplained: bool,
        /// How long to wait for the end, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        wait: u64,
        /// One JSON object on standard output.
        #[arg(long)]
        json: bool,
    },
    /// Show how the mints are: whether they are fit, fast and not too full.
    ///
    /// New leases are paid only at mints that are well; one that is degraded takes
    /// locked tokens. Refunds are made at all of them.
    Mints {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigArg,
        /// One JSON array on standard output.
        #[arg(long)]
        json: bool,
    },
    /// Show the offer: what the running daemon publishes, or what would be published.
    Offer {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigArg,
        /// The content of the event, as JSON on standard output.
        #[arg(long)]
        json: bool,
    },
}

/// Does what the command line says.
pub fn main(args: &Args) -> ExitCode {
    let mut output = Output::std();
    let done = match &args.command {
        Command::Run { config } => run::run(&mut output, config),
        Command::Init(init) => init::init(&mut output, init),
        Command::Check {
            config,
            json,
            offline,
            strict,
        } => check::check(&mut output, config, *json, !*offline, *strict),
        Command::Reload { config } => reload::reload(&mut output, config),
        Command::Leases { config, json } => leases::leases(&mut output, config, *json),
        Command::Money { config, json } => money::money(&mut output, config, *json),
        Command::Withdraw {
            config,
            to,
            amount,
            mint,
            unit,
            max_fee,
            unexplained,
            wait,
            json,
        } => {
            let wanted = withdraw::Wanted {
                to: to.clone(),
                amount: amount.clone(),
                mint: mint.clone(),
                unit: unit.clone(),
                max_fee: *max_fee,
                unexplained: *unexplained,
                wait: std::time::Duration::from_secs(*wait),
            };
            withdraw::withdraw(&mut output, config, wanted, *json)
        }
        Command::Mints { config, json } => mints::mints(&mut output, config, *json),
        Command::Offer { config, json } => offer::offer(&mut output, config, *json),
    };
    let exit = done.unwrap_or_else(|error| {
        output.tell(&format!("satletd: {error:#}"));
        Exit::Failed
    });
    exit.into()
}

/// The configuration, or all its problems told and the exit code for that.
fn load(output: &mut Output<'_>, arg: &ConfigArg) -> Result<Config, Exit> {
    config::load(&arg.config).map_err(|problems| {
        tell_problems(output, arg, &problems);
        Exit::Config
    })
}

fn tell_problems(output: &mut Output<'_>, arg: &ConfigArg, problems: &[ConfigProblem]) {
    let many = if problems.len() == 1 {
        "problem"
    } else {
        "problems"
    };
    output.tell(&format!(
        "{}: {} {many}",
        arg.config.display(),
        problems.len()
    ));
    for problem in problems {
        output.tell(&format!("  {problem}"));
    }
}

/// A runtime for the short commands.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?)
}
