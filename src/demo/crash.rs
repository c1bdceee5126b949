//! A daemon that dies where it is told to, for tests: each commit of its ledger
//! and each call of its wallet and its backend is a point before and a point
//! after, and at one of them the process kills itself, as a power cut would.
//!
//! The points are not listed anywhere: they are wherever the daemon passes one of
//! the three interfaces through which it has any effect, so that a new commit or
//! call is a new point.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::compute::{
    Backend, BackendError, Capabilities, Dial, Exec, Handle, Health, Image, Inventory, Logs,
    Observed, Owned, Pause, WorkloadKey, WorkloadSpec,
};
use crate::core::ids::{Name, PaymentId};
use crate::core::money::Msat;
use crate::core::payment::hash_lock::Preimage;
use crate::core::payment::lock::LockKey;
use crate::core::purse::{Merge, Piece};
use crate::core::time::Timestamp;
use crate::ledger::Ledger;
use crate::provider::clock::SystemClock;
use crate::provider::daemon::{Provider, Setup, StartError, know_tokens, open_wallet};
use crate::wallet::{
    Call, LockTo, Melt, MeltQuote, MintFacts, MintProbe, MintQuote, MintUrl, OutTokens,
    PendingSend, ProofsState, Recovery, Redeemed, RedemptionState, SentToken, TokenInfo, Unit,
    Wallet, WalletError,
};

/// The environment variable that names the file to which every point is written
/// as it is passed, a line each: `NAME#N`, the N-th time that NAME is passed.
pub const LOG: &str = "SATLET_CRASH_LOG";

/// The environment variable that names the point at which to die, as it stands in
/// the log; without it the points are only written down.
pub const AT: &str = "SATLET_CRASH_AT";

/// The points of this process.
struct Points {
    at: Option<String>,
    log: Mutex<(std::fs::File, HashMap<String, u64>)>,
}

impl Points {
    fn open(log: &Path) -> std::io::Result<Arc<Self>> {
        let file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(log)?;
        Ok(Arc::new(Self {
            at: std::env::var(AT).ok(),
            log: Mutex::new((file, HashMap::new())),
        }))
    }

    /// Passes a point, or dies there.
    fn pass(&self, name: &str) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, passed) = &mut *log;
        let times = passed.entry(name.to_owned()).or_default();
        *times += 1;
        let point = format!("{name}#{times}");
        // A point that is not written down is missing in the test's list, which
        // notices that.
        drop(file.write_all(format!("{point}\n").as_bytes()));
        if self.at.as_deref() == Some(&point) {
            // It cannot be refused.
            let _ = kill(Pid::this(), Signal::SIGKILL);
            loop {
                // Nothing else is passed: the lock is held.
                std::thread::park();
            }
        }
    }
}

/// Starts a provider, one that dies where the environment says so.
///
/// # Errors
/// As [`Provider::start`]; the log cannot be written.
pub async fn start(setup: Setup) -> Result<Provider, StartError> {
    let Some(log) = std::env::var_os(LOG) else {
        return Provider::start(setup).await;
    };
    let points = Points::open(Path::new(&log)).map_err(crate::ledger::LedgerError::from)?;
    let ledger = Ledger::open(&setup.settings.data_dir)?;
    let watched = Arc::clone(&points);
    ledger.watch(move |tables, done| {
        let when = if done { "after" } else { "before" };
        watched.pass(&format!("{when} commit of {}", tables.join(" ")));
    });
    let wallet = open_wallet(&setup.settings, setup.seed).await?;
    let wallet = Arc::new(Mortal {
        inner: wallet,
        points: Arc::clone(&points),
    });
    know_tokens(&ledger, &*wallet);
    let backend = Arc::new(Mortal {
        inner: Arc::clone(&setup.backend),
        points,
    });
    let setup = Setup { backend, ..setup };
    Provider::assemble(setup, ledger, wallet, Arc::new(SystemClock)).await
}

/// Something whose calls are points.
struct Mortal<T: ?Sized> {
    points: Arc<Points>,
    inner: Arc<T>,
}

impl<T: ?Sized> Mortal<T> {
    async fn call<V>(&self, name: &str, call: impl Future<Output = V>) -> V {
        self.points.pass(&format!("before {name}"));
        let done = call.await;
        self.points.pass(&format!("after {name}"));
        done
    }
}

#[async_trait]
impl Wallet for Mortal<dyn Wallet> {
    fn inspect(&self, token: &str) -> Result<TokenInfo, WalletError> {
        self.inner.inspect(token)
    }

    async fn facts(&self, mint: &MintUrl) -> Result<MintFacts, WalletError> {
        // Asked all the time, from a cache, and changes nothing.
        self.inner.facts(mint).await
    }

    async fn net_of(&self, token: &str) -> Result<Msat, WalletError> {
        self.call("net_of", self.inner.net_of(token)).await
    }

    async fn check(&self, token: &str) -> Result<ProofsState, WalletError> {
        self.call("check", self.inner.check(token)).await
    }

    async fn redeem(&self, payment: PaymentId, token: &str) -> Result<Redeemed, WalletError> {
        self.call("redeem", self.inner.redeem(payment, token)).await
    }

    async fn redemption(
        &self,
        payment: PaymentId,
        token: &str,
    ) -> Result<RedemptionState, WalletError> {
        self.call("redemption", self.inner.redemption(payment, token))
            .await
    }

    async fn send(
        &self,
        mint: &MintUrl,
        unit: &Unit,
        amount: Msat,
        include_fee: bool,
    ) -> Result<SentToken, WalletError> {
        let sending = self.inner.send(mint, unit, amount, include_fee);
        self.call("send", sending).await
    }

    async fn pending_sends(&self) -> Result<Vec<PendingSend>, WalletError> {
        self.inner.pending_sends().await
    }

    async fn reclaim(&self, token: &str) -> Result<Msat, WalletError> {
        self.call("reclaim", self.inner.reclaim(token)).await
    }

    fn set_out_tokens(&self, tokens: OutTokens) {
        self.inner.set_out_tokens(tokens);
    }

    fn lock_key(&self) -> LockKey {
        self.inner.lock_key()
    }

    async fn lock(&self, token: &str, to: &LockTo) -> Result<SentToken, WalletError> {
        self.call("lock", self.inner.lock(token, to)).await
    }

    async fn take_back(
        &self,
        payment: PaymentId,
        token: &str,
        index: u64,
    ) -> Result<Redeemed, WalletError> {
        let taking = self.inner.take_back(payment, token, index);
        self.call("take_back", taking).await
    }

    fn claim_key(&self, index: u64) -> Result<LockKey, WalletError> {
        self.inner.claim_key(index)
    }

    async fn claim(
        &self,
        payment: PaymentId,
        token: &str,
        index: u64,
    ) -> Result<Redeemed, WalletError> {
        let claiming = self.inner.claim(payment, token, index);
        self.call("claim", claiming).await
    }

    async fn melt_quote(
        &self,
        mint: &MintUrl,
        unit: &Unit,
        bolt11: &str,
    ) -> Result<MeltQuote, WalletError> {
        let asking = self.inner.melt_quote(mint, unit, bolt11);
        self.call("melt_quote", asking).await
    }

    async fn melt(
        &self,
        mint: &MintUrl,
        unit: &Unit,
        quote: &str,
        most: Msat,
    ) -> Result<Melt, WalletError> {
        let melting = self.inner.melt(mint, unit, quote, most);
        self.call("melt", melting).await
    }

    async fn melt_state(
        &self,
        mint: &MintUrl,
        unit: &Unit,
        quote: &str,
    ) -> Result<Melt, WalletError> {
        let asking = self.inner.melt_state(mint, unit, quote);
        self.call("melt_state", asking).await
    }

    async fn invoice(
        &self,
        mint: &MintUrl,
        unit: &Unit,
        amount: Msat,
    ) -> Result<MintQuote, WalletError> {
        let asking = self.inner.invoice(mint, unit, amount);
        self.call("invoice", asking).await
    }

    async fn collect(&self, quote: &MintQuote) -> Result<Option<Msat>, WalletError> {
        self.call("collect", self.inner.collect(quote)).await
    }

    async fn forget_invoice(&self, quote: &MintQuote) -> Result<(), WalletError> {
        self.call("forget_invoice", self.inner.forget_invoice(quote))
            .await
    }

    async fn pieces(&self, mint: &MintUrl, unit: &Unit) -> Result<Vec<Piece>, WalletError> {
        self.inner.pieces(mint, unit).await
    }

    async fn merge(&self, mint: &MintUrl, unit: &Unit, merge: &Merge) -> Result<Msat, WalletError> {
        self.call("merge", self.inner.merge(mint, unit, merge))
            .await
    }

    async fn probe(&self, mint: &MintUrl) -> Result<MintProbe, WalletError> {
        // Asked now and then, by a task of its own, and changes nothing.
        self.inner.probe(mint).await
    }

    fn calls(&self) -> Vec<(MintUrl, Call)> {
        self.inner.calls()
    }

    fn preimage(&self, index: u64) -> Result<Preimage, WalletError> {
        self.inner.preimage(index)
    }

    async fn redeem_hashed(
        &self,
        payment: PaymentId,
        token: &str,
        preimage: &Preimage,
    ) -> Result<Redeemed, WalletError> {
        let redeeming = self.inner.redeem_hashed(payment, token, preimage);
        self.call("redeem_hashed", redeeming).await
    }

    async fn take_back_hashed(&self, token: &str, to: &LockTo) -> Result<Redeemed, WalletError> {
        let taking = self.inner.take_back_hashed(token, to);
        self.call("take_back_hashed", taking).await
    }

    async fn balances(&self) -> Result<BTreeMap<(MintUrl, Unit), Msat>, WalletError> {
        self.inner.balances().await
    }

    async fn recover(&self) -> Result<Recovery, WalletError> {
        self.call("recover", self.inner.recover()).await
    }
}

#[async_trait]
impl Backend for Mortal<dyn Backend> {
    fn name(&self) -> &Name {
        self.inner.name()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    async fn probe(&self) -> Result<Health, BackendError> {
        self.call("probe", self.inner.probe()).await
    }

    async fn inventory(&self) -> Result<Inventory, BackendError> {
        self.call("inventory", self.inner.inventory()).await
    }

    async fn prepare(&self, image: &Image) -> Result<(), BackendError> {
        self.call("prepare", self.inner.prepare(image)).await
    }

    async fn create(&self, key: &WorkloadKey, spec: &WorkloadSpec) -> Result<Handle, BackendError> {
        self.call("create", self.inner.create(key, spec)).await
    }

    async fn observe(&self, handle: &Handle) -> Result<Observed, BackendError> {
        self.call("observe", self.inner.observe(handle)).await
    }

    async fn list_owned(&self) -> Result<Vec<Owned>, BackendError> {
        self.call("list_owned", self.inner.list_owned()).await
    }

    async fn start(&self, handle: &Handle) -> Result<(), BackendError> {
        self.call("start", self.inner.start(handle)).await
    }

    async fn stop(&self, handle: &Handle, grace: Duration) -> Result<(), BackendError> {
        self.call("stop", self.inner.stop(handle, grace)).await
    }

    async fn destroy(&self, handle: &Handle) -> Result<(), BackendError> {
        self.call("destroy", self.inner.destroy(handle)).await
    }

    async fn note_end(&self, handle: &Handle, end: Timestamp) -> Result<(), BackendError> {
        self.call("note_end", self.inner.note_end(handle, end))
            .await
    }

    async fn tidy(&self) -> Result<(), BackendError> {
        self.call("tidy", self.inner.tidy()).await
    }

    fn exec(&self) -> Option<&dyn Exec> {
        self.inner.exec()
    }

    fn dial(&self) -> Option<&dyn Dial> {
        self.inner.dial()
    }

    fn logs(&self) -> Option<&dyn Logs> {
        self.inner.logs()
    }

    fn pause(&self) -> Option<&dyn Pause> {
        self.inner.pause()
    }
}
