//! The ecash wallet: `wallet balance|receive|send|mint|mints|refunds`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::args::WalletCommand;
use super::settings::mint_url;
use super::{App, Outcome, agreed, token_text};
use crate::cli::output::{Done, escape, table};
use crate::consumer::purse::unit_name;
use crate::consumer::records::{Paid, RefundStanding};
use crate::consumer::{ClientError, Kind};
use crate::core::money::Msat;
use crate::wallet::{MintUrl, Unit, read_info};

/// How long an invoice is waited for, unless told otherwise.
const INVOICE_WAIT: u64 = 600;

pub(super) async fn run(app: &App, command: WalletCommand) -> Outcome {
    match command {
        WalletCommand::Balance => balance(app).await,
        WalletCommand::Receive { token } => receive(app, &token).await,
        WalletCommand::Send { amount, mint, yes } => send(app, amount, mint.as_deref(), yes).await,
        WalletCommand::Mint { amount, mint } => mint_ecash(app, amount, mint.as_deref()).await,
        WalletCommand::Mints { add, remove } => mints(app, add.as_deref(), remove.as_deref()),
        WalletCommand::Refunds => refunds(app).await,
        WalletCommand::History => super::history::run(&app.client()?),
    }
}

async fn balance(app: &App) -> Outcome {
    let client = app.client()?;
    client.bring_home(&app.progress()).await?;
    let session = client.wallet().await?;
    let balances = session.wallet().balances().await?;
    let held: Vec<_> = balances
        .iter()
        .filter(|(_, amount)| !amount.is_zero())
        .collect();
    let total = Msat::checked_sum(held.iter().map(|(_, amount)| **amount))
        .ok_or_else(|| ClientError::internal("the balance is too large"))?;
    let open = client.records().open_requests()?;
    let unsent = client.records().locks()?;
    let paid = open.iter().filter_map(|one| one.paid.as_ref());
    let out: Vec<_> = paid
        .chain(unsent.iter().filter_map(|lock| lock.locked.as_ref()))
        .collect();
    let (locked, plain): (Vec<_>, Vec<_>) = out.into_iter().partition(|paid| paid.lock.is_some());
    let sum =
        |all: &[&Paid]| Msat::checked_sum(all.iter().map(|paid| paid.face)).unwrap_or(Msat::ZERO);
    // Locked just before a crash, by a mint that has not said yet what came of it.
    let begun = unsent.iter().filter(|lock| lock.locked.is_none());
    let begun = begun.filter_map(|lock| read_info(&lock.plain).ok());
    let begun = Msat::checked_sum(begun.map(|info| info.face)).unwrap_or(Msat::ZERO);
    let under_way = sum(&plain).checked_add(begun).unwrap_or(begun);
    let locked_up = sum(&locked);
    let ends = locked.iter().filter_map(|paid| paid.lock.as_ref());
    let until = ends.map(|lock| lock.locktime).max();
    let json = json!({
        "total_msat": total,
        "under_way_msat": under_way,
        "locked_msat": locked_up,
        "locked_until": until,
        "balances": held.iter().map(|((mint, unit), amount)| json!({
            "mint": mint, "unit": unit, "amount_msat": amount,
        })).collect::<Vec<_>>(),
    });
    let mut text = String::new();
    for ((mint, unit), amount) in held {
        let _ = writeln!(
            text,
            "{amount:>14}  {} ({})",
            escape(&mint.0),
            unit_name(unit)
        );
    }
    let _ = writeln!(text, "{total:>14}  in all");
    if !under_way.is_zero() {
        let _ = writeln!(
            text,
            "{under_way:>14}  in what has no answer yet (satlet ls)"
        );
    }
    if let Some(until) = until {
        let _ = writeln!(
            text,
            "{locked_up:>14}  locked to providers that have not taken it; what is left comes back after {until}"
        );
    }
    Ok(Done::new(json, text))
}

async fn receive(app: &App, token: &str) -> Outcome {
    let token = token_text(token)?;
    let client = app.client()?;
    let (mint, got) = client.receive(&token).await?;
    let json = json!({ "mint": mint, "received_msat": got.net, "fee_msat": got.fee });
    Ok(Done::new(
        json,
        format!("{} received from {}", got.net, escape(&mint.0)),
    ))
}

async fn send(app: &App, sat: u64, mint: Option<&str>, yes: bool) -> Outcome {
    let amount = whole(sat)?;
    let client = app.client()?;
    if !yes
        && sat > client.settings().ask_above_sat
        && !agreed(&format!("make a token of {amount}?"))
    {
        return Err(ClientError::usage(
            "not_confirmed",
            "it was not agreed to",
            "Say --yes.",
        ));
    }
    let mint = match mint {
        Some(url) => MintUrl(mint_url(url)?),
        None => {
            let balances = client.wallet().await?.wallet().balances().await?;
            fullest(&balances).ok_or_else(|| no_mint("the wallet is empty"))?
        }
    };
    let given = client.give(&mint, amount).await?;
    let json = json!({ "token": given.paid.token, "mint": given.paid.mint, "token_msat": given.paid.face });
    Ok(Done::new(json, given.paid.token))
}

fn fullest(balances: &BTreeMap<(MintUrl, Unit), Msat>) -> Option<MintUrl> {
    let sat = balances
        .iter()
        .filter(|((_, unit), amount)| *unit == Unit::Sat && !amount.is_zero());
    sat.max_by_key(|(_, amount)| **amount)
        .map(|((mint, _), _)| mint.clone())
}

async fn mint_ecash(app: &App, sat: u64, mint: Option<&str>) -> Outcome {
    let amount = whole(sat)?;
    let client = app.client()?;
    let mint = match mint {
        Some(url) => mint_url(url)?,
        None => client
            .settings()
            .mints
            .first()
            .cloned()
            .ok_or_else(|| no_mint("no mint is trusted yet"))?,
    };
    let session = client.wallet().await?;
    let cdk = session
        .cdk()
        .ok_or_else(|| ClientError::internal("this wallet cannot mint"))?;
    let quote = cdk
        .mint_quote(&MintUrl(mint.clone()), &Unit::Sat, amount)
        .await?;
    let progress = app.progress();
    progress("pay this invoice:");
    // The invoice is what the command is for: it is shown even with --quiet.
    crate::cli::output::note(&escape(&quote.bolt11));
    let wait = Duration::from_secs(app.global.timeout.unwrap_or(INVOICE_WAIT));
    let got = cdk.mint_wait(&quote, wait).await.map_err(|error| {
        let error = ClientError::from(error);
        let suggestion = "If it was paid, run satlet wallet balance: what is paid is picked up.";
        ClientError {
            suggestion: suggestion.to_owned(),
            ..error
        }
    })?;
    let json = json!({ "mint": mint, "received_msat": got, "invoice": quote.bolt11 });
    Ok(Done::new(
        json,
        format!("{got} received from {}", escape(&mint)),
    ))
}

fn mints(app: &App, add: Option<&str>, remove: Option<&str>) -> Outcome {
    let home = app.home()?;
    let mut settings = home.settings()?;
    if let Some(url) = add {
        let url = mint_url(url)?;
        if !settings.mints.contains(&url) {
            settings.mints.push(url);
        }
    }
    if let Some(url) = remove {
        let url = mint_url(url)?;
        settings.mints.retain(|mint| *mint != url);
    }
    if add.is_some() || remove.is_some() {
        home.save_settings(&settings)?;
    }
    let text = if settings.mints.is_empty() {
        "no mint is trusted yet: satlet wallet mints --add URL".to_owned()
    } else {
        settings.mints.join("\n")
    };
    Ok(Done::new(json!({ "mints": settings.mints }), text))
}

async fn refunds(app: &App) -> Outcome {
    let client = app.client()?;
    client.bring_home(&app.progress()).await?;
    let refunds = client.records().refunds()?;
    let given = client.records().given()?;
    let disputed: Vec<_> = client
        .records()
        .open_requests()?
        .into_iter()
        .filter(|one| one.paid.is_some())
        .collect();
    let lost = client.records().lost_requests()?;
    let json = json!({
        "refunds": refunds.iter().map(|(_, saved)| {
            let open = matches!(saved.standing, RefundStanding::Owed | RefundStanding::ForeignMint);
            json!({
                "refund_id": saved.refund.refund_id,
                "provider": saved.provider,
                "amount_msat": saved.refund.amount_msat,
                "received_msat": saved.net,
                "mint": saved.refund.mint,
                "standing": saved.standing,
                "note": saved.note,
                "token": open.then(|| saved.refund.token.clone()),
            })
        }).collect::<Vec<Value>>(),
        "under_way": disputed.iter().map(|one| json!({
            "request_id": one.request_id,
            "standing": one.standing,
            "token_msat": one.paid.as_ref().map(|paid| paid.face),
            "note": one.note,
        })).collect::<Vec<Value>>(),
        "lost": lost.iter().map(|one| json!({
            "request_id": one.request_id,
            "provider": one.provider,
            "token_msat": one.paid.as_ref().map(|paid| paid.face),
            "note": one.note,
            "at": one.written_at,
        })).collect::<Vec<Value>>(),
        "given": given.iter().map(|given| json!({
            "token_msat": given.paid.face,
            "mint": given.paid.mint,
            "at": given.at,
        })).collect::<Vec<Value>>(),
    });
    let rows: Vec<Vec<String>> = refunds
        .iter()
        .map(|(_, saved)| {
            vec![
                saved.refund.amount_msat.to_string(),
                standing_name(saved.standing).to_owned(),
                saved.refund.mint.clone(),
                saved.refund.why.clone(),
                saved.note.clone(),
            ]
        })
        .collect();
    let mut text = if rows.is_empty() {
        "no refunds\n".to_owned()
    } else {
        table(&["REFUND", "STATE", "MINT", "WHY", ""], &rows)
    };
    for one in &lost {
        let face = one.paid.as_ref().map_or(Msat::ZERO, |paid| paid.face);
        let _ = writeln!(
            text,
            "lost: {face} to {}: {}",
            escape(&one.provider_name),
            escape(&one.note)
        );
    }
    Ok(Done::new(json, text))
}

fn standing_name(standing: RefundStanding) -> &'static str {
    match standing {
        RefundStanding::Owed => "owed",
        RefundStanding::Received => "received",
        RefundStanding::ForeignMint => "foreign mint",
        RefundStanding::Bad => "bad",
    }
}

fn whole(sat: u64) -> Result<Msat, ClientError> {
    Msat::from_sat(sat)
        .filter(|amount| !amount.is_zero())
        .ok_or_else(|| ClientError::usage("usage", format!("{sat} sat is no amount"), ""))
}

fn no_mint(message: &str) -> ClientError {
    ClientError::new(
        Kind::Payment,
        "no_mint",
        message,
        "Trust one: satlet wallet mints --add URL.",
    )
}
