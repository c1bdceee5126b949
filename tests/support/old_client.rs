//! A client of the dialect in use, as such clients behave: one connection for
//! each command, NIP-04, the request first and then the subscription, the first
//! message of the provider that decrypts is the reply. It knows nothing of
//! satlet's own types.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use nostr_sdk::nips::nip04;
use nostr_sdk::{
    Client, Event, EventBuilder, Filter, Keys, Kind, PublicKey, RelayPoolNotification, Tag,
    Timestamp,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use super::openssh::finish;

/// Somebody with a key and a list of relays.
pub(crate) struct OldClient {
    pub(crate) keys: Keys,
    relays: Vec<String>,
    /// How far its clock is ahead, in seconds.
    pub(crate) ahead: u64,
}

impl OldClient {
    pub(crate) fn new(relays: Vec<String>) -> Self {
        Self {
            keys: Keys::generate(),
            relays,
            ahead: 0,
        }
    }

    fn clock(&self) -> Timestamp {
        Timestamp::now() + self.ahead
    }

    async fn connect(&self) -> Client {
        let client = Client::new(self.keys.clone());
        for relay in &self.relays {
            client.add_relay(relay).await.unwrap();
        }
        client.connect().await;
        client.wait_for_connection(Duration::from_secs(30)).await;
        client
    }

    /// The only provider there is, by its offer, once it is online by its
    /// heartbeat.
    pub(crate) async fn discover(&self) -> PublicKey {
        let client = self.connect().await;
        let offers = Filter::new()
            .kind(Kind::from_u16(38383))
            .hashtag("paygress");
        let deadline = tokio::time::Instant::now() + super::world::LONG;
        loop {
            let wait = Duration::from_secs(5);
            let found = client.fetch_events(offers.clone(), wait).await.unwrap();
            for offer in found {
                let body: Value = serde_json::from_str(&offer.content).unwrap();
                let named = body["provider_npub"].as_str().unwrap();
                assert_eq!(named, offer.pubkey.to_hex());
                let beats = Filter::new()
                    .kind(Kind::from_u16(38384))
                    .author(offer.pubkey)
                    .since(Timestamp::now() - 300);
                let beats = client.fetch_events(beats, wait).await.unwrap();
                let fresh = |beat: &Event| {
                    let body: Value = serde_json::from_str(&beat.content).unwrap();
                    let at = body["timestamp"].as_u64().unwrap();
                    body["provider_npub"] == named
                        && Timestamp::now().as_secs().saturating_sub(at) < 120
                };
                if beats.iter().any(fresh) {
                    client.shutdown().await;
                    return offer.pubkey;
                }
            }
            assert!(tokio::time::Instant::now() < deadline, "nobody is online");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// One command: a request, and the first message that is taken for its
    /// reply; `None` after `patience`.
    pub(crate) async fn ask(
        &self,
        provider: &PublicKey,
        body: &Value,
        patience: Duration,
    ) -> Option<Value> {
        let client = self.connect().await;
        let mine = self.keys.secret_key();
        let text = nip04::encrypt(mine, provider, body.to_string()).unwrap();
        let request = EventBuilder::new(Kind::EncryptedDirectMessage, text)
            .tags([Tag::public_key(*provider), Tag::alt("Private Message")])
            .custom_created_at(self.clock())
            .sign_with_keys(&self.keys)
            .unwrap();
        client.send_event(&request).await.unwrap();
        let mut heard = client.notifications();
        let filter = Filter::new()
            .kinds([Kind::EncryptedDirectMessage, Kind::GiftWrap])
            .pubkey(self.keys.public_key())
            .since(self.clock() - 60);
        client.subscribe(filter, None).await.unwrap();
        let listening = async {
            loop {
                let RelayPoolNotification::Event { event, .. } = heard.recv().await.unwrap() else {
                    continue;
                };
                let expired = event.is_expired_at(&self.clock());
                if event.pubkey != *provider || expired {
                    continue;
                }
                if let Ok(text) = nip04::decrypt(mine, provider, &event.content) {
                    return serde_json::from_str(&text).unwrap();
                }
            }
        };
        let reply = tokio::time::timeout(patience, listening).await.ok();
        client.shutdown().await;
        reply
    }
}

/// The stock OpenSSH client with a password, and no key.
pub(crate) struct PasswordSsh {
    dir: TempDir,
}

impl PasswordSsh {
    pub(crate) fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let this = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        std::fs::write(this.asker(), "#!/bin/sh\nprintf '%s\\n' \"$PASSWORD\"\n").unwrap();
        let mode = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(this.asker(), mode).unwrap();
        this
    }

    fn asker(&self) -> PathBuf {
        self.dir.path().join("askpass")
    }

    /// Runs a line as `root` behind `port`.
    pub(crate) async fn run(&self, port: u64, password: &str, line: &str) -> Output {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "/dev/null"]);
        for option in [
            "IdentityFile=none",
            "IdentityAgent=none",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "GlobalKnownHostsFile=/dev/null",
            "NumberOfPasswordPrompts=1",
            "LogLevel=ERROR",
        ] {
            ssh.args(["-o", option]);
        }
        ssh.args(["-p", &port.to_string(), "root@127.0.0.1", line])
            .env("SSH_ASKPASS", self.asker())
            .env("SSH_ASKPASS_REQUIRE", "force")
            .env("DISPLAY", ":0")
            .env("PASSWORD", password)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        finish(ssh).await
    }
}
