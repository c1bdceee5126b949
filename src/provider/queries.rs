//! Answers to the operator's questions, from the ledger.

use std::sync::Arc;

use async_trait::async_trait;

use super::control::{
    BalanceView, LeaseView, MoneyView, Queries, RelayView, ReloadView, StatusView,
};
use super::ctx::{Ctx, promised};
use super::handlers::describe;
use super::offer;
use crate::core::lease::Lease;
use crate::core::money::Msat;
use crate::core::time::Timestamp;
use crate::ledger::{ENDED, LEASES};
use crate::protocol::offer::Offer;
use crate::relay::session::Relays;
use crate::wallet::Unit;

/// Most leases in one answer.
const MAX_LEASES: usize = 10_000;

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
        let read = self
            .ctx
            .ledger()
            .read(|reader| Ok((reader.all(&LEASES)?, reader.all(&ENDED)?)));
        let (open, ended) = read.map_err(|error| error.to_string())?;
        let mut leases: Vec<Lease> = open.into_iter().chain(ended).map(|(_, l)| l).collect();
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
        let balances = self.ctx.parts.wallet.balances().await;
        let balances = balances.map_err(|error| error.to_string())?;
        let balances = balances
            .into_iter()
            .map(|((mint, unit), msat)| BalanceView {
                mint: mint.0,
                unit: match unit {
                    Unit::Sat => "sat".to_owned(),
                    Unit::Msat => "msat".to_owned(),
                },
                msat,
            });
        let leases = self.all()?;
        let sum = |part: fn(&Lease) -> Msat| {
            Msat::checked_sum(leases.iter().map(part)).ok_or("the sum does not fit".to_owned())
        };
        Ok(MoneyView {
            balances: balances.collect(),
            received_msat: sum(|l| l.money.paid.saturating_sub(l.money.mint_fees))?,
            served_msat: sum(|l| l.money.served)?,
            refunded_msat: sum(|l| l.money.refunded)?,
        })
    }
}
