//! One purchase from several providers, all or none, with real providers on fakes
//! at one mint.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use satlet::consumer::home::Settings;
use satlet::consumer::money::agree;
use satlet::consumer::post::{Found, Letter, Post, PostError};
use satlet::consumer::together::{Bought, Part};
use satlet::consumer::{Client, ClientError, ClientOptions, Pay, quiet};
use satlet::core::ids::{EventId, PublicKey};
use satlet::core::money::Msat;
use satlet::core::time::Timestamp;
use satlet::protocol::heartbeat::{AvailableCapacity, Heartbeat};
use satlet::protocol::offer::Offer;
use satlet::protocol::reply::Message;
use satlet::protocol::request::{Ask, Request};
use satlet::provider::offer;
use satlet::relay::{Ack, Channel, Incoming};
use satlet::wallet::fake::{FakeMint, FakeWallet};
use satlet::wallet::{Unit, Wallet};
use tokio::sync::mpsc;

use crate::support::shop::{MINT, Shop};

fn sat(sat: u64) -> Msat {
    Msat::from_sat(sat).unwrap()
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp::from_secs(since.as_secs())
}

/// Some shops at one mint, and the relays between them and a consumer.
struct Street {
    shops: Vec<(Offer, Shop)>,
    mint: FakeMint,
    wallet: FakeWallet,
    home: tempfile::TempDir,
    consumer: OnceLock<PublicKey>,
    to_client: Mutex<Option<mpsc::Sender<Incoming>>>,
    /// Which requests of which shop are lost.
    lost: Mutex<BTreeSet<(usize, &'static str)>>,
    /// All bodies that were sent.
    sent: Mutex<Vec<String>>,
}

struct Relays(Arc<Street>);

impl Street {
    async fn open(shops: usize) -> Arc<Self> {
        let mint = FakeMint::new(MINT);
        let mut all = Vec::new();
        for _ in 0..shops {
            let shop = Shop::open_in(mint.clone(), now(), |_| {}).await;
            all.push((offer::current(shop.ctx()).await.unwrap(), shop));
        }
        let wallet = FakeWallet::new([mint.clone()]);
        wallet.fund(&mint.url(), &Unit::Sat, sat(100));
        Arc::new(Self {
            shops: all,
            mint,
            wallet,
            home: tempfile::tempdir().unwrap(),
            consumer: OnceLock::new(),
            to_client: Mutex::default(),
            lost: Mutex::default(),
            sent: Mutex::default(),
        })
    }

    /// A client in the same home: each call stands for a new process.
    fn client(self: &Arc<Self>) -> Client {
        let client = Client::open(
            self.home.path(),
            ClientOptions {
                timeout: Some(Duration::from_secs(4)),
                resend: Some(Duration::from_millis(300)),
                settings: Some(Settings {
                    mints: vec![MINT.to_owned()],
                    ..Settings::default()
                }),
                wallet: Some(Arc::new(self.wallet.clone())),
                post: Some(Arc::new(Relays(Arc::clone(self)))),
                ..ClientOptions::default()
            },
        )
        .unwrap();
        self.consumer.get_or_init(|| client.public_key());
        client
    }

    fn lose(&self, shop: usize, kind: &'static str) {
        self.lost.lock().unwrap().insert((shop, kind));
    }

    async fn buy(&self, client: &Client) -> Result<Bought, ClientError> {
        let providers = client.discover().await.unwrap();
        let parts = providers.into_iter().map(|provider| Part {
            provider,
            wanted: satlet::protocol::request::Wanted::default(),
            ssh_key: None,
            pay: Pay::Minimum,
        });
        client.buy_all(parts.collect(), &agree, &quiet).await
    }

    async fn balance(&self) -> Msat {
        let balances = self.wallet.balances().await.unwrap();
        Msat::checked_sum(balances.into_values()).unwrap()
    }

    fn redeemed(&self) -> u32 {
        self.mint.total_redeem_calls()
    }

    fn claims(&self) -> usize {
        let sent = self.sent.lock().unwrap();
        sent.iter().filter(|body| body.contains("preimage")).count()
    }

    /// The locktimes are over, here and at the mint.
    async fn long_after(self: &Arc<Self>) -> Client {
        self.mint.set_now(now().plus_secs(7 * 24 * 3600));
        let client = self.client();
        for mut saved in client.records().open_requests().unwrap() {
            if let Some(lock) = saved.paid.as_mut().and_then(|paid| paid.lock.as_mut()) {
                lock.locktime = Timestamp::from_secs(1);
            }
            saved.expires_at = now().minus(Duration::from_secs(3600));
            client.records().save_request(&saved).unwrap();
        }
        client.settle(&quiet).await.unwrap();
        client
    }

    /// Nothing was bought, and all the money is back after the locktime.
    async fn all_comes_back(self: &Arc<Self>) {
        assert_eq!(self.redeemed(), 0);
        assert_eq!(self.claims(), 0, "no preimage ever left");
        assert!(self.balance().await < sat(100), "it is locked");
        let client = self.long_after().await;
        assert_eq!(self.balance().await, sat(100));
        assert!(client.records().open_requests().unwrap().is_empty());
        assert!(client.leases().unwrap().is_empty());
        for (_, shop) in &self.shops {
            assert!(shop.engine.workloads().is_empty());
        }
    }

    async fn all_are_leased(&self, client: &Client) {
        assert_eq!(client.leases().unwrap().len(), self.shops.len());
        assert!(client.records().open_requests().unwrap().is_empty());
        assert_eq!(self.redeemed() as usize, self.shops.len());
        let mut paid = Msat::ZERO;
        for (_, shop) in &self.shops {
            assert_eq!(shop.engine.workloads().len(), 1);
            let balances = shop.wallet.balances().await.unwrap();
            let has = Msat::checked_sum(balances.into_values()).unwrap();
            assert_eq!(has, sat(6), "a minute");
            paid = paid.checked_add(has).unwrap();
        }
        for lease in client.leases().unwrap() {
            let shop = self
                .shops
                .iter()
                .find(|(offer, _)| offer.provider_npub == lease.provider);
            let (_, shop) = shop.unwrap();
            let row = shop.lease(&lease.status.lease);
            assert!(row.balances(shop.ctx().now()), "{row:?}");
        }
        assert_eq!(self.balance().await.checked_add(paid), Some(sat(100)));
    }
}

#[async_trait]
impl Post for Relays {
    async fn listen(&self) -> Result<mpsc::Receiver<Incoming>, PostError> {
        let (to_client, messages) = mpsc::channel(64);
        *self.0.to_client.lock().unwrap() = Some(to_client);
        Ok(messages)
    }

    async fn send(&self, letter: &Letter) -> Vec<(String, Ack)> {
        let accepted = vec![("wss://relay".to_owned(), Ack::Accepted)];
        let request: Request = serde_json::from_str(&letter.body).unwrap();
        let mut shops = self.0.shops.iter();
        let to = shops.position(|(offer, _)| offer.provider_npub == letter.to);
        let to = to.unwrap();
        if self
            .0
            .lost
            .lock()
            .unwrap()
            .contains(&(to, request.ask.name()))
        {
            return accepted;
        }
        self.0.sent.lock().unwrap().push(letter.body.clone());
        let me = *self.0.consumer.get().unwrap();
        let (street, body) = (Arc::clone(&self.0), letter.body.clone());
        tokio::spawn(async move {
            let (offer, shop) = &street.shops[to];
            shop.deliver(me, body).await;
            let end = tokio::time::Instant::now() + Duration::from_secs(20);
            let reply = loop {
                if let Some(reply) = shop.answer_now(me, request.request_id) {
                    break reply;
                }
                if tokio::time::Instant::now() > end {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            };
            let to_client = street.to_client.lock().unwrap().clone();
            let message = Incoming {
                channel: Channel::GiftWrap,
                rumor: EventId::from_bytes(rand::random()),
                wrap: None,
                sender: offer.provider_npub,
                written_at: now(),
                received_at: now(),
                relay: "wss://relay".to_owned(),
                body: serde_json::to_string(&Message::Reply(reply)).unwrap(),
            };
            // The process may be gone.
            let _ = to_client.unwrap().send(message).await;
        });
        accepted
    }

    async fn announce(&self) -> Vec<(String, Ack)> {
        vec![("wss://relay".to_owned(), Ack::Accepted)]
    }

    async fn discover(&self) -> Result<Vec<Found>, PostError> {
        let found = self.0.shops.iter().map(|(offer, _)| Found {
            offer: offer.clone(),
            published_at: now(),
            heartbeat: Some(Heartbeat {
                provider_npub: offer.provider_npub,
                timestamp: now(),
                active_workloads: 0,
                available_capacity: AvailableCapacity::default(),
                version: 1,
            }),
        });
        Ok(found.collect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_them_are_bought() {
    let street = Street::open(3).await;
    let client = street.client();
    let bought = street.buy(&client).await.unwrap();
    assert_eq!((bought.leases.len(), bought.failed.len()), (3, 0));
    street.all_are_leased(&client).await;
    let until: BTreeSet<_> = bought
        .leases
        .iter()
        .map(|lease| {
            let saved = client.records().request(&lease.request_id).unwrap();
            saved.unwrap().paid.unwrap().lock.unwrap().locktime
        })
        .collect();
    assert_eq!(until.len(), 1, "one locktime for all");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_one_refuses_nothing_is_bought() {
    let street = Street::open(3).await;
    // It is full.
    let full = &street.shops[2].1;
    for _ in 0..4 {
        let other = crate::support::shop::key(9);
        full.spawn(other, 10).await;
    }
    let before = street.redeemed();
    // Its quote says so already; the room may also go after the quote.
    let client = street.client();
    let error = street.buy(&client).await.unwrap_err();
    assert_eq!(error.code, "no_capacity");
    assert_eq!(street.redeemed(), before);
    assert_eq!(street.claims(), 0);
}

/// The room is gone between the quote and the hold.
#[tokio::test(flavor = "multi_thread")]
async fn where_one_does_not_hold_no_preimage_leaves() {
    let street = Street::open(2).await;
    let client = street.client();
    let shop = &street.shops[1].1;
    // It may have two, and has them already.
    let me = client.public_key();
    for n in 1..3 {
        let lock = satlet::core::payment::lock::Conditions {
            kind: satlet::core::payment::lock::Kind::Htlc,
            data: satlet::core::payment::hash_lock::Preimage::from_bytes([n; 32])
                .hash()
                .to_string(),
            extra_keys: vec![shop.wallet.lock_key().to_string()],
            n_sigs: None,
            sig_all: false,
            locktime: Some(now().plus_secs(9000)),
            refund_keys: vec![format!("02{}", "ab".repeat(32))],
            n_sigs_refund: None,
        };
        let token = street.mint.locked_token(sat(10), &lock);
        let Ask::Spawn(wanted) = crate::support::shop::spawn(token) else {
            panic!()
        };
        shop.ask(me, Ask::Hold(wanted)).await.unwrap();
    }
    let error = street.buy(&client).await.unwrap_err();
    assert_eq!(error.code, "no_capacity");
    // The other lets go at once.
    let first = &street.shops[0].1;
    crate::support::shop::until("it is released", || {
        first
            .ctx()
            .ledger()
            .held()
            .iter()
            .all(|held| !matches!(held.phase, satlet::core::lease::Phase::Reserved))
    })
    .await;
    drop(client);
    street.all_comes_back().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_one_is_silent_nothing_is_bought() {
    let street = Street::open(2).await;
    street.lose(0, "hold");
    let client = street.client();
    let error = street.buy(&client).await.unwrap_err();
    assert_eq!(error.code, "no_answer");
    drop(client);
    street.all_comes_back().await;
}

/// The consumer dies while it waits for the last one to hold.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_dies_before_all_hold_has_bought_nothing() {
    let street = Street::open(2).await;
    street.lose(0, "hold");
    let client = street.client();
    let broken = tokio::time::timeout(Duration::from_secs(2), street.buy(&client)).await;
    assert!(broken.is_err(), "{broken:?}");
    drop(client);
    assert_eq!(client_requests(&street, "hold"), 2);
    // Now it would hold, and it is too late: it is given up.
    street.lost.lock().unwrap().clear();
    let client = street.client();
    client.settle(&quiet).await.unwrap();
    drop(client);
    street.all_comes_back().await;
}

/// The preimage may be out: the next process claims everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_dies_after_the_point_of_no_return_buys_all() {
    for lost in [vec![0], vec![0, 1]] {
        let street = Street::open(2).await;
        for shop in &lost {
            street.lose(*shop, "claim");
        }
        let client = street.client();
        let broken = tokio::time::timeout(Duration::from_secs(3), street.buy(&client)).await;
        assert!(broken.is_err(), "{broken:?}");
        drop(client);
        assert_eq!(street.redeemed() as usize, 2 - lost.len());
        street.lost.lock().unwrap().clear();
        let client = street.client();
        if lost.len() == 2 {
            // It died right at that point: neither claim was written down.
            undo_claims(&client);
        }
        client.settle(&quiet).await.unwrap();
        client.settle(&quiet).await.unwrap();
        street.all_are_leased(&client).await;
    }
}

fn client_requests(street: &Arc<Street>, kind: &str) -> usize {
    let client = street.client();
    let open = client.records().open_requests().unwrap();
    open.iter().filter(|saved| saved.kind == kind).count()
}

/// The records as they were when the point of no return was written down.
fn undo_claims(client: &Client) {
    use satlet::consumer::records::Standing;
    use satlet::consumer::together::Stage;
    let Some(Stage::Claiming { claims }) = client
        .records()
        .together(0)
        .unwrap()
        .map(|together| together.stage)
    else {
        panic!("it is not written down")
    };
    for one in claims {
        let claim = client.records().request(&one.request).unwrap().unwrap();
        let hold = client.records().request(&one.hold_request).unwrap();
        let mut hold = hold.unwrap();
        hold.paid = claim.paid;
        hold.standing = Standing::Open;
        client.records().save_request(&hold).unwrap();
        let file = format!("requests/{}.json", one.request);
        std::fs::remove_file(client.home().path(&file)).unwrap();
    }
}
