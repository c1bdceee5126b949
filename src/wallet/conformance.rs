//! What every [`Wallet`] has to do: one plain async function for each case, and
//! [`wallet_conformance!`](crate::wallet_conformance) to make tests of them.
#![expect(
    clippy::unwrap_used,
    reason = "a test that meets something else than it wants ends there"
)]

mod melts;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{LockTo, MintUrl, ProofsState, RedemptionState, Unit, Wallet, WalletError, amount_of};
use crate::core::money::Msat;
use crate::core::payment::hash_lock::{HashLock, accept_hashed};
use crate::core::payment::lock::{Lock, LockKey, accept};
use crate::core::purse::{Merge, Piece, fee};
use crate::core::time::Timestamp;

pub use melts::*;

/// What the suite needs of a kind of wallet: two wallets at one mint with a fee,
/// and somebody who gives tokens away.
#[async_trait]
pub trait Bench: Send + Sync {
    /// The wallet under test.
    fn wallet(&self) -> &dyn Wallet;
    /// Another one, with another seed, at the same mint.
    fn other(&self) -> &dyn Wallet;
    /// Their mint.
    fn mint(&self) -> MintUrl;
    /// A fresh token of somebody else over this many sat.
    async fn token(&self, sat: u64) -> String;
    /// A token of a mint that the wallet does not accept.
    async fn foreign(&self) -> String;
    /// A token in US cents.
    async fn cents(&self) -> String;
    /// Gives the wallet under test this many sat.
    async fn fund(&self, sat: u64);
    /// Takes the mint down, or up again.
    async fn set_down(&self, down: bool);
    /// Pays an invoice of the mint, or knows that somebody will.
    async fn pay(&self, bolt11: &str);
}

/// A token of version 3 with these secrets, a sat each; it only looks good.
pub fn token_v3(mint: &str, unit: &str, secrets: &[&str]) -> String {
    // The point of NUT-00's example.
    let point = "038618543ffb6b8695df4ad4babcde92a34a96bdcd97dcee0d7ccf98d472126792";
    let proof = |secret: &&str| {
        serde_json::json!({
            "amount": 1, "id": "00ad268c4d1f5826", "secret": secret, "C": point,
        })
    };
    let proofs: Vec<_> = secrets.iter().map(proof).collect();
    let token = serde_json::json!({
        "token": [{"mint": mint, "proofs": proofs}], "unit": unit,
    });
    format!("cashuA{}", URL_SAFE_NO_PAD.encode(token.to_string()))
}

/// `sat` satoshi.
pub fn sat(sat: u64) -> Msat {
    Msat::from_sat(sat).unwrap()
}

async fn balance(wallet: &dyn Wallet, bench: &dyn Bench) -> Msat {
    let balances = wallet.balances().await.unwrap();
    let key = (bench.mint(), Unit::Sat);
    balances.get(&key).copied().unwrap_or_default()
}

/// A good token is read without its mint; the payment id hangs on nothing else.
pub async fn reads_a_good_token(bench: &dyn Bench) {
    let (one, two) = (bench.token(21).await, bench.token(21).await);
    bench.set_down(true).await;
    let info = bench.wallet().inspect(&one).unwrap();
    assert_eq!(info.mint, bench.mint());
    assert_eq!(info.unit, Unit::Sat);
    assert_eq!(info.face, sat(21));
    assert!(info.ys.is_sorted() && !info.ys.is_empty());
    assert_eq!(bench.wallet().inspect(&one).unwrap(), info);
    assert_ne!(
        bench.wallet().inspect(&two).unwrap().payment,
        info.payment,
        "other proofs are another payment"
    );
}

/// Rubbish, a foreign mint and a foreign unit each have their own error.
pub async fn refuses_what_it_cannot_take(bench: &dyn Bench) {
    let wallet = bench.wallet();
    let good = bench.token(21).await;
    let cut = good.get(..good.len() / 2).unwrap().to_owned();
    let long = "cashuB".to_owned() + &"a".repeat(crate::protocol::MAX_TOKEN);
    for bad in [String::new(), "cashuBrubbish".to_owned(), cut, long] {
        let error = wallet.inspect(&bad).unwrap_err();
        assert!(matches!(error, WalletError::Malformed(_)), "{error:?}");
    }
    let foreign = bench.foreign().await;
    let error = wallet.inspect(&foreign).unwrap_err();
    assert!(
        matches!(error, WalletError::MintNotAccepted(_)),
        "{error:?}"
    );
    let error = wallet.check(&foreign).await.unwrap_err();
    assert!(
        matches!(error, WalletError::MintNotAccepted(_)),
        "{error:?}"
    );
    let cents = bench.cents().await;
    let error = wallet.inspect(&cents).unwrap_err();
    assert_eq!(error, WalletError::WrongUnit("usd".to_owned()));
}

/// `net_of` says what `redeem` then gives; afterwards the mint says spent.
pub async fn redeems_what_it_said(bench: &dyn Bench) {
    let (wallet, token) = (bench.wallet(), bench.token(1000).await);
    let info = wallet.inspect(&token).unwrap();
    assert_eq!(
        wallet.check(&token).await.unwrap(),
        ProofsState::Unspent,
        "before"
    );
    let expected = wallet.net_of(&token).await.unwrap();
    let redeemed = wallet.redeem(info.payment, &token).await.unwrap();
    assert_eq!(redeemed.net, expected);
    assert!(!redeemed.fee.is_zero(), "this mint takes a fee");
    assert_eq!(redeemed.net.checked_add(redeemed.fee), Some(info.face));
    assert_eq!(balance(wallet, bench).await, redeemed.net);
    assert_eq!(
        wallet.check(&token).await.unwrap(),
        ProofsState::Spent,
        "after"
    );
    let state = wallet.redemption(info.payment, &token).await.unwrap();
    assert_eq!(state, RedemptionState::Done(redeemed));
}

/// A token that somebody else spent takes nothing and leaves nothing behind.
pub async fn a_spent_token_leaves_nothing(bench: &dyn Bench) {
    let (wallet, token) = (bench.wallet(), bench.token(64).await);
    let payment = wallet.inspect(&token).unwrap().payment;
    bench.other().redeem(payment, &token).await.unwrap();
    let error = wallet.redeem(payment, &token).await.unwrap_err();
    assert_eq!(error, WalletError::Spent);
    assert_eq!(balance(wallet, bench).await, Msat::ZERO);
    let state = wallet.redemption(payment, &token).await.unwrap();
    assert_eq!(state, RedemptionState::SpentElsewhere);
    let found = wallet.recover().await.unwrap();
    assert_eq!(found.unfinished, 0, "{found:?}");
    let again = wallet.recover().await.unwrap();
    assert_eq!(again, super::Recovery::default());
}

/// Redeeming twice gives the money once.
pub async fn redeems_once(bench: &dyn Bench) {
    let (wallet, token) = (bench.wallet(), bench.token(64).await);
    let payment = wallet.inspect(&token).unwrap().payment;
    let redeemed = wallet.redeem(payment, &token).await.unwrap();
    let error = wallet.redeem(payment, &token).await.unwrap_err();
    assert_eq!(error, WalletError::Spent);
    assert_eq!(balance(wallet, bench).await, redeemed.net);
    assert_eq!(wallet.recover().await.unwrap().unfinished, 0);
    assert_eq!(balance(wallet, bench).await, redeemed.net);
}

/// A sent token with its fee nets the receiver exactly the amount.
pub async fn sends_with_fee(bench: &dyn Bench) {
    bench.fund(500).await;
    let before = balance(bench.wallet(), bench).await;
    let amount = sat(123);
    let sent = bench
        .wallet()
        .send(&bench.mint(), &Unit::Sat, amount, true)
        .await
        .unwrap();
    let info = bench.other().inspect(&sent.token).unwrap();
    assert_eq!((info.face, &info.ys), (sent.face, &sent.ys));
    assert!(sent.face > amount);
    let redeemed = bench.other().redeem(info.payment, &sent.token).await;
    assert_eq!(redeemed.unwrap().net, amount);
    let left = balance(bench.wallet(), bench).await;
    let sum = Msat::checked_sum([left, sent.face, sent.fee]);
    assert_eq!(sum, Some(before), "no millisatoshi is lost on the way");
}

/// Without its fee the token's face is the amount, and the receiver pays.
pub async fn sends_without_fee(bench: &dyn Bench) {
    bench.fund(500).await;
    let before = balance(bench.wallet(), bench).await;
    let mint = bench.mint();
    let wallet = bench.wallet();
    let sent = wallet.send(&mint, &Unit::Sat, sat(123), false).await;
    let sent = sent.unwrap();
    assert_eq!(sent.face, sat(123));
    let info = bench.other().inspect(&sent.token).unwrap();
    let redeemed = bench.other().redeem(info.payment, &sent.token).await;
    let redeemed = redeemed.unwrap();
    assert_eq!(redeemed.net.checked_add(redeemed.fee), Some(sat(123)));
    let left = balance(wallet, bench).await;
    let sum = Msat::checked_sum([left, sent.face, sent.fee]);
    assert_eq!(sum, Some(before), "no millisatoshi is lost on the way");
}

/// More than there is, and less than a piece: nothing happens.
pub async fn sends_no_more_than_it_has(bench: &dyn Bench) {
    let (wallet, mint) = (bench.wallet(), bench.mint());
    bench.fund(50).await;
    let before = balance(wallet, bench).await;
    let error = wallet.send(&mint, &Unit::Sat, sat(51), false).await;
    let error = error.unwrap_err();
    assert!(matches!(error, WalletError::NoBalance { .. }), "{error:?}");
    // The whole balance leaves nothing for the fee.
    let error = wallet.send(&mint, &Unit::Sat, sat(50), true).await;
    let error = error.unwrap_err();
    assert!(matches!(error, WalletError::NoBalance { .. }), "{error:?}");
    for amount in [Msat::ZERO, Msat::new(1)] {
        let error = wallet.send(&mint, &Unit::Sat, amount, false).await;
        assert_eq!(error.unwrap_err(), WalletError::TooSmall);
    }
    assert_eq!(balance(wallet, bench).await, before);
    assert_eq!(wallet.recover().await.unwrap().unfinished, 0);
    assert_eq!(balance(wallet, bench).await, before);
}

/// A token that is not worth its fee is refused untouched.
pub async fn refuses_what_the_fee_eats(bench: &dyn Bench) {
    let (wallet, token) = (bench.wallet(), bench.token(1).await);
    let payment = wallet.inspect(&token).unwrap().payment;
    let error = wallet.net_of(&token).await.unwrap_err();
    assert_eq!(error, WalletError::TooSmall);
    let error = wallet.redeem(payment, &token).await.unwrap_err();
    assert_eq!(error, WalletError::TooSmall);
    assert_eq!(wallet.check(&token).await.unwrap(), ProofsState::Unspent);
    assert_eq!(wallet.recover().await.unwrap().unfinished, 0);
}

/// While the mint is down nothing is taken, then or later.
pub async fn a_mint_that_is_down_takes_nothing(bench: &dyn Bench) {
    let (wallet, token) = (bench.wallet(), bench.token(64).await);
    let payment = wallet.inspect(&token).unwrap().payment;
    wallet.facts(&bench.mint()).await.unwrap();
    bench.set_down(true).await;
    let error = wallet.check(&token).await.unwrap_err();
    assert!(matches!(error, WalletError::MintDown(_)), "{error:?}");
    let error = wallet.redeem(payment, &token).await.unwrap_err();
    assert!(matches!(error, WalletError::MintDown(_)), "{error:?}");
    bench.set_down(false).await;
    let found = wallet.recover().await.unwrap();
    assert_eq!(found, super::Recovery::default());
    assert_eq!(wallet.check(&token).await.unwrap(), ProofsState::Unspent);
    assert_eq!(
        wallet.redemption(payment, &token).await.unwrap(),
        RedemptionState::NotDone
    );
    assert_eq!(balance(wallet, bench).await, Msat::ZERO);
    wallet.redeem(payment, &token).await.unwrap();
}

/// A token that was sent is pending until somebody has redeemed it.
pub async fn a_sent_token_is_pending_until_it_is_redeemed(bench: &dyn Bench) {
    bench.fund(500).await;
    let (wallet, mint) = (bench.wallet(), bench.mint());
    assert_eq!(wallet.pending_sends().await.unwrap(), []);
    let sent = wallet.send(&mint, &Unit::Sat, sat(100), false).await;
    let sent = sent.unwrap();
    wallet.recover().await.unwrap();
    let pending = wallet.pending_sends().await.unwrap();
    assert_eq!(pending.len(), 1);
    let told = wallet.inspect(&pending.first().unwrap().token).unwrap();
    assert_eq!((told.face, told.ys), (sent.face, sent.ys));
    let payment = told.payment;
    bench.other().redeem(payment, &sent.token).await.unwrap();
    wallet.recover().await.unwrap();
    assert_eq!(wallet.pending_sends().await.unwrap(), []);
    let error = wallet.reclaim(&sent.token).await.unwrap_err();
    assert!(matches!(
        error,
        WalletError::Spent | WalletError::Refused(_)
    ));
}

/// What nobody redeemed comes back, less the mint's fee, once; what somebody
/// has redeemed does not.
pub async fn takes_back_what_nobody_redeemed(bench: &dyn Bench) {
    bench.fund(500).await;
    let (wallet, mint) = (bench.wallet(), bench.mint());
    let sent = wallet.send(&mint, &Unit::Sat, sat(100), false).await;
    let (sent, before) = (sent.unwrap(), balance(wallet, bench).await);
    bench.set_down(true).await;
    let error = wallet.reclaim(&sent.token).await.unwrap_err();
    assert!(matches!(error, WalletError::MintDown(_)), "{error:?}");
    assert_eq!(wallet.pending_sends().await.unwrap().len(), 1);
    bench.set_down(false).await;
    let back = wallet.reclaim(&sent.token).await.unwrap();
    assert!(back < sent.face && !back.is_zero(), "{back}");
    assert_eq!(before.checked_add(back), Some(balance(wallet, bench).await));
    assert_eq!(wallet.pending_sends().await.unwrap(), []);
    let payment = wallet.inspect(&sent.token).unwrap().payment;
    let late = bench.other().redeem(payment, &sent.token).await;
    assert_eq!(late, Err(WalletError::Spent));
    let again = wallet.reclaim(&sent.token).await.unwrap_err();
    assert!(matches!(again, WalletError::Refused(_)), "{again:?}");

    let taken = wallet.send(&mint, &Unit::Sat, sat(50), false).await;
    let taken = taken.unwrap();
    let payment = wallet.inspect(&taken.token).unwrap().payment;
    bench.other().redeem(payment, &taken.token).await.unwrap();
    let before = balance(wallet, bench).await;
    assert_eq!(wallet.reclaim(&taken.token).await, Err(WalletError::Spent));
    assert_eq!(balance(wallet, bench).await, before);
}

/// Our own token can be redeemed like any other, once, and is pending no more.
pub async fn redeems_its_own_token(bench: &dyn Bench) {
    bench.fund(500).await;
    let (wallet, mint) = (bench.wallet(), bench.mint());
    let sent = wallet.send(&mint, &Unit::Sat, sat(100), false).await;
    let (sent, before) = (sent.unwrap(), balance(wallet, bench).await);
    let payment = wallet.inspect(&sent.token).unwrap().payment;
    let state = wallet.redemption(payment, &sent.token).await.unwrap();
    assert_eq!(state, RedemptionState::NotDone);
    let redeemed = wallet.redeem(payment, &sent.token).await.unwrap();
    assert_eq!(redeemed.net.checked_add(redeemed.fee), Some(sent.face));
    let state = wallet.redemption(payment, &sent.token).await.unwrap();
    assert_eq!(state, RedemptionState::Done(redeemed));
    wallet.recover().await.unwrap();
    assert_eq!(wallet.pending_sends().await.unwrap(), []);
    let after = balance(wallet, bench).await;
    assert_eq!(before.checked_add(redeemed.net), Some(after));
}

async fn pieces(bench: &dyn Bench) -> Vec<Piece> {
    let pieces = bench.wallet().pieces(&bench.mint(), &Unit::Sat).await;
    pieces.unwrap()
}

/// Many proofs become few for the fee that was foretold, once; while the mint is
/// down nothing happens, and asking again after it was done costs nothing.
pub async fn merges_many_proofs_into_few(bench: &dyn Bench) {
    let (wallet, mint) = (bench.wallet(), bench.mint());
    for _ in 0..3 {
        let token = bench.token(63).await;
        let payment = wallet.inspect(&token).unwrap().payment;
        wallet.redeem(payment, &token).await.unwrap();
    }
    let (before, many) = (balance(wallet, bench).await, pieces(bench).await);
    let sum = Msat::checked_sum(many.iter().map(|piece| piece.amount));
    assert_eq!(sum, Some(before));
    let piece = Unit::Sat.piece();
    let merge = Merge {
        ys: many.iter().map(|piece| piece.y.clone()).collect(),
        fee: fee(&many, piece).unwrap(),
    };
    assert!(!merge.fee.is_zero() && many.iter().all(|piece| piece.active));
    bench.set_down(true).await;
    let error = wallet.merge(&mint, &Unit::Sat, &merge).await.unwrap_err();
    assert!(matches!(error, WalletError::MintDown(_)), "{error:?}");
    bench.set_down(false).await;
    assert_eq!(balance(wallet, bench).await, before);
    for _ in 0..2 {
        let cost = wallet.merge(&mint, &Unit::Sat, &merge).await;
        assert_eq!(cost, Ok(merge.fee));
    }
    let after = balance(wallet, bench).await;
    assert_eq!(after.checked_add(merge.fee), Some(before));
    let few = pieces(bench).await;
    assert_eq!(few.len(), after.whole_sat().count_ones() as usize);
    // One that is gone, with others that are not: nothing happens.
    let mixed = Merge {
        ys: few.iter().chain(&many).map(|one| one.y.clone()).collect(),
        fee: merge.fee,
    };
    let error = wallet.merge(&mint, &Unit::Sat, &mixed).await.unwrap_err();
    assert!(matches!(error, WalletError::Refused(_)), "{error:?}");
    assert_eq!(balance(wallet, bench).await, after);
    assert_eq!(wallet.recover().await.unwrap().unfinished, 0);
    assert_eq!(balance(wallet, bench).await, after);
}

/// A mint tells what it does; one that is down does not, and both are calls that
/// are told once.
pub async fn asks_a_mint_what_it_does(bench: &dyn Bench) {
    let (wallet, mint) = (bench.wallet(), bench.mint());
    let told = wallet.probe(&mint).await.unwrap();
    for nut in crate::core::mint::NEEDED {
        assert!(told.nuts.contains(&nut), "NUT-{nut} of {:?}", told.nuts);
    }
    assert_eq!(told.facts, wallet.facts(&mint).await.unwrap());
    let calls = wallet.calls();
    assert!(!calls.is_empty());
    assert!(
        calls
            .iter()
            .all(|(at, call)| *at == mint && call.failed.is_none())
    );
    bench.set_down(true).await;
    let error = wallet.probe(&mint).await.unwrap_err();
    assert!(matches!(error, WalletError::MintDown(_)), "{error:?}");
    let calls = wallet.calls();
    assert!(
        calls.iter().any(|(_, call)| call.failed.is_some()),
        "{calls:?}"
    );
    assert_eq!(wallet.calls(), []);
}

/// The facts name the mint, the unit and a fee that explains what redeeming costs.
pub async fn states_the_fee(bench: &dyn Bench) {
    let wallet = bench.wallet();
    let facts = wallet.facts(&bench.mint()).await.unwrap();
    assert_eq!(facts.mint, bench.mint());
    assert!(facts.units.contains(&Unit::Sat));
    assert!(facts.locks, "and that it keeps locks");
    let token = bench.token(63).await;
    let info = wallet.inspect(&token).unwrap();
    let fee = facts.input_fee_ppk * info.ys.len() as u64;
    let net = wallet.net_of(&token).await.unwrap();
    assert_eq!(net, info.face.checked_sub(sat(fee.div_ceil(1000))).unwrap());
    let elsewhere = MintUrl("https://elsewhere.example".to_owned());
    let error = wallet.facts(&elsewhere).await.unwrap_err();
    assert!(matches!(error, WalletError::MintNotAccepted(_)));
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp::from_secs(since.unwrap().as_secs())
}

/// A token of `bench.other()` over about this many sat, locked to `key` until
/// `locktime`.
async fn locked(bench: &dyn Bench, sats: u64, key: LockKey, locktime: Timestamp) -> String {
    let hash = None;
    let index = 3;
    let to = LockTo {
        key,
        locktime,
        index,
        hash,
    };
    locked_to(bench, sats, to).await
}

async fn locked_to(bench: &dyn Bench, sats: u64, to: LockTo) -> String {
    let (other, mint) = (bench.other(), bench.mint());
    let gift = bench.token(sats + 50).await;
    let payment = other.inspect(&gift).unwrap().payment;
    other.redeem(payment, &gift).await.unwrap();
    let plain = other.send(&mint, &Unit::Sat, sat(sats), true).await;
    let plain = plain.unwrap();
    let lock = other.lock(&plain.token, &to).await.unwrap();
    assert_eq!(lock.face.checked_add(lock.fee), Some(plain.face));
    assert!(lock.face >= sat(sats), "the fee was included");
    let again = other.lock(&plain.token, &to).await.unwrap();
    assert!(again == lock, "asked again, it gives the same token");
    lock.token
}

/// A token that is locked to the wallet says so, and is redeemed by it.
pub async fn redeems_what_is_locked_to_it(bench: &dyn Bench) {
    let (wallet, key) = (bench.wallet(), bench.wallet().lock_key());
    let until = now().plus_secs(3600);
    let token = locked(bench, 200, key.clone(), until).await;
    let info = wallet.inspect(&token).unwrap();
    let margin = std::time::Duration::from_secs(600);
    let lock = accept(&info.locks, std::slice::from_ref(&key), now(), margin);
    assert_eq!(lock, Ok(Some(Lock { until: Some(until) })));
    assert_ne!(key, bench.other().lock_key(), "each wallet has its own");
    assert_eq!(wallet.check(&token).await.unwrap(), ProofsState::Unspent);
    let expected = wallet.net_of(&token).await.unwrap();
    let redeemed = wallet.redeem(info.payment, &token).await.unwrap();
    assert_eq!(redeemed.net, expected);
    assert_eq!(redeemed.net.checked_add(redeemed.fee), Some(info.face));
    assert_eq!(balance(wallet, bench).await, redeemed.net);
    assert_eq!(wallet.check(&token).await.unwrap(), ProofsState::Spent);
    let late = bench.other().take_back(info.payment, &token, 3).await;
    assert!(late.is_err(), "{late:?}");
}

/// Before the locktime neither a thief nor who made it can spend it, and trying
/// leaves nothing behind.
pub async fn a_thief_gets_no_locked_money(bench: &dyn Bench) {
    let (wallet, other) = (bench.wallet(), bench.other());
    let until = now().plus_secs(3600);
    let token = locked(bench, 200, wallet.lock_key(), until).await;
    let payment = wallet.inspect(&token).unwrap().payment;
    let before = balance(other, bench).await;
    let tries = [
        other.redeem(payment, &token).await,
        other.take_back(payment, &token, 3).await,
        other.take_back(payment, &token, 4).await,
        wallet.take_back(payment, &token, 3).await,
    ];
    for tried in tries {
        assert!(matches!(tried, Err(WalletError::Refused(_))), "{tried:?}");
    }
    assert_eq!(balance(other, bench).await, before);
    for either in [wallet, other] {
        let found = either.recover().await.unwrap();
        assert_eq!(found.unfinished, 0, "{found:?}");
        assert_eq!(either.check(&token).await.unwrap(), ProofsState::Unspent);
    }
    wallet.redeem(payment, &token).await.unwrap();
}

/// After the locktime who made it takes it back, and still nobody else can.
pub async fn takes_back_after_the_locktime(bench: &dyn Bench) {
    let (wallet, other) = (bench.wallet(), bench.other());
    // To nobody's key: nobody but us can ever spend it.
    let nobody = "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5";
    let until = now().plus_secs(2);
    let token = locked(bench, 200, nobody.parse().unwrap(), until).await;
    let info = other.inspect(&token).unwrap();
    let before = balance(other, bench).await;
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let back = loop {
        let stolen = wallet.redeem(info.payment, &token).await;
        assert!(matches!(stolen, Err(WalletError::Refused(_))), "{stolen:?}");
        match other.take_back(info.payment, &token, 3).await {
            Ok(back) => break back,
            Err(error) => assert!(matches!(error, WalletError::Refused(_)), "{error:?}"),
        }
        assert!(std::time::Instant::now() < end, "it never opens");
    };
    assert!(now() > until);
    assert_eq!(back.net.checked_add(back.fee), Some(info.face));
    let after = balance(other, bench).await;
    assert_eq!(after, before.checked_add(back.net).unwrap());
    let state = other.redemption(info.payment, &token).await.unwrap();
    assert_eq!(state, RedemptionState::Done(back));
}

/// What is locked to one of our keys for money that comes back is redeemed with
/// that key and no other, and by nobody else.
pub async fn claims_what_comes_back_to_it(bench: &dyn Bench) {
    let (wallet, other) = (bench.wallet(), bench.other());
    let key = wallet.claim_key(5).unwrap();
    assert_eq!(wallet.claim_key(5).unwrap(), key, "the same each time");
    assert!(super::is_point(&key));
    for another in [
        wallet.claim_key(6).unwrap(),
        other.claim_key(5).unwrap(),
        wallet.lock_key(),
    ] {
        assert_ne!(key, another);
    }
    let until = now().plus_secs(3600);
    let token = locked(bench, 200, key, until).await;
    let info = wallet.inspect(&token).unwrap();
    let before = balance(wallet, bench).await;
    let tries = [
        other.redeem(info.payment, &token).await,
        other.claim(info.payment, &token, 5).await,
        // Who made it, before the time.
        other.take_back(info.payment, &token, 3).await,
        wallet.redeem(info.payment, &token).await,
        wallet.claim(info.payment, &token, 4).await,
    ];
    for tried in tries {
        assert!(matches!(tried, Err(WalletError::Refused(_))), "{tried:?}");
    }
    let got = wallet.claim(info.payment, &token, 5).await.unwrap();
    assert_eq!(got.net.checked_add(got.fee), Some(info.face));
    let after = balance(wallet, bench).await;
    assert_eq!(Some(after), before.checked_add(got.net));
    let state = wallet.redemption(info.payment, &token).await.unwrap();
    assert_eq!(state, RedemptionState::Done(got));
}

/// An invoice over exactly the amount is nothing until it is paid, gives its
/// ecash once, however often it is asked for, and gives it to nobody else.
pub async fn makes_ecash_of_a_paid_invoice_once(bench: &dyn Bench) {
    let (wallet, mint) = (bench.wallet(), bench.mint());
    let quote = wallet.invoice(&mint, &Unit::Sat, sat(21)).await.unwrap();
    assert_eq!(amount_of(&quote.bolt11), Some(sat(21)));
    let twin = wallet.invoice(&mint, &Unit::Sat, sat(21)).await.unwrap();
    assert_ne!(quote.payment(), twin.payment());
    assert_eq!(balance(wallet, bench).await, Msat::ZERO);
    bench.pay(&quote.bolt11).await;
    let stolen = bench.other().collect(&quote).await;
    assert!(matches!(stolen, Err(WalletError::Refused(_))), "{stolen:?}");
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let got = loop {
        if let Some(got) = wallet.collect(&quote).await.unwrap() {
            break got;
        }
        assert!(std::time::Instant::now() < end, "it is never paid");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!(got, sat(21));
    for _ in 0..2 {
        assert_eq!(wallet.collect(&quote).await.unwrap(), Some(sat(21)));
        wallet.recover().await.unwrap();
    }
    // The twin may be paid too, where every invoice is.
    let twin = wallet.collect(&twin).await.unwrap().unwrap_or_default();
    let all = sat(21).checked_add(twin).unwrap();
    assert_eq!(balance(wallet, bench).await, all);
    assert_eq!(balance(bench.other(), bench).await, Msat::ZERO);
}

/// A mint that is down makes no invoice, and of one that is there it cannot tell.
pub async fn a_mint_that_is_down_tells_nothing_of_an_invoice(bench: &dyn Bench) {
    let (wallet, mint) = (bench.wallet(), bench.mint());
    let quote = wallet.invoice(&mint, &Unit::Sat, sat(21)).await.unwrap();
    bench.pay(&quote.bolt11).await;
    bench.set_down(true).await;
    let error = wallet.collect(&quote).await.unwrap_err();
    assert!(matches!(error, WalletError::MintDown(_)), "{error:?}");
    let error = wallet.invoice(&mint, &Unit::Sat, sat(1)).await.unwrap_err();
    assert!(matches!(error, WalletError::MintDown(_)), "{error:?}");
    let error = wallet.invoice(&mint, &Unit::Sat, Msat::new(1)).await;
    assert_eq!(error.unwrap_err(), WalletError::TooSmall);
}

/// What is locked to a hash and to the wallet's key is redeemed with both and with
/// nothing less, and not by who made it before the locktime.
pub async fn redeems_what_is_hashed_with_the_preimage(bench: &dyn Bench) {
    let (wallet, other) = (bench.wallet(), bench.other());
    assert!(wallet.facts(&bench.mint()).await.unwrap().hash_locks);
    let preimage = other.preimage(8).unwrap();
    assert_eq!(other.preimage(8).unwrap(), preimage, "the same each time");
    let wrong = other.preimage(9).unwrap();
    assert_ne!(wrong, preimage);
    let until = now().plus_secs(3600);
    let to = LockTo {
        key: wallet.lock_key(),
        locktime: until,
        index: 3,
        hash: Some(preimage.hash()),
    };
    let token = locked_to(bench, 200, to.clone()).await;
    let info = wallet.inspect(&token).unwrap();
    let margin = std::time::Duration::from_secs(600);
    let lock = accept_hashed(&info.locks, &[wallet.lock_key()], now(), margin);
    let good = HashLock {
        hash: preimage.hash(),
        until,
    };
    assert_eq!(lock, Ok(good));
    let before = balance(wallet, bench).await;
    let tries = [
        wallet.redeem(info.payment, &token).await,
        wallet.redeem_hashed(info.payment, &token, &wrong).await,
        other.redeem(info.payment, &token).await,
        other.redeem_hashed(info.payment, &token, &preimage).await,
        other.take_back_hashed(&token, &to).await,
        wallet.take_back_hashed(&token, &to).await,
    ];
    for tried in tries {
        assert!(matches!(tried, Err(WalletError::Refused(_))), "{tried:?}");
    }
    for either in [wallet, other] {
        let found = either.recover().await.unwrap();
        assert_eq!(found.unfinished, 0, "{found:?}");
        assert_eq!(either.check(&token).await.unwrap(), ProofsState::Unspent);
    }
    let redeemed = wallet.redeem_hashed(info.payment, &token, &preimage).await;
    let redeemed = redeemed.unwrap();
    assert_eq!(redeemed.net.checked_add(redeemed.fee), Some(info.face));
    let after = balance(wallet, bench).await;
    assert_eq!(Some(after), before.checked_add(redeemed.net));
    let state = wallet.redemption(info.payment, &token).await.unwrap();
    assert_eq!(state, RedemptionState::Done(redeemed));
    let late = other.take_back_hashed(&token, &to).await;
    assert!(late.is_err(), "{late:?}");
}

/// After the locktime who made it takes it back without the preimage, however
/// often it is tried.
pub async fn takes_hashed_money_back_after_the_locktime(bench: &dyn Bench) {
    let (wallet, other) = (bench.wallet(), bench.other());
    let preimage = other.preimage(8).unwrap();
    let until = now().plus_secs(2);
    let to = LockTo {
        key: wallet.lock_key(),
        locktime: until,
        index: 3,
        hash: Some(preimage.hash()),
    };
    let token = locked_to(bench, 200, to.clone()).await;
    let info = other.inspect(&token).unwrap();
    let before = balance(other, bench).await;
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let back = loop {
        let stolen = wallet.redeem(info.payment, &token).await;
        assert!(matches!(stolen, Err(WalletError::Refused(_))), "{stolen:?}");
        match other.take_back_hashed(&token, &to).await {
            Ok(back) => break back,
            // By the wallet's clock or by the mint's.
            Err(error) => assert!(
                matches!(
                    error,
                    WalletError::Refused(_) | WalletError::OutcomeUnknown(_)
                ),
                "{error:?}"
            ),
        }
        assert!(std::time::Instant::now() < end, "it never opens");
    };
    assert!(now() > until);
    assert_eq!(back.net.checked_add(back.fee), Some(info.face));
    let after = balance(other, bench).await;
    assert_eq!(after, before.checked_add(back.net).unwrap());
    let again = other.take_back_hashed(&token, &to).await;
    assert_eq!(again, Ok(back), "asked again, the same, and once");
    assert_eq!(balance(other, bench).await, after);
    let late = wallet.redeem_hashed(info.payment, &token, &preimage).await;
    assert_eq!(late, Err(WalletError::Spent));
}

/// Makes a test of every case, each with the bench that `$bench` (a future)
/// gives. Call it in a module of its own.
#[macro_export]
macro_rules! wallet_conformance {
    ($bench:expr) => {
        $crate::wallet_conformance!(
            $bench;
            reads_a_good_token
            refuses_what_it_cannot_take
            redeems_what_it_said
            a_spent_token_leaves_nothing
            redeems_once
            sends_with_fee
            sends_without_fee
            sends_no_more_than_it_has
            refuses_what_the_fee_eats
            a_mint_that_is_down_takes_nothing
            a_sent_token_is_pending_until_it_is_redeemed
            takes_back_what_nobody_redeemed
            redeems_its_own_token
            states_the_fee
            merges_many_proofs_into_few
            asks_a_mint_what_it_does
            redeems_what_is_locked_to_it
            a_thief_gets_no_locked_money
            takes_back_after_the_locktime
            claims_what_comes_back_to_it
            pays_an_invoice
            a_payment_that_fails_gives_the_money_back
            a_payment_under_way_holds_no_more_than_it_needs
            pays_no_more_than_it_may
            makes_ecash_of_a_paid_invoice_once
            a_mint_that_is_down_tells_nothing_of_an_invoice
            redeems_what_is_hashed_with_the_preimage
            takes_hashed_money_back_after_the_locktime
        );
    };
    ($bench:expr; $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let bench = $bench.await;
                $crate::wallet::conformance::$case(&bench).await;
            }
        )*
    };
}
