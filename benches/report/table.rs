//! The table in docs/PERFORMANCE.md.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

const BEGIN: &str = "<!-- measured: begin -->";
const END: &str = "<!-- measured: end -->";

/// One line: what, the ratio, the target, and what it is made of.
struct Line {
    what: String,
    ratio: String,
    target: &'static str,
    made_of: String,
}

fn lines(figures: &Value) -> Vec<Line> {
    let mut lines = Vec::new();
    let number = |value: &Value| value.to_string();
    for (name, key) in [
        ("status on one core", "quiet"),
        ("the same, five spawns hanging", "five_hanging_spawns"),
    ] {
        let at = &figures["status"][key];
        if at.is_object() {
            lines.push(Line {
                what: format!("{name}: throughput against its cryptography"),
                ratio: number(&at["ratio"]),
                target: "at least 0.5",
                made_of: format!("{}/s, bare {}/s", at["per_second"], at["crypto_per_second"]),
            });
            lines.push(Line {
                what: format!("{name}: p99 at half load"),
                ratio: String::new(),
                target: "under 50 ms",
                made_of: format!(
                    "{} ms (median {} ms) at {}/s",
                    at["p99_ms"], at["p50_ms"], at["load_per_second"]
                ),
            });
        }
    }
    let against = |at: &Value| match at["skipped"].as_str() {
        Some(why) => format!("not measured: {why}"),
        None => format!("{} ms, raw {} ms", at["satlet_ms"], at["raw_ms"]),
    };
    for at in figures["spawns"].as_array().into_iter().flatten() {
        let (backend, how) = match at["backend"].as_str().unwrap_or_default() {
            "docker" => ("docker", " by the engine alone, on one network"),
            "docker-networks" => (
                "docker",
                " by the engine alone, each on a network of its own",
            ),
            other => (other, ""),
        };
        lines.push(Line {
            what: format!("20 spawns at once on {backend} against 20 swaps and creates{how}"),
            ratio: at.get("ratio").map(number).unwrap_or_default(),
            target: if backend == "docker" {
                "at most 1.3"
            } else {
                ""
            },
            made_of: against(at),
        });
    }
    let shell = &figures["shell"];
    if shell.is_object() {
        lines.push(Line {
            what: "sandbox: request to shell against a raw create and start".to_owned(),
            ratio: shell.get("ratio").map(number).unwrap_or_default(),
            target: "at most 3",
            made_of: against(shell),
        });
    }
    let adoption = &figures["adoption"];
    if adoption.is_object() {
        lines.push(Line {
            what: format!(
                "restart with {} leases to the first answer, against reading the file",
                adoption["leases"]
            ),
            ratio: number(&adoption["ratio"]),
            target: "at most 1 s",
            made_of: format!(
                "{} ms, all looked at after {} ms; file {} ms",
                adoption["serving_ms"], adoption["all_looked_at_ms"], adoption["raw_read_ms"]
            ),
        });
    }
    let memory = &figures["memory"];
    if memory.is_object() {
        lines.push(Line {
            what: "memory of a lease against its rows in the ledger".to_owned(),
            ratio: number(&memory["ratio"]),
            target: "",
            made_of: format!(
                "{} bytes, rows {} bytes; {} MiB idle, {} MiB with {} leases",
                memory["per_lease_bytes"],
                memory["rows_of_a_lease_bytes"],
                memory["idle_rss_mib"],
                memory["rss_with_leases_mib"],
                memory["leases"]
            ),
        });
    }
    for name in ["satletd", "satlet"] {
        let at = &figures["binaries"][name];
        if let Some(bytes) = at["bytes"].as_f64() {
            let mib = |bytes: f64| format!("{:.1} MiB", bytes / (1 << 20) as f64);
            let stripped = at["stripped_bytes"].as_f64();
            lines.push(Line {
                what: format!("size of {name}, stripped against built"),
                ratio: stripped
                    .map(|small| format!("{:.2}", small / bytes))
                    .unwrap_or_default(),
                target: "",
                made_of: format!(
                    "{}, built {}",
                    stripped.map_or("not stripped".to_owned(), mib),
                    mib(bytes)
                ),
            });
        }
    }
    lines
}

/// The table, in Markdown.
pub(crate) fn render(figures: &Value) -> String {
    let mut out =
        "| what | ratio | target | of which, on one machine |\n|---|---|---|---|\n".to_owned();
    for line in lines(figures) {
        let Line {
            what,
            ratio,
            target,
            made_of,
        } = line;
        // A String takes all that is written to it.
        let _ = writeln!(out, "| {what} | {ratio} | {target} | {made_of} |");
    }
    out
}

/// Puts the table into the document.
pub(crate) fn write(figures: &Value) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/PERFORMANCE.md");
    let text = std::fs::read_to_string(&path)?;
    let (before, rest) = text.split_once(BEGIN).context("where it begins")?;
    let (_, after) = rest.split_once(END).context("where it ends")?;
    let table = render(figures);
    Ok(std::fs::write(
        &path,
        format!("{before}{BEGIN}\n{table}{END}{after}"),
    )?)
}
