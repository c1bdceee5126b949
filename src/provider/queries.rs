//! Answers to the operator's questions, from the ledger and the wallet.

use std::sync::Arc;

use async_trait::async_trait;

use super::control::{BalanceView, LeaseView, MoneyView, Queries, RelayView, StatusView};
use super::ctx::{Ctx, open_leases, promised};
use super::handlers::describe;
use super::offer;
use crate::core::lease::Lease;
use crate::core::money::Msat;
use crate::core::time::Timestamp;
use crate::ledger::{ENDED, LEASES};
use crate::protocol::offer::Offer;
use crate::relay::session::Relays;
use crate::wallet::Unit;

/// The running provider, as the control socket sees it.
pub struct Desk {
    ctx: Arc<Ctx>,
    relays: Relays,
    started_at: Timestamp,
}

impl Desk {
    /// A desk for the provider that started now.
    pub fn new(ctx: Arc<Ctx>, relays: Relays) -> Self {
        let started_at = ctx.now();
        Self {
            ctx,
            relays,
            started_at,
        }
    }

    fn all(&self) -> Result<Vec<Lease>, String> {
        let read = self
            .ctx
            .ledger()
            .read(|r| Ok((r.all(&LEASES)?, r.all(&ENDED)?)));
        let (open, ended) = read.map_err(|error| error.to_string())?;
        Ok(open
            .into_iter()
            .chain(ended)
            .map(|(_, lease)| lease)
            .collect())
    }
}

#[async_trait]
impl Queries for Desk {
    async fn leases(&self) -> Result<Vec<LeaseView>, String> {
        let mut leases: Vec<_> = self
            .all()?
            .into_iter()
            .filter(|lease| lease.sold_seconds > 0)
            .collect();
        leases.sort_by_key(|lease| std::cmp::Reverse(lease.created_at));
        let view = |lease: &Lease| {
            let mut status = describe(&self.ctx, lease);
            status.refunds.clear();
            let backend = self.ctx.parts.backend.name().clone();
            LeaseView {
                owner: lease.owner,
                backend,
                status,
            }
        };
        Ok(leases.iter().map(view).collect())
    }

    async fn offer(&self) -> Result<Offer, String> {
        offer::current(&self.ctx)
            .await
            .map_err(|error| error.to_string())
    }

    async fn status(&self) -> Result<StatusView, String> {
        let open = self
            .ctx
            .ledger()
            .read(open_leases)
            .map_err(|error| error.to_string())?;
        let relays = self.relays.status();
        Ok(StatusView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            provider: self.ctx.parts.me,
            started_at: self.started_at,
            draining: false,
            leases: promised(&open).1,
            relays: relays
                .into_iter()
                .map(|relay| RelayView {
                    url: relay.url,
                    connected: relay.connected,
                })
                .collect(),
        })
    }

    async fn money(&self) -> Result<MoneyView, String> {
        let balances = self.ctx.parts.wallet.balances().await;
        let balances = balances.map_err(|error| error.to_string())?;
        let leases = self.all()?;
        let now = self.ctx.now();
        let sum = |of: &dyn Fn(&Lease) -> Option<Msat>| {
            Msat::checked_sum(leases.iter().filter_map(of)).unwrap_or_default()
        };
        Ok(MoneyView {
            balances: balances
                .into_iter()
                .map(|((mint, unit), msat)| BalanceView {
                    mint: mint.0,
                    unit: if unit == Unit::Msat { "msat" } else { "sat" }.to_owned(),
                    msat,
                })
                .collect(),
            received_msat: sum(&|lease| lease.money.paid.checked_sub(lease.money.mint_fees)),
            served_msat: sum(&|lease| lease.served(now)),
            refunded_msat: sum(&|lease| Some(lease.money.refunded)),
        })
    }
}
