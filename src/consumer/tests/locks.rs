//! Payments that are locked to the provider: what is sent, and how the money
//! comes back when nothing comes of it.

use std::time::Instant;

use super::*;
use crate::core::payment::lock::{Lock, accept};
use crate::wallet::{RedemptionState, WalletError};

/// A world whose provider has a wallet, and takes tokens that are locked to it.
fn world(script: impl Fn(&Request, usize) -> Vec<Outcome> + Send + Sync + 'static) -> Locked {
    let world = World::new(script);
    let provider = FakeWallet::new([world.mint.clone()]);
    *world.stage.lock.lock().unwrap() = Some(LockTerms {
        key: provider.lock_key(),
        min_seconds: 480,
        hold_seconds: None,
    });
    Locked { world, provider }
}

struct Locked {
    world: World,
    provider: FakeWallet,
}

impl Locked {
    /// A client whose tokens are locked for so long.
    fn client(&self, timeout: Duration, lock_for: Option<Duration>) -> Client {
        self.world.client_with(ClientOptions {
            timeout: Some(timeout),
            lock_for,
            ..ClientOptions::default()
        })
    }

    /// The token of the first request that brought one.
    fn token(&self) -> String {
        let sent = self.world.stage.sent.lock().unwrap();
        let mut requests = sent
            .iter()
            .map(|letter| serde_json::from_str::<Request>(&letter.body).unwrap());
        let token = requests.find_map(|request| request.ask.token().map(str::to_owned));
        token.expect("a token was sent")
    }

    /// Settles again and again until nothing is open.
    async fn settled(&self, client: &Client) {
        let end = Instant::now() + Duration::from_secs(30);
        while !client.records().open_requests().unwrap().is_empty() {
            assert!(Instant::now() < end, "the money never comes back");
            client.settle(&quiet).await.unwrap();
        }
    }
}

/// The request's deadline has passed, as if hours had.
fn expire(client: &Client) {
    let mut saved = client.records().open_requests().unwrap().remove(0);
    saved.expires_at = Timestamp::from_secs(1);
    client.records().save_request(&saved).unwrap();
}

const SECOND: Option<Duration> = Some(Duration::from_secs(1));

#[tokio::test]
async fn what_is_paid_can_be_redeemed_by_the_provider_alone() {
    let locked = world(|_, _| vec![leased()]);
    locked.world.mint.set_fee_ppk(100);
    let client = locked.client(LONG, None);
    let before = now();
    let leased = locked.world.spawn(&client).await.unwrap();
    let token = locked.token();
    let info = locked.provider.inspect(&token).unwrap();
    assert_eq!(info.face, leased.face);
    let key = locked.provider.lock_key();
    let asked = Duration::from_secs(480);
    let lock = accept(&info.locks, &[key], now(), asked).unwrap().unwrap();
    let saved: crate::consumer::records::SavedRequest = client
        .records()
        .request(&leased.request_id)
        .unwrap()
        .unwrap();
    // The request's end was reckoned after the lock was made: seconds later, maybe.
    let making = Duration::from_secs(now().secs_since(before));
    let until = saved.expires_at.plus_secs(3600).minus(making);
    assert!(lock.until >= Some(until) && lock.until < Some(before.plus_secs(7200)));
    assert_eq!(
        saved.paid.unwrap().lock.unwrap().locktime,
        lock.until.unwrap()
    );
    // Who reads it on the way gets nothing, and neither do we before the time.
    let thief = FakeWallet::new([locked.world.mint.clone()]);
    for wallet in [&thief, &locked.world.wallet] {
        let stolen = wallet.redeem(info.payment, &token).await;
        assert!(matches!(stolen, Err(WalletError::Refused(_))), "{stolen:?}");
    }
    let got = locked.provider.redeem(info.payment, &token).await.unwrap();
    assert!(got.net >= PRICE, "the fee came on top: {got:?}");
    assert!(client.records().locks().unwrap().is_empty());
    // More time is paid for in the same way.
    locked
        .world
        .stage
        .act(|_, _| vec![no(Code::NoCapacity, Money::Taken)]);
    let lease = client.find_lease("abc").unwrap();
    let topup = client.topup(&lease, Pay::Seconds(60), &agree, &quiet).await;
    topup.unwrap_err();
    let sent = locked.world.stage.sent.lock().unwrap().last().cloned();
    let request: Request = serde_json::from_str(&sent.unwrap().body).unwrap();
    let again = locked
        .provider
        .inspect(request.ask.token().unwrap())
        .unwrap();
    let refund = |info: &crate::wallet::TokenInfo| {
        let lock = info.locks[0].clone().unwrap();
        assert_eq!(lock.data, locked.provider.lock_key().as_str());
        lock.refund_keys
    };
    assert_ne!(refund(&again), refund(&info), "each with a key of its own");
}

#[tokio::test]
async fn tokens_are_not_locked_where_that_is_worth_nothing_or_not_wanted() {
    let locked = world(|_, _| vec![leased()]);
    locked.world.mint.set_locks(false);
    let client = locked.client(LONG, None);
    locked.world.spawn(&client).await.unwrap();
    let plain = |locked: &Locked| {
        let info = locked.provider.inspect(&locked.token()).unwrap();
        assert!(info.locks.iter().all(Option::is_none), "{:?}", info.locks);
    };
    plain(&locked);
    let locked = world(|_, _| vec![leased()]);
    let client = locked.world.client_with(ClientOptions {
        no_lock: true,
        ..ClientOptions::default()
    });
    locked.world.spawn(&client).await.unwrap();
    plain(&locked);
    // A provider that would hold the money for a week is not paid.
    let locked = world(|_, _| vec![leased()]);
    if let Some(terms) = locked.world.stage.lock.lock().unwrap().as_mut() {
        terms.min_seconds = 7 * 24 * 3600;
    }
    let error = locked.world.spawn(&locked.client(LONG, None)).await;
    assert_eq!(error.unwrap_err().code, "lock_too_long");
    assert_eq!(locked.world.balance().await, sat(100));
}

#[tokio::test]
async fn a_silent_provider_costs_time_and_no_money() {
    let locked = world(|_, _| vec![]);
    let client = locked.client(SHORT, SECOND);
    let error = locked.world.spawn(&client).await.unwrap_err();
    assert_eq!((error.kind, error.money), (Kind::Timeout, Money::Pending));
    expire(&client);
    let id = error.request_id.unwrap();
    let early = client.leftover(id, SHORT, &quiet).await.unwrap().unwrap();
    if let Err(error) = early.result
        && error.refunded_msat.is_zero()
    {
        assert_eq!(error.money, Money::Pending);
        assert_eq!(locked.world.balance().await, sat(94));
    }
    locked.settled(&client).await;
    assert_eq!(locked.world.balance().await, sat(100));
    let (token, provider) = (locked.token(), &locked.provider);
    let payment = provider.inspect(&token).unwrap().payment;
    let late = provider.redeem(payment, &token).await;
    assert_eq!(late, Err(WalletError::Spent), "too late for the provider");
}

#[tokio::test]
async fn a_provider_that_took_it_and_stays_silent_is_not_forgotten() {
    let locked = world(|_, _| vec![]);
    let client = locked.client(SHORT, SECOND);
    locked.world.spawn(&client).await.unwrap_err();
    let (token, provider) = (locked.token(), &locked.provider);
    let payment = provider.inspect(&token).unwrap().payment;
    provider.redeem(payment, &token).await.unwrap();
    let mut saved = client.records().open_requests().unwrap().remove(0);
    saved.expires_at = now().minus(Duration::from_secs(3600));
    if let Some(lock) = saved.paid.as_mut().and_then(|paid| paid.lock.as_mut()) {
        lock.locktime = Timestamp::from_secs(1);
    }
    client.records().save_request(&saved).unwrap();
    client.settle(&quiet).await.unwrap();
    let open = client.records().open_requests().unwrap();
    assert_eq!(open.len(), 1, "the provider owes an answer");
    // After a week it is given up, and said to be lost.
    expire(&client);
    client.settle(&quiet).await.unwrap();
    assert!(client.records().open_requests().unwrap().is_empty());
    assert_eq!(client.records().lost_requests().unwrap().len(), 1);
    assert_eq!(locked.world.balance().await, sat(94));
}

#[tokio::test]
async fn a_locked_token_that_was_refused_comes_back_after_its_time() {
    let locked = world(|_, _| vec![no(Code::NoCapacity, Money::Untouched)]);
    let client = locked.client(LONG, SECOND);
    let error = locked.world.spawn(&client).await.unwrap_err();
    assert_eq!(error.code, "no_capacity");
    assert!(error.message.contains("locked"), "{}", error.message);
    assert_eq!(error.refunded_msat, Msat::ZERO);
    let open = client.records().open_requests().unwrap();
    assert_eq!(open[0].standing, Standing::TakeBack);
    locked.settled(&client).await;
    assert_eq!(locked.world.balance().await, sat(100));
    assert_eq!(
        locked.world.stage.spawns().len(),
        1,
        "it is not asked again"
    );
}

#[tokio::test]
async fn a_lost_answer_while_locking_is_asked_for_again() {
    let locked = world(|_, _| vec![leased()]);
    locked.world.mint.lose_next_lock();
    let leased = locked
        .world
        .spawn(&locked.client(LONG, None))
        .await
        .unwrap();
    assert_eq!(leased.face, sat(6));
    assert_eq!(locked.world.balance().await, sat(94), "paid once");
}

/// The process dies after it wrote down that a token is being locked.
#[tokio::test]
async fn a_crash_while_locking_loses_nothing() {
    for asked in [false, true] {
        let locked = world(|_, _| vec![]);
        {
            let client = locked.client(SHORT, SECOND);
            let session = client.wallet().await.unwrap();
            let (mint, wallet) = (locked.world.mint.url(), session.wallet());
            let plain = wallet.send(&mint, &Unit::Sat, sat(40), true).await;
            let (plain, key) = (plain.unwrap().token, locked.provider.lock_key());
            let records = client.records();
            let saved = records
                .new_lock(&key, now().plus_secs(1), None, &plain)
                .unwrap();
            let next = records
                .new_lock(&key, now(), None, &plain)
                .unwrap()
                .to
                .index;
            assert_ne!(next, saved.to.index, "no key is used twice");
            records.remove_lock(next).unwrap();
            if asked {
                wallet.lock(&plain, &saved.to).await.unwrap();
            }
        }
        assert_eq!(locked.world.balance().await, sat(60));
        let client = locked.client(SHORT, SECOND);
        client.wallet().await.unwrap();
        if !asked {
            assert_eq!(locked.world.balance().await, sat(100), "at once");
        }
        let end = Instant::now() + Duration::from_secs(30);
        while !client.records().locks().unwrap().is_empty() {
            assert!(Instant::now() < end, "the money never comes back");
            client.settle(&quiet).await.unwrap();
        }
        assert_eq!(locked.world.balance().await, sat(100), "asked: {asked}");
    }
}

/// A request that was written down is not taken for a leftover.
#[tokio::test]
async fn a_request_takes_its_lock_over() {
    let locked = world(|_, _| vec![]);
    let client = locked.client(SHORT, None);
    locked.world.spawn(&client).await.unwrap_err();
    let saved = client.records().open_requests().unwrap().remove(0);
    let paid = saved.paid.unwrap();
    // The process died between writing the request and removing the note.
    let note = crate::consumer::records::SavedLock {
        to: paid.lock.clone().unwrap(),
        plain: locked.world.mint.token(sat(6)),
        locked: None,
    };
    client.records().save_lock(&note).unwrap();
    let fresh = locked.client(SHORT, None);
    let session = fresh.wallet().await.unwrap();
    assert!(fresh.records().locks().unwrap().is_empty());
    assert_eq!(locked.world.balance().await, sat(94));
    let payment = session.wallet().inspect(&paid.token).unwrap().payment;
    let state = session.wallet().redemption(payment, &paid.token).await;
    assert_eq!(
        state,
        Ok(RedemptionState::NotDone),
        "the provider still has it"
    );
    let to = Lock {
        until: paid.lock.map(|to| to.locktime),
    };
    assert!(to.until > Some(now()));
}
