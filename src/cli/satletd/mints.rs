//! `satletd mints`.

use super::ask::show;
use super::output::{Output, clean, table};
use super::{ConfigArg, Exit};
use crate::core::mint::Standing;
use crate::provider::control::{Ask, MintView};

pub(super) fn mints(output: &mut Output<'_>, arg: &ConfigArg, json: bool) -> anyhow::Result<Exit> {
    show(output, arg, Ask::Mints, json, |mints: &Vec<MintView>| {
        render(mints)
    })
}

pub(super) fn render(mints: &[MintView]) -> Vec<String> {
    let mut lines = Vec::new();
    for mint in mints {
        lines.push(clean(&mint.mint));
        lines.extend(table(&rows(mint)));
        lines.push(String::new());
    }
    lines.pop();
    lines
}

fn rows(mint: &MintView) -> Vec<Vec<String>> {
    let row =
        |name: &str, value: String, what: &str| vec![format!("  {name}"), value, what.to_owned()];
    let unknown = || "not known yet".to_owned();
    let latency = mint
        .latency_ms
        .map_or_else(unknown, |ms| format!("{ms} ms"));
    let fee = mint
        .input_fee_ppk
        .map_or_else(unknown, |ppk| ppk.to_string());
    let nuts: Vec<String> = mint.nuts.iter().map(u16::to_string).collect();
    let exposure = match mint.max_exposure_msat {
        Some(most) => format!("{} of {most}", mint.exposure_msat),
        None => mint.exposure_msat.to_string(),
    };
    let probed = mint.probed_at.map_or_else(unknown, |at| at.to_string());
    let failing = format!("{} %", mint.failing_per_thousand / 10);
    let mut rows = vec![
        row("state", state(mint.state).to_owned(), &clean(&mint.why)),
        row("since", mint.since.to_string(), ""),
        row(
            "answers in",
            latency,
            "on average over the last few requests",
        ),
        row("failing", failing, "of the last few requests"),
        row(
            "fee",
            fee,
            &format!(
                "thousandths of a sat for each proof; at most {}",
                mint.max_input_fee_ppk
            ),
        ),
        row("NUTs", nuts.join(", "), "of those that satlet knows"),
        row("exposure", exposure, "what lies there"),
        row("probed", probed, "when it last told what it offers"),
    ];
    if let Some(at) = mint.keyset_expires_at {
        rows.push(row("expires", at.to_string(), "its first keyset"));
    }
    rows
}

fn state(standing: Standing) -> &'static str {
    match standing {
        Standing::Ok => "ok",
        Standing::Degraded => "degraded",
        Standing::Paused => "paused",
        Standing::Probing => "probing",
        Standing::Refused => "refused",
    }
}
