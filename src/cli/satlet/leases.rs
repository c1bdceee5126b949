//! Leases: `spawn`, `ls`, `status`, `topup`, `logs`, `stop`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::args::{PayArgs, SpawnArgs};
use super::market::{find, per_hour, to_json, wanted};
use super::{App, Outcome, agreed, token_text};
use crate::cli::output::{Done, duration, escape, escape_lines, note, table};
use crate::consumer::client::MONEY_TIMEOUT;
use crate::consumer::home::npub;
use crate::consumer::money::Leased;
use crate::consumer::paygress::{LACKS, Terms, access};
use crate::consumer::records::{KnownLease, SavedRequest};
use crate::consumer::settle::Leftover;
use crate::consumer::{Client, ClientError, Kind, Pay, SpawnOptions, Spawned};
use crate::core::ids::RequestId;
use crate::core::money::Msat;
use crate::protocol::paygress;
use crate::protocol::reply::LeaseState;
use crate::relay::convert::now;

pub(super) async fn spawn(app: &App, args: SpawnArgs) -> Outcome {
    let mut wanted = wanted(args.wanted, args.command)?;
    let ssh_key = args.ssh_key.map(|path| chosen_key(&path)).transpose()?;
    let ssh_key = ssh_key.map(|(private, public)| {
        wanted.ssh_keys.push(public);
        private
    });
    let (yes, no_lock) = (args.pay.yes, args.pay.no_lock);
    let pay = pay(args.pay)?;
    let client = app.paying_client(no_lock)?;
    let progress = app.progress();
    let provider = find(&client, &args.provider, &progress).await?;
    let options = SpawnOptions {
        wanted,
        ssh_key,
        pay,
        gift: args.gift,
        detach: args.detach,
    };
    let spawned = if provider.dialect() == Some(paygress::DIALECT_NAME) && !args.gift {
        let consent = consent(&client, yes, args.accept_no_refund);
        client.rent(&provider, options, &consent, &progress).await?
    } else {
        let ask = confirm(&client, yes);
        client.spawn(&provider, options, &ask, &progress).await?
    };
    match spawned {
        Spawned::Leased(leased) => leased_done(&leased),
        Spawned::Detached(id) => Ok(Done::new(
            json!({ "request_id": id, "detached": true }),
            format!("{id}\nsatlet status {id} (or satlet ls) picks up the answer"),
        )),
    }
}

fn leased_done(leased: &Leased) -> Outcome {
    let mut json = lease_json(&leased.lease)?;
    if let Some(fields) = json.as_object_mut() {
        fields.insert("request_id".to_owned(), to_json(&leased.request_id)?);
        fields.insert("token_msat".to_owned(), to_json(&leased.face)?);
        fields.insert("paid_msat".to_owned(), to_json(&leased.answer.paid_msat)?);
        fields.insert(
            "mint_fee_msat".to_owned(),
            to_json(&leased.answer.mint_fee_msat)?,
        );
    }
    let lease = &leased.lease.status.lease;
    let paid = match leased.lease.status.gift_seconds {
        Some(_) => "given".to_owned(),
        None => format!("paid {}", leased.face),
    };
    let text = format!(
        "{lease}\n{paid}, {} left\nsatlet ssh {lease}",
        duration(left(&leased.lease)),
    );
    Ok(Done::new(json, text))
}

fn pay(args: PayArgs) -> Result<Pay, ClientError> {
    if let Some(token) = args.token {
        return Ok(Pay::Token(token_text(&token)?));
    }
    if let Some(sat) = args.amount {
        let amount = Msat::from_sat(sat).filter(|amount| !amount.is_zero());
        let bad = || ClientError::usage("usage", format!("{sat} sat cannot be paid"), "");
        return Ok(Pay::Amount(amount.ok_or_else(bad)?));
    }
    if args.lightning {
        return Ok(Pay::Lightning(args.seconds));
    }
    Ok(args.seconds.map_or(Pay::Minimum, Pay::Seconds))
}

fn confirm(client: &Client, yes: bool) -> impl Fn(Msat) -> bool + Send + Sync + use<> {
    let limit = client.settings().ask_above_sat;
    move |price: Msat| yes || price.sat_ceil() <= limit || agreed(&format!("pay {price}?"))
}

/// Says what the older dialect does not protect against, and asks.
fn consent(
    client: &Client,
    yes: bool,
    accepted: bool,
) -> impl Fn(&Terms) -> Result<(), ClientError> + Send + Sync + use<> {
    let limit = client.settings().ask_above_sat;
    move |terms: &Terms| {
        for line in terms.statement() {
            note(&escape(&line));
        }
        let dear = terms.amount_msat.sat_ceil() > limit;
        let question = format!(
            "pay {} for {} without refund?",
            terms.amount_msat,
            duration(terms.seconds)
        );
        if yes || (accepted && !dear) || agreed(&question) {
            return Ok(());
        }
        if accepted {
            return Err(ClientError::usage(
                "not_confirmed",
                format!("the price of {} was not agreed to", terms.amount_msat),
                "Say --yes, or raise the limit: satlet config set ask_above_sat N.",
            ));
        }
        Err(ClientError::usage(
            "no_refund_not_accepted",
            format!(
                "{} never refunds, and that was not agreed to; nothing was paid",
                terms.provider
            ),
            "Say --accept-no-refund, or choose a provider that speaks satlet/1: satlet list.",
        ))
    }
}

/// A key that the user chose: the private half's path and the public half.
fn chosen_key(path: &Path) -> Result<(PathBuf, String), ClientError> {
    let (private, public) = if path.extension().is_some_and(|ext| ext == "pub") {
        (path.with_extension(""), path.to_path_buf())
    } else {
        let mut public = path.as_os_str().to_owned();
        public.push(".pub");
        (path.to_path_buf(), PathBuf::from(public))
    };
    let private = std::path::absolute(private)?;
    let text = std::fs::read_to_string(&public).map_err(|error| {
        ClientError::usage(
            "bad_ssh_key",
            format!("{}: {error}", public.display()),
            "Give the private key's path with its public half beside it, named FILE.pub.",
        )
    })?;
    Ok((private, text.trim().to_owned()))
}

pub(super) async fn ls(app: &App, refresh: bool, provider: Option<&str>) -> Outcome {
    let client = app.client()?;
    let progress = app.progress();
    if let Some(query) = provider {
        let provider = find(&client, query, &progress).await?;
        client.list_remote(&provider, &progress).await?;
    }
    if client.records().open_requests()?.is_empty() {
        client.bring_home(&progress).await?;
    } else {
        progress("asking for answers that did not come yet");
        client.settle(&progress).await?;
    }
    if refresh {
        refresh_all(&client, &progress).await?;
    }
    let leases = client.leases()?;
    let open = client.records().open_requests()?;
    let json = json!({
        "leases": leases.iter().map(lease_json).collect::<Result<Vec<_>, _>>()?,
        "requests": open.iter().map(request_json).collect::<Vec<_>>(),
    });
    Ok(Done::new(json, ls_text(&leases, &open)))
}

async fn refresh_all(
    client: &Client,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<(), ClientError> {
    let all = client.leases()?;
    let alive = all
        .iter()
        .filter(|lease| lease.status.state != LeaseState::Ended);
    let asked = alive.map(|lease| async move {
        if let Err(error) = client.status(lease, progress).await {
            progress(&format!("{}: {error}", lease.status.lease));
        }
    });
    futures::future::join_all(asked).await;
    Ok(())
}

fn ls_text(leases: &[KnownLease], open: &[SavedRequest]) -> String {
    let mut text = if leases.is_empty() {
        "no leases\n".to_owned()
    } else {
        let rows: Vec<Vec<String>> = leases
            .iter()
            .map(|lease| {
                let status = &lease.status;
                vec![
                    status.lease.to_string(),
                    lease.provider_name.clone(),
                    state_name(lease).to_owned(),
                    status.tier.to_string(),
                    status.image.clone(),
                    duration(left(lease)),
                ]
            })
            .collect();
        table(
            &["LEASE", "PROVIDER", "STATE", "TIER", "IMAGE", "LEFT"],
            &rows,
        )
    };
    for request in open {
        let _ = writeln!(
            text,
            "{} {} at {}: no answer yet {}",
            request.kind,
            request.request_id,
            escape(&request.provider_name),
            escape(&request.note),
        );
    }
    text
}

fn dialect(lease: &KnownLease) -> &'static str {
    match lease.paygress {
        Some(_) => paygress::DIALECT_NAME,
        None => crate::protocol::DIALECT_NAME,
    }
}

/// The state as it must be by now, by what was heard last.
fn state_name(lease: &KnownLease) -> &'static str {
    match lease.status.state {
        LeaseState::Starting => "starting",
        LeaseState::Active if left(lease) == 0 => "expired?",
        LeaseState::Active => "active",
        LeaseState::Grace => "grace",
        LeaseState::Ended => "ended",
    }
}

fn left(lease: &KnownLease) -> u64 {
    match (lease.status.state, lease.status.expires_at) {
        (LeaseState::Active | LeaseState::Starting, Some(at)) => at.secs_since(now()),
        _ => 0,
    }
}

/// How a lease is entered, as far as it is known here.
pub(super) fn show(app: &App, query: &str, password: bool) -> Outcome {
    let client = app.client()?;
    let lease = client.find_lease(query)?;
    let mut json = lease_json(&lease)?;
    let mut text = status_text(&lease);
    let secret = access::password(client.home(), &lease)?;
    if let (Some(secret), true) = (&secret, password) {
        let _ = writeln!(text, "password  {}", escape(secret));
        if let Some(fields) = json.as_object_mut() {
            fields.insert("password".to_owned(), json!(secret));
        }
    } else if secret.is_some() {
        text.push_str("password  kept; --password shows it\n");
    }
    Ok(Done::new(json, text))
}

fn lease_json(lease: &KnownLease) -> Result<Value, ClientError> {
    let mut json = to_json(&lease.status)?;
    if let Some(fields) = json.as_object_mut() {
        fields.remove("refunds");
        fields.insert("remaining_seconds".to_owned(), json!(left(lease)));
        fields.insert("provider".to_owned(), json!(lease.provider));
        fields.insert("provider_npub".to_owned(), json!(npub(&lease.provider)));
        fields.insert("provider_name".to_owned(), json!(lease.provider_name));
        fields.insert("ssh_key".to_owned(), json!(lease.ssh_key));
        fields.insert("seen_at".to_owned(), json!(lease.seen_at));
        fields.insert("dialect".to_owned(), json!(dialect(lease)));
        if let Some(info) = &lease.paygress {
            fields.insert("workload".to_owned(), json!(info.pod));
            fields.insert("refundable".to_owned(), json!(false));
        }
    }
    Ok(json)
}

fn request_json(request: &SavedRequest) -> Value {
    json!({
        "request_id": request.request_id,
        "type": request.kind,
        "provider": request.provider,
        "provider_name": request.provider_name,
        "standing": request.standing,
        "note": request.note,
        "token_msat": request.paid.as_ref().map(|paid| paid.face),
        "invoice": request.order.as_ref().and_then(|order| order.invoice.as_ref()),
        "written_at": request.written_at,
    })
}

pub(super) async fn status(app: &App, query: &str) -> Outcome {
    let client = app.client()?;
    let progress = app.progress();
    if let Ok(id) = query.parse::<RequestId>() {
        return request_status(app, &client, id).await;
    }
    let lease = client.find_lease(query)?;
    let looked = client.status(&lease, &progress).await?;
    client.receive_refunds().await?;
    let mut json = lease_json(&looked.lease)?;
    if let Some(fields) = json.as_object_mut() {
        fields.insert("refunded_msat".to_owned(), to_json(&looked.refunded)?);
    }
    let mut text = status_text(&looked.lease);
    if !looked.refunded.is_zero() {
        let _ = writeln!(text, "refund    {} came back", looked.refunded);
    }
    Ok(Done::new(json, text))
}

fn status_text(lease: &KnownLease) -> String {
    let status = &lease.status;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<9} {}", escape(&value));
    };
    line("lease", status.lease.to_string());
    line("provider", lease.provider_name.clone());
    line("state", format!("{}: {}", state_name(lease), status.why));
    line(
        "tier",
        format!("{}, {}", status.tier, per_hour(status.rate_msat_per_s)),
    );
    line("image", status.image.clone());
    if let Some(info) = &lease.paygress {
        let what = format!("{}, {}", dialect(lease), LACKS.join(", "));
        line("dialect", what);
        line("workload", info.pod.clone());
    }
    line("left", duration(left(lease)));
    if let Some(at) = status.expires_at {
        line("until", at.to_string());
    }
    if let Some(access) = &status.access {
        line(
            "access",
            format!("ssh -p {} {}@{}", access.port, access.user, access.host),
        );
    }
    text
}

/// How a request stands whose answer was not there when its command ended.
async fn request_status(app: &App, client: &Client, id: RequestId) -> Outcome {
    let wait = app
        .global
        .timeout
        .map_or(MONEY_TIMEOUT, Duration::from_secs);
    let progress = app.progress();
    let left = client.resume(id, wait, &progress).await?;
    if let Some(Leftover { result, .. }) = left {
        let settled = result?;
        client.receive_refunds().await?;
        if let Some(lease) = settled.lease {
            return Ok(Done::new(lease_json(&lease)?, status_text(&lease)));
        }
    }
    let saved = client.records().request(&id)?.ok_or_else(|| {
        ClientError::new(
            Kind::NotFound,
            "request_not_found",
            format!("no request {id} is known here"),
            "See satlet ls.",
        )
    })?;
    let text = format!(
        "{} at {}: {}",
        saved.kind,
        escape(&saved.provider_name),
        escape(&saved.note)
    );
    Ok(Done::new(request_json(&saved), text))
}

pub(super) async fn topup(app: &App, query: &str, args: PayArgs) -> Outcome {
    let (yes, no_lock) = (args.yes, args.no_lock);
    let pay = pay(args)?;
    let client = app.paying_client(no_lock)?;
    let lease = client.find_lease(query)?;
    let ask = confirm(&client, yes);
    let answer = client.topup(&lease, pay, &ask, &app.progress()).await?;
    let text = format!(
        "{} more; until {}",
        duration(answer.added_seconds),
        answer.expires_at
    );
    Ok(Done::new(to_json(&answer)?, text))
}

pub(super) async fn logs(app: &App, query: &str, bytes: Option<usize>) -> Outcome {
    let client = app.client()?;
    let lease = client.find_lease(query)?;
    let output = client.logs(&lease, bytes, &app.progress()).await?;
    let json = json!({
        "lease": lease.status.lease,
        "output": output.text,
        "truncated": output.truncated,
    });
    Ok(Done::new(json, escape_lines(&output.text)))
}

pub(super) async fn stop(app: &App, query: &str) -> Outcome {
    let client = app.client()?;
    let lease = client.find_lease(query)?;
    let stopped = client.stop(&lease, &app.progress()).await?;
    let answer = &stopped.answer;
    let owed = answer
        .refund
        .as_ref()
        .map_or(Msat::ZERO, |refund| refund.amount_msat);
    let json = json!({
        "lease": answer.lease,
        "served_seconds": answer.served_seconds,
        "served_msat": answer.served_msat,
        "refund_msat": owed,
        "refund_fee_msat": answer.refund_fee_msat,
        "received_msat": stopped.received,
        "credit_msat": answer.credit_msat,
        "receipt": client.kept_receipt(&lease.provider, &answer.lease)?.map(|kept| kept.signed.id),
    });
    let mut text = format!(
        "stopped; {} served for {}",
        duration(answer.served_seconds),
        answer.served_msat
    );
    if !owed.is_zero() {
        let _ = write!(text, "; {} of {owed} received", stopped.received);
    }
    Ok(Done::new(json, text))
}
