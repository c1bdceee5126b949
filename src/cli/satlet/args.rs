//! The arguments of `satlet`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::cli::output::parse_duration;

const EXIT_CODES: &str = "\
Exit codes: 0 ok, 1 internal, 2 usage, 3 not found, 4 refused by the provider
(money untouched), 5 payment problem or money pending, 6 no answer in time,
7 network or relays. ssh and exec pass on the remote command's code.

Files are in $SATLET_HOME, else $XDG_DATA_HOME/satlet, else ~/.local/share/satlet.
docs/cli.md describes every command.";

/// Rent a Linux box by the second, paid in ecash over Nostr.
#[derive(Debug, Parser)]
#[command(name = "satlet", version, about, after_help = EXIT_CODES, propagate_version = true)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// One JSON document on standard output; progress stays on standard error
    #[arg(long, global = true)]
    pub json: bool,
    /// Use this relay instead of those in the settings (repeatable)
    #[arg(long = "relay", global = true, value_name = "URL")]
    pub relays: Vec<String>,
    /// Directory of keys, wallet and records
    #[arg(long, global = true, value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// How long to wait for an answer, such as 90s or 5m
    #[arg(long, global = true, value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<u64>,
    /// No progress on standard error
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List offers, those online first
    List,
    /// Show one offer in full
    Info {
        /// Name, npub, hex key, or an unambiguous beginning of one
        provider: String,
    },
    /// Ask for a price; nothing is bought
    Quote(QuoteArgs),
    /// Buy a workload and wait until it is there
    Spawn(SpawnArgs),
    /// List known leases
    Ls {
        /// Ask the providers
        #[arg(long)]
        refresh: bool,
        /// Ask this provider for all our leases there
        #[arg(long, value_name = "PROVIDER")]
        provider: Option<String>,
    },
    /// Ask how a lease (or an unanswered request) stands
    Status {
        /// A lease, an unambiguous beginning of one, or a request id
        lease: String,
    },
    /// Show how a lease is entered; asks nobody
    Show {
        /// A lease, or an unambiguous beginning of one
        lease: String,
        /// Show the password too, where there is one
        #[arg(long)]
        password: bool,
    },
    /// Buy more time
    Topup {
        /// A lease, or an unambiguous beginning of one
        lease: String,
        /// How much.
        #[command(flatten)]
        pay: PayArgs,
    },
    /// Open a shell in a lease, or run a command there
    Ssh(SshArgs),
    /// Run a command in a lease, without a terminal
    Exec {
        /// A lease, or an unambiguous beginning of one
        lease: String,
        /// Use the built-in SSH client
        #[arg(long)]
        builtin: bool,
        /// One word is a shell command line; several are run as they are
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Copy files: LEASE:PATH is in the workload
    Cp {
        /// Whole directories
        #[arg(short, long)]
        recursive: bool,
        /// Use the built-in SSH client
        #[arg(long)]
        builtin: bool,
        /// From
        from: String,
        /// To
        to: String,
    },
    /// Show what a workload printed
    Logs {
        /// A lease, or an unambiguous beginning of one
        lease: String,
        /// At most so many bytes from the end
        #[arg(long, value_name = "N")]
        bytes: Option<usize>,
    },
    /// Show what was paid for a lease, served and refunded, signed by the provider
    Receipt(ReceiptArgs),
    /// End a lease and get the unserved money back
    Stop {
        /// A lease, or an unambiguous beginning of one
        lease: String,
    },
    /// The ecash wallet
    #[command(subcommand)]
    Wallet(WalletCommand),
    /// Show our public key
    Identity {
        /// Show the secret key too: whoever has it owns the leases
        #[arg(long)]
        export: bool,
    },
    /// Settings: relays, mints, ask_above_sat
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Walk through it all on this machine: relay, mint, provider, consumer
    #[cfg(feature = "demo")]
    Demo {
        /// Run this in the workload
        #[arg(long, value_name = "CMD")]
        run: Option<String>,
        /// Leave everything up and print commands to play with
        #[arg(long)]
        keep: bool,
    },
}

/// What is wanted.
#[derive(Args, Clone, Debug)]
pub struct WantedArgs {
    /// Size; the offer's first if absent
    #[arg(long, value_name = "NAME")]
    pub tier: Option<String>,
    /// `host` or an OCI reference; the provider's default if absent
    #[arg(long, value_name = "REF", conflicts_with = "template")]
    pub image: Option<String>,
    /// A template of the offer
    #[arg(long, value_name = "NAME")]
    pub template: Option<String>,
    /// Environment of the workload (repeatable)
    #[arg(short, long, value_name = "K=V", value_parser = parse_pair)]
    pub env: Vec<(String, String)>,
}

/// Arguments of `quote`.
#[derive(Args, Debug)]
pub struct QuoteArgs {
    /// Name, npub, hex key, or an unambiguous beginning of one
    pub provider: String,
    /// What is wanted.
    #[command(flatten)]
    pub wanted: WantedArgs,
    /// For how long, such as 2h; the minimum if absent
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    pub seconds: Option<u64>,
    /// The main process
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// How much to pay.
#[derive(Args, Clone, Debug)]
pub struct PayArgs {
    /// For how long, such as 2h
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration, conflicts_with_all = ["amount", "token"])]
    pub seconds: Option<u64>,
    /// So many sat, after mint fees
    #[arg(long, value_name = "SAT", conflicts_with = "token")]
    pub amount: Option<u64>,
    /// Pay with this ecash token; `-` reads it from standard input
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Pay by Lightning: shows an invoice and waits until it is paid
    #[arg(long, conflicts_with_all = ["amount", "token"])]
    pub lightning: bool,
    /// Do not lock the token to the provider
    #[arg(long)]
    pub no_lock: bool,
    /// Do not ask, whatever it costs
    #[arg(short, long)]
    pub yes: bool,
}

/// Arguments of `spawn`.
#[derive(Args, Debug)]
pub struct SpawnArgs {
    /// Name, npub, hex key, or an unambiguous beginning of one
    pub provider: String,
    /// What is wanted.
    #[command(flatten)]
    pub wanted: WantedArgs,
    /// How much.
    #[command(flatten)]
    pub pay: PayArgs,
    /// Pay nothing: ask for the first lease that the provider gives
    #[arg(long, conflicts_with_all = ["seconds", "amount", "token"])]
    pub gift: bool,
    /// Rent also from a provider that speaks only paygress/1, which never refunds
    #[arg(long)]
    pub accept_no_refund: bool,
    /// SSH key that opens it (FILE and FILE.pub); satlet's own if absent
    #[arg(long, value_name = "FILE")]
    pub ssh_key: Option<PathBuf>,
    /// Return once a relay took the request; `status` and `ls` pick it up
    #[arg(short, long, conflicts_with = "lightning")]
    pub detach: bool,
    /// The main process; the image's own if absent
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// Arguments of `ssh`.
#[derive(Args, Debug)]
pub struct SshArgs {
    /// A lease, or an unambiguous beginning of one
    pub lease: String,
    /// Forward a local port: [BIND:]PORT:HOST:PORT (repeatable)
    #[arg(short = 'L', value_name = "SPEC")]
    pub forward: Vec<String>,
    /// Use the built-in SSH client
    #[arg(long, conflicts_with = "forward")]
    pub builtin: bool,
    /// One word is a shell command line; several are run as they are
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// Arguments of `receipt`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct ReceiptArgs {
    /// A lease, or an unambiguous beginning of one
    #[arg(required = true)]
    pub lease: Option<String>,
    /// What to do with a receipt.
    #[command(subcommand)]
    pub command: Option<ReceiptCommand>,
}

/// What can be done with a receipt.
#[derive(Debug, Subcommand)]
pub enum ReceiptCommand {
    /// Check a receipt: signature and sums; asks nobody and needs no home
    Verify {
        /// The receipt, or `-` for standard input
        file: String,
        /// Who must have signed it: an npub or hex key
        #[arg(long, value_name = "KEY")]
        by: Option<String>,
    },
}

/// A command of the wallet.
#[derive(Debug, Subcommand)]
pub enum WalletCommand {
    /// What there is, by mint
    Balance,
    /// Put a token in; `-` reads it from standard input
    Receive {
        /// The token, or `-`
        token: String,
    },
    /// Make a token to give away
    Send {
        /// So many sat
        amount: u64,
        /// Of this mint; the one with most in it if absent
        #[arg(long, value_name = "URL")]
        mint: Option<String>,
        /// Do not ask, whatever it is
        #[arg(short, long)]
        yes: bool,
    },
    /// Buy ecash by Lightning: shows an invoice and waits until it is paid
    Mint {
        /// So many sat
        amount: u64,
        /// At this mint; the first of the settings if absent
        #[arg(long, value_name = "URL")]
        mint: Option<String>,
    },
    /// The mints that are trusted with money
    Mints {
        /// Trust this mint
        #[arg(long, value_name = "URL")]
        add: Option<String>,
        /// Trust this mint no more
        #[arg(long, value_name = "URL", conflicts_with = "add")]
        remove: Option<String>,
    },
    /// Refunds that came back and tokens that are out
    Refunds,
    /// What became of every token that went out or came in
    History,
}

/// A command of the settings.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show the settings, or one of them
    Get {
        /// `relays`, `mints` or `ask_above_sat`
        key: Option<String>,
    },
    /// Change a setting
    Set {
        /// `relays`, `mints` or `ask_above_sat`
        key: String,
        /// Lists are separated by commas
        value: String,
    },
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("'{text}' is not of the form KEY=VALUE")),
    }
}
