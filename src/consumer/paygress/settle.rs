//! From a reply, or from none, to its consequences. The mint says what became
//! of a token; every way out of here leaves it in the wallet, with the user, in
//! a request that is looked at again, or written down as lost.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::client::{Client, Progress, no_answer, now};
use super::super::error::{ClientError, Kind, Returned};
use super::super::history::Fate;
use super::super::purse::{Landed, unit_name};
use super::super::reads::bad_answer;
use super::super::records::{
    KnownLease, Paid, PaygressRequest, SavedRequest, Source, Standing, Whence,
};
use super::super::settle::{Settled, came_back};
use super::access::password;
use super::keys::lease_keys;
use super::lease::cut;
use super::line::{Asking, Heard, Line, Request as Sent};
use super::{ANSWER_TIMEOUT, fit};
use crate::core::money::Msat;
use crate::core::pricing::purchase;
use crate::protocol::error::Money;
use crate::protocol::paygress::reply::{ErrorReply, ErrorType, Reply, StatusReply, TopUpDone};
use crate::protocol::reply::Refund;
use crate::wallet;

/// How long stored replies may take to come out once the relays are ready.
const STORED: Duration = Duration::from_secs(1);

/// The message that carries a request: the same event each time.
pub(super) fn request(saved: &SavedRequest) -> Sent<'_> {
    Sent {
        to: saved.provider,
        body: &saved.body,
        written_at: saved.written_at,
        expires_at: saved.expires_at,
    }
}

pub(super) fn refused_by_relays() -> ClientError {
    ClientError::new(
        Kind::Network,
        "no_relay",
        "every relay refused the request; it was not sent",
        "Use other relays (--relay): the provider must read there too.",
    )
}

/// What the provider said, as a failure.
pub(super) fn said(error: &ErrorReply) -> ClientError {
    let known = ErrorType::from_name(&error.error_type);
    let code = known.map_or("provider_error", ErrorType::name);
    let kind = match known {
        Some(ErrorType::NotFound) => Kind::NotFound,
        _ => Kind::Refused,
    };
    let message = format!(
        "the provider says: {} ({})",
        cut(&error.message),
        cut(&error.error_type)
    );
    ClientError::new(kind, code, message, "Choose another provider: satlet list.")
}

impl Client {
    /// Draws the consequences of what was heard.
    pub(super) async fn conclude(
        &self,
        saved: SavedRequest,
        heard: Result<Heard, ClientError>,
        line: &mut Line,
        progress: Progress<'_>,
    ) -> Result<Settled, ClientError> {
        let heard = match heard {
            Ok(heard) => heard,
            Err(error) => return Err(self.unsent(saved, error).await),
        };
        let info = info(&saved)?;
        match heard.reply {
            Some((Reply::Error(error), _)) => Err(self.refused_by(saved, &error).await),
            Some((Reply::Access(access), exact)) => {
                self.leased(saved, &info, &access, exact, progress)
            }
            Some((Reply::TopUp(done), _)) => self.topped_up(saved, &info, &done),
            Some((Reply::Status(_), _)) => Err(bad_answer()),
            None if !heard.sent => Err(self.unsent(saved, refused_by_relays()).await),
            None => self.silent(saved, line, &heard.ids, progress).await,
        }
    }

    /// Looks after a request that an earlier command left. The claim is held.
    pub(in super::super) async fn resume_paygress(
        &self,
        saved: SavedRequest,
        wait: Duration,
        progress: Progress<'_>,
    ) -> Result<Settled, ClientError> {
        if saved.standing == Standing::TakeBack {
            let error = ClientError::new(Kind::Refused, "refused", saved.note.clone(), "");
            return Err(self.take_token_back(saved, error, Msat::ZERO).await);
        }
        let info = info(&saved)?;
        let known = self.records.lease(&saved.provider, &info.lease)?;
        if let (Some(lease), "spawn") = (&known, saved.kind.as_str()) {
            // Written down just before a crash; only its request is open.
            let password = password(&self.home, lease)?.unwrap_or_default();
            return self.spawned(saved, &info, lease.clone(), &password);
        }
        let keys = lease_keys(&self.keys, info.key_index)?;
        let open = Line::open(self, keys, &saved.relays).await;
        let mut line = open.map_err(|error| pending(error, &saved))?;
        let stale: BTreeSet<_> = known
            .iter()
            .filter_map(|lease| lease.paygress.as_ref())
            .flat_map(|old| old.heard.iter().copied())
            .collect();
        let pod = known.as_ref().and_then(pod_of);
        let left = Duration::from_secs(saved.expires_at.secs_since(now()));
        let asking = Asking {
            send: false,
            stale: &stale,
            fits: &|reply| match &pod {
                Some(pod) => fit::topup(reply, pod, info.ends),
                None => fit::spawn(reply, &info.spec),
            },
            wait: left.min(wait).max(STORED),
        };
        let heard = line.ask(&request(&saved), &asking, progress).await?;
        let ids = heard.ids.clone();
        match heard.reply {
            Some(_) => self.conclude(saved, Ok(heard), &mut line, progress).await,
            None if now() < saved.expires_at => {
                let waited = wait.min(ANSWER_TIMEOUT);
                Err(pending(no_answer(true, waited), &saved))
            }
            None if saved.standing == Standing::Pending => {
                self.paid_unanswered(saved, &mut line, &ids, progress).await
            }
            None => self.silent(saved, &mut line, &ids, progress).await,
        }
    }

    /// No reply came in time: the mint says what became of the token.
    async fn silent(
        &self,
        mut saved: SavedRequest,
        line: &mut Line,
        ids: &BTreeSet<crate::core::ids::EventId>,
        progress: Progress<'_>,
    ) -> Result<Settled, ClientError> {
        progress("no reply; asking the mint what became of the token");
        let error = ClientError::new(
            Kind::Timeout,
            "no_answer",
            "the provider never answered",
            "Choose another provider: satlet list.",
        )
        .with_request(saved.request_id);
        let paid = paid(&saved)?;
        match self.land(&paid).await {
            Landed::Gone => self.paid_unanswered(saved, line, ids, progress).await,
            Landed::Wallet(net) => {
                saved.fate = Some(Fate::TakenBack { net });
                self.close(
                    &mut saved,
                    "never answered; the token is back in the wallet",
                )?;
                Err(came_back(error, net))
            }
            other => Err(self.not_landed(saved, &paid, error, other)?),
        }
    }

    /// The token is spent and no reply came: the provider is asked for the
    /// workload of this key, which is how a lost reply is made good.
    async fn paid_unanswered(
        &self,
        mut saved: SavedRequest,
        line: &mut Line,
        ids: &BTreeSet<crate::core::ids::EventId>,
        progress: Progress<'_>,
    ) -> Result<Settled, ClientError> {
        saved.standing = Standing::Pending;
        "paid, no answer".clone_into(&mut saved.note);
        self.records.save_request(&saved)?;
        progress("the token is spent; asking for the workload");
        let info = info(&saved)?;
        let known = self.records.lease(&saved.provider, &info.lease)?;
        let pod = known.as_ref().and_then(pod_of);
        let owner = super::super::home::public_key(&lease_keys(&self.keys, info.key_index)?);
        // A name that is no number makes providers look by owner.
        let name = pod.clone().unwrap_or_else(|| owner.to_hex());
        let asked = self
            .ask_status(line, &saved.provider, pod.as_deref(), &name, ids, progress)
            .await;
        let reply = asked.ok().and_then(|heard| heard.reply);
        match (reply, known) {
            (Some((Reply::Status(status), _)), None) if alive(&status) => {
                self.found_again(saved, &info, &status)
            }
            (Some((Reply::Status(status), _)), Some(_))
                if fit::instant(&status.expires_at) > info.ends =>
            {
                let done = TopUpDone {
                    success: true,
                    pod_npub: status.pod_id.clone(),
                    extended_duration_seconds: longer(&info, &status),
                    new_expires_at: status.expires_at.clone(),
                    message: String::new(),
                };
                self.topped_up(saved, &info, &done)
            }
            _ => Err(self.still_unanswered(saved, &info)?),
        }
    }

    fn still_unanswered(
        &self,
        mut saved: SavedRequest,
        info: &PaygressRequest,
    ) -> Result<ClientError, ClientError> {
        let bought = purchase(info.net, info.spec.rate_msats_per_sec);
        let over = saved
            .expires_at
            .plus_secs(bought.map_or(0, |bought| bought.seconds));
        if now() > over {
            saved.standing = Standing::Lost;
            "spent, and never answered; what it paid for is over".clone_into(&mut saved.note);
            self.records.save_request(&saved)?;
        }
        Ok(ClientError::new(
            Kind::Payment,
            "paid_no_answer",
            "paid, no answer: the mint says that the token is spent, and the provider says nothing of a workload",
            format!("Ask again: satlet status {}. There is no refund.", saved.request_id),
        )
        .with_money(Money::Taken)
        .with_request(saved.request_id))
    }

    /// The provider said no: a refund in its words is received, and the mint
    /// says what became of the token.
    async fn refused_by(&self, mut saved: SavedRequest, error: &ErrorReply) -> ClientError {
        let failure = said(error).with_request(saved.request_id);
        let noted = async {
            let refunds: Vec<Refund> = refund_in(error, &saved).into_iter().collect();
            saved.standing = Standing::TakeBack;
            saved.note.clone_from(&failure.message);
            self.records.save_request(&saved)?;
            let whence = Whence {
                request: Some(saved.request_id),
                lease: None,
            };
            self.take_refunds(&saved.provider, &refunds, &whence).await
        };
        match noted.await {
            Ok(refunded) => self.take_token_back(saved, failure, refunded).await,
            Err(error) => ClientError {
                message: format!("{}; and then: {}", failure.message, error.message),
                ..pending(failure, &saved)
            },
        }
    }

    /// The request was not sent: its token goes back.
    pub(super) async fn unsent(&self, mut saved: SavedRequest, error: ClientError) -> ClientError {
        saved.standing = Standing::TakeBack;
        saved.note.clone_from(&error.message);
        if let Err(error) = self.records.save_request(&saved) {
            return pending(error.into(), &saved);
        }
        self.take_token_back(saved, error, Msat::ZERO).await
    }

    /// Puts the token of a refused request back, if the provider left it.
    async fn take_token_back(
        &self,
        mut saved: SavedRequest,
        error: ClientError,
        refunded: Msat,
    ) -> ClientError {
        let done = async {
            let paid = paid(&saved)?;
            match self.land(&paid).await {
                Landed::Wallet(net) => {
                    saved.fate = Some(Fate::TakenBack { net });
                    self.close(&mut saved, &format!("{}; the token is back", error.message))?;
                    let all = net.checked_add(refunded).unwrap_or(net);
                    Ok(came_back(error.clone(), all))
                }
                Landed::Gone => self.kept_by_provider(&mut saved, error.clone(), refunded),
                other => self.not_landed(saved.clone(), &paid, error.clone(), other),
            }
        };
        match done.await {
            Ok(error) => error,
            Err(failed) => ClientError {
                message: format!("{}; and then: {}", error.message, failed.message),
                ..error
            },
        }
    }

    fn kept_by_provider(
        &self,
        saved: &mut SavedRequest,
        mut error: ClientError,
        refunded: Msat,
    ) -> Result<ClientError, ClientError> {
        error.kind = Kind::Payment;
        error.money = Money::Taken;
        if refunded.is_zero() {
            saved.standing = Standing::Lost;
            saved.note = format!("spent, nothing received: {}", error.message);
            self.records.save_request(saved)?;
            error.message = format!(
                "{}; it took the money and gives nothing back: {} are lost",
                error.message,
                paid(saved)?.face
            );
            "There is no refund in this dialect. satlet wallet refunds lists what was lost; choose another provider."
                .clone_into(&mut error.suggestion);
            return Ok(error);
        }
        saved.fate = Some(Fate::Refused);
        self.close(saved, &format!("{}; it sent a refund", error.message))?;
        Ok(came_back(error, refunded))
    }

    /// The token is neither in the wallet nor known to be spent.
    fn not_landed(
        &self,
        mut saved: SavedRequest,
        paid: &Paid,
        mut error: ClientError,
        how: Landed,
    ) -> Result<ClientError, ClientError> {
        match how {
            Landed::Worthless(why) => self.close(&mut saved, &why)?,
            // Not ours to redeem: who pasted it gets it back, spent or not.
            Landed::Later(why)
                if paid.source == Source::Pasted && why.code == "mint_not_accepted" =>
            {
                saved.fate = Some(Fate::GivenBack);
                self.close(
                    &mut saved,
                    "the pasted token was given back; its mint was not asked",
                )?;
                error.token = Some(Returned(paid.token.clone().into()));
                error.money = Money::Pending;
                "The provider has seen this token: redeem it at once, it may be spent already."
                    .clone_into(&mut error.suggestion);
            }
            Landed::Later(why) => {
                error.message = format!(
                    "{}; the mint cannot say yet: {}",
                    error.message, why.message
                );
                error = pending(error, &saved);
            }
            Landed::Wallet(_) | Landed::Gone => {}
        }
        Ok(error)
    }

    /// Brings a token into the wallet, whoever made it: a provider that has
    /// seen it could still redeem it.
    async fn land(&self, paid: &Paid) -> Landed {
        match paid.source {
            Source::Wallet => self.put_back(paid).await,
            Source::Pasted => self.take_in(&paid.token).await,
        }
    }
}

fn info(saved: &SavedRequest) -> Result<PaygressRequest, ClientError> {
    let info = saved.paygress.clone();
    info.ok_or_else(|| ClientError::internal("the request is of another dialect"))
}

pub(super) fn paid(saved: &SavedRequest) -> Result<Paid, ClientError> {
    let paid = saved.paid.clone();
    paid.ok_or_else(|| ClientError::internal("the request carries no money"))
}

fn pod_of(lease: &KnownLease) -> Option<String> {
    lease.paygress.as_ref().map(|info| info.pod.clone())
}

fn alive(status: &StatusReply) -> bool {
    status.time_remaining_seconds > 0 && fit::instant(&status.expires_at).is_some()
}

fn longer(info: &PaygressRequest, status: &StatusReply) -> u64 {
    let old = info.ends.unwrap_or_default();
    fit::instant(&status.expires_at)
        .unwrap_or_default()
        .secs_since(old)
}
/// A token in an error's details: what a satlet provider gives back. Our own
/// token, quoted, is none.
fn refund_in(error: &ErrorReply, saved: &SavedRequest) -> Option<Refund> {
    let details = error.details.as_deref()?;
    let word = |c: char| c.is_ascii_alphanumeric() || "-_=".contains(c);
    let ours = saved.paid.as_ref().map(|paid| paid.token.as_str());
    let payment = |token: &str| wallet::read_info(token).ok();
    let found = details
        .match_indices("cashu")
        .filter_map(|(at, _)| details.get(at..))
        .map(|rest| rest.split(|c| !word(c)).next().unwrap_or_default())
        .filter_map(|token| payment(token).map(|info| (token, info)))
        .find(|(_, info)| {
            ours.and_then(payment)
                .is_none_or(|our| our.payment != info.payment)
        });
    let (token, info) = found?;
    Some(Refund {
        refund_id: info.payment.to_string(),
        token: token.to_owned(),
        amount_msat: info.face,
        mint: info.mint.0,
        unit: unit_name(&info.unit).to_owned(),
        why: cut(&error.message),
    })
}

/// Not decided: looked at again later.
fn pending(mut error: ClientError, saved: &SavedRequest) -> ClientError {
    error.money = Money::Pending;
    error.suggestion = format!(
        "satlet status {} (or the next money command) looks at it again.",
        saved.request_id
    );
    error.with_request(saved.request_id)
}
