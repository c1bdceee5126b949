//! Invoices paid at a mint that nobody here wrote.

use std::path::Path;
use std::time::Duration;

use satlet::core::money::Msat;
use satlet::wallet::cdk_wallet::{CdkWallet, WalletMint, WalletOptions};
use satlet::wallet::conformance::sat;
use satlet::wallet::fake::{Fate, invoice};
use satlet::wallet::{Melt, MintUrl, Unit, Wallet, WalletError};

use crate::support::servers::Nutshell;

async fn open(dir: &Path, url: &MintUrl) -> CdkWallet {
    let options = WalletOptions {
        dir: dir.join("wallet"),
        seed: [5; 64],
        mints: vec![WalletMint {
            url: url.0.clone(),
            requests_per_minute: 6000,
        }],
        timeout: Duration::from_secs(20),
        allow_any_mint: false,
    };
    let wallet = CdkWallet::open(options).await.unwrap();
    wallet.recover().await.unwrap();
    wallet
}

async fn total(wallet: &CdkWallet) -> Msat {
    let all = wallet.balances().await.unwrap();
    Msat::checked_sum(all.into_values()).unwrap()
}

/// Begins to pay 100 sat; the quote's name, and what is said at once.
async fn pay(wallet: &CdkWallet, url: &MintUrl) -> (String, Melt) {
    let bolt11 = invoice(sat(100), Fate::Pays);
    let quote = wallet.melt_quote(url, &Unit::Sat, &bolt11).await.unwrap();
    let most = quote.most().unwrap();
    let melt = wallet.melt(url, &Unit::Sat, &quote.id, most).await;
    (quote.id, melt.unwrap())
}

/// What the mint says once it is not under way any more.
async fn end(wallet: &CdkWallet, url: &MintUrl, quote: &str) -> Melt {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let state = wallet.melt_state(url, &Unit::Sat, quote).await;
        match state {
            Ok(Melt::Pending) => {}
            Ok(other) => return other,
            // Nutshell fails where it is asked at the moment of settling.
            Err(WalletError::MintDown(_)) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(tokio::time::Instant::now() < deadline, "it pends for ever");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn cost(melt: &Melt) -> Msat {
    match melt {
        Melt::Paid { amount, fee, .. } => amount.checked_add(*fee).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// What is gone is what is known to be spent, and a swap for each try at most.
fn accounted(before: Msat, after: Msat, known: Msat, tries: u64) {
    let gone = before.checked_sub(after).unwrap();
    let most = known.checked_add(sat(tries)).unwrap();
    assert!(gone >= known && gone <= most, "{gone} gone, {known} known");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nutshell_pays_and_what_pends_is_found_out_after_restarts_of_both() {
    const PENDS: &[(&str, &str)] = &[
        ("FAKEWALLET_PAY_INVOICE_STATE", "PENDING"),
        ("FAKEWALLET_PAYMENT_STATE", "PENDING"),
    ];
    const FAILED: &[(&str, &str)] = &[
        ("FAKEWALLET_PAY_INVOICE_STATE", "FAILED"),
        ("FAKEWALLET_PAYMENT_STATE", "FAILED"),
    ];
    let program = match Nutshell::program() {
        Ok(program) => program,
        Err(why) => skip!("{why}"),
    };
    let dir = tempfile::tempdir().unwrap();
    let mint = Nutshell::start(program.clone()).await;
    let url = MintUrl(mint.url());
    let wallet = open(dir.path(), &url).await;
    let quote = wallet
        .mint_quote(&url, &Unit::Sat, sat(1000))
        .await
        .unwrap();
    wallet
        .mint_wait(&quote, Duration::from_secs(30))
        .await
        .unwrap();

    let before = total(&wallet).await;
    let (quote, _) = pay(&wallet, &url).await;
    let paid = end(&wallet, &url, &quote).await;
    accounted(before, total(&wallet).await, cost(&paid), 1);

    // Under way, while everything is started again; then it arrives.
    let mint = mint.restart_with(program.clone(), PENDS).await;
    let before = total(&wallet).await;
    let (arrives, said) = pay(&wallet, &url).await;
    assert_eq!(said, Melt::Pending);
    wallet.close().await;
    let wallet = open(dir.path(), &url).await;
    let state = wallet.melt_state(&url, &Unit::Sat, &arrives).await;
    assert_eq!(state, Ok(Melt::Pending));
    let mint = mint.restart_with(program.clone(), &[]).await;
    let state = end(&wallet, &url, &arrives).await;
    // What was not used of the reserve is back.
    accounted(before, total(&wallet).await, cost(&state), 1);
    assert!(cost(&state) <= sat(102), "{state:?}");

    // Under way, and then it fails.
    let mint = mint.restart_with(program.clone(), PENDS).await;
    let before = total(&wallet).await;
    let (fails, said) = pay(&wallet, &url).await;
    assert_eq!(said, Melt::Pending);
    let mint = mint.restart_with(program.clone(), FAILED).await;
    wallet.close().await;
    let wallet = open(dir.path(), &url).await;
    let state = end(&wallet, &url, &fails).await;
    assert!(matches!(state, Melt::NotPaid(_)), "{state:?}");
    accounted(before, total(&wallet).await, Msat::ZERO, 1);

    // It fails at once.
    let before = total(&wallet).await;
    let (quote, _) = pay(&wallet, &url).await;
    let said = end(&wallet, &url, &quote).await;
    assert!(matches!(said, Melt::NotPaid(_)), "{said:?}");
    accounted(before, total(&wallet).await, Msat::ZERO, 1);
    let mint = mint.restart_with(program, &[]).await;
    let (quote, _) = pay(&wallet, &url).await;
    cost(&end(&wallet, &url, &quote).await);
    drop(mint);
}
