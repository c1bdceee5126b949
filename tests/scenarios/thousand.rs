//! A thousand of the smallest top-ups in a row on one lease: nothing drifts, the
//! wallet holds few proofs, and files grow by so much a top-up and no more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use satlet::core::ids::LeaseId;
use satlet::core::lease::{Lease, RefundState};
use satlet::core::money::Msat;
use satlet::core::purse::{MANY, TOO_MANY};
use satlet::demo::mint::{MintOptions, TestMint};
use satlet::ledger::{MERGES, MergeRow, OUTBOX, purse_key};
use satlet::protocol::reply::Answer;
use satlet::provider::{merges, queries};
use satlet::wallet::cdk_wallet::{CdkWallet, WalletMint, WalletOptions};
use satlet::wallet::{MintUrl, Unit, Wallet};

use crate::support::coins::coins;
use crate::support::shop::{MINT, Shop, body, key, new_id, spawn, stop, topup};

/// How many top-ups.
const TOPUPS: u64 = 1000;
/// Bytes that one may add to the ledger's file, and to the wallet's.
const LEDGER_EACH: u64 = 6 * 1024;
const WALLET_EACH: u64 = 4 * 1024;
/// Bytes of the lease's row: it does not grow.
const ROW: usize = 4 * 1024;

fn sat(sat: u64) -> Msat {
    Msat::from_sat(sat).unwrap()
}

fn merged(shop: &Shop, mint: &MintUrl) -> MergeRow {
    let key = purse_key(&(mint.0.clone(), "sat".to_owned()));
    let row = shop.ctx().ledger().read(|reader| reader.get(&MERGES, &key));
    row.unwrap().unwrap_or_default()
}

/// Takes what waits out of the outbox, as if a relay had taken it.
async fn all_sent(shop: &Shop) {
    let taken = shop.ctx().ledger().write(|tx| {
        let rows = tx.all(&OUTBOX)?;
        rows.iter().try_for_each(|(key, _)| tx.delete(&OUTBOX, key))
    });
    taken.await.unwrap();
}

async fn balance(wallet: &dyn Wallet) -> Msat {
    let balances = wallet.balances().await.unwrap();
    Msat::checked_sum(balances.into_values()).unwrap()
}

/// What the wallet has to hold by the lease's books: what came in, with what it
/// had besides, and did not go out. `cost` is what merging took.
fn by_the_books(lease: &Lease, besides: Msat, cost: Msat) -> Option<Msat> {
    let b = lease.money;
    let went = Msat::checked_sum([b.mint_fees, b.refunded, b.refund_fees, cost])?;
    b.paid.checked_add(besides)?.checked_sub(went)
}

async fn receipt_of(shop: &Shop, lease: &LeaseId) -> satlet::core::receipt::Receipt {
    use satlet::protocol::request::{Ask, OfLease};
    let ask = Ask::Receipt(OfLease {
        lease: lease.clone(),
    });
    match shop.ask(key(1), ask).await {
        Ok(Answer::Receipt { receipt, .. }) => satlet::relay::receipt::open(&receipt).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// With the whole provider and the real wallet at cdk's mint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_a_real_mint() {
    let mint = TestMint::start(MintOptions::default()).await.unwrap();
    let (dir, url) = (tempfile::tempdir().unwrap(), mint.url());
    let open = |name: &str, seed: u8| {
        CdkWallet::open(WalletOptions {
            dir: dir.path().join(name),
            seed: [seed; 64],
            mints: vec![WalletMint {
                url: url.0.clone(),
                requests_per_minute: 6_000_000,
            }],
            timeout: Duration::from_secs(30),
            allow_any_mint: false,
        })
    };
    let (wallet, payer) = (open("ours", 7).await.unwrap(), open("theirs", 8).await);
    let (wallet, payer) = (Arc::new(wallet), payer.unwrap());
    // What the provider earned before: merging is paid for with it.
    let own = sat(300);
    mint.fund(&wallet, own.whole_sat()).await.unwrap();
    // A piece of a sat is left of each after the mint's fee.
    let small = coins(&url, TOPUPS, 2).await;
    let first = coins(&url, 1, 16).await;
    let purse: Arc<dyn Wallet> = wallet.clone();
    let shop = Shop::open_at(Some(purse), |s| s.mints[0].url.clone_from(&url.0)).await;
    let me = key(1);
    let lease = match shop.ask(me, spawn(first[0].clone())).await {
        Ok(Answer::Spawn(answer)) => answer.status.lease,
        other => panic!("{other:?}"),
    };
    let size = |path: std::path::PathBuf| std::fs::metadata(path).unwrap().len();
    let sizes = || {
        (
            size(shop.dir.path().join("ledger.redb")),
            size(dir.path().join("ours/wallet.redb")),
        )
    };
    let (before, row) = (sizes(), serde_json::to_string(&shop.lease(&lease)).unwrap());
    let (began, mut most) = (Instant::now(), 0);
    let mut hundreds = Vec::new();
    for (n, token) in small.into_iter().enumerate() {
        let asked = Instant::now();
        match shop.ask(me, topup(&lease, token)).await {
            Ok(Answer::Topup(answer)) => assert_eq!(answer.added_seconds, 10),
            other => panic!("{n}: {other:?}"),
        }
        if n % 100 == 0 {
            hundreds.push(Duration::ZERO);
        }
        *hundreds.last_mut().unwrap() += asked.elapsed();
        if n % 50 == 49 {
            // What the upkeep does every minute.
            let pieces = wallet.pieces(&url, &Unit::Sat).await.unwrap().len();
            most = most.max(pieces);
            all_sent(&shop).await;
            wallet.recover().await.unwrap();
            merges::round(shop.ctx()).await.unwrap();
        }
    }
    let pieces = wallet.pieces(&url, &Unit::Sat).await.unwrap().len();
    assert!(most <= MANY + 50 && pieces <= MANY, "{most}, {pieces}");
    let after = sizes();
    let (ledger, purse) = (after.0 - before.0, after.1.saturating_sub(before.1));
    println!(
        "{TOPUPS} top-ups in {:?} (first hundred {:?}, last {:?}); ledger {} bytes each, wallet {}; {most} proofs at most, {pieces} in the end",
        began.elapsed(),
        hundreds[0],
        hundreds.last().unwrap(),
        ledger / TOPUPS,
        purse / TOPUPS,
    );
    assert!(ledger <= TOPUPS * LEDGER_EACH, "the ledger: {ledger}");
    assert!(purse <= TOPUPS * WALLET_EACH, "the wallet: {purse}");
    let now = serde_json::to_string(&shop.lease(&lease)).unwrap();
    assert!(now.len() < row.len() + 200 && now.len() < ROW, "{now}");

    let running = shop.lease(&lease);
    assert_eq!(running.money.paid, sat(16 + 2 * TOPUPS));
    assert_eq!(running.money.mint_fees, sat(1 + TOPUPS));
    assert!(running.balances(shop.ctx().now()));
    let cost = merged(&shop, &url).cost;
    assert!(cost > sat(90) && cost < sat(150), "{cost}");
    let holds = |lease: &Lease| by_the_books(lease, own, cost);
    assert_eq!(holds(&running), Some(balance(&*wallet).await), "no drift");

    let Ok(Answer::Stop(answer)) = shop.ask(me, stop(&lease)).await else {
        panic!()
    };
    let refund = answer.refund.expect("a refund");
    let over = shop.lease(&lease);
    assert!(over.balances(shop.ctx().now()));
    assert_eq!(holds(&over), Some(balance(&*wallet).await), "no drift");
    let info = payer.inspect(&refund.token).unwrap();
    assert!(info.ys.len() <= 20, "{} proofs", info.ys.len());
    payer.redeem(info.payment, &refund.token).await.unwrap();
    // The receipt adds all of them up.
    let receipt = receipt_of(&shop, &lease).await;
    assert_eq!(receipt.books.paid_msat, sat(16 + 2 * TOPUPS));
    let listed = receipt.payments.len() as u64 + receipt.earlier_payments.count;
    assert_eq!(listed, TOPUPS + 1);
    let view = queries::money(shop.ctx()).await.unwrap();
    assert_eq!(view.purses[0].merge_fees_msat, cost);
}

/// On fakes, with a provider that has earned nothing: merging waits until it
/// must be, and then the refund is made of what is left, and the rest of it when
/// there is money again.
#[tokio::test(start_paused = true)]
async fn at_a_poor_provider() {
    let shop = Shop::open().await;
    shop.mint.set_fee_ppk(100);
    let (me, mint) = (key(1), shop.mint.url());
    let lease = shop.spawn(me, 16).await.status.lease;
    let mut most = 0;
    for _ in 0..TOPUPS {
        let token = shop.mint.token(sat(2));
        let answer = shop.ask(me, topup(&lease, token)).await;
        assert!(matches!(answer, Ok(Answer::Topup(_))), "{answer:?}");
        most = most.max(shop.wallet.proofs());
        merges::round(shop.ctx()).await.unwrap();
        all_sent(&shop).await;
    }
    assert_eq!(most, TOO_MANY + 1, "more than that are merged at any price");
    let cost = merged(&shop, &mint).cost;
    assert!(!cost.is_zero());
    assert_eq!(
        by_the_books(&shop.lease(&lease), Msat::ZERO, cost),
        Some(balance(&shop.wallet).await)
    );
    let id = new_id();
    shop.deliver(me, body(id, stop(&lease))).await;
    // The answer waits for all of it, for a while.
    tokio::time::sleep(Duration::from_secs(120)).await;
    let answer = shop.answer(me, id).await;
    let Ok(Answer::Stop(answer)) = answer else {
        panic!("{answer:?}")
    };
    let part = answer.refund.expect("what there is");
    let over = shop.lease(&lease);
    assert!(!over.money.owed.is_zero(), "the rest is owed");
    assert!(part.amount_msat > sat(850), "{}", part.amount_msat);
    let cost = merged(&shop, &mint).cost;
    let holds = |lease: &Lease, more| by_the_books(lease, more, cost);
    assert_eq!(
        holds(&over, Msat::ZERO),
        Some(balance(&shop.wallet).await),
        "no drift"
    );
    shop.wallet.fund(&mint, &Unit::Sat, sat(200));
    tokio::time::sleep(Duration::from_secs(120)).await;
    let over = shop.lease(&lease);
    assert!(over.money.owed.is_zero(), "{:?}", over.money);
    let made = |state: &RefundState| matches!(state, RefundState::Made { .. });
    assert!(over.refunds.iter().all(|refund| made(&refund.state)));
    assert_eq!(holds(&over, sat(200)), Some(balance(&shop.wallet).await));
}

/// The answer to a merge is lost, or we die with it: it is asked about, and its
/// cost is booked once.
#[tokio::test(start_paused = true)]
async fn a_merge_whose_answer_is_lost_is_booked_once() {
    let mut shop = Shop::open().await;
    let mint = MintUrl(MINT.to_owned());
    shop.mint.set_fee_ppk(100);
    for _ in 0..MANY + 1 {
        shop.wallet.fund(&mint, &Unit::Sat, sat(1));
    }
    shop.mint.lose_next_merge();
    merges::round(shop.ctx()).await.unwrap();
    let row = merged(&shop, &mint);
    assert!(row.open.is_some() && row.cost.is_zero(), "{row:?}");
    shop.crash().await;
    shop.start().await;
    assert!(merged(&shop, &mint).open.is_some());
    merges::round(shop.ctx()).await.unwrap();
    let row = merged(&shop, &mint);
    assert!(row.open.is_none(), "{row:?}");
    assert_eq!(row.cost, sat(11));
    assert_eq!(balance(&shop.wallet).await, sat(MANY as u64 + 1 - 11));
    // Nothing is left to be done.
    let merges = shop.mint.merges();
    merges::round(shop.ctx()).await.unwrap();
    assert_eq!(shop.mint.merges(), merges);
    // Proofs of a keyset that the mint has turned away from are swapped at once.
    shop.wallet.rotate(&mint);
    merges::round(shop.ctx()).await.unwrap();
    assert_eq!(shop.mint.merges(), merges + 1);
    let pieces = shop.wallet.pieces(&mint, &Unit::Sat).await.unwrap();
    assert!(pieces.iter().all(|piece| piece.active));
}
