//! The wallet, as the client uses it: opened by one process at a time, for as
//! long as a step with money takes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::choice::{Way, mint_names, no_balance, ways};
use super::client::{Client, now};
use super::error::{ClientError, Kind};
use super::files::Lock;
use super::home::Home;
use super::locked::{Locking, locked_until};
use super::records::{Given, Paid, RefundStanding, SavedRefund, Source};
use crate::core::money::Msat;
use crate::protocol::error::Money;
use crate::protocol::reply::MintTerms;
use crate::wallet;
use crate::wallet::cdk_wallet::{CdkWallet, WalletMint, WalletOptions};
use crate::wallet::{LockTo, MintUrl, RedemptionState, SentToken, Unit, Wallet, WalletError, seed};

/// How long a command waits for another that has the wallet open.
const LOCK_WAIT: Duration = Duration::from_secs(60);
/// How long a wallet that was dropped may take to close its file.
const CLOSING: Duration = Duration::from_secs(5);
/// How long a mint may take to answer one request.
const MINT_TIMEOUT: Duration = Duration::from_secs(30);
/// Requests to one mint that may be started in a minute.
const MINT_REQUESTS_PER_MINUTE: u32 = 50;

/// The money of a request, and what holds the wallet until it is written down.
pub(super) type Payment = (Paid, Option<Unwritten>);

/// The wallet, open. While one is alive no other process opens it.
pub struct Session {
    // Dropped in this order: the wallet closes before the lock goes.
    wallet: Arc<dyn Wallet>,
    cdk: Option<Arc<CdkWallet>>,
    _lock: Lock,
}

impl Session {
    /// The wallet.
    pub fn wallet(&self) -> &dyn Wallet {
        self.wallet.as_ref()
    }

    /// The wallet of the home; `None` where another one was handed in.
    pub fn cdk(&self) -> Option<&CdkWallet> {
        self.cdk.as_deref()
    }
}

/// A token that was made and is not written down yet. While one is alive the
/// wallet stays open; one that is left behind by a crash makes the next opening
/// put the token back.
pub(super) struct Unwritten {
    marker: PathBuf,
    /// Where it is written down that the token was being locked.
    pub(super) lock: Option<PathBuf>,
    _session: Arc<Session>,
}

impl Unwritten {
    /// The token is written down.
    pub(super) fn written(self) {
        for path in [Some(self.marker), self.lock].into_iter().flatten() {
            if let Err(error) = std::fs::remove_file(path) {
                // Harmless: what is written down is never put back.
                tracing::debug!(%error, "a marker stays");
            }
        }
    }
}

/// What became of a token that was to go into our wallet.
pub(super) enum Landed {
    /// It is there, with so much.
    Wallet(Msat),
    /// Somebody else has spent it.
    Gone,
    /// It is not worth redeeming, or it is not money.
    Worthless(String),
    /// Not known or not possible now.
    Later(ClientError),
}

/// A mint that did not answer: there is no use in asking it for the next one.
struct MintDown;

impl Client {
    /// Opens the wallet, or shares it with another task of this process.
    ///
    /// # Errors
    /// Another process has it for too long; it cannot be opened.
    pub async fn wallet(&self) -> Result<Arc<Session>, ClientError> {
        // Held while the wallet opens, so that it is opened once.
        let mut current = self.session.lock().await;
        if let Some(session) = current.upgrade() {
            return Ok(session);
        }
        let path = self.home.path("wallet.lock");
        let lock = Lock::within(&path, LOCK_WAIT).await?.ok_or_else(|| {
            ClientError::new(
                Kind::Internal,
                "wallet_busy",
                format!(
                    "another satlet has had the wallet open for {} s",
                    LOCK_WAIT.as_secs()
                ),
                "Wait for the other command, or end it.",
            )
        })?;
        let (wallet, cdk): (Arc<dyn Wallet>, _) = match &self.given_wallet {
            Some(wallet) => (Arc::clone(wallet), None),
            None => {
                let cdk = Arc::new(open_wallet(&self.home, &self.settings.mints).await?);
                (Arc::clone(&cdk) as _, Some(cdk))
            }
        };
        // A new file is filled from the seed, but for what is on its way.
        let records = self.records.clone();
        wallet.set_out_tokens(Arc::new(move || {
            records.sent_tokens().map_err(|error| error.to_string())
        }));
        let recovery = wallet.recover().await?;
        tracing::debug!(?recovery, "wallet opened");
        let session = Arc::new(Session {
            wallet,
            cdk,
            _lock: lock,
        });
        self.put_back_unwritten(&session).await?;
        *current = Arc::downgrade(&session);
        Ok(session)
    }

    /// Puts tokens back that were made just before a crash and not written down.
    async fn put_back_unwritten(&self, session: &Session) -> Result<(), ClientError> {
        let markers = self.records.markers()?;
        if let (Some(cdk), false) = (session.cdk(), markers.is_empty()) {
            let known = self.records.known_tokens()?;
            for pending in cdk.pending_sends().await? {
                let info = wallet::read_info(&pending.token)?;
                if known.contains(&info.payment) {
                    continue;
                }
                if let Err(error) = cdk.reclaim(&pending.token).await {
                    tracing::warn!(%error, "a token could not be put back; tried again next time");
                    return Ok(());
                }
            }
        }
        self.end_locks(session).await?;
        for marker in markers {
            std::fs::remove_file(marker)?;
        }
        Ok(())
    }

    /// Makes a token of our own money.
    pub(super) async fn make_token(
        &self,
        mint: &MintUrl,
        unit: &Unit,
        amount: Msat,
        include_fee: bool,
    ) -> Result<(SentToken, Unwritten), ClientError> {
        let session = self.wallet().await?;
        let marker = self.records.mark()?;
        let unwritten = Unwritten {
            marker,
            lock: None,
            _session: Arc::clone(&session),
        };
        match session.wallet().send(mint, unit, amount, include_fee).await {
            Ok(sent) => Ok((sent, unwritten)),
            Err(error) => {
                if !matches!(error, WalletError::OutcomeUnknown(_)) {
                    unwritten.written();
                }
                Err(error.into())
            }
        }
    }

    /// Makes a token of `amount` to give away, and writes it down.
    ///
    /// # Errors
    /// As the wallet says; the records cannot be written (the token is put back).
    pub async fn give(&self, mint: &MintUrl, amount: Msat) -> Result<Given, ClientError> {
        let (sent, unwritten) = self.make_token(mint, &Unit::Sat, amount, false).await?;
        let given = Given {
            paid: paid_by(sent, None),
            at: now(),
        };
        let saved = self.records.save_given(&given);
        let result = match saved {
            Ok(()) => Ok(given),
            Err(error) => Err(self.undo(error.into(), &given.paid).await),
        };
        unwritten.written();
        result
    }

    /// Makes a token of at least `amount` after mint fees, at a mint that the
    /// provider accepts.
    pub(super) async fn pay(
        &self,
        terms: &[MintTerms],
        amount: Msat,
        at_most: Option<Msat>,
        lock: Option<&Locking>,
    ) -> Result<Payment, ClientError> {
        let session = self.wallet().await?;
        let balances = session.wallet().balances().await?;
        let mut failed = None;
        for way in ways(terms, &balances, amount, at_most) {
            let made = match lock {
                Some(lock) => self.make_locked_if_kept(&session, &way, lock).await,
                None => self.make_plain(&way).await,
            };
            match made {
                Ok((paid, unwritten)) => return Ok((paid, Some(unwritten))),
                Err(error) if error.money == Money::Pending => return Err(error),
                Err(error) => failed = Some(error),
            }
        }
        Err(match failed {
            Some(error) if error.code != "no_balance" => error,
            _ => no_balance(terms, &balances, amount),
        })
    }

    pub(super) async fn make_plain(&self, way: &Way) -> Result<(Paid, Unwritten), ClientError> {
        let made = self.make_token(&way.mint, &way.unit, way.amount, true);
        let (sent, unwritten) = made.await?;
        Ok((paid_by(sent, None), unwritten))
    }

    /// Reads a token that the user pasted, as far as that goes without a mint.
    pub(super) fn pasted(&self, token: &str, terms: &[MintTerms]) -> Result<Payment, ClientError> {
        let known = self
            .given_wallet
            .as_ref()
            .map(|wallet| wallet.inspect(token));
        let info = match known {
            Some(Ok(info)) => info,
            _ => wallet::read_info(token)?,
        };
        let unit = unit_name(&info.unit);
        let fits = terms.is_empty()
            || terms.iter().any(|mint| {
                same_mint(&mint.url, &info.mint) && mint.units.iter().any(|u| u == unit)
            });
        if !fits {
            return Err(ClientError::new(
                Kind::Payment,
                "mint_not_accepted",
                format!("the provider does not take {unit} of {}", info.mint.0),
                format!("Use a token of one of: {}.", mint_names(terms)),
            ));
        }
        let paid = Paid {
            token: token.trim().to_owned(),
            mint: info.mint,
            unit: info.unit,
            face: info.face,
            source: Source::Pasted,
            lock: None,
        };
        Ok((paid, None))
    }

    /// Puts a token that our wallet made back into it; a locked one not before
    /// its locktime.
    pub(super) async fn put_back(&self, paid: &Paid) -> Landed {
        let token = &paid.token;
        if let Some(lock) = &paid.lock {
            if now() <= lock.locktime {
                return Landed::Later(locked_until(lock));
            }
            if lock.hash.is_some() {
                return self.put_back_hashed(token, lock).await;
            }
            return match self.try_take_in(token, Some(lock.index)).await {
                Ok(landed) => landed,
                Err(error) => Landed::Later(error),
            };
        }
        let reclaimed = async {
            let session = self.wallet().await?;
            let Some(cdk) = session.cdk() else {
                return Ok(None);
            };
            match cdk.reclaim(token).await {
                Ok(net) => Ok(Some(Landed::Wallet(net))),
                Err(WalletError::Spent) => Ok(Some(Landed::Gone)),
                // The wallet no longer counts it as sent: as any other token.
                Err(WalletError::Refused(_)) => Ok(None),
                Err(error) => Err(ClientError::from(error)),
            }
        };
        match reclaimed.await {
            Ok(Some(landed)) => landed,
            Ok(None) => self.take_in(token).await,
            Err(error) => Landed::Later(error),
        }
    }

    /// The same with one that was locked to a hash: its preimage stays here.
    async fn put_back_hashed(&self, token: &str, lock: &LockTo) -> Landed {
        let session = match self.wallet().await {
            Ok(session) => session,
            Err(error) => return Landed::Later(error),
        };
        match session.wallet().take_back_hashed(token, lock).await {
            Ok(redeemed) => Landed::Wallet(redeemed.net),
            Err(WalletError::Spent) => Landed::Gone,
            Err(error @ WalletError::TooSmall) => Landed::Worthless(error.to_string()),
            Err(error) => Landed::Later(error.into()),
        }
    }

    /// Brings a token into our wallet; asks before it redeems, so that doing
    /// it again after a crash does no harm.
    pub(super) async fn take_in(&self, token: &str) -> Landed {
        match self.try_take_in(token, None).await {
            Ok(result) => result,
            Err(error) => Landed::Later(error),
        }
    }

    /// `refund`: the number of our refund key that opens it.
    async fn try_take_in(&self, token: &str, refund: Option<u64>) -> Result<Landed, ClientError> {
        let session = self.wallet().await?;
        let wallet = session.wallet();
        let info = match wallet.inspect(token) {
            Ok(info) => info,
            Err(error @ (WalletError::Malformed(_) | WalletError::WrongUnit(_))) => {
                return Ok(Landed::Worthless(error.to_string()));
            }
            Err(error) => return Err(error.into()),
        };
        match wallet.redemption(info.payment, token).await? {
            RedemptionState::Done(redeemed) => return Ok(Landed::Wallet(redeemed.net)),
            RedemptionState::SpentElsewhere => return Ok(Landed::Gone),
            RedemptionState::Unknown => {
                return Err(WalletError::OutcomeUnknown("asked again later".to_owned()).into());
            }
            RedemptionState::NotDone => {}
        }
        let redeemed = match refund {
            Some(index) => wallet.take_back(info.payment, token, index).await,
            None => self.redeem(&session, &info, token).await,
        };
        match redeemed {
            Ok(redeemed) => Ok(Landed::Wallet(redeemed.net)),
            Err(WalletError::Spent) => Ok(Landed::Gone),
            Err(error @ WalletError::TooSmall) => Ok(Landed::Worthless(error.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    /// Redeems a refund that is written down; what the wallet got, if it did now.
    pub(super) async fn receive_refund(&self, name: &str, saved: SavedRefund) -> Option<Msat> {
        self.redeem_refund(name, saved).await.unwrap_or_default()
    }

    async fn redeem_refund(
        &self,
        name: &str,
        mut saved: SavedRefund,
    ) -> Result<Option<Msat>, MintDown> {
        if !matches!(
            saved.standing,
            RefundStanding::Owed | RefundStanding::ForeignMint
        ) {
            return Ok(None);
        }
        let mut got = Ok(None);
        (saved.standing, saved.note) = match self.take_in(&saved.refund.token).await {
            Landed::Wallet(net) => {
                saved.net = net;
                got = Ok(Some(net));
                (RefundStanding::Received, String::new())
            }
            Landed::Gone => (RefundStanding::Bad, "the mint says that it is spent".to_owned()),
            Landed::Worthless(why) => (RefundStanding::Bad, why),
            Landed::Later(error) if error.code == "mint_not_accepted" => (
                RefundStanding::ForeignMint,
                "its mint is not one of ours: satlet wallet mints --add URL, or redeem it elsewhere".to_owned(),
            ),
            Landed::Later(error) => {
                if error.code == "mint_down" {
                    got = Err(MintDown);
                }
                (RefundStanding::Owed, error.message)
            }
        };
        if let Err(error) = self.records.save_refund(name, &saved) {
            // The next run asks the mint and finds it done.
            tracing::warn!(%error, "a refund's state could not be written down");
        }
        got
    }

    /// Redeems all refunds that are written down and not in the wallet yet; the
    /// sum that came in. Mints are asked at the same time, and one that does not
    /// answer is asked once, however many refunds it owes.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn receive_refunds(&self) -> Result<Msat, ClientError> {
        let mut owed = self.records.refunds()?;
        owed.retain(|(_, saved)| match saved.standing {
            RefundStanding::Owed => true,
            RefundStanding::ForeignMint => self.trusts(&saved.refund.mint),
            RefundStanding::Received | RefundStanding::Bad => false,
        });
        if owed.is_empty() {
            return Ok(Msat::ZERO);
        }
        // One session for all of them; where there is none, each says why.
        let session = self.wallet().await.ok();
        let mut by_mint: BTreeMap<Option<MintUrl>, Vec<_>> = BTreeMap::new();
        for (name, saved) in owed {
            // What the token says: its provider may have written another beside it.
            let info = session
                .as_ref()
                .map(|it| it.wallet().inspect(&saved.refund.token));
            let mint = info.and_then(Result::ok).map(|info| info.mint);
            by_mint.entry(mint).or_default().push((name, saved));
        }
        let rounds = by_mint.into_values().map(async |refunds| {
            let mut came = Vec::new();
            for (name, saved) in refunds {
                match self.redeem_refund(&name, saved).await {
                    Ok(net) => came.extend(net),
                    Err(MintDown) => break,
                }
            }
            came
        });
        let came = futures::future::join_all(rounds).await;
        // A sum that does not fit is no reason to fail: the money is in.
        Ok(Msat::checked_sum(came.into_iter().flatten()).unwrap_or(Msat::new(u64::MAX)))
    }

    fn trusts(&self, mint: &str) -> bool {
        wallet::normalise(mint).is_ok_and(|mint| {
            self.settings
                .mints
                .iter()
                .any(|ours| same_mint(ours, &mint))
        })
    }
}

/// The wallet in a home.
async fn open_wallet(home: &Home, mints: &[String]) -> Result<CdkWallet, ClientError> {
    let (seed, is_new) = seed::load_or_new(&home.path("seed")).map_err(|error| {
        ClientError::usage(
            "bad_seed",
            error.to_string(),
            "Put back the file from your backup.",
        )
    })?;
    let mint = |url: &String| WalletMint {
        url: url.clone(),
        requests_per_minute: MINT_REQUESTS_PER_MINUTE,
    };
    let options = WalletOptions {
        dir: home.path("wallet"),
        seed,
        mints: mints.iter().map(mint).collect(),
        timeout: MINT_TIMEOUT,
        allow_any_mint: false,
    };
    let end = Instant::now() + CLOSING;
    loop {
        match CdkWallet::open(options.clone()).await {
            // A wallet that was dropped closes its file a moment later.
            Err(WalletError::Store(_)) if Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            opened => {
                let wallet = opened?;
                if is_new {
                    wallet.seed_is_new().await?;
                }
                return Ok(wallet);
            }
        }
    }
}

pub(super) fn paid_by(sent: SentToken, lock: Option<LockTo>) -> Paid {
    Paid {
        token: sent.token,
        mint: sent.mint,
        unit: sent.unit,
        face: sent.face,
        source: Source::Wallet,
        lock,
    }
}

pub(super) fn same_mint(url: &str, mint: &MintUrl) -> bool {
    wallet::normalise(url).is_ok_and(|url| url == *mint)
}

/// The unit's name in tokens and offers.
pub fn unit_name(unit: &Unit) -> &'static str {
    match unit {
        Unit::Sat => "sat",
        Unit::Msat => "msat",
    }
}
