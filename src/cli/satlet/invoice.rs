//! An invoice on the terminal: as text, and as a QR code that a phone can read.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::sync::Arc;

use fast_qr::{ECL, QRBuilder};
use serde_json::json;

use crate::cli::output::{escape, note};
use crate::consumer::client::ShowInvoice;
use crate::core::ids::RequestId;
use crate::protocol::reply::Invoice;

/// Light modules around a QR code, so that readers find it (ISO/IEC 18004).
const QUIET: usize = 4;

/// Shows invoices on standard error, so that standard output has what was bought.
/// With `json` each is one line with an object.
pub(super) fn show(json: bool) -> ShowInvoice {
    Arc::new(move |request: &RequestId, invoice: &Invoice| {
        if json {
            note(&event(request, invoice));
        } else {
            note(&text(request, invoice, std::io::stderr().is_terminal()));
        }
    })
}

fn event(request: &RequestId, invoice: &Invoice) -> String {
    json!({
        "event": "invoice",
        "request_id": request,
        "bolt11": invoice.bolt11,
        "amount_msat": invoice.amount_msat,
        "pay_by": invoice.pay_by,
        "mint": invoice.mint,
    })
    .to_string()
}

fn text(request: &RequestId, invoice: &Invoice, terminal: bool) -> String {
    let mut text = String::new();
    // What is no invoice would not have come so far; its letters are plain.
    if let Some(code) = terminal.then(|| qr(&invoice.bolt11)).flatten() {
        text.push_str(&code);
    }
    let _ = write!(
        text,
        "{}\n\npay {} by {}; waiting. Ctrl-C does no harm: satlet status {request} goes on.",
        escape(&invoice.bolt11),
        invoice.amount_msat,
        invoice.pay_by,
    );
    text
}

/// A QR code of two rows of modules a line, black on white whatever the terminal's
/// colours are. `None`: the text is too long for one.
fn qr(bolt11: &str) -> Option<String> {
    // Capitals need less space, and a BOLT 11 invoice may be written in them.
    let content = format!("LIGHTNING:{}", bolt11.to_uppercase());
    let code = QRBuilder::new(content).ecl(ECL::L).build().ok()?;
    let side = code.size + 2 * QUIET;
    let dark = |row: usize, column: usize| {
        let at = |n: usize| n.checked_sub(QUIET).filter(|n| *n < code.size);
        match (at(row), at(column)) {
            (Some(row), Some(column)) => {
                let module = code.data.get(row * code.size + column);
                module.is_some_and(|module| module.value())
            }
            _ => false,
        }
    };
    let mut text = String::new();
    for row in (0..side).step_by(2) {
        text.push_str("\x1b[38;5;16;48;5;231m");
        for column in 0..side {
            text.push(match (dark(row, column), dark(row + 1, column)) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            });
        }
        text.push_str("\x1b[0m\n");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::money::Msat;
    use crate::core::time::Timestamp;

    const BOLT11: &str = "lnbc20m1pvjluezpp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqhp58yjmdan79s6qqdhdzgynm4zwqd5d7xmw5fk98klysy043l2ahrqsfpp3qjmp7lwpagxun9pygexvgpjdc4jdj85fr9yq20q82gphp2nflc7jtzrcazrra7wwgzxqc8u7754cdlpfrmccae92qgzqvzq2ps8pqqqqqqpqqqqq9qqqvpeuqafqxu92d8lr6fvg0r5gv0heeeqgcrqlnm6jhphu9y00rrhy4grqszsvpcgpy9qqqqqqgqqqqq7qqzqj9n4evl6mr5aj9f58zp6fyjzup6ywn3x6sk8akg5v4tgn2q8g4fhx05wf6juaxu9760yp46454gpg5mtzgerlzezqcqvjnhjh8z3g2qqdhhwkj";

    fn invoice() -> Invoice {
        Invoice {
            bolt11: BOLT11.to_owned(),
            amount_msat: Msat::new(2_000_000_000),
            pay_by: Timestamp::from_secs(1_790_000_000),
            mint: "https://mint.example".to_owned(),
            unit: "sat".to_owned(),
        }
    }

    #[test]
    fn the_code_has_finders_in_three_corners_and_a_light_rim() {
        let code = qr(BOLT11).unwrap();
        let lines: Vec<Vec<char>> = code
            .lines()
            .map(|line| {
                let inner = line.strip_prefix("\x1b[38;5;16;48;5;231m").unwrap();
                inner.strip_suffix("\x1b[0m").unwrap().chars().collect()
            })
            .collect();
        let side = lines[0].len();
        assert!(lines.iter().all(|line| line.len() == side));
        let dark = |row: usize, column: usize| match lines[row / 2][column] {
            '█' => true,
            '▀' => row.is_multiple_of(2),
            '▄' => !row.is_multiple_of(2),
            _ => false,
        };
        let size = side - 2 * QUIET;
        assert_eq!(size % 4, 1, "no QR code has {size} modules a side");
        // A finder: a dark ring of seven, a light one, a dark square of three.
        let finder = |top: usize, left: usize| {
            (0..7).all(|row| {
                (0..7).all(|column: usize| {
                    let ring = row.min(6 - row).min(column.min(6 - column));
                    dark(QUIET + top + row, QUIET + left + column) == (ring != 1)
                })
            })
        };
        assert!(finder(0, 0) && finder(0, size - 7) && finder(size - 7, 0));
        assert!(!finder(size - 7, size - 7));
        assert!((0..side).all(|n| !dark(0, n) && !dark(n, 0) && !dark(n, side - 1)));
        assert!(qr(&"a".repeat(8000)).is_none());
    }

    #[test]
    fn without_a_terminal_there_is_the_invoice_and_how_to_go_on() {
        let id = RequestId::new(uuid::Uuid::nil());
        let plain = text(&id, &invoice(), false);
        assert!(plain.starts_with(BOLT11) && !plain.contains('█'));
        assert!(plain.contains(&format!("satlet status {id}")));
        let event: serde_json::Value = serde_json::from_str(&event(&id, &invoice())).unwrap();
        assert_eq!(event["bolt11"], BOLT11);
        assert_eq!(event["amount_msat"], 2_000_000_000_u64);
    }
}
