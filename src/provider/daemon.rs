//! The provider, wired: opened in the order in which nothing can be lost, and
//! closed in the reverse.
//!
//! ```text
//! ledger -> wallet -> gateway -> lost leases -> relays -> outbox -> inbox -> leases
//!                                                    wallet in order -> mints -> offer
//! ```

use std::sync::Arc;
use std::time::Duration;

use nostr_sdk::Keys;
use tokio::sync::mpsc;

use super::actors;
use super::clock::{Clock, SystemClock};
use super::ctx::{Ctx, Parts};
use super::dispatch::Dispatcher;
use super::doors::LedgerDoors;
use super::lost;
use super::mints;
use super::offer;
use super::paygress;
use super::payouts;
use super::rates;
use super::refunds;
use super::settings::Settings;
use super::stores::Stores;
use super::strays;
use super::supervise::Supervisor;
use super::upkeep;
use crate::compute::SharedBackend;
use crate::gateway::{Gateway, GatewayError, HostKey};
use crate::ledger::{Ledger, LedgerError};
use crate::protocol::reply::Access;
use crate::relay::Incoming;
use crate::relay::inbox::{Inbox, InboxOptions};
use crate::relay::outbox::{Outbox, OutboxOptions};
use crate::relay::publisher::{Stamps, dm_relays_event, heartbeat_events, offer_event};
use crate::relay::session::{RelayError, RelayOptions, Relays};
use crate::wallet::cdk_wallet::{CdkWallet, WalletMint, WalletOptions};
use crate::wallet::{Wallet, WalletError};

/// File of the gateway's host key in the data directory.
pub const HOST_KEY: &str = "gateway_ed25519";
/// Directory of the wallet in the data directory.
pub const WALLET: &str = "wallet";

/// Changes that come together make one offer.
const SETTLE: Duration = Duration::from_millis(500);

/// Why the provider cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The ledger cannot be opened.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The wallet cannot be opened.
    #[error("the wallet: {0}")]
    Wallet(#[from] WalletError),
    /// The gateway cannot be started.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// A relay's URL is none.
    #[error(transparent)]
    Relay(#[from] RelayError),
}

/// What a provider is started with.
pub struct Setup {
    /// What the operator decided.
    pub settings: Settings,
    /// The provider's Nostr key.
    pub keys: Keys,
    /// The wallet's BIP-39 seed.
    pub seed: [u8; 64],
    /// What runs workloads.
    pub backend: SharedBackend,
    /// Times of relay sessions.
    pub relays: RelayOptions,
}

/// A running provider.
pub struct Provider {
    ctx: Arc<Ctx>,
    gateway: Arc<Gateway>,
    relays: Relays,
    outbox: Arc<Outbox>,
    inbox: Inbox,
    dispatcher: Arc<Dispatcher>,
    tasks: Supervisor,
}

impl Provider {
    /// Starts a provider on the system's clock, with a wallet on disk.
    ///
    /// # Errors
    /// What cannot be opened.
    pub async fn start(setup: Setup) -> Result<Self, StartError> {
        let ledger = Ledger::open(&setup.settings.data_dir)?;
        let wallet = open_wallet(&setup.settings, setup.seed).await?;
        know_tokens(&ledger, &*wallet);
        Self::assemble(setup, ledger, wallet, Arc::new(SystemClock)).await
    }

    /// Starts a provider of opened parts.
    ///
    /// # Errors
    /// What cannot be opened.
    pub async fn assemble(
        setup: Setup,
        ledger: Ledger,
        wallet: Arc<dyn Wallet>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let Setup {
            settings,
            keys,
            backend,
            relays,
            ..
        } = setup;
        let host_key = HostKey::load_or_create(&settings.data_dir.join(HOST_KEY))?;
        let doors = Arc::new(LateDoors::default());
        let ways = settings.gateway.clone();
        let gateway =
            Gateway::start(ways.listen, host_key, doors.clone(), ways.limits.clone()).await?;
        let access = Access {
            host: ways.public_host,
            port: ways.public_port.unwrap_or(gateway.local_addr().port()),
            user: String::new(),
            host_key: gateway.host_key_openssh(),
        };
        let urls = settings.relays.clone();
        let parts = Parts {
            settings,
            ledger,
            wallet,
            backend,
            clock,
            keys: keys.clone(),
            access,
            ports: Some(Arc::new(gateway.ports())),
        };
        let direct = parts.settings.paygress.is_some();
        let ctx = Ctx::new(parts);
        doors.set(LedgerDoors(Arc::clone(&ctx)));
        ctx.admission.set_owners(&ctx.ledger().held());
        // Before any lease has a task.
        let mints = ctx.settings().mints.iter();
        ctx.opening.begin(mints.map(|mint| mint.url.clone()));
        lost::at_start(&ctx).await;
        let relays = Relays::start(keys.clone(), &urls, relays)?;
        let stores = Arc::new(Stores::new(Arc::clone(&ctx)));
        let outbox = Outbox::start(
            &relays,
            keys.clone(),
            stores.clone(),
            OutboxOptions::default(),
        );
        // Who comes back to a lease of before finds its port again.
        paygress::ports::sync(&ctx).await?;
        let reading = InboxOptions {
            direct,
            pow_bits: Arc::clone(&ctx.pow_bits),
            ..InboxOptions::default()
        };
        let (inbox, messages) = Inbox::start(&relays, keys.clone(), stores, reading);
        let provider = Self {
            dispatcher: Arc::new(Dispatcher::new(Arc::clone(&ctx))),
            ctx,
            gateway: Arc::new(gateway),
            relays,
            outbox: Arc::new(outbox),
            inbox,
            tasks: Supervisor::default(),
        };
        provider.keep_tasks(messages, &keys);
        Ok(provider)
    }

    fn keep_tasks(&self, messages: mpsc::Receiver<Incoming>, keys: &Keys) {
        let ctx = &self.ctx;
        let shared = Arc::clone(ctx);
        self.tasks
            .keep("sweep", move || actors::sweep(Arc::clone(&shared)));
        if !ctx.settings().fiat.feeds.is_empty() {
            let shared = Arc::clone(ctx);
            self.tasks
                .keep("rates", move || rates::run(Arc::clone(&shared)));
        }
        let shared = Arc::clone(ctx);
        self.tasks
            .keep("upkeep", move || upkeep::run(Arc::clone(&shared)));
        let shared = Arc::clone(ctx);
        self.tasks
            .keep("mints", move || mints::run(Arc::clone(&shared)));
        let shared = Arc::clone(ctx);
        self.tasks
            .keep("refunds", move || refunds::run(Arc::clone(&shared)));
        let shared = Arc::clone(ctx);
        self.tasks
            .keep("payouts", move || payouts::run(Arc::clone(&shared)));
        let (shared, nudger) = (Arc::clone(ctx), self.outbox.nudger());
        self.tasks.keep("outbox bell", move || {
            let (ctx, nudger) = (Arc::clone(&shared), nudger.clone());
            async move {
                loop {
                    ctx.outbox.notified().await;
                    nudger.nudge();
                }
            }
        });
        let (shared, gateway) = (Arc::clone(ctx), Arc::clone(&self.gateway));
        self.tasks.keep("door closer", move || {
            close_doors(Arc::clone(&shared), gateway.clone())
        });
        let shared = Arc::clone(ctx);
        self.tasks.keep("lease ports", move || {
            paygress::ports::keep(Arc::clone(&shared))
        });
        let messages = Arc::new(tokio::sync::Mutex::new(messages));
        let dispatcher = Arc::clone(&self.dispatcher);
        self.tasks.keep("dispatcher", move || {
            let (messages, dispatcher) = (Arc::clone(&messages), Arc::clone(&dispatcher));
            // One run at a time holds the receiver; the next one takes it over.
            async move { dispatcher.run(&mut *messages.lock().await).await }
        });
        let publisher = Publisher {
            ctx: Arc::clone(ctx),
            relays: self.relays.clone(),
            keys: keys.clone(),
            stamps: Arc::new(Stamps::default()),
        };
        let beats = publisher.clone();
        self.tasks.keep("offer", move || publisher.clone().offers());
        self.tasks
            .keep("heartbeat", move || beats.clone().heartbeats());
    }

    /// What it is made of.
    pub fn ctx(&self) -> &Arc<Ctx> {
        &self.ctx
    }

    /// Its relays.
    pub fn relays(&self) -> &Relays {
        &self.relays
    }

    /// Its inbox.
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// Its gateway.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Ends the daemon and no workload: all of them are found again at the next
    /// start.
    pub async fn shutdown(self) {
        self.inbox.shutdown().await;
        self.tasks.stop().await;
        self.dispatcher.abort().await;
        self.gateway.shutdown().await;
        self.outbox.shutdown().await;
        self.ctx.actors.stop().await;
        self.relays.shutdown().await;
    }
}

/// Opens the provider's wallet.
///
/// # Errors
/// The store cannot be opened, or a mint's URL is none.
pub async fn open_wallet(
    settings: &Settings,
    seed: [u8; 64],
) -> Result<Arc<dyn Wallet>, WalletError> {
    let mints = settings.mints.iter().map(|mint| WalletMint {
        url: mint.url.clone(),
        requests_per_minute: mint.requests_per_minute,
    });
    let wallet = CdkWallet::open(WalletOptions {
        dir: settings.data_dir.join(WALLET),
        seed,
        mints: mints.collect(),
        timeout: settings.timing.mint,
        allow_any_mint: false,
    });
    Ok(Arc::new(wallet.await?))
}

/// Tells the wallet where it finds the tokens that it made and are out.
pub(crate) fn know_tokens(ledger: &Ledger, wallet: &dyn Wallet) {
    let books = ledger.downgrade();
    wallet.set_out_tokens(Arc::new(move || {
        let books = books.upgrade().ok_or("the ledger is closed")?;
        let tokens = strays::known(&books).map_err(|error| error.to_string())?;
        Ok(tokens.into_iter().collect())
    }));
}

/// Ends sessions of leases that let nobody in any more.
async fn close_doors(ctx: Arc<Ctx>, gateway: Arc<Gateway>) {
    let mut closed = ctx.closed.subscribe();
    loop {
        match closed.recv().await {
            Ok(lease) => gateway.close_lease(&lease),
            // The gateway asks by itself now and then.
            Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
            Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// The gateway is started before the ledger's context is whole, because the
/// offer names its port; until then nobody gets in.
#[derive(Default)]
struct LateDoors(std::sync::OnceLock<LedgerDoors>);

impl LateDoors {
    fn set(&self, doors: LedgerDoors) {
        // Set once, right after it was made.
        let _ = self.0.set(doors);
    }
}

#[async_trait::async_trait]
impl crate::gateway::Doors for LateDoors {
    async fn open(&self, user: &str, openssh: &str) -> Option<crate::gateway::Door> {
        self.0.get()?.open(user, openssh).await
    }

    async fn open_port(
        &self,
        port: u16,
        user: &str,
        password: &str,
    ) -> Option<crate::gateway::Door> {
        self.0.get()?.open_port(port, user, password).await
    }

    async fn still_open(&self, lease: &crate::core::ids::LeaseId) -> bool {
        match self.0.get() {
            Some(doors) => doors.still_open(lease).await,
            None => false,
        }
    }
}

/// Publishes the offer, the heartbeat and the list of our relays.
#[derive(Clone)]
struct Publisher {
    ctx: Arc<Ctx>,
    relays: Relays,
    keys: Keys,
    stamps: Arc<Stamps>,
}

impl Publisher {
    async fn offers(self) {
        let mut published = None;
        // It says how mints are.
        self.ctx.opening.mints().await;
        loop {
            match offer::current(&self.ctx).await {
                Ok(now) => {
                    self.publish(&now).await;
                    published = Some(now);
                }
                Err(error) => tracing::error!(%error, "the offer cannot be made"),
            }
            let due = tokio::time::sleep(self.ctx.settings().timing.offer);
            tokio::pin!(due);
            loop {
                tokio::select! {
                    () = &mut due => break,
                    () = self.ctx.changed.notified() => {}
                }
                tokio::time::sleep(SETTLE).await;
                let changed = offer::current(&self.ctx).await.ok();
                if changed.is_some() && changed != published {
                    break;
                }
            }
        }
    }

    async fn publish(&self, now: &crate::protocol::offer::Offer) {
        let urls = self.relays.urls();
        let stamp = |kind, d: &str| self.stamps.next(kind, d, self.ctx.now());
        let kind = crate::protocol::kinds::OFFER;
        let d = crate::protocol::kinds::offer_d(&now.provider_npub);
        let offer = offer_event(&self.keys, now, stamp(kind, &d));
        let list_kind = crate::protocol::kinds::DM_RELAYS;
        let list = dm_relays_event(&self.keys, &urls, stamp(list_kind, ""));
        for event in [offer, list] {
            match event {
                Ok(event) => log_refusals(&self.relays.publish(&event, &urls).await),
                Err(error) => tracing::error!(%error, "an event cannot be made"),
            }
        }
    }

    async fn heartbeats(self) {
        let mut tick = tokio::time::interval(self.ctx.settings().timing.heartbeat);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let urls = self.relays.urls();
            match heartbeat_events(&self.keys, &offer::heartbeat(&self.ctx)) {
                Ok(events) => {
                    let sends = events.iter().map(|event| self.relays.publish(event, &urls));
                    for acks in futures::future::join_all(sends).await {
                        log_refusals(&acks);
                    }
                }
                Err(error) => tracing::error!(%error, "the heartbeat cannot be made"),
            }
        }
    }
}

fn log_refusals(acks: &std::collections::BTreeMap<String, crate::relay::Ack>) {
    for (relay, ack) in acks {
        if let crate::relay::Ack::Refused(why) = ack {
            tracing::warn!(%relay, %why, "a relay refused an event");
        }
    }
}
