//! Top-up and status of a lease: one at a time for each key.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::client::{Client, Progress, READ_TIMEOUT, no_answer, now};
use super::super::error::{ClientError, Kind};
use super::super::files::Lock;
use super::super::money::{Confirm, Pay, Written};
use super::super::reads::{Looked, bad_answer};
use super::super::records::{KnownLease, PaygressLease, PaygressRequest, SavedRequest, Standing};
use super::keys::lease_keys;
use super::line::{Asking, Heard, Line, Request as Sent};
use super::rent::body_of;
use super::{ANSWER_TIMEOUT, fit, settle, terms};
use crate::core::ids::{EventId, RequestId};
use crate::core::money::Msat;
use crate::core::time::Timestamp;
use crate::protocol::paygress::reply::{ErrorReply, ErrorType, Reply, StatusReply};
use crate::protocol::paygress::request::{Request, Status, TopUp};
use crate::protocol::reply::{Access, Answer, LeaseState, TopupAnswer};

/// How long to wait for another command about the same lease.
const LOCK_WAIT: Duration = Duration::from_secs(150);

/// Messages whose ids are kept with a lease: what a relay may still show.
const MAX_HEARD: usize = 64;

/// A lease whose end is so many seconds past is not topped up: clocks differ by less.
const OVER: u64 = 300;

impl Client {
    pub(in super::super) async fn paygress_topup(
        &self,
        lease: &KnownLease,
        pay: Pay,
        confirm: Confirm<'_>,
        progress: Progress<'_>,
    ) -> Result<TopupAnswer, ClientError> {
        self.settle(progress).await?;
        let _lock = self.only_one(lease).await?;
        let (lease, info) = self.fresh(lease)?;
        self.may_top_up(&lease)?;
        let (mut line, stale) = self.line_of(&lease, &info).await?;
        progress("paygress/1: what is paid now is not refunded either");
        let rate = lease.status.rate_msat_per_s;
        let (paid, unwritten) = match (terms::topup_amount(&pay, rate)?, &pay) {
            (Some(amount), _) => {
                self.pay_asked(&lease.mints, amount, None, None, confirm)
                    .await?
            }
            (None, Pay::Token(token)) => self.pasted(token, &lease.mints)?,
            (None, _) => return Err(ClientError::internal("no amount")),
        };
        let net = self.worth(&paid).await;
        let body = if net < Msat::new(rate) {
            Err(ClientError::usage(
                "amount_too_small",
                format!("{net} buys no second: the provider would take it and give nothing"),
                "Pay more.",
            ))
        } else {
            body_of(&Request::TopUp(TopUp {
                pod_npub: info.pod.clone(),
                cashu_token: paid.token.clone(),
            }))
        };
        let more = PaygressRequest {
            key_index: info.key_index,
            net,
            spec: info.spec.clone(),
            lease: lease.status.lease.clone(),
            ends: lease.status.expires_at,
        };
        let made = body.map(|body| SavedRequest {
            request_id: RequestId::new(uuid::Uuid::new_v4()),
            provider: lease.provider,
            provider_name: lease.provider_name.clone(),
            kind: "topup".to_owned(),
            body,
            written_at: now(),
            expires_at: now().plus(self.timeout.unwrap_or(ANSWER_TIMEOUT)),
            relays: lease.relays.clone(),
            mints: lease.mints.clone(),
            lock: None,
            paid: Some(paid.clone()),
            ssh_key: None,
            standing: Standing::Open,
            note: String::new(),
            paygress: Some(more),
            fate: None,
            order: None,
            together: None,
        });
        let written = self.keep(made, Some(paid), unwritten).await?;
        progress("waiting for the provider");
        let Written { saved, claim } = written;
        let ends = lease.status.expires_at;
        let asking = Asking {
            send: true,
            stale: &stale,
            fits: &|reply| fit::topup(reply, &info.pod, ends),
            wait: self.timeout.unwrap_or(ANSWER_TIMEOUT),
        };
        let heard = line.ask(&settle::request(&saved), &asking, progress).await;
        self.note_heard(&lease, &stale, &heard)?;
        let settled = self.conclude(saved, heard, &mut line, progress).await;
        drop(claim);
        match settled?.answer {
            Answer::Topup(answer) => Ok(answer),
            _ => Err(bad_answer()),
        }
    }

    /// Whether a top-up now can be told apart from what was before.
    fn may_top_up(&self, lease: &KnownLease) -> Result<(), ClientError> {
        let id = &lease.status.lease;
        let over = lease.status.expires_at;
        if lease.status.state == LeaseState::Ended
            || over.is_some_and(|at| now() > at.plus_secs(OVER))
        {
            return Err(ClientError::new(
                Kind::NotFound,
                "lease_expired",
                format!("the time of lease {id} is over; it cannot be revived"),
                "Rent anew: satlet spawn PROVIDER.",
            ));
        }
        let open = self.records.open_requests()?;
        let same = open.iter().find(|one| {
            let of = one.paygress.as_ref().map(|info| &info.lease);
            one.provider == lease.provider && of == Some(id)
        });
        match same {
            None => Ok(()),
            Some(open) => Err(ClientError::new(
                Kind::Payment,
                "request_open",
                format!("an earlier {} of lease {id} is not decided yet; their answers could not be told apart", open.kind),
                format!("See satlet status {}.", open.request_id),
            )
            .with_request(open.request_id)),
        }
    }

    pub(in super::super) async fn paygress_status(
        &self,
        lease: &KnownLease,
        progress: Progress<'_>,
    ) -> Result<Looked, ClientError> {
        let _lock = self.only_one(lease).await?;
        let (lease, info) = self.fresh(lease)?;
        let (mut line, stale) = self.line_of(&lease, &info).await?;
        let heard = self
            .ask_status(
                &mut line,
                &lease.provider,
                Some(&info.pod),
                &info.pod,
                &stale,
                progress,
            )
            .await;
        let lease = self.note_heard(&lease, &stale, &heard)?;
        let wait = self.timeout.unwrap_or(READ_TIMEOUT);
        let lease = match heard?.reply {
            None => return Err(no_answer(true, wait)),
            Some((Reply::Status(status), _)) => seen(lease, &status),
            Some((Reply::Error(error), _)) => ended(lease, &error)?,
            Some(_) => return Err(bad_answer()),
        };
        self.looked(lease).await
    }

    /// Asks how a workload is; `name` is what the provider is asked for, `pod`
    /// what the answer must be about.
    pub(super) async fn ask_status(
        &self,
        line: &mut Line,
        provider: &crate::core::ids::PublicKey,
        pod: Option<&str>,
        name: &str,
        stale: &BTreeSet<EventId>,
        progress: Progress<'_>,
    ) -> Result<Heard, ClientError> {
        let body = body_of(&Request::Status(Status {
            pod_id: name.to_owned(),
        }))?;
        let wait = self.timeout.unwrap_or(READ_TIMEOUT);
        let request = Sent {
            to: *provider,
            body: &body,
            written_at: now(),
            expires_at: now().plus(wait),
        };
        let asking = Asking {
            send: true,
            stale,
            fits: &|reply| fit::status(reply, pod),
            wait,
        };
        line.ask(&request, &asking, progress).await
    }

    /// The right to ask about a lease: no reply names its request.
    async fn only_one(&self, lease: &KnownLease) -> Result<Lock, ClientError> {
        let lock = self.records.claim_lease(lease, LOCK_WAIT).await?;
        lock.ok_or_else(|| {
            ClientError::new(
                Kind::Internal,
                "lease_busy",
                "another satlet has been asking about this lease for too long",
                "Wait for the other command, or end it.",
            )
        })
    }

    /// The lease as it is written down now.
    fn fresh(&self, lease: &KnownLease) -> Result<(KnownLease, PaygressLease), ClientError> {
        let known = self.records.lease(&lease.provider, &lease.status.lease)?;
        let lease = known.unwrap_or_else(|| lease.clone());
        match lease.paygress.clone() {
            Some(info) => Ok((lease, info)),
            None => Err(ClientError::internal("a lease changed its dialect")),
        }
    }

    /// A line with the lease's key, and what was said on it before.
    async fn line_of(
        &self,
        lease: &KnownLease,
        info: &PaygressLease,
    ) -> Result<(Line, BTreeSet<EventId>), ClientError> {
        let keys = lease_keys(&self.keys, info.key_index)?;
        let mut line = Line::open(self, keys, &lease.relays).await?;
        let mut stale: BTreeSet<EventId> = info.heard.iter().copied().collect();
        stale.extend(line.stored(&lease.provider).iter().map(|one| one.rumor));
        Ok((line, stale))
    }

    /// Keeps the ids of what was said, so that it is not heard again.
    fn note_heard(
        &self,
        lease: &KnownLease,
        stale: &BTreeSet<EventId>,
        heard: &Result<Heard, ClientError>,
    ) -> Result<KnownLease, ClientError> {
        let mut lease = lease.clone();
        let new = heard.as_ref().map(|heard| &heard.ids).ok();
        if let Some(info) = &mut lease.paygress {
            for id in stale.iter().chain(new.into_iter().flatten()) {
                if !info.heard.contains(id) {
                    info.heard.push(*id);
                }
            }
            let surplus = info.heard.len().saturating_sub(MAX_HEARD);
            info.heard.drain(..surplus);
        }
        self.records.save_lease(&lease)?;
        Ok(lease)
    }
}

/// The lease as a status says that it is.
pub(super) fn seen(mut lease: KnownLease, status: &StatusReply) -> KnownLease {
    let ends = fit::instant(&status.expires_at);
    let over = ["expired", "terminated", "failed", "error"]
        .iter()
        .any(|word| status.status.eq_ignore_ascii_case(word));
    let starting = ["pending", "starting"]
        .iter()
        .any(|word| status.status.eq_ignore_ascii_case(word));
    let known = &mut lease.status;
    known.state = match (over, starting) {
        (true, _) => LeaseState::Ended,
        (false, true) => LeaseState::Starting,
        (false, false) => LeaseState::Active,
    };
    known.why = format!("the provider says: {}", cut(&status.status));
    known.expires_at = ends.or(known.expires_at);
    known.remaining_seconds = if over { 0 } else { remaining(ends, status) };
    let pinned = lease.paygress.as_ref().map(|info| info.host_key.clone());
    known.access = (!over && !status.ssh_host.is_empty() && status.ssh_port != 0).then(|| Access {
        host: status.ssh_host.clone(),
        port: status.ssh_port,
        user: "root".to_owned(),
        host_key: pinned.unwrap_or_default(),
    });
    lease.seen_at = now();
    lease
}

fn remaining(ends: Option<Timestamp>, status: &StatusReply) -> u64 {
    ends.map_or(status.time_remaining_seconds, |at| at.secs_since(now()))
}

/// The lease after an error to a status; the error where it says nothing of it.
fn ended(mut lease: KnownLease, error: &ErrorReply) -> Result<KnownLease, ClientError> {
    let kind = ErrorType::from_name(&error.error_type);
    if !matches!(kind, Some(ErrorType::NotFound | ErrorType::LeaseExpired)) {
        return Err(settle::said(error));
    }
    lease.status.state = LeaseState::Ended;
    "the provider knows it no more".clone_into(&mut lease.status.why);
    lease.status.remaining_seconds = 0;
    lease.status.access = None;
    lease.seen_at = now();
    Ok(lease)
}

/// A stranger's sentence, short enough for a record.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(300).collect()
}
