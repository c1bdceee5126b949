//! Receipts: `receipt LEASE` and `receipt verify FILE`.

use std::fmt::Write as _;
use std::io::Read as _;

use serde_json::{Value, json};

use super::args::{ReceiptArgs, ReceiptCommand};
use super::market::{per_hour, to_json};
use super::{App, Outcome};
use crate::cli::output::{Done, duration, escape};
use crate::consumer::home::npub;
use crate::consumer::receipts::{Kept, false_receipt};
use crate::consumer::{Client, ClientError, Kind};
use crate::core::money::Msat;
use crate::core::receipt::{Ground, Receipt, RefundStage};
use crate::core::time::Timestamp;
use crate::protocol::receipt::SignedReceipt;
use crate::relay::receipt::open_text;

/// Longest file that is read, in bytes: an event of the longest content, escaped.
const MAX_FILE: u64 = 128 * 1024;

pub(super) async fn run(app: &App, args: ReceiptArgs) -> Outcome {
    match (args.command, args.lease) {
        (Some(ReceiptCommand::Verify { file, by }), _) => verify(&file, by.as_deref()),
        (None, Some(lease)) => show(app, &lease).await,
        (None, None) => Err(ClientError::usage("usage", "no lease is named", "")),
    }
}

/// The receipt of a lease: the provider's as of now, or the newest one here
/// where the provider does not answer.
async fn show(app: &App, query: &str) -> Outcome {
    let client = app.client()?;
    let lease = match client.find_lease(query) {
        Ok(lease) => lease,
        // One that never came up is known by its receipt alone.
        Err(error) => return only_kept(&client, query, error),
    };
    let progress = app.progress();
    let kept = match client.receipt(&lease, &progress).await {
        Ok(kept) => kept,
        Err(error) if matches!(error.kind, Kind::Timeout | Kind::Network) => {
            let kept = client.kept_receipt(&lease.provider, &lease.status.lease)?;
            let kept = kept.ok_or(error)?;
            progress("the provider does not answer; this is the newest receipt here");
            kept
        }
        Err(error) => return Err(error),
    };
    done(&kept)
}

fn only_kept(client: &Client, query: &str, error: ClientError) -> Outcome {
    let mut kept = client.kept_receipts(query)?;
    match (kept.pop(), kept.is_empty()) {
        (Some(kept), true) => done(&kept),
        _ => Err(error),
    }
}

/// `--json` gives the receipt itself, so that it can be handed on as it is.
fn done(kept: &Kept) -> Outcome {
    let text = words(&kept.receipt, kept.signed.created_at);
    Ok(Done::new(to_json(&kept.signed)?, text))
}

/// Checks a receipt by nothing but what is in it: no home, no network.
fn verify(file: &str, by: Option<&str>) -> Outcome {
    let text = read(file)?;
    let (signed, receipt) = open_text(&text).map_err(|error| false_receipt(&error))?;
    if let Some(by) = by {
        signed_by(&signed, by)?;
    }
    let json: Value = json!({
        "valid": true,
        "id": signed.id,
        "signed_by": signed.pubkey,
        "signed_by_npub": npub(&signed.pubkey),
        "as_of": signed.created_at,
        "final": receipt.is_final(),
        "receipt": to_json(&receipt)?,
    });
    let mut text = words(&receipt, signed.created_at);
    text.push_str("signature  right, and it all adds up\n");
    Ok(Done::new(json, text))
}

fn signed_by(signed: &SignedReceipt, by: &str) -> Result<(), ClientError> {
    let wanted = nostr_sdk::PublicKey::parse(by.trim()).map_err(|_| {
        ClientError::usage(
            "bad_key",
            format!("'{by}' is not a public key"),
            "Give an npub or 64 hexadecimal digits.",
        )
    })?;
    if wanted.to_bytes() == *signed.pubkey.as_bytes() {
        return Ok(());
    }
    Err(ClientError::new(
        Kind::Payment,
        "false_receipt",
        format!(
            "the receipt is false: {} has signed it",
            npub(&signed.pubkey)
        ),
        "Do not accept it; ask the provider's operator for a right one.",
    ))
}

fn read(file: &str) -> Result<String, ClientError> {
    let broken = |error: std::io::Error| {
        ClientError::usage(
            "unreadable",
            format!("{file} cannot be read: {error}"),
            "Give the file of a receipt, or - for standard input.",
        )
    };
    let mut text = String::new();
    let source: Box<dyn std::io::Read> = match file {
        "-" => Box::new(std::io::stdin().lock()),
        path => Box::new(std::fs::File::open(path).map_err(broken)?),
    };
    source
        .take(MAX_FILE)
        .read_to_string(&mut text)
        .map_err(broken)?;
    Ok(text)
}

/// What a receipt says, in plain words.
pub(super) fn words(receipt: &Receipt, at: Timestamp) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<10} {}", escape(&value));
    };
    let state = if receipt.is_final() {
        "final"
    } else {
        "so far"
    };
    line(
        "receipt",
        format!("of lease {}, {state}, as of {at}", receipt.lease),
    );
    line("provider", npub(&receipt.provider));
    line("owner", npub(&receipt.owner));
    let sold = format!(
        "{} ({}) at {} msat/s, {}",
        receipt.tier,
        receipt.image,
        receipt.rate_msat_per_s,
        per_hour(receipt.rate_msat_per_s)
    );
    line("sold", sold);
    line("created", receipt.created_at.to_string());
    let started = receipt.started_at.map(|at| at.to_string());
    line("started", started.unwrap_or_else(|| "never".to_owned()));
    match receipt.ended_at {
        Some(at) => line("ended", format!("{at}: {}", receipt.why)),
        None => line("stands", receipt.why.clone()),
    }
    for (name, value) in money(receipt) {
        line(name, value);
    }
    line("sum", sum(receipt));
    text
}

fn money(receipt: &Receipt) -> Vec<(&'static str, String)> {
    let books = &receipt.books;
    let mut lines = Vec::new();
    let earlier = &receipt.earlier_payments;
    if !earlier.is_none() {
        let text = format!(
            "{} in {} payments before: {}, mint fee {}",
            earlier.face_msat,
            earlier.count,
            duration(earlier.added_seconds),
            earlier.mint_fee_msat
        );
        lines.push(("paid", text));
    }
    for paid in &receipt.payments {
        let text = format!(
            "{} at {}: {}, mint fee {}",
            paid.face_msat,
            paid.mint,
            duration(paid.added_seconds),
            paid.mint_fee_msat
        );
        lines.push(("paid", text));
    }
    if receipt.gift_seconds > 0 {
        let given = duration(receipt.gift_seconds);
        lines.push(("given", format!("{given}, by the provider")));
    }
    let served = duration(receipt.served_seconds);
    lines.push(("served", format!("{served} for {}", books.served_msat)));
    if receipt.unserved_seconds > 0 {
        let left = duration(receipt.unserved_seconds);
        lines.push(("left", format!("{left} for {}", books.unserved_msat)));
    }
    let earlier = &receipt.earlier_refunds;
    if !earlier.is_none() {
        let text = format!("{} in {} refunds before", earlier.face_msat, earlier.count);
        lines.push(("refunded", text));
    }
    for refund in &receipt.refunds {
        let whose = match refund.ground {
            Ground::ProviderFault => "the provider's fault",
            Ground::OwnerChoice => "the owner's choice",
        };
        let (name, what) = match refund.state {
            RefundStage::Made => (
                "refunded",
                format!("{} at {}", refund.face_msat, refund.mint),
            ),
            RefundStage::Claimed => (
                "refunded",
                format!("{} at {}, taken", refund.face_msat, refund.mint),
            ),
            RefundStage::TakenBack => {
                let text = format!("{} that nobody took, credit again", refund.owed_msat);
                ("credited", text)
            }
            RefundStage::Owed => ("owed", format!("{}, not made yet", refund.owed_msat)),
            RefundStage::Credited => {
                let text = format!("{} were too little for a token", refund.owed_msat);
                ("credited", text)
            }
        };
        lines.push((
            name,
            format!("{what} ({}): {whose}, {}", refund.refund_id, refund.why),
        ));
    }
    lines
}

/// The formula, with what is not nothing in it.
fn sum(receipt: &Receipt) -> String {
    let b = &receipt.books;
    let side = |parts: &[(Msat, &str)]| {
        let parts = parts.iter().filter(|(amount, _)| !amount.is_zero());
        let shown: Vec<String> = parts
            .map(|(amount, name)| format!("{amount} {name}"))
            .collect();
        if shown.is_empty() {
            Msat::ZERO.to_string()
        } else {
            shown.join(" + ")
        }
    };
    let came = side(&[
        (b.paid_msat, "paid"),
        (b.brought_msat, "credit of other leases"),
        (b.absorbed_msat, "borne by the provider"),
        (b.given_msat, "given by the provider"),
    ]);
    let went = side(&[
        (b.served_msat, "served"),
        (b.unserved_msat, "left"),
        (b.refunded_msat, "refunded"),
        (b.owed_msat, "owed"),
        (b.mint_fees_msat, "mint fees"),
        (b.refund_fees_msat, "fees of refunds"),
        (b.credit_msat, "credit"),
        (b.moved_msat, "credit of another lease"),
        (b.returned_msat, "given and not used"),
    ]);
    format!("{came} = {went}")
}
