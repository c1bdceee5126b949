//! `satletd money`.

use super::ask::show;
use super::output::{Output, clean, table};
use super::{ConfigArg, Exit};
use crate::core::money::Msat;
use crate::provider::control::{Ask, MoneyView, PoolView, PurseView};

pub(super) fn money(output: &mut Output<'_>, arg: &ConfigArg, json: bool) -> anyhow::Result<Exit> {
    show(output, arg, Ask::Money, json, |money: &MoneyView| {
        render(money)
    })
}

pub(super) fn render(money: &MoneyView) -> Vec<String> {
    let mut lines = Vec::new();
    for purse in &money.purses {
        lines.push(format!("{} ({})", clean(&purse.mint), clean(&purse.unit)));
        lines.extend(table(&rows(purse)));
        lines.push(String::new());
    }
    if let Some(pool) = &money.pool {
        lines.push(format!("The pool ({} per cent)", pool.share_percent));
        lines.extend(table(&pool_rows(pool)));
        lines.push(String::new());
    }
    if money.purses.is_empty() {
        lines.push("No money yet.".to_owned());
        return lines;
    }
    for payout in money.payouts.iter().filter(|one| one.ended_at.is_none()) {
        lines.extend(super::withdraw::render(payout).into_iter().take(1));
    }
    lines.push(format!(
        "In all: received {} after mint fees, served {}, given back {}.",
        money.received_msat, money.served_msat, money.refunded_msat
    ));
    lines
}

fn rows(purse: &PurseView) -> Vec<Vec<String>> {
    let row =
        |name: &str, amount: String, what: &str| vec![format!("  {name}"), amount, what.to_owned()];
    let sum = |name: &str, amount: Msat, what: &str| row(name, amount.to_string(), what);
    let solvent = match (purse.short_msat.is_zero(), purse.short_since) {
        (true, _) => row("solvent", "yes".to_owned(), ""),
        (false, None) => row("solvent", format!("short by {}", purse.short_msat), ""),
        (false, Some(since)) => {
            let short = format!("short by {}", purse.short_msat);
            row("solvent", short, &format!("since {since}"))
        }
    };
    vec![
        sum("balance", purse.balance_msat, "what the wallet can spend"),
        sum("owed", purse.owed_msat, "refunds that are still to be made"),
        sum(
            "credit",
            purse.credit_msat,
            "what belongs to owners of leases",
        ),
        sum(
            "unserved",
            purse.unserved_msat,
            "time that is paid and not served",
        ),
        sum(
            "float needed",
            purse.float_msat,
            "what may have to go back: the three above",
        ),
        solvent,
        sum(
            "unclaimed",
            purse.unclaimed_msat,
            "refund tokens that nobody has taken yet",
        ),
        sum(
            "coming",
            purse.coming_msat,
            "payments that are not over, open invoices among them",
        ),
        row(
            "earned",
            signed(purse.earned_msat),
            "time served, less the fees that you bore",
        ),
        sum(
            "unexplained",
            purse.unexplained_msat,
            "what no row of the ledger explains; it stays",
        ),
        sum(
            "withdrawn",
            purse.withdrawn_msat,
            "what was taken out over Lightning",
        ),
        sum("its fees", purse.payout_fees_msat, "what that cost you"),
        sum(
            "leaving",
            purse.leaving_msat,
            "what payments on their way may take",
        ),
        sum("mint fees", purse.mint_fees_msat, "what the mint kept"),
        sum(
            "merging",
            purse.merge_fees_msat,
            "what the mint kept for making few proofs of many",
        ),
    ]
}

fn pool_rows(pool: &PoolView) -> Vec<Vec<String>> {
    let sum = |name: &str, amount: Msat, what: &str| {
        vec![format!("  {name}"), amount.to_string(), what.to_owned()]
    };
    vec![
        sum("balance", pool.balance_msat, "what may be given"),
        sum(
            "credited",
            pool.credited_msat,
            "your share of what was served",
        ),
        sum("given", pool.given_msat, "time that was promised"),
        sum(
            "returned",
            pool.returned_msat,
            "what of that was not served",
        ),
        sum("today", pool.today_msat, "what was given today"),
    ]
}

fn signed(msat: i64) -> String {
    let sign = if msat < 0 { "-" } else { "" };
    format!("{sign}{}", Msat::new(msat.unsigned_abs()))
}
