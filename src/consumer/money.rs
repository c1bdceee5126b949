//! What costs or brings money: spawn, top-up, stop.

use std::path::PathBuf;

use super::client::{Client, LOCK_AFTER, LOCK_MOST, MONEY_TIMEOUT, Progress, body_of, now};
use super::error::{ClientError, Kind};
use super::files::Lock;
use super::locked::Locking;
use super::post::Letter;
use super::providers::Provider;
use super::purse::{Payment, Unwritten};
use super::reads::{accepted_mints, bad_answer};
use super::records::{KnownLease, Paid, SavedRequest, Standing};
use super::settle::Settled;
use crate::core::ids::RequestId;
use crate::core::money::Msat;
use crate::core::pricing::price;
use crate::core::time::Timestamp;
use crate::protocol::reply::{
    Answer, LockTerms, MintTerms, QuoteAnswer, SpawnAnswer, StopAnswer, TopupAnswer,
};
use crate::protocol::request::{Ask, Request, Spawn, Stop, Topup, Wanted};

/// How much to pay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Pay {
    /// The least that the provider sells.
    #[default]
    Minimum,
    /// For so many seconds.
    Seconds(u64),
    /// This much, after mint fees.
    Amount(Msat),
    /// With this token, whatever it is worth.
    Token(String),
}

/// Asked before money is spent: the price after mint fees. `false` stops.
pub type Confirm<'a> = &'a (dyn Fn(Msat) -> bool + Send + Sync);

/// A [`Confirm`] that always agrees.
pub fn agree(_: Msat) -> bool {
    true
}

/// What to buy and how.
#[derive(Clone, Debug, Default)]
pub struct SpawnOptions {
    /// What is wanted. Without `ssh_keys` the home's own key is sent.
    pub wanted: Wanted,
    /// The private SSH key that goes with `wanted.ssh_keys`.
    pub ssh_key: Option<PathBuf>,
    /// How much to pay.
    pub pay: Pay,
    /// Return when a relay took the request; the answer is picked up later.
    pub detach: bool,
}

/// What a spawn came to.
#[derive(Clone, Debug)]
pub enum Spawned {
    /// There it is.
    Leased(Box<Leased>),
    /// A relay took the request; [`Client::settle`] picks up the answer.
    Detached(RequestId),
}

/// A new lease.
#[derive(Clone, Debug)]
pub struct Leased {
    /// The request.
    pub request_id: RequestId,
    /// The lease, as it is known now.
    pub lease: KnownLease,
    /// What the provider answered.
    pub answer: SpawnAnswer,
    /// What was given away: the token's face.
    pub face: Msat,
}

/// An ended lease.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// What the provider answered.
    pub answer: StopAnswer,
    /// What the wallet got.
    pub received: Msat,
}

impl Client {
    /// Buys a workload: quote, pay, spawn, wait. The token is written down
    /// before it is sent.
    ///
    /// # Errors
    /// As the provider says; no balance; no answer. `money` says where the
    /// money is, and what is undecided is asked for again by the next command.
    pub async fn spawn(
        &self,
        provider: &Provider,
        options: SpawnOptions,
        confirm: Confirm<'_>,
        progress: Progress<'_>,
    ) -> Result<Spawned, ClientError> {
        super::reads::must_speak(provider)?;
        self.settle(progress).await?;
        let mut wanted = options.wanted;
        let ssh_key = self.key_for(&mut wanted, options.ssh_key)?;
        progress("asking for the price");
        let seconds = match options.pay {
            Pay::Seconds(seconds) => Some(seconds),
            _ => None,
        };
        let quote = self
            .quote(provider, wanted.clone(), seconds, progress)
            .await?;
        fair(provider, &quote, seconds)?;
        let paid = self
            .pay_quote(&quote, &options.pay, confirm, progress)
            .await?;
        let token = paid.0.token.clone();
        let ask = Ask::Spawn(Spawn {
            wanted,
            token,
            quote_id: Some(quote.quote_id),
            refund_key: self.refund_key().await,
        });
        let lease = Peer::of(provider, quote.mints, quote.lock);
        let written = self.write_down(lease, ask, Some(paid), ssh_key).await?;
        let (id, face) = (written.saved.request_id, face_of(&written.saved));
        progress("waiting for the workload");
        if options.detach {
            self.hand_over_written(&written, progress).await?;
            return Ok(Spawned::Detached(id));
        }
        let settled = self.carry(written, progress).await?;
        match (settled.answer, settled.lease) {
            (Answer::Spawn(answer), Some(lease)) => Ok(Spawned::Leased(Box::new(Leased {
                request_id: id,
                lease,
                answer,
                face,
            }))),
            _ => Err(bad_answer()),
        }
    }

    /// Buys more time for a lease. With [`Pay::Minimum`] a minute.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub async fn topup(
        &self,
        lease: &KnownLease,
        pay: Pay,
        confirm: Confirm<'_>,
        progress: Progress<'_>,
    ) -> Result<TopupAnswer, ClientError> {
        if lease.paygress.is_some() {
            return self.paygress_topup(lease, pay, confirm, progress).await;
        }
        self.settle(progress).await?;
        let rate = lease.status.rate_msat_per_s;
        let paid = match pay {
            Pay::Token(token) => self.pasted(&token, &lease.mints)?,
            Pay::Amount(amount) => {
                let lock = self.locking(lease.lock.as_ref())?;
                self.pay_asked(&lease.mints, amount, None, lock, confirm)
                    .await?
            }
            Pay::Seconds(_) | Pay::Minimum => {
                let seconds = if let Pay::Seconds(seconds) = pay {
                    seconds
                } else {
                    60
                };
                let amount = price(seconds, rate).ok_or_else(too_much)?;
                let lock = self.locking(lease.lock.as_ref())?;
                self.pay_asked(&lease.mints, amount, None, lock, confirm)
                    .await?
            }
        };
        let ask = Ask::Topup(Topup {
            lease: lease.status.lease.clone(),
            token: paid.0.token.clone(),
            refund_key: self.refund_key().await,
        });
        let written = self
            .write_down(Peer::of_lease(lease), ask, Some(paid), None)
            .await?;
        progress("waiting for the provider");
        match self.carry(written, progress).await?.answer {
            Answer::Topup(answer) => Ok(answer),
            _ => Err(bad_answer()),
        }
    }

    /// Ends a lease and receives the unserved money.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub async fn stop(
        &self,
        lease: &KnownLease,
        progress: Progress<'_>,
    ) -> Result<Stopped, ClientError> {
        if lease.paygress.is_some() {
            return Err(super::paygress::not_in_dialect(
                "stop",
                "The time that was paid runs out by itself; nothing comes back for it.",
            ));
        }
        self.settle(progress).await?;
        let ask = Ask::Stop(Stop {
            lease: lease.status.lease.clone(),
            refund_key: self.refund_key().await,
        });
        let written = self
            .write_down(Peer::of_lease(lease), ask, None, None)
            .await?;
        let settled = self.carry(written, progress).await?;
        match settled.answer {
            Answer::Stop(answer) => Ok(Stopped {
                answer,
                received: settled.refunded,
            }),
            _ => Err(bad_answer()),
        }
    }

    /// The private key that will open the lease; its public half is in `wanted`.
    pub(super) fn key_for(
        &self,
        wanted: &mut Wanted,
        chosen: Option<PathBuf>,
    ) -> Result<Option<PathBuf>, ClientError> {
        if !wanted.ssh_keys.is_empty() {
            return Ok(chosen);
        }
        let (path, public) = self.home.ssh_key()?;
        wanted.ssh_keys.push(public);
        Ok(Some(path))
    }

    async fn pay_quote(
        &self,
        quote: &QuoteAnswer,
        pay: &Pay,
        confirm: Confirm<'_>,
        progress: Progress<'_>,
    ) -> Result<Payment, ClientError> {
        let (least, most) = (quote.min_msat, quote.max_msat);
        let amount = match pay {
            Pay::Token(token) => {
                let payment = self.pasted(token, &quote.mints)?;
                let face = payment.0.face;
                return if face < least {
                    Err(too_little(face, least))
                } else {
                    Ok(payment)
                };
            }
            Pay::Minimum | Pay::Seconds(_) => quote.price_msat,
            Pay::Amount(amount) if *amount < least => return Err(too_little(*amount, least)),
            Pay::Amount(amount) if *amount > most => {
                return Err(ClientError::usage(
                    "duration_too_long",
                    format!("{amount} is more than the {most} that is sold at once"),
                    format!("Pay at most {} sat, and top up later.", most.whole_sat()),
                ));
            }
            Pay::Amount(amount) => *amount,
        };
        progress(&format!("paying {amount}"));
        let lock = self.locking(quote.lock.as_ref())?;
        self.pay_asked(&quote.mints, amount, Some(most), lock, confirm)
            .await
    }

    pub(super) async fn pay_asked(
        &self,
        mints: &[MintTerms],
        amount: Msat,
        at_most: Option<Msat>,
        lock: Option<Locking>,
        confirm: Confirm<'_>,
    ) -> Result<Payment, ClientError> {
        if !confirm(amount) {
            return Err(ClientError::usage(
                "not_confirmed",
                format!("the price of {amount} was not agreed to"),
                "Say --yes, or raise the limit: satlet config set ask_above_sat N.",
            ));
        }
        self.pay(mints, amount, at_most, lock.as_ref()).await
    }

    /// To whom the token of a request that is made now is locked, and until
    /// when; `None`: it is not locked.
    fn locking(&self, terms: Option<&LockTerms>) -> Result<Option<Locking>, ClientError> {
        let Some(terms) = terms.filter(|_| !self.no_lock) else {
            return Ok(None);
        };
        if terms.min_seconds > LOCK_MOST.as_secs() {
            return Err(ClientError::usage(
                "lock_too_long",
                format!(
                    "the provider wants tokens to be locked for {} s ahead",
                    terms.min_seconds
                ),
                "Choose another provider, or pay with an unlocked token: --no-lock.",
            ));
        }
        let after = LOCK_AFTER.as_secs().max(terms.min_seconds);
        let until = match self.lock_for {
            Some(time) => now().plus(time),
            None => self.ends().plus_secs(after),
        };
        Ok(Some(Locking {
            key: terms.key.clone(),
            until,
            hash: None,
        }))
    }

    /// After this the provider refuses a request that is written now.
    pub(super) fn ends(&self) -> Timestamp {
        now()
            .plus(self.timeout.unwrap_or(MONEY_TIMEOUT))
            .plus(MONEY_TIMEOUT)
    }

    /// Writes a request down; only afterwards may it be sent.
    pub(super) async fn write_down(
        &self,
        peer: Peer,
        ask: Ask,
        payment: Option<Payment>,
        ssh_key: Option<PathBuf>,
    ) -> Result<Written, ClientError> {
        let (paid, unwritten) =
            payment.map_or((None, None), |(paid, unwritten)| (Some(paid), unwritten));
        let kind = ask.name().to_owned();
        let id = RequestId::new(uuid::Uuid::new_v4());
        let expires_at = self.ends();
        let mut request = Request::new(id, ask);
        request.expires_at = paid.is_some().then_some(expires_at);
        let made = body_of(&request).map(|body| SavedRequest {
            request_id: id,
            provider: peer.key,
            provider_name: peer.name,
            kind,
            body,
            written_at: now(),
            expires_at,
            relays: peer.relays,
            mints: peer.mints,
            lock: peer.lock,
            paid: paid.clone(),
            ssh_key,
            standing: Standing::Open,
            note: String::new(),
            paygress: None,
            fate: None,
            together: None,
        });
        self.keep(made, paid, unwritten).await
    }

    /// Writes a request down and claims it; puts its token back if that fails.
    pub(super) async fn keep(
        &self,
        made: Result<SavedRequest, ClientError>,
        paid: Option<Paid>,
        unwritten: Option<Unwritten>,
    ) -> Result<Written, ClientError> {
        let made = made.and_then(|saved| {
            // Claimed first, so that no other process takes it for a leftover.
            let claim = self.records.claim(&saved.request_id)?;
            self.records.save_request(&saved)?;
            Ok(Written { saved, claim })
        });
        let result = match (made, paid) {
            // It comes back after its locktime; what was written down before the
            // mint was asked stays for that.
            (
                Err(error),
                Some(Paid {
                    lock: Some(lock), ..
                }),
            ) => {
                return Err(ClientError {
                    message: format!(
                        "{}; the token was not sent, and comes back after {}",
                        error.message, lock.locktime
                    ),
                    ..error
                });
            }
            // Nothing was sent, so the token is simply put back.
            (Err(error), Some(paid)) => Err(self.undo(error, &paid).await),
            (made, _) => made,
        };
        if let Some(unwritten) = unwritten {
            unwritten.written();
        }
        result
    }

    /// Sends a request that is written down and sees it through.
    pub(super) async fn carry(
        &self,
        written: Written,
        progress: Progress<'_>,
    ) -> Result<Settled, ClientError> {
        let Written { saved, claim } = written;
        let wait = self.timeout.unwrap_or(MONEY_TIMEOUT);
        let id = saved.request_id;
        let outcome = self.exchange(&letter_of(&saved), &id, wait, progress).await;
        let settled = match outcome {
            Ok(outcome) => self.apply(saved, outcome).await,
            Err(error) => Err(undecided(error, &saved)),
        };
        drop(claim);
        // What came in notices meanwhile; what fails now is tried again later.
        if let Err(error) = self.receive_refunds().await {
            tracing::debug!(%error, "refunds are looked at again later");
        }
        settled
    }

    async fn hand_over_written(
        &self,
        written: &Written,
        progress: Progress<'_>,
    ) -> Result<(), ClientError> {
        let wait = self.timeout.unwrap_or(MONEY_TIMEOUT);
        self.hand_over(&letter_of(&written.saved), wait, progress)
            .await
            .map_err(|error| undecided(error, &written.saved))
    }
}

/// A quote is what was asked for, at a price that follows from its rate, and
/// not dearer than the offer that the user chose by.
pub(super) fn fair(
    provider: &Provider,
    quote: &QuoteAnswer,
    seconds: Option<u64>,
) -> Result<(), ClientError> {
    let follows = price(quote.seconds, quote.rate_msat_per_s) == Some(quote.price_msat);
    if !follows || seconds.is_some_and(|seconds| seconds != quote.seconds) {
        return Err(bad_answer());
    }
    let specs = &provider.offer.specs;
    let offered = specs.iter().find(|spec| spec.id == quote.tier.as_str());
    match offered {
        Some(spec) if quote.rate_msat_per_s > dearest(spec.rate_msats_per_sec, quote) => {
            Err(ClientError::new(
                Kind::Refused,
                "dearer_than_offer",
                format!(
                    "the quote is {} msat/s, the offer says {} msat/s",
                    quote.rate_msat_per_s, spec.rate_msats_per_sec
                ),
                "Look again in a moment (satlet quote): the offer may be about to change.",
            ))
        }
        _ => Ok(()),
    }
}

/// The most that a quote may ask for where the offer asks for `offered`: a price
/// that follows a rate may have moved by a fiftieth since the offer was published.
fn dearest(offered: u64, quote: &QuoteAnswer) -> u64 {
    match quote.price_per_hour {
        Some(_) => offered.saturating_add(offered.div_ceil(50)),
        None => offered,
    }
}

/// A request that is written down and ours to work on.
pub(super) struct Written {
    pub(super) saved: SavedRequest,
    pub(super) claim: Option<Lock>,
}

/// Whom a request goes to.
pub(super) struct Peer {
    key: crate::core::ids::PublicKey,
    name: String,
    relays: Vec<String>,
    mints: Vec<MintTerms>,
    lock: Option<LockTerms>,
}

impl Peer {
    pub(super) fn of(provider: &Provider, mints: Vec<MintTerms>, lock: Option<LockTerms>) -> Self {
        let mints = if mints.is_empty() {
            accepted_mints(provider)
        } else {
            mints
        };
        Self {
            key: provider.key,
            name: provider.offer.hostname.clone(),
            relays: provider.relays(),
            mints,
            lock,
        }
    }

    fn of_lease(lease: &KnownLease) -> Self {
        Self {
            key: lease.provider,
            name: lease.provider_name.clone(),
            relays: lease.relays.clone(),
            mints: lease.mints.clone(),
            lock: lease.lock.clone(),
        }
    }
}

/// The message that carries a request: the same rumor each time.
pub(super) fn letter_of(saved: &SavedRequest) -> Letter {
    Letter {
        to: saved.provider,
        body: saved.body.clone(),
        written_at: saved.written_at,
        relays: saved.relays.clone(),
    }
}

fn face_of(saved: &SavedRequest) -> Msat {
    saved.paid.as_ref().map_or(Msat::ZERO, |paid| paid.face)
}

/// The provider was asked and has not decided: nothing is lost, it is asked again.
pub(super) fn undecided(mut error: ClientError, saved: &SavedRequest) -> ClientError {
    if saved.paid.is_some() {
        error.money = crate::protocol::error::Money::Pending;
    }
    error.suggestion = format!(
        "Nothing is lost: satlet status {} (or the next money command) asks again for the same request.",
        saved.request_id
    );
    error.with_request(saved.request_id)
}

fn too_little(amount: Msat, least: Msat) -> ClientError {
    ClientError::new(
        Kind::Usage,
        "amount_too_small",
        format!("{amount} is less than the {least} that is the least sold"),
        format!("Pay at least {} sat.", least.sat_ceil()),
    )
}

fn too_much() -> ClientError {
    ClientError::usage(
        "duration_too_long",
        "the duration is too long",
        "Ask for less.",
    )
}
