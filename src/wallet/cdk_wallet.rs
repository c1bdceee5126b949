//! [`CdkWallet`]: the real wallet. cdk on cdk-redb, one file for one seed, one
//! actor for each mint and unit.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use cdk::nuts::{CurrencyUnit, SecretKey, State};
use cdk::wallet::{MintConnector, RateLimitConfig, RateLimiterManager, WalletBuilder};
use cdk_common::rate_limit::RateLimitedTransport;
use cdk_redb::WalletRedbDatabase;
use futures::future::{BoxFuture, join_all};
use tokio::task::JoinHandle;

pub use super::PendingSend;
use super::account::{Account, Store};
use super::actor::{self, Lost};
use super::calls::{Call, Calls, MintProbe};
use super::errors::{self, store};
pub use super::invoices::MintQuote;
use super::keysets::Owners;
use super::locks;
use super::outgoing::{Melt, MeltQuote};
use super::recovery::Seed;
use super::restore::{self, Out};
use super::token::{self, Read};
use super::transport::{Client, Guarded, Sent};
use super::{
    LockTo, MintFacts, MintUrl, OutTokens, ProofsState, Recovery, Redeemed, RedemptionState,
    SentToken, TokenInfo, Unit, Wallet, WalletError,
};
use crate::core::ids::PaymentId;
use crate::core::money::Msat;
use crate::core::payment::hash_lock::Preimage;
use crate::core::payment::lock::LockKey;
use crate::core::purse::{Merge, Piece};

/// The wallet's file in its directory.
const FILE: &str = "wallet.redb";

/// How long a mint's keysets and fees are taken from the cache.
const FACTS_AGE: Duration = Duration::from_secs(600);

/// Pacing of mints that are on no list: below the 60 a minute that Nutshell
/// allows by default, burst included.
const ANY_MINT_PER_MINUTE: u32 = 50;

/// An operation that changes the wallet is made of several requests and may
/// wait for its turn: it is waited for this many times the timeout of one.
const OPERATION_TIMEOUTS: u32 = 2;

/// A mint that is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalletMint {
    /// Its URL.
    pub url: String,
    /// Requests to it that may be started in a minute; more wait their turn. A
    /// burst is at most half of it. At least 2.
    pub requests_per_minute: u32,
}

/// How a [`CdkWallet`] is opened.
#[derive(Clone)]
pub struct WalletOptions {
    /// Directory of the wallet's file; made with mode 0700 where it is missing.
    pub dir: PathBuf,
    /// BIP-39 seed. One wallet file for one seed, one process for one file.
    pub seed: [u8; 64],
    /// Mints that are accepted.
    pub mints: Vec<WalletMint>,
    /// How long one request may take.
    pub timeout: Duration,
    /// Accept any mint (a consumer's wallet), not only those above.
    pub allow_any_mint: bool,
}

impl std::fmt::Debug for WalletOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WalletOptions")
            .field("dir", &self.dir)
            .field("mints", &self.mints)
            .finish_non_exhaustive()
    }
}

pub(super) type Actor = actor::Actor<Account>;

pub(super) type Actors = BTreeMap<(MintUrl, Unit), Actor>;

/// Ecash at several mints, in one file. Open it inside a tokio runtime. Once
/// dropped, it ends what it had begun and then closes its file;
/// [`close`](Self::close) waits for that.
pub struct CdkWallet {
    store: Store,
    pub(super) seed: Seed,
    timeout: Duration,
    allow_any_mint: bool,
    /// Requests a minute of each mint on the list.
    listed: BTreeMap<MintUrl, u32>,
    keysets: Owners,
    out: Out,
    lock_key: LockKey,
    actors: Mutex<Actors>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for CdkWallet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CdkWallet")
            .field("listed", &self.listed)
            .finish_non_exhaustive()
    }
}

impl CdkWallet {
    /// Opens the wallet in `options.dir`; asks no mint. Call
    /// [`recover`](Wallet::recover) before anything else.
    ///
    /// # Errors
    /// `Store` (the file is damaged, or another process has it open),
    /// `Malformed` (a mint's URL).
    pub async fn open(options: WalletOptions) -> Result<Self, WalletError> {
        Self::open_with(options, |store| store).await
    }

    /// As [`open`](Self::open), on what `change` makes of the store.
    pub(crate) async fn open_with(
        options: WalletOptions,
        change: impl FnOnce(Store) -> Store,
    ) -> Result<Self, WalletError> {
        let dir = options.dir.clone();
        let opened = tokio::task::spawn_blocking(move || open_store(&dir)).await;
        let redb = opened.map_err(store)??;
        let mut listed = BTreeMap::new();
        for mint in &options.mints {
            listed.insert(token::normalise(&mint.url)?, mint.requests_per_minute);
        }
        let store = change(Arc::new(redb));
        // cdk-redb makes the table of sagas with the first write to it, and
        // cannot read it before.
        store
            .delete_saga(&uuid::Uuid::nil())
            .await
            .map_err(errors::store)?;
        let seed = Seed(options.seed);
        let wallet = Self {
            lock_key: locks::public(&locks::lock_secret(&seed)?)?,
            store,
            seed,
            timeout: options.timeout,
            allow_any_mint: options.allow_any_mint,
            listed,
            keysets: Owners::default(),
            out: Out::default(),
            actors: Mutex::default(),
            tasks: Mutex::default(),
        };
        wallet.start_known().await?;
        Ok(wallet)
    }

    /// Notes that the seed was made just now, with this file: no mint knows of
    /// anything that is its own, so none is asked.
    ///
    /// # Errors
    /// `Store`.
    pub async fn seed_is_new(&self) -> Result<(), WalletError> {
        restore::note_new_seed(&self.store).await
    }

    /// Ends what was begun, at most as long as an operation may take, and closes
    /// the file.
    pub async fn close(self) {
        let wait = self.timeout.saturating_mul(OPERATION_TIMEOUTS);
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        drop(self);
        let _ = tokio::time::timeout(wait, join_all(tasks)).await;
    }

    /// Starts the actors of listed mints, and of those that an earlier run used:
    /// they may have something to recover.
    async fn start_known(&self) -> Result<(), WalletError> {
        let used = self.store.get_mints().await.map_err(store)?;
        for url in used.into_keys() {
            let mint = MintUrl(url.to_string());
            let known = self.store.get_mint_keysets(url).await.map_err(store)?;
            let ids = known.unwrap_or_default().into_iter().map(|k| k.id);
            if let Err(error) = self.keysets.claim(&mint, ids) {
                tracing::warn!(mint = %mint.0, %error, "a mint is not used");
                continue;
            }
            self.start_both(&mint)?;
        }
        for mint in self.listed.keys() {
            self.start_both(mint)?;
        }
        Ok(())
    }

    fn start_both(&self, mint: &MintUrl) -> Result<(), WalletError> {
        for unit in [Unit::Sat, Unit::Msat] {
            self.start(mint, &unit)?;
        }
        Ok(())
    }

    pub(super) fn actors(&self) -> MutexGuard<'_, Actors> {
        self.actors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The actor of this mint and unit, started where there is none.
    fn start(&self, mint: &MintUrl, unit: &Unit) -> Result<Actor, WalletError> {
        let mut actors = self.actors();
        let key = (mint.clone(), unit.clone());
        if let Some(actor) = actors.get(&key) {
            return Ok(actor.clone());
        }
        let other = match unit {
            Unit::Sat => Unit::Msat,
            Unit::Msat => Unit::Sat,
        };
        let sibling = actors.get(&(mint.clone(), other)).map(Actor::account);
        let (actor, task) = Actor::start(self.account(mint, unit, sibling)?);
        self.tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(task);
        actors.insert(key, actor.clone());
        Ok(actor)
    }

    /// The two units of a mint share its pacing and what is known of its keysets.
    fn account(
        &self,
        mint: &MintUrl,
        unit: &Unit,
        sibling: Option<&Arc<Account>>,
    ) -> Result<Account, WalletError> {
        let url = cdk::mint_url::MintUrl::from_str(&mint.0)
            .map_err(|_| WalletError::Malformed("its mint is not a valid URL".to_owned()))?;
        let limiter = match sibling {
            Some(sibling) => sibling.limiter.clone(),
            None => RateLimiterManager::new(self.pacing(mint), None),
        };
        let sent = Sent::default();
        let calls = sibling.map_or_else(Calls::default, |sibling| sibling.calls.clone());
        let guarded = Guarded::new(self.timeout, sent.clone(), calls.clone());
        let paced = RateLimitedTransport::with_manager(guarded, limiter.clone());
        let client: Arc<dyn MintConnector + Send + Sync> =
            Arc::new(Client::with_transport(url.clone(), paced, None));
        let mut builder = WalletBuilder::new()
            .mint_url(url)
            .unit(match unit {
                Unit::Sat => CurrencyUnit::Sat,
                Unit::Msat => CurrencyUnit::Msat,
            })
            .localstore(Arc::clone(&self.store))
            .seed(self.seed.0)
            .shared_client(Arc::clone(&client))
            .use_http_subscription()
            .set_metadata_cache_ttl(Some(FACTS_AGE));
        if let Some(sibling) = sibling {
            builder = builder.metadata_cache(Arc::clone(&sibling.wallet.metadata_cache));
        }
        let wallet = builder.build().map_err(store)?;
        Ok(Account {
            mint: mint.clone(),
            unit: unit.clone(),
            wallet,
            store: Arc::clone(&self.store),
            client,
            limiter,
            sent,
            calls,
            seen: super::seen::Seen::default(),
            timeout: self.timeout,
            asked: std::sync::atomic::AtomicUsize::new(0),
            collected: std::sync::atomic::AtomicUsize::new(0),
            seed: self.seed.clone(),
            keysets: self.keysets.clone(),
            restored: restore::Read::default(),
            out: self.out.clone(),
        })
    }

    fn pacing(&self, mint: &MintUrl) -> RateLimitConfig {
        let listed = self.listed.get(mint).copied();
        let per_minute = listed.unwrap_or(ANY_MINT_PER_MINUTE).max(2);
        // In any minute a burst and what was earned meanwhile may go out: their
        // sum is what the mint counts.
        let burst = NonZeroU32::new(per_minute / 2).unwrap_or(NonZeroU32::MIN);
        let earned = NonZeroU32::new(per_minute - per_minute / 2).unwrap_or(NonZeroU32::MIN);
        RateLimitConfig::new(burst, earned)
    }

    fn accepted(&self, mint: &MintUrl) -> Result<(), WalletError> {
        if self.allow_any_mint || self.listed.contains_key(mint) {
            Ok(())
        } else {
            Err(WalletError::MintNotAccepted(mint.0.clone()))
        }
    }

    pub(super) fn at(&self, mint: &MintUrl, unit: &Unit) -> Result<Actor, WalletError> {
        let mint = token::normalise(&mint.0)?;
        self.accepted(&mint)?;
        self.start(&mint, unit)
    }

    pub(super) fn read(&self, text: &str) -> Result<(Read, Actor), WalletError> {
        let read = token::read(text)?;
        self.accepted(&read.info.mint)?;
        let actor = self.start(&read.info.mint, &read.info.unit)?;
        Ok((read, actor))
    }

    /// Redeems a token; `key` signs what is locked to it, `preimage` opens what is
    /// locked to its hash.
    pub(super) async fn redeem_with(
        &self,
        payment: PaymentId,
        token: &str,
        key: SecretKey,
        preimage: Option<Preimage>,
    ) -> Result<Redeemed, WalletError> {
        let (read, actor) = self.read(token)?;
        self.order(&actor, move |account| {
            Box::pin(async move { account.redeem(payment, &read, key, preimage).await })
        })
        .await
    }

    /// A question that changes nothing: beside the actor, in limited time.
    pub(super) async fn ask<T>(
        &self,
        question: impl Future<Output = Result<T, WalletError>>,
    ) -> Result<T, WalletError> {
        match tokio::time::timeout(self.timeout, question).await {
            Ok(result) => result,
            Err(_) => Err(WalletError::MintDown("no answer in time".to_owned())),
        }
    }

    /// An operation in its turn, once all that the seed owns there is in this file:
    /// before that it would make outputs again. It is not cut off when the time
    /// is up.
    pub(super) async fn order<T, F>(&self, actor: &Actor, op: F) -> Result<T, WalletError>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Account>) -> BoxFuture<'static, Result<T, WalletError>> + Send + 'static,
    {
        self.anyway(actor, move |account| {
            Box::pin(async move {
                account.ready().await?;
                op(account).await
            })
        })
        .await
    }

    /// An operation in its turn that makes no outputs.
    pub(super) async fn anyway<T, F>(&self, actor: &Actor, op: F) -> Result<T, WalletError>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Account>) -> BoxFuture<'static, Result<T, WalletError>> + Send + 'static,
    {
        let wait = self.timeout.saturating_mul(OPERATION_TIMEOUTS);
        match actor.run(wait, op).await {
            Ok(result) => result,
            Err(Lost::NotBegun) => Err(WalletError::MintDown(
                "too many operations wait for it".to_owned(),
            )),
            Err(Lost::Begun) => Err(WalletError::OutcomeUnknown("no answer in time".to_owned())),
        }
    }
}

fn open_store(dir: &Path) -> Result<WalletRedbDatabase, WalletError> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};

    if !dir.exists() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(store)?;
    }
    let path = dir.join(FILE);
    let opened = WalletRedbDatabase::new(&path).map_err(|error| cannot_open(&path, &error))?;
    // Proofs are bearer money.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(store)?;
    Ok(opened)
}

/// What is wrong with the file, and what can be done about it.
fn cannot_open(path: &Path, error: &dyn std::fmt::Display) -> WalletError {
    let (path, error) = (path.display(), error.to_string());
    if error.contains("already open") || error.contains("Cannot acquire lock") {
        return WalletError::Store(format!("{path} is open in another process"));
    }
    WalletError::Store(format!(
        "{path} cannot be opened ({error}); nothing was changed. Move the file aside and start again: what the seed owns is then read from the mints"
    ))
}

/// Where a question has no answer, nothing is unknown but that: it can be asked
/// again, and a quote that nobody uses is forgotten.
fn only_asked(error: WalletError) -> WalletError {
    match error {
        WalletError::OutcomeUnknown(why) => WalletError::MintDown(why),
        error => error,
    }
}

#[async_trait]
impl Wallet for CdkWallet {
    fn inspect(&self, token: &str) -> Result<TokenInfo, WalletError> {
        let read = token::read(token)?;
        self.accepted(&read.info.mint)?;
        Ok(read.info)
    }

    async fn facts(&self, mint: &MintUrl) -> Result<MintFacts, WalletError> {
        let actor = self.at(mint, &Unit::Sat)?;
        self.ask(actor.account().facts()).await
    }

    async fn net_of(&self, token: &str) -> Result<Msat, WalletError> {
        let (read, actor) = self.read(token)?;
        let redeemed = self.ask(actor.account().net_of(&read)).await?;
        Ok(redeemed.net)
    }

    async fn check(&self, token: &str) -> Result<ProofsState, WalletError> {
        let (read, actor) = self.read(token)?;
        self.ask(actor.account().check(&read.info.ys)).await
    }

    fn lock_key(&self) -> LockKey {
        self.lock_key.clone()
    }

    async fn redeem(&self, payment: PaymentId, token: &str) -> Result<Redeemed, WalletError> {
        self.redeem_with(payment, token, locks::lock_secret(&self.seed)?, None)
            .await
    }

    async fn redemption(
        &self,
        _payment: PaymentId,
        token: &str,
    ) -> Result<RedemptionState, WalletError> {
        let (read, actor) = self.read(token)?;
        let found = self.anyway(&actor, move |account| {
            Box::pin(async move { account.redemption(&read).await })
        });
        match found.await {
            Err(WalletError::OutcomeUnknown(_)) => Ok(RedemptionState::Unknown),
            other => other,
        }
    }

    async fn send(
        &self,
        mint: &MintUrl,
        unit: &Unit,
        amount: Msat,
        include_fee: bool,
    ) -> Result<SentToken, WalletError> {
        let actor = self.at(mint, unit)?;
        self.order(&actor, move |account| {
            Box::pin(async move { account.send(amount, include_fee).await })
        })
        .await
    }

    async fn pending_sends(&self) -> Result<Vec<PendingSend>, WalletError> {
        // The owner's, which the consumer calls without the trait.
        Self::pending_sends(self).await
    }

    async fn reclaim(&self, token: &str) -> Result<Msat, WalletError> {
        Self::reclaim(self, token).await
    }

    async fn lock(&self, token: &str, to: &LockTo) -> Result<SentToken, WalletError> {
        let (read, actor) = self.read(token)?;
        let to = to.clone();
        self.order(&actor, move |account| {
            Box::pin(async move { account.lock(&read, &to).await })
        })
        .await
    }

    async fn take_back(
        &self,
        payment: PaymentId,
        token: &str,
        index: u64,
    ) -> Result<Redeemed, WalletError> {
        self.redeem_with(
            payment,
            token,
            locks::refund_secret(&self.seed, index)?,
            None,
        )
        .await
    }

    fn claim_key(&self, index: u64) -> Result<LockKey, WalletError> {
        locks::public(&locks::claim_secret(&self.seed, index)?)
    }

    async fn claim(
        &self,
        payment: PaymentId,
        token: &str,
        index: u64,
    ) -> Result<Redeemed, WalletError> {
        self.redeem_with(
            payment,
            token,
            locks::claim_secret(&self.seed, index)?,
            None,
        )
        .await
    }

    fn preimage(&self, index: u64) -> Result<Preimage, WalletError> {
        locks::preimage(&self.seed, index)
    }

    async fn redeem_hashed(
        &self,
        payment: PaymentId,
        token: &str,
        preimage: &Preimage,
    ) -> Result<Redeemed, WalletError> {
        let (key, preimage) = (locks::lock_secret(&self.seed)?, preimage.clone());
        self.redeem_with(payment, token, key, Some(preimage)).await
    }

    async fn take_back_hashed(&self, token: &str, to: &LockTo) -> Result<Redeemed, WalletError> {
        self.reopen(token, to).await
    }

    async fn melt_quote(
        &self,
        mint: &MintUrl,
        unit: &Unit,
        bolt11: &str,
    ) -> Result<MeltQuote, WalletError> {
        let (actor, bolt11) = (self.at(mint, unit)?, bolt11.to_owned());
        let asked = self.order(&actor, move |account| {
            Box::pin(async move { account.melt_quote(&bolt11).await })
        });
        asked.await.map_err(only_asked)
    }

    async fn melt(
        &self,
        mint: &MintUrl,
        unit: &Unit,
        quote: &str,
        most: Msat,
    ) -> Result<Melt, WalletError> {
        let (actor, quote) = (self.at(mint, unit)?, quote.to_owned());
        self.order(&actor, move |account| {
            Box::pin(async move { account.melt(&quote, most).await })
        })
        .await
    }

    async fn pieces(&self, mint: &MintUrl, unit: &Unit) -> Result<Vec<Piece>, WalletError> {
        let actor = self.at(mint, unit)?;
        // In its turn: what an operation that was cut off has is not to be picked.
        self.anyway(&actor, |account| {
            Box::pin(async move { account.pieces().await })
        })
        .await
    }

    async fn merge(&self, mint: &MintUrl, unit: &Unit, merge: &Merge) -> Result<Msat, WalletError> {
        let actor = self.at(mint, unit)?;
        let merge = merge.clone();
        self.order(&actor, move |account| {
            Box::pin(async move { account.merge(&merge).await })
        })
        .await
    }

    async fn melt_state(
        &self,
        mint: &MintUrl,
        unit: &Unit,
        quote: &str,
    ) -> Result<Melt, WalletError> {
        let (actor, quote) = (self.at(mint, unit)?, quote.to_owned());
        let asked = self.order(&actor, move |account| {
            Box::pin(async move { account.melt_state(&quote).await })
        });
        asked.await.map_err(only_asked)
    }

    async fn invoice(
        &self,
        mint: &MintUrl,
        unit: &Unit,
        amount: Msat,
    ) -> Result<MintQuote, WalletError> {
        self.mint_quote(mint, unit, amount).await
    }

    async fn collect(&self, quote: &MintQuote) -> Result<Option<Msat>, WalletError> {
        self.mint_check(quote).await
    }

    async fn forget_invoice(&self, quote: &MintQuote) -> Result<(), WalletError> {
        self.drop_quote(quote).await
    }

    async fn probe(&self, mint: &MintUrl) -> Result<MintProbe, WalletError> {
        let actor = self.at(mint, &Unit::Sat)?;
        self.ask(actor.account().probe()).await
    }

    fn calls(&self) -> Vec<(MintUrl, Call)> {
        let mut all = Vec::new();
        for ((mint, unit), actor) in &*self.actors() {
            // The two units of a mint share theirs.
            if *unit == Unit::Sat {
                let calls = actor.account().calls.take();
                all.extend(calls.into_iter().map(|call| (mint.clone(), call)));
            }
        }
        all
    }

    async fn balances(&self) -> Result<BTreeMap<(MintUrl, Unit), Msat>, WalletError> {
        let unspent = Some(vec![State::Unspent]);
        let proofs = self
            .store
            .get_proofs(None, None, unspent, None)
            .await
            .map_err(store)?;
        let mut sums: HashMap<(String, String), u64> = HashMap::new();
        for proof in proofs {
            let key = (proof.mint_url.to_string(), proof.unit.to_string());
            let sum = sums.entry(key).or_default();
            *sum = sum.saturating_add(proof.proof.amount.into());
        }
        let mut balances = BTreeMap::new();
        for ((mint, unit), sum) in sums {
            let unit = match unit.as_str() {
                "sat" => Unit::Sat,
                "msat" => Unit::Msat,
                _ => continue,
            };
            let amount = token::to_msat(&unit, sum)
                .ok_or_else(|| WalletError::Store("the balance is too large".to_owned()))?;
            balances.insert((MintUrl(mint), unit), amount);
        }
        Ok(balances)
    }

    fn set_out_tokens(&self, tokens: OutTokens) {
        self.out.set(tokens);
    }

    async fn recover(&self) -> Result<Recovery, WalletError> {
        let actors: Vec<Actor> = self.actors().values().cloned().collect();
        let each = actors.iter().map(|actor| {
            self.anyway(actor, |account| {
                Box::pin(async move { account.recover().await })
            })
        });
        let mut all = Recovery::default();
        for found in join_all(each).await {
            match found {
                Ok(found) => {
                    all.recovered += found.recovered;
                    all.compensated += found.compensated;
                    all.unfinished += found.unfinished;
                }
                Err(WalletError::Store(why)) => return Err(WalletError::Store(why)),
                Err(_) => all.unfinished += 1,
            }
        }
        Ok(all)
    }
}
