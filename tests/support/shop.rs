//! A provider without a network: messages go straight to the dispatcher, and
//! answers are read where the outbox would read them. With a paused clock hours
//! pass in no time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use satlet::compute::fake::{FakeBackend, FakeEngine, FakeHost};
use satlet::core::capacity::{Capacity, Resources};
use satlet::core::ids::{EventId, LeaseId, PublicKey, RequestId};
use satlet::core::lease::{Event, Lease};
use satlet::core::money::Msat;
use satlet::core::payment::lock::LockKey;
use satlet::core::pricing::Tier;
use satlet::core::time::Timestamp;
use satlet::gateway::{GatewayLimits, Ports};
use satlet::ledger::{self, Ledger, OUTBOX, OutboxRow, REQUESTS};
use satlet::protocol::error::WireError;
use satlet::protocol::reply::{Access, Answer, Message, Notice, Outcome, Reply, SpawnAnswer};
use satlet::protocol::request::{Ask, Funds, OfLease, Request, Spawn, Stop, Topup, Wanted};
use satlet::provider::actors;
use satlet::provider::clock::TokioClock;
use satlet::provider::ctx::{Ctx, Parts};
use satlet::provider::dispatch::Dispatcher;
use satlet::provider::lost;
use satlet::provider::paygress::ports;
use satlet::provider::payouts;
use satlet::provider::refunds;
use satlet::provider::settings::{
    BackendSetting, Fiat, GatewaySettings, ImagePolicy, LightningPolicy, MintSetting, POOL,
    RefundPolicy, RequestPolicy, Settings, SweepPolicy, Template, Timing,
};
use satlet::provider::stores::Stores;
use satlet::provider::strays;
use satlet::relay::{Channel, InboxStore, Incoming};
use satlet::wallet::fake::{FakeMint, FakeWallet};
use satlet::wallet::{MintUrl, Wallet};

/// The mint that the shop accepts.
pub const MINT: &str = "https://mint.test";

/// An SSH key that opens workloads in tests.
pub const SSH_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ test";

/// When the shop's clock starts.
pub const OPENING: Timestamp = Timestamp::from_secs(1_790_000_000);

/// A provider, and what it is made of.
pub struct Shop {
    pub dir: tempfile::TempDir,
    pub mint: FakeMint,
    pub wallet: FakeWallet,
    pub engine: FakeEngine,
    pub ports: FakePorts,
    pub settings: Settings,
    /// Used in place of `wallet`, where there is one.
    pub purse: Option<Arc<dyn Wallet>>,
    /// It starts as a daemon whose mints have not answered yet.
    pub slow: bool,
    running: Option<Running>,
    clock: TokioClock,
}

struct Running {
    ctx: Arc<Ctx>,
    dispatcher: Dispatcher,
    sweep: tokio::task::JoinHandle<()>,
}

/// All that is done now and then.
async fn sweep(ctx: Arc<Ctx>) {
    tokio::join!(
        actors::sweep(Arc::clone(&ctx)),
        ports::keep(Arc::clone(&ctx)),
        refunds::run(Arc::clone(&ctx)),
        payouts::run(ctx)
    );
}

/// Ports that nobody really listens on.
#[derive(Clone, Default)]
pub struct FakePorts(Arc<Mutex<FakeListeners>>);

#[derive(Default)]
struct FakeListeners {
    open: BTreeSet<u16>,
    busy: BTreeSet<u16>,
}

impl FakePorts {
    /// Another program listens on `port` from now on.
    pub fn occupy(&self, port: u16) {
        self.0.lock().unwrap().busy.insert(port);
    }

    /// The listeners of a daemon go with it.
    fn drop_all(&self) {
        self.0.lock().unwrap().open.clear();
    }
}

#[async_trait::async_trait]
impl Ports for FakePorts {
    async fn open(&self, port: u16) -> std::io::Result<()> {
        let mut ports = self.0.lock().unwrap();
        if ports.busy.contains(&port) {
            return Err(std::io::ErrorKind::AddrInUse.into());
        }
        ports.open.insert(port);
        Ok(())
    }

    fn close(&self, port: u16) {
        self.0.lock().unwrap().open.remove(&port);
    }

    fn listening(&self) -> Vec<u16> {
        self.0.lock().unwrap().open.iter().copied().collect()
    }
}

/// Settings of a shop with two tiers and room for four of the small one.
pub fn settings(dir: &std::path::Path, mint: &str) -> Settings {
    let tier = |id: &str, n: u32, rate| Tier {
        id: id.parse().unwrap(),
        name: id.to_owned(),
        description: String::new(),
        resources: Resources {
            cpu_millicores: 250 * n,
            memory_mib: 128 * n,
            disk_mib: 64 * n,
            pids: 64,
        },
        rate_msat_per_s: rate,
        min_seconds: 60,
        max_seconds: 24 * 3600,
    };
    Settings {
        hostname: "BoldAmberHeron".to_owned(),
        location: None,
        data_dir: dir.to_owned(),
        relays: Vec::new(),
        mints: vec![MintSetting {
            url: mint.to_owned(),
            requests_per_minute: 6000,
            ..MintSetting::default()
        }],
        fiat: Fiat::default(),
        tiers: vec![tier("small", 1, 100), tier("large", 4, 400)],
        templates: vec![Template {
            id: "web".parse().unwrap(),
            description: "a page".to_owned(),
            image: "host".to_owned(),
            command: vec!["sleep".to_owned(), "1000000".to_owned()],
            env: Vec::new(),
        }],
        images: ImagePolicy {
            default: "host".to_owned(),
            allow: vec!["host".to_owned(), "docker.io/library/*".to_owned()],
            layouts: BTreeMap::new(),
            max_mib: 1024,
        },
        capacity: Capacity {
            total: Resources {
                cpu_millicores: 1000,
                memory_mib: 4096,
                disk_mib: 4096,
                pids: 0,
            },
            max_leases: 100,
        },
        gateway: GatewaySettings {
            listen: "127.0.0.1:0".parse().unwrap(),
            public_host: "127.0.0.1".to_owned(),
            public_port: None,
            limits: GatewayLimits::default(),
        },
        requests: RequestPolicy {
            allow: Vec::new(),
            deny: Vec::new(),
            per_key_per_minute: 1000,
            per_minute: 10_000,
            leases_per_key: 50,
            errors_per_key_per_minute: 1000,
            errors_per_minute: 10_000,
            ..RequestPolicy::default()
        },
        timing: Timing::default(),
        sell_unenforced: false,
        paygress: None,
        backend: BackendSetting::Fake,
        refunds: RefundPolicy::default(),
        pool: POOL,
        sweep: SweepPolicy::default(),
        lightning: Some(LightningPolicy::default()),
        creates: 64,
    }
}

impl Shop {
    /// An open shop.
    pub async fn open() -> Self {
        Self::open_with(|_| {}).await
    }

    /// An open shop with other settings.
    pub async fn open_with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::build(FakeMint::new(MINT), OPENING, None, change).await
    }

    /// An open shop at this mint, whose clock starts then.
    pub async fn open_in(
        mint: FakeMint,
        opening: Timestamp,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        Self::build(mint, opening, None, change).await
    }

    /// An open shop with another wallet, whose mint is among its settings.
    pub async fn open_at(
        purse: Option<Arc<dyn Wallet>>,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        Self::build(FakeMint::new(MINT), OPENING, purse, change).await
    }

    async fn build(
        mint: FakeMint,
        opening: Timestamp,
        purse: Option<Arc<dyn Wallet>>,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(dir.path(), MINT);
        change(&mut settings);
        let clock = TokioClock::starting_at(opening);
        let wallet = FakeWallet::new([mint.clone()]);
        // No token is older than the ledger.
        wallet.set_time(Timestamp::from_secs(u64::MAX));
        let mut shop = Self {
            wallet,
            engine: FakeEngine::new(FakeHost::default()),
            ports: FakePorts::default(),
            dir,
            mint,
            settings,
            purse,
            slow: false,
            running: None,
            clock,
        };
        shop.start().await;
        shop
    }

    /// Starts the daemon's engine on the files and machines that are there.
    pub async fn start(&mut self) {
        let backend = FakeBackend::open("fake".parse().unwrap(), &self.engine);
        let mut ledger = None;
        // A commit that was under way when the daemon died may hold the file yet.
        until("the ledger opens", || {
            ledger = Ledger::open(self.dir.path()).ok();
            ledger.is_some()
        })
        .await;
        let ledger = ledger.unwrap();
        let ctx = Ctx::new(Parts {
            settings: self.settings.clone(),
            ledger,
            wallet: match &self.purse {
                Some(purse) => Arc::clone(purse),
                None => Arc::new(self.wallet.clone()),
            },
            backend: Arc::new(backend),
            clock: Arc::new(self.clock),
            keys: nostr_sdk::Keys::generate(),
            access: Access {
                host: "127.0.0.1".to_owned(),
                port: 2222,
                user: String::new(),
                host_key: "ssh-ed25519 AAAA".to_owned(),
            },
            ports: Some(Arc::new(self.ports.clone())),
        });
        if self.slow {
            let mints = self.settings.mints.iter();
            ctx.opening.begin(mints.map(|mint| mint.url.clone()));
        }
        strays::at_start(&ctx).await;
        lost::at_start(&ctx).await;
        ports::sync(&ctx).await.unwrap();
        let sweep = tokio::spawn(sweep(Arc::clone(&ctx)));
        let dispatcher = Dispatcher::new(Arc::clone(&ctx));
        dispatcher.resume().await;
        self.running = Some(Running {
            ctx,
            dispatcher,
            sweep,
        });
    }

    /// Ends the daemon where it stands, as a power cut would: what was being
    /// done is broken off, nothing is put in order.
    pub async fn crash(&mut self) {
        let Running {
            ctx,
            dispatcher,
            sweep,
        } = self.running.take().unwrap();
        sweep.abort();
        let _ = sweep.await;
        dispatcher.abort().await;
        ctx.actors.stop().await;
        self.ports.drop_all();
        let gone = Arc::downgrade(&ctx);
        drop((ctx, dispatcher));
        until("the daemon is gone", || gone.strong_count() == 0).await;
    }

    /// The daemon's context.
    pub fn ctx(&self) -> &Arc<Ctx> {
        &self.running.as_ref().unwrap().ctx
    }

    /// Delivers a request, as the inbox does after it has stored it.
    pub async fn deliver(&self, owner: PublicKey, body: String) {
        self.deliver_written(owner, body, self.ctx().now()).await;
    }

    /// Delivers a request and has it stored first, as the inbox does: a daemon
    /// that dies finds it again.
    pub async fn stored(&self, owner: PublicKey, body: String) {
        let running = self.running.as_ref().unwrap();
        let now = self.ctx().now();
        let wrap = EventId::from_bytes(rand::random());
        let message = Incoming {
            channel: satlet::relay::Channel::GiftWrap,
            rumor: EventId::from_bytes(rand::random()),
            wrap: Some(wrap),
            sender: owner,
            written_at: now,
            received_at: now,
            relay: "ws://relay.test".to_owned(),
            body,
        };
        let inbox = Stores::new(Arc::clone(self.ctx()));
        assert!(inbox.store(&message, &wrap).await.unwrap());
        drop(inbox);
        running.dispatcher.dispatch(message).await;
    }

    /// Stores a message in another gift wrap, as the inbox does. Whether it is
    /// to be handled.
    pub async fn wrapped_anew(&self, message: &Incoming) -> bool {
        let inbox = Stores::new(Arc::clone(self.ctx()));
        let wrap = EventId::from_bytes(rand::random());
        inbox.store(message, &wrap).await.unwrap()
    }

    /// Brings a message as a relay does: stored where it is worth it, and then
    /// dispatched. Whether it was.
    pub async fn post(&self, owner: PublicKey, body: String) -> bool {
        let running = self.running.as_ref().unwrap();
        let now = self.ctx().now();
        let wrap = EventId::from_bytes(rand::random());
        let message = Incoming {
            channel: satlet::relay::Channel::GiftWrap,
            rumor: EventId::from_bytes(rand::random()),
            wrap: Some(wrap),
            sender: owner,
            written_at: now,
            received_at: now,
            relay: "ws://relay.test".to_owned(),
            body,
        };
        let inbox = Stores::new(Arc::clone(self.ctx()));
        let stored = inbox.store(&message, &wrap).await.unwrap();
        drop(inbox);
        if stored {
            running.dispatcher.dispatch(message).await;
        }
        stored
    }

    /// The same, written at another time.
    pub async fn deliver_written(&self, owner: PublicKey, body: String, written_at: Timestamp) {
        let running = self.running.as_ref().unwrap();
        let now = self.ctx().now();
        let message = Incoming {
            channel: satlet::relay::Channel::GiftWrap,
            rumor: EventId::from_bytes(rand::random()),
            wrap: None,
            sender: owner,
            written_at,
            received_at: now,
            relay: "ws://relay.test".to_owned(),
            body,
        };
        running.dispatcher.dispatch(message).await;
    }

    /// Delivers a request and waits for its answer.
    pub async fn ask(&self, owner: PublicKey, ask: Ask) -> Result<Answer, WireError> {
        let id = new_id();
        self.ask_as(owner, id, ask).await
    }

    /// The same with a given request id.
    pub async fn ask_as(
        &self,
        owner: PublicKey,
        id: RequestId,
        ask: Ask,
    ) -> Result<Answer, WireError> {
        self.deliver(owner, body(id, ask)).await;
        self.answer(owner, id).await
    }

    /// The answer to a request, once there is one.
    pub async fn answer(&self, owner: PublicKey, id: RequestId) -> Result<Answer, WireError> {
        let mut found = None;
        until("the request is answered", || {
            found = self.answer_now(owner, id);
            found.is_some()
        })
        .await;
        match found.unwrap().outcome {
            Outcome::Result(answer) => Ok(*answer),
            Outcome::Error(error) => Err(error),
        }
    }

    /// The answer to a request, if there is one now.
    pub fn answer_now(&self, owner: PublicKey, id: RequestId) -> Option<Reply> {
        let key = ledger::request_key(&owner, id);
        let stored = self
            .ctx()
            .ledger()
            .read(|r| r.get(&REQUESTS, &key))
            .unwrap();
        let stored = stored.and_then(|row| row.answer);
        let text = stored.or_else(|| {
            self.sent()
                .into_iter()
                .find(|(to, text)| *to == owner && text.contains(&id.to_string()))
                .map(|(_, text)| text)
        })?;
        match serde_json::from_str(&text).unwrap() {
            Message::Reply(reply) => Some(reply),
            Message::Notice(_) => None,
        }
    }

    /// What waits in the outbox: receiver and text.
    pub fn sent(&self) -> Vec<(PublicKey, String)> {
        let rows = self.ctx().ledger().read(|r| r.all(&OUTBOX)).unwrap();
        rows.into_iter()
            .map(|(_, row)| (row.to, row.body))
            .collect()
    }

    /// Notices that wait in the outbox for `owner`.
    pub fn notices(&self, owner: PublicKey) -> Vec<Notice> {
        let to_owner = self.sent().into_iter().filter(|(to, _)| *to == owner);
        to_owner
            .filter_map(|(_, text)| match serde_json::from_str(&text).unwrap() {
                Message::Notice(notice) => Some(notice),
                Message::Reply(_) => None,
            })
            .collect()
    }

    /// Buys a small lease with a token of so many sat.
    pub async fn spawn(&self, owner: PublicKey, sat: u64) -> SpawnAnswer {
        let token = self.mint.token(Msat::from_sat(sat).unwrap());
        match self.ask(owner, spawn(token)).await {
            Ok(Answer::Spawn(answer)) => answer,
            other => panic!("no lease: {other:?}"),
        }
    }

    /// Delivers a message by any channel, written at any time; its name.
    pub async fn bring(
        &self,
        owner: PublicKey,
        body: &str,
        channel: Channel,
        written_at: Timestamp,
    ) -> EventId {
        let rumor = EventId::from_bytes(rand::random());
        let message = Incoming {
            channel,
            rumor,
            wrap: None,
            sender: owner,
            written_at,
            received_at: self.ctx().now(),
            relay: "ws://relay.test".to_owned(),
            body: body.to_owned(),
        };
        self.dispatch(message).await;
        rumor
    }

    /// Hands a message on, as the inbox does.
    pub async fn dispatch(&self, message: Incoming) {
        let running = self.running.as_ref().unwrap();
        running.dispatcher.dispatch(message).await;
    }

    /// All that goes out to `owner`, in full.
    pub fn letters(&self, owner: PublicKey) -> Vec<OutboxRow> {
        let rows = self.ctx().ledger().read(|r| r.all(&OUTBOX)).unwrap();
        let rows = rows.into_iter().map(|(_, row)| row);
        rows.filter(|row| row.to == owner).collect()
    }

    /// A lease as the ledger has it.
    pub fn lease(&self, id: &LeaseId) -> Lease {
        let found = self
            .ctx()
            .ledger()
            .read(|r| ledger::find_lease(r, id))
            .unwrap();
        found.unwrap_or_else(|| panic!("no lease {id}"))
    }
}

/// A lease of somebody that is over, of which all was served.
pub fn served(tier: Tier, mint: &MintUrl, paid: Msat, now: Timestamp) -> Lease {
    let id = LeaseId::from_random(rand::random());
    let image = "host".to_owned();
    let rate = tier.rate_msat_per_s;
    let mut lease = Lease::reserve(id, key(9), new_id(), tier, image, Vec::new(), now);
    let bought = Event::Paid {
        face: paid,
        fee: Msat::ZERO,
        patience: 300,
        mint: mint.0.clone(),
        unit: "sat".to_owned(),
    };
    let over = now.plus_secs(paid.get() / rate);
    let life = [
        (bought, now),
        (Event::Up, now),
        (Event::TimeOver, over),
        (Event::GraceOver, over),
        (Event::Destroyed, over),
    ];
    for (event, at) in life {
        lease.on(event, at).unwrap();
    }
    lease
}

/// A fresh request id.
pub fn new_id() -> RequestId {
    RequestId::new(uuid::Uuid::new_v4())
}

/// A consumer's key.
pub fn key(n: u8) -> PublicKey {
    PublicKey::from_bytes([n; 32])
}

/// A request as text.
pub fn body(id: RequestId, ask: Ask) -> String {
    serde_json::to_string(&Request::new(id, ask)).unwrap()
}

/// A spawn of the default tier and image.
pub fn spawn(token: String) -> Ask {
    let wanted = Wanted {
        ssh_keys: vec![SSH_KEY.to_owned()],
        ..Wanted::default()
    };
    Ask::Spawn(Spawn {
        wanted,
        funds: Funds::Token(token),
        quote_id: None,
        refund_key: None,
    })
}

/// A top-up.
pub fn topup(lease: &LeaseId, token: String) -> Ask {
    Ask::Topup(Topup {
        lease: lease.clone(),
        funds: Funds::Token(token),
        refund_key: None,
    })
}

/// A status.
pub fn status(lease: &LeaseId) -> Ask {
    Ask::Status(OfLease {
        lease: lease.clone(),
    })
}

/// A stop.
pub fn stop(lease: &LeaseId) -> Ask {
    Ask::Stop(Stop {
        lease: lease.clone(),
        refund_key: None,
    })
}

/// The same request, with a key that tokens of refunds are to be locked to.
pub fn refund_to(key: &LockKey, mut ask: Ask) -> Ask {
    match &mut ask {
        Ask::Spawn(ask) => ask.refund_key = Some(key.clone()),
        Ask::Topup(ask) => ask.refund_key = Some(key.clone()),
        Ask::Stop(ask) => ask.refund_key = Some(key.clone()),
        other => panic!("{} has no such key", other.name()),
    }
    ask
}

/// Looks again and again until `done`, for a minute of the test's clock.
pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
