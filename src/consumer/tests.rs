use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::error::{ClientError, Kind};
use super::home::Settings;
use super::money::{Leased, agree};
use super::post::{Found, Letter, Post, PostError};
use super::providers::{self, Provider};
use super::records::{RefundStanding, Standing};
use super::{Client, ClientOptions, Pay, SpawnOptions, Spawned, quiet};
use crate::core::capacity::Resources;
use crate::core::ids::{EventId, LeaseId, PublicKey, RequestId};
use crate::core::money::Msat;
use crate::core::time::Timestamp;
use crate::protocol::error::{Code, Money, WireError};
use crate::protocol::heartbeat::{AvailableCapacity, Heartbeat};
use crate::protocol::offer::{Extension, Gateway, Limits, Offer, Spec};
use crate::protocol::reply::{
    Access, Answer, LeaseState, LeaseStatus, LightningTerms, LockTerms, Message, MintTerms, Notice,
    Outcome, QuoteAnswer, Refund, Reply, SpawnAnswer, StopAnswer, TopupAnswer,
};
use crate::protocol::request::{Ask, Request};
use crate::relay::convert::now;
use crate::relay::{Ack, Incoming};
use crate::wallet::fake::{FakeMint, FakeWallet};
use crate::wallet::{Unit, Wallet};

mod gifts;
mod history;
mod lightning;
mod locks;
mod receipts;
mod refund_keys;
mod refunds;

const MINT: &str = "https://mint.example";
const RATE: u64 = 100;
const PRICE: Msat = Msat::new(6_000);

/// What a provider does with a request: `(request, how often it came)`.
type Script = Box<dyn Fn(&Request, usize) -> Vec<Outcome> + Send + Sync>;

/// Relays with a provider behind them that acts by a script.
struct Stage {
    provider: PublicKey,
    script: Mutex<Script>,
    sent: Mutex<Vec<Letter>>,
    seen: Mutex<HashMap<RequestId, usize>>,
    to_client: Mutex<Option<mpsc::Sender<Incoming>>>,
    /// What relays say to requests with money.
    ack: Mutex<Ack>,
    /// How the provider takes locked tokens.
    lock: Mutex<Option<LockTerms>>,
}

#[async_trait]
impl Post for Stage {
    async fn listen(&self) -> Result<mpsc::Receiver<Incoming>, PostError> {
        let (to_client, messages) = mpsc::channel(64);
        *self.to_client.lock().unwrap() = Some(to_client);
        Ok(messages)
    }

    async fn send(&self, letter: &Letter) -> Vec<(String, Ack)> {
        let request: Request = serde_json::from_str(&letter.body).unwrap();
        self.sent.lock().unwrap().push(letter.clone());
        let quote = matches!(request.ask, Ask::Quote(_));
        let ack = if quote {
            Ack::Accepted
        } else {
            self.ack.lock().unwrap().clone()
        };
        if ack == Ack::Accepted {
            let nth = {
                let mut seen = self.seen.lock().unwrap();
                let nth = seen.entry(request.request_id).or_default();
                *nth += 1;
                *nth
            };
            let outcomes = match &request.ask {
                Ask::Quote(ask) => vec![done(Answer::Quote(QuoteAnswer {
                    lock: self.lock.lock().unwrap().clone(),
                    ..quote_for(ask.seconds)
                }))],
                _ => (self.script.lock().unwrap())(&request, nth),
            };
            for outcome in outcomes {
                let reply = Reply {
                    satlet: 1,
                    request_id: request.request_id,
                    outcome,
                };
                self.say(self.provider, &Message::Reply(reply)).await;
            }
        }
        vec![("wss://relay".to_owned(), ack)]
    }

    async fn announce(&self) -> Vec<(String, Ack)> {
        vec![("wss://relay".to_owned(), Ack::Accepted)]
    }

    async fn discover(&self) -> Result<Vec<Found>, PostError> {
        Ok(vec![found("Alpha", self.provider)])
    }
}

impl Stage {
    async fn say(&self, sender: PublicKey, message: &Message) {
        let to_client = self.to_client.lock().unwrap().clone();
        let body = serde_json::to_string(message).unwrap();
        to_client
            .unwrap()
            .send(incoming(sender, body))
            .await
            .unwrap();
    }

    fn spawns(&self) -> Vec<Letter> {
        let sent = self.sent.lock().unwrap();
        sent.iter()
            .filter(|letter| letter.body.contains("\"spawn\""))
            .cloned()
            .collect()
    }

    fn act(&self, script: impl Fn(&Request, usize) -> Vec<Outcome> + Send + Sync + 'static) {
        *self.script.lock().unwrap() = Box::new(script);
    }
}

fn incoming(sender: PublicKey, body: String) -> Incoming {
    Incoming {
        channel: crate::relay::Channel::GiftWrap,
        rumor: random_id(),
        wrap: None,
        sender,
        written_at: now(),
        received_at: now(),
        relay: "wss://relay".to_owned(),
        body,
    }
}

fn random_id() -> EventId {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    EventId::from_bytes(bytes)
}

fn key(n: u8) -> PublicKey {
    PublicKey::from_bytes([n; 32])
}

fn gives() -> Resources {
    Resources {
        cpu_millicores: 500,
        memory_mib: 256,
        disk_mib: 0,
        pids: 64,
    }
}

fn terms() -> Vec<MintTerms> {
    vec![MintTerms {
        url: MINT.to_owned(),
        units: vec!["sat".to_owned()],
        input_fee_ppk: Some(0),
        state: None,
    }]
}

fn quote_for(seconds: Option<u64>) -> QuoteAnswer {
    let seconds = seconds.unwrap_or(60);
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
        min_msat: PRICE,
        max_msat: Msat::new(RATE * 3_600),
        seconds,
        gift_seconds: None,
        mints: terms(),
        lock: None,
        lightning: Some(LightningTerms {
            mint: MINT.to_owned(),
            unit: "sat".to_owned(),
            pay_seconds: 600,
            late_seconds: 3_600,
        }),
        gives: gives(),
        not_enforced: Vec::new(),
        outgoing_network: false,
    }
}

fn found(name: &str, provider: PublicKey) -> Found {
    let offer = Offer {
        provider_npub: provider,
        hostname: name.to_owned(),
        location: None,
        capabilities: vec!["sandbox".to_owned()],
        specs: vec![Spec {
            id: "small".to_owned(),
            name: "Small".to_owned(),
            description: String::new(),
            cpu_millicores: 500,
            memory_mb: 256,
            rate_msats_per_sec: RATE,
        }],
        whitelisted_mints: vec![MINT.to_owned()],
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
            mints: terms(),
            lock_key: None,
            pool: None,
            lightning: None,
            relays: vec!["wss://provider.example".to_owned()],
            limits: Limits {
                max_request_bytes: 1,
                requests_per_minute: 1,
                leases_per_key: 1,
                grace_seconds: 1,
                pow_bits: 0,
                refund_keep_seconds: 0,
            },
            not_enforced: Vec::new(),
            outgoing_network: false,
        }),
    };
    let heartbeat = Heartbeat {
        provider_npub: provider,
        timestamp: now(),
        active_workloads: 0,
        available_capacity: AvailableCapacity::default(),
        version: 1,
    };
    Found {
        offer,
        published_at: now(),
        heartbeat: Some(heartbeat),
    }
}

fn lease_id() -> LeaseId {
    "abcdefghijkl".parse().unwrap()
}

fn status() -> LeaseStatus {
    LeaseStatus {
        lease: lease_id(),
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
            user: lease_id().to_string(),
            host_key: "ssh-ed25519 AAAA".to_owned(),
        }),
        refunds: Vec::new(),
    }
}

fn done(answer: Answer) -> Outcome {
    Outcome::Result(Box::new(answer))
}

fn leased() -> Outcome {
    done(Answer::Spawn(SpawnAnswer {
        status: status(),
        paid_msat: PRICE,
        mint_fee_msat: Msat::ZERO,
    }))
}

fn no(code: Code, money: Money) -> Outcome {
    Outcome::Error(WireError::new(code, "no", "do something else").with_money(money))
}

fn refund_of(mint: &FakeMint, sat: u64) -> Refund {
    Refund {
        refund_id: "r1".to_owned(),
        token: mint.token(Msat::from_sat(sat).unwrap()),
        amount_msat: Msat::from_sat(sat).unwrap(),
        mint: mint.url().0,
        unit: "sat".to_owned(),
        why: "it failed".to_owned(),
    }
}

struct World {
    dir: TempDir,
    stage: Arc<Stage>,
    mint: FakeMint,
    wallet: FakeWallet,
}

impl World {
    fn new(script: impl Fn(&Request, usize) -> Vec<Outcome> + Send + Sync + 'static) -> Self {
        Self::of(key(7), script)
    }

    /// A world whose provider has this key.
    fn of(
        provider: PublicKey,
        script: impl Fn(&Request, usize) -> Vec<Outcome> + Send + Sync + 'static,
    ) -> Self {
        let mint = FakeMint::new(MINT);
        let wallet = FakeWallet::new([mint.clone()]);
        wallet.fund(&mint.url(), &Unit::Sat, Msat::from_sat(100).unwrap());
        let stage = Arc::new(Stage {
            provider,
            script: Mutex::new(Box::new(script)),
            sent: Mutex::default(),
            seen: Mutex::default(),
            to_client: Mutex::default(),
            ack: Mutex::new(Ack::Accepted),
            lock: Mutex::default(),
        });
        Self {
            dir: tempfile::tempdir().unwrap(),
            stage,
            mint,
            wallet,
        }
    }

    /// A client in the same home: each call stands for a new process.
    fn client(&self, timeout: Duration) -> Client {
        self.client_with(ClientOptions {
            timeout: Some(timeout),
            ..ClientOptions::default()
        })
    }

    fn client_with(&self, options: ClientOptions) -> Client {
        let settings = Settings {
            mints: vec![MINT.to_owned()],
            ..Settings::default()
        };
        Client::open(
            self.dir.path(),
            ClientOptions {
                resend: Some(Duration::from_millis(30)),
                settings: options.settings.or(Some(settings)),
                wallet: Some(Arc::new(self.wallet.clone())),
                post: Some(Arc::clone(&self.stage) as _),
                ..options
            },
        )
        .unwrap()
    }

    async fn balance(&self) -> Msat {
        let balances = self.wallet.balances().await.unwrap();
        balances
            .get(&(self.mint.url(), Unit::Sat))
            .copied()
            .unwrap_or(Msat::ZERO)
    }

    async fn spawn_with(&self, client: &Client, pay: Pay) -> Result<Leased, ClientError> {
        let provider = client.find_provider("alpha").await.unwrap();
        let options = SpawnOptions {
            pay,
            ..SpawnOptions::default()
        };
        match client.spawn(&provider, options, &agree, &quiet).await? {
            Spawned::Leased(leased) => Ok(*leased),
            Spawned::Detached(_) => panic!("not asked for"),
        }
    }

    async fn spawn(&self, client: &Client) -> Result<Leased, ClientError> {
        self.spawn_with(client, Pay::Minimum).await
    }
}

fn sat(n: u64) -> Msat {
    Msat::from_sat(n).unwrap()
}

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(200);

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_with_the_same_id_and_body() {
    let world = World::new(|_, nth| if nth < 3 { vec![] } else { vec![leased()] });
    let client = world.client(LONG);
    let leased = world.spawn(&client).await.unwrap();
    let sent = world.stage.spawns();
    assert_eq!(sent.len(), 3);
    assert!(
        sent.iter().all(|letter| *letter == sent[0]),
        "the same rumor each time"
    );
    assert_eq!(leased.lease.status.lease, lease_id());
    assert_eq!(leased.face, sat(6));
    assert_eq!(world.balance().await, sat(94), "paid once");
    assert_eq!(client.find_lease("abc").unwrap().provider, key(7));
    assert!(client.records().open_requests().unwrap().is_empty());
    assert_eq!(sent[0].relays, ["wss://provider.example"]);
}

#[tokio::test]
async fn an_answer_after_the_command_ended_is_picked_up_by_the_next() {
    let world = World::new(|_, _| vec![]);
    let error = world.spawn(&world.client(SHORT)).await.unwrap_err();
    assert_eq!((error.kind, error.money), (Kind::Timeout, Money::Pending));
    assert_eq!(error.kind.exit_code(), 6);
    let id = error.request_id.unwrap();
    world.stage.act(|_, _| vec![leased()]);
    let client = world.client(LONG);
    let left = client.settle(&quiet).await.unwrap();
    assert_eq!(left[0].request_id, id);
    let settled = left[0].result.as_ref().unwrap();
    assert_eq!(settled.lease.as_ref().unwrap().status.lease, lease_id());
    let sent = world.stage.spawns();
    assert!(
        sent.iter().all(|letter| *letter == sent[0]),
        "the same request id and body"
    );
    assert_eq!(client.leases().unwrap().len(), 1);
    assert!(
        client.settle(&quiet).await.unwrap().is_empty(),
        "settled once"
    );
}

#[tokio::test]
async fn only_the_provider_s_reply_to_this_request_counts() {
    let world = World::new(|_, nth| if nth < 2 { vec![] } else { vec![leased()] });
    let client = world.client(LONG);
    // A reply by a stranger to every id that may come, and stale ones of the
    // provider to other ids.
    let stage = Arc::clone(&world.stage);
    world.stage.act({
        let stage = Arc::clone(&stage);
        move |request, nth| {
            let forged = Reply {
                satlet: 1,
                request_id: request.request_id,
                outcome: no(Code::NoCapacity, Money::Taken),
            };
            let stale = Reply {
                request_id: RequestId::new(uuid::Uuid::new_v4()),
                ..forged.clone()
            };
            let to_client = stage.to_client.lock().unwrap().clone().unwrap();
            for (sender, reply) in [(key(66), forged), (key(7), stale)] {
                let body = serde_json::to_string(&Message::Reply(reply)).unwrap();
                to_client.try_send(incoming(sender, body)).unwrap();
            }
            to_client
                .try_send(incoming(key(7), "not json".to_owned()))
                .unwrap();
            if nth < 2 { vec![] } else { vec![leased()] }
        }
    });
    let leased = world.spawn(&client).await.unwrap();
    assert_eq!(leased.lease.provider, key(7));
}

#[tokio::test]
async fn a_quote_that_is_dearer_than_the_offer_is_not_paid() {
    let world = World::new(|_, _| vec![leased()]);
    let client = world.client(LONG);
    let mut provider = client.find_provider("alpha").await.unwrap();
    provider.offer.specs[0].rate_msats_per_sec = RATE - 1;
    let result = client
        .spawn(&provider, SpawnOptions::default(), &agree, &quiet)
        .await;
    assert_eq!(result.unwrap_err().code, "dearer_than_offer");
    assert_eq!(world.balance().await, sat(100));
}

#[tokio::test]
async fn an_untouched_token_goes_back_into_the_wallet() {
    let world = World::new(|_, _| vec![no(Code::NoCapacity, Money::Untouched)]);
    let client = world.client(LONG);
    let error = world.spawn(&client).await.unwrap_err();
    assert_eq!(
        (error.kind.exit_code(), error.code.as_str()),
        (4, "no_capacity")
    );
    assert_eq!(error.money, Money::Untouched);
    assert_eq!(world.balance().await, sat(100));
    assert!(client.records().open_requests().unwrap().is_empty());
}

#[tokio::test]
async fn an_untouched_token_goes_back_later_where_the_mint_is_down() {
    let world = World::new(|_, _| vec![]);
    let mint = world.mint.clone();
    world.stage.act(move |_, _| {
        mint.set_down(true);
        vec![no(Code::MintDown, Money::Untouched)]
    });
    world.spawn(&world.client(LONG)).await.unwrap_err();
    assert_eq!(world.balance().await, sat(94));
    world.mint.set_down(false);
    let client = world.client(LONG);
    assert_eq!(
        client.records().open_requests().unwrap()[0].standing,
        Standing::TakeBack
    );
    let before = world.stage.spawns().len();
    client.settle(&quiet).await.unwrap();
    assert_eq!(world.balance().await, sat(100));
    assert_eq!(
        world.stage.spawns().len(),
        before,
        "the provider is not asked again"
    );
}

#[tokio::test]
async fn an_untouched_pasted_token_is_given_back() {
    let world = World::new(|_, _| vec![no(Code::NoCapacity, Money::Untouched)]);
    let token = world.mint.token(sat(10));
    let client = world.client(LONG);
    let error = world
        .spawn_with(&client, Pay::Token(token.clone()))
        .await
        .unwrap_err();
    assert_eq!(*error.token.unwrap().0, *token);
    assert!(!world.mint.is_spent(&token));
    assert_eq!(world.balance().await, sat(100));
}

#[tokio::test]
async fn untouched_but_spent_is_kept_and_said() {
    let world = World::new(|_, _| vec![]);
    let mint = world.mint.clone();
    world.stage.act(move |request, _| {
        if let Ask::Spawn(spawn) = &request.ask {
            mint.spend(spawn.funds.token().unwrap());
        }
        vec![no(Code::NoCapacity, Money::Untouched)]
    });
    let client = world.client(LONG);
    let error = world.spawn(&client).await.unwrap_err();
    assert_eq!((error.kind, error.money), (Kind::Payment, Money::Taken));
    let open = client.records().open_requests().unwrap();
    assert_eq!(open[0].standing, Standing::Disputed);
    assert!(open[0].paid.is_some(), "the token is kept as evidence");
}

#[tokio::test]
async fn pending_money_is_kept_until_the_last_word() {
    let world = World::new(|_, _| vec![no(Code::PaymentPending, Money::Pending)]);
    let error = world.spawn(&world.client(SHORT)).await.unwrap_err();
    assert_eq!((error.kind.exit_code(), error.money), (5, Money::Pending));
    let client = world.client(LONG);
    let open = client.records().open_requests().unwrap();
    assert_eq!(open[0].standing, Standing::Pending);
    assert_eq!(
        world.balance().await,
        sat(94),
        "neither lost nor taken back"
    );
    // The stored answer is still there when the last word comes.
    world
        .stage
        .act(|_, _| vec![no(Code::PaymentPending, Money::Pending), leased()]);
    client.settle(&quiet).await.unwrap();
    assert_eq!(client.leases().unwrap().len(), 1);
    assert!(client.records().open_requests().unwrap().is_empty());
}

#[tokio::test]
async fn nothing_is_lost_between_writing_down_and_sending() {
    let world = World::new(|_, _| vec![leased()]);
    *world.stage.ack.lock().unwrap() = Ack::NoAnswer("cut off".to_owned());
    let error = world.spawn(&world.client(SHORT)).await.unwrap_err();
    assert_eq!((error.kind.exit_code(), error.money), (7, Money::Pending));
    let saved = world.client(LONG).records().open_requests().unwrap();
    assert_eq!(saved.len(), 1);
    assert_eq!(saved[0].paid.as_ref().unwrap().face, sat(6));
    *world.stage.ack.lock().unwrap() = Ack::Accepted;
    let client = world.client(LONG);
    client.settle(&quiet).await.unwrap();
    assert_eq!(world.stage.spawns().last().unwrap().body, saved[0].body);
    assert_eq!(client.leases().unwrap().len(), 1);
    assert_eq!(world.balance().await, sat(94), "paid once");
}

#[tokio::test]
async fn an_expired_request_gives_its_unspent_token_back() {
    let world = World::new(|_, _| vec![]);
    world.spawn(&world.client(SHORT)).await.unwrap_err();
    let client = world.client(SHORT);
    let mut saved = client.records().open_requests().unwrap().remove(0);
    saved.expires_at = Timestamp::from_secs(1);
    client.records().save_request(&saved).unwrap();
    let left = client
        .leftover(saved.request_id, SHORT, &quiet)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(left.result.unwrap_err().refunded_msat, sat(6));
    assert_eq!(world.balance().await, sat(100));
    assert!(client.records().open_requests().unwrap().is_empty());
}

#[tokio::test]
async fn an_expired_request_whose_token_is_spent_stays_open() {
    let world = World::new(|_, _| vec![]);
    let mint = world.mint.clone();
    world.stage.act(move |request, _| {
        if let Ask::Spawn(spawn) = &request.ask {
            mint.spend(spawn.funds.token().unwrap());
        }
        vec![]
    });
    world.spawn(&world.client(SHORT)).await.unwrap_err();
    let client = world.client(SHORT);
    let mut saved = client.records().open_requests().unwrap().remove(0);
    saved.expires_at = Timestamp::from_secs(1);
    client.records().save_request(&saved).unwrap();
    client
        .leftover(saved.request_id, SHORT, &quiet)
        .await
        .unwrap();
    assert_eq!(
        client.records().open_requests().unwrap().len(),
        1,
        "the provider owes an answer"
    );
}

#[tokio::test]
async fn an_answer_of_another_kind_closes_nothing() {
    let world = World::new(|_, _| vec![done(Answer::List { leases: vec![] })]);
    let client = world.client(SHORT);
    let error = world.spawn(&client).await.unwrap_err();
    assert_eq!(error.code, "bad_answer");
    assert_eq!(error.money, Money::Pending);
    assert_eq!(client.records().open_requests().unwrap().len(), 1);
}

#[tokio::test]
async fn a_price_that_is_not_agreed_to_costs_nothing() {
    let world = World::new(|_, _| vec![leased()]);
    let client = world.client(LONG);
    let provider = client.find_provider("alpha").await.unwrap();
    let refuse = |price: Msat| {
        assert_eq!(price, PRICE);
        false
    };
    let result = client
        .spawn(&provider, SpawnOptions::default(), &refuse, &quiet)
        .await;
    assert_eq!(result.unwrap_err().code, "not_confirmed");
    assert_eq!(world.balance().await, sat(100));
    assert!(world.stage.spawns().is_empty());
}

#[tokio::test]
async fn too_little_and_too_much_are_refused_before_paying() {
    let world = World::new(|_, _| vec![leased()]);
    let client = world.client(LONG);
    for (amount, code) in [
        (sat(1), "amount_too_small"),
        (sat(90_000), "duration_too_long"),
    ] {
        let error = world
            .spawn_with(&client, Pay::Amount(amount))
            .await
            .unwrap_err();
        assert_eq!((error.kind.exit_code(), error.code.as_str()), (2, code));
    }
    let error = world
        .spawn_with(&client, Pay::Seconds(3_000))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind.exit_code(), error.code.as_str()),
        (5, "no_balance")
    );
    assert_eq!(world.balance().await, sat(100));
}

#[tokio::test]
async fn a_detached_spawn_is_picked_up_by_its_id() {
    let world = World::new(|_, _| vec![]);
    let client = world.client(LONG);
    let provider = client.find_provider("alpha").await.unwrap();
    let options = SpawnOptions {
        detach: true,
        ..SpawnOptions::default()
    };
    let Spawned::Detached(id) = client
        .spawn(&provider, options, &agree, &quiet)
        .await
        .unwrap()
    else {
        panic!("it was to be detached");
    };
    world.stage.act(|_, _| vec![leased()]);
    let left = world
        .client(LONG)
        .leftover(id, LONG, &quiet)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(left.result.unwrap().lease.unwrap().status.lease, lease_id());
}

#[tokio::test]
async fn a_request_that_another_process_works_on_is_left_alone() {
    let world = World::new(|_, _| vec![]);
    let error = world.spawn(&world.client(SHORT)).await.unwrap_err();
    let client = world.client(SHORT);
    let claim = client.records().claim(&error.request_id.unwrap()).unwrap();
    assert!(claim.is_some());
    assert!(client.settle(&quiet).await.unwrap().is_empty());
    drop(claim);
    assert_eq!(client.settle(&quiet).await.unwrap().len(), 1);
}

#[tokio::test]
async fn topup_stop_and_status_bring_what_is_known_up_to_date() {
    let world = World::new(|_, _| vec![leased()]);
    let client = world.client(LONG);
    let leased = world.spawn(&client).await.unwrap();
    let until = now().plus_secs(1_000);
    let refund = refund_of(&world.mint, 4);
    let owed = Refund {
        refund_id: "r2".to_owned(),
        ..refund_of(&world.mint, 3)
    };
    world.stage.act(move |request, _| {
        vec![done(match &request.ask {
            Ask::Topup(ask) => Answer::Topup(TopupAnswer {
                lease: ask.lease.clone(),
                added_seconds: 100,
                expires_at: until,
                paid_msat: sat(10),
                mint_fee_msat: Msat::ZERO,
                credit_msat: Msat::ZERO,
            }),
            Ask::Status(_) => Answer::Status(LeaseStatus {
                refunds: vec![owed.clone()],
                ..status()
            }),
            _ => Answer::Stop(StopAnswer {
                lease: lease_id(),
                served_seconds: 20,
                served_msat: sat(2),
                refund: Some(refund.clone()),
                refund_fee_msat: Msat::ZERO,
                credit_msat: Msat::ZERO,
                receipt: None,
            }),
        })]
    });
    client
        .topup(&leased.lease, Pay::Seconds(100), &agree, &quiet)
        .await
        .unwrap();
    assert_eq!(world.balance().await, sat(84));
    assert_eq!(
        client.find_lease("abc").unwrap().status.expires_at,
        Some(until)
    );
    let looked = client.status(&leased.lease, &quiet).await.unwrap();
    assert_eq!(looked.refunded, sat(3));
    let stopped = client.stop(&leased.lease, &quiet).await.unwrap();
    assert_eq!(stopped.received, sat(4));
    assert_eq!(world.balance().await, sat(91));
    assert_eq!(
        client.find_lease("abc").unwrap().status.state,
        LeaseState::Ended
    );
}

#[test]
fn providers_are_found_by_name_key_or_beginning() {
    let all: Vec<Provider> = [("Alpha", 1), ("Alpine", 2), ("Beta", 0xab), ("beta", 0xac)]
        .into_iter()
        .map(|(name, n)| Provider::new(found(name, key(n)), now()))
        .collect();
    let found = |query: &str| providers::find(&all, query).map(|one| one.key);
    assert_eq!(found("ALPHA"), Ok(key(1)));
    assert_eq!(found("alpi"), Ok(key(2)));
    assert_eq!(found("0202"), Ok(key(2)));
    assert_eq!(found(&key(0xab).to_hex()), Ok(key(0xab)));
    assert_eq!(found(&all[3].npub), Ok(key(0xac)));
    let error = found("alp").unwrap_err();
    assert_eq!(
        (error.kind.exit_code(), error.code.as_str()),
        (3, "provider_ambiguous")
    );
    assert!(error.message.contains("Alpha") && error.message.contains("Alpine"));
    assert_eq!(
        found("beta").unwrap_err().code,
        "provider_ambiguous",
        "a name is nobody's"
    );
    assert_eq!(found("gamma").unwrap_err().code, "provider_not_found");
}

#[test]
fn an_old_heartbeat_is_offline() {
    let old = Provider::new(found("Alpha", key(1)), now().plus_secs(121));
    assert!(!old.online);
    let new = Provider::new(found("Alpha", key(1)), now().plus_secs(60));
    assert!(new.online);
}

#[test]
fn the_home_is_private_and_its_keys_stay() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let home = super::home::Home::open(&dir.path().join("a/b")).unwrap();
    let first = home.identity().unwrap();
    let (path, public) = home.ssh_key().unwrap();
    assert_eq!(home.identity().unwrap(), first);
    assert_eq!(home.ssh_key().unwrap().1, public);
    assert!(public.starts_with("ssh-ed25519 AAAA"));
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(home.root()), 0o700);
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(&home.path("identity")), 0o600);
}
