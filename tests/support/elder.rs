//! A provider of the older kind, by what is known of how those behave: it hears
//! only what comes while it listens, does one thing at a time, takes the money
//! before it looks at what is wanted, and names no request in its replies.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nostr_sdk::nips::nip04;
use nostr_sdk::{
    Client, Event, EventBuilder, Filter, JsonUtil, Keys, Kind, RelayPoolNotification, Tag, TagKind,
    Timestamp,
};
use satlet::relay::convert::{key_from, now};
use satlet::relay::wrap;
use satlet::wallet::cdk_wallet::{CdkWallet, WalletMint, WalletOptions};
use satlet::wallet::{Unit, Wallet};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::world::LONG;

/// Price of both tiers, in msat per second.
pub(crate) const RATE: u64 = 50;

/// How it (mis)behaves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manner {
    /// Its clock differs by so many seconds.
    pub(crate) clock: i64,
    /// It hears nothing.
    pub(crate) deaf: bool,
    /// It does its work and says nothing.
    pub(crate) mute: bool,
    /// It takes the money and then fails with this type of error.
    pub(crate) fails: Option<&'static str>,
    /// It refuses with this type of error and takes nothing.
    pub(crate) refuses: Option<&'static str>,
    /// It makes up for a failure: a token in `details`.
    pub(crate) refunds: bool,
    /// It says other things before its reply, and so does somebody else.
    pub(crate) chatters: bool,
    /// It says everything twice.
    pub(crate) repeats: bool,
    /// It answers in gift wraps.
    pub(crate) wraps: bool,
    /// It makes its own passwords.
    pub(crate) own_password: Option<String>,
    /// It gives half of the memory.
    pub(crate) cheats: bool,
    /// Where its boxes are entered.
    pub(crate) ssh: Option<(String, u16)>,
}

#[derive(Clone, Debug)]
struct Workload {
    owner: String,
    expires: i64,
    password: String,
}

#[derive(Default)]
struct State {
    manner: Manner,
    workloads: BTreeMap<u32, Workload>,
    requests: Vec<(String, Value)>,
    spoken: Vec<Event>,
    beating: Option<tokio::task::AbortHandle>,
}

/// Such a provider, on one relay.
pub(crate) struct Elder {
    work: Arc<Work>,
    task: JoinHandle<()>,
    _dir: TempDir,
}

struct Work {
    keys: Keys,
    client: Client,
    wallet: CdkWallet,
    mint: String,
    state: Mutex<State>,
}

impl Drop for Elder {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(beating) = self.work.state().beating.take() {
            beating.abort();
        }
    }
}

impl Elder {
    /// Starts to listen at this relay; takes money of this mint.
    pub(crate) async fn start(relay: &str, mint: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let wallet = CdkWallet::open(WalletOptions {
            dir: dir.path().to_owned(),
            seed: rand::random(),
            mints: vec![WalletMint {
                url: mint.to_owned(),
                requests_per_minute: 6000,
            }],
            timeout: Duration::from_secs(30),
            allow_any_mint: false,
        });
        let keys = Keys::generate();
        let client = Client::builder().signer(keys.clone()).build();
        client.add_relay(relay).await.unwrap();
        client.connect().await;
        client.wait_for_connection(LONG).await;
        let mut said = client.notifications();
        for kind in [Kind::EncryptedDirectMessage, Kind::GiftWrap] {
            // Live events only.
            let filter = Filter::new().kind(kind).pubkey(keys.public_key()).limit(0);
            client.subscribe(filter, None).await.unwrap();
        }
        let work = Arc::new(Work {
            keys,
            client,
            wallet: wallet.await.unwrap(),
            mint: mint.to_owned(),
            state: Mutex::default(),
        });
        let working = work.clone();
        let task = tokio::spawn(async move {
            while let Ok(heard) = said.recv().await {
                if let RelayPoolNotification::Event { event, .. } = heard {
                    working.hear(&event).await;
                }
            }
        });
        Self {
            work,
            task,
            _dir: dir,
        }
    }

    /// Changes how it behaves from now on.
    pub(crate) fn behave(&self, manner: Manner) {
        self.work.state().manner = manner;
    }

    /// Publishes its offer, once, and a heartbeat.
    pub(crate) async fn offer(&self, name: &str) {
        let hex = self.work.keys.public_key().to_hex();
        let spec = |id: &str, memory: u64| {
            json!({"id": id, "name": id, "description": "1 vCPU", "cpu_millicores": 1000,
                   "memory_mb": memory, "rate_msats_per_sec": RATE})
        };
        let offer = json!({
            "provider_npub": hex, "hostname": name, "location": "Lisbon",
            "capabilities": ["docker"], "specs": [spec("basic", 1024), spec("Big Box", 4096)],
            "whitelisted_mints": [self.work.mint], "uptime_percent": 100.0,
            "total_jobs_completed": 12, "api_endpoint": null, "version": 1,
            "isolation_level": "shared-kernel",
        });
        let d = format!("paygress:offer:v1:{hex}");
        let tags = [["t", "paygress"], ["t", "compute"], ["d", &d], ["v", "1"]];
        self.work.publish(38383, &tags, &offer).await;
        self.work.beat().await;
        let work = self.work.clone();
        let beating = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(30)).await;
                work.beat().await;
            }
        });
        self.work.state().beating = Some(beating.abort_handle());
    }

    /// Requests that were heard: the sender's key and the text.
    pub(crate) fn heard(&self) -> Vec<(String, Value)> {
        self.work.state().requests.clone()
    }

    /// The password of its only workload.
    pub(crate) fn password(&self) -> String {
        let state = self.work.state();
        state.workloads.values().next().unwrap().password.clone()
    }

    /// Puts all that it has said on the relay again, as the same events.
    pub(crate) async fn say_it_all_again(&self) {
        let spoken = self.work.state().spoken.clone();
        for event in spoken {
            let _ = self.work.client.send_event(&event).await;
        }
    }

    /// All of its money, in msat.
    pub(crate) async fn earned(&self) -> u64 {
        let balances = self.work.wallet.balances().await.unwrap();
        balances.values().map(|msat| msat.get()).sum()
    }
}

impl Work {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn manner(&self) -> Manner {
        self.state().manner.clone()
    }

    fn now(&self) -> i64 {
        i64::try_from(now().as_secs()).unwrap() + self.manner().clock
    }

    async fn beat(&self) {
        let hex = self.keys.public_key().to_hex();
        let at = self.now();
        let beat = json!({
            "provider_npub": hex, "timestamp": at, "active_workloads": 0,
            "available_capacity": {"cpu_available": 6000, "memory_mb_available": 12288,
                                   "storage_gb_available": 310},
            "version": 1,
        });
        let d = format!("paygress:heartbeat:v1:{hex}:{}", at / 60);
        let tags = [
            ["t", "paygress-heartbeat"],
            ["p", &hex],
            ["d", &d],
            ["v", "1"],
        ];
        self.publish(38384, &tags, &beat).await;
    }

    async fn publish(&self, kind: u16, tags: &[[&str; 2]], body: &Value) {
        let at = u64::try_from(self.now()).unwrap();
        let event = EventBuilder::new(Kind::from_u16(kind), body.to_string())
            .tags(tags.iter().map(|tag| Tag::parse(tag.to_vec()).unwrap()))
            .allow_self_tagging()
            .custom_created_at(Timestamp::from_secs(at))
            .sign_with_keys(&self.keys)
            .unwrap();
        let sent = self.client.send_event(&event).await.unwrap();
        assert!(!sent.success.is_empty(), "{sent:?}");
    }

    async fn hear(&self, event: &Event) {
        let manner = self.manner();
        if manner.deaf || event.kind != Kind::EncryptedDirectMessage {
            return;
        }
        let me = self.keys.secret_key();
        let Ok(text) = nip04::decrypt(me, &event.pubkey, &event.content) else {
            return;
        };
        let body: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        let sender = event.pubkey.to_hex();
        self.state().requests.push((sender.clone(), body.clone()));
        let reply = self.act(&sender, &body, &manner).await;
        if manner.chatters {
            self.chatter(&event.pubkey).await;
        }
        if !manner.mute {
            self.say(&event.pubkey, &reply, &manner).await;
        }
    }

    /// Spawn, then top-up, then status: the first whose fields are all there.
    async fn act(&self, sender: &str, body: &Value, manner: &Manner) -> Value {
        let has = |fields: &[&str]| fields.iter().all(|field| body[field].is_string());
        if has(&["cashu_token", "pod_image", "ssh_username", "ssh_password"]) {
            self.spawn(sender, body, manner).await
        } else if has(&["pod_npub", "cashu_token"]) {
            self.topup(sender, body, manner).await
        } else if has(&["pod_id"]) {
            self.status(sender, body, manner)
        } else {
            error("invalid_request", "no shape fits", None)
        }
    }

    /// Takes the money, in msat after the mint's fee.
    async fn redeem(&self, token: &str, manner: &Manner) -> Result<u64, Value> {
        if let Some(kind) = manner.refuses {
            return Err(error(kind, "not here", None));
        }
        let Ok(info) = self.wallet.inspect(token) else {
            return Err(error("invalid_token", "not a token", None));
        };
        let Ok(redeemed) = self.wallet.redeem(info.payment, token).await else {
            return Err(error("token_already_spent", "spent", None));
        };
        let Some(kind) = manner.fails else {
            return Ok(redeemed.net.get());
        };
        let mut details = None;
        if manner.refunds {
            let back = satlet::core::money::Msat::from_sat(redeemed.net.whole_sat() - 2).unwrap();
            let sent = self.wallet.send(&info.mint, &Unit::Sat, back, false);
            details = Some(format!("your money: {}.", sent.await.unwrap().token));
        }
        Err(error(kind, "it went wrong", details))
    }

    async fn spawn(&self, sender: &str, body: &Value, manner: &Manner) -> Value {
        let net = match self
            .redeem(body["cashu_token"].as_str().unwrap(), manner)
            .await
        {
            Ok(net) => net,
            Err(error) => return error,
        };
        let seconds = i64::try_from(net / RATE).unwrap();
        if seconds < 60 {
            return error("insufficient_payment", "Need 3000 msats for 60 s", None);
        }
        let (tier, memory) = match body["pod_spec_id"].as_str() {
            Some("Big Box") => ("Big Box", 4096),
            _ => ("basic", 1024),
        };
        let wanted = body["ssh_password"].as_str().unwrap().to_owned();
        let password = manner.own_password.clone().unwrap_or(wanted);
        let expires = self.now() + seconds;
        let vmid = {
            let mut state = self.state();
            let vmid = (1000..)
                .find(|id| !state.workloads.contains_key(id))
                .unwrap();
            let workload = Workload {
                owner: sender.to_owned(),
                expires,
                password: password.clone(),
            };
            state.workloads.insert(vmid, workload);
            vmid
        };
        let (host, port) = place(manner);
        json!({
            "pod_npub": format!("container-{vmid}"), "node_port": port,
            "expires_at": date(expires), "cpu_millicores": 1000,
            "memory_mb": if manner.cheats { memory / 2 } else { memory },
            "pod_spec_name": tier, "pod_spec_description": "1 vCPU",
            "instructions": ["Ready", "Username: root", format!("Password: {password}")],
            "host_address": host,
        })
    }

    async fn topup(&self, sender: &str, body: &Value, manner: &Manner) -> Value {
        let name = body["pod_npub"].as_str().unwrap();
        let id = name.trim_start_matches("container-").parse().unwrap_or(0);
        let known = self.state().workloads.get(&id).cloned();
        match known {
            None => return error("not_found", "no such workload", None),
            Some(one) if one.owner != sender => return error("not_owner", "not yours", None),
            Some(one) if one.expires < self.now() => return error("lease_expired", "over", None),
            Some(_) => {}
        }
        let net = match self
            .redeem(body["cashu_token"].as_str().unwrap(), manner)
            .await
        {
            Ok(net) => net,
            Err(error) => return error,
        };
        let seconds = net / RATE;
        let mut state = self.state();
        let workload = state.workloads.get_mut(&id).unwrap();
        workload.expires += i64::try_from(seconds).unwrap();
        json!({
            "success": true, "pod_npub": name, "extended_duration_seconds": seconds,
            "new_expires_at": date(workload.expires), "message": "extended",
        })
    }

    fn status(&self, sender: &str, body: &Value, manner: &Manner) -> Value {
        let name = body["pod_id"].as_str().unwrap();
        let now = self.now();
        let state = self.state();
        // No number: any workload of that owner; a number: whosever it is.
        let found = match name.parse::<u32>() {
            Ok(id) => state.workloads.get_key_value(&id),
            Err(_) => state
                .workloads
                .iter()
                .find(|(_, one)| one.owner == name || one.owner == sender),
        };
        let Some((id, workload)) = found else {
            return error("not_found", "no such workload", None);
        };
        let (host, port) = place(manner);
        let left = (workload.expires - now).max(0);
        json!({
            "pod_id": id.to_string(), "status": if left > 0 { "Running" } else { "Expired" },
            "expires_at": date(workload.expires), "time_remaining_seconds": left,
            "cpu_millicores": 1000, "memory_mb": 1024, "ssh_host": host, "ssh_port": port,
            "ssh_username": "root",
        })
    }

    /// What an eager client takes for the reply.
    async fn chatter(&self, to: &nostr_sdk::PublicKey) {
        let plain = Manner::default();
        let later = date(self.now() + 999_999);
        let access = json!({
            "pod_npub": "container-1999", "node_port": 2, "expires_at": later,
            "cpu_millicores": 1000, "memory_mb": 1024, "pod_spec_name": "x",
            "pod_spec_description": "x", "instructions": ["Password: stolenstolen"],
            "host_address": "203.0.113.66",
        });
        let mut slot = access.clone();
        slot["pod_npub"] = json!("standby-slot-7");
        slot["node_port"] = json!(0);
        for other in [
            json!("received, working on it"),
            json!({"hello": 1}),
            slot,
            json!({"success": true, "pod_npub": "container-1998", "message": "",
                   "extended_duration_seconds": 1, "new_expires_at": later}),
            json!({"pod_id": "1998", "status": "Running", "expires_at": later,
                   "time_remaining_seconds": 1, "cpu_millicores": 1, "memory_mb": 1,
                   "ssh_host": "203.0.113.66", "ssh_port": 2, "ssh_username": "root"}),
        ] {
            self.say(to, &other, &plain).await;
        }
        let stranger = Keys::generate();
        let event = letter(&stranger, to, &access, self.now());
        self.client.send_event(&event).await.unwrap();
        let no = error("backend_error", "no", None);
        let event = letter(&stranger, to, &no, self.now());
        self.client.send_event(&event).await.unwrap();
    }

    async fn say(&self, to: &nostr_sdk::PublicKey, body: &Value, manner: &Manner) {
        let event = if manner.wraps {
            let (to, text) = (key_from(to), body.to_string());
            let at = now();
            wrap::wrap(&self.keys, &to, &text, at, at.plus_secs(600))
                .unwrap()
                .0
        } else {
            letter(&self.keys, to, body, self.now())
        };
        self.send(&event).await;
        if manner.repeats {
            self.send(&letter(&self.keys, to, body, self.now() + 1))
                .await;
        }
    }

    async fn send(&self, event: &Event) {
        self.state().spoken.push(event.clone());
        let sent = self.client.send_event(event).await.unwrap();
        assert!(!sent.success.is_empty(), "{sent:?} {}", event.as_json());
    }
}

fn place(manner: &Manner) -> (String, u16) {
    let nowhere = || ("203.0.113.9".to_owned(), 31_007);
    manner.ssh.clone().unwrap_or_else(nowhere)
}

fn error(kind: &str, message: &str, details: Option<String>) -> Value {
    json!({"error_type": kind, "message": message, "details": details})
}

/// As it writes dates: with a numeric offset.
fn date(at: i64) -> String {
    chrono::DateTime::from_timestamp(at, 0)
        .unwrap()
        .to_rfc3339()
}

/// A kind 4 event as it writes them: without an expiration.
fn letter(keys: &Keys, to: &nostr_sdk::PublicKey, body: &Value, at: i64) -> Event {
    let text = match body {
        Value::String(text) => text.clone(),
        body => body.to_string(),
    };
    let text = nip04::encrypt(keys.secret_key(), to, text).unwrap();
    EventBuilder::new(Kind::EncryptedDirectMessage, text)
        .tags([
            Tag::public_key(*to),
            Tag::custom(TagKind::Alt, ["Private Message"]),
        ])
        .custom_created_at(Timestamp::from_secs(u64::try_from(at).unwrap()))
        .sign_with_keys(keys)
        .unwrap()
}
