//! What follows from the facts. Pure.

use serde::Serialize;

use super::facts::{BackendFacts, DirFacts, Facts};
use super::network::MintAnswer;
use crate::compute::Inventory;
use crate::config::units::show_mib;
use crate::core::time::Timestamp;
use crate::protocol::heartbeat::ONLINE_SECS;
use crate::provider::offer::{not_enforced, sold};
use crate::provider::settings::Settings;

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Good to know.
    Note,
    /// It works, but not as it should, or not for everybody.
    Warning,
    /// The daemon would not start, or would sell nothing.
    Error,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// What it is about, for programs: `backend`, `limits`, `tiers`, `capacity`,
    /// `images`, `data_dir`, `disk`, `clock`, `files`, `gateway`, `paygress`,
    /// `relay`, `mint`.
    pub about: &'static str,
    /// What was found: one sentence.
    pub message: String,
    /// What to do about it: one sentence; empty for a note.
    pub fix: String,
}

/// Clocks may be apart by this much, in seconds, before somebody notices.
const SKEW_SECS: u64 = 30;
/// This program was written then (2026-01-01): a clock before it is wrong.
const NOT_BEFORE: Timestamp = Timestamp::from_secs(1_767_225_600);
/// Disk that the ledger and the wallet want to have free, in MiB.
const OWN_DISK_MIB: u64 = 256;
/// Open files that the daemon needs by itself, a connection, and a lease.
const FILES: (u64, u64, u64) = (256, 4, 16);

fn note(about: &'static str, message: impl Into<String>) -> Finding {
    finding(Level::Note, about, message, "")
}

fn warning(about: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Finding {
    finding(Level::Warning, about, message, fix)
}

fn error(about: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Finding {
    finding(Level::Error, about, message, fix)
}

fn finding(
    level: Level,
    about: &'static str,
    message: impl Into<String>,
    fix: impl Into<String>,
) -> Finding {
    Finding {
        level,
        about,
        message: message.into(),
        fix: fix.into(),
    }
}

/// All findings, in the order of [`Finding::about`].
pub fn findings(settings: &Settings, facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    match &facts.backend {
        Ok(backend) => {
            found.extend(backend_findings(backend));
            found.extend(tier_findings(settings, backend));
            found.extend(capacity_findings(settings, backend));
            found.extend(image_findings(settings, backend));
        }
        Err(why) => found.push(error(
            "backend",
            format!("The backend cannot be opened: {why}."),
            "Give the host what is missing, or run satletd as root.",
        )),
    }
    for (name, path) in &facts.missing_layouts {
        found.push(warning(
            "images",
            format!("The layout {name} is not there: {}.", path.display()),
            "Put an OCI layout there, or take it out of images.layouts.",
        ));
    }
    found.extend(dir_findings(&facts.data_dir, facts.uid));
    found.extend(disk_findings(settings, &facts.data_dir));
    found.extend(clock_findings(facts));
    found.extend(file_findings(settings, facts.open_files));
    found.extend(gateway_findings(settings, facts));
    found.extend(paygress_findings(settings));
    found.extend(relay_findings(facts));
    found.extend(mint_findings(facts));
    found
}

/// What clients of the existing network ask for where their users name nothing.
fn paygress_findings(settings: &Settings) -> Vec<Finding> {
    const TIER: &str = "basic";
    const IMAGE: &str = "ubuntu:22.04";
    let Some(paygress) = &settings.paygress else {
        return Vec::new();
    };
    let mut found = Vec::new();
    if !settings.tiers.iter().any(|tier| tier.id.as_str() == TIER) {
        found.push(note(
            "paygress",
            format!("Existing clients ask for the tier {TIER}, if their user names none; it is not sold here."),
        ));
    }
    if !paygress.images.contains_key(IMAGE) && !settings.images.allows(IMAGE) {
        found.push(warning(
            "paygress",
            format!("Existing clients ask for {IMAGE}, if their user names none; it is not allowed here."),
            "Say in paygress.images what is run in its place, or allow it in images.allow.",
        ));
    }
    found
}

fn backend_findings(backend: &BackendFacts) -> Vec<Finding> {
    let mut found = Vec::new();
    let name = &backend.name;
    match &backend.health {
        Ok(health) => found.push(note("backend", format!("{name}: {}.", health.engine))),
        Err(why) => found.push(error(
            "backend",
            format!("{name} takes no work: {why}."),
            "Start its engine, or look at its log.",
        )),
    }
    for missing in &backend.capabilities.notes {
        found.push(warning(
            "backend",
            missing.clone(),
            "See docs/operating.md, \"What the host needs\".",
        ));
    }
    found
}

/// Limits that do not hold, tier by tier.
fn tier_findings(settings: &Settings, backend: &BackendFacts) -> Vec<Finding> {
    let holds = backend.capabilities.enforces;
    let mut found = Vec::new();
    for tier in &settings.tiers {
        let missing = not_enforced(tier.resources, holds);
        if missing.is_empty() {
            continue;
        }
        let which = missing.join(", ");
        found.push(if settings.sell_unenforced {
            warning(
                "limits",
                format!(
                    "Tier {} is sold although this host cannot enforce: {which}.",
                    tier.id
                ),
                "Tenants can take more than they pay for; the offer says so.",
            )
        } else {
            warning(
                "limits",
                format!(
                    "Tier {} is not sold: this host cannot enforce: {which}.",
                    tier.id
                ),
                "Give the host what is missing, promise 0 of it, or set sell_unenforced.",
            )
        });
    }
    if sold(settings, holds).next().is_none() {
        found.push(error(
            "tiers",
            "No tier can be sold on this host.",
            "See the limits above; sell_unenforced sells them as they are.",
        ));
    }
    found
}

fn capacity_findings(settings: &Settings, backend: &BackendFacts) -> Vec<Finding> {
    let Inventory { total } = match &backend.inventory {
        Ok(inventory) => *inventory,
        Err(why) => {
            let message = format!("What the host has cannot be found out: {why}.");
            return vec![warning(
                "capacity",
                message,
                "Compare the capacity yourself.",
            )];
        }
    };
    let sells = settings.capacity.total;
    let mut found = vec![note(
        "capacity",
        format!(
            "The host has {} millicores, {} of memory and {} of disk.",
            total.cpu_millicores,
            show_mib(total.memory_mib.into()),
            show_mib(total.disk_mib.into())
        ),
    )];
    if total.cpu_millicores > 0 && sells.cpu_millicores > total.cpu_millicores {
        found.push(warning(
            "capacity",
            format!(
                "{} millicores are sold, more than the host has.",
                sells.cpu_millicores
            ),
            "Lower capacity.cpu_millicores, or tenants wait for each other.",
        ));
    }
    for (what, key, sells, has) in [
        (
            "memory",
            "capacity.memory",
            sells.memory_mib,
            total.memory_mib,
        ),
        ("disk", "capacity.disk", sells.disk_mib, total.disk_mib),
    ] {
        let sold = show_mib(sells.into());
        if has > 0 && sells > has {
            found.push(error(
                "capacity",
                format!(
                    "{sold} of {what} are sold, and the host has {}.",
                    show_mib(has.into())
                ),
                format!("Lower {key}: what is not there cannot be given."),
            ));
        } else if has > 0 && what == "memory" && u64::from(sells) * 10 > u64::from(has) * 9 {
            found.push(warning(
                "capacity",
                format!("{sold} of {what} are sold: less than a tenth is left to the host."),
                format!("Lower {key}."),
            ));
        }
    }
    found
}

fn image_findings(settings: &Settings, backend: &BackendFacts) -> Vec<Finding> {
    let can = &backend.capabilities;
    let mut found = Vec::new();
    if settings.images.allows("host") && !can.host_image {
        found.push(warning(
            "images",
            "The image host is allowed, and the backend cannot run it.",
            "Take it out of images.allow.",
        ));
    }
    let wants_pulls = |pattern: &&String| {
        *pattern != "host" && !settings.images.layouts.contains_key(pattern.as_str())
    };
    if !can.oci_images
        && let Some(pattern) = settings.images.allow.iter().find(wants_pulls)
    {
        found.push(warning(
            "images",
            format!("{pattern:?} is allowed, and the backend cannot run OCI references."),
            "Take it out of images.allow.",
        ));
    }
    found
}

fn dir_findings(dir: &DirFacts, uid: u32) -> Vec<Finding> {
    let path = dir.path.display();
    let mut found = Vec::new();
    if let Some((mode, owner)) = dir.mode_and_owner {
        if owner != uid {
            found.push(error(
                "data_dir",
                format!("{path} belongs to user {owner}, and this is user {uid}."),
                format!("chown -R {uid} {path}, or run satletd as its owner."),
            ));
        }
        if mode & 0o077 != 0 {
            found.push(error(
                "data_dir",
                format!("{path} is open to others (mode {mode:o}), and holds money and keys."),
                format!("chmod 700 {path}"),
            ));
        }
    } else {
        found.push(note(
            "data_dir",
            format!("{path} will be made at the first start."),
        ));
    }
    if let Err(why) = &dir.writable {
        found.push(error(
            "data_dir",
            format!("Nothing can be written in {path}: {why}."),
            "Name another data_dir, or give its file system back to its user.",
        ));
    }
    found
}

fn disk_findings(settings: &Settings, dir: &DirFacts) -> Vec<Finding> {
    let Some(free) = dir.free_mib else {
        return Vec::new();
    };
    let path = dir.path.display();
    let shown = show_mib(free);
    if free < OWN_DISK_MIB {
        let message = format!("Only {shown} are free at {path}: the ledger could not be written.");
        return vec![error(
            "disk",
            message,
            "Free some space, or name another data_dir.",
        )];
    }
    let sells = u64::from(settings.capacity.total.disk_mib);
    if sells > 0 && free < sells {
        return vec![warning(
            "disk",
            format!(
                "{shown} are free at {path}, and {} are sold.",
                show_mib(sells)
            ),
            "Lower capacity.disk, or free some space (what leases hold now is not counted as free).",
        )];
    }
    Vec::new()
}

fn clock_findings(facts: &Facts) -> Vec<Finding> {
    const FIX: &str = "Run a time service (systemd-timesyncd, chrony).";
    if facts.now < NOT_BEFORE {
        return vec![error(
            "clock",
            format!("The clock says {}.", facts.now),
            FIX,
        )];
    }
    let apart = |told: u64| facts.now.as_secs().abs_diff(told);
    let mut told: Vec<u64> = facts
        .mints
        .iter()
        .filter_map(|(_, answer)| answer.as_ref().ok()?.time)
        .map(apart)
        .collect();
    told.sort_unstable();
    // The middle one: a single mint with a wrong clock is not us.
    let Some(skew) = told.get(told.len() / 2).copied() else {
        return Vec::new();
    };
    if skew >= ONLINE_SECS {
        let message =
            format!("The clock is {skew} s apart from the mints': clients call us offline.");
        return vec![error("clock", message, FIX)];
    }
    if skew > SKEW_SECS {
        let message = format!("The clock is {skew} s apart from the mints'.");
        return vec![warning("clock", message, FIX)];
    }
    Vec::new()
}

fn file_findings(settings: &Settings, open_files: Option<u64>) -> Vec<Finding> {
    let (own, connection, lease) = FILES;
    let connections = settings.gateway.limits.max_connections as u64;
    let needed = own + connection * connections + lease * u64::from(settings.capacity.max_leases);
    match open_files {
        Some(limit) if limit < needed => vec![warning(
            "files",
            format!("{limit} files may be open at once, and {needed} may be needed."),
            "Raise it (systemd: LimitNOFILE=; shell: ulimit -n), or lower gateway.limits.max_connections.",
        )],
        _ => Vec::new(),
    }
}

fn gateway_findings(settings: &Settings, facts: &Facts) -> Vec<Finding> {
    let gateway = &settings.gateway;
    let mut found = Vec::new();
    match (&facts.listen, facts.running) {
        (_, Some(pid)) => found.push(note("gateway", format!("satletd runs (process {pid})."))),
        (Err(why), None) => found.push(error(
            "gateway",
            format!("{} cannot be listened on: {why}.", gateway.listen),
            "Take another port in gateway.listen, or end what uses it.",
        )),
        (Ok(()), None) => {}
    }
    let host = &gateway.public_host;
    if let Some(why) = unreachable(host) {
        found.push(warning(
            "gateway",
            format!("{host} is {why}: consumers elsewhere cannot get in."),
            "Name in gateway.public_host what they reach this machine by.",
        ));
    }
    if gateway.listen.ip().is_loopback() && unreachable(host).is_none() {
        found.push(warning(
            "gateway",
            format!("The gateway listens on {} only.", gateway.listen.ip()),
            "Listen on 0.0.0.0 or [::], unless something forwards to it.",
        ));
    }
    found
}

/// Why an address or name leads nowhere from elsewhere, as far as it can be
/// told from its text.
fn unreachable(host: &str) -> Option<&'static str> {
    if host == "localhost" || host.ends_with(".localhost") {
        return Some("this machine itself");
    }
    match host.parse().ok()? {
        std::net::IpAddr::V4(ip) if ip.is_loopback() || ip.is_unspecified() => {
            Some("this machine itself")
        }
        std::net::IpAddr::V4(ip) if ip.is_private() || ip.is_link_local() => {
            Some("an address of a private network")
        }
        std::net::IpAddr::V6(ip) if ip.is_loopback() || ip.is_unspecified() => {
            Some("this machine itself")
        }
        std::net::IpAddr::V6(ip) if ip.is_unique_local() || ip.is_unicast_link_local() => {
            Some("an address of a private network")
        }
        _ => None,
    }
}

fn relay_findings(facts: &Facts) -> Vec<Finding> {
    let down: Vec<_> = facts
        .relays
        .iter()
        .filter(|(_, reached)| reached.is_err())
        .collect();
    let mut found: Vec<Finding> = down
        .iter()
        .map(|(url, reached)| {
            let why = reached.as_ref().err().map_or("", String::as_str);
            let message = format!("The relay {url} cannot be reached: {why}.");
            warning(
                "relay",
                message,
                "Look at its address, or take another one.",
            )
        })
        .collect();
    if !facts.relays.is_empty() && down.len() == facts.relays.len() {
        found.push(error(
            "relay",
            "No relay can be reached: nobody would find this provider.",
            "Look at this machine's network, or take other relays.",
        ));
    }
    found
}

fn mint_findings(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut good = 0;
    for (url, answer) in &facts.mints {
        match answer {
            Ok(answer) => {
                let problems = mint_problems(url, answer);
                good += usize::from(problems.is_empty());
                found.push(note("mint", told(url, answer)));
                found.extend(problems);
            }
            Err(why) => found.push(warning(
                "mint",
                format!("The mint {url} cannot be asked: {why}."),
                "Look at its address, or take another one.",
            )),
        }
    }
    if !facts.mints.is_empty() && good == 0 {
        found.push(error(
            "mint",
            "No mint can be used: nobody could pay.",
            "Take another mint.",
        ));
    }
    found
}

fn told(url: &str, answer: &MintAnswer) -> String {
    let nuts: Vec<String> = answer.nuts.iter().map(u32::to_string).collect();
    let fee = match answer.input_fee_ppk {
        Some(ppk) => format!("fee {ppk} ppk"),
        None => "fee not told".to_owned(),
    };
    format!(
        "{url}: units {}; {fee}; NUTs {}.",
        answer.units.join(", "),
        nuts.join(", ")
    )
}

/// What satlet needs of a mint and does not find.
fn mint_problems(url: &str, answer: &MintAnswer) -> Vec<Finding> {
    let mut found = Vec::new();
    if !answer
        .units
        .iter()
        .any(|unit| unit == "sat" || unit == "msat")
    {
        let message = format!("{url} has neither sat nor msat.");
        found.push(warning(
            "mint",
            message,
            "Take a mint with one of these units.",
        ));
    }
    for (nut, why) in [
        (7, "a token cannot be looked at before it is taken"),
        (9, "a lost wallet cannot be restored from its words"),
        (10, "tokens cannot be locked to you"),
        (11, "tokens cannot be locked to you"),
        (12, "it need not prove that its signatures are good"),
        (14, "tokens cannot be locked to a secret"),
    ] {
        if !answer.nuts.contains(&nut) {
            let message = format!("{url} does not support NUT-{nut:02}: {why}.");
            let fix = "Take a mint that does; the daemon takes nothing at this one.";
            found.push(warning("mint", message, fix));
        }
    }
    found
}
