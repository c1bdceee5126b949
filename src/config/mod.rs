//! From a file to a validated value. All problems are found at once, each with
//! its place (a JSON pointer, RFC 6901), what is wrong and how to put it right.
//!
//! `provider.example.json` is complete and `docs/configuration.md` explains
//! every key; tests compare all three. Secrets are never in the file: it names
//! files of mode 0600 that hold them ([`secrets`]).

mod host;
mod pool;
mod reader;
mod sale;
pub mod secrets;
pub mod units;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::provider::settings::{CREATES, Settings};
use crate::telemetry::LogSetting;
use reader::{Node, Sink};

/// Largest configuration file that is read, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigProblem {
    /// Where: a JSON pointer; empty for the file as a whole.
    pub pointer: String,
    /// What is wrong: one sentence.
    pub message: String,
    /// How to put it right: one sentence.
    pub fix: String,
}

impl std::fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = if self.pointer.is_empty() {
            "the file"
        } else {
            &self.pointer
        };
        write!(f, "{place}: {} {}", self.message, self.fix)
    }
}

/// What the file says, validated.
#[derive(Clone, Debug)]
pub struct Config {
    /// All that is not a secret.
    pub settings: Settings,
    /// The file with the provider's secret key.
    pub nsec_file: PathBuf,
    /// The file with the wallet's words.
    pub mnemonic_file: PathBuf,
    /// Logs.
    pub log: LogSetting,
    /// The file as it is.
    pub source: Source,
}

/// A configuration file as it is, to compare it with a later one. Not shown: it
/// says what the rest of [`Config`] says.
#[derive(Clone)]
pub struct Source(pub Value);

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Source")
    }
}

/// Reads and validates a configuration file and the secrets it names. Paths in
/// it are relative to its own directory.
///
/// # Errors
/// Everything that is wrong.
pub fn load(path: &Path) -> Result<Config, Vec<ConfigProblem>> {
    let text = read(path).map_err(|problem| vec![problem])?;
    let base = path.parent().unwrap_or_else(|| Path::new(""));
    let base = std::path::absolute(base).unwrap_or_else(|_| base.to_owned());
    let config = parse(&text, &base)?;
    let problems = secrets::problems(&config);
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(problems)
    }
}

/// Validates the text of a configuration file whose directory is `base`;
/// touches no other file.
///
/// # Errors
/// Everything that is wrong.
pub fn parse(text: &str, base: &Path) -> Result<Config, Vec<ConfigProblem>> {
    parse_with_keys(text, base).0
}

/// [`parse`], and the pointers of all keys that were looked for, with `*` for
/// the places of lists and the names of maps.
fn parse_with_keys(text: &str, base: &Path) -> (Result<Config, Vec<ConfigProblem>>, Vec<String>) {
    let value: serde_json::Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(error) => return (Err(vec![not_json(&error)]), Vec::new()),
    };
    let sink = Sink::default();
    let config = root(&Node::root(&value, &sink), base);
    let (problems, keys) = sink.into_parts();
    match config {
        Some(config) if problems.is_empty() => (Ok(config), keys),
        _ => (Err(problems), keys),
    }
}

/// Pointers of what differs between two files, in their order.
pub fn differences(before: &Value, after: &Value) -> Vec<String> {
    fn walk(at: &str, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<String>) {
        match (before, after) {
            (Some(Value::Object(one)), Some(Value::Object(other))) => {
                let keys: std::collections::BTreeSet<&String> =
                    one.keys().chain(other.keys()).collect();
                for key in keys {
                    let at = format!("{at}/{}", reader::escape(key));
                    walk(&at, one.get(key), other.get(key), found);
                }
            }
            (before, after) if before == after => {}
            _ => found.push(at.to_owned()),
        }
    }
    let mut found = Vec::new();
    walk("", Some(before), Some(after), &mut found);
    found
}

fn not_json(error: &serde_json::Error) -> ConfigProblem {
    ConfigProblem {
        pointer: String::new(),
        message: format!("It is not JSON: {error}."),
        fix: "Look at that line: a comma too many or too few, a quote, or a comment.".to_owned(),
    }
}

fn read(path: &Path) -> Result<String, ConfigProblem> {
    let problem = |message: String, fix: &str| ConfigProblem {
        pointer: String::new(),
        message,
        fix: fix.to_owned(),
    };
    let meta = std::fs::metadata(path).map_err(|error| {
        problem(
            format!("{} cannot be read: {error}.", path.display()),
            "Name the file with --config, or make one with `satletd init`.",
        )
    })?;
    if meta.len() > MAX_FILE {
        return Err(problem(
            format!("It is larger than {MAX_FILE} bytes."),
            "Name a satletd configuration with --config.",
        ));
    }
    std::fs::read_to_string(path).map_err(|error| {
        problem(
            format!("{} cannot be read: {error}.", path.display()),
            "Give its owner read access, and write it as UTF-8.",
        )
    })
}

fn root(node: &Node<'_>, base: &Path) -> Option<Config> {
    let mut top = node.object();
    let hostname = top.required("hostname", |n| n.printable(64));
    let location = top.optional("location", None, |n| n.printable(64).map(Some));
    let data_dir = top.required("data_dir", |n| n.path(base));
    let mut identity = top.section("identity");
    let nsec_file = identity.required("nsec_file", |n| n.path(base));
    identity.finish();
    let mut wallet = top.section("wallet");
    let mnemonic_file = wallet.required("mnemonic_file", |n| n.path(base));
    wallet.finish();
    let relays = top.required("relays", host::relays);
    let mints = top.required("mints", sale::mints);
    let feeds = top.optional("rates", Default::default(), sale::rates);
    let tiers = top.required("tiers", |n| sale::tiers(n, feeds.unwrap_or_default()));
    let (tiers, fiat) = tiers.unzip();
    let images = sale::images(top.section("images"), base);
    let templates = top.optional("templates", Vec::new(), |n| {
        sale::templates(n, images.as_ref())
    });
    let capacity = sale::capacity(top.section("capacity"));
    let gateway = host::gateway(top.section("gateway"));
    let paygress = host::paygress(top.section("paygress"));
    let requests = host::requests(top.section("requests"));
    let refunds = sale::refunds(top.section("refunds"));
    let pool = pool::pool(top.section("pool"));
    let sweep = sale::sweep(top.section("sweep"));
    let lightning = sale::lightning(top.section("lightning"), mints.as_deref());
    let timing = host::timing(top.section("timing"));
    let sell_unenforced = top.optional("sell_unenforced", false, Node::flag);
    let mut backend = top.section("backend");
    let creates = backend.optional("creates", CREATES, |n| n.integer(1..=256));
    let backend = host::backend(backend);
    let log = host::log(top.section("log"));
    top.finish();
    sale::fits(node, tiers.as_deref(), capacity.as_ref());
    let old = paygress.as_ref().and_then(Option::as_ref);
    host::paygress_fits(
        node,
        old,
        gateway.as_ref(),
        images.as_ref(),
        capacity.as_ref(),
    );
    Some(Config {
        settings: Settings {
            hostname: hostname?,
            location: location?,
            data_dir: data_dir?,
            relays: relays?,
            mints: mints?,
            tiers: tiers?,
            fiat: fiat?,
            templates: templates?,
            images: images?,
            capacity: capacity?,
            gateway: gateway?,
            paygress: paygress?,
            requests: requests?,
            refunds: refunds?,
            pool: pool?,
            sweep: sweep?,
            lightning: lightning?,
            timing: timing?,
            sell_unenforced: sell_unenforced?,
            backend: backend?,
            creates: creates?,
        },
        nsec_file: nsec_file?,
        mnemonic_file: mnemonic_file?,
        log: log?,
        source: Source(node.value().clone()),
    })
}
