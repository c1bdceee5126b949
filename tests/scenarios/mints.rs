//! What is taken at a mint that is not well, or not fit: seen in the offer, told
//! before anything is taken, and refunds are made there all the same. On fakes
//! with a paused clock.

use std::sync::Arc;
use std::time::Duration;

use satlet::core::ids::LeaseId;
use satlet::core::lease::RefundState;
use satlet::core::mint::Standing;
use satlet::core::money::Msat;
use satlet::core::payment::lock::{Conditions, Kind};
use satlet::ledger::{MERGES, MergeRow, purse_key};
use satlet::protocol::error::{Code, Money, WireError};
use satlet::protocol::reply::{Answer, MintTerms};
use satlet::protocol::request::{Ask, Quote, Wanted};
use satlet::provider::settings::{MintSetting, Settings};
use satlet::provider::{mints, offer};
use satlet::wallet::fake::{FakeMint, FakeWallet};
use satlet::wallet::{Unit, Wallet};

use crate::support::shop::{Shop, body, key, new_id, spawn, stop, topup};

fn sat(sat: u64) -> Msat {
    Msat::from_sat(sat).unwrap()
}

async fn pass(secs: u64) {
    tokio::time::sleep(Duration::from_secs(secs)).await;
}

/// A shop that accepts two mints, of which the first one is the one that things
/// happen to.
struct Two {
    shop: Shop,
    wallet: FakeWallet,
    bad: FakeMint,
    good: FakeMint,
}

impl Two {
    async fn open(change: impl FnOnce(&mut Settings)) -> Self {
        let (bad, good) = (
            FakeMint::new("https://bad.test"),
            FakeMint::new("https://good.test"),
        );
        let wallet = FakeWallet::new([bad.clone(), good.clone()]);
        wallet.set_time(satlet::core::time::Timestamp::from_secs(u64::MAX));
        let purse: Arc<dyn Wallet> = Arc::new(wallet.clone());
        let shop = Shop::open_at(Some(purse), |settings| {
            let mint = |mint: &FakeMint| MintSetting {
                url: mint.url().0,
                ..MintSetting::default()
            };
            settings.mints = vec![mint(&bad), mint(&good)];
            change(settings);
        });
        Self {
            shop: shop.await,
            wallet,
            bad,
            good,
        }
    }

    fn standing(&self) -> Standing {
        self.shop.ctx().mints.standing(&self.bad.url().0)
    }

    /// A look at the mints, some seconds later.
    async fn look(&self) -> Standing {
        pass(5).await;
        mints::look(self.shop.ctx()).await;
        self.standing()
    }

    /// Looks until it stands so; how many minutes that took.
    async fn minutes_until(&self, standing: Standing) -> u64 {
        for minute in 0..60 {
            if self.standing() == standing {
                return minute;
            }
            for _ in 0..12 {
                self.look().await;
            }
        }
        panic!("it stays {:?}", self.standing());
    }

    /// What the offer says of the bad one; whether old clients are told of it.
    async fn offered(&self) -> (Option<String>, bool) {
        let offer = offer::current(self.shop.ctx()).await.unwrap();
        let url = self.bad.url().0;
        let old = offer.whitelisted_mints.contains(&url);
        let terms: Vec<MintTerms> = offer.satlet.unwrap().mints;
        assert_eq!(terms.len(), 2, "it stays on the list");
        let mut bad = terms.into_iter().filter(|mint| mint.url == url);
        (bad.next().unwrap().state, old)
    }

    async fn lease(&self, token: String) -> LeaseId {
        match self.shop.ask(key(1), spawn(token)).await {
            Ok(Answer::Spawn(answer)) => answer.status.lease,
            other => panic!("{other:?}"),
        }
    }

    /// A refusal: its owner still has the money, and the mint was not asked.
    async fn refused(&self, token: &str, ask: Ask) -> WireError {
        let redeems = self.bad.total_redeem_calls();
        self.wallet.calls();
        let error = self.shop.ask(key(1), ask).await.expect_err("refused");
        assert_eq!((error.money, &error.refund), (Money::Untouched, &None));
        assert!(!self.bad.is_spent(token));
        assert_eq!(self.bad.total_redeem_calls(), redeems);
        assert_eq!(self.wallet.calls(), [], "the mint was not asked");
        error
    }

    /// A token that is locked to the provider.
    fn locked(&self, amount: u64) -> String {
        let lock = Conditions {
            kind: Kind::P2pk,
            data: self.wallet.lock_key().to_string(),
            extra_keys: Vec::new(),
            n_sigs: None,
            sig_all: false,
            locktime: Some(self.shop.ctx().now().plus_secs(7200)),
            refund_keys: vec![format!("02{}", "ab".repeat(32))],
            n_sigs_refund: None,
        };
        self.bad.locked_token(sat(amount), &lock)
    }

    fn merged(&self) -> MergeRow {
        let key = purse_key(&(self.bad.url().0, "sat".to_owned()));
        let ledger = self.shop.ctx().ledger();
        let row = ledger.read(|reader| reader.get(&MERGES, &key));
        row.unwrap().unwrap_or_default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_mint_takes_locked_tokens_and_then_no_new_leases_and_comes_back() {
    let two = Two::open(|_| {}).await;
    let shop = &two.shop;
    mints::at_start(shop.ctx()).await;
    assert_eq!(two.standing(), Standing::Ok);
    assert_eq!(two.offered().await, (None, true));
    let lease = two.lease(two.bad.token(sat(100))).await;

    two.bad.set_delay(Duration::from_secs(8));
    for _ in 0..3 {
        let answer = shop
            .ask(key(1), topup(&lease, two.bad.token(sat(10))))
            .await;
        assert!(answer.is_ok(), "{answer:?}");
    }
    assert_eq!(two.look().await, Standing::Degraded);
    assert_eq!(two.offered().await, (Some("degraded".to_owned()), false));
    let token = two.bad.token(sat(100));
    let error = two.refused(&token, spawn(token.clone())).await;
    assert_eq!(error.code, Code::MintPaused, "{error:?}");
    assert!(error.suggestion.contains("lock the token"), "{error:?}");
    let second = two.lease(two.locked(100)).await;

    two.bad.set_delay(Duration::from_secs(17));
    for _ in 0..3 {
        let answer = shop
            .ask(key(1), topup(&lease, two.bad.token(sat(10))))
            .await;
        assert!(answer.is_ok(), "{answer:?}");
    }
    assert_eq!(two.look().await, Standing::Paused);
    assert_eq!(two.offered().await, (Some("paused".to_owned()), false));
    for token in [two.bad.token(sat(100)), two.locked(100)] {
        let error = two.refused(&token, spawn(token.clone())).await;
        assert_eq!(error.code, Code::MintPaused, "{error:?}");
        assert!(error.message.contains("its answers take"), "{error:?}");
        assert!(error.suggestion.ends_with("https://good.test"), "{error:?}");
    }
    two.lease(two.good.token(sat(100))).await;
    // What runs may be paid for.
    let answer = shop
        .ask(key(1), topup(&lease, two.bad.token(sat(10))))
        .await;
    assert!(answer.is_ok(), "{answer:?}");

    // A refund is made there as soon as it answers at all.
    two.bad.set_down(true);
    let id = new_id();
    shop.deliver(key(1), body(id, stop(&second))).await;
    pass(120).await;
    let refund = |shop: &Shop| shop.lease(&second).refunds[0].state.clone();
    assert!(matches!(refund(shop), RefundState::Owed));
    two.bad.set_down(false);
    two.bad.set_delay(Duration::from_millis(50));
    pass(120).await;
    assert!(matches!(refund(shop), RefundState::Made { .. }));

    // It is asked again and again, and after a while it is trusted again.
    let minutes = two.minutes_until(Standing::Ok).await;
    assert!((1..=15).contains(&minutes), "{minutes}");
    assert_eq!(two.offered().await, (None, true));
    two.lease(two.bad.token(sat(100))).await;
}

#[tokio::test(start_paused = true)]
async fn a_mint_that_does_not_answer_is_paused_and_asked_again() {
    let two = Two::open(|_| {}).await;
    two.bad.set_down(true);
    mints::at_start(two.shop.ctx()).await;
    assert_eq!(two.standing(), Standing::Probing);
    let token = two.bad.token(sat(100));
    let error = two.refused(&token, spawn(token.clone())).await;
    assert_eq!(error.code, Code::MintPaused, "{error:?}");
    two.lease(two.good.token(sat(100))).await;
    two.bad.set_down(false);
    let mut looks = 0;
    while two.look().await == Standing::Probing {
        looks += 1;
        assert!(looks < 5, "it is asked again soon");
    }
    // What it did not answer counts for a while.
    assert!(two.minutes_until(Standing::Ok).await <= 10);
    let lease = two.lease(token).await;

    // Later it goes away while it is being paid at.
    two.bad.set_down(true);
    for _ in 0..4 {
        let error = two
            .shop
            .ask(key(1), topup(&lease, two.bad.token(sat(10))))
            .await;
        assert_eq!(error.unwrap_err().code, Code::MintDown);
    }
    assert_eq!(two.look().await, Standing::Paused);
    two.bad.set_down(false);
    assert!(two.minutes_until(Standing::Ok).await <= 15);
}

#[tokio::test(start_paused = true)]
async fn a_mint_that_is_not_fit_is_refused_with_a_sentence() {
    let two = Two::open(|_| {}).await;
    let lease = two.lease(two.bad.token(sat(100))).await;
    two.bad.set_lacks(&[11, 14]);
    mints::at_start(two.shop.ctx()).await;
    assert_eq!(two.standing(), Standing::Refused);
    assert_eq!(two.offered().await, (Some("refused".to_owned()), false));
    let token = two.bad.token(sat(100));
    for ask in [spawn(token.clone()), topup(&lease, token.clone())] {
        let error = two.refused(&token, ask).await;
        assert_eq!(error.code, Code::MintNotAccepted, "{error:?}");
        assert!(error.message.ends_with("it does not do NUT-11, NUT-14"));
        assert!(error.suggestion.ends_with("https://good.test"));
    }
    // What was paid there goes back.
    let Ok(Answer::Stop(answer)) = two.shop.ask(key(1), stop(&lease)).await else {
        panic!()
    };
    assert!(answer.refund.is_some());
    // It mends its ways, and is asked again.
    two.bad.set_lacks(&[]);
    assert!(two.minutes_until(Standing::Ok).await <= 11);
    two.lease(token).await;
    // It becomes dear: known the next day.
    two.bad.set_fee_ppk(1001);
    pass(24 * 3600).await;
    assert_eq!(two.look().await, Standing::Refused);
    let token = two.bad.token(sat(100));
    let error = two.refused(&token, spawn(token.clone())).await;
    assert!(error.message.contains("1001 thousandths"), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn no_more_is_put_into_a_mint_than_the_operator_wants() {
    let two = Two::open(|settings| {
        settings.mints.truncate(1);
        settings.mints[0].max_exposure = Some(sat(150));
    })
    .await;
    mints::at_start(two.shop.ctx()).await;
    let first = two.lease(two.bad.token(sat(100))).await;
    assert_eq!(two.look().await, Standing::Ok);
    two.lease(two.bad.token(sat(100))).await;
    assert_eq!(two.look().await, Standing::Paused);
    let token = two.bad.token(sat(100));
    let error = two.refused(&token, spawn(token.clone())).await;
    assert!(error.message.contains("200 sat lie there, and 150 sat may"));
    assert!(error.suggestion.contains("another provider"), "{error:?}");
    // There is no other mint: not even a price is told.
    let quote = Ask::Quote(Quote {
        wanted: Wanted::default(),
        seconds: None,
    });
    let error = two.shop.ask(key(1), quote.clone()).await.unwrap_err();
    assert_eq!(error.code, Code::MintPaused, "{error:?}");
    two.shop.ask(key(1), stop(&first)).await.unwrap();
    assert_eq!(two.look().await, Standing::Ok, "there is room again");
    two.shop.ask(key(1), quote).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_mint_is_tried_with_money_of_ours_and_never_with_anybody_else_s() {
    let two = Two::open(|settings| {
        settings.mints[0].probe_amount = Some(sat(21));
        settings.timing.mint_probe = Duration::from_secs(5);
    })
    .await;
    two.bad.set_fee_ppk(100);
    mints::at_start(two.shop.ctx()).await;
    two.lease(two.bad.token(sat(100))).await;
    two.look().await;
    assert_eq!(two.bad.merges(), 0, "all of it may have to go back");
    two.wallet.fund(&two.bad.url(), &Unit::Sat, sat(20));
    two.look().await;
    assert_eq!(two.bad.merges(), 1);
    assert_eq!(two.merged().cost, sat(1), "its fee is ours");
    assert_eq!(two.standing(), Standing::Ok);
}
