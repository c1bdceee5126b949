//! What both binaries print: JSON or text on standard output, progress and
//! errors on standard error, strangers' text escaped.

use std::fmt::Write as _;
use std::io::Write as _;

pub use crate::core::text::{escape, escape_lines};
use serde::Serialize;
use serde_json::{Value, json};

use crate::core::money::Msat;

/// What a command has to say when it is done.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// The document for `--json`.
    pub json: Value,
    /// The same for people; strangers' text in it is escaped already.
    pub text: String,
    /// The exit code.
    pub code: u8,
}

impl Done {
    /// A success.
    pub fn new(json: Value, text: impl Into<String>) -> Self {
        Self {
            json,
            text: text.into(),
            code: 0,
        }
    }

    /// A success whose JSON is the value itself.
    ///
    /// # Errors
    /// The value has no JSON form.
    pub fn of<T: Serialize>(value: &T, text: impl Into<String>) -> serde_json::Result<Self> {
        Ok(Self::new(serde_json::to_value(value)?, text))
    }
}

/// A failure, as it is shown.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The `error` object for `--json`: at least `code`, `message`,
    /// `suggestion`, `money`.
    pub error: Value,
    /// The exit code.
    pub code: u8,
}

impl Failure {
    /// A failure without money in it.
    pub fn new(code: u8, name: &str, message: &str, suggestion: &str) -> Self {
        Self {
            error: json!({
                "code": name,
                "message": message,
                "suggestion": suggestion,
                "money": "untouched",
            }),
            code,
        }
    }

    /// The failure for people.
    pub fn text(&self) -> String {
        let field = |name: &str| {
            self.error
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let mut text = format!(
            "error: {} ({})",
            escape(field("message")),
            escape(field("code"))
        );
        if !field("suggestion").is_empty() {
            let _ = write!(text, "\n  {}", escape(field("suggestion")));
        }
        match field("money") {
            "pending" if field("code") == "payment_due" => {
                text.push_str("\n  money: pay the invoice once, if it is not paid yet")
            }
            "pending" => {
                text.push_str("\n  money: pending; the token is kept, do not use it elsewhere")
            }
            "taken" => text.push_str("\n  money: taken by the provider"),
            _ => {}
        }
        if let Some(back) = self.error.get("refunded_msat").and_then(Value::as_u64) {
            let _ = write!(text, "\n  {} came back to the wallet", Msat::new(back));
        }
        text
    }
}

/// Writes the end of a command and gives its exit code. With `json` there is
/// one document on standard output, whatever happened.
pub fn finish(json: bool, result: Result<Done, Failure>) -> u8 {
    match result {
        Ok(done) if json => {
            if !done.json.is_null() {
                out(&pretty(&done.json));
            }
            done.code
        }
        Ok(done) => {
            if !done.text.is_empty() {
                out(done.text.trim_end_matches('\n'));
            }
            done.code
        }
        Err(failure) => {
            let token = failure.error.get("token").and_then(Value::as_str);
            if json {
                out(&pretty(&json!({ "error": failure.error })));
            } else if let Some(token) = token {
                // Money: it goes to standard output, so that it can be piped on.
                note(&failure.text());
                note("  your token, not used:");
                out(token);
                return failure.code;
            }
            note(&failure.text());
            failure.code
        }
    }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|_| "null".to_owned())
}

/// A line on standard output; a closed pipe is the reader's choice.
pub fn out(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// A line on standard error.
pub fn note(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// `45s`, `2h 5m`, `3d 4h`: the two largest parts.
pub fn duration(seconds: u64) -> String {
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3_600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];
    let shown: Vec<String> = parts
        .iter()
        .skip_while(|(n, _)| *n == 0)
        .take(2)
        .filter(|(n, _)| *n > 0)
        .map(|(n, unit)| format!("{n}{unit}"))
        .collect();
    if shown.is_empty() {
        "0s".to_owned()
    } else {
        shown.join(" ")
    }
}

/// Reads `90`, `90s`, `15m`, `2h`, `1h30m`, `7d`: whole seconds.
///
/// # Errors
/// A sentence for people.
pub fn parse_duration(text: &str) -> Result<u64, String> {
    let bad = || format!("'{text}' is not a duration such as 90s, 15m, 2h, 1h30m or 7d");
    let mut total: u64 = 0;
    let mut number: Option<u64> = None;
    for c in text.trim().chars().filter(|c| *c != ' ') {
        if let Some(digit) = c.to_digit(10) {
            let so_far = number
                .unwrap_or(0)
                .checked_mul(10)
                .and_then(|n| n.checked_add(digit.into()));
            number = Some(so_far.ok_or_else(bad)?);
            continue;
        }
        let unit: u64 = match c {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return Err(bad()),
        };
        let part = number
            .take()
            .and_then(|n| n.checked_mul(unit))
            .ok_or_else(bad)?;
        total = total.checked_add(part).ok_or_else(bad)?;
    }
    let total = total.checked_add(number.unwrap_or(0)).ok_or_else(bad)?;
    if total == 0 { Err(bad()) } else { Ok(total) }
}

/// A table with aligned columns; cells are escaped here.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| escape(cell)).collect())
        .collect();
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let all = || std::iter::once(&head).chain(&rows);
    let widths: Vec<usize> = (0..head.len())
        .map(|column| {
            let cells = all().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in all() {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
