//! A mint in this process: cdk's mint over fake Lightning (every invoice is
//! paid at once, or when a test says so), its database in memory, served on a free loopback port.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use cdk::Mint;
use cdk::cdk_payment::{PaymentIdentifier, WaitPaymentResponse};
use cdk::mint::{MintBuilder, MintMeltLimits};
use cdk::nuts::{CurrencyUnit, Id, PaymentMethod};
use cdk::types::FeeReserve;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::port::Port;
use crate::core::money::{MSAT_PER_SAT, Msat};
use crate::wallet::cdk_wallet::CdkWallet;
use crate::wallet::{MintUrl, Unit};

/// Largest amount of one invoice, in pieces of the unit.
const MAX_INVOICE: u64 = 100_000_000;

/// Longer than any test.
const NEVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// How a [`TestMint`] is set up.
#[derive(Clone, Debug)]
pub struct MintOptions {
    /// Input fee in parts per thousand per proof (NUT-02).
    pub input_fee_ppk: u64,
    /// Units it issues.
    pub units: Vec<Unit>,
    /// How long its Lightning node takes to pay and to be paid; whole seconds.
    pub delay: Duration,
    /// Whether its invoices are paid by nobody but [`TestMint::pay`].
    pub by_hand: bool,
}

impl Default for MintOptions {
    fn default() -> Self {
        Self {
            input_fee_ppk: 100,
            units: vec![Unit::Sat, Unit::Msat],
            delay: Duration::ZERO,
            by_hand: false,
        }
    }
}

/// A mint that runs in this process until it is dropped.
pub struct TestMint {
    mint: Arc<Mint>,
    port: Port,
    server: Option<Server>,
}

struct Server {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Drop for TestMint {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.task.abort();
        }
    }
}

impl TestMint {
    /// Starts a mint with no ecash out.
    ///
    /// # Errors
    /// Where the mint cannot be built or no loopback port be had.
    pub async fn start(options: MintOptions) -> Result<Self> {
        let mint = Arc::new(build(&options).await?);
        mint.start().await.context("start the mint")?;
        let mut this = Self {
            mint,
            port: Port::take().context("take a port")?,
            server: None,
        };
        this.serve().await?;
        Ok(this)
    }

    /// Its URL.
    pub fn url(&self) -> MintUrl {
        MintUrl(format!("http://{}", self.addr()))
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// Stops serving: connections are closed, new ones refused. What was issued
    /// and spent is kept for [`restart`](Self::restart).
    pub async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            let _ = server.stop.send(());
            // Kept-alive connections would hold a graceful end up.
            server.task.abort();
            let _ = server.task.await;
        }
    }

    /// Serves again on the same port with the same state.
    ///
    /// # Errors
    /// Where this process has no more file descriptors.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await;
        self.serve().await
    }

    /// Mints `sat` of ecash into `wallet` over the fake Lightning.
    ///
    /// # Errors
    /// As [`CdkWallet::mint_quote`] and [`CdkWallet::mint_wait`].
    pub async fn fund(&self, wallet: &CdkWallet, sat: u64) -> Result<()> {
        let amount = Msat::from_sat(sat).context("too much")?;
        self.fund_unit(wallet, &Unit::Sat, amount).await
    }

    /// As [`fund`](Self::fund), in another unit.
    ///
    /// # Errors
    /// As [`fund`](Self::fund).
    pub async fn fund_unit(&self, wallet: &CdkWallet, unit: &Unit, amount: Msat) -> Result<()> {
        let quote = wallet.mint_quote(&self.url(), unit, amount).await?;
        wallet.mint_wait(&quote, Duration::from_secs(30)).await?;
        Ok(())
    }

    /// The face of all ecash in satoshi that is out: what it has issued and not
    /// taken back, wherever it may be.
    ///
    /// # Errors
    /// Of its database.
    pub async fn outstanding(&self) -> Result<Msat> {
        let sum = |of: HashMap<Id, cdk::Amount>| -> u64 {
            let keysets = self.mint.keysets().keysets.into_iter();
            let sat = keysets.filter(|keyset| keyset.unit == CurrencyUnit::Sat);
            sat.filter_map(|keyset| of.get(&keyset.id).copied())
                .map(u64::from)
                .sum()
        };
        let issued = sum(self.mint.total_issued().await?);
        let redeemed = sum(self.mint.total_redeemed().await?);
        let out = issued.checked_sub(redeemed).context("more than there is")?;
        Msat::from_sat(out).context("too much")
    }

    /// Pays an invoice of this mint.
    ///
    /// # Errors
    /// Where it is none, or names no amount.
    pub async fn pay(&self, bolt11: &str) -> Result<()> {
        let invoice: cdk::Bolt11Invoice = bolt11.parse().context("no invoice")?;
        let msat = invoice.amount_milli_satoshis().context("no amount")?;
        let hash = *invoice.payment_hash().as_ref();
        let paid = WaitPaymentResponse {
            payment_identifier: PaymentIdentifier::PaymentHash(hash),
            payment_amount: cdk::Amount::new(msat / MSAT_PER_SAT, CurrencyUnit::Sat),
            payment_id: invoice.payment_hash().to_string(),
        };
        self.mint.pay_mint_quote_for_request_id(paid).await?;
        Ok(())
    }

    async fn serve(&mut self) -> Result<()> {
        let listener = self.port.listen().await.context("listen")?;
        let methods = vec!["bolt11".to_owned()];
        let router = cdk_axum::create_mint_router(Arc::clone(&self.mint), methods)
            .await?
            .layer(axum::middleware::from_fn(to_the_end));
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let served = axum::serve(listener, router);
            tokio::select! {
                _ = served => {}
                _ = stopped => {}
            }
        });
        self.server = Some(Server { stop, task });
        Ok(())
    }
}

/// Serves a request to its end, though its caller may be gone: a swap that is
/// dropped half-way leaves its proofs pending until the mint starts again.
async fn to_the_end(request: Request, next: Next) -> Response {
    tokio::spawn(next.run(request))
        .await
        .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

async fn build(options: &MintOptions) -> Result<Mint> {
    let store = Arc::new(cdk_sqlite::mint::memory::empty().await?);
    let mut builder = MintBuilder::new(Arc::clone(&store) as _)
        .with_name("satlet test mint".to_owned())
        .with_description("ecash without value".to_owned());
    for unit in &options.units {
        let unit = match unit {
            Unit::Sat => CurrencyUnit::Sat,
            Unit::Msat => CurrencyUnit::Msat,
        };
        let lightning = cdk_fake_wallet::FakeWallet::new(
            FeeReserve {
                // A payment costs it 1: the rest comes back.
                min_fee_reserve: 3.into(),
                percent_fee_reserve: 0.0,
            },
            HashMap::new(),
            HashSet::new(),
            match options.by_hand {
                true => NEVER.as_secs(),
                false => options.delay.as_secs(),
            },
            unit.clone(),
        );
        builder
            .add_payment_processor(
                unit.clone(),
                PaymentMethod::BOLT11,
                MintMeltLimits::new(1, MAX_INVOICE),
                Arc::new(lightning),
            )
            .await?;
        builder.set_unit_fee(&unit, options.input_fee_ppk)?;
    }
    let seed: [u8; 64] = {
        let mut seed = [0; 64];
        rand::RngCore::fill_bytes(&mut rand::rng(), &mut seed);
        seed
    };
    Ok(builder.build_with_seed(store, &seed).await?)
}
