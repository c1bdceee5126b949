//! Answers to the operator's questions, from the ledger.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::control::{
    LeaseView, MintView, MoneyView, PayoutView, PurseView, Queries, RelayView, ReloadView,
    StatusView, Withdrawal,
};
use super::ctx::{Ctx, promised};
use super::handlers::describe;
use super::offer;
use super::payouts;
use super::pool;
use super::solvency;
use crate::core::lease::{Dues, Lease, Purse};
use crate::core::money::Msat;
use crate::core::payment::PaymentState;
use crate::core::time::Timestamp;
use crate::ledger::{self, ENDED, LEASES, MERGES, PAYMENTS, PaidOut, purse_key};
use crate::protocol::offer::Offer;
use crate::relay::session::Relays;

/// Most leases in one answer.
const MAX_LEASES: usize = 10_000;
/// Payouts that are over in one answer.
const MAX_PAYOUTS: usize = 20;

/// Answers from a running provider.
pub struct ProviderQueries {
    ctx: Arc<Ctx>,
    relays: Relays,
    started_at: Timestamp,
    reload: Reload,
}

/// Reads the configuration file again; blocking.
pub type Reload = Arc<dyn Fn() -> Result<ReloadView, String> + Send + Sync>;

impl ProviderQueries {
    /// Answers from this provider, which starts now.
    pub fn new(ctx: Arc<Ctx>, relays: Relays, reload: Reload) -> Self {
        let started_at = ctx.now();
        Self {
            ctx,
            relays,
            started_at,
            reload,
        }
    }

    /// All leases, open ones first, each group newest first.
    fn all(&self) -> Result<Vec<Lease>, String> {
        let mut leases = leases(&self.ctx)?;
        leases.sort_by_key(|lease| std::cmp::Reverse((!lease.has_ended(), lease.created_at)));
        Ok(leases)
    }
}

#[async_trait]
impl Queries for ProviderQueries {
    async fn reload(&self) -> Result<ReloadView, String> {
        let reload = Arc::clone(&self.reload);
        let done = tokio::task::spawn_blocking(move || reload()).await;
        done.map_err(|error| error.to_string())?
    }

    async fn leases(&self) -> Result<Vec<LeaseView>, String> {
        let mut leases = self.all()?;
        leases.truncate(MAX_LEASES);
        Ok(leases
            .iter()
            .map(|lease| LeaseView {
                owner: lease.owner,
                backend: self.ctx.parts.backend.name().clone(),
                status: describe(&self.ctx, lease),
            })
            .collect())
    }

    async fn offer(&self) -> Result<Offer, String> {
        let now = offer::current(&self.ctx).await;
        now.map_err(|error| error.to_string())
    }

    async fn status(&self) -> Result<StatusView, String> {
        let (_, leases) = promised(&self.ctx.ledger().held());
        let relays = self.relays.status().into_iter().map(|relay| RelayView {
            connected: relay.connected,
            url: relay.url,
        });
        Ok(StatusView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            provider: self.ctx.me(),
            started_at: self.started_at,
            draining: false,
            leases,
            relays: relays.collect(),
        })
    }

    async fn money(&self) -> Result<MoneyView, String> {
        money(&self.ctx).await
    }

    async fn withdraw(&self, ask: Withdrawal) -> Result<PayoutView, String> {
        payouts::withdraw(&self.ctx, ask).await
    }

    async fn payout(&self, hash: &str) -> Result<PayoutView, String> {
        payouts::view(&self.ctx, hash)
    }

    async fn mints(&self) -> Result<Vec<MintView>, String> {
        Ok(self.ctx.mints.views())
    }
}

fn leases(ctx: &Ctx) -> Result<Vec<Lease>, String> {
    let read = ctx
        .ledger()
        .read(|reader| Ok((reader.all(&LEASES)?, reader.all(&ENDED)?)));
    let (open, ended) = read.map_err(|error| error.to_string())?;
    Ok(open.into_iter().chain(ended).map(|(_, l)| l).collect())
}

/// What the wallet holds, beside the books of all leases.
///
/// # Errors
/// A sentence: the ledger, the wallet, or a sum that does not fit.
pub async fn money(ctx: &Ctx) -> Result<MoneyView, String> {
    let leases = leases(ctx)?;
    let sum = |part: fn(&Lease) -> Msat| {
        Msat::checked_sum(leases.iter().map(part)).ok_or("the sum does not fit".to_owned())
    };
    let paid = ctx.ledger().read(ledger::payouts);
    let mut paid = paid.map_err(|error| error.to_string())?;
    let out = ledger::paid_out(&paid).ok_or("the sum does not fit")?;
    paid.sort_by_key(|payout| std::cmp::Reverse((payout.is_open(), payout.begun)));
    let mut over = 0;
    paid.retain(|payout| {
        over += usize::from(!payout.is_open());
        payout.is_open() || over <= MAX_PAYOUTS
    });
    Ok(MoneyView {
        payouts: paid.iter().map(PayoutView::of).collect(),
        received_msat: sum(|l| l.money.paid.saturating_sub(l.money.mint_fees))?,
        served_msat: sum(Lease::paid_served)?,
        refunded_msat: sum(|l| l.money.refunded)?,
        purses: purses(ctx, &leases, &out).await?,
        pool: pool::view(ctx).map_err(|error| error.to_string())?,
    })
}

/// The wallet beside the books; the books first, so that what is paid meanwhile
/// makes nobody look poor.
async fn purses(
    ctx: &Ctx,
    leases: &[Lease],
    out: &BTreeMap<Purse, PaidOut>,
) -> Result<Vec<PurseView>, String> {
    let mut books = solvency::books(leases, ctx.now()).map_err(|error| error.to_string())?;
    let held = solvency::balances(ctx).await?;
    let unexplained = solvency::unexplained(ctx).await?;
    let coming = coming(ctx)?;
    for purse in held.keys().chain(out.keys()).chain(coming.keys()) {
        books.entry(purse.clone()).or_default();
    }
    let view = |(purse, dues): (Purse, Dues)| {
        let of = |sums: &BTreeMap<Purse, Msat>| sums.get(&purse).copied().unwrap_or_default();
        let beside = Beside {
            balance: of(&held),
            unexplained: of(&unexplained),
            coming: of(&coming),
            out: out.get(&purse).copied().unwrap_or_default(),
        };
        purse_view(ctx, purse, &dues, &beside).ok_or("a sum does not fit".to_owned())
    };
    books.into_iter().map(view).collect()
}

/// What payments are over that have begun and of which nothing is known to be ours.
fn coming(ctx: &Ctx) -> Result<BTreeMap<Purse, Msat>, String> {
    let all = ctx.ledger().read(|reader| reader.all(&PAYMENTS));
    let mut sums = BTreeMap::<Purse, Msat>::new();
    for (_, payment) in all.map_err(|error| error.to_string())? {
        if is_coming(payment.state) {
            let sum = sums.entry((payment.mint, payment.unit)).or_default();
            let more = sum.checked_add(payment.face);
            *sum = more.ok_or("a sum does not fit")?;
        }
    }
    Ok(sums)
}

fn is_coming(state: PaymentState) -> bool {
    match state {
        PaymentState::Held
        | PaymentState::Reserved
        | PaymentState::Redeeming
        | PaymentState::Unknown
        | PaymentState::Invoiced => true,
        PaymentState::Redeemed
        | PaymentState::Settled
        | PaymentState::Lapsed
        | PaymentState::Rejected => false,
    }
}

/// What is known of a purse beside the books of leases.
struct Beside {
    balance: Msat,
    unexplained: Msat,
    coming: Msat,
    out: PaidOut,
}

fn purse_view(ctx: &Ctx, purse: Purse, dues: &Dues, beside: &Beside) -> Option<PurseView> {
    let float = dues.float()?;
    let served = i64::try_from(dues.served.get()).ok()?;
    let absorbed = i64::try_from(dues.absorbed.get()).ok()?;
    let short = float.saturating_sub(beside.balance);
    let since = ctx.shortfalls.since(&purse);
    let key = purse_key(&purse);
    let merges = ctx.ledger().read(|reader| reader.get(&MERGES, &key));
    let merged = merges.ok()?.unwrap_or_default().cost;
    let (mint, unit) = purse;
    Some(PurseView {
        mint,
        unit,
        balance_msat: beside.balance,
        owed_msat: dues.owed,
        unclaimed_msat: dues.out,
        coming_msat: beside.coming,
        credit_msat: dues.credit,
        unserved_msat: dues.unserved,
        float_msat: float,
        earned_msat: served.checked_sub(absorbed)?,
        withdrawn_msat: beside.out.amount,
        payout_fees_msat: beside.out.fees,
        leaving_msat: beside.out.leaving,
        mint_fees_msat: dues.fees,
        unexplained_msat: beside.unexplained,
        merge_fees_msat: merged,
        short_msat: short,
        short_since: since.filter(|_| !short.is_zero()),
    })
}
