use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use tokio::sync::Notify;

use super::actor::{Actor, Lost};
use super::conformance::{Bench, sat, token_v3};
use super::fake::{FakeMint, FakeWallet};
use super::seed::{SeedError, load_or_create_seed};
use super::{MintUrl, RedemptionState, Unit, Wallet, WalletError, normalise, token};
use crate::core::payment::lock::{self, BadLock, Kind};
use crate::core::time::Timestamp;

const MINT: &str = "https://mint.example";

struct FakeBench {
    mint: FakeMint,
    wallet: FakeWallet,
    other: FakeWallet,
}

async fn fake_bench() -> FakeBench {
    let mint = FakeMint::new(MINT);
    mint.set_fee_ppk(100);
    FakeBench {
        wallet: FakeWallet::new([mint.clone()]),
        other: FakeWallet::new([mint.clone()]),
        mint,
    }
}

#[async_trait]
impl Bench for FakeBench {
    fn wallet(&self) -> &dyn Wallet {
        &self.wallet
    }
    fn other(&self) -> &dyn Wallet {
        &self.other
    }
    fn mint(&self) -> MintUrl {
        self.mint.url()
    }
    async fn token(&self, amount: u64) -> String {
        self.mint.token(sat(amount))
    }
    async fn foreign(&self) -> String {
        FakeMint::new("https://foreign.example").token(sat(21))
    }
    async fn cents(&self) -> String {
        self.mint.token_in("usd", 21)
    }
    async fn fund(&self, amount: u64) {
        self.wallet.fund(&self.mint.url(), &Unit::Sat, sat(amount));
    }
    async fn set_down(&self, down: bool) {
        self.mint.set_down(down);
    }
    async fn pay(&self, bolt11: &str) {
        assert!(self.mint.pay(bolt11));
    }
}

mod fake_conforms {
    crate::wallet_conformance!(super::fake_bench());
}

fn v3(unit: &str, secrets: &[&str]) -> String {
    token_v3(MINT, unit, secrets)
}

fn malformed(text: &str) -> String {
    match token::read(text).map(|read| read.info) {
        Err(WalletError::Malformed(why)) => why,
        other => format!("not malformed: {other:?}"),
    }
}

#[test]
fn version_3_and_4_of_a_token_are_one_payment() {
    // NUT-00's example of version 4: two keysets, three proofs.
    let four = "cashuBo2F0gqJhaUgA_9SLj17PgGFwgaNhYQFhc3hAYWNjMTI0MzVlN2I4NDg0YzNjZjE4NTAxNDkyMThhZjkwZjcxNmE1MmJmNGE1ZWQzNDdlNDhlY2MxM2Y3NzM4OGFjWCECRFODGd5IXVW-07KaZCvuWHk3WrnnpiDhHki6SCQh88-iYWlIAK0mjE0fWCZhcIKjYWECYXN4QDEzMjNkM2Q0NzA3YTU4YWQyZTIzYWRhNGU5ZjFmNDlmNWE1YjRhYzdiNzA4ZWIwZDYxZjczOGY0ODMwN2U4ZWVhY1ghAjRWqhENhLSsdHrr2Cw7AFrKUL9Ffr1XN6RBT6w659lNo2FhAWFzeEA1NmJjYmNiYjdjYzY0MDZiM2ZhNWQ1N2QyMTc0ZjRlZmY4YjQ0MDJiMTc2OTI2ZDNhNTdkM2MzZGNiYjU5ZDU3YWNYIQJzEpxXGeWZN5qXSmJjY8MzxWyvwObQGr5G1YCCgHicY2FtdWh0dHA6Ly9sb2NhbGhvc3Q6MzMzOGF1Y3NhdA==";
    let read = token::read(four).unwrap();
    assert_eq!(read.info.mint, MintUrl("http://localhost:3338".to_owned()));
    assert_eq!((read.info.face, read.info.ys.len()), (sat(4), 3));
    let three = read.token.to_v3_string();
    assert!(three.starts_with("cashuA"));
    assert_eq!(token::read(&three).unwrap().info, read.info);
}

#[test]
fn the_payment_is_the_set_of_proofs() {
    let one = token::read(&v3("sat", &["a", "b"])).unwrap().info;
    let two = token::read(&v3("sat", &["b", "a"])).unwrap().info;
    assert_eq!(one, two, "order does not matter");
    let msat = token::read(&v3("msat", &["a", "b"])).unwrap().info;
    assert_ne!(one.payment, msat.payment);
    assert_eq!(one.face.get(), 1000 * msat.face.get());
    let elsewhere = token_v3("https://else.example", "sat", &["a", "b"]);
    let elsewhere = token::read(&elsewhere).unwrap().info;
    assert_eq!(one.ys, elsewhere.ys);
    assert_ne!(one.payment, elsewhere.payment);
}

#[test]
fn odd_tokens_are_refused_with_their_reason() {
    assert_eq!(malformed(&v3("sat", &["a", "a"])), "its proofs repeat");
    assert_eq!(malformed(&v3("sat", &[])), "it holds no proofs");
    let many: Vec<String> = (0..65).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(token::read(&v3("sat", &many[..64])).is_ok());
    assert!(malformed(&v3("sat", &many)).contains("more than 64"));
    assert!(malformed("cashuAe30").contains("not a Cashu token"));
    assert!(malformed(&"a".repeat(crate::protocol::MAX_TOKEN + 1)).contains("too long"));
    let strange = token::read(&v3("usd", &["a"])).map(|read| read.info);
    assert_eq!(strange, Err(WalletError::WrongUnit("usd".to_owned())));
}

#[test]
fn spending_conditions_are_read() {
    // The generator: whatever is no point on the curve is not read.
    let key = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798".to_owned();
    let secret = |kind: &str, data: &str, tags: &str| {
        format!(r#"["{kind}",{{"nonce":"aa","data":"{data}","tags":[{tags}]}}]"#)
    };
    let hash = "11".repeat(32);
    let tags = format!(
        r#"["locktime","1790000000"],["refund","{key}"],["n_sigs","1"],["sigflag","SIG_ALL"],["pubkeys","{key}"],["memo","x"]"#
    );
    let p2pk = secret("P2PK", &key, &tags);
    let htlc = secret("HTLC", &hash, "");
    let info = token::read(&v3("sat", &["plain", &p2pk, &htlc]))
        .unwrap()
        .info;
    let [None, Some(p2pk), Some(htlc)] = info.locks.as_slice() else {
        panic!("{:?}", info.locks);
    };
    assert_eq!((p2pk.kind, &p2pk.data), (Kind::P2pk, &key));
    assert_eq!(p2pk.locktime, Some(Timestamp::from_secs(1_790_000_000)));
    assert_eq!(
        (&p2pk.refund_keys, &p2pk.extra_keys),
        (&vec![key.clone()], &vec![key.clone()])
    );
    assert!(p2pk.sig_all && p2pk.n_sigs == Some(1) && p2pk.n_sigs_refund.is_none());
    assert_eq!((htlc.kind, &htlc.data), (Kind::Htlc, &hash));
    assert!(!htlc.sig_all && htlc.locktime.is_none());
    // What another reader might understand otherwise is not read at all.
    for (data, tags) in [
        ("02", ""),
        (&key, r#"["locktime","9"],["locktime","1"]"#),
        (&key, r#"["n_sigs","0"]"#),
        (&key, r#"["locktime","soon"]"#),
        (&key, r#"["refund","02"]"#),
        (&key, r#"["sigflag","SIG_SOME"]"#),
    ] {
        let why = malformed(&v3("sat", &["plain", &secret("P2PK", data, tags)]));
        assert_eq!(
            why, "its spending condition cannot be read",
            "{data} {tags}"
        );
    }
}

/// What a token with one proof of this secret is refused for, at a provider with
/// the key 2, an hour ahead of now.
fn refused_lock(secret: &str) -> Result<(), BadLock> {
    let info = token::read(&v3("sat", &[secret])).unwrap().info;
    let margin = Duration::from_secs(3600);
    lock::accept(&info.locks, &[KEY_2.parse().unwrap()], NOON, margin).map(drop)
}

const NOON: Timestamp = Timestamp::from_secs(1_790_000_000);
const KEY_2: &str = "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5";
const KEY_3: &str = "02f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9";

fn locked_to(key: &str, tags: &str) -> String {
    format!(r#"["P2PK",{{"nonce":"aa","data":"{key}","tags":[{tags}]}}]"#)
}

#[test]
fn a_token_locked_to_us_is_taken() {
    let later = NOON.plus_secs(9_000).as_secs();
    let tags = format!(r#"["locktime","{later}"],["refund","{KEY_3}"]"#);
    assert_eq!(refused_lock(&locked_to(KEY_2, &tags)), Ok(()));
    assert_eq!(refused_lock(&locked_to(KEY_2, "")), Ok(()));
    assert_eq!(refused_lock("plain"), Ok(()));
}

#[test]
fn a_lock_that_becomes_anyones_is_refused_however_late() {
    for locktime in [NOON.plus_secs(3), NOON.plus_secs(86_400 * 365)] {
        let tags = format!(r#"["locktime","{}"]"#, locktime.as_secs());
        let refused = refused_lock(&locked_to(KEY_2, &tags));
        assert_eq!(refused, Err(BadLock::NoRefundKey), "{locktime}");
    }
}

#[test]
fn a_token_locked_to_somebody_else_is_refused() {
    let refused = refused_lock(&locked_to(KEY_3, ""));
    assert_eq!(refused, Err(BadLock::WrongKey));
    let both = locked_to(KEY_3, &format!(r#"["pubkeys","{KEY_2}"]"#));
    assert_eq!(refused_lock(&both), Err(BadLock::WrongKey));
}

#[test]
fn a_token_locked_with_sig_all_is_refused() {
    let all = locked_to(KEY_2, r#"["sigflag","SIG_ALL"]"#);
    assert_eq!(refused_lock(&all), Err(BadLock::SigAll));
}

#[test]
fn a_token_of_several_mints_is_refused() {
    let part = |mint: &str, secret: &str| {
        json!({ "mint": mint, "proofs": [{
            "amount": 1, "id": "00ad268c4d1f5826", "secret": secret,
            "C": "038618543ffb6b8695df4ad4babcde92a34a96bdcd97dcee0d7ccf98d472126792",
        }] })
    };
    let both = |one, other| {
        let token = json!({ "token": [part(one, "a"), part(other, "b")], "unit": "sat" });
        format!("cashuA{}", URL_SAFE_NO_PAD.encode(token.to_string()))
    };
    let why = malformed(&both(MINT, "https://else.example"));
    assert_eq!(why, "it is of several mints");
    // Nor is one in parts read: cdk would not redeem it.
    assert_eq!(malformed(&both(MINT, MINT)), why);
}

#[test]
fn a_mint_has_one_name() {
    for same in [
        "https://Mint.Example",
        "https://mint.example/",
        "https://mint.example:443",
    ] {
        assert_eq!(normalise(same).unwrap().0, MINT);
    }
    assert_eq!(
        normalise("https://mint.example/Bitcoin/").unwrap().0,
        "https://mint.example/Bitcoin",
        "a path keeps its letters"
    );
    for bad in [
        "",
        "mint.example",
        "file:///etc/passwd",
        "https://user:pass@mint.example",
        "https://mint.example/?a=b",
        "https://mint.example/a://b",
    ] {
        assert!(normalise(bad).is_err(), "{bad}");
    }
    // Each of these letters becomes six when it is escaped.
    let long = format!("https://mint.example/{}", "\u{e9}".repeat(115));
    assert!(long.len() <= 256 && normalise(&long).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_does_not_stop_the_operation() {
    let (actor, _task) = Actor::start(AtomicU32::new(0));
    let finish = Arc::new(Notify::new());
    let wait = Arc::clone(&finish);
    let lost = actor
        .run(Duration::from_secs(1), |count: Arc<AtomicU32>| {
            Box::pin(async move {
                wait.notified().await;
                count.fetch_add(1, Ordering::SeqCst);
            })
        })
        .await;
    assert_eq!(lost, Err(Lost::Begun));
    // One that waits behind it and is given up is never begun.
    let lost = actor
        .run(Duration::from_secs(1), |count: Arc<AtomicU32>| {
            Box::pin(async move {
                count.fetch_add(100, Ordering::SeqCst);
            })
        })
        .await;
    assert_eq!(lost, Err(Lost::NotBegun));
    finish.notify_one();
    let count = actor
        .run(Duration::from_secs(1), |count: Arc<AtomicU32>| {
            Box::pin(async move { count.load(Ordering::SeqCst) })
        })
        .await;
    assert_eq!(count, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn a_panic_ends_one_operation_only() {
    let (actor, _task) = Actor::start(());
    let lost = actor
        .run::<(), _>(Duration::from_secs(1), |_: Arc<()>| {
            Box::pin(async { std::panic::resume_unwind(Box::new("as asked")) })
        })
        .await;
    assert_eq!(lost, Err(Lost::Begun));
    let next = actor.run(Duration::from_secs(1), |_: Arc<()>| Box::pin(async { 7 }));
    assert_eq!(next.await, Ok(7));
}

#[tokio::test(start_paused = true)]
async fn the_fake_loses_an_answer_after_taking_the_money() {
    let FakeBench { mint, wallet, .. } = fake_bench().await;
    let token = mint.token(sat(64));
    let payment = wallet.inspect(&token).unwrap().payment;
    mint.lose_next_redeem();
    mint.unknown_for(1);
    let error = wallet.redeem(payment, &token).await.unwrap_err();
    assert!(matches!(error, WalletError::OutcomeUnknown(_)));
    let state = wallet.redemption(payment, &token).await.unwrap();
    assert_eq!(state, RedemptionState::Unknown);
    let state = wallet.redemption(payment, &token).await.unwrap();
    let RedemptionState::Done(done) = state else {
        unreachable!("{state:?}");
    };
    assert_eq!(
        wallet.balances().await.unwrap().values().next(),
        Some(&done.net)
    );
    assert_eq!(mint.redeem_calls(payment), 1);
}

#[tokio::test(start_paused = true)]
async fn an_actor_ends_after_what_it_had_begun() {
    let (actor, task) = Actor::start(AtomicU32::new(0));
    let count = Arc::clone(actor.account());
    let lost = actor
        .run(Duration::from_secs(1), |count: Arc<AtomicU32>| {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_secs(60)).await;
                count.fetch_add(1, Ordering::SeqCst);
            })
        })
        .await;
    assert_eq!(lost, Err(Lost::Begun));
    drop(actor);
    task.await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

proptest::proptest! {
    #[test]
    fn a_damaged_token_is_an_error(cut in 0usize..400, place in 0usize..400, letter in "[ -~]") {
        let good = v3("sat", &["a", "b"]);
        let mut bad: String = good.chars().take(cut).collect();
        proptest::prop_assert!(token::read(&bad).is_err() || cut >= good.len());
        if place < good.len() {
            bad = good.clone();
            bad.replace_range(place..=place, &letter);
            // Some changes leave a token; none may end the program.
            let _ = token::read(&bad);
        }
    }

    #[test]
    fn any_text_is_an_error(text in ".*") {
        proptest::prop_assert!(token::read(&text).is_err());
        for start in ["cashuA", "cashuB"] {
            let text = format!("{start}{text}");
            proptest::prop_assert!(token::read(&text).is_err());
        }
    }
}

#[test]
fn the_seed_is_made_once_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seed");
    let seed = load_or_create_seed(&path).unwrap();
    assert_eq!(load_or_create_seed(&path).unwrap(), seed);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let words = std::fs::read_to_string(&path).unwrap();
    assert_eq!(words.split_whitespace().count(), 12);
    let names = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(names, 1, "no temporary file is left");
}

#[test]
fn the_seed_is_that_of_bip39() {
    // BIP-39's own vector (empty passphrase is not among them; this one is of
    // the reference implementation's list with "abandon ... about").
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seed");
    std::fs::write(&path, format!("{}about\n", "abandon ".repeat(11))).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let seed = load_or_create_seed(&path).unwrap();
    assert!(hex::encode(seed).starts_with("5eb00bbddcf069084889a8ab9155568165f5c453ccb85e70"));
}

#[test]
fn a_seed_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seed");
    load_or_create_seed(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let error = load_or_create_seed(&path).unwrap_err();
    assert!(matches!(error, SeedError::Open { .. }), "{error}");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&path, "twelve words they are not").unwrap();
    let error = load_or_create_seed(&path).unwrap_err();
    assert!(matches!(error, SeedError::Words { .. }), "{error}");
}
