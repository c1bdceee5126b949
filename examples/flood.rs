//! Floods a real `satletd` with junk and measures how fast paid requests in the
//! middle are served, what memory the daemon takes and what it sends.
//!
//! ```text
//! cargo build --release --features demo --bin satletd
//! cargo run --release --features demo --example flood -- --events 5000 --seconds 10
//! ```
//!
//! This process is the relay (one that checks nothing), the mint, the flood and
//! the customers; the daemon is a child on the fake backend. The junk is made
//! before the clock starts. One line of JSON on standard output.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement that meets something else than it wants ends there"
)]

use std::collections::HashMap;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Parser;
use futures::{SinkExt, StreamExt};
use nostr_sdk::filter::MatchEventOptions;
use nostr_sdk::{ClientMessage, Event, EventBuilder, Filter, JsonUtil, Keys, Kind, Tag, ToBech32};
use satlet::core::ids::{PublicKey, RequestId};
use satlet::core::money::Msat;
use satlet::demo::mint::{MintOptions, TestMint};
use satlet::protocol::reply::{Message as Reply, Outcome};
use satlet::protocol::request::{Ask, Request, Spawn, Wanted};
use satlet::relay::convert::{key_from, key_to, now};
use satlet::relay::inbox::{Inbox, InboxOptions};
use satlet::relay::memory::MemoryInbox;
use satlet::relay::session::{RelayOptions, Relays};
use satlet::relay::wrap::wrap;
use satlet::wallet::cdk_wallet::{CdkWallet, WalletMint, WalletOptions};
use satlet::wallet::{Unit, Wallet};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

#[derive(Parser)]
struct Args {
    /// Junk events in all.
    #[arg(long, default_value_t = 5_000)]
    events: u32,
    /// Over how long they are spread.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Paid requests, spread over the flood.
    #[arg(long, default_value_t = 5)]
    paid: u32,
    /// The daemon; by default the one beside this program's directory.
    #[arg(long)]
    satletd: Option<PathBuf>,
    /// Proof of work that the daemon asks for; the junk bears none.
    #[arg(long, default_value_t = 0)]
    pow_bits: u8,
}

const SSH_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ bench";

/// Longest wait for a paid request.
const PATIENCE: Duration = Duration::from_secs(60);

/// A relay that checks nothing, and keeps what is no junk.
#[derive(Default)]
struct Relay {
    kept: Mutex<Vec<Event>>,
    readers: Mutex<HashMap<u64, Reader>>,
    next: AtomicU64,
    /// Gift wraps published to it, by receiver.
    wraps: Mutex<HashMap<String, u64>>,
}

#[derive(Clone)]
struct Reader {
    out: mpsc::Sender<Message>,
    subscriptions: Arc<Mutex<HashMap<String, Filter>>>,
}

impl Relay {
    async fn start() -> (Arc<Self>, String) {
        let relay = Arc::new(Self::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let shared = relay.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(shared.clone().serve(stream));
            }
        });
        (relay, url)
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let Ok(socket) = tokio_tungstenite::accept_async(stream).await else {
            return;
        };
        let (mut sink, mut stream) = socket.split();
        let (out, mut outgoing) = mpsc::channel(256);
        tokio::spawn(async move {
            while let Some(message) = outgoing.recv().await {
                if sink.send(message).await.is_err() {
                    return;
                }
            }
        });
        let reader = Reader {
            out,
            subscriptions: Arc::default(),
        };
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.readers.lock().unwrap().insert(id, reader.clone());
        while let Some(Ok(message)) = stream.next().await {
            if let Message::Text(text) = message
                && let Ok(message) = ClientMessage::from_json(text.as_str())
            {
                self.take(&reader, message).await;
            }
        }
        self.readers.lock().unwrap().remove(&id);
    }

    async fn take(&self, reader: &Reader, message: ClientMessage<'_>) {
        match message {
            ClientMessage::Event(event) => {
                let event = event.into_owned();
                let ok = format!("[\"OK\",\"{}\",true,\"\"]", event.id);
                let _ = reader.out.send(Message::text(ok)).await;
                if event.kind == Kind::GiftWrap {
                    let to = event.tags.public_keys().next().map(|key| key.to_hex());
                    let mut wraps = self.wraps.lock().unwrap();
                    *wraps.entry(to.unwrap_or_default()).or_default() += 1;
                }
                self.push(&event, &event.as_json()).await;
                self.kept.lock().unwrap().push(event);
            }
            ClientMessage::Req {
                subscription_id,
                filters,
            } => {
                let filter = filters[0].clone().into_owned();
                let id = subscription_id.to_string();
                let stored = self.matching(&filter);
                let mut subscriptions = reader.subscriptions.lock().unwrap().clone();
                subscriptions.insert(id.clone(), filter);
                *reader.subscriptions.lock().unwrap() = subscriptions;
                for event in stored {
                    let text = format!("[\"EVENT\",\"{id}\",{}]", event.as_json());
                    let _ = reader.out.send(Message::text(text)).await;
                }
                let eose = format!("[\"EOSE\",\"{id}\"]");
                let _ = reader.out.send(Message::text(eose)).await;
            }
            ClientMessage::Close(id) => {
                reader.subscriptions.lock().unwrap().remove(&id.to_string());
            }
            _ => {}
        }
    }

    fn matching(&self, filter: &Filter) -> Vec<Event> {
        let kept = self.kept.lock().unwrap();
        let fits = |event: &&Event| filter.match_event(event, MatchEventOptions::new());
        let mut found: Vec<Event> = kept.iter().filter(fits).cloned().collect();
        found.sort_by_key(|event| std::cmp::Reverse(event.created_at));
        found.truncate(filter.limit.unwrap_or(500));
        found
    }

    /// Hands an event to all who read such; `shape` is what filters look at.
    async fn push(&self, shape: &Event, text: &str) {
        let readers: Vec<Reader> = self.readers.lock().unwrap().values().cloned().collect();
        for reader in readers {
            let all = reader.subscriptions.lock().unwrap().clone();
            for (id, filter) in all {
                if filter.match_event(shape, MatchEventOptions::new()) {
                    let text = format!("[\"EVENT\",\"{id}\",{text}]");
                    let _ = reader.out.send(Message::text(text)).await;
                }
            }
        }
    }
}

/// Junk, ready to be sent.
fn junk(n: u32, to: &PublicKey) -> String {
    let keys = Keys::generate();
    let undecryptable = |bytes: usize| {
        let text: String = (0..bytes)
            .map(|_| char::from(rand::random_range(b'a'..=b'z')))
            .collect();
        EventBuilder::new(Kind::GiftWrap, text)
            .tag(Tag::public_key(key_to(to)))
            .sign_with_keys(&keys)
            .unwrap()
    };
    let said = |ask: String| {
        let expires = now().plus_secs(3600);
        wrap(&keys, to, &ask, now(), expires).unwrap().0.as_json()
    };
    let request = |ask: Ask| serde_json::to_string(&Request::new(new_id(), ask)).unwrap();
    match n % 10 {
        0 | 1 => {
            let mut event = undecryptable(600);
            event.sig = undecryptable(10).sig;
            event.as_json()
        }
        2..=4 => undecryptable(600).as_json(),
        7 => said(format!("{{\"garbage\":{n}}}")),
        8 => said(request(Ask::List)),
        _ => said(request(spawn("cashuBgarbage".to_owned()))),
    }
}

/// Large junk, made when it is sent: too large to be read, or just not.
fn large(n: u32, to: &PublicKey) -> String {
    let bytes = if n % 10 == 5 { 140_000 } else { 60_000 };
    EventBuilder::new(Kind::GiftWrap, format!("{n}{}", "x".repeat(bytes)))
        .tag(Tag::public_key(key_to(to)))
        .sign_with_keys(&Keys::generate())
        .unwrap()
        .as_json()
}

fn new_id() -> RequestId {
    RequestId::new(uuid::Uuid::new_v4())
}

fn spawn(token: String) -> Ask {
    Ask::Spawn(Spawn {
        wanted: Wanted {
            ssh_keys: vec![SSH_KEY.to_owned()],
            ..Wanted::default()
        },
        token,
        invoice: None,
        quote_id: None,
    })
}

/// The daemon under test.
struct Daemon {
    child: Child,
    data: PathBuf,
    key: PublicKey,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn private(path: &Path, text: &str) {
    use std::io::Write;
    let mut options = std::fs::OpenOptions::new();
    let file = options.create_new(true).write(true).mode(0o600).open(path);
    writeln!(file.unwrap(), "{text}").unwrap();
}

impl Daemon {
    fn start(args: &Args, dir: &Path, relay: &str, mint: &str) -> Self {
        let keys = Keys::generate();
        private(&dir.join("nsec"), &keys.secret_key().to_bech32().unwrap());
        let words = bip39::Mnemonic::generate(12).unwrap();
        private(&dir.join("mnemonic"), &words.to_string());
        let config = json!({
            "hostname": "BoldAmberHeron",
            "data_dir": "data",
            "identity": { "nsec_file": "nsec" },
            "wallet": { "mnemonic_file": "mnemonic" },
            "relays": [relay],
            "mints": [{ "url": mint, "requests_per_minute": 6000 }],
            "tiers": [{
                "id": "small", "cpu_millicores": 250, "memory": "128MiB",
                "msat_per_second": 100, "min": "10s", "max": "1d",
            }],
            "capacity": { "cpu_millicores": 64000, "memory": "64GiB", "max_leases": 100 },
            "gateway": { "listen": "127.0.0.1:0", "public_host": "127.0.0.1" },
            "requests": { "pow_bits": args.pow_bits },
            "backend": { "kind": "fake" },
        });
        std::fs::write(dir.join("provider.json"), config.to_string()).unwrap();
        let beside = || {
            let me = std::env::current_exe().unwrap();
            me.parent().unwrap().parent().unwrap().join("satletd")
        };
        let program = args.satletd.clone().unwrap_or_else(beside);
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let child = Command::new(program)
            .args(["run", "--config"])
            .arg(dir.join("provider.json"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self {
            child,
            data: dir.join("data"),
            key: key_from(&keys.public_key()),
        }
    }

    /// A figure of /proc/pid/status, in kB.
    fn memory(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(path).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn ledger_kb(&self) -> u64 {
        std::fs::metadata(self.data.join("ledger.redb"))
            .unwrap()
            .len()
            / 1024
    }
}

/// Seconds of processor that a process has used.
fn cpu(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after = text.rsplit_once(')').unwrap().1;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

/// A customer who has never been here before.
struct Customer {
    keys: Keys,
    relays: Relays,
    urls: Vec<String>,
    replies: mpsc::Receiver<satlet::relay::Incoming>,
    _inbox: Inbox,
}

impl Customer {
    async fn start(url: &str) -> Self {
        let keys = Keys::generate();
        let urls = vec![url.to_owned()];
        let relays = Relays::start(keys.clone(), &urls, RelayOptions::default()).unwrap();
        let store = Arc::new(MemoryInbox::new());
        let options = InboxOptions::default();
        let (inbox, replies) = Inbox::start(&relays, keys.clone(), store, options);
        assert!(inbox.wait_ready(PATIENCE).await);
        Self {
            keys,
            relays,
            urls,
            replies,
            _inbox: inbox,
        }
    }

    /// Milliseconds from sending to the answer.
    async fn ask(&mut self, to: &PublicKey, ask: Ask, bits: u8) -> f64 {
        let id = new_id();
        let body = serde_json::to_string(&Request::new(id, ask)).unwrap();
        let expires = now().plus_secs(3600);
        let event =
            satlet::relay::wrap::wrap_with_work(&self.keys, to, &body, now(), expires, bits);
        let event = event.await.unwrap();
        let sent = Instant::now();
        let _ = self.relays.publish(&event, &self.urls).await;
        let answered = async {
            while let Some(message) = self.replies.recv().await {
                if let Ok(Reply::Reply(reply)) = serde_json::from_str(&message.body)
                    && reply.request_id == id
                {
                    if let Outcome::Error(error) = &reply.outcome {
                        panic!("refused: {error:?}");
                    }
                    return sent.elapsed().as_secs_f64() * 1000.0;
                }
            }
            panic!("the inbox ended")
        };
        tokio::time::timeout(PATIENCE, answered)
            .await
            .unwrap_or(f64::INFINITY)
    }
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let dir = tempfile::tempdir().unwrap();
    let mint = TestMint::start(MintOptions::default()).await.unwrap();
    let (relay, url) = Relay::start().await;
    let wallet = CdkWallet::open(WalletOptions {
        dir: dir.path().join("purse"),
        seed: rand::random(),
        mints: vec![WalletMint {
            url: mint.url().0,
            requests_per_minute: 6000,
        }],
        timeout: Duration::from_secs(30),
        allow_any_mint: false,
    });
    let wallet = wallet.await.unwrap();
    mint.fund(&wallet, 1000).await.unwrap();
    let mut tokens = Vec::new();
    for _ in 0..=args.paid {
        let ten = Msat::from_sat(10).unwrap();
        let sent = wallet.send(&mint.url(), &Unit::Sat, ten, false).await;
        tokens.push(sent.unwrap().token);
    }
    let mut daemon = Daemon::start(&args, dir.path(), &url, &mint.url().0);
    let to = daemon.key;

    let made = Instant::now();
    let halves = (0..2).map(|half| {
        std::thread::spawn(move || {
            let mine = (0..args.events).filter(|n| n % 2 == half && !matches!(n % 10, 5 | 6));
            mine.map(|n| (n, junk(n, &to))).collect::<Vec<_>>()
        })
    });
    let halves: Vec<_> = halves.collect();
    let mut prepared: HashMap<u32, String> = HashMap::new();
    for half in halves {
        prepared.extend(half.join().unwrap());
    }
    eprintln!("{} events made in {:?}", prepared.len(), made.elapsed());

    let mut owner = Customer::start(&url).await;
    let quiet_ms = owner.ask(&to, spawn(tokens.remove(0)), args.pow_bits).await;
    let mut customers = Vec::new();
    for _ in 0..args.paid {
        customers.push(Customer::start(&url).await);
    }
    let ours: Vec<String> = customers
        .iter()
        .chain([&owner])
        .map(|one| one.keys.public_key().to_hex())
        .collect();

    let (rss_before, ledger_before) = (daemon.memory("VmRSS"), daemon.ledger_kb());
    let (me, it) = (std::process::id(), daemon.child.id());
    let (my_cpu, its_cpu) = (cpu(me), cpu(it));
    let began = tokio::time::Instant::now();
    let step = Duration::from_secs(args.seconds) / args.events.max(1);
    let shape = EventBuilder::new(Kind::GiftWrap, "")
        .tag(Tag::public_key(key_to(&to)))
        .sign_with_keys(&Keys::generate())
        .unwrap();
    let (pushing, events) = (relay.clone(), args.events);
    let flood = tokio::spawn(async move {
        for n in 0..events {
            let text = prepared.remove(&n).unwrap_or_else(|| large(n, &to));
            pushing.push(&shape, &text).await;
            tokio::time::sleep_until(began + step * n).await;
        }
        began.elapsed()
    });
    let gap = Duration::from_secs(args.seconds) / (args.paid + 1);
    let (mut paid, mut status, mut rss_max) = (Vec::new(), Vec::new(), 0);
    let mut in_flood = 0;
    for (n, mut customer) in customers.into_iter().enumerate() {
        tokio::time::sleep_until(began + gap * (n as u32 + 1)).await;
        rss_max = rss_max.max(daemon.memory("VmRSS"));
        let token = tokens.remove(0);
        paid.push(customer.ask(&to, spawn(token), args.pow_bits).await);
        status.push(owner.ask(&to, Ask::List, args.pow_bits).await);
        in_flood += u32::from(!flood.is_finished());
    }
    let took = flood.await.unwrap();
    let (my_cpu, its_cpu) = (cpu(me) - my_cpu, cpu(it) - its_cpu);
    let after_ms = owner.ask(&to, Ask::List, args.pow_bits).await;
    let to_strangers: u64 = {
        let wraps = relay.wraps.lock().unwrap();
        let strangers = wraps
            .iter()
            .filter(|(key, _)| !ours.contains(key) && **key != to.to_hex());
        strangers.map(|(_, count)| count).sum()
    };
    let highest = |all: &[f64]| all.iter().copied().fold(0.0, f64::max);
    let alive = daemon.child.try_wait().unwrap().is_none();
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    let died = log.matches("died").count() + log.matches("panicked").count();
    println!(
        "{}",
        json!({
            "events": args.events,
            "seconds": took.as_secs_f64(),
            "pow_bits": args.pow_bits,
            "served_in_the_flood": in_flood, "paid_ms": paid, "paid_max_ms": highest(&paid), "paid_quiet_ms": quiet_ms,
            "list_max_ms": highest(&status), "list_after_ms": after_ms,
            "rss_before_kb": rss_before,
            "rss_max_kb": rss_max.max(daemon.memory("VmHWM")),
            "rss_after_kb": daemon.memory("VmRSS"),
            "ledger_before_kb": ledger_before, "ledger_after_kb": daemon.ledger_kb(),
            "replies_to_strangers": to_strangers,
            "daemon_cpu_s": its_cpu, "generator_cpu_s": my_cpu,
            "generator_share": my_cpu / (my_cpu + its_cpu),
            "alive": alive, "tasks_died": died,
        })
    );
}
