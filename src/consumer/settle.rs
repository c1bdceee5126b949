//! From an answer to its consequences, and what earlier commands left behind.

use std::time::Duration;

use super::client::{Client, Due, Progress, now};
use super::error::{ClientError, Kind, Returned};
use super::history::Fate;
use super::invoice;
use super::money::{letter_of, undecided};
use super::purse::Landed;
use super::reads::bad_answer;
use super::records::{KnownLease, Paid, SavedRequest, Source, Standing, Whence};
use crate::core::ids::RequestId;
use crate::core::money::Msat;
use crate::protocol::error::{Money, WireError};
use crate::protocol::reply::{Answer, LeaseState, Outcome, Refund};

/// How long leftovers may hold up the command that comes after them.
const SETTLE_WAIT: Duration = Duration::from_secs(8);

/// A provider that has not answered for so long after the end is asked only
/// when the request is named: providers give up their answers by then.
const ASKED_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// The provider's clock may be behind ours by so much.
const CLOCK_MARGIN: u64 = 60;

/// A request that was answered, and what followed.
#[derive(Clone, Debug)]
pub struct Settled {
    /// The request.
    pub request_id: RequestId,
    /// What the provider answered.
    pub answer: Answer,
    /// The lease as it is known now.
    pub lease: Option<KnownLease>,
    /// Refunds that were received.
    pub refunded: Msat,
}

/// What became of a leftover.
#[derive(Clone, Debug)]
pub struct Leftover {
    /// The request.
    pub request_id: RequestId,
    /// `spawn`, `topup` or `stop`.
    pub kind: String,
    /// To whom.
    pub provider_name: String,
    /// How it stands now.
    pub result: Result<Settled, ClientError>,
}

impl Client {
    /// Looks after what earlier commands left: asks again for answers that did
    /// not come (same request id, same body), takes back tokens that are to
    /// come back, redeems refunds. What another process works on is left alone.
    ///
    /// # Errors
    /// The records cannot be read. That a provider does not answer is no error.
    pub async fn settle(&self, progress: Progress<'_>) -> Result<Vec<Leftover>, ClientError> {
        let open = self.records.open_requests()?;
        let wait = self.timeout.unwrap_or(SETTLE_WAIT).min(SETTLE_WAIT);
        let work = open
            .into_iter()
            .filter(|saved| {
                let locked = saved.paid.as_ref().is_some_and(|paid| paid.lock.is_some());
                saved.standing != Standing::Disputed
                    && (locked || now() < saved.expires_at.plus(ASKED_FOR))
            })
            .map(|saved| self.leftover(saved.request_id, wait, progress));
        let done = futures::future::join_all(work).await;
        self.bring_home(progress).await?;
        done.into_iter().filter_map(Result::transpose).collect()
    }

    /// Takes what is ours and can be had: tokens that were locked and never sent,
    /// once their locktime is over, and refunds that are written down. Asks mints
    /// alone, and nobody where there is nothing.
    ///
    /// # Errors
    /// The records cannot be read. That a mint does not answer is no error.
    pub async fn bring_home(&self, progress: Progress<'_>) -> Result<(), ClientError> {
        let back = self.unlock_unsent().await?;
        if !back.is_zero() {
            progress(&format!("{back} that were locked and never sent are back"));
        }
        let refunded = self.receive_refunds().await?;
        if !refunded.is_zero() {
            progress(&format!("{refunded} that were owed came back"));
        }
        Ok(())
    }

    /// Looks after one request; `None` if it is over, unknown, or another
    /// process works on it.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn leftover(
        &self,
        id: RequestId,
        wait: Duration,
        progress: Progress<'_>,
    ) -> Result<Option<Leftover>, ClientError> {
        self.look_after(id, wait, false, progress).await
    }

    /// As [`leftover`](Self::leftover), and an invoice that is still to be paid is
    /// shown again and waited for.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn resume(
        &self,
        id: RequestId,
        wait: Duration,
        progress: Progress<'_>,
    ) -> Result<Option<Leftover>, ClientError> {
        self.look_after(id, wait, true, progress).await
    }

    async fn look_after(
        &self,
        id: RequestId,
        wait: Duration,
        patient: bool,
        progress: Progress<'_>,
    ) -> Result<Option<Leftover>, ClientError> {
        let Some(_claim) = self.records.claim(&id)? else {
            return Ok(None);
        };
        // Read with the claim held: the other process may have finished it.
        let Some(saved) = self.records.request(&id)? else {
            return Ok(None);
        };
        let (kind, provider_name) = (saved.kind.clone(), saved.provider_name.clone());
        let result = match saved.standing {
            Standing::Done | Standing::Lost => return Ok(None),
            Standing::Open | Standing::Pending if saved.kind == "hold" => {
                self.resume_hold(saved, wait, progress).await
            }
            _ if saved.paygress.is_some() => self.resume_paygress(saved, wait, progress).await,
            Standing::TakeBack | Standing::Disputed => self.resume_take_back(saved).await,
            Standing::Open | Standing::Pending => {
                self.ask_again(saved, wait, patient, progress).await
            }
        };
        let text = match &result {
            Ok(_) => "was answered".to_owned(),
            Err(error) => error.message.clone(),
        };
        progress(&format!("earlier {kind} at {provider_name} ({id}): {text}"));
        Ok(Some(Leftover {
            request_id: id,
            kind,
            provider_name,
            result,
        }))
    }

    async fn ask_again(
        &self,
        saved: SavedRequest,
        wait: Duration,
        patient: bool,
        progress: Progress<'_>,
    ) -> Result<Settled, ClientError> {
        let id = saved.request_id;
        let due = Due {
            take: &|invoice| self.take_invoice(&saved, invoice, patient),
            patient: patient && self.timeout.is_none(),
        };
        let letter = letter_of(&saved);
        let answer = self.exchange(&letter, &id, wait, &due, progress).await;
        let over = now() > saved.expires_at.plus_secs(CLOCK_MARGIN);
        match answer {
            Ok(outcome) if saved.paid.is_none() || !(over && is_pending(&outcome)) => {
                self.apply(saved, outcome).await
            }
            Err(error) if !over || saved.paid.is_none() => Err(undecided(error, &saved)),
            // The provider may not begin any more: what the mint still calls
            // unspent comes back, by a swap that the provider cannot race.
            _ => self.reclaim(saved).await,
        }
    }

    async fn reclaim(&self, mut saved: SavedRequest) -> Result<Settled, ClientError> {
        let Some(paid) = saved.paid.clone() else {
            return Err(bad_answer());
        };
        let error = ClientError::new(
            Kind::Timeout,
            "no_answer",
            "the provider never answered, and the request has expired",
            "Choose a provider that is online.",
        )
        .with_request(saved.request_id);
        if paid.source == Source::Pasted {
            let mut error = undecided(error, &saved);
            error.token = Some(Returned(paid.token.into()));
            return Err(error);
        }
        match self.put_back(&paid).await {
            Landed::Wallet(net) => {
                saved.fate = Some(Fate::TakenBack { net });
                self.close(
                    &mut saved,
                    "never answered; the token is back in the wallet",
                )?;
                Err(came_back(error, net))
            }
            Landed::Gone => {
                saved.note = "the provider took the token and has not answered".to_owned();
                if paid.lock.is_some() && now() > saved.expires_at.plus(ASKED_FOR) {
                    saved.standing = Standing::Lost;
                }
                self.records.save_request(&saved)?;
                Err(undecided(error, &saved))
            }
            Landed::Worthless(why) => Err(undecided(
                ClientError {
                    message: why,
                    ..error
                },
                &saved,
            )),
            Landed::Later(later) => Err(undecided(later, &saved)),
        }
    }

    /// Draws the consequences of an answer: the lease or the refund is written
    /// down first, then the request is closed, then money is moved.
    pub(super) async fn apply(
        &self,
        mut saved: SavedRequest,
        outcome: Outcome,
    ) -> Result<Settled, ClientError> {
        // Its invoice was written down while it was waited for.
        if saved.order.is_some()
            && let Ok(Some(written)) = self.records.request(&saved.request_id)
        {
            saved.order = written.order;
        }
        let answer = match outcome {
            Outcome::Error(error) => return Err(self.refused(saved, &error).await),
            Outcome::Result(answer) => *answer,
        };
        let (lease, refunds) = self.write_answer(&saved, &answer)?;
        let whence = whence(&saved, lease.as_ref());
        for refund in &refunds {
            self.records.note_refund(&saved.provider, refund, &whence)?;
        }
        saved.fate = spent(&answer);
        self.close(&mut saved, "done")?;
        if let Answer::Stop(stopped) = &answer {
            let receipt = stopped.receipt.as_deref();
            self.note_receipt(&saved.provider, Some(&stopped.lease), receipt);
        }
        let refunded = self
            .take_refunds(&saved.provider, &refunds, &whence)
            .await?;
        Ok(Settled {
            request_id: saved.request_id,
            answer,
            lease,
            refunded,
        })
    }

    fn write_answer(
        &self,
        saved: &SavedRequest,
        answer: &Answer,
    ) -> Result<(Option<KnownLease>, Vec<Refund>), ClientError> {
        match (saved.kind.as_str(), answer) {
            ("spawn" | "claim", Answer::Spawn(spawned)) => {
                let mut lease = KnownLease {
                    provider: saved.provider,
                    provider_name: saved.provider_name.clone(),
                    relays: saved.relays.clone(),
                    mints: saved.mints.clone(),
                    lock: saved.lock.clone(),
                    ssh_key: saved.ssh_key.clone(),
                    status: spawned.status.clone(),
                    seen_at: now(),
                    paygress: None,
                };
                let refunds = std::mem::take(&mut lease.status.refunds);
                self.records.save_lease(&lease)?;
                Ok((Some(lease), refunds))
            }
            ("topup", Answer::Topup(added)) => {
                let known = self.records.lease(&saved.provider, &added.lease)?;
                let lease = known.map(|mut lease| {
                    lease.status.state = LeaseState::Active;
                    lease.status.expires_at = Some(added.expires_at);
                    lease.status.remaining_seconds = added.expires_at.secs_since(now());
                    lease.status.credit_msat = added.credit_msat;
                    lease.seen_at = now();
                    lease
                });
                if let Some(lease) = &lease {
                    self.records.save_lease(lease)?;
                }
                Ok((lease, Vec::new()))
            }
            ("stop", Answer::Stop(stopped)) => {
                let known = self.records.lease(&saved.provider, &stopped.lease)?;
                let lease = known.map(|mut lease| {
                    lease.status.state = LeaseState::Ended;
                    "stopped by its owner".clone_into(&mut lease.status.why);
                    lease.status.remaining_seconds = 0;
                    lease.status.access = None;
                    lease.seen_at = now();
                    lease
                });
                if let Some(lease) = &lease {
                    self.records.save_lease(lease)?;
                }
                Ok((lease, stopped.refund.iter().cloned().collect()))
            }
            // Not closed: the money is still the provider's to answer for.
            _ => Err(undecided(bad_answer(), saved)),
        }
    }

    /// What follows from a refusal.
    async fn refused(&self, mut saved: SavedRequest, wire: &WireError) -> ClientError {
        let error = ClientError::from_wire(wire).with_request(saved.request_id);
        match self.follow_refusal(&mut saved, wire, error.clone()).await {
            Ok(error) => error,
            Err(failed) => ClientError {
                message: format!("{}; and then: {}", error.message, failed.message),
                ..error
            },
        }
    }

    async fn follow_refusal(
        &self,
        saved: &mut SavedRequest,
        wire: &WireError,
        error: ClientError,
    ) -> Result<ClientError, ClientError> {
        let whence = whence(saved, None);
        if let Some(refund) = &wire.refund {
            self.records.note_refund(&saved.provider, refund, &whence)?;
        }
        self.note_receipt(&saved.provider, None, wire.receipt.as_deref());
        match (wire.money, saved.paid.clone()) {
            (Money::Pending, _) => {
                saved.standing = Standing::Pending;
                saved.note.clone_from(&wire.message);
                if let (Some(order), Some(due)) = (&saved.order, &wire.invoice) {
                    if let Some(wrong) = invoice::wrong(order, due) {
                        self.close(saved, &wrong.message)?;
                        return Ok(wrong.with_request(saved.request_id));
                    }
                    invoice::note(saved, due);
                }
                self.records.save_request(saved)?;
                return Ok(undecided(error, saved));
            }
            (Money::Untouched, Some(paid)) => {
                saved.standing = Standing::TakeBack;
                saved.note.clone_from(&wire.message);
                self.records.save_request(saved)?;
                return self.take_back(saved, &paid, error).await;
            }
            (Money::Untouched, None) => self.close(saved, &wire.message)?,
            (Money::Taken, paid) => {
                let cost = paid.is_some() || saved.order.is_some();
                saved.fate = cost.then_some(Fate::Refused);
                self.close(saved, &wire.message)?;
            }
        }
        let refunds: Vec<Refund> = wire.refund.iter().cloned().collect();
        let got = self
            .take_refunds(&saved.provider, &refunds, &whence)
            .await?;
        Ok(came_back(error, got))
    }

    /// Puts a token that the provider left untouched back where it came from.
    async fn take_back(
        &self,
        saved: &mut SavedRequest,
        paid: &Paid,
        mut error: ClientError,
    ) -> Result<ClientError, ClientError> {
        if paid.source == Source::Pasted {
            saved.fate = Some(Fate::GivenBack);
            self.close(saved, "refused; the pasted token was given back")?;
            error.token = Some(Returned(paid.token.clone().into()));
            return Ok(error);
        }
        Ok(match self.put_back(paid).await {
            Landed::Wallet(net) => {
                saved.fate = Some(Fate::TakenBack { net });
                self.close(saved, "refused; the token is back in the wallet")?;
                came_back(error, net)
            }
            Landed::Gone => {
                saved.standing = Standing::Disputed;
                "the provider says untouched, the mint says spent".clone_into(&mut saved.note);
                self.records.save_request(saved)?;
                error.kind = Kind::Payment;
                error.money = Money::Taken;
                error.message = format!(
                    "{}; the provider says that the token is untouched, but the mint says that it is spent",
                    error.message
                );
                error.suggestion = format!(
                    "Tell the provider's operator; request {} is kept with its token.",
                    saved.request_id
                );
                error
            }
            Landed::Worthless(why) => {
                self.close(saved, &why)?;
                error
            }
            Landed::Later(later) => {
                error.message = format!(
                    "{}; the token comes back to the wallet later: {}",
                    error.message, later.message
                );
                error
            }
        })
    }

    async fn resume_take_back(&self, mut saved: SavedRequest) -> Result<Settled, ClientError> {
        let error = ClientError::new(Kind::Refused, "refused", saved.note.clone(), "")
            .with_request(saved.request_id);
        match saved.paid.clone() {
            Some(paid) => Err(self.take_back(&mut saved, &paid, error).await?),
            None => Err(error),
        }
    }

    /// Puts a token back that was made and never sent.
    pub(super) async fn undo(&self, mut error: ClientError, paid: &Paid) -> ClientError {
        if paid.source == Source::Pasted {
            error.token = Some(Returned(paid.token.clone().into()));
            return error;
        }
        match self.put_back(paid).await {
            Landed::Wallet(net) => came_back(error, net),
            // It cannot be written down nor put back: the person gets it.
            _ => ClientError {
                token: Some(Returned(paid.token.clone().into())),
                ..error
            },
        }
    }

    pub(super) fn close(&self, saved: &mut SavedRequest, why: &str) -> Result<(), ClientError> {
        saved.standing = Standing::Done;
        why.clone_into(&mut saved.note);
        Ok(self.records.save_request(saved)?)
    }
}

/// What a refund in an answer to `saved` comes back for.
fn whence(saved: &SavedRequest, lease: Option<&KnownLease>) -> Whence {
    Whence {
        request: Some(saved.request_id),
        lease: lease.map(|lease| lease.status.lease.clone()),
    }
}

/// The money of a request that was answered so was spent for a lease.
fn spent(answer: &Answer) -> Option<Fate> {
    let (lease, mint_fee) = match answer {
        Answer::Spawn(spawned) => (&spawned.status.lease, spawned.mint_fee_msat),
        Answer::Topup(added) => (&added.lease, added.mint_fee_msat),
        _ => return None,
    };
    Some(Fate::Spent {
        lease: lease.clone(),
        mint_fee: Some(mint_fee),
    })
}

fn is_pending(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Error(error) if error.money == Money::Pending)
}

pub(super) fn came_back(error: ClientError, net: Msat) -> ClientError {
    ClientError {
        refunded_msat: net,
        ..error
    }
}
