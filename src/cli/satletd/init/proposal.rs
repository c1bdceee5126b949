//! The configuration that fits this host.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Answers, InitArgs};
use crate::compute::{Capabilities, Inventory};
use crate::config::units::show_mib;
use crate::core::capacity::Resources;
use crate::doctor::facts::free_mib;

/// What the host has, and whether disk limits hold.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli::satletd) struct Host {
    pub(in crate::cli::satletd) total: Resources,
    pub(in crate::cli::satletd) disk_holds: bool,
    pub(in crate::cli::satletd) network: bool,
}

impl Host {
    pub(super) fn seen(
        capabilities: &Capabilities,
        inventory: &Inventory,
        data_dir: &Path,
    ) -> Self {
        // What is full already cannot be sold.
        let mut total = inventory.total;
        total.disk_mib = total.disk_mib.min(free_disk(data_dir));
        Self {
            total,
            disk_holds: capabilities.enforces.disk,
            network: capabilities.outgoing_network,
        }
    }

    /// What the system says of itself, where no backend can be asked.
    pub(super) fn from_system(data_dir: &Path) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let memory_kib = std::fs::read_to_string("/proc/meminfo")
            .ok()
            .and_then(|text| {
                let line = text
                    .lines()
                    .find_map(|line| line.strip_prefix("MemTotal:"))?;
                line.split_whitespace().next()?.parse::<u64>().ok()
            });
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Self {
            total: Resources {
                cpu_millicores: small(cores as u64 * 1000),
                memory_mib: small(memory_kib.unwrap_or(1024 * 1024) / 1024),
                disk_mib: free_disk(data_dir),
                pids: 0,
            },
            disk_holds: false,
            network: true,
        }
    }
}

fn free_disk(data_dir: &Path) -> u32 {
    let free = free_mib(data_dir).unwrap_or(0);
    u32::try_from(free).unwrap_or(u32::MAX)
}

/// The file, in the order in which people read it.
#[derive(Serialize)]
pub(super) struct File {
    hostname: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    data_dir: PathBuf,
    identity: Identity,
    wallet: Wallet,
    relays: Vec<String>,
    mints: Vec<Mint>,
    tiers: Vec<Tier>,
    images: Images,
    capacity: Capacity,
    gateway: Gateway,
    backend: Backend,
}

#[derive(Serialize)]
struct Identity {
    nsec_file: &'static str,
}

#[derive(Serialize)]
struct Wallet {
    mnemonic_file: &'static str,
}

#[derive(Serialize)]
struct Mint {
    url: String,
}

#[derive(Serialize)]
struct Tier {
    id: &'static str,
    name: &'static str,
    description: String,
    cpu_millicores: u32,
    memory: String,
    disk: String,
    pids: u32,
    sat_per_hour: u64,
    min: &'static str,
    max: &'static str,
}

#[derive(Serialize)]
struct Images {
    default: &'static str,
    allow: Vec<&'static str>,
}

#[derive(Serialize)]
struct Capacity {
    cpu_millicores: u32,
    memory: String,
    disk: String,
    max_leases: u32,
}

#[derive(Serialize)]
struct Gateway {
    listen: String,
    public_host: String,
}

#[derive(Serialize)]
struct Backend {
    kind: &'static str,
    network: bool,
}

impl File {
    /// Name of the file with the identity, beside the configuration.
    pub(super) const NSEC: &'static str = "nsec";
    /// Name of the file with the wallet's words, beside the configuration.
    pub(super) const MNEMONIC: &'static str = "mnemonic";
}

/// Sizes that are proposed: id, name, millicores, MiB of memory, MiB of disk,
/// and the price as a multiple of the smallest's.
const SIZES: [(&str, &str, u32, u32, u32, u64); 4] = [
    ("tiny", "Tiny", 250, 256, 1024, 1),
    ("small", "Small", 500, 512, 2048, 2),
    ("medium", "Medium", 1000, 2048, 8192, 6),
    ("large", "Large", 2000, 4096, 20_480, 12),
];

/// What may be sold of `total`: memory and disk keep a fifth for the host.
fn sellable(host: &Host) -> Resources {
    let four_fifths = |n: u32| n / 5 * 4;
    Resources {
        cpu_millicores: host.total.cpu_millicores.max(250),
        memory_mib: four_fifths(host.total.memory_mib).max(64),
        disk_mib: if host.disk_holds {
            four_fifths(host.total.disk_mib)
        } else {
            0
        },
        pids: 0,
    }
}

/// The tiers that fit; the smallest one is cut to what there is.
fn tiers(sells: Resources, sat_per_hour: u64) -> Vec<Tier> {
    SIZES
        .iter()
        .enumerate()
        .filter(|(at, (_, _, cpu, memory, disk, _))| {
            let room = *cpu <= sells.cpu_millicores
                && *memory <= sells.memory_mib
                && (sells.disk_mib == 0 || *disk <= sells.disk_mib);
            *at == 0 || room
        })
        .map(|(_, &(id, name, cpu, memory, disk, times))| {
            let cpu = cpu.min(sells.cpu_millicores);
            let memory = show_mib(memory.min(sells.memory_mib).into());
            Tier {
                id,
                name,
                description: format!("{cpu} millicores, {memory}"),
                cpu_millicores: cpu,
                memory,
                disk: show_mib(disk.min(sells.disk_mib).into()),
                pids: 256,
                // The flag is the price of `small`.
                sat_per_hour: (sat_per_hour.saturating_mul(times) / 2).max(1),
                min: "60s",
                max: "30d",
            }
        })
        .collect()
}

/// The configuration that these answers make on this host.
pub(super) fn propose(args: &InitArgs, answers: &Answers, host: &Host) -> File {
    let sells = sellable(host);
    let data_dir = std::path::absolute(&args.data_dir).unwrap_or_else(|_| args.data_dir.clone());
    File {
        hostname: answers.hostname.clone(),
        location: answers.location.clone(),
        data_dir,
        identity: Identity {
            nsec_file: File::NSEC,
        },
        wallet: Wallet {
            mnemonic_file: File::MNEMONIC,
        },
        relays: answers.relays.clone(),
        mints: answers
            .mints
            .iter()
            .map(|url| Mint { url: url.clone() })
            .collect(),
        tiers: tiers(sells, args.sat_per_hour),
        images: Images {
            default: "host",
            allow: vec!["host"],
        },
        capacity: Capacity {
            cpu_millicores: sells.cpu_millicores,
            memory: show_mib(sells.memory_mib.into()),
            disk: show_mib(sells.disk_mib.into()),
            max_leases: (sells.cpu_millicores / 250).clamp(1, 256),
        },
        gateway: Gateway {
            listen: args.listen.to_string(),
            public_host: answers.public_host.clone(),
        },
        backend: Backend {
            kind: "sandbox",
            network: host.network,
        },
    }
}
