//! The consumer's CLI. Every command gives one [`Done`] or one failure;
//! printing and exit codes are in one place.

pub mod args;
mod enter;
mod history;
mod invoice;
mod leases;
mod market;
mod password;
mod receipt;
mod settings;
mod wallet;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::time::Duration;

use clap::Parser;
use clap::error::ErrorKind;

use super::output::{Done, Failure, escape, finish, note};
use crate::consumer::home::Home;
use crate::consumer::{Client, ClientError, ClientOptions};
use args::{Cli, Command, Global};

type Outcome = Result<Done, ClientError>;

/// Runs `satlet` with these arguments (the program's name first) and gives its
/// exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some(code) = password::askpass(&args) {
        return code;
    }
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return usage(&args, &error),
    };
    logs();
    let json = cli.global.json;
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure = Failure::new(1, "internal", &format!("no runtime: {error}"), "");
            return finish(json, Err(failure));
        }
    };
    let result = runtime.block_on(run(cli));
    // What still waits for a relay or a file must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(500));
    finish(json, result.map_err(|error| failure(&error)))
}

/// Logs go to standard error, and only when `SATLET_LOG` asks for them.
fn logs() {
    let Ok(filter) = tracing_subscriber::EnvFilter::try_from_env("SATLET_LOG") else {
        return;
    };
    let set = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
    if let Err(error) = set {
        note(&format!("no logs: {error}"));
    }
}

/// What clap says: help and version are no failures.
fn usage(args: &[OsString], error: &clap::Error) -> u8 {
    let shown = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    let json = args
        .iter()
        .take_while(|arg| *arg != "--")
        .any(|arg| arg == "--json");
    if shown || !json {
        let _ = error.print();
        return if shown { 0 } else { 2 };
    }
    let text = error.to_string();
    let message = text.lines().next().unwrap_or_default();
    let message = message.trim_start_matches("error: ");
    finish(
        true,
        Err(Failure::new(2, "usage", message, "See satlet help.")),
    )
}

fn failure(error: &ClientError) -> Failure {
    let fallback = || Failure::new(error.kind.exit_code(), &error.code, &error.message, "").error;
    Failure {
        error: serde_json::to_value(error).unwrap_or_else(|_| fallback()),
        code: error.kind.exit_code(),
    }
}

async fn run(cli: Cli) -> Outcome {
    let app = App { global: cli.global };
    match cli.command {
        Command::List => market::list(&app).await,
        Command::Info { provider } => market::info(&app, &provider).await,
        Command::Quote(args) => market::quote(&app, args).await,
        Command::Spawn(args) => leases::spawn(&app, args).await,
        Command::Ls { refresh, provider } => leases::ls(&app, refresh, provider.as_deref()).await,
        Command::Status { lease } => leases::status(&app, &lease).await,
        Command::Show { lease, password } => leases::show(&app, &lease, password),
        Command::Topup { lease, pay } => leases::topup(&app, &lease, pay).await,
        Command::Ssh(args) => enter::ssh(&app, args).await,
        Command::Exec {
            lease,
            builtin,
            command,
        } => enter::exec(&app, &lease, builtin, &command).await,
        Command::Cp {
            recursive,
            builtin,
            from,
            to,
        } => enter::cp(&app, recursive, builtin, &from, &to).await,
        Command::Logs { lease, bytes } => leases::logs(&app, &lease, bytes).await,
        Command::Receipt(args) => receipt::run(&app, args).await,
        Command::Stop { lease } => leases::stop(&app, &lease).await,
        Command::Wallet(command) => wallet::run(&app, command).await,
        Command::Identity { export } => settings::identity(&app, export),
        Command::Config(command) => settings::config(&app, command),
        #[cfg(feature = "demo")]
        Command::Demo { run, keep } => {
            let args = crate::demo::DemoArgs {
                json: app.global.json,
                run,
                keep,
            };
            let code = crate::demo::run(args).await;
            Ok(Done {
                code,
                ..Done::default()
            })
        }
    }
}

/// What every command needs.
struct App {
    global: Global,
}

impl App {
    fn home(&self) -> Result<Home, ClientError> {
        let root = match &self.global.home {
            Some(root) => root.clone(),
            None => Home::default_root()?,
        };
        Home::open(&root)
    }

    fn client(&self) -> Result<Client, ClientError> {
        self.paying_client(false)
    }

    /// `no_lock`: it pays with unlocked tokens.
    fn paying_client(&self, no_lock: bool) -> Result<Client, ClientError> {
        let options = ClientOptions {
            no_lock,
            relays: self.global.relays.clone(),
            timeout: self.global.timeout.map(Duration::from_secs),
            show_invoice: Some(invoice::show(self.global.json)),
            ..ClientOptions::default()
        };
        Client::open(self.home()?.root(), options)
    }

    fn progress(&self) -> impl Fn(&str) + Send + Sync + use<> {
        let quiet = self.global.quiet;
        move |text: &str| {
            if !quiet {
                note(&escape(text));
            }
        }
    }
}

/// A question on the terminal; without a terminal nobody is asked.
fn agreed(question: &str) -> bool {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return false;
    }
    note(&format!("{question} [y/N]"));
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    read.is_ok() && matches!(line.trim(), "y" | "Y" | "yes")
}

/// A token from the command line, or from standard input for `-`.
fn token_text(given: &str) -> Result<String, ClientError> {
    use std::io::Read as _;
    if given != "-" {
        return Ok(given.trim().to_owned());
    }
    if std::io::stdin().is_terminal() {
        note("paste the token, then Enter:");
        // Not echoed: a token is money.
        return Ok(rpassword::read_password()?.trim().to_owned());
    }
    let limit = u64::try_from(crate::protocol::MAX_TOKEN).unwrap_or(u64::MAX);
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(limit + 2)
        .read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}
