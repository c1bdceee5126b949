//! The real wallet against a real mint in this process, also over a proxy that
//! loses answers.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use satlet::core::money::Msat;
use satlet::core::time::Timestamp;
use satlet::demo::mint::{MintOptions, TestMint};
use satlet::wallet::cdk_wallet::{CdkWallet, WalletMint, WalletOptions};
use satlet::wallet::conformance::{Bench, sat, token_v3};
use satlet::wallet::{
    LockTo, MintUrl, ProofsState, Recovery, RedemptionState, Unit, Wallet, WalletError,
};
use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::support::proxy::{Fault, Proxy};

mod deaths;
mod invoices;
mod melts;
mod sends;

const SWAP: &str = "/v1/swap";

fn options(dir: &Path, seed: u8, urls: &[&str]) -> WalletOptions {
    let mint = |url: &&str| WalletMint {
        url: (*url).to_owned(),
        requests_per_minute: 6000,
    };
    WalletOptions {
        dir: dir.join(format!("wallet-{seed}")),
        seed: [seed; 64],
        mints: urls.iter().map(mint).collect(),
        timeout: Duration::from_secs(10),
        allow_any_mint: false,
    }
}

async fn open(dir: &Path, seed: u8, url: &str) -> CdkWallet {
    CdkWallet::open(options(dir, seed, &[url])).await.unwrap()
}

struct RealBench {
    _dir: TempDir,
    mint: Mutex<TestMint>,
    url: MintUrl,
    wallet: CdkWallet,
    other: CdkWallet,
    payer: CdkWallet,
}

async fn real_bench() -> RealBench {
    let dir = tempfile::tempdir().unwrap();
    let mint = TestMint::start(MintOptions::default()).await.unwrap();
    let url = mint.url();
    let payer = open(dir.path(), 3, &url.0).await;
    mint.fund(&payer, 5000).await.unwrap();
    RealBench {
        wallet: open(dir.path(), 1, &url.0).await,
        other: open(dir.path(), 2, &url.0).await,
        payer,
        url,
        mint: Mutex::new(mint),
        _dir: dir,
    }
}

#[async_trait]
impl Bench for RealBench {
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
        token_v3("https://foreign.example", "sat", &["a"])
    }
    async fn cents(&self) -> String {
        token_v3(&self.url.0, "usd", &["a"])
    }
    async fn fund(&self, amount: u64) {
        self.mint
            .lock()
            .await
            .fund(&self.wallet, amount)
            .await
            .unwrap();
    }
    async fn set_down(&self, down: bool) {
        let mut mint = self.mint.lock().await;
        if down {
            mint.stop().await;
        } else {
            mint.restart().await.unwrap();
        }
    }
    async fn pay(&self, _bolt11: &str) {
        // This mint's Lightning node pays every invoice.
    }
}

mod real_conforms {
    satlet::wallet_conformance!(super::real_bench());
}

/// A mint behind a proxy, somebody who pays, and a directory.
struct Behind {
    dir: TempDir,
    _mint: TestMint,
    proxy: Proxy,
    payer: CdkWallet,
    url: MintUrl,
}

async fn behind() -> Behind {
    let dir = tempfile::tempdir().unwrap();
    let mint = TestMint::start(MintOptions::default()).await.unwrap();
    let addr: SocketAddr = mint.addr();
    let proxy = Proxy::start(addr).await;
    let url = MintUrl(proxy.url());
    let payer = open(dir.path(), 9, &url.0).await;
    let quote = payer.mint_quote(&url, &Unit::Sat, sat(5000)).await.unwrap();
    payer
        .mint_wait(&quote, Duration::from_secs(20))
        .await
        .unwrap();
    Behind {
        dir,
        _mint: mint,
        proxy,
        payer,
        url,
    }
}

impl Behind {
    async fn wallet(&self, seed: u8) -> CdkWallet {
        open(self.dir.path(), seed, &self.url.0).await
    }

    async fn token(&self, amount: u64) -> String {
        let sent = self.payer.send(&self.url, &Unit::Sat, sat(amount), false);
        sent.await.unwrap().token
    }
}

async fn total(wallet: &CdkWallet) -> Msat {
    let balances = wallet.balances().await.unwrap();
    Msat::checked_sum(balances.into_values()).unwrap()
}

fn unknown(result: Result<impl std::fmt::Debug, WalletError>) {
    assert!(
        matches!(result, Err(WalletError::OutcomeUnknown(_))),
        "{result:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_found_and_counted_once() {
    let stage = behind().await;
    let wallet = stage.wallet(1).await;
    for fault in [Fault::DropResponse, Fault::DropRequest] {
        let before = total(&wallet).await;
        let token = stage.token(1000).await;
        let info = wallet.inspect(&token).unwrap();
        let net = wallet.net_of(&token).await.unwrap();
        assert_eq!(wallet.check(&token).await.unwrap(), ProofsState::Unspent);
        stage.proxy.strike(SWAP, fault);
        unknown(wallet.redeem(info.payment, &token).await);
        assert_eq!(total(&wallet).await, before, "nothing is booked yet");
        unknown(wallet.redeem(info.payment, &token).await);
        for _ in 0..2 {
            let state = wallet.redemption(info.payment, &token).await.unwrap();
            let RedemptionState::Done(done) = state else {
                panic!("{fault:?}: {state:?}");
            };
            assert_eq!(done.net, net);
            assert_eq!(done.net.checked_add(done.fee), Some(info.face));
            assert_eq!(total(&wallet).await, before.checked_add(net).unwrap());
        }
        let again = wallet.redeem(info.payment, &token).await;
        assert_eq!(again, Err(WalletError::Spent));
        assert_eq!(wallet.recover().await.unwrap(), Recovery::default());
        assert_eq!(total(&wallet).await, before.checked_add(net).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mint_that_hangs_is_an_unknown_outcome() {
    let stage = behind().await;
    let mut options = options(stage.dir.path(), 1, &[&stage.url.0]);
    options.timeout = Duration::from_secs(2);
    let wallet = CdkWallet::open(options).await.unwrap();
    let token = stage.token(1000).await;
    let payment = wallet.inspect(&token).unwrap().payment;
    let net = wallet.net_of(&token).await.unwrap();
    stage.proxy.strike(SWAP, Fault::HoldResponse);
    let started = Instant::now();
    unknown(wallet.redeem(payment, &token).await);
    assert!(started.elapsed() < Duration::from_secs(8));
    let state = wallet.redemption(payment, &token).await.unwrap();
    assert!(matches!(state, RedemptionState::Done(done) if done.net == net));
    assert_eq!(total(&wallet).await, net);
    stage.proxy.strike("/v1/checkstate", Fault::HoldResponse);
    let error = wallet.check(&token).await.unwrap_err();
    assert!(matches!(error, WalletError::MintDown(_)), "{error:?}");
}

/// The process dies while the mint's answer is on its way.
#[test]
fn a_crash_in_a_swap_loses_nothing() {
    for fault in [Fault::HoldResponse, Fault::DropRequest] {
        let outer = tokio::runtime::Runtime::new().unwrap();
        let stage = outer.block_on(behind());
        let token = outer.block_on(stage.token(1000));
        let process = tokio::runtime::Runtime::new().unwrap();
        let wallet = process.block_on(stage.wallet(1));
        let info = wallet.inspect(&token).unwrap();
        let net = process.block_on(wallet.net_of(&token)).unwrap();
        stage.proxy.strike(SWAP, fault);
        let paying = token.clone();
        process.spawn(async move { wallet.redeem(info.payment, &paying).await });
        outer.block_on(stage.proxy.struck());
        process.shutdown_timeout(Duration::from_secs(5));

        outer.block_on(async {
            let wallet = stage.wallet(1).await;
            let found = wallet.recover().await.unwrap();
            assert_eq!(found.unfinished, 0, "{found:?}");
            let info = wallet.inspect(&token).unwrap();
            let state = wallet.redemption(info.payment, &token).await.unwrap();
            assert!(
                matches!(state, RedemptionState::Done(done) if done.net == net),
                "{fault:?}: {state:?}"
            );
            assert_eq!(total(&wallet).await, net);
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_takes_nothing_now_or_later() {
    let mut stage = behind().await;
    let wallet = stage.wallet(1).await;
    let token = stage.token(1000).await;
    let payment = wallet.inspect(&token).unwrap().payment;
    let net = wallet.net_of(&token).await.unwrap();
    stage.proxy.refuse().await;
    let error = wallet.redeem(payment, &token).await.unwrap_err();
    assert!(matches!(error, WalletError::MintDown(_)), "{error:?}");
    stage.proxy.accept().await;
    assert_eq!(wallet.recover().await.unwrap(), Recovery::default());
    assert_eq!(wallet.check(&token).await.unwrap(), ProofsState::Unspent);
    let state = wallet.redemption(payment, &token).await.unwrap();
    assert_eq!(state, RedemptionState::NotDone);
    assert_eq!(total(&wallet).await, Msat::ZERO);
    assert_eq!(wallet.redeem(payment, &token).await.unwrap().net, net);
    assert_eq!(total(&wallet).await, net);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_somebody_else_was_faster_with_leaves_nothing() {
    let stage = behind().await;
    let (wallet, thief) = (stage.wallet(1).await, stage.wallet(2).await);
    // Our request is lost on the way, and the payer spends the token elsewhere.
    let token = stage.token(1000).await;
    let payment = wallet.inspect(&token).unwrap().payment;
    wallet.facts(&stage.url).await.unwrap();
    stage.proxy.strike(SWAP, Fault::DropRequest);
    unknown(wallet.redeem(payment, &token).await);
    thief.redeem(payment, &token).await.unwrap();
    let found = wallet.recover().await.unwrap();
    assert_eq!((found.unfinished, found.compensated), (0, 1), "{found:?}");
    let state = wallet.redemption(payment, &token).await.unwrap();
    assert_eq!(state, RedemptionState::SpentElsewhere);
    assert_eq!(total(&wallet).await, Msat::ZERO);
    assert_eq!(wallet.recover().await.unwrap(), Recovery::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_who_redeem_one_token_at_once_get_it_once() {
    let stage = behind().await;
    let wallet = stage.wallet(1).await;
    let token = stage.token(1000).await;
    let payment = wallet.inspect(&token).unwrap().payment;
    let swaps = stage.proxy.seen(SWAP);
    let (one, two) = tokio::join!(
        wallet.redeem(payment, &token),
        wallet.redeem(payment, &token)
    );
    let won: Vec<_> = [&one, &two].into_iter().filter(|r| r.is_ok()).collect();
    assert_eq!(won.len(), 1, "{one:?} {two:?}");
    assert_eq!(stage.proxy.seen(SWAP) - swaps, 1, "the mint is asked once");
    assert_eq!(wallet.recover().await.unwrap(), Recovery::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_that_fails_keeps_the_money() {
    let mut stage = behind().await;
    stage.proxy.refuse().await;
    let (before, error) = send_until_it_fails(&stage).await;
    assert!(matches!(error, WalletError::MintDown(_)), "{error:?}");
    assert_eq!(total(&stage.payer).await, before);
    stage.proxy.accept().await;
    for fault in [Fault::DropResponse, Fault::DropRequest] {
        stage.proxy.strike(SWAP, fault);
        let (before, error) = send_until_it_fails(&stage).await;
        assert!(matches!(error, WalletError::OutcomeUnknown(_)), "{error:?}");
        let found = stage.payer.recover().await.unwrap();
        assert_eq!(found.unfinished, 0, "{fault:?} {found:?}");
        let after = total(&stage.payer).await;
        let lost = before.checked_sub(after);
        assert!(
            lost.is_some_and(|lost| lost <= sat(2)),
            "{fault:?}: {before} became {after}"
        );
    }
    // What is left is real: another wallet gets all of it but the fees.
    let left = total(&stage.payer).await;
    let all = left.checked_sub(sat(10)).unwrap();
    let sent = stage.payer.send(&stage.url, &Unit::Sat, all, true).await;
    let token = sent.unwrap().token;
    let redeemed = stage.wallet(1).await.receive(&token).await.unwrap();
    assert_eq!(redeemed.net, all);
}

/// Sends single sats until there is none and a swap is needed. Gives the
/// balance before the send that failed.
async fn send_until_it_fails(stage: &Behind) -> (Msat, WalletError) {
    for _ in 0..100 {
        let before = total(&stage.payer).await;
        let sent = stage.payer.send(&stage.url, &Unit::Sat, sat(1), false);
        if let Err(error) = sent.await {
            return (before, error);
        }
    }
    panic!("no swap was ever needed");
}

/// Locked outputs are not in cdk's own restore: they are made again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_whose_answer_is_lost_is_made_again() {
    let stage = behind().await;
    let receiver = stage.wallet(1).await;
    for (index, fault) in [Fault::DropResponse, Fault::DropRequest]
        .into_iter()
        .enumerate()
    {
        let to = LockTo {
            key: receiver.lock_key(),
            locktime: Timestamp::from_secs(4_000_000_000),
            index: index as u64,
            hash: None,
        };
        let plain = stage.token(333).await;
        let before = total(&receiver).await;
        stage.proxy.strike(SWAP, fault);
        unknown(stage.payer.lock(&plain, &to).await);
        // A new process, as it were: all that it has is what was written down.
        let locked = stage.payer.lock(&plain, &to).await.unwrap();
        assert_eq!(locked.face.checked_add(locked.fee), Some(sat(333)));
        assert!(stage.payer.lock(&plain, &to).await.unwrap() == locked);
        let got = receiver.receive(&locked.token).await.unwrap();
        assert_eq!(got.net.checked_add(got.fee), Some(locked.face));
        let after = before.checked_add(got.net).unwrap();
        assert_eq!(total(&receiver).await, after);
    }
    // What was spent otherwise cannot be locked.
    let plain = stage.token(64).await;
    receiver.receive(&plain).await.unwrap();
    let to = LockTo {
        key: receiver.lock_key(),
        locktime: Timestamp::from_secs(4_000_000_000),
        index: 99,
        hash: None,
    };
    let error = stage.payer.lock(&plain, &to).await;
    assert_eq!(error, Err(WalletError::Spent));
    assert_eq!(stage.payer.recover().await.unwrap().unfinished, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_payment_survives_a_lost_answer() {
    let stage = behind().await;
    let wallet = stage.wallet(1).await;
    for (index, fault) in [Fault::DropResponse, Fault::DropRequest]
        .into_iter()
        .enumerate()
    {
        let to = LockTo {
            key: wallet.lock_key(),
            locktime: Timestamp::from_secs(4_000_000_000),
            index: index as u64,
            hash: None,
        };
        let plain = stage.token(333).await;
        let locked = stage.payer.lock(&plain, &to).await.unwrap().token;
        let payment = wallet.inspect(&locked).unwrap().payment;
        let before = total(&wallet).await;
        stage.proxy.strike(SWAP, fault);
        unknown(wallet.redeem(payment, &locked).await);
        let state = wallet.redemption(payment, &locked).await.unwrap();
        let RedemptionState::Done(done) = state else {
            panic!("{fault:?}: {state:?}");
        };
        let after = before.checked_add(done.net).unwrap();
        assert_eq!(total(&wallet).await, after);
        assert_eq!(wallet.recover().await.unwrap(), Recovery::default());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_nobody_took_can_be_taken_back() {
    let stage = behind().await;
    let before = total(&stage.payer).await;
    let sent = stage
        .payer
        .send(&stage.url, &Unit::Sat, sat(100), true)
        .await
        .unwrap();
    let pending = stage.payer.pending_sends().await.unwrap();
    assert_eq!(pending.len(), 1);
    assert_eq!(pending[0].face, sent.face);
    // Waiting for its receiver is no unfinished business.
    assert_eq!(stage.payer.recover().await.unwrap(), Recovery::default());
    let back = stage.payer.reclaim(&sent.token).await.unwrap();
    assert!(back < sent.face && back >= sat(100), "{back}");
    let cost = before.checked_sub(total(&stage.payer).await).unwrap();
    assert!(cost <= sat(2), "{cost}");
    assert!(stage.payer.pending_sends().await.unwrap().is_empty());
    let twice = stage.payer.reclaim(&sent.token).await;
    assert!(matches!(twice, Err(WalletError::Refused(_))), "{twice:?}");

    let taken = stage.token(64).await;
    stage.wallet(1).await.receive(&taken).await.unwrap();
    let late = stage.payer.reclaim(&taken).await;
    assert_eq!(late, Err(WalletError::Spent));
}

/// A refund that comes back as a payment is money like any other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_token_can_be_redeemed() {
    let stage = behind().await;
    let before = total(&stage.payer).await;
    let token = stage.token(100).await;
    let redeemed = stage.payer.receive(&token).await.unwrap();
    assert_eq!(redeemed.net, sat(99));
    stage.payer.recover().await.unwrap();
    assert!(stage.payer.pending_sends().await.unwrap().is_empty());
    let cost = before.checked_sub(total(&stage.payer).await).unwrap();
    assert!(cost <= sat(2), "{cost}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_file_is_restored_from_the_seed() {
    let stage = behind().await;
    let wallet = stage.wallet(1).await;
    let token = stage.token(1000).await;
    wallet.receive(&token).await.unwrap();
    let had = total(&wallet).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let fresh = open(elsewhere.path(), 1, &stage.url.0).await;
    assert_eq!(fresh.restore(&stage.url).await.unwrap(), had);
    assert_eq!(total(&fresh).await, had);
    let token = stage.token(64).await;
    fresh.receive(&token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn millisatoshi_are_a_unit_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let mint = TestMint::start(MintOptions::default()).await.unwrap();
    let url = mint.url();
    let (one, two) = (
        open(dir.path(), 1, &url.0).await,
        open(dir.path(), 2, &url.0).await,
    );
    mint.fund_unit(&one, &Unit::Msat, Msat::new(54_321))
        .await
        .unwrap();
    let sent = one.send(&url, &Unit::Msat, Msat::new(1_234), true).await;
    let sent = sent.unwrap();
    let redeemed = two.receive(&sent.token).await.unwrap();
    assert_eq!(redeemed.net, Msat::new(1_234));
    let balances = two.balances().await.unwrap();
    assert_eq!(
        balances.get(&(url.clone(), Unit::Msat)),
        Some(&Msat::new(1_234))
    );
    assert_eq!(balances.get(&(url.clone(), Unit::Sat)), None);
    let facts = two.facts(&url).await.unwrap();
    assert_eq!(facts.units, [Unit::Sat, Unit::Msat]);
    assert_eq!(facts.input_fee_ppk, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mint_that_copies_keyset_ids_is_not_used() {
    let stage = behind().await;
    let direct = format!("http://{}", stage._mint.addr());
    let options = options(stage.dir.path(), 1, &[&stage.url.0, &direct]);
    let wallet = CdkWallet::open(options.clone()).await.unwrap();
    wallet.facts(&stage.url).await.unwrap();
    let copy = MintUrl(direct);
    let error = wallet.facts(&copy).await.unwrap_err();
    assert!(matches!(error, WalletError::Refused(_)), "{error:?}");
    let quote = wallet.mint_quote(&copy, &Unit::Sat, sat(5)).await;
    assert!(matches!(quote, Err(WalletError::Refused(_))), "{quote:?}");
    wallet.facts(&stage.url).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_payments_are_not_paced_away() {
    let stage = behind().await;
    let wallet = stage.wallet(1).await;
    let token = stage.token(64).await;
    let started = Instant::now();
    for _ in 0..60 {
        wallet.check(&token).await.unwrap();
    }
    // cdk's default (20 at once, then 20 a minute) would take two minutes.
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_at_a_time_has_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let url = "https://mint.example";
    let first = open(dir.path(), 1, url).await;
    let second = CdkWallet::open(options(dir.path(), 1, &[url])).await;
    assert!(matches!(second, Err(WalletError::Store(_))), "{second:?}");
    first.close().await;
    for _ in 0..3 {
        open(dir.path(), 1, url).await.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wallet_does_not_show_its_seed() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), 77, &["https://mint.example"]);
    assert!(!format!("{options:?}").contains("77, 77"));
    let wallet = CdkWallet::open(options).await.unwrap();
    assert!(!format!("{wallet:?}").contains("77, 77"));
    let file = dir.path().join("wallet-77/wallet.redb");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(file).unwrap());
    assert_eq!(mode & 0o077, 0, "proofs are bearer money");
}

/// The invoice is paid while the wallet is closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ecash_that_was_paid_for_meanwhile_is_fetched() {
    let stage = behind().await;
    let wallet = stage.wallet(1).await;
    let quote = wallet.mint_quote(&stage.url, &Unit::Sat, sat(21)).await;
    assert!(quote.unwrap().bolt11.starts_with("lnbc"));
    wallet.close().await;
    let wallet = stage.wallet(1).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while wallet.recover().await.unwrap().recovered == 0 {
        assert!(Instant::now() < deadline, "the invoice is never paid");
    }
    assert_eq!(total(&wallet).await, sat(21));
    assert_eq!(wallet.recover().await.unwrap(), Recovery::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_proofs_become_few() {
    let stage = behind().await;
    let wallet = stage.wallet(1).await;
    for _ in 0..20 {
        let token = stage.token(4).await;
        wallet.receive(&token).await.unwrap();
    }
    let before = total(&wallet).await;
    assert_eq!(before, sat(60));
    wallet.consolidate(&stage.url, &Unit::Sat).await.unwrap();
    let after = total(&wallet).await;
    assert!(before.checked_sub(after).unwrap() <= sat(5), "{after}");
    let all = after.checked_sub(sat(2)).unwrap();
    let sent = wallet
        .send(&stage.url, &Unit::Sat, all, false)
        .await
        .unwrap();
    assert!(sent.ys.len() < 20, "{} proofs", sent.ys.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_mint_is_for_those_who_ask_for_it() {
    let stage = behind().await;
    let token = stage.token(64).await;
    let mut options = options(stage.dir.path(), 1, &[]);
    let strict = CdkWallet::open(options.clone()).await.unwrap();
    let seen = stage.proxy.seen("/v1/keysets");
    let error = strict.receive(&token).await.unwrap_err();
    assert!(matches!(error, WalletError::MintNotAccepted(_)));
    assert_eq!(stage.proxy.seen("/v1/keysets"), seen);
    options.dir = stage.dir.path().join("any");
    options.allow_any_mint = true;
    let open = CdkWallet::open(options).await.unwrap();
    open.receive(&token).await.unwrap();
}

/// Each answer comes in time, the operation as a whole does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_operation_goes_on_when_its_caller_leaves() {
    let stage = behind().await;
    let token = stage.token(1000).await;
    let mut options = options(stage.dir.path(), 1, &[&stage.url.0]);
    options.timeout = Duration::from_secs(3);
    let wallet = CdkWallet::open(options).await.unwrap();
    let payment = wallet.inspect(&token).unwrap().payment;
    stage.proxy.set_delay(Duration::from_millis(2200));
    unknown(wallet.redeem(payment, &token).await);
    stage.proxy.set_delay(Duration::ZERO);
    // Behind the operation that goes on, in the same queue.
    let state = wallet.redemption(payment, &token).await.unwrap();
    assert!(matches!(state, RedemptionState::Done(_)), "{state:?}");
    assert_eq!(total(&wallet).await, sat(999));
    assert_eq!(wallet.recover().await.unwrap(), Recovery::default());
}
