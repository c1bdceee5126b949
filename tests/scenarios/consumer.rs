//! The consumer against a provider that acts by a script, over a relay in this
//! process and the whole relay layer, paying from a real wallet at a real mint.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nostr_sdk::Keys;
use satlet::consumer::home::Settings;
use satlet::consumer::money::agree;
use satlet::consumer::records::Standing;
use satlet::consumer::{Client, ClientError, ClientOptions, Pay, SpawnOptions, Spawned, quiet};
use satlet::core::capacity::Resources;
use satlet::core::ids::{PublicKey, RequestId};
use satlet::core::money::Msat;
use satlet::demo::mint::{MintOptions, TestMint};
use satlet::demo::relay::TestRelay;
use satlet::protocol::error::{Code, Money, WireError};
use satlet::protocol::heartbeat::{AvailableCapacity, Heartbeat};
use satlet::protocol::offer::{Extension, Gateway, Limits, Offer, Spec};
use satlet::protocol::reply::{
    Access, Answer, LeaseState, LeaseStatus, LockTerms, Message, MintTerms, Outcome, QuoteAnswer,
    Reply, SpawnAnswer,
};
use satlet::protocol::request::{Ask, Request};
use satlet::relay::convert::{key_from, now};
use satlet::relay::inbox::{Inbox, InboxOptions};
use satlet::relay::memory::MemoryInbox;
use satlet::relay::session::{RelayOptions, Relays};
use satlet::relay::{Ack, Incoming, publisher, wrap};
use satlet::wallet::cdk_wallet::{CdkWallet, WalletMint, WalletOptions};
use satlet::wallet::{Wallet, WalletError};
use tempfile::TempDir;
use tokio::sync::mpsc;

const RATE: u64 = 100;
const LONG: Duration = Duration::from_secs(60);

/// A provider: reads requests, answers when told to.
pub(crate) struct Provider {
    keys: Keys,
    relays: Relays,
    url: String,
    _inbox: Inbox,
    requests: mpsc::Receiver<Incoming>,
    mint: String,
    lock: Option<LockTerms>,
}

impl Provider {
    pub(crate) async fn start(relay: &TestRelay, mint: &str) -> Self {
        let keys = Keys::generate();
        let url = relay.url();
        let relays = Relays::start(
            keys.clone(),
            std::slice::from_ref(&url),
            RelayOptions::default(),
        )
        .unwrap();
        let (inbox, requests) = Inbox::start(
            &relays,
            keys.clone(),
            Arc::new(MemoryInbox::new()),
            InboxOptions::default(),
        );
        assert!(inbox.wait_ready(LONG).await);
        Self {
            keys,
            relays,
            url,
            _inbox: inbox,
            requests,
            mint: mint.to_owned(),
            lock: None,
        }
    }

    pub(crate) fn key(&self) -> PublicKey {
        key_from(&self.keys.public_key())
    }

    /// Publishes an offer and a heartbeat.
    pub(crate) async fn offer(&self, name: &str) {
        let offer = offer(self.key(), name, &self.url, &self.mint);
        let beat = Heartbeat {
            provider_npub: self.key(),
            timestamp: now(),
            active_workloads: 0,
            available_capacity: AvailableCapacity::default(),
            version: 1,
        };
        let mut events = vec![publisher::offer_event(&self.keys, &offer, now()).unwrap()];
        events.extend(publisher::heartbeat_events(&self.keys, &beat).unwrap());
        for event in events {
            let acks = self
                .relays
                .publish(&event, std::slice::from_ref(&self.url))
                .await;
            assert!(acks.values().all(|ack| *ack == Ack::Accepted), "{acks:?}");
        }
    }

    /// The next request that is not a quote; quotes are answered on the way.
    async fn next(&mut self) -> (PublicKey, Request) {
        loop {
            let message = self.requests.recv().await.unwrap();
            let request: Request = serde_json::from_str(&message.body).unwrap();
            let Ask::Quote(ask) = &request.ask else {
                return (message.sender, request);
            };
            let mut quote = quote(ask.seconds.unwrap_or(60), &self.mint);
            quote.lock.clone_from(&self.lock);
            let outcome = Outcome::Result(Box::new(Answer::Quote(quote)));
            self.answer(&message.sender, request.request_id, outcome)
                .await;
        }
    }

    async fn answer(&self, to: &PublicKey, request_id: RequestId, outcome: Outcome) {
        answer_as(&self.keys, &self.relays, to, request_id, outcome).await;
    }
}

async fn answer_as(
    keys: &Keys,
    relays: &Relays,
    to: &PublicKey,
    request_id: RequestId,
    outcome: Outcome,
) {
    let reply = Message::Reply(Reply {
        satlet: 1,
        request_id,
        outcome,
    });
    let body = serde_json::to_string(&reply).unwrap();
    let (event, _) = wrap::wrap(keys, to, &body, now(), now().plus_secs(600)).unwrap();
    let acks = relays.publish(&event, &relays.urls()).await;
    assert!(acks.values().all(|ack| *ack == Ack::Accepted), "{acks:?}");
}

fn terms(mint: &str) -> Vec<MintTerms> {
    vec![MintTerms {
        url: mint.to_owned(),
        units: vec!["sat".to_owned()],
        input_fee_ppk: None,
        state: None,
    }]
}

fn gives() -> Resources {
    Resources {
        cpu_millicores: 500,
        memory_mib: 256,
        disk_mib: 0,
        pids: 64,
    }
}

fn offer(key: PublicKey, name: &str, relay: &str, mint: &str) -> Offer {
    Offer {
        provider_npub: key,
        hostname: name.to_owned(),
        location: Some("here".to_owned()),
        capabilities: vec!["sandbox".to_owned()],
        specs: vec![Spec {
            id: "small".to_owned(),
            name: "Small".to_owned(),
            description: String::new(),
            cpu_millicores: 500,
            memory_mb: 256,
            rate_msats_per_sec: RATE,
        }],
        whitelisted_mints: vec![mint.to_owned()],
        uptime_percent: 100.0,
        total_jobs_completed: 0,
        api_endpoint: None,
        version: 1,
        isolation_level: "shared-kernel".to_owned(),
        satlet: Some(Extension {
            dialects: vec!["satlet/1".to_owned()],
            gateway: Gateway {
                host: "127.0.0.1".to_owned(),
                port: 2222,
                host_key: "ssh-ed25519 AAAA".to_owned(),
            },
            tiers: Vec::new(),
            templates: Vec::new(),
            images: vec!["host".to_owned()],
            mints: terms(mint),
            lock_key: None,
            pool: None,
            lightning: None,
            relays: vec![relay.to_owned()],
            limits: Limits {
                max_request_bytes: 32_768,
                requests_per_minute: 60,
                leases_per_key: 4,
                grace_seconds: 60,
                pow_bits: 0,
                refund_keep_seconds: 0,
            },
            not_enforced: Vec::new(),
            outgoing_network: false,
        }),
    }
}

fn quote(seconds: u64, mint: &str) -> QuoteAnswer {
    QuoteAnswer {
        quote_id: RequestId::new(uuid::Uuid::new_v4()),
        expires_at: now().plus_secs(300),
        tier: "small".parse().unwrap(),
        image: "host".to_owned(),
        rate_msat_per_s: RATE,
        price_per_hour: None,
        min_seconds: 60,
        max_seconds: 3_600,
        price_msat: Msat::new(RATE * seconds),
        min_msat: Msat::new(RATE * 60),
        max_msat: Msat::new(RATE * 3_600),
        seconds,
        gift_seconds: None,
        mints: terms(mint),
        lock: None,
        lightning: None,
        gives: gives(),
        not_enforced: Vec::new(),
        outgoing_network: false,
    }
}

fn leased() -> Outcome {
    let status = LeaseStatus {
        lease: "abcdefghijkl".parse().unwrap(),
        state: LeaseState::Active,
        why: "paid".to_owned(),
        tier: "small".parse().unwrap(),
        image: "host".to_owned(),
        rate_msat_per_s: RATE,
        gives: gives(),
        created_at: now(),
        started_at: Some(now()),
        expires_at: Some(now().plus_secs(60)),
        destroy_at: None,
        remaining_seconds: 60,
        credit_msat: Msat::ZERO,
        gift_seconds: None,
        access: Some(Access {
            host: "127.0.0.1".to_owned(),
            port: 2222,
            user: "abcdefghijkl".to_owned(),
            host_key: "ssh-ed25519 AAAA".to_owned(),
        }),
        refunds: Vec::new(),
    };
    let answer = SpawnAnswer {
        status,
        paid_msat: Msat::new(6_000),
        mint_fee_msat: Msat::ZERO,
    };
    Outcome::Result(Box::new(Answer::Spawn(answer)))
}

struct World {
    home: TempDir,
    relay: TestRelay,
    mint: TestMint,
}

impl World {
    async fn start() -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            relay: TestRelay::start().await.unwrap(),
            mint: TestMint::start(MintOptions::default()).await.unwrap(),
        }
    }

    /// A new process, as it were.
    fn client(&self, timeout: Duration) -> Client {
        client(self.home.path(), &self.relay, &self.mint, timeout)
    }

    async fn fund(&self, sat: u64) {
        let client = self.client(LONG);
        let session = client.wallet().await.unwrap();
        let wallet: &CdkWallet = session.cdk().unwrap();
        self.mint.fund(wallet, sat).await.unwrap();
    }

    async fn balance(&self) -> Msat {
        let client = self.client(LONG);
        let session = client.wallet().await.unwrap();
        let balances = session.wallet().balances().await.unwrap();
        Msat::checked_sum(balances.into_values()).unwrap()
    }
}

fn client(home: &Path, relay: &TestRelay, mint: &TestMint, timeout: Duration) -> Client {
    let settings = Settings {
        mints: vec![mint.url().0],
        ..Settings::default()
    };
    let options = ClientOptions {
        relays: vec![relay.url()],
        timeout: Some(timeout),
        resend: Some(Duration::from_millis(300)),
        settings: Some(settings),
        ..ClientOptions::default()
    };
    Client::open(home, options).unwrap()
}

async fn spawn(client: &Client, pay: Pay) -> Result<Spawned, ClientError> {
    let provider = client.find_provider("alp").await.unwrap();
    let options = SpawnOptions {
        pay,
        ..SpawnOptions::default()
    };
    client.spawn(&provider, options, &agree, &quiet).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_asked_for_again_over_relays() {
    let world = World::start().await;
    world.fund(64).await;
    let mut provider = Provider::start(&world.relay, &world.mint.url().0).await;
    provider.offer("Alpha").await;
    let stranger = Keys::generate();
    let url = world.relay.url();
    let strange = Relays::start(stranger.clone(), &[url], RelayOptions::default()).unwrap();

    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    let serving = async {
        let (sender, request) = provider.next().await;
        // Somebody else answers first; then the process that asked is gone.
        let no = WireError::new(Code::NoCapacity, "no", "").with_money(Money::Taken);
        answer_as(
            &stranger,
            &strange,
            &sender,
            request.request_id,
            Outcome::Error(no),
        )
        .await;
        counted.fetch_add(1, Ordering::SeqCst);
        (sender, request)
    };
    let first = world.client(Duration::from_secs(6));
    let (result, (sender, request)) = tokio::join!(spawn(&first, Pay::Minimum), serving);
    let error = result.unwrap_err();
    assert_eq!((error.kind.exit_code(), error.money), (6, Money::Pending));
    assert_eq!(attempts.load(Ordering::SeqCst), 1);
    drop(first);

    // The answer waits on the relay for the next process.
    provider.answer(&sender, request.request_id, leased()).await;
    let second = world.client(LONG);
    second.settle(&quiet).await.unwrap();
    let lease = second.find_lease("abc").unwrap();
    assert_eq!(lease.provider, provider.key());
    assert!(second.records().open_requests().unwrap().is_empty());
    drop(second);
    assert!(
        world.balance().await
            < Msat::from_sat(64 - 6)
                .unwrap()
                .checked_add(Msat::new(1))
                .unwrap()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untouched_token_is_back_in_the_real_wallet() {
    let world = World::start().await;
    world.fund(64).await;
    let mut provider = Provider::start(&world.relay, &world.mint.url().0).await;
    provider.offer("Alpha").await;
    let serving = async {
        let (sender, request) = provider.next().await;
        let no = WireError::new(Code::NoCapacity, "full", "try later");
        provider
            .answer(&sender, request.request_id, Outcome::Error(no))
            .await;
    };
    let client = world.client(LONG);
    let before = world_balance(&client).await;
    let (result, ()) = tokio::join!(spawn(&client, Pay::Amount(Msat::new(10_000))), serving);
    let error = result.unwrap_err();
    assert_eq!(
        (error.kind.exit_code(), error.code.as_str()),
        (4, "no_capacity")
    );
    assert!(error.refunded_msat >= Msat::new(10_000), "{error:?}");
    let after = world_balance(&client).await;
    // Only the mint's own fees for two swaps may be missing.
    assert!(
        after.checked_add(Msat::new(6_000)).unwrap() >= before,
        "{before} -> {after}"
    );
    assert!(client.records().open_requests().unwrap().is_empty());
}

async fn world_balance(client: &Client) -> Msat {
    let session = client.wallet().await.unwrap();
    let balances = session.wallet().balances().await.unwrap();
    Msat::checked_sum(balances.into_values()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_gone_loses_nothing() {
    let world = World::start().await;
    world.fund(64).await;
    let mut provider = Provider::start(&world.relay, &world.mint.url().0).await;
    provider.offer("Alpha").await;
    let client = world.client(Duration::from_secs(4));
    let offered = client.find_provider("Alpha").await.unwrap();
    // Quote while the relay is there, then it goes away before the spawn is sent.
    let relay = &world.relay;
    let stopping = |_: Msat| true;
    let options = SpawnOptions::default();
    let quoting = async {
        let message = provider.requests.recv().await.unwrap();
        let request: Request = serde_json::from_str(&message.body).unwrap();
        let answer = Answer::Quote(quote(60, &world.mint.url().0));
        let outcome = Outcome::Result(Box::new(answer));
        provider
            .answer(&message.sender, request.request_id, outcome)
            .await;
        relay.stop().await;
    };
    let (result, ()) = tokio::join!(client.spawn(&offered, options, &stopping, &quiet), quoting);
    let error = result.unwrap_err();
    assert_eq!(error.money, Money::Pending, "{error:?}");
    drop(client);
    relay.restart().await.unwrap();

    let client = world.client(LONG);
    let open = client.records().open_requests().unwrap();
    assert_eq!(open.len(), 1);
    assert_eq!(open[0].standing, Standing::Open);
    let serving = async {
        let (sender, request) = provider.next().await;
        assert_eq!(request.request_id, open[0].request_id);
        assert_eq!(serde_json::to_string(&request).unwrap(), open[0].body);
        provider.answer(&sender, request.request_id, leased()).await;
    };
    let (left, ()) = tokio::join!(client.leftover(open[0].request_id, LONG, &quiet), serving);
    assert!(left.unwrap().unwrap().result.is_ok());
    assert_eq!(client.leases().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_made_and_not_written_down_is_put_back() {
    let world = World::start().await;
    world.fund(64).await;
    let before = world.balance().await;
    {
        let client = world.client(LONG);
        let session = client.wallet().await.unwrap();
        let mark = client.records().mark().unwrap();
        assert!(mark.exists());
        let amount = Msat::from_sat(32).unwrap();
        let unit = satlet::wallet::Unit::Sat;
        session
            .wallet()
            .send(&world.mint.url(), &unit, amount, true)
            .await
            .unwrap();
        // The process dies here: nobody knows the token.
    }
    let after = world.balance().await;
    assert!(
        after.checked_add(Msat::new(6_000)).unwrap() >= before,
        "{before} -> {after}"
    );
    assert!(world.client(LONG).records().markers().unwrap().is_empty());
}

/// A provider's wallet at the world's mint.
async fn provider_wallet(dir: &TempDir, mint: &TestMint) -> CdkWallet {
    let options = WalletOptions {
        dir: dir.path().join("wallet"),
        seed: [9; 64],
        mints: vec![WalletMint {
            url: mint.url().0,
            requests_per_minute: 6000,
        }],
        timeout: Duration::from_secs(20),
        allow_any_mint: false,
    };
    CdkWallet::open(options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_stays_silent_costs_the_mint_s_fees_alone() {
    let world = World::start().await;
    world.fund(64).await;
    let before = world.balance().await;
    let dir = tempfile::tempdir().unwrap();
    let wallet = provider_wallet(&dir, &world.mint).await;
    let mut provider = Provider::start(&world.relay, &world.mint.url().0).await;
    provider.offer("Alpha").await;
    provider.lock = Some(LockTerms {
        key: wallet.lock_key(),
        min_seconds: 1,
        hold_seconds: None,
    });
    let options = ClientOptions {
        relays: vec![world.relay.url()],
        timeout: Some(Duration::from_secs(3)),
        lock_for: Some(Duration::from_secs(2)),
        settings: Some(Settings {
            mints: vec![world.mint.url().0],
            ..Settings::default()
        }),
        ..ClientOptions::default()
    };
    let client = Client::open(world.home.path(), options).unwrap();
    let (result, (_, request)) = tokio::join!(spawn(&client, Pay::Minimum), provider.next());
    let error = result.unwrap_err();
    assert_eq!((error.kind.exit_code(), error.money), (6, Money::Pending));
    let token = request.ask.token().unwrap().to_owned();
    let locks = wallet.inspect(&token).unwrap().locks;
    assert!(locks.iter().all(Option::is_some), "{locks:?}");

    // The request's own deadline passes.
    let mut saved = client.records().open_requests().unwrap().remove(0);
    saved.expires_at = satlet::core::time::Timestamp::from_secs(1);
    client.records().save_request(&saved).unwrap();
    let end = std::time::Instant::now() + LONG;
    while !client.records().open_requests().unwrap().is_empty() {
        assert!(
            std::time::Instant::now() < end,
            "the money never comes back"
        );
        client.settle(&quiet).await.unwrap();
    }
    let after = world_balance(&client).await;
    let cost = before.checked_sub(after).unwrap();
    assert!(cost <= Msat::new(3_000), "three swaps at most: {cost}");
    assert_eq!(wallet.receive(&token).await, Err(WalletError::Spent));
}
