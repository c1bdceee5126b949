//! `wallet history`: what became of every token, and of invoices.

use serde_json::json;

use super::Outcome;
use super::market::to_json;
use crate::cli::output::{Done, table};
use crate::consumer::Client;
use crate::consumer::history::{Entry, Way};

pub(super) fn run(client: &Client) -> Outcome {
    let all = client.history()?;
    let text = if all.is_empty() {
        "no money went out or came in".to_owned()
    } else {
        let rows: Vec<Vec<String>> = all.iter().map(row).collect();
        table(
            &[
                "WHEN", "WHAT", "AMOUNT", "FEE", "STATE", "LEASE", "REQUEST", "NOTE",
            ],
            &rows,
        )
    };
    Ok(Done::new(json!({ "tokens": to_json(&all)? }), text))
}

/// What is not known is a dash.
fn row(entry: &Entry) -> Vec<String> {
    fn known<T: ToString>(value: Option<&T>) -> String {
        value.map_or_else(|| "-".to_owned(), T::to_string)
    }
    let sign = match entry.way {
        Way::Out => "-",
        Way::In => "+",
    };
    let what = match entry.lightning {
        true => format!("{} (Lightning)", entry.purpose),
        false => entry.purpose.clone(),
    };
    let state = serde_json::to_value(entry.state).ok();
    let state = state.as_ref().and_then(|state| state.as_str());
    vec![
        known(entry.at.as_ref()),
        what,
        format!("{sign}{}", entry.amount_msat),
        known(entry.fee_msat.as_ref()),
        state.unwrap_or("-").to_owned(),
        known(entry.lease.as_ref()),
        known(entry.request_id.as_ref()),
        entry.note.clone(),
    ]
}
