//! Ecash for invoices: lost answers, lost processes and a lost file.

use super::*;
use satlet::wallet::MintQuote;

const QUOTE: &str = "/v1/mint/quote/bolt11";
const MINT: &str = "/v1/mint/bolt11";

/// Asks until the ecash is there, as the lease's task does.
async fn collected(wallet: &CdkWallet, quote: &MintQuote) -> Msat {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match wallet.collect(quote).await {
            Ok(Some(got)) => return got,
            Ok(None) | Err(WalletError::MintDown(_) | WalletError::OutcomeUnknown(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
        assert!(Instant::now() < deadline, "it never comes");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_the_answers_the_ecash_of_an_invoice_comes_once() {
    let stage = behind().await;
    let mut options = options(stage.dir.path(), 1, &[&stage.url.0]);
    options.timeout = Duration::from_secs(2);
    for again in [false, true] {
        for fault in Fault::ALL {
            let wallet = CdkWallet::open(options.clone()).await.unwrap();
            let before = total(&wallet).await;
            let quote = wallet.invoice(&stage.url, &Unit::Sat, sat(21)).await;
            let quote = quote.unwrap();
            let asked = stage.proxy.seen(MINT);
            stage.proxy.strike(MINT, fault);
            let mut wallet = wallet;
            while stage.proxy.seen(MINT) == asked {
                drop(wallet.collect(&quote).await);
            }
            if again {
                wallet.close().await;
                wallet = CdkWallet::open(options.clone()).await.unwrap();
                wallet.recover().await.unwrap();
            }
            assert_eq!(collected(&wallet, &quote).await, sat(21), "{fault:?}");
            let after = before.checked_add(sat(21));
            assert_eq!(Some(total(&wallet).await), after, "{fault:?}");
            wallet.recover().await.unwrap();
            assert_eq!(collected(&wallet, &quote).await, sat(21));
            assert_eq!(Some(total(&wallet).await), after, "{fault:?}");
            wallet.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invoice_whose_answer_is_lost_is_no_loss() {
    let stage = behind().await;
    let wallet = stage.wallet(1).await;
    for fault in [Fault::DropRequest, Fault::DropResponse, Fault::CutResponse] {
        stage.proxy.strike(QUOTE, fault);
        let error = wallet.invoice(&stage.url, &Unit::Sat, sat(21)).await;
        assert!(matches!(error, Err(WalletError::MintDown(_))), "{error:?}");
    }
    let quote = wallet.invoice(&stage.url, &Unit::Sat, sat(5)).await;
    assert_eq!(collected(&wallet, &quote.unwrap()).await, sat(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wallet_that_has_lost_its_file_gets_the_ecash_by_its_seed() {
    let stage = behind().await;
    for issued in [false, true] {
        let seed = 1 + u8::from(issued);
        let wallet = stage.wallet(seed).await;
        // The key is not the first one.
        wallet
            .invoice(&stage.url, &Unit::Sat, sat(3))
            .await
            .unwrap();
        let quote = wallet.invoice(&stage.url, &Unit::Sat, sat(21)).await;
        let quote = quote.unwrap();
        if issued {
            collected(&wallet, &quote).await;
        }
        wallet.close().await;
        let dir = stage.dir.path().join(format!("wallet-{seed}"));
        std::fs::remove_dir_all(dir).unwrap();
        let wallet = stage.wallet(seed).await;
        assert_eq!(collected(&wallet, &quote).await, sat(21), "{issued}");
        assert_eq!(total(&wallet).await, sat(21), "{issued}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_unpaid_invoices_are_asked_about_by_turns_and_not_for_ever() {
    let by_hand = MintOptions {
        by_hand: true,
        ..MintOptions::default()
    };
    let mint = TestMint::start(by_hand).await.unwrap();
    let proxy = Proxy::start(mint.addr()).await;
    let dir = tempfile::tempdir().unwrap();
    let url = MintUrl(proxy.url());
    let wallet = open(dir.path(), 1, &url.0).await;
    let mut quotes = Vec::new();
    for _ in 0..40 {
        quotes.push(wallet.invoice(&url, &Unit::Sat, sat(1)).await.unwrap());
    }
    let asked = |path: &str| proxy.seen_below(path);
    let before = asked(QUOTE);
    wallet.recover().await.unwrap();
    assert!(asked(QUOTE) - before <= 20, "{}", asked(QUOTE) - before);
    mint.pay(&quotes[17].bolt11).await.unwrap();
    for _ in 0..3 {
        wallet.recover().await.unwrap();
    }
    assert_eq!(total(&wallet).await, sat(1), "its turn has come");
    for quote in &quotes {
        wallet.forget_invoice(quote).await.unwrap();
    }
    let before = asked(QUOTE);
    wallet.recover().await.unwrap();
    assert_eq!(asked(QUOTE), before);
    // Paid all the same, it is not the wallet's business any more, and the ledger
    // can still ask.
    mint.pay(&quotes[3].bolt11).await.unwrap();
    wallet.recover().await.unwrap();
    assert_eq!(total(&wallet).await, sat(1));
    assert_eq!(collected(&wallet, &quotes[3]).await, sat(1));
    assert_eq!(total(&wallet).await, sat(2));
}
