//! Whether the wallet holds, at each mint and in each unit, what may have to go
//! back: refunds that are owed, credit, and time that is not served.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Mutex, PoisonError};

use super::ctx::Ctx;
use super::handlers::unit_name;
use crate::core::lease::{Dues, Lease, Purse};
use crate::core::money::Msat;
use crate::core::payment::{Payment, PaymentState};
use crate::core::time::Timestamp;
use crate::ledger::{self, ENDED, LEASES, LedgerError, MERGES, PAYMENTS, purse_key};

/// How often the two are compared until no refund is made meanwhile.
const TRIES: u32 = 3;

/// Purses that hold too little, and since when.
#[derive(Debug, Default)]
pub struct Shortfalls(Mutex<BTreeMap<Purse, Timestamp>>);

impl Shortfalls {
    /// Since when this purse is short.
    pub fn since(&self, purse: &Purse) -> Option<Timestamp> {
        let short = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        short.get(purse).copied()
    }
}

/// What has changed since the last look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A purse holds too little from now on, by so much.
    Short(Purse, Msat),
    /// A purse that was short is not any more.
    Enough(Purse),
}

/// Compares, and logs what has changed: a shortfall once when it begins and once
/// when it ends. While a refund is being made nothing can be said, and nothing
/// changes: its money has left the wallet and is still owed.
///
/// # Errors
/// The ledger.
pub async fn watch(ctx: &Ctx) -> Result<Vec<Change>, LedgerError> {
    let before = ctx.sends.now();
    // The ledger first: what is paid meanwhile is in the wallet before it is there.
    let floats = floats(ctx)?;
    let held = match balances(ctx).await {
        Ok(held) => held,
        Err(why) => {
            tracing::warn!(%why, "the wallet does not tell what it holds");
            return Ok(Vec::new());
        }
    };
    if !before.0.is_empty() || ctx.sends.now() != before {
        return Ok(Vec::new());
    }
    let short = floats.into_iter().filter_map(|(purse, float)| {
        let have = held.get(&purse).copied().unwrap_or_default();
        let missing = float.saturating_sub(have);
        (!missing.is_zero()).then_some((purse, missing))
    });
    let changes = ctx.shortfalls.set(short.collect(), ctx.now());
    for change in &changes {
        match change {
            Change::Short((mint, unit), missing) => {
                tracing::warn!(%mint, %unit, %missing, "less ecash than may have to go back");
            }
            Change::Enough((mint, unit)) => {
                tracing::info!(%mint, %unit, "as much ecash again as may have to go back");
            }
        }
    }
    Ok(changes)
}

impl Shortfalls {
    fn set(&self, short: BTreeMap<Purse, Msat>, now: Timestamp) -> Vec<Change> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changes = Vec::new();
        known.retain(|purse, _| {
            let still = short.contains_key(purse);
            if !still {
                changes.push(Change::Enough(purse.clone()));
            }
            still
        });
        for (purse, missing) in short {
            if let Entry::Vacant(place) = known.entry(purse) {
                changes.push(Change::Short(place.key().clone(), missing));
                place.insert(now);
            }
        }
        changes
    }
}

/// What each purse of the wallet can spend.
pub(super) async fn balances(ctx: &Ctx) -> Result<BTreeMap<Purse, Msat>, String> {
    let held = ctx.parts.wallet.balances().await;
    let held = held.map_err(|error| error.to_string())?;
    let named = held.into_iter();
    Ok(named
        .map(|((mint, unit), msat)| ((mint.0, unit_name(&unit)), msat))
        .collect())
}

/// What the wallet holds and no row of the ledger explains, by purse: more than
/// the books of all leases have there. Money of a payment that is under way may
/// have come already, and is left out; and nothing can be said while refunds are
/// being made. It reads all leases.
///
/// # Errors
/// A sentence: the ledger, the wallet, or a sum that does not fit.
pub async fn unexplained(ctx: &Ctx) -> Result<BTreeMap<Purse, Msat>, String> {
    use PaymentState::{Invoiced, Lapsed};
    let may =
        |payment: &Payment| may_be_here(payment) || matches!(payment.state, Invoiced | Lapsed);
    looked(ctx, may).await
}

/// The same, where nobody is believed to pay an invoice: what has come for one, and
/// is not booked yet, stays too, and what never comes holds nothing back.
///
/// # Errors
/// As [`unexplained`].
pub(super) async fn not_booked(ctx: &Ctx) -> Result<BTreeMap<Purse, Msat>, String> {
    looked(ctx, may_be_here).await
}

/// Whether its ecash may be in the wallet and is on no lease's books yet.
pub(super) fn may_be_here(payment: &Payment) -> bool {
    use PaymentState::{Redeemed, Redeeming, Unknown};
    matches!(payment.state, Redeeming | Unknown | Redeemed)
}

async fn looked(
    ctx: &Ctx,
    arriving: fn(&Payment) -> bool,
) -> Result<BTreeMap<Purse, Msat>, String> {
    for _ in 0..TRIES {
        let before = ctx.sends.now();
        let found = compare(ctx, arriving).await?;
        // What is being sent is owed in the books no longer, or not yet.
        if before.0.is_empty() && ctx.sends.now() == before {
            return Ok(found);
        }
    }
    Ok(BTreeMap::new())
}

async fn compare(
    ctx: &Ctx,
    arriving: fn(&Payment) -> bool,
) -> Result<BTreeMap<Purse, Msat>, String> {
    // The wallet first: what comes meanwhile is in the books alone.
    let held = balances(ctx).await?;
    let read = ctx.ledger().read(|reader| {
        let mut sums = Sums::default();
        let mut coming: BTreeMap<Purse, Msat> = BTreeMap::new();
        for (_, lease) in reader.all(&LEASES)?.into_iter().chain(reader.all(&ENDED)?) {
            sums.add(&lease, ctx.now())?;
            for id in &lease.payments {
                let payment = reader.get(&PAYMENTS, &id.to_hex())?;
                if let Some(payment) = payment.filter(arriving) {
                    let sum = coming.entry((payment.mint, payment.unit)).or_default();
                    *sum = sum.checked_add(payment.face).ok_or_else(too_large)?;
                }
            }
        }
        let out = ledger::paid_out(&ledger::payouts(reader)?).ok_or_else(too_large)?;
        let mut merged = BTreeMap::new();
        for purse in held.keys() {
            let row = reader.get(&MERGES, &purse_key(purse))?;
            merged.insert(purse.clone(), row.unwrap_or_default().cost);
        }
        Ok((sums.0, coming, out, merged))
    });
    let (books, coming, out, merged) = read.map_err(|error| error.to_string())?;
    let mut found = BTreeMap::new();
    for (purse, held) in held {
        let dues = books.get(&purse).copied().unwrap_or_default();
        let coming = coming.get(&purse).copied().unwrap_or_default();
        let known = Msat::checked_sum([dues.known().ok_or("a sum does not fit")?, coming]);
        // What was paid out was here once, and is what the books call earned.
        let out = out.get(&purse).copied().unwrap_or_default();
        let merged = merged.get(&purse).copied().unwrap_or_default();
        let had = Msat::checked_sum([held, out.amount, out.fees, merged]);
        let had = had.ok_or("a sum does not fit")?;
        let rest = had.saturating_sub(known.ok_or("a sum does not fit")?);
        if !rest.is_zero() {
            found.insert(purse, rest);
        }
    }
    Ok(found)
}

/// What may have to go back of one purse.
///
/// # Errors
/// The ledger.
pub(super) fn float_of(ctx: &Ctx, purse: &Purse) -> Result<Msat, LedgerError> {
    Ok(floats(ctx)?.remove(purse).unwrap_or_default())
}

/// What may have to go back, by purse: of leases that are not over by their rows,
/// of the others by what the ledger keeps in memory.
fn floats(ctx: &Ctx) -> Result<BTreeMap<Purse, Msat>, LedgerError> {
    let mut sums = Sums::default();
    let now = ctx.now();
    ctx.ledger().read(|reader| {
        reader.each(&LEASES, "", |key, lease| {
            match lease {
                Ok(lease) => sums.add(&lease, now)?,
                Err(error) => tracing::error!(lease = %key, %error, "left out"),
            }
            Ok(true)
        })
    })?;
    for (purse, credit) in ctx.ledger().credits().ok_or_else(too_large)? {
        let dues = Dues {
            credit,
            ..Dues::default()
        };
        sums.put(purse, &dues)?;
    }
    let floats = sums.0.into_iter().map(|(purse, dues)| {
        let float = dues.float().ok_or_else(too_large)?;
        Ok((purse, float))
    });
    floats.collect()
}

/// What the books of these leases say, by purse.
///
/// # Errors
/// A sum that does not fit.
pub(super) fn books(
    leases: &[Lease],
    now: Timestamp,
) -> Result<BTreeMap<Purse, Dues>, LedgerError> {
    let mut sums = Sums::default();
    leases.iter().try_for_each(|lease| sums.add(lease, now))?;
    Ok(sums.0)
}

#[derive(Default)]
struct Sums(BTreeMap<Purse, Dues>);

impl Sums {
    fn add(&mut self, lease: &Lease, now: Timestamp) -> Result<(), LedgerError> {
        for (purse, dues) in lease.dues(now).ok_or_else(too_large)? {
            self.put(purse, &dues)?;
        }
        Ok(())
    }

    fn put(&mut self, purse: Purse, dues: &Dues) -> Result<(), LedgerError> {
        let sum = self.0.entry(purse).or_default();
        *sum = sum.plus(dues).ok_or_else(too_large)?;
        Ok(())
    }
}

fn too_large() -> LedgerError {
    LedgerError::Rule("a sum of money does not fit".to_owned())
}
