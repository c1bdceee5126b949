//! This process and this machine.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Keeps this process on one core, where there are several.
pub(crate) fn pin(core: usize) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut set = CpuSet::new();
    if set.set(core % cores).is_ok() && cores > 1 {
        // Not allowed in some containers: then the system chooses.
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

/// Memory that this process holds, in KiB (proc_pid_status(5), VmRSS).
pub(crate) fn rss_kib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("no VmRSS")?.parse()?)
}

/// Milliseconds, with their fraction.
pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Rounded to three digits that count.
pub(crate) fn round(number: f64) -> f64 {
    if number == 0.0 || !number.is_finite() {
        return number;
    }
    let digits = 10f64.powf(2.0 - number.abs().log10().floor());
    (number * digits).round() / digits
}

/// The middle one.
pub(crate) fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The value below which this share of all lies.
pub(crate) fn quantile(all: &mut [f64], share: f64) -> f64 {
    all.sort_by(f64::total_cmp);
    let at = (all.len() as f64 * share) as usize;
    all.get(at.min(all.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}

/// Sizes of the programs in bytes, as they were built and stripped.
pub(crate) fn binaries() -> Result<Value> {
    let one = |path: &str| -> Result<Value> {
        let built = std::fs::metadata(path)?.len();
        let dir = tempfile::tempdir()?;
        let small = dir.path().join("stripped");
        let mut strip = Command::new("strip");
        let done = strip.arg("-o").arg(&small).arg(path).status();
        let stripped = matches!(done, Ok(status) if status.success())
            .then(|| std::fs::metadata(Path::new(&small)).map(|file| file.len()))
            .transpose()?;
        Ok(json!({ "bytes": built, "stripped_bytes": stripped }))
    };
    Ok(json!({
        "satletd": one(env!("CARGO_BIN_EXE_satletd"))?,
        "satlet": one(env!("CARGO_BIN_EXE_satlet"))?,
    }))
}
