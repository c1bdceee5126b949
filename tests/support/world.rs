//! Relays, a mint and a provider that are real, and people who use them.
//!
//! The provider comes in two forms: [`House`] in this process on the fake
//! backend, and [`Daemon`], the program itself on the sandbox.

use std::collections::HashSet;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use nostr_sdk::nips::nip44;
use nostr_sdk::{Event, EventBuilder, JsonUtil, Keys, Kind, Tag, ToBech32, UnsignedEvent};
use satlet::compute::Backend;
use satlet::compute::fake::{FakeBackend, FakeEngine, FakeHost};
use satlet::compute::sandbox::{NetworkChoice, Sandbox, SandboxConfig};
use satlet::consumer::home;
use satlet::core::ids::{EventId, PublicKey, RequestId};
use satlet::core::money::Msat;
use satlet::core::payment::hash_lock::Preimage;
use satlet::core::payment::lock::{LockKey, LockTo};
use satlet::core::time::Timestamp;
use satlet::demo::mint::{MintOptions, TestMint};
use satlet::demo::port::Port;
use satlet::demo::relay::TestRelay;
use satlet::ledger::{ENDED, LEASES, OUTBOX, PAYMENTS};
use satlet::protocol::error::WireError;
use satlet::protocol::reply::{Answer, Message, Outcome};
use satlet::protocol::request::{Ask, Request};
use satlet::provider::ctx::Ctx;
use satlet::provider::daemon::{Provider, Setup, StartError, WALLET};
use satlet::provider::settings::Settings;
use satlet::relay::convert::{id_from, key_from, key_to, now, time_to};
use satlet::relay::inbox::{Inbox, InboxOptions};
use satlet::relay::session::{RelayOptions, Relays};
use satlet::relay::{Ack, InboxStore, Incoming, StoreError};
use satlet::wallet::cdk_wallet::{CdkWallet, WalletMint, WalletOptions};
use satlet::wallet::{MintUrl, ProofsState, Unit, Wallet};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Notify;

/// How long something may take on a machine that is busy with other tests.
pub(crate) const LONG: Duration = Duration::from_secs(90);

/// Where people and providers meet: the relays and the mint of a test, and a
/// directory for their files.
pub(crate) trait Places {
    fn dir(&self) -> &Path;
    fn relay_urls(&self) -> Vec<String>;
    fn mint_url(&self) -> String;
}

impl Places for World {
    fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn relay_urls(&self) -> Vec<String> {
        self.urls()
    }

    fn mint_url(&self) -> String {
        self.mint.url().0
    }
}

/// What everybody shares: all of it in this process.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) relays: Vec<TestRelay>,
    pub(crate) mint: TestMint,
}

impl World {
    /// A world of so many relays and one mint.
    pub(crate) async fn start(relays: usize) -> Self {
        Self::with_mint(relays, MintOptions::default()).await
    }

    /// The same with another mint.
    pub(crate) async fn with_mint(relays: usize, mint: MintOptions) -> Self {
        let mut started = Vec::new();
        for _ in 0..relays {
            started.push(TestRelay::start().await.unwrap());
        }
        Self {
            dir: tempfile::tempdir().unwrap(),
            relays: started,
            mint: TestMint::start(mint).await.unwrap(),
        }
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.relays.iter().map(TestRelay::url).collect()
    }

    /// A wallet with so much ecash in it.
    pub(crate) async fn purse(&self, sat: u64) -> Purse {
        Purse::at(self.dir.path(), self.mint.url(), sat).await
    }
}

/// Number of the key that a purse's refunds are locked to.
const CLAIM: u64 = 1;

/// Ecash to pay with.
pub(crate) struct Purse {
    wallet: CdkWallet,
    mint: MintUrl,
    _dir: TempDir,
}

impl Purse {
    /// A wallet with so much ecash of `mint`, in a folder of its own below `dir`.
    pub(crate) async fn at(dir: &Path, mint: MintUrl, sat: u64) -> Self {
        let dir = tempfile::tempdir_in(dir).unwrap();
        let wallet = CdkWallet::open(WalletOptions {
            dir: dir.path().to_owned(),
            seed: rand::random(),
            mints: vec![WalletMint {
                url: mint.0.clone(),
                requests_per_minute: 6000,
            }],
            timeout: Duration::from_secs(30),
            allow_any_mint: false,
        });
        let wallet = wallet.await.unwrap();
        if sat > 0 {
            let amount = Msat::from_sat(sat).unwrap();
            let quote = wallet.mint_quote(&mint, &Unit::Sat, amount).await.unwrap();
            wallet.mint_wait(&quote, LONG).await.unwrap();
        }
        Self {
            wallet,
            mint,
            _dir: dir,
        }
    }

    /// A token of so many sat.
    pub(crate) async fn token(&self, sat: u64) -> String {
        let amount = Msat::from_sat(sat).unwrap();
        let sent = self.wallet.send(&self.mint, &Unit::Sat, amount, false);
        sent.await.unwrap().token
    }

    /// Redeems a token, as its receiver does.
    pub(crate) async fn take(&self, token: &str) {
        let info = self.wallet.inspect(token).unwrap();
        if info.locks.iter().any(Option::is_some) {
            let claimed = self.wallet.claim(info.payment, token, CLAIM);
            claimed.await.unwrap();
            return;
        }
        self.wallet.redeem(info.payment, token).await.unwrap();
    }

    /// A token of so many sat for the owner of `key`, locked to the hash of the
    /// preimage besides.
    pub(crate) async fn hashed(&self, sat: u64, key: LockKey) -> (String, Preimage) {
        let preimage = self.wallet.preimage(CLAIM).unwrap();
        let to = LockTo {
            key,
            locktime: satlet::relay::convert::now().plus_secs(3600),
            index: CLAIM,
            hash: Some(preimage.hash()),
        };
        let locked = self.wallet.lock(&self.token(sat).await, &to).await;
        (locked.unwrap().token, preimage)
    }

    /// The key that refunds for this purse are locked to.
    pub(crate) fn refund_key(&self) -> LockKey {
        self.wallet.claim_key(CLAIM).unwrap()
    }

    /// Whether the mint still takes this token.
    pub(crate) async fn is_unspent(&self, token: &str) -> bool {
        self.wallet.check(token).await.unwrap() == ProofsState::Unspent
    }
}

/// A provider in this process, on the fake backend; machines outlive it.
pub(crate) struct House {
    pub(crate) settings: Settings,
    pub(crate) engine: FakeEngine,
    pub(crate) relays: RelayOptions,
    keys: Keys,
    seed: [u8; 64],
    running: Option<Provider>,
}

impl House {
    /// One that does not run yet, on the first `relays` of the world's.
    pub(crate) fn build(world: &World, relays: usize) -> Self {
        let dir = world.dir.path().join("house");
        std::fs::create_dir(&dir).unwrap();
        let mut settings = super::shop::settings(&dir, &world.mint.url().0);
        settings.relays = world.urls().into_iter().take(relays).collect();
        Self {
            settings,
            engine: FakeEngine::new(FakeHost::default()),
            relays: RelayOptions::default(),
            keys: Keys::generate(),
            seed: rand::random(),
            running: None,
        }
    }

    pub(crate) fn key(&self) -> PublicKey {
        key_from(&self.keys.public_key())
    }

    /// Puts so many sat of its own into its wallet, while it does not run.
    pub(crate) async fn fill(&self, mint: MintUrl, sat: u64) {
        let dir = self.settings.data_dir.join(WALLET);
        fill(dir, self.seed, mint, sat, 0).await;
    }

    /// Starts it on the files and machines that are there, connected and
    /// caught up with its relays.
    pub(crate) async fn start(&mut self) {
        let deadline = Instant::now() + LONG;
        let provider = loop {
            let backend = FakeBackend::open("fake".parse().unwrap(), &self.engine);
            let setup = Setup {
                settings: self.settings.clone(),
                keys: self.keys.clone(),
                seed: self.seed,
                backend: Arc::new(backend),
                relays: self.relays.clone(),
            };
            match Provider::start(setup).await {
                Ok(provider) => break provider,
                // The one before may be closing its files yet.
                Err(why @ (StartError::Ledger(_) | StartError::Wallet(_))) => {
                    assert!(Instant::now() < deadline, "{why}");
                }
                Err(why) => panic!("{why}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert!(provider.inbox().wait_ready(LONG).await);
        self.running = Some(provider);
    }

    /// Ends the daemon, and no machine; all that it held is free again.
    pub(crate) async fn stop(&mut self) {
        let provider = self.running.take().unwrap();
        let ctx = Arc::downgrade(provider.ctx());
        provider.shutdown().await;
        until("nothing of it is left", || ctx.strong_count() == 0).await;
    }

    pub(crate) fn provider(&self) -> &Provider {
        self.running.as_ref().unwrap()
    }

    pub(crate) fn ctx(&self) -> &Ctx {
        self.provider().ctx()
    }

    /// All leases, running or over.
    pub(crate) fn leases(&self) -> usize {
        let count = |reader: &satlet::ledger::Reader| {
            Ok(reader.all(&LEASES)?.len() + reader.all(&ENDED)?.len())
        };
        self.ctx().ledger().read(count).unwrap()
    }

    /// All payments that were ever begun.
    pub(crate) fn payments(&self) -> usize {
        let payments = self.ctx().ledger().read(|reader| reader.all(&PAYMENTS));
        payments.unwrap().len()
    }

    /// What is in its wallet.
    pub(crate) async fn balance(&self) -> Msat {
        let balances = self.ctx().parts.wallet.balances().await.unwrap();
        Msat::checked_sum(balances.into_values()).unwrap()
    }

    /// Waits until nothing waits to be sent.
    pub(crate) async fn all_sent(&self) {
        until("everything is sent", || {
            let waiting = self.ctx().ledger().read(|reader| reader.all(&OUTBOX));
            waiting.unwrap().is_empty()
        })
        .await;
    }
}

/// A gift wrap that reached an [`Asker`].
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) rumor: EventId,
    pub(crate) sender: PublicKey,
    pub(crate) body: String,
}

/// Notes every gift wrap, also of a message that came before.
#[derive(Default)]
struct EveryWrap {
    got: Mutex<Vec<Got>>,
    seen: Mutex<HashSet<EventId>>,
    came: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

#[async_trait]
impl InboxStore for EveryWrap {
    async fn store(&self, message: &Incoming, wrap: &EventId) -> Result<bool, StoreError> {
        if lock(&self.seen).insert(*wrap) {
            lock(&self.got).push(Got {
                rumor: message.rumor,
                sender: message.sender,
                body: message.body.clone(),
            });
            self.came.notify_waiters();
        }
        Ok(false)
    }

    async fn seen_wrap(&self, wrap: &EventId) -> bool {
        lock(&self.seen).contains(wrap)
    }

    async fn last_seen(&self, _relay: &str) -> Option<Timestamp> {
        None
    }

    async fn set_last_seen(&self, _relay: &str, _at: Timestamp) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A consumer that does with gift wraps what no proper client does.
pub(crate) struct Asker {
    pub(crate) keys: Keys,
    relays: Relays,
    store: Arc<EveryWrap>,
    _inbox: (Inbox, tokio::sync::mpsc::Receiver<Incoming>),
}

impl Asker {
    /// One that reads and writes at all of the world's relays.
    pub(crate) async fn start(world: &World) -> Self {
        let keys = Keys::generate();
        let urls = world.urls();
        let relays = Relays::start(keys.clone(), &urls, RelayOptions::default()).unwrap();
        assert_eq!(relays.wait_connected(urls.len(), LONG).await, urls.len());
        let store = Arc::new(EveryWrap::default());
        let options = InboxOptions::default();
        let inbox = Inbox::start(&relays, keys.clone(), store.clone(), options);
        assert!(inbox.0.wait_ready(LONG).await);
        Self {
            keys,
            relays,
            store,
            _inbox: inbox,
        }
    }

    /// A message of this text, written at this time.
    pub(crate) fn rumor(&self, to: &PublicKey, body: &str, at: Timestamp) -> UnsignedEvent {
        let tags = [Tag::public_key(key_to(to))];
        let kind = Kind::PrivateDirectMessage;
        let mut rumor = UnsignedEvent::new(
            self.keys.public_key(),
            time_to(at),
            kind,
            tags,
            body.to_owned(),
        );
        rumor.ensure_id();
        rumor
    }

    /// Seals and wraps anything as this asker, with this stamp on both.
    pub(crate) fn wrap(&self, to: &PublicKey, rumor: &UnsignedEvent, stamp: Timestamp) -> Event {
        let (to, stamp) = (key_to(to), time_to(stamp));
        let v2 = nip44::Version::V2;
        let mine = self.keys.secret_key();
        let sealed = nip44::encrypt(mine, &to, rumor.as_json(), v2).unwrap();
        let seal = EventBuilder::new(Kind::Seal, sealed)
            .custom_created_at(stamp)
            .sign_with_keys(&self.keys)
            .unwrap();
        let once = Keys::generate();
        let wrapped = nip44::encrypt(once.secret_key(), &to, seal.as_json(), v2).unwrap();
        let expires = Tag::expiration(time_to(now().plus_secs(3600)));
        EventBuilder::new(Kind::GiftWrap, wrapped)
            .tags([Tag::public_key(to), expires])
            .custom_created_at(stamp)
            .sign_with_keys(&once)
            .unwrap()
    }

    /// Puts a gift wrap on these relays; each of them takes it.
    pub(crate) async fn publish(&self, event: &Event, to: &[String]) {
        let acks = self.relays.publish(event, to).await;
        let taken = acks.values().all(|ack| *ack == Ack::Accepted);
        assert!(taken && acks.len() == to.len(), "{acks:?}");
    }

    /// Wraps a text and puts it on all relays.
    pub(crate) async fn send(&self, to: &PublicKey, body: &str) {
        let rumor = self.rumor(to, body, now());
        let event = self.wrap(to, &rumor, now());
        self.publish(&event, &self.relays.urls()).await;
    }

    /// Asks and waits for the answer.
    pub(crate) async fn ask(&self, to: &PublicKey, ask: Ask) -> Result<Answer, WireError> {
        let id = super::shop::new_id();
        self.send(to, &super::shop::body(id, ask)).await;
        self.reply(id).await
    }

    /// The first answer to a request.
    pub(crate) async fn reply(&self, id: RequestId) -> Result<Answer, WireError> {
        let got = self.replies(id, 1).await;
        match serde_json::from_str(&got[0].body).unwrap() {
            Message::Reply(reply) => match reply.outcome {
                Outcome::Result(answer) => Ok(*answer),
                Outcome::Error(error) => Err(error),
            },
            Message::Notice(notice) => panic!("{notice:?}"),
        }
    }

    /// All answers to a request, as soon as so many gift wraps with one came.
    pub(crate) async fn replies(&self, id: RequestId, count: usize) -> Vec<Got> {
        let waiting = async {
            loop {
                let came = self.store.came.notified();
                tokio::pin!(came);
                came.as_mut().enable();
                let found = self.replies_now(id);
                if found.len() >= count {
                    return found;
                }
                came.await;
            }
        };
        match tokio::time::timeout(LONG, waiting).await {
            Ok(found) => found,
            Err(_) => panic!("{count} answers wanted, got {:?}", self.replies_now(id)),
        }
    }

    /// All answers to a request so far, one for each gift wrap.
    pub(crate) fn replies_now(&self, id: RequestId) -> Vec<Got> {
        let answers = |got: &&Got| match serde_json::from_str(&got.body) {
            Ok(Message::Reply(reply)) => reply.request_id == id,
            _ => false,
        };
        lock(&self.store.got)
            .iter()
            .filter(answers)
            .cloned()
            .collect()
    }

    /// All that came, from anybody.
    pub(crate) fn everything(&self) -> Vec<Got> {
        lock(&self.store.got).clone()
    }
}

/// A request and its text.
pub(crate) fn request(ask: Ask) -> (RequestId, String) {
    let id = super::shop::new_id();
    (id, serde_json::to_string(&Request::new(id, ask)).unwrap())
}

/// The id of a rumor.
pub(crate) fn rumor_id(rumor: &UnsignedEvent) -> EventId {
    id_from(&rumor.id.unwrap())
}

/// The real `satletd run` on the sandbox backend, with no way out for tenants.
/// Its workloads go when it is dropped.
pub(crate) struct Daemon {
    dir: PathBuf,
    key: PublicKey,
    /// Its gateway's, also while it does not run.
    _port: Port,
    child: Option<Child>,
}

impl Daemon {
    /// Writes its configuration and keys into a folder of the world.
    pub(crate) fn build(world: &impl Places, change: impl FnOnce(&mut Value)) -> Self {
        let dir = world.dir().join("satletd");
        std::fs::create_dir(&dir).unwrap();
        let keys = Keys::generate();
        private(&dir.join("nsec"), &keys.secret_key().to_bech32().unwrap());
        let words = bip39::Mnemonic::generate(12).unwrap();
        private(&dir.join("mnemonic"), &words.to_string());
        // The same after each restart, as at an operator's.
        let port = Port::take().unwrap();
        let listen = port.addr().to_string();
        let mut config = json!({
            "hostname": "BoldAmberHeron",
            "data_dir": "data",
            "identity": { "nsec_file": "nsec" },
            "wallet": { "mnemonic_file": "mnemonic" },
            "relays": world.relay_urls(),
            "mints": [{ "url": world.mint_url(), "requests_per_minute": 6000, "probe_sat": 0 }],
            "tiers": [{
                "id": "small", "cpu_millicores": 250, "memory": "128MiB", "disk": "64MiB",
                "pids": 64, "msat_per_second": 100, "min": "10s", "max": "1d",
            }],
            "capacity": {
                "cpu_millicores": 2000, "memory": "2GiB", "disk": "1GiB", "pids": 1024,
            },
            "gateway": { "listen": listen, "public_host": "127.0.0.1" },
            "requests": { "per_key_per_minute": 600, "per_minute": 6000 },
            "timing": { "grace": "2s", "sweep": "1s", "look": "1s", "stop_grace": "1s" },
            "sell_unenforced": true,
            "backend": { "kind": "sandbox", "network": false },
        });
        change(&mut config);
        std::fs::write(dir.join("provider.json"), config.to_string()).unwrap();
        let key = key_from(&keys.public_key());
        Self {
            dir,
            key,
            _port: port,
            child: None,
        }
    }

    /// Its key.
    pub(crate) fn key(&self) -> PublicKey {
        self.key
    }

    /// Puts so many sat of its own into its wallet, while it does not run, and so
    /// many more of one sat each.
    pub(crate) async fn fill(&self, sat: u64, ones: u64) {
        let seed = self.seed();
        let config: Value = serde_json::from_str(&self.configuration()).unwrap();
        let mint = MintUrl(config["mints"][0]["url"].as_str().unwrap().to_owned());
        let data = self.dir.join("data");
        std::fs::create_dir_all(&data).unwrap();
        fill(data.join(WALLET), seed, mint, sat, ones).await;
    }

    fn seed(&self) -> [u8; 64] {
        let words = std::fs::read_to_string(self.dir.join("mnemonic")).unwrap();
        let words: bip39::Mnemonic = words.trim().parse().unwrap();
        words.to_seed("")
    }

    /// The key that tokens for it are locked to.
    pub(crate) fn lock_key(&self) -> LockKey {
        satlet::wallet::lock_key_of(self.seed()).unwrap()
    }

    /// Its configuration file.
    pub(crate) fn configuration(&self) -> String {
        std::fs::read_to_string(self.dir.join("provider.json")).unwrap()
    }

    pub(crate) fn write_configuration(&self, text: &str) {
        std::fs::write(self.dir.join("provider.json"), text).unwrap();
    }

    /// Changes its configuration file.
    pub(crate) fn configure(&self, change: impl FnOnce(&mut Value)) {
        let mut config = serde_json::from_str(&self.configuration()).unwrap();
        change(&mut config);
        self.write_configuration(&config.to_string());
    }

    /// Sends SIGHUP.
    pub(crate) fn hang_up(&self) {
        let pid = self.child.as_ref().unwrap().id().try_into().unwrap();
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    }

    /// Where its configuration, keys and log are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_satletd"));
        command
            .args(args)
            .arg("--config")
            .arg(self.dir.join("provider.json"))
            .env("SATLET_LOG", "info,satlet=debug")
            .stdin(Stdio::null());
        command
    }

    /// Starts it and waits until it answers.
    pub(crate) async fn start(&mut self) {
        let log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.dir.join("log"))
            .unwrap();
        let mut run = self.command(&["run"]);
        run.stdout(Stdio::null()).stderr(log);
        self.child = Some(run.spawn().unwrap());
        let deadline = Instant::now() + LONG;
        while !self.ask(&["leases", "--json"]).status.success() {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "it ended: {}", self.log());
            assert!(
                Instant::now() < deadline,
                "it never answers: {}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Starts it with this in its environment, and waits for nothing.
    pub(crate) fn launch(&mut self, env: &[(&str, String)]) {
        let log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.dir.join("log"))
            .unwrap();
        let mut run = self.command(&["run"]);
        run.stdout(Stdio::null()).stderr(log);
        run.envs(env.iter().map(|(name, value)| (*name, value)));
        self.child = Some(run.spawn().unwrap());
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    /// Runs a command of `satletd` on the same configuration to its end.
    pub(crate) fn ask(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// As a power cut does: SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// The port of its gateway.
    pub(crate) fn gateway_port(&self) -> u64 {
        let text = std::fs::read_to_string(self.dir.join("provider.json")).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        let listen = config["gateway"]["listen"].as_str().unwrap();
        listen.rsplit_once(':').unwrap().1.parse().unwrap()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Its sandbox, to look into.
    pub(crate) async fn sandbox(&self) -> Sandbox {
        let config = SandboxConfig {
            root: self.dir.join("data/sandbox"),
            helper: PathBuf::from(env!("CARGO_BIN_EXE_satletd")),
            name: "sandbox".parse().unwrap(),
            network: NetworkChoice::Loopback,
            max_image_mib: 1024,
        };
        Sandbox::open(config).await.unwrap()
    }

    #[expect(clippy::print_stderr, reason = "what is left behind must be seen")]
    async fn clear(&self) {
        if !self.dir.join("data/sandbox").exists() {
            return;
        }
        let sandbox = self.sandbox().await;
        for owned in sandbox.list_owned().await.unwrap_or_default() {
            if let Err(error) = sandbox.destroy(&owned.handle).await {
                eprintln!("left behind: {error}");
            }
        }
    }
}

impl Drop for Daemon {
    #[expect(clippy::print_stderr, reason = "shown where the test fails")]
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
        if std::thread::panicking() {
            eprintln!("satletd said:\n{}", self.log());
        }
        // A runtime of its own: this one may be at its end.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = runtime.enable_all().build().unwrap();
                runtime.block_on(self.clear());
            });
        });
    }
}

/// Mints so many sat into the wallet in `dir`.
async fn fill(dir: PathBuf, seed: [u8; 64], mint: MintUrl, sat: u64, ones: u64) {
    let wallet = CdkWallet::open(WalletOptions {
        dir,
        seed,
        mints: vec![WalletMint {
            url: mint.0.clone(),
            requests_per_minute: 6000,
        }],
        timeout: Duration::from_secs(30),
        allow_any_mint: false,
    });
    let wallet = wallet.await.unwrap();
    let ones = (0..ones).map(|_| 1);
    for sat in std::iter::once(sat).filter(|sat| *sat > 0).chain(ones) {
        let amount = Msat::from_sat(sat).unwrap();
        let quote = wallet.mint_quote(&mint, &Unit::Sat, amount).await.unwrap();
        wallet.mint_wait(&quote, LONG).await.unwrap();
    }
    wallet.close().await;
}

/// What the wallet of a daemon that does not run holds, and what the tokens are
/// worth that it has made and that are not among `known`.
pub(crate) async fn provider_wallet(
    daemon: &Daemon,
    known: &std::collections::BTreeSet<&str>,
) -> (Msat, Msat) {
    let words = std::fs::read_to_string(daemon.dir.join("mnemonic")).unwrap();
    let words: bip39::Mnemonic = words.trim().parse().unwrap();
    let config: Value = serde_json::from_str(&daemon.configuration()).unwrap();
    let wallet = CdkWallet::open(WalletOptions {
        dir: daemon.dir.join("data/wallet"),
        seed: words.to_seed(""),
        mints: vec![WalletMint {
            url: config["mints"][0]["url"].as_str().unwrap().to_owned(),
            requests_per_minute: 6000,
        }],
        timeout: Duration::from_secs(30),
        allow_any_mint: false,
    });
    let wallet = wallet.await.unwrap();
    wallet.recover().await.unwrap();
    let all = wallet.balances().await.unwrap();
    let has = Msat::checked_sum(all.into_values()).unwrap();
    let known: HashSet<String> = known
        .iter()
        .flat_map(|token| wallet.inspect(token).unwrap().ys)
        .collect();
    let sends = wallet.pending_sends().await.unwrap();
    let unknown = sends.into_iter().filter(|send| {
        let ys = wallet.inspect(&send.token).unwrap().ys;
        !ys.iter().any(|y| known.contains(y))
    });
    let orphans = Msat::checked_sum(unknown.map(|send| send.face)).unwrap();
    (has, orphans)
}

/// Why no sandbox can run workloads here, if so. An ordinary user's can where
/// user namespaces are allowed.
pub(crate) async fn no_sandbox() -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    let config = SandboxConfig {
        root: dir.path().to_owned(),
        helper: PathBuf::from(env!("CARGO_BIN_EXE_satletd")),
        name: "sandbox".parse().unwrap(),
        network: NetworkChoice::Loopback,
        max_image_mib: 1,
    };
    match Sandbox::open(config).await {
        Ok(sandbox) => sandbox.probe().await.err().map(|why| why.to_string()),
        Err(why) => Some(why.to_string()),
    }
}

fn private(path: &Path, text: &str) {
    use std::io::Write;
    let mut options = std::fs::OpenOptions::new();
    let file = options.create_new(true).write(true).mode(0o600).open(path);
    writeln!(file.unwrap(), "{text}").unwrap();
}

/// A person at a terminal with a home of their own: the real `satlet`.
pub(crate) struct Person {
    pub(crate) home: PathBuf,
}

impl Person {
    /// Somebody who knows the world's relays and mint, and has so many sat.
    pub(crate) async fn new(world: &impl Places, name: &str, sat: u64) -> Self {
        let person = Self {
            home: world.dir().join(name),
        };
        home::Home::open(&person.home)
            .unwrap()
            .save_settings(&home::Settings {
                relays: world.relay_urls(),
                mints: vec![world.mint_url()],
                ..home::Settings::default()
            })
            .unwrap();
        if sat > 0 {
            person.json(&["wallet", "mint", &sat.to_string()]).await;
        }
        person
    }

    /// Starts `satlet`, with what it says on pipes.
    pub(crate) fn launch(&self, args: &[&str]) -> tokio::process::Child {
        tokio::process::Command::new(env!("CARGO_BIN_EXE_satlet"))
            .arg("--home")
            .arg(&self.home)
            .args(args)
            .env_remove("SATLET_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    /// Runs `satlet` to its end.
    pub(crate) async fn run(&self, args: &[&str]) -> Output {
        self.run_with(args, b"").await
    }

    /// The same with something on standard input.
    pub(crate) async fn run_with(&self, args: &[&str], input: &[u8]) -> Output {
        use tokio::io::AsyncWriteExt;
        let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_satlet"))
            .arg("--home")
            .arg(&self.home)
            .args(args)
            .env_remove("SATLET_LOG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input).await.unwrap();
        drop(stdin);
        let done = tokio::time::timeout(LONG * 2, child.wait_with_output()).await;
        done.unwrap_or_else(|_| panic!("satlet {args:?} does not end"))
            .unwrap()
    }

    /// Runs `satlet --json` with success; its output is one JSON document.
    pub(crate) async fn json(&self, args: &[&str]) -> Value {
        self.json_with(args, b"").await
    }

    /// The same with something on standard input.
    pub(crate) async fn json_with(&self, args: &[&str], input: &[u8]) -> Value {
        let args = [&["--json"], args].concat();
        let output = self.run_with(&args, input).await;
        assert!(output.status.success(), "satlet {args:?}: {output:?}");
        one_document(&output)
    }

    /// A token of so many sat.
    pub(crate) async fn token(&self, sat: u64) -> String {
        let sent = self.json(&["wallet", "send", &sat.to_string()]).await;
        sent["token"].as_str().unwrap().to_owned()
    }

    /// What is in the wallet, in msat.
    pub(crate) async fn balance(&self) -> u64 {
        let balance = self.json(&["wallet", "balance"]).await;
        balance["total_msat"].as_u64().unwrap()
    }
}

/// What a command with `--json` printed: one document and nothing else.
pub(crate) fn one_document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Looks again and again until `done`.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
