//! What breaks while a token is redeemed, a row each, as they were measured:
//! `docs/PAYMENTS.md` says what satlet does, and has these names. Each on cdk's
//! mint, and all of them on Nutshell.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use satlet::core::ids::PaymentId;
use satlet::core::money::Msat;
use satlet::demo::mint::{MintOptions, TestMint};
use satlet::wallet::cdk_wallet::{CdkWallet, WalletMint, WalletOptions};
use satlet::wallet::conformance::sat;
use satlet::wallet::{MintUrl, ProofsState, Recovery, RedemptionState, Unit, Wallet, WalletError};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::support::proxy::{Fault, Proxy};
use crate::support::servers::Nutshell;

const SWAP: &str = "/v1/swap";
const LONG: Duration = Duration::from_secs(60);

/// A mint behind a proxy, somebody who pays, and a directory.
struct Stage<'a> {
    runtime: &'a Runtime,
    dir: TempDir,
    proxy: Proxy,
    url: MintUrl,
    payer: CdkWallet,
}

/// A row: it leaves the mint as it was.
type Row = fn(&mut Stage<'_>);

async fn open_in(dir: &Path, seed: [u8; 64], url: &MintUrl) -> CdkWallet {
    let options = WalletOptions {
        dir: dir.to_owned(),
        seed,
        mints: vec![WalletMint {
            url: url.0.clone(),
            requests_per_minute: 6000,
        }],
        timeout: Duration::from_secs(20),
        allow_any_mint: false,
    };
    CdkWallet::open(options).await.unwrap()
}

/// A token, and what it is.
struct Paid {
    token: String,
    id: PaymentId,
    net: Msat,
}

impl<'a> Stage<'a> {
    fn new(runtime: &'a Runtime, mint: SocketAddr) -> Self {
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let proxy = Proxy::start(mint).await;
            let url = MintUrl(proxy.url());
            let payer = open_in(&dir.path().join("payer"), rand::random(), &url).await;
            let quote = payer.mint_quote(&url, &Unit::Sat, sat(5000)).await.unwrap();
            payer.mint_wait(&quote, LONG).await.unwrap();
            Self {
                runtime,
                dir,
                proxy,
                url,
                payer,
            }
        })
    }

    /// A wallet of ours: its file is in a folder of this name.
    async fn wallet(&self, name: &str, seed: [u8; 64]) -> CdkWallet {
        let wallet = open_in(&self.dir.path().join(name), seed, &self.url).await;
        wallet.facts(&self.url).await.unwrap();
        wallet
    }

    async fn paid(&self, wallet: &CdkWallet, amount: u64) -> Paid {
        let sent = self.payer.send(&self.url, &Unit::Sat, sat(amount), false);
        let token = sent.await.unwrap().token;
        let id = wallet.inspect(&token).unwrap().payment;
        let net = wallet.net_of(&token).await.unwrap();
        Paid { token, id, net }
    }
}

async fn total(wallet: &CdkWallet) -> Msat {
    let balances = wallet.balances().await.unwrap();
    Msat::checked_sum(balances.into_values()).unwrap()
}

fn is_unknown(result: &Result<impl std::fmt::Debug, WalletError>) -> bool {
    matches!(result, Err(WalletError::OutcomeUnknown(_)))
}

/// The redemption is done, its money is there once, and nothing is left to do.
async fn done_once(wallet: &CdkWallet, paid: &Paid, had: Msat) {
    let state = wallet.redemption(paid.id, &paid.token).await.unwrap();
    let RedemptionState::Done(done) = state else {
        panic!("{state:?}")
    };
    assert_eq!(done.net, paid.net);
    assert_eq!(Some(total(wallet).await), had.checked_add(paid.net));
    assert_eq!(wallet.recover().await.unwrap(), Recovery::default());
    assert_eq!(Some(total(wallet).await), had.checked_add(paid.net));
}

fn e1_a_token_that_its_fee_eats_is_refused_untouched(stage: &mut Stage<'_>) {
    stage.runtime.block_on(async {
        let wallet = stage.wallet("a", rand::random()).await;
        let sent = stage.payer.send(&stage.url, &Unit::Sat, sat(1), false);
        let token = sent.await.unwrap().token;
        let swaps = stage.proxy.seen(SWAP);
        assert_eq!(wallet.net_of(&token).await, Err(WalletError::TooSmall));
        let id = wallet.inspect(&token).unwrap().payment;
        assert_eq!(wallet.redeem(id, &token).await, Err(WalletError::TooSmall));
        assert_eq!(wallet.check(&token).await, Ok(ProofsState::Unspent));
        assert_eq!(stage.proxy.seen(SWAP), swaps, "no swap was tried");
        assert_eq!(wallet.recover().await.unwrap(), Recovery::default());
    });
}

fn e2_a_spent_token_leaves_nothing_that_fails_for_ever(stage: &mut Stage<'_>) {
    stage.runtime.block_on(async {
        let wallet = stage.wallet("a", rand::random()).await;
        let thief = stage.wallet("b", rand::random()).await;
        let paid = stage.paid(&wallet, 64).await;
        thief.redeem(paid.id, &paid.token).await.unwrap();
        assert_eq!(wallet.check(&paid.token).await, Ok(ProofsState::Spent));
        // Even one who did not look first.
        let late = wallet.redeem(paid.id, &paid.token).await;
        assert_eq!(late, Err(WalletError::Spent));
        let found = wallet.recover().await.unwrap();
        assert_eq!(found.unfinished, 0, "{found:?}");
        assert_eq!(wallet.recover().await.unwrap(), Recovery::default());
        assert_eq!(total(&wallet).await, Msat::ZERO, "and no proofs of nothing");
        let good = stage.paid(&wallet, 64).await;
        wallet.redeem(good.id, &good.token).await.unwrap();
        assert_eq!(total(&wallet).await, good.net);
    });
}

fn e3_a_lost_answer_is_found_by_asking(stage: &mut Stage<'_>) {
    stage.runtime.block_on(async {
        let wallet = stage.wallet("a", rand::random()).await;
        let paid = stage.paid(&wallet, 1000).await;
        stage.proxy.strike(SWAP, Fault::DropResponse);
        let lost = wallet.redeem(paid.id, &paid.token).await;
        assert!(is_unknown(&lost), "{lost:?}");
        assert_eq!(total(&wallet).await, Msat::ZERO, "nothing is booked yet");
        done_once(&wallet, &paid, Msat::ZERO).await;
    });
}

fn e3b_a_second_try_after_a_lost_answer_hides_no_money(stage: &mut Stage<'_>) {
    stage.runtime.block_on(async {
        let wallet = stage.wallet("a", rand::random()).await;
        let paid = stage.paid(&wallet, 1000).await;
        stage.proxy.strike(SWAP, Fault::DropResponse);
        let lost = wallet.redeem(paid.id, &paid.token).await;
        assert!(is_unknown(&lost), "{lost:?}");
        let swaps = stage.proxy.seen(SWAP);
        let again = wallet.redeem(paid.id, &paid.token).await;
        assert!(is_unknown(&again), "the first is not known yet: {again:?}");
        assert_eq!(stage.proxy.seen(SWAP), swaps, "the mint is not asked again");
        done_once(&wallet, &paid, Msat::ZERO).await;
        let late = wallet.redeem(paid.id, &paid.token).await;
        assert_eq!(late, Err(WalletError::Spent));
        assert_eq!(total(&wallet).await, paid.net);
    });
}

/// The process dies when the mint's answer, or our question, is on its way.
fn dies(stage: &Stage<'_>, fault: Fault) {
    let (runtime, seed) = (stage.runtime, rand::random());
    let process = Runtime::new().unwrap();
    let wallet = process.block_on(stage.wallet("a", seed));
    let paid = runtime.block_on(stage.paid(&wallet, 1000));
    stage.proxy.strike(SWAP, fault);
    let (id, token) = (paid.id, paid.token.clone());
    process.spawn(async move { wallet.redeem(id, &token).await });
    runtime.block_on(stage.proxy.struck());
    process.shutdown_timeout(Duration::from_secs(5));
    runtime.block_on(async {
        let wallet = open_in(&stage.dir.path().join("a"), seed, &stage.url).await;
        let found = wallet.recover().await.unwrap();
        assert_eq!(found.unfinished, 0, "{found:?}");
        done_once(&wallet, &paid, Msat::ZERO).await;
    });
}

fn e4a_a_crash_after_the_swap_is_recovered(stage: &mut Stage<'_>) {
    dies(stage, Fault::HoldResponse);
}

fn e4b_a_crash_before_the_swap_is_carried_on(stage: &mut Stage<'_>) {
    dies(stage, Fault::DropRequest);
}

fn e7_two_who_redeem_one_token_get_it_once(stage: &mut Stage<'_>) {
    stage.runtime.block_on(async {
        let wallet = stage.wallet("a", rand::random()).await;
        let paid = stage.paid(&wallet, 1000).await;
        let swaps = stage.proxy.seen(SWAP);
        let (one, two) = tokio::join!(
            wallet.redeem(paid.id, &paid.token),
            wallet.redeem(paid.id, &paid.token)
        );
        let lost = [&one, &two].into_iter().filter(|done| done.is_err());
        assert_eq!(lost.count(), 1, "{one:?} {two:?}");
        assert_eq!(stage.proxy.seen(SWAP), swaps + 1, "the mint is asked once");
        done_once(&wallet, &paid, Msat::ZERO).await;
    });
}

fn e8_a_mint_that_is_away_takes_nothing_then_or_later(stage: &mut Stage<'_>) {
    let runtime = stage.runtime;
    runtime.block_on(async {
        let wallet = stage.wallet("a", rand::random()).await;
        let paid = stage.paid(&wallet, 1000).await;
        stage.proxy.refuse().await;
        let refused = wallet.redeem(paid.id, &paid.token).await;
        assert!(
            matches!(refused, Err(WalletError::MintDown(_))),
            "{refused:?}"
        );
        stage.proxy.accept().await;
        // We said that it is untouched: no recovery may redeem it now.
        assert_eq!(wallet.recover().await.unwrap(), Recovery::default());
        assert_eq!(wallet.check(&paid.token).await, Ok(ProofsState::Unspent));
        let state = wallet.redemption(paid.id, &paid.token).await;
        assert_eq!(state, Ok(RedemptionState::NotDone));
        wallet.redeem(paid.id, &paid.token).await.unwrap();
        assert_eq!(total(&wallet).await, paid.net);
    });
}

fn e9_a_refund_that_was_made_and_not_written_down_comes_back(stage: &mut Stage<'_>) {
    let seed = rand::random();
    stage.runtime.block_on(async {
        let wallet = stage.wallet("a", seed).await;
        let paid = stage.paid(&wallet, 200).await;
        wallet.redeem(paid.id, &paid.token).await.unwrap();
        let lost = wallet.send(&stage.url, &Unit::Sat, sat(100), false).await;
        let face = lost.unwrap().face;
        let before = total(&wallet).await;
        wallet.close().await;
        // All that is left of it is in the wallet's own file.
        let wallet = stage.wallet("a", seed).await;
        wallet.recover().await.unwrap();
        let sends = wallet.pending_sends().await.unwrap();
        assert_eq!(sends.len(), 1, "{}", sends.len());
        let back = wallet.reclaim(&sends[0].token).await.unwrap();
        let fee = face.checked_sub(back).unwrap();
        assert!(fee <= sat(1), "one fee of the mint: {fee}");
        assert_eq!(Some(total(&wallet).await), before.checked_add(back));
        assert!(wallet.pending_sends().await.unwrap().is_empty());
    });
}

fn e10_an_invoice_paid_while_we_were_away_is_fetched_once(stage: &mut Stage<'_>) {
    let seed = rand::random();
    stage.runtime.block_on(async {
        let wallet = stage.wallet("a", seed).await;
        let quote = wallet.mint_quote(&stage.url, &Unit::Sat, sat(500)).await;
        quote.unwrap();
        wallet.close().await;
        let wallet = stage.wallet("a", seed).await;
        let deadline = Instant::now() + LONG;
        while total(&wallet).await.is_zero() {
            assert!(Instant::now() < deadline, "it never comes");
            wallet.recover().await.unwrap();
        }
        assert_eq!(total(&wallet).await, sat(500));
        assert_eq!(wallet.recover().await.unwrap(), Recovery::default());
        assert_eq!(total(&wallet).await, sat(500));
    });
}

/// Its outputs are those that the mint has signed before.
fn one_seed_in_a_fresh_file_is_read_before_it_is_used(stage: &mut Stage<'_>) {
    let seed = rand::random();
    stage.runtime.block_on(async {
        let wallet = stage.wallet("a", seed).await;
        let first = stage.paid(&wallet, 1000).await;
        wallet.redeem(first.id, &first.token).await.unwrap();
        wallet.close().await;
        let fresh = stage.wallet("fresh", seed).await;
        let second = stage.paid(&fresh, 1000).await;
        // All that the seed owns is read before anything is made with it.
        let done = fresh.redeem(second.id, &second.token).await;
        assert_eq!(done.unwrap().net, second.net);
        let both = first.net.checked_add(second.net);
        assert_eq!(Some(total(&fresh).await), both);
        assert_eq!(fresh.recover().await.unwrap(), Recovery::default());
    });
}

macro_rules! rows {
    ($($row:ident,)*) => {
        /// Each by itself.
        mod on_cdk {
            $(
                #[test]
                fn $row() {
                    super::on_cdk(super::$row);
                }
            )*
        }

        const ALL: &[(&str, Row)] = &[$((stringify!($row), $row)),*];
    };
}

rows! {
    e1_a_token_that_its_fee_eats_is_refused_untouched,
    e2_a_spent_token_leaves_nothing_that_fails_for_ever,
    e3_a_lost_answer_is_found_by_asking,
    e3b_a_second_try_after_a_lost_answer_hides_no_money,
    e4a_a_crash_after_the_swap_is_recovered,
    e4b_a_crash_before_the_swap_is_carried_on,
    e7_two_who_redeem_one_token_get_it_once,
    e8_a_mint_that_is_away_takes_nothing_then_or_later,
    e9_a_refund_that_was_made_and_not_written_down_comes_back,
    e10_an_invoice_paid_while_we_were_away_is_fetched_once,
    one_seed_in_a_fresh_file_is_read_before_it_is_used,
}

fn on_cdk(row: Row) {
    let runtime = Runtime::new().unwrap();
    let mint = runtime.block_on(TestMint::start(MintOptions::default()));
    let mint = mint.unwrap();
    row(&mut Stage::new(&runtime, mint.addr()));
}

#[test]
fn every_row_on_nutshell() {
    let program = match Nutshell::program() {
        Ok(program) => program,
        Err(why) => skip!("{why}"),
    };
    let runtime = Runtime::new().unwrap();
    let mint = runtime.block_on(Nutshell::start(program));
    let at = mint.url();
    let at = at.trim_start_matches("http://").parse().unwrap();
    for (name, row) in ALL {
        eprintln!("{name}");
        row(&mut Stage::new(&runtime, at));
    }
}
