//! What costs or brings money: spawn, top-up, stop.

use std::path::PathBuf;

use super::choice::selling;
use super::client::{Client, Due, LOCK_AFTER, LOCK_MOST, MONEY_TIMEOUT, Progress, body_of, now};
use super::error::{ClientError, Kind};
use super::files::Lock;
use super::locked::Locking;
use super::post::Letter;
use super::providers::Provider;
use super::purse::{Payment, Unwritten};
use super::reads::{accepted_mints, bad_answer};
use super::records::{KnownLease, Paid, SavedOrder, SavedRequest, Standing};
use super::settle::Settled;
use crate::core::ids::RequestId;
use crate::core::money::Msat;
use crate::core::pricing::price;
use crate::core::time::Timestamp;
use crate::protocol::reply::{
    Answer, LockTerms, MintTerms, QuoteAnswer, SpawnAnswer, StopAnswer, TopupAnswer,
};
use crate::protocol::request::{Ask, Funds, Order, Request, Spawn, Stop, Topup, Wanted};

/// What a top-up buys if nothing is said, in seconds.
const TOPUP_SECONDS: u64 = 60;

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
    /// By Lightning, for so many seconds, or for the least that is sold: whoever
    /// runs this pays the invoice that is shown.
    Lightning(Option<u64>),
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
    /// Pay nothing: ask for what the provider gives.
    pub gift: bool,
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
    /// What was given away: the token's face, or what the invoice was over.
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
        if options.gift {
            super::gift::choose(provider, &mut wanted)?;
        }
        progress("asking for the price");
        let seconds = match options.pay {
            Pay::Seconds(seconds) => Some(seconds),
            Pay::Lightning(seconds) => seconds,
            _ => None,
        };
        let quote = self
            .quote(provider, wanted.clone(), seconds, progress)
            .await?;
        fair(provider, &quote, seconds)?;
        let (funds, source) = match &options.pay {
            _ if options.gift => (Funds::Gift, Source::Nothing),
            Pay::Lightning(_) => {
                ordered(quote.lightning.is_some(), quote.seconds, quote.price_msat)?
            }
            pay => from_token(self.pay_quote(&quote, pay, confirm, progress).await?),
        };
        let ask = Ask::Spawn(Spawn {
            wanted,
            funds,
            quote_id: Some(quote.quote_id),
            refund_key: self.refund_key().await,
        });
        let lease = Peer::of(provider, quote.mints, quote.lock);
        let written = self.write_down(lease, ask, source, ssh_key).await?;
        let (id, face) = (written.saved.request_id, face_of(&written.saved));
        progress(match written.saved.order {
            Some(_) => "waiting for the invoice",
            None => "waiting for the workload",
        });
        if options.detach {
            self.hand_over_written(&written, progress).await?;
            return Ok(Spawned::Detached(id));
        }
        let settled = self.carry(written, progress).await?;
        match (settled.answer, settled.lease) {
            (Answer::Spawn(answer), Some(lease)) => Ok(Spawned::Leased(Box::new(Leased {
                request_id: id,
                lease,
                // An invoice is paid in full, and says so in the answer.
                face: if face.is_zero() {
                    answer.paid_msat
                } else {
                    face
                },
                answer,
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
        let (funds, source) = match pay {
            Pay::Lightning(seconds) => {
                let seconds = seconds.unwrap_or(TOPUP_SECONDS);
                ordered(true, seconds, price(seconds, rate).ok_or_else(too_much)?)?
            }
            Pay::Token(token) => from_token(self.pasted(&token, &lease.mints)?),
            Pay::Amount(amount) => {
                let lock = self.locking(lease.lock.as_ref())?;
                let asked = self.pay_asked(&lease.mints, amount, None, lock, confirm);
                from_token(asked.await?)
            }
            Pay::Seconds(_) | Pay::Minimum => {
                let seconds = if let Pay::Seconds(seconds) = pay {
                    seconds
                } else {
                    TOPUP_SECONDS
                };
                let amount = price(seconds, rate).ok_or_else(too_much)?;
                let lock = self.locking(lease.lock.as_ref())?;
                let asked = self.pay_asked(&lease.mints, amount, None, lock, confirm);
                from_token(asked.await?)
            }
        };
        let ask = Ask::Topup(Topup {
            lease: lease.status.lease.clone(),
            funds,
            refund_key: self.refund_key().await,
        });
        let written = self
            .write_down(Peer::of_lease(lease), ask, source, None)
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
            .write_down(Peer::of_lease(lease), ask, Source::Nothing, None)
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
            Pay::Minimum | Pay::Seconds(_) | Pay::Lightning(_) => quote.price_msat,
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
        let mints = selling(&quote.mints, lock.is_some())?;
        self.pay_asked(&mints, amount, Some(most), lock, confirm)
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
        source: Source,
        ssh_key: Option<PathBuf>,
    ) -> Result<Written, ClientError> {
        let (paid, unwritten, order) = match source {
            Source::Token((paid, unwritten)) => (Some(paid), unwritten, None),
            Source::Invoice(order) => (None, None, Some(order)),
            Source::Nothing => (None, None, None),
        };
        let kind = ask.name().to_owned();
        let id = RequestId::new(uuid::Uuid::new_v4());
        let expires_at = self.ends();
        let begins = matches!(ask, Ask::Spawn(_) | Ask::Topup(_));
        let mut request = Request::new(id, ask);
        request.expires_at = begins.then_some(expires_at);
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
            order,
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
        let due = Due {
            take: &|invoice| self.take_invoice(&saved, invoice, true),
            patient: self.timeout.is_none(),
        };
        let letter = letter_of(&saved);
        let outcome = self.exchange(&letter, &id, wait, &due, progress).await;
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

/// Where the money of a request comes from.
pub(super) enum Source {
    /// It is in it.
    Token(Payment),
    /// Whoever runs this pays an invoice.
    Invoice(SavedOrder),
    /// It costs none.
    Nothing,
}

pub(super) fn no_lightning() -> ClientError {
    ClientError::usage(
        "no_lightning",
        "this provider takes no Lightning",
        "Pay with ecash (satlet wallet mint), or choose another provider.",
    )
}

fn from_token(payment: Payment) -> (Funds, Source) {
    let funds = Funds::Token(payment.0.token.clone());
    (funds, Source::Token(payment))
}

fn ordered(taken: bool, seconds: u64, price: Msat) -> Result<(Funds, Source), ClientError> {
    if !taken {
        return Err(no_lightning());
    }
    // An invoice is over whole satoshi.
    let most = Msat::from_sat(price.sat_ceil()).ok_or_else(too_much)?;
    let order = SavedOrder {
        most,
        invoice: None,
    };
    Ok((Funds::Invoice(Order { seconds }), Source::Invoice(order)))
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
    let invoice = |order: &SavedOrder| order.invoice.is_some();
    if saved.paid.is_some() || saved.order.as_ref().is_some_and(invoice) {
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
