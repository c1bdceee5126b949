//! Spawn: pay first, then hope. The line to the relays is open before money
//! moves, and the request is written down before it is sent.

use super::super::client::{Client, Progress, now};
use super::super::error::{ClientError, Kind};
use super::super::money::{Leased, Pay, SpawnOptions, Spawned, Written};
use super::super::providers::Provider;
use super::super::purse::Payment;
use super::super::reads::{accepted_mints, bad_answer};
use super::super::records::{Paid, PaygressRequest, SavedRequest, Standing};
use super::access::new_password;
use super::keys::lease_keys;
use super::line::{Asking, Line};
use super::terms::{self, Consent, Terms};
use super::{ANSWER_TIMEOUT, fit};
use crate::core::ids::{LeaseId, RequestId};
use crate::core::money::Msat;
use crate::core::pricing::purchase;
use crate::protocol::MAX_REQUEST;
use crate::protocol::offer::Spec;
use crate::protocol::paygress::DIALECT_NAME;
use crate::protocol::paygress::request::{Request, Spawn};
use crate::protocol::reply::{Answer, MintTerms};
use crate::protocol::request::Wanted;

impl Client {
    /// Buys a workload of a provider that speaks only "paygress/1". Nothing is
    /// refunded there: `consent` is asked before money moves.
    ///
    /// # Errors
    /// What the dialect cannot do, an offline provider, no consent, no balance:
    /// nothing paid. After that `money` says where the money is; what is
    /// undecided is looked at again by the next command.
    pub async fn rent(
        &self,
        provider: &Provider,
        options: SpawnOptions,
        consent: Consent<'_>,
        progress: Progress<'_>,
    ) -> Result<Spawned, ClientError> {
        must_listen(provider)?;
        let wanted = options.wanted;
        let spec = terms::tier(provider, wanted.tier.as_ref())?;
        terms::image(&wanted)?;
        self.settle(progress).await?;
        let key_index = self.next_key().await?;
        let keys = lease_keys(&self.keys, key_index)?;
        let mut line = Line::open(self, keys, &provider.relays()).await?;
        let mints = accepted_mints(provider);
        let ((paid, unwritten), net) = self
            .pay_terms(provider, &spec, &mints, &options.pay, consent)
            .await?;
        let info = PaygressRequest {
            key_index,
            net,
            spec,
            lease: LeaseId::from_random(rand::random()),
            ends: None,
        };
        let made = spawn_body(&wanted, &info.spec, &paid)
            .map(|body| self.to_save("spawn", provider, mints, body, &paid, info));
        let written = self.keep(made, Some(paid), unwritten).await?;
        let id = written.saved.request_id;
        if options.detach {
            return self.detach(written, &line, progress).await;
        }
        progress("waiting for the workload");
        let Written { saved, claim } = written;
        let face = saved.paid.as_ref().map_or(Msat::ZERO, |paid| paid.face);
        let settled = self.see_spawn_through(saved, &mut line, progress).await;
        drop(claim);
        let settled = settled?;
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

    async fn see_spawn_through(
        &self,
        saved: SavedRequest,
        line: &mut Line,
        progress: Progress<'_>,
    ) -> Result<super::super::settle::Settled, ClientError> {
        let asking = Asking {
            send: true,
            stale: &std::collections::BTreeSet::new(),
            fits: &|reply| match &saved.paygress {
                Some(info) => fit::spawn(reply, &info.spec),
                None => fit::Fit::No,
            },
            wait: self.timeout.unwrap_or(ANSWER_TIMEOUT),
        };
        let heard = line
            .ask(&super::settle::request(&saved), &asking, progress)
            .await;
        self.conclude(saved, heard, line, progress).await
    }

    async fn detach(
        &self,
        written: Written,
        line: &Line,
        progress: Progress<'_>,
    ) -> Result<Spawned, ClientError> {
        let Written {
            saved,
            claim: _claim,
        } = written;
        let wait = self.timeout.unwrap_or(ANSWER_TIMEOUT);
        let sent = line
            .hand_over(&super::settle::request(&saved), wait, progress)
            .await;
        match sent {
            Ok(true) => Ok(Spawned::Detached(saved.request_id)),
            Ok(false) => Err(self.unsent(saved, super::settle::refused_by_relays()).await),
            Err(error) => Err(self.unsent(saved, error).await),
        }
    }

    /// A token for what is bought, agreed to; and what it is worth to the provider.
    async fn pay_terms(
        &self,
        provider: &Provider,
        spec: &Spec,
        mints: &[MintTerms],
        pay: &Pay,
        consent: Consent<'_>,
    ) -> Result<(Payment, Msat), ClientError> {
        let rate = spec.rate_msats_per_sec;
        let agree = |amount: Msat| {
            consent(&Terms {
                provider: provider.offer.hostname.clone(),
                spec: spec.clone(),
                amount_msat: amount,
                seconds: purchase(amount, rate).map_or(0, |bought| bought.seconds),
            })
        };
        match (terms::amount(pay, rate)?, pay) {
            (Some(amount), _) => {
                agree(amount)?;
                let payment = self.pay(mints, amount, None, None).await?;
                Ok((payment, amount))
            }
            (None, Pay::Token(token)) => {
                let payment = self.pasted(token, mints)?;
                let net = self.worth(&payment.0).await;
                terms::enough(net, rate)?;
                agree(net)?;
                Ok((payment, net))
            }
            (None, _) => Err(ClientError::internal("no amount")),
        }
    }

    /// What a token is worth to who redeems it, as far as its mint tells.
    pub(super) async fn worth(&self, paid: &Paid) -> Msat {
        let asked = async {
            let session = self.wallet().await.ok()?;
            session.wallet().net_of(&paid.token).await.ok()
        };
        asked.await.unwrap_or(paid.face)
    }

    fn to_save(
        &self,
        kind: &str,
        provider: &Provider,
        mints: Vec<MintTerms>,
        body: String,
        paid: &Paid,
        info: PaygressRequest,
    ) -> SavedRequest {
        SavedRequest {
            request_id: RequestId::new(uuid::Uuid::new_v4()),
            provider: provider.key,
            provider_name: provider.offer.hostname.clone(),
            kind: kind.to_owned(),
            body,
            written_at: now(),
            expires_at: now().plus(self.timeout.unwrap_or(ANSWER_TIMEOUT)),
            relays: provider.relays(),
            mints,
            lock: None,
            paid: Some(paid.clone()),
            ssh_key: None,
            standing: Standing::Open,
            note: String::new(),
            paygress: Some(info),
            fate: None,
            order: None,
            together: None,
        }
    }
}

/// Such a provider reads only what comes while it listens.
fn must_listen(provider: &Provider) -> Result<(), ClientError> {
    let name = &provider.offer.hostname;
    if provider.dialect() != Some(DIALECT_NAME) {
        return Err(ClientError::usage(
            "unsupported_version",
            format!("{name} is not rented from in {DIALECT_NAME}"),
            "Choose another provider: satlet list.",
        ));
    }
    if provider.online {
        return Ok(());
    }
    Err(ClientError::new(
        Kind::Refused,
        "provider_offline",
        format!("{name} has sent no heartbeat lately; it would never read the request"),
        "Choose one that is online: satlet list.",
    ))
}

fn spawn_body(wanted: &Wanted, spec: &Spec, paid: &Paid) -> Result<String, ClientError> {
    let (pod_image, template_slug) = terms::image(wanted)?;
    body_of(&Request::Spawn(Box::new(Spawn {
        cashu_token: paid.token.clone(),
        pod_spec_id: Some(spec.id.clone()),
        pod_image,
        ssh_username: "root".to_owned(),
        ssh_password: new_password(),
        template_slug,
        replication: None,
        primary_npub: None,
        workload_id: None,
        volume_encryption: None,
    })))
}

/// The JSON text of a request.
pub(super) fn body_of(request: &Request) -> Result<String, ClientError> {
    let body = serde_json::to_string(request).map_err(|error| {
        ClientError::internal(format!("the request cannot be written: {error}"))
    })?;
    if body.len() <= MAX_REQUEST {
        return Ok(body);
    }
    Err(ClientError::usage(
        "message_too_large",
        format!(
            "the request has {} bytes, {MAX_REQUEST} are allowed",
            body.len()
        ),
        "Use a token of fewer proofs.",
    ))
}
