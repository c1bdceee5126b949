//! The wallet's file is lost. What the seed owns comes back from the mint before
//! anything is made with it, but for the tokens that are out.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use satlet::core::ids::LeaseId;
use satlet::core::lease::{Lease, RefundState};
use satlet::core::money::Msat;
use satlet::demo::mint::{MintOptions, TestMint};
use satlet::ledger::find_lease;
use satlet::protocol::error::{Code, Money};
use satlet::protocol::reply::{Answer, Refund};
use satlet::wallet::cdk_wallet::{CdkWallet, WalletMint, WalletOptions};
use satlet::wallet::conformance::sat;
use satlet::wallet::{MintUrl, Unit, Wallet, WalletError};

use crate::support::shop::{refund_to, spawn, status, stop};
use crate::support::world::{Asker, House, World, until as within};

fn options(dir: &Path, seed: u8, url: &MintUrl) -> WalletOptions {
    WalletOptions {
        dir: dir.to_owned(),
        seed: [seed; 64],
        mints: vec![WalletMint {
            url: url.0.clone(),
            requests_per_minute: 6000,
        }],
        timeout: Duration::from_secs(10),
        allow_any_mint: false,
    }
}

async fn open(dir: &Path, seed: u8, url: &MintUrl) -> CdkWallet {
    CdkWallet::open(options(dir, seed, url)).await.unwrap()
}

async fn total(wallet: &CdkWallet) -> Msat {
    let all = wallet.balances().await.unwrap();
    Msat::checked_sum(all.into_values()).unwrap()
}

async fn fund(wallet: &CdkWallet, url: &MintUrl, amount: u64) {
    let quote = wallet.mint_quote(url, &Unit::Sat, sat(amount)).await;
    let quote = quote.unwrap();
    let paid = wallet.mint_wait(&quote, Duration::from_secs(60));
    paid.await.unwrap();
}

/// The story of a wallet at any mint: out tokens stay out, the rest comes back,
/// and no output is made twice, however often the file is lost.
pub(crate) async fn comes_back(url: &MintUrl) {
    let dir = tempfile::tempdir().unwrap();
    let payer = open(&dir.path().join("payer"), 3, url).await;
    fund(&payer, url, 3000).await;
    let first = open(&dir.path().join("first"), 1, url).await;
    let token = payer.send(url, &Unit::Sat, sat(500), false).await.unwrap();
    first.receive(&token.token).await.unwrap();
    let out = first.send(url, &Unit::Sat, sat(101), false).await.unwrap();
    // Reading it all while tokens are out does not make them ours.
    let had = total(&first).await;
    assert_eq!(first.restore(url).await.unwrap(), Msat::ZERO);
    assert_eq!(total(&first).await, had);
    assert_eq!(first.pending_sends().await.unwrap().len(), 1);
    first.close().await;

    for lost in ["second", "third"] {
        let wallet = open(&dir.path().join(lost), 1, url).await;
        let known = out.token.clone();
        wallet.set_out_tokens(Arc::new(move || Ok(vec![known.clone()])));
        wallet.recover().await.unwrap();
        if lost == "second" {
            assert_eq!(total(&wallet).await, had, "all but the token that is out");
        }
        let token = payer.send(url, &Unit::Sat, sat(200), false).await.unwrap();
        wallet.receive(&token.token).await.unwrap();
        // Until nothing is left, the token that is out is not touched.
        let mut have = total(&wallet).await;
        while have > sat(20) {
            let part = Msat::from_sat(have.whole_sat() / 2).unwrap();
            let sent = wallet.send(url, &Unit::Sat, part, false).await.unwrap();
            payer.receive(&sent.token).await.unwrap();
            have = total(&wallet).await;
        }
        wallet.recover().await.unwrap();
        wallet.close().await;
    }
    let got = payer.receive(&out.token).await.unwrap();
    assert!(got.net > sat(99), "the token that was out all the time");
    payer.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_of_before_is_read_before_it_is_used() {
    let mint = TestMint::start(MintOptions::default()).await.unwrap();
    comes_back(&mint.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_is_named_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wallet.redb");
    let url = MintUrl("https://mint.test".to_owned());
    std::fs::write(&path, [7; 9000]).unwrap();
    let opened = CdkWallet::open(options(dir.path(), 1, &url)).await;
    let Err(WalletError::Store(why)) = opened else {
        panic!("{opened:?}")
    };
    assert!(why.contains(&path.display().to_string()), "{why}");
    assert!(why.contains("aside"), "{why}");
    assert_eq!(std::fs::read(&path).unwrap(), [7; 9000]);
}

fn lose_wallet(house: &House) {
    std::fs::remove_dir_all(house.settings.data_dir.join("wallet")).unwrap();
}

fn row(house: &House, id: &LeaseId) -> Lease {
    let found = house.ctx().ledger().read(|reader| find_lease(reader, id));
    found.unwrap().unwrap()
}

async fn bought(house: &House, asker: &Asker, token: String) -> LeaseId {
    match asker.ask(&house.key(), spawn(token)).await {
        Ok(Answer::Spawn(answer)) => answer.status.lease,
        other => panic!("{other:?}"),
    }
}

async fn stopped(house: &House, asker: &Asker, lease: &LeaseId) -> Refund {
    match asker.ask(&house.key(), stop(lease)).await {
        Ok(Answer::Stop(answer)) => answer.refund.unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_goes_on_with_its_seed_alone() {
    let mut world = World::start(1).await;
    let mut house = House::build(&world, 1);
    house.start().await;
    let asker = Asker::start(&world).await;
    let purse = world.purse(2000).await;
    let first = bought(&house, &asker, purse.token(200).await).await;
    let refund = stopped(&house, &asker, &first).await;
    let owed = bought(&house, &asker, purse.token(200).await).await;
    let runs = bought(&house, &asker, purse.token(200).await).await;
    let tokens = [purse.token(200).await, purse.token(200).await];
    let last = purse.token(150).await;

    // One refund is out, another is owed because the mint is down.
    let had = house.balance().await;
    world.mint.stop().await;
    // Locked, since the wallet may have proofs of just that sum, and then a plain
    // token needs no mint.
    let locked = refund_to(&purse.refund_key(), stop(&owed));
    let (_, body) = crate::support::world::request(locked);
    asker.send(&house.key(), &body).await;
    let locking = || {
        let refunds = row(&house, &owed).refunds;
        let first = refunds.first().map(|refund| &refund.state);
        matches!(first, Some(RefundState::Owed | RefundState::Locking { .. }))
    };
    within("it is owed", locking).await;
    house.stop().await;
    lose_wallet(&house);

    // The mint is down at the start: nothing is taken, also after one more.
    for token in &tokens {
        house.start().await;
        assert_eq!(house.balance().await, Msat::ZERO);
        let refused = asker.ask(&house.key(), spawn(token.clone())).await;
        let refused = refused.unwrap_err();
        assert_eq!(
            (refused.code, refused.money),
            (Code::MintPaused, Money::Untouched)
        );
        house.stop().await;
    }
    world.mint.restart().await.unwrap();
    house.start().await;
    within("what was owed is made", || {
        matches!(
            row(&house, &owed).refunds[0].state,
            RefundState::Made { .. }
        )
    })
    .await;
    let made = row(&house, &owed).money;
    let gone = made.refunded.checked_add(made.refund_fees).unwrap();
    assert_eq!(had.checked_sub(gone), Some(house.balance().await));
    for token in tokens {
        assert!(purse.is_unspent(&token).await);
        bought(&house, &asker, token).await;
    }

    // All that is there goes back, and the token that is out stays its owner's.
    let rest = bought(&house, &asker, last).await;
    for lease in [&runs, &rest] {
        let refund = stopped(&house, &asker, lease).await;
        purse.take(&refund.token).await;
    }
    assert!(purse.is_unspent(&refund.token).await);
    purse.take(&refund.token).await;
    let Ok(Answer::Status(seen)) = asker.ask(&house.key(), status(&first)).await else {
        panic!()
    };
    assert_eq!(seen.lease, first);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_locked_to_us_and_is_spent_was_spent_by_us() {
    let world = World::start(1).await;
    let dir = tempfile::tempdir().unwrap();
    let url = world.mint.url();
    let ours = open(&dir.path().join("ours"), 1, &url).await;
    let payer = open(&dir.path().join("payer"), 3, &url).await;
    fund(&payer, &url, 500).await;
    let plain = payer.send(&url, &Unit::Sat, sat(100), true).await.unwrap();
    let to = satlet::wallet::LockTo {
        key: ours.lock_key(),
        locktime: satlet::relay::convert::now().plus_secs(3600),
        index: 0,
        hash: None,
    };
    let locked = payer.lock(&plain.token, &to).await.unwrap().token;
    let payment = ours.inspect(&locked).unwrap().payment;
    let redeemed = ours.redeem(payment, &locked).await.unwrap();
    ours.close().await;
    let fresh = open(&dir.path().join("fresh"), 1, &url).await;
    let state = fresh.redemption(payment, &locked).await.unwrap();
    assert_eq!(state, satlet::wallet::RedemptionState::Done(redeemed));
    assert_eq!(total(&fresh).await, redeemed.net);
}
