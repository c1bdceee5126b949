//! One purchase from several providers, of which all come about or none: a primary
//! with its standbys, say. Each provider's token is locked to its key and to one
//! hash (NUT-14), each holds room, and the preimage is given away when all do.
//!
//! | the process dies | what the next command finds |
//! |---|---|
//! | before all hold | holds that are given up: no preimage ever leaves, and the tokens come back after their locktime |
//! | after `claiming` is written down, the point of no return | claims, which are written from it and sent until each is answered |
//!
//! What can still go wrong after that point: a provider that held does not read
//! its claim before the hold ends. It took nothing then, and that token comes back.

use std::path::PathBuf;
use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};

use super::client::{Client, Due, LOCK_AFTER, Progress, body_of, now};
use super::error::{ClientError, Kind};
use super::locked::Locking;
use super::money::{Confirm, Leased, Pay, Peer, Source, Written, fair, letter_of, undecided};
use super::post::Letter;
use super::providers::Provider;
use super::reads::{bad_answer, must_speak};
use super::records::{SavedRequest, Standing};
use super::settle::Settled;
use crate::core::ids::{LeaseId, RequestId};
use crate::core::money::Msat;
use crate::core::time::Timestamp;
use crate::protocol::error::Money;
use crate::protocol::reply::{Answer, LockTerms, Outcome, QuoteAnswer};
use crate::protocol::request::{Ask, Claim, Funds, Release, Request, Spawn, Wanted};

/// How long providers have to hold, unless told otherwise.
const HOLD_WAIT: Duration = Duration::from_secs(45);
/// A hold has to last for so long when its claim is sent, in seconds.
const CLAIM_TIME: u64 = 20;
/// How long letting go of holds may take.
const RELEASE_WAIT: Duration = Duration::from_secs(3);

/// What is bought from one provider.
#[derive(Clone, Debug)]
pub struct Part {
    /// From whom.
    pub provider: Provider,
    /// What. Without `ssh_keys` the home's own key is sent.
    pub wanted: Wanted,
    /// The private SSH key that goes with `wanted.ssh_keys`.
    pub ssh_key: Option<PathBuf>,
    /// How much to pay; not with a token.
    pub pay: Pay,
}

/// What a purchase from several providers came to, once all of them held.
#[derive(Debug)]
pub struct Bought {
    /// What was given, in no order.
    pub leases: Vec<Leased>,
    /// What was claimed and not given, or not answered yet: the next command asks
    /// again, or takes the money back after its locktime.
    pub failed: Vec<ClientError>,
}

/// A purchase from several providers, as it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedTogether {
    /// Its number, which is its preimage's too.
    pub number: u64,
    /// Where it stands.
    pub stage: Stage,
}

/// Where a purchase from several providers stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "kebab-case")]
pub enum Stage {
    /// Providers are asked to hold. The preimage is known to nobody else.
    Holding,
    /// All of them held: the preimage may be out, and every hold is claimed.
    Claiming {
        /// By these requests.
        claims: Vec<SavedClaim>,
    },
    /// Given up: the preimage never leaves.
    Over,
}

/// Which request claims a hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedClaim {
    /// The request that asked for the hold.
    pub hold_request: RequestId,
    /// The hold.
    pub hold: LeaseId,
    /// The request that claims it.
    pub request: RequestId,
}

/// A part with its price.
struct Offered {
    part: Part,
    quote: QuoteAnswer,
    lock: LockTerms,
    /// For so many seconds it holds.
    holds: u64,
}

impl Client {
    /// Buys from all of these providers or from none. With an error nothing was
    /// bought, and what was locked comes back after its locktime.
    ///
    /// # Errors
    /// A provider refuses, does not hold, or does not answer in time; no balance.
    pub async fn buy_all(
        &self,
        parts: Vec<Part>,
        confirm: Confirm<'_>,
        progress: Progress<'_>,
    ) -> Result<Bought, ClientError> {
        self.settle(progress).await?;
        let mut offered = Vec::new();
        for part in parts {
            offered.push(self.offered(part, progress).await?);
        }
        let prices = offered.iter().map(amount).collect::<Result<Vec<_>, _>>()?;
        let total = Msat::checked_sum(prices).ok_or_else(bad_answer)?;
        if !confirm(total) {
            return Err(ClientError::usage(
                "not_confirmed",
                format!("the price of {total} in all was not agreed to"),
                "Say --yes, or raise the limit: satlet config set ask_above_sat N.",
            ));
        }
        let number = self.records.new_together()?;
        let (mut written, holds) = match self.lock_all(number, offered, progress).await {
            Ok(done) => done,
            Err((error, written)) => return Err(self.give_up(number, written, error).await),
        };
        progress("asking all of them to hold");
        let begun = now();
        let wait = self.timeout.unwrap_or(HOLD_WAIT).min(HOLD_WAIT);
        let asks = written.iter().map(|one| async move {
            let (letter, id) = (letter_of(&one.saved), one.saved.request_id);
            self.exchange(&letter, &id, wait, &Due::NONE, progress)
                .await
        });
        let mut held = Vec::new();
        let mut refused = None;
        for (outcome, one) in join_all(asks).await.into_iter().zip(&mut written) {
            match outcome {
                Ok(Outcome::Result(answer)) if matches!(*answer, Answer::Hold(_)) => {
                    if let Answer::Hold(answer) = *answer {
                        held.push((one.saved.request_id, answer.hold));
                    }
                }
                Ok(Outcome::Result(_)) => refused = Some(bad_answer()),
                Ok(Outcome::Error(error)) => {
                    one.saved.note.clone_from(&error.message);
                    refused = Some(ClientError::from_wire(&error));
                }
                Err(error) => refused = Some(error),
            }
        }
        if refused.is_none() && now().plus_secs(CLAIM_TIME) >= begun.plus_secs(holds) {
            refused = Some(too_late());
        }
        if let Some(error) = refused {
            self.release(&written, &held, progress).await;
            return Err(self.give_up(number, written, error).await);
        }
        progress("all of them hold; claiming");
        self.claim_all(number, written, held, progress).await
    }

    async fn offered(&self, part: Part, progress: Progress<'_>) -> Result<Offered, ClientError> {
        must_speak(&part.provider)?;
        let mut part = part;
        part.ssh_key = self.key_for(&mut part.wanted, part.ssh_key)?;
        let seconds = match part.pay {
            Pay::Seconds(seconds) => Some(seconds),
            _ => None,
        };
        let wanted = part.wanted.clone();
        let quote = self
            .quote(&part.provider, wanted, seconds, progress)
            .await?;
        fair(&part.provider, &quote, seconds)?;
        let terms = quote.lock.clone();
        let Some((lock, holds)) = terms.and_then(|lock| Some((lock.clone(), lock.hold_seconds?)))
        else {
            let name = &part.provider.offer.hostname;
            return Err(ClientError::new(
                Kind::Refused,
                "no_holds",
                format!("{name} does not hold for tokens that are locked to a hash"),
                "Choose another provider, or buy from each alone.",
            ));
        };
        Ok(Offered {
            part,
            quote,
            lock,
            holds,
        })
    }

    /// Makes a token for each provider and writes the request down that brings it.
    /// The shortest time for which one holds comes with them.
    async fn lock_all(
        &self,
        number: u64,
        offered: Vec<Offered>,
        progress: Progress<'_>,
    ) -> Result<(Vec<Written>, u64), (ClientError, Vec<Written>)> {
        let mut written = Vec::new();
        let holds = offered.iter().map(|one| one.holds).min().unwrap_or(0);
        let ahead = |one: &Offered| one.lock.min_seconds.saturating_add(one.holds);
        let ahead = offered.iter().map(ahead).max().unwrap_or(0);
        // One time for all, so that none comes back while another can be redeemed.
        let until = match self.lock_for {
            Some(time) => now().plus(time),
            None => self.ends().plus_secs(ahead.max(LOCK_AFTER.as_secs())),
        };
        for one in offered {
            match self.lock_one(number, until, one, progress).await {
                Ok(one) => written.push(one),
                Err(error) => return Err((error, written)),
            }
        }
        Ok((written, holds))
    }

    async fn lock_one(
        &self,
        number: u64,
        until: Timestamp,
        one: Offered,
        progress: Progress<'_>,
    ) -> Result<Written, ClientError> {
        let amount = amount(&one)?;
        let Offered {
            part, quote, lock, ..
        } = one;
        progress(&format!(
            "locking {amount} for {}",
            part.provider.offer.hostname
        ));
        let hash = self.wallet().await?.wallet().preimage(number)?.hash();
        let locking = Locking {
            key: lock.key.clone(),
            until,
            hash: Some(hash),
        };
        let paid = self
            .pay(&quote.mints, amount, Some(quote.max_msat), Some(&locking))
            .await?;
        let ask = Ask::Hold(Spawn {
            wanted: part.wanted,
            funds: Funds::Token(paid.0.token.clone()),
            quote_id: Some(quote.quote_id),
            refund_key: self.refund_key().await,
        });
        let peer = Peer::of(&part.provider, quote.mints, Some(lock));
        let mut written = self
            .write_down(peer, ask, Source::Token(paid), part.ssh_key)
            .await?;
        // Without it, it is a hold that is given up.
        written.saved.together = Some(number);
        self.records.save_request(&written.saved)?;
        Ok(written)
    }

    /// Gives all holds up, before the point of no return: what was locked comes
    /// back after its locktime.
    async fn give_up(&self, number: u64, written: Vec<Written>, error: ClientError) -> ClientError {
        let over = SavedTogether {
            number,
            stage: Stage::Over,
        };
        let mut noted = self.records.save_together(&over);
        for Written { mut saved, .. } in written {
            saved.standing = Standing::TakeBack;
            if saved.note.is_empty() {
                saved.note = format!("not all providers held: {}", error.message);
            }
            noted = noted.and(self.records.save_request(&saved));
        }
        if let Err(failed) = noted {
            // The next command gives it up: it was never claimed.
            tracing::warn!(%failed, "a purchase that was given up could not be written down");
        }
        ClientError {
            message: format!("nothing was bought: {}", error.message),
            money: Money::Untouched,
            ..error
        }
    }

    /// Lets go of what is held, as far as that is heard soon: it ends by itself.
    async fn release(
        &self,
        written: &[Written],
        held: &[(RequestId, LeaseId)],
        progress: Progress<'_>,
    ) {
        let letters = held.iter().filter_map(|(request, hold)| {
            let mut all = written.iter().map(|one| &one.saved);
            let saved = all.find(|saved| saved.request_id == *request)?;
            let id = RequestId::new(uuid::Uuid::new_v4());
            let hold = hold.clone();
            let body = body_of(&Request::new(id, Ask::Release(Release { hold }))).ok()?;
            Some(Letter {
                body,
                written_at: now(),
                ..letter_of(saved)
            })
        });
        let letters: Vec<Letter> = letters.collect();
        let sent = letters
            .iter()
            .map(|letter| self.hand_over(letter, RELEASE_WAIT, progress));
        for error in join_all(sent).await.into_iter().filter_map(Result::err) {
            tracing::debug!(message = error.message, "a hold was not released");
        }
    }

    /// From here all holds are claimed, whatever happens.
    async fn claim_all(
        &self,
        number: u64,
        written: Vec<Written>,
        held: Vec<(RequestId, LeaseId)>,
        progress: Progress<'_>,
    ) -> Result<Bought, ClientError> {
        let claim = |(hold_request, hold)| SavedClaim {
            hold_request,
            hold,
            request: RequestId::new(uuid::Uuid::new_v4()),
        };
        let claims: Vec<SavedClaim> = held.into_iter().map(claim).collect();
        let together = SavedTogether {
            number,
            stage: Stage::Claiming {
                claims: claims.clone(),
            },
        };
        self.records.save_together(&together)?;
        let mut bought = Bought {
            leases: Vec::new(),
            failed: Vec::new(),
        };
        let mut sent = Vec::new();
        for Written {
            saved,
            claim: _held,
        } in written
        {
            let of = claims
                .iter()
                .find(|claim| claim.hold_request == saved.request_id);
            match of {
                Some(claim) => sent.push(self.write_claim(number, claim, saved).await?),
                None => bought.failed.push(bad_answer()),
            }
        }
        let carried = sent.into_iter().map(|one| async {
            let face = one.saved.paid.as_ref().map_or(Msat::ZERO, |paid| paid.face);
            let settled = self.carry(one, progress).await?;
            leased(settled, face)
        });
        for done in join_all(carried).await {
            match done {
                Ok(lease) => bought.leases.push(lease),
                Err(error) => bought.failed.push(error),
            }
        }
        Ok(bought)
    }

    /// Writes the request down that claims a hold, and closes the one that asked
    /// for it. Both follow from what is written down, and may be done again.
    async fn write_claim(
        &self,
        number: u64,
        claim: &SavedClaim,
        mut hold: SavedRequest,
    ) -> Result<Written, ClientError> {
        let lock = self.records.claim(&claim.request)?;
        let saved = match self.records.request(&claim.request)? {
            Some(saved) => saved,
            None => {
                let preimage = self.wallet().await?.wallet().preimage(number)?;
                let ask = Ask::Claim(Claim {
                    hold: claim.hold.clone(),
                    preimage,
                });
                SavedRequest {
                    request_id: claim.request,
                    kind: ask.name().to_owned(),
                    body: body_of(&Request::new(claim.request, ask))?,
                    written_at: now(),
                    expires_at: self.ends(),
                    standing: Standing::Open,
                    note: String::new(),
                    ..hold.clone()
                }
            }
        };
        self.records.save_request(&saved)?;
        hold.paid = None;
        hold.standing = Standing::Done;
        hold.note = format!("claimed with request {}", claim.request);
        self.records.save_request(&hold)?;
        Ok(Written { saved, claim: lock })
    }

    /// What is left of a request for a hold whose process died: it is claimed, if
    /// that had begun, and given up otherwise. The caller has the right to it.
    pub(super) async fn resume_hold(
        &self,
        saved: SavedRequest,
        wait: Duration,
        progress: Progress<'_>,
    ) -> Result<Settled, ClientError> {
        let id = saved.request_id;
        let known = match saved.together {
            Some(number) => self.records.together(number)?,
            None => None,
        };
        if let Some(SavedTogether {
            number,
            stage: Stage::Claiming { claims },
        }) = &known
            && let Some(claim) = claims.iter().find(|claim| claim.hold_request == id)
        {
            let written = self.write_claim(*number, claim, saved).await?;
            let letter = letter_of(&written.saved);
            let answer = self
                .exchange(&letter, &claim.request, wait, &Due::NONE, progress)
                .await;
            return match answer {
                Ok(outcome) => self.apply(written.saved, outcome).await,
                Err(error) => Err(undecided(error, &written.saved)),
            };
        }
        let error = ClientError::new(
            Kind::Refused,
            "not_held",
            "the purchase was broken off before all providers held",
            "Buy again; the token comes back after its locktime.",
        )
        .with_request(id);
        let number = saved.together.unwrap_or_default();
        let written = Written { saved, claim: None };
        if known.is_some() {
            return Err(self.give_up(number, vec![written], error).await);
        }
        let mut saved = written.saved;
        saved.standing = Standing::TakeBack;
        saved.note.clone_from(&error.message);
        self.records.save_request(&saved)?;
        Err(error)
    }
}

fn leased(settled: Settled, face: Msat) -> Result<Leased, ClientError> {
    match (settled.answer, settled.lease) {
        (Answer::Spawn(answer), Some(lease)) => Ok(Leased {
            request_id: settled.request_id,
            lease,
            answer,
            face,
        }),
        _ => Err(bad_answer()),
    }
}

/// What is paid for a part, after mint fees.
fn amount(one: &Offered) -> Result<Msat, ClientError> {
    let quote = &one.quote;
    match &one.part.pay {
        Pay::Minimum | Pay::Seconds(_) => Ok(quote.price_msat),
        Pay::Amount(amount) if (quote.min_msat..=quote.max_msat).contains(amount) => Ok(*amount),
        Pay::Amount(amount) => Err(ClientError::usage(
            "bad_amount",
            format!(
                "{amount} is not between {} and {}",
                quote.min_msat, quote.max_msat
            ),
            "Pay an amount that the provider sells.",
        )),
        Pay::Lightning(_) => Err(ClientError::usage(
            "bad_amount",
            "what several providers sell together is paid with ecash",
            "Make ecash of it first: satlet wallet mint.",
        )),
        Pay::Token(_) => Err(ClientError::usage(
            "bad_amount",
            "a token that is there already cannot be locked to a hash",
            "Put it into the wallet first: satlet wallet receive.",
        )),
    }
}

fn too_late() -> ClientError {
    ClientError::new(
        Kind::Timeout,
        "not_held",
        "the providers took too long to hold",
        "Try again, or choose other providers.",
    )
}
