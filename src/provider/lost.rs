//! A ledger that was lost, while workloads go on and the wallet is there.
//!
//! Each workload carries what its lease was sold as ([`Note`]), and when it ends.
//! A workload whose lease is in no ledger becomes a lease again: its owner's, let
//! in with their keys, and over at its end. What was paid for it is not known any
//! more; its books begin with the price of the time that is left, as brought.
//!
//! What else the wallet holds is explained by no row. It may be a refund that was
//! owed, somebody's credit, or what was earned: it is reported, not counted as
//! earned, and left alone ([`unexplained`](super::solvency::unexplained)).

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::answers;
use super::ctx::Ctx;
use super::handlers::describe;
use crate::compute::{Handle, Image, Observed, Owned, WorkloadSpec};
use crate::core::ids::{PublicKey, RequestId};
use crate::core::lease::{Books, Lease, Phase, Purses};
use crate::core::money::Msat;
use crate::core::payment::lock::LockKey;
use crate::core::pricing::Tier;
use crate::core::time::Timestamp;
use crate::ledger::{
    ENDED, LEASES, LedgerError, REQUESTS, RequestRow, WORKLOADS, WorkloadRow, request_key,
};
use crate::protocol::channel::Channel;
use crate::protocol::reply::{Answer, Message, Reply, SpawnAnswer};

/// Version of [`Note`] written today.
const VERSION: u32 = 1;

/// How long the start waits for the backend; later the upkeep looks.
const AT_START: Duration = Duration::from_secs(30);

/// How long one look at a workload may take.
const CALL: Duration = Duration::from_secs(30);

/// What a workload carries of its lease, besides its id, its owner and its end.
#[derive(Serialize, Deserialize)]
struct Note {
    version: u32,
    request: RequestId,
    /// SHA-256 of the request's body, as in its row; absent: none is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body_hash: Option<String>,
    tier: Tier,
    image: String,
    ssh_keys: Vec<String>,
    mint: String,
    unit: String,
    /// Seconds sold when it was made.
    seconds: u64,
    paid: Msat,
    mint_fees: Msat,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refund_key: Option<LockKey>,
}

/// What to write on the workload of `lease`, which is about to be made.
///
/// # Errors
/// The ledger.
pub(super) fn note(ctx: &Ctx, lease: &Lease) -> Result<String, LedgerError> {
    let key = request_key(&lease.owner, lease.request);
    let row = ctx.ledger().read(|reader| reader.get(&REQUESTS, &key))?;
    let (mint, unit) = lease.purse.clone().unwrap_or_default();
    let note = Note {
        version: VERSION,
        request: lease.request,
        // One of the older dialect is answered in another way.
        body_hash: row
            .filter(|row| row.paygress.is_none())
            .map(|row| row.body_hash),
        tier: lease.tier.clone(),
        image: lease.image.clone(),
        ssh_keys: lease.ssh_keys.clone(),
        mint,
        unit,
        seconds: lease.waiting_seconds,
        paid: lease.money.paid,
        mint_fees: lease.money.mint_fees,
        refund_key: lease.refund_key.clone(),
    };
    serde_json::to_string(&note).map_err(|error| LedgerError::Rule(error.to_string()))
}

/// Rebuilds leases before anything else is done.
pub async fn at_start(ctx: &Arc<Ctx>) {
    match tokio::time::timeout(AT_START, ctx.parts.backend.list_owned()).await {
        Ok(Ok(owned)) => {
            for workload in owned {
                if let Err(error) = rebuild(ctx, &workload).await {
                    tracing::error!(lease = %workload.labels.lease, %error, "not rebuilt");
                }
            }
        }
        Ok(Err(error)) => tracing::warn!(%error, "workloads are looked at later"),
        Err(_) => tracing::warn!("the backend does not answer; workloads are looked at later"),
    }
}

/// Makes a lease of a workload whose lease this ledger does not know. `false`:
/// nothing was done.
///
/// # Errors
/// The ledger.
pub(super) async fn rebuild(ctx: &Arc<Ctx>, workload: &Owned) -> Result<bool, LedgerError> {
    let id = workload.labels.lease.clone();
    if is_known(ctx, &id)? {
        return Ok(false);
    }
    let Some(note) = read(&workload.labels.note) else {
        return Ok(false);
    };
    let look = ctx.parts.backend.observe(&workload.handle);
    let seen = match tokio::time::timeout(CALL, look).await {
        Ok(Ok(Observed::Absent)) | Ok(Err(_)) | Err(_) => return Ok(false),
        Ok(Ok(seen)) => seen,
    };
    let now = ctx.now();
    let end = end(ctx, workload, &note, &seen, now);
    let Some(lease) = lease(workload, &note, end, now) else {
        return Ok(false);
    };
    let row = WorkloadRow {
        spec: to_json(&spec(&lease, end))?,
        handle: Some(to_json::<Handle>(&workload.handle)?),
    };
    let answered = answered(ctx, &lease, &note)?;
    let written = lease.clone();
    let done = ctx.ledger().write(move |tx| {
        let lease = written;
        let key = lease.id.as_str();
        if tx.get(&LEASES, key)?.is_some() || tx.get(&ENDED, key)?.is_some() {
            return Ok(false);
        }
        if let Some(row) = answered {
            let key = request_key(&row.owner, row.id);
            if tx.get(&REQUESTS, &key)?.is_none() {
                tx.put(&REQUESTS, &key, &row)?;
            }
        }
        tx.put(&WORKLOADS, key, &row)?;
        tx.put(&LEASES, key, &lease)?;
        Ok(true)
    });
    if !done.await? {
        return Ok(false);
    }
    tracing::warn!(lease = %id, owner = %lease.owner, ends = %end, "a workload without a lease in this ledger; the lease was rebuilt from its labels");
    ctx.admission.add_owner(lease.owner);
    ctx.changed.notify_one();
    ctx.actors.wake(ctx, &id);
    Ok(true)
}

fn is_known(ctx: &Ctx, id: &crate::core::ids::LeaseId) -> Result<bool, LedgerError> {
    ctx.ledger().read(|reader| {
        let open = reader.get(&LEASES, id.as_str())?.is_some();
        Ok(open || reader.get(&ENDED, id.as_str())?.is_some())
    })
}

fn read(text: &str) -> Option<Note> {
    let note: Note = serde_json::from_str(text).ok()?;
    let readable = note.version == VERSION && note.tier.rate_msat_per_s > 0;
    readable.then_some(note)
}

/// When it is over, in its owner's favour: not before what the labels say, nor
/// before what was sold first is over, counted from when it last started. One
/// that runs past all that was paid again: it gets the grace time, in which its
/// owner can pay once more.
fn end(ctx: &Ctx, workload: &Owned, note: &Note, seen: &Observed, now: Timestamp) -> Timestamp {
    let told = workload.labels.expires_at;
    match seen {
        Observed::Running { started_at, .. } => {
            // A start that lies in the future was before the clock was set back.
            let since = Some(*started_at).filter(|since| *since <= now);
            let sold = since.map(|since| since.plus_secs(note.seconds));
            let end = told.max(sold.unwrap_or_default());
            if end > now {
                end
            } else {
                now.plus(ctx.settings().timing.grace)
            }
        }
        Observed::Stopped { .. } | Observed::Absent => told,
    }
}

/// `None`: a number does not fit.
fn lease(workload: &Owned, note: &Note, end: Timestamp, now: Timestamp) -> Option<Lease> {
    let labels = &workload.labels;
    let left = end.secs_since(now);
    let price = Msat::new(note.tier.rate_msat_per_s).checked_mul(left)?;
    // Of one that began as a gift it is not known whether it was ever paid for.
    let purse = (!note.mint.is_empty()).then(|| (note.mint.clone(), note.unit.clone()));
    let purses = match &purse {
        Some(purse) if !price.is_zero() => Purses::at(purse.clone(), price),
        _ => Purses::default(),
    };
    let money = match purse {
        Some(_) => Books {
            brought: price,
            ..Books::default()
        },
        None => Books {
            given: price,
            ..Books::default()
        },
    };
    let mut lease = Lease::reserve(
        labels.lease.clone(),
        labels.owner,
        note.request,
        note.tier.clone(),
        note.image.clone(),
        note.ssh_keys.clone(),
        // What the wallet sent before is not of this ledger.
        now,
    );
    lease.phase = Phase::Active;
    lease.why = "its time runs; rebuilt from its workload, the ledger was lost".to_owned();
    lease.started_at = Some(now);
    lease.expires_at = Some(end);
    lease.sold_seconds = left;
    lease.money = money;
    lease.purse = purse;
    lease.purses = purses;
    lease.refund_key = note.refund_key.clone();
    lease.balances(now).then_some(lease)
}

/// What the backend was asked for, as far as it is known: nobody makes it again.
fn spec(lease: &Lease, end: Timestamp) -> WorkloadSpec {
    WorkloadSpec {
        owner: lease.owner,
        image: Image::Reference(lease.image.clone()),
        resources: lease.tier.resources,
        command: Vec::new(),
        env: Vec::new(),
        expires_at: end,
        note: String::new(),
    }
}

fn to_json<T: Serialize>(value: &T) -> Result<serde_json::Value, LedgerError> {
    serde_json::to_value(value).map_err(|error| LedgerError::Rule(error.to_string()))
}

/// The request that bought it, answered: a relay may bring it again, and it must
/// not buy a second lease, nor be told that its money was never taken.
fn answered(ctx: &Ctx, lease: &Lease, note: &Note) -> Result<Option<RequestRow>, LedgerError> {
    let Some(body_hash) = note.body_hash.clone() else {
        return Ok(None);
    };
    let answer = Answer::Spawn(SpawnAnswer {
        status: describe(ctx, lease),
        paid_msat: note.paid,
        mint_fee_msat: note.mint_fees,
    });
    let reply = Message::Reply(Reply::result(note.request, answer));
    let (owner, id): (PublicKey, RequestId) = (lease.owner, note.request);
    Ok(Some(RequestRow {
        owner,
        id,
        body_hash,
        channel: Channel::default(),
        relays: Vec::new(),
        received_at: lease.created_at,
        lease: Some(lease.id.clone()),
        payment: None,
        answer: Some(answers::encode(&reply)?),
        pending: None,
        paygress: None,
    }))
}
