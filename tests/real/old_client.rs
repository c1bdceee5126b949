//! The old-style client of `tests/clients/` behaves as the command line that is
//! in use does, traps included: what a provider has to live with.

use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use nostr_sdk::nips::nip04;
use nostr_sdk::{
    Client, Event, EventBuilder, Filter, Keys, Kind, RelayPoolNotification, Tag, Timestamp,
};
use russh::keys::PrivateKey;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::server::{Auth, ChannelOpenHandle, Msg, Session};
use russh::{Channel, ChannelId};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::clients::Clients;
use crate::support::openssh::{by_password, missing, out};
use crate::support::world::{LONG, World, one_document, until};

/// A provider that answers each request of the dialect in use with the same
/// reply of its kind, and nothing else.
struct Provider {
    keys: Keys,
    client: Client,
    task: JoinHandle<Vec<(Event, Value)>>,
}

impl Provider {
    /// One that answers so many requests; its replies expire after so many
    /// seconds, if at all.
    async fn start(world: &World, answers: usize, expire: Option<u64>) -> Self {
        let keys = Keys::generate();
        let client = Client::new(keys.clone());
        for url in world.urls() {
            client.add_relay(url).await.unwrap();
        }
        client.connect().await;
        client.wait_for_connection(LONG).await;
        let to_me = Filter::new()
            .kind(Kind::EncryptedDirectMessage)
            .pubkey(keys.public_key());
        client.subscribe(to_me, None).await.unwrap();
        let task = tokio::spawn(serve(client.clone(), keys.clone(), answers, expire));
        let this = Self { keys, client, task };
        this.publish(world).await;
        this
    }

    fn hex(&self) -> String {
        self.keys.public_key().to_hex()
    }

    async fn publish(&self, world: &World) {
        let key = self.hex();
        let offer = json!({
            "provider_npub": key, "hostname": "OldGreyHeron", "location": null,
            "capabilities": ["docker"], "uptime_percent": 100.0, "total_jobs_completed": 0,
            "specs": [{
                "id": "basic", "name": "Basic", "description": "1 vCPU",
                "cpu_millicores": 1000, "memory_mb": 1024, "rate_msats_per_sec": 50,
            }],
            "whitelisted_mints": [format!("{}/", world.mint.url().0.to_uppercase())],
            "api_endpoint": null,
        });
        let now = Timestamp::now().as_secs();
        let beat = json!({
            "provider_npub": key, "timestamp": now, "active_workloads": 0,
            "available_capacity": {
                "cpu_available": 1, "memory_mb_available": 1, "storage_gb_available": 1,
            },
        });
        for (kind, body, tags) in [
            (
                38383,
                offer,
                [["t", "paygress"], ["d", "paygress:offer:v1"]],
            ),
            (38384, beat, [["t", "paygress-heartbeat"], ["d", "now"]]),
        ] {
            let tags = tags.map(|tag| Tag::parse(tag).unwrap());
            let event = EventBuilder::new(Kind::from(kind), body.to_string()).tags(tags);
            self.client.send_event_builder(event).await.unwrap();
        }
    }

    /// All requests, once it has answered as many as it should.
    async fn requests(self) -> Vec<(Event, Value)> {
        let done = tokio::time::timeout(LONG, self.task).await;
        done.expect("it answers all").unwrap()
    }
}

async fn serve(
    client: Client,
    keys: Keys,
    answers: usize,
    expire: Option<u64>,
) -> Vec<(Event, Value)> {
    let mut came = Vec::new();
    let mut notifications = client.notifications();
    while came.len() < answers {
        let Ok(RelayPoolNotification::Event { event, .. }) = notifications.recv().await else {
            continue;
        };
        let text = nip04::decrypt(keys.secret_key(), &event.pubkey, &event.content).unwrap();
        let request: Value = serde_json::from_str(&text).unwrap();
        let reply = reply_to(&request).to_string();
        let reply = nip04::encrypt(keys.secret_key(), &event.pubkey, reply).unwrap();
        let mut tags = vec![Tag::public_key(event.pubkey)];
        tags.extend(expire.map(|seconds| Tag::expiration(Timestamp::now() + seconds)));
        let reply = EventBuilder::new(Kind::EncryptedDirectMessage, reply).tags(tags);
        client.send_event_builder(reply).await.unwrap();
        came.push((*event, request));
    }
    came
}

fn reply_to(request: &Value) -> Value {
    if request["pod_image"].is_string() {
        json!({
            "pod_npub": "container-7", "node_port": 31007,
            "expires_at": "2026-09-21T14:13:20+00:00", "cpu_millicores": 1000,
            "memory_mb": 1024, "pod_spec_name": "Basic", "pod_spec_description": "1 vCPU",
            "instructions": ["Ready"],
        })
    } else if request["cashu_token"].is_string() {
        json!({ "error_type": "not_found", "message": "none", "details": null })
    } else {
        json!({
            "pod_id": "7", "status": "Running", "expires_at": "2026-09-21T14:13:20+00:00",
            "time_remaining_seconds": 8, "cpu_millicores": 1000, "memory_mb": 1024,
            "ssh_host": "127.0.0.1", "ssh_port": 31007, "ssh_username": "root",
        })
    }
}

fn one_json(output: &Output, code: i32) -> Value {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    one_document(output)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_takes_the_first_reply_that_has_not_expired() {
    let clients = match Clients::find() {
        Ok(clients) => clients,
        Err(why) => skip!("{why}"),
    };
    let world = World::start(1).await;
    let token = world.purse(10).await.token(5).await;
    let me = Keys::generate();
    let secret = me.secret_key().to_secret_hex();
    let relay = &world.urls()[0];

    // Without an expiration an earlier reply is taken for one that is to come.
    let provider = Provider::start(&world, 1, None).await;
    let key = provider.hex();
    let spawn = [relay, "spawn", "oldgreyheron", &token, "basic"];
    let sold = one_json(&clients.paygress(&secret, &spawn).await, 0);
    assert_eq!(sold["pod_npub"], "container-7", "{sold}");
    let status = [relay, "status", &key, "container-7"];
    let stale = one_json(&clients.paygress(&secret, &status).await, 3);
    assert_eq!(stale, sold);
    let came = provider.requests().await;
    let (event, request) = &came[0];
    assert_eq!(event.pubkey, me.public_key());
    let alt = event.tags.iter().map(|tag| tag.as_slice());
    assert!(alt.into_iter().any(|tag| tag == ["alt", "Private Message"]));
    assert_eq!(request["cashu_token"], token.as_str());
    assert_eq!(request["pod_spec_id"], "basic");
    assert!(
        request["ssh_password"].as_str().unwrap().len() == 16,
        "{request}"
    );

    // With one, it is not, once it is over.
    let provider = Provider::start(&world, 2, Some(2)).await;
    let key = provider.hex();
    let topup = [relay, "topup", &key, "container-7", &token];
    let refused = one_json(&clients.paygress(&secret, &topup).await, 2);
    assert_eq!(refused["error_type"], "not_found", "{refused}");
    let over = Timestamp::now() + Duration::from_secs(3);
    until("the reply is over", || Timestamp::now() > over).await;
    let status = [relay, "status", &key, "container-7"];
    let status = one_json(&clients.paygress(&secret, &status).await, 0);
    assert_eq!(status["status"], "Running", "{status}");
    let came = provider.requests().await;
    let expected = json!({ "pod_npub": "container-7", "cashu_token": token });
    assert_eq!(came[0].1, expected);
    assert_eq!(came[1].1, json!({ "pod_id": "container-7" }));

    // What the provider does not sell is not even asked for.
    let refused = [relay, "spawn", "oldgreyheron", &token, "huge"];
    one_json(&clients.paygress(&secret, &refused).await, 1);
}

/// An SSH server that one password opens, and that answers every command.
struct OnePassword;

impl russh::server::Handler for OnePassword {
    type Error = russh::Error;

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, russh::Error> {
        match (user, password) {
            ("root", "pass word$") => Ok(Auth::Accept),
            _ => Ok(Auth::reject()),
        }
    }

    async fn channel_open_session(
        &mut self,
        _channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), russh::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        session.channel_success(channel)?;
        session.data(channel, data.to_vec())?;
        session.exit_status_request(channel, 3)?;
        session.close(channel)
    }
}

/// Stock ssh logs in with the password of a reply, and with no other.
#[tokio::test(flavor = "multi_thread")]
async fn stock_ssh_logs_in_with_a_password() {
    if let Some(tool) = missing(&["ssh"]) {
        skip!("{tool} (OpenSSH client) is not installed");
    }
    let key = PrivateKey::from(Ed25519Keypair::from_seed(&rand::random()));
    let config = Arc::new(russh::server::Config {
        keys: vec![key],
        auth_rejection_time: Duration::ZERO,
        ..Default::default()
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = u64::from(listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let running = russh::server::run_stream(config.clone(), stream, OnePassword);
            tokio::spawn(async move { running.await?.await });
        }
    });
    let login =
        async |password: &str| by_password("127.0.0.1", port, "root", password, "a line").await;
    let ran = login("pass word$").await;
    assert_eq!(
        (ran.status.code(), out(&ran).as_str()),
        (Some(3), "a line"),
        "{ran:?}"
    );
    let refused = login("another").await;
    assert_eq!(refused.status.code(), Some(255), "{refused:?}");
}
