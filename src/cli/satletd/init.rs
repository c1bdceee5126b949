//! `satletd init`: a configuration and its key files.

mod files;
mod proposal;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nostr_sdk::{Keys, ToBech32};
use serde::Serialize;

use super::output::{Output, can_ask};
use super::{Exit, runtime};
use crate::compute::{Capabilities, Inventory};
use crate::config;
use crate::provider::backend;
use crate::provider::settings::{BackendSetting, SandboxSetting};
use files::{Made, private_dir, private_file};
use proposal::{File, Host, propose};

/// Relays that are proposed.
const RELAYS: [&str; 2] = ["wss://relay.damus.io", "wss://nos.lol"];

/// What `init` can be told instead of being asked.
#[derive(Clone, Debug, clap::Args)]
pub struct InitArgs {
    /// The configuration file to write; the key files go beside it.
    #[arg(
        long,
        short,
        value_name = "FILE",
        env = "SATLETD_CONFIG",
        default_value = "/etc/satlet/provider.json"
    )]
    pub config: PathBuf,
    /// Ask nothing: flags and defaults only.
    #[arg(long)]
    pub yes: bool,
    /// Friendly name in the offer [default: this machine's name].
    #[arg(long)]
    pub hostname: Option<String>,
    /// Where the machine stands, for people.
    #[arg(long)]
    pub location: Option<String>,
    /// Host name or address that consumers reach this machine by.
    #[arg(long, value_name = "HOST")]
    pub public_host: Option<String>,
    /// Where the SSH gateway listens.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:2222")]
    pub listen: SocketAddr,
    /// Where the daemon keeps its ledger and wallet.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/satlet")]
    pub data_dir: PathBuf,
    /// A relay; may be given several times.
    #[arg(long = "relay", value_name = "URL")]
    pub relays: Vec<String>,
    /// A mint whose ecash is accepted; may be given several times.
    #[arg(long = "mint", value_name = "URL")]
    pub mints: Vec<String>,
    /// Price of half a core with 512 MiB, in sat per hour; larger tiers in proportion.
    #[arg(long, value_name = "SAT", default_value_t = 180)]
    pub sat_per_hour: u64,
    /// The result as one JSON object on standard output.
    #[arg(long)]
    pub json: bool,
}

/// What was made.
#[derive(Debug, Serialize)]
struct Report {
    config: PathBuf,
    nsec_file: PathBuf,
    mnemonic_file: PathBuf,
    npub: String,
}

/// The answers that make a configuration.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answers {
    pub(super) hostname: String,
    pub(super) location: Option<String>,
    pub(super) public_host: String,
    pub(super) relays: Vec<String>,
    pub(super) mints: Vec<String>,
}

pub(super) fn init(output: &mut Output<'_>, args: &InitArgs) -> anyhow::Result<Exit> {
    if args.config.exists() {
        output.tell(&format!(
            "{} is there already, and is not overwritten.",
            args.config.display()
        ));
        return Ok(Exit::Failed);
    }
    let answers = if args.yes {
        without_asking(args)
    } else if can_ask() {
        let mut lines = std::io::stdin().lines();
        ask_all(output, args, &mut || lines.next().and_then(Result::ok))
    } else {
        Err("there is no terminal to ask on; use --yes with flags".to_owned())
    };
    let answers = match answers {
        Ok(answers) => answers,
        Err(why) => {
            output.tell(&format!("satletd init: {why} (see satletd init --help)."));
            return Ok(Exit::Usage);
        }
    };
    let host = look(output, args)?;
    let report = write(args, &answers, &host)?;
    tell(output, args, &report)
}

/// Flags and defaults, or what is missing.
pub(super) fn without_asking(args: &InitArgs) -> Result<Answers, String> {
    let public_host = args.public_host.clone();
    let missing = match (&public_host, args.mints.is_empty()) {
        (None, true) => "--public-host and --mint",
        (None, false) => "--public-host",
        (Some(_), true) => "--mint",
        (Some(_), false) => "",
    };
    if !missing.is_empty() {
        return Err(format!("with --yes, name {missing}"));
    }
    Ok(Answers {
        hostname: args.hostname.clone().unwrap_or_else(machine_name),
        location: args.location.clone(),
        public_host: public_host.unwrap_or_default(),
        relays: or_default_relays(args.relays.clone()),
        mints: args.mints.clone(),
    })
}

fn or_default_relays(relays: Vec<String>) -> Vec<String> {
    if relays.is_empty() {
        return RELAYS.map(str::to_owned).to_vec();
    }
    relays
}

fn machine_name() -> String {
    let name = nix::unistd::gethostname().ok();
    name.and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "satlet".to_owned())
}

/// Asks for what no flag has said. `line` gives the next line typed.
pub(super) fn ask_all(
    output: &mut Output<'_>,
    args: &InitArgs,
    line: &mut dyn FnMut() -> Option<String>,
) -> Result<Answers, String> {
    let mut ask = |question: &str, default: Option<String>| -> Result<String, String> {
        loop {
            match &default {
                Some(default) if !default.is_empty() => {
                    output.prompt(&format!("{question} [{default}]: "));
                }
                _ => output.prompt(&format!("{question}: ")),
            }
            let typed = line().ok_or("nobody answers")?.trim().to_owned();
            match (typed.is_empty(), &default) {
                (false, _) => return Ok(typed),
                (true, Some(default)) => return Ok(default.clone()),
                (true, None) => {}
            }
        }
    };
    let words = |text: String| {
        text.split([' ', ','])
            .filter(|w| !w.is_empty())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let hostname = match &args.hostname {
        Some(name) => name.clone(),
        None => ask("Name in the offer", Some(machine_name()))?,
    };
    let location = match &args.location {
        Some(location) => location.clone(),
        None => ask(
            "Where it stands, for people (may be empty)",
            Some(String::new()),
        )?,
    };
    let public_host = match &args.public_host {
        Some(host) => host.clone(),
        None => ask(
            "Host name or address that consumers reach this machine by",
            None,
        )?,
    };
    let relays = if args.relays.is_empty() {
        words(ask("Relays", Some(RELAYS.join(" ")))?)
    } else {
        args.relays.clone()
    };
    let mints = if args.mints.is_empty() {
        words(ask("Mints whose ecash is accepted", None)?)
    } else {
        args.mints.clone()
    };
    Ok(Answers {
        hostname,
        location: Some(location).filter(|location| !location.is_empty()),
        public_host,
        relays,
        mints,
    })
}

/// What this host has and can do; a backend that cannot be opened is said, and
/// a small host is taken for granted: `check` says what is missing.
fn look(output: &mut Output<'_>, args: &InitArgs) -> anyhow::Result<Host> {
    let setting = BackendSetting::Sandbox(SandboxSetting::default());
    let seen: Result<(Capabilities, Inventory), _> = runtime()?.block_on(async {
        let looked = backend::look(&setting, &args.data_dir).await?;
        let can = looked.backend.capabilities().clone();
        Ok::<_, crate::compute::BackendError>((can, looked.backend.inventory().await?))
    });
    match seen {
        Ok((capabilities, inventory)) => Ok(Host::seen(&capabilities, &inventory, &args.data_dir)),
        Err(why) => {
            output.tell(&format!(
                "The sandbox backend cannot be opened: {why}. See `satletd check`."
            ));
            Ok(Host::from_system(&args.data_dir))
        }
    }
}

/// Writes the key files, then the configuration: with a crash between, the
/// next `init` takes the keys that are there.
fn write(args: &InitArgs, answers: &Answers, host: &Host) -> anyhow::Result<Report> {
    let dir = match args.config.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let file = propose(args, answers, host);
    let text = serde_json::to_string_pretty(&file)?;
    if let Err(problems) = config::parse(&text, dir) {
        let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::bail!("this makes no valid configuration:\n  {}", all.join("\n  "));
    }
    private_dir(dir).with_context(|| dir.display().to_string())?;
    let nsec_file = dir.join(File::NSEC);
    let mnemonic_file = dir.join(File::MNEMONIC);
    let nsec = Keys::generate().secret_key().to_bech32()?;
    private_file(&nsec_file, &format!("{nsec}\n"))?;
    let words = bip39::Mnemonic::generate(12)?;
    private_file(&mnemonic_file, &format!("{words}\n"))?;
    if private_file(&args.config, &format!("{text}\n"))? == Made::Kept {
        anyhow::bail!("{} is there already", args.config.display());
    }
    let config = config::load(&args.config).map_err(|problems| {
        let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("what is there does not fit:\n  {}", all.join("\n  "))
    })?;
    let secrets = config::secrets::read(&config)
        .map_err(|_| anyhow::anyhow!("the key files have changed"))?;
    Ok(Report {
        config: args.config.clone(),
        nsec_file,
        mnemonic_file,
        npub: secrets.keys.public_key().to_bech32()?,
    })
}

fn tell(output: &mut Output<'_>, args: &InitArgs, report: &Report) -> anyhow::Result<Exit> {
    if args.json {
        output.json(report)?;
        return Ok(Exit::Done);
    }
    let config = report.config.display();
    output.line(&format!("{config}  the configuration"))?;
    output.line(&format!(
        "{}  the identity, {}",
        report.nsec_file.display(),
        report.npub
    ))?;
    output.line(&format!(
        "{}  the wallet's words: keep a copy on paper, it is the only backup of the ecash",
        report.mnemonic_file.display()
    ))?;
    output.line(&format!(
        "Next: satletd check --config {config}, then satletd run --config {config}"
    ))?;
    Ok(Exit::Done)
}
