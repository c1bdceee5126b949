//! `satletd check`.

use serde::Serialize;

use super::output::Output;
use super::{ConfigArg, Exit, runtime, tell_problems};
use crate::config::{self, Config, ConfigProblem};
use crate::core::time::Timestamp;
use crate::doctor::{self, Finding, Level};
use crate::provider::backend;

/// The JSON form.
#[derive(Serialize)]
struct Report {
    /// Whether the exit code is 0.
    ok: bool,
    config: Vec<ConfigProblem>,
    findings: Vec<Finding>,
}

pub(super) fn check(
    output: &mut Output<'_>,
    arg: &ConfigArg,
    json: bool,
    network: bool,
    strict: bool,
) -> anyhow::Result<Exit> {
    let config = match config::load(&arg.config) {
        Ok(config) => config,
        Err(problems) => {
            if json {
                output.json(&Report {
                    ok: false,
                    config: problems,
                    findings: Vec::new(),
                })?;
            } else {
                tell_problems(output, arg, &problems);
            }
            return Ok(Exit::Config);
        }
    };
    let findings = runtime()?.block_on(look(&config, network));
    let worst = findings.iter().map(|finding| finding.level).max();
    let exit = exit_for(worst, strict);
    if json {
        output.json(&Report {
            ok: exit == Exit::Done,
            config: Vec::new(),
            findings,
        })?;
    } else {
        for line in render(&findings) {
            output.line(&line)?;
        }
    }
    Ok(exit)
}

async fn look(config: &Config, network: bool) -> Vec<Finding> {
    let settings = &config.settings;
    let looked = backend::look(&settings.backend, &settings.data_dir).await;
    let backend = looked.as_ref().map(|looked| looked.backend.clone());
    let facts = doctor::gather(settings, backend.map_err(Clone::clone), now(), network).await;
    doctor::findings(settings, &facts)
}

pub(super) fn exit_for(worst: Option<Level>, strict: bool) -> Exit {
    match worst {
        Some(Level::Error) => Exit::Unfit,
        Some(Level::Warning) if strict => Exit::Unfit,
        _ => Exit::Done,
    }
}

/// The wall clock; before 1970 it is 1970.
pub(super) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp::from_secs(since.map_or(0, |since| since.as_secs()))
}

/// Worst first; each with its fix below it, and the sum at the end.
pub(super) fn render(findings: &[Finding]) -> Vec<String> {
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    let mut lines = Vec::new();
    for finding in sorted {
        let level = match finding.level {
            Level::Error => "error  ",
            Level::Warning => "warning",
            Level::Note => "note   ",
        };
        lines.push(format!("{level}  {}: {}", finding.about, finding.message));
        if !finding.fix.is_empty() {
            lines.push(format!("         {}", finding.fix));
        }
    }
    let count = |level| findings.iter().filter(|f| f.level == level).count();
    let (errors, warnings) = (count(Level::Error), count(Level::Warning));
    lines.push(match (errors, warnings) {
        (0, 0) => "All is well.".to_owned(),
        (0, n) => format!("It will run; {n} warnings."),
        (n, m) => format!("It will not run; {n} errors, {m} warnings."),
    });
    lines
}
