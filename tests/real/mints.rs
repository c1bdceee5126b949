//! Whether mints that nobody here wrote, and those of cdk, are fit.

use std::time::Duration;

use satlet::core::mint::Standing;
use satlet::core::purse::{Merge, fee};
use satlet::demo::mint::{MintOptions, TestMint};
use satlet::provider::mints;
use satlet::provider::settings::MintSetting;
use satlet::wallet::conformance::sat;
use satlet::wallet::{Unit, Wallet};

use super::locks::NutshellBench;
use crate::support::shop::Shop;
use satlet::wallet::cdk_wallet::{CdkWallet, WalletMint, WalletOptions};

/// A shop that accepts these mints, with the real wallet, which has asked them.
async fn shop(urls: &[String]) -> (Shop, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let wallet = CdkWallet::open(WalletOptions {
        dir: dir.path().to_owned(),
        seed: [9; 64],
        mints: urls
            .iter()
            .map(|url| WalletMint {
                url: url.clone(),
                requests_per_minute: 6000,
            })
            .collect(),
        timeout: Duration::from_secs(10),
        allow_any_mint: false,
    });
    let wallet = std::sync::Arc::new(wallet.await.unwrap());
    let shop = Shop::open_at(Some(wallet), |settings| {
        settings.mints = urls
            .iter()
            .map(|url| MintSetting {
                url: url.clone(),
                ..MintSetting::default()
            })
            .collect();
    });
    let shop = shop.await;
    mints::at_start(shop.ctx()).await;
    (shop, dir)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mint_of_cdk_is_fit_and_one_that_is_too_dear_is_not() {
    let cheap = TestMint::start(MintOptions::default()).await.unwrap();
    let dear = TestMint::start(MintOptions {
        input_fee_ppk: 5000,
        ..MintOptions::default()
    });
    let dear = dear.await.unwrap();
    let nobody = "http://127.0.0.1:9".to_owned();
    let urls = [cheap.url().0, dear.url().0, nobody.clone()];
    let (shop, _dir) = shop(&urls).await;
    let known = &shop.ctx().mints;
    let views = known.views();
    let of = |url: &str| views.iter().find(|view| view.mint == url).unwrap();
    let good = of(&cheap.url().0);
    assert_eq!((good.state, good.input_fee_ppk), (Standing::Ok, Some(100)));
    assert!(good.latency_ms.is_some() && good.failing_per_thousand == 0);
    let bad = of(&dear.url().0);
    assert_eq!(bad.state, Standing::Refused);
    assert_eq!(
        bad.why,
        "it takes 5000 thousandths of a sat for each proof, and 1000 are accepted"
    );
    let silent = of(&nobody);
    assert_eq!(silent.state, Standing::Probing);
    assert!(silent.failing_per_thousand > 0, "{silent:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nutshell_is_fit_and_merges_proofs() {
    let bench = match NutshellBench::start().await {
        Ok(bench) => bench,
        Err(why) => skip!("{why}"),
    };
    let (shop, _dir) = shop(std::slice::from_ref(&bench.url.0)).await;
    let view = shop.ctx().mints.views().remove(0);
    assert_eq!(view.state, Standing::Ok, "{view:?}");
    for nut in satlet::core::mint::NEEDED {
        assert!(view.nuts.contains(&nut), "{view:?}");
    }
    // And merges, once.
    let (payer, url, unit) = (&bench.payer, &bench.url, Unit::Sat);
    for _ in 0..3 {
        let sent = payer.send(url, &unit, sat(63), false).await.unwrap();
        let payment = bench.wallet.inspect(&sent.token).unwrap().payment;
        bench.wallet.redeem(payment, &sent.token).await.unwrap();
    }
    let pieces = bench.wallet.pieces(url, &unit).await.unwrap();
    let merge = Merge {
        ys: pieces.iter().map(|piece| piece.y.clone()).collect(),
        fee: fee(&pieces, unit.piece()).unwrap(),
    };
    for _ in 0..2 {
        assert_eq!(bench.wallet.merge(url, &unit, &merge).await, Ok(merge.fee));
    }
    assert!(bench.wallet.pieces(url, &unit).await.unwrap().len() < pieces.len());
}
