//! Locked tokens and invoices at a mint that nobody here wrote.

use std::time::Duration;

use async_trait::async_trait;
use satlet::wallet::cdk_wallet::{CdkWallet, WalletMint, WalletOptions};
use satlet::wallet::conformance::{self, Bench, sat};
use satlet::wallet::{MintUrl, Unit, Wallet};
use tempfile::TempDir;

use crate::support::servers::Nutshell;

pub(super) struct NutshellBench {
    _dir: TempDir,
    _mint: Nutshell,
    pub(super) url: MintUrl,
    pub(super) wallet: CdkWallet,
    other: CdkWallet,
    pub(super) payer: CdkWallet,
}

impl NutshellBench {
    pub(super) async fn start() -> Result<Self, String> {
        let mint = Nutshell::start(Nutshell::program()?).await;
        let dir = tempfile::tempdir().unwrap();
        let url = MintUrl(mint.url());
        let open = |seed: u8| {
            CdkWallet::open(WalletOptions {
                dir: dir.path().join(seed.to_string()),
                seed: [seed; 64],
                mints: vec![WalletMint {
                    url: url.0.clone(),
                    requests_per_minute: 6000,
                }],
                timeout: Duration::from_secs(20),
                allow_any_mint: false,
            })
        };
        let (wallet, other, payer) = (open(1).await, open(2).await, open(3).await);
        let bench = Self {
            wallet: wallet.unwrap(),
            other: other.unwrap(),
            payer: payer.unwrap(),
            url: url.clone(),
            _mint: mint,
            _dir: dir,
        };
        let quote = bench
            .payer
            .mint_quote(&url, &Unit::Sat, sat(5000))
            .await
            .unwrap();
        let paid = bench.payer.mint_wait(&quote, Duration::from_secs(30));
        paid.await.unwrap();
        Ok(bench)
    }
}

#[async_trait]
impl Bench for NutshellBench {
    fn wallet(&self) -> &dyn Wallet {
        &self.wallet
    }
    fn other(&self) -> &dyn Wallet {
        &self.other
    }
    fn mint(&self) -> MintUrl {
        self.url.clone()
    }
    async fn token(&self, amount: u64) -> String {
        let sent = self.payer.send(&self.url, &Unit::Sat, sat(amount), false);
        sent.await.unwrap().token
    }
    async fn foreign(&self) -> String {
        unreachable!("not asked for by these cases")
    }
    async fn cents(&self) -> String {
        unreachable!("not asked for by these cases")
    }
    async fn fund(&self, _: u64) {
        unreachable!("not asked for by these cases")
    }
    async fn set_down(&self, _: bool) {
        unreachable!("not asked for by these cases")
    }
    async fn pay(&self, _: &str) {
        // Its fake Lightning node pays every invoice.
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nutshell_keeps_locks() {
    let bench = match NutshellBench::start().await {
        Ok(bench) => bench,
        Err(why) => skip!("{why}"),
    };
    assert!(bench.wallet.facts(&bench.url).await.unwrap().locks);
    conformance::redeems_what_is_locked_to_it(&bench).await;
    conformance::takes_back_after_the_locktime(&bench).await;
    let bench = match NutshellBench::start().await {
        Ok(bench) => bench,
        Err(why) => skip!("{why}"),
    };
    conformance::a_thief_gets_no_locked_money(&bench).await;
    conformance::claims_what_comes_back_to_it(&bench).await;
    let bench = match NutshellBench::start().await {
        Ok(bench) => bench,
        Err(why) => skip!("{why}"),
    };
    conformance::redeems_what_is_hashed_with_the_preimage(&bench).await;
    conformance::takes_hashed_money_back_after_the_locktime(&bench).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nutshell_gives_ecash_for_a_paid_invoice_once_and_to_nobody_else() {
    let bench = match NutshellBench::start().await {
        Ok(bench) => bench,
        Err(why) => skip!("{why}"),
    };
    conformance::makes_ecash_of_a_paid_invoice_once(&bench).await;
}
