//! Sessions, inbox and outbox against relays in this process, good and bad.

mod fakes;
mod inbox;
mod outbox;
mod session;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use nostr_sdk::nips::nip44;
use nostr_sdk::{Event, EventBuilder, JsonUtil, Keys, Kind, Tag, Timestamp, UnsignedEvent};
use satlet::core::ids::PublicKey;
use satlet::relay::convert::{key_from, now};
use satlet::relay::inbox::{Inbox, InboxOptions};
use satlet::relay::session::{RelayOptions, Relays};
use satlet::relay::{Ack, InboxStore, Incoming};
use tokio::sync::mpsc;

pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) fn quick() -> RelayOptions {
    RelayOptions {
        connect_timeout: Duration::from_millis(1500),
        answer_timeout: Duration::from_secs(3),
        backoff_min: Duration::from_millis(50),
        backoff_max: Duration::from_millis(400),
        stable_after: Duration::from_millis(500),
        laggard: Duration::from_millis(300),
        private_on_demand: true,
        ..RelayOptions::default()
    }
}

pub(crate) fn quick_inbox() -> InboxOptions {
    InboxOptions {
        page_timeout: Duration::from_secs(2),
        advance_every: Duration::from_millis(50),
        retry: Duration::from_millis(20),
        ..InboxOptions::default()
    }
}

pub(crate) fn hex(keys: &Keys) -> PublicKey {
    key_from(&keys.public_key())
}

pub(crate) fn relays(keys: &Keys, urls: &[String]) -> Relays {
    Relays::start(keys.clone(), urls, quick()).unwrap()
}

pub(crate) fn inbox(
    relays: &Relays,
    keys: &Keys,
    store: &Arc<impl InboxStore + 'static>,
) -> (Inbox, mpsc::Receiver<Incoming>) {
    Inbox::start(relays, keys.clone(), store.clone(), quick_inbox())
}

/// A gift wrap whose layers bear the stamps and authors that the test says.
pub(crate) struct Craft<'a> {
    pub(crate) author: &'a Keys,
    pub(crate) signer: &'a Keys,
    pub(crate) to: &'a Keys,
    pub(crate) body: String,
    pub(crate) stamp: Timestamp,
}

impl Craft<'_> {
    pub(crate) fn event(&self) -> Event {
        let to = self.to.public_key();
        let tags = [Tag::public_key(to)];
        let kind = Kind::PrivateDirectMessage;
        let rumor = UnsignedEvent::new(
            self.author.public_key(),
            Timestamp::from_secs(1_790_000_000),
            kind,
            tags,
            self.body.clone(),
        );
        let seal = |keys: &Keys, text: String| {
            nip44::encrypt(keys.secret_key(), &to, text, nip44::Version::V2).unwrap()
        };
        let seal_event = EventBuilder::new(Kind::Seal, seal(self.signer, rumor.as_json()))
            .custom_created_at(self.stamp)
            .sign_with_keys(self.signer)
            .unwrap();
        let one_time = Keys::generate();
        EventBuilder::new(Kind::GiftWrap, seal(&one_time, seal_event.as_json()))
            .tag(Tag::public_key(to))
            .custom_created_at(self.stamp)
            .sign_with_keys(&one_time)
            .unwrap()
    }
}

/// A wrap with back-dated stamps, as anybody would send it.
pub(crate) fn message(from: &Keys, to: &Keys, body: &str) -> Event {
    let expires = now().plus_secs(600);
    satlet::relay::wrap::wrap(from, &hex(to), body, now(), expires)
        .unwrap()
        .0
}

pub(crate) async fn send(relays: &Relays, event: &Event, to: &[String]) {
    for (relay, ack) in relays.publish(event, to).await {
        assert_eq!(ack, Ack::Accepted, "{relay}");
    }
}

pub(crate) async fn next(messages: &mut mpsc::Receiver<Incoming>) -> Incoming {
    tokio::time::timeout(SOON, messages.recv())
        .await
        .expect("a message in time")
        .expect("the inbox lives")
}

/// Asserts that nothing more comes, with all relays caught up.
pub(crate) async fn nothing_more(messages: &mut mpsc::Receiver<Incoming>) {
    let more = tokio::time::timeout(Duration::from_millis(300), messages.recv()).await;
    assert!(more.is_err(), "unexpected: {more:?}");
}

/// Waits until the condition holds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, wait).await.expect(what);
}
