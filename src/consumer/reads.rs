//! Questions that cost nothing: quote, status, list, logs.

use super::client::{Client, Progress, now};
use super::error::{ClientError, Kind};
use super::home::npub;
use super::paygress::not_in_dialect;
use super::providers::Provider;
use super::records::{KnownLease, Whence};
use crate::core::ids::PublicKey;
use crate::core::money::Msat;
use crate::protocol::reply::{Answer, LeaseState, LockTerms, MintTerms, QuoteAnswer, Refund};
use crate::protocol::request::{Ask, Logs, OfLease, Quote, Wanted};

/// Mints of an offer that are looked at, at most.
const MAX_MINTS: usize = 64;

/// A lease as its provider says, and what came back with the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// The lease.
    pub lease: KnownLease,
    /// Refunds that were received with this answer.
    pub refunded: Msat,
}

/// What a workload printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The text.
    pub text: String,
    /// Whether earlier output was left out.
    pub truncated: bool,
}

impl Client {
    /// Asks for a price; nothing is bought or held.
    ///
    /// # Errors
    /// Refused, not answered, or a provider of another dialect.
    pub async fn quote(
        &self,
        provider: &Provider,
        wanted: Wanted,
        seconds: Option<u64>,
        progress: Progress<'_>,
    ) -> Result<QuoteAnswer, ClientError> {
        if provider.dialect() == Some(crate::protocol::paygress::DIALECT_NAME) {
            return Err(not_in_dialect(
                "quote",
                "The price is in the offer: satlet info PROVIDER.",
            ));
        }
        must_speak(provider)?;
        let ask = Ask::Quote(Quote { wanted, seconds });
        match *self
            .ask(&provider.key, provider.relays(), ask, progress)
            .await?
        {
            Answer::Quote(quote) => Ok(quote),
            _ => Err(bad_answer()),
        }
    }

    /// Asks how a lease is; what is known of it is brought up to date, and
    /// refunds in the answer are received.
    ///
    /// # Errors
    /// Refused or not answered.
    pub async fn status(
        &self,
        lease: &KnownLease,
        progress: Progress<'_>,
    ) -> Result<Looked, ClientError> {
        if lease.paygress.is_some() {
            return self.paygress_status(lease, progress).await;
        }
        let wanted = lease.status.lease.clone();
        let ask = Ask::Status(OfLease {
            lease: wanted.clone(),
        });
        match *self
            .ask(&lease.provider, lease.relays.clone(), ask, progress)
            .await?
        {
            Answer::Status(status) if status.lease == wanted => {
                let lease = KnownLease {
                    status,
                    seen_at: now(),
                    ..lease.clone()
                };
                self.looked(lease).await
            }
            _ => Err(bad_answer()),
        }
    }

    /// Asks a provider for all our leases there; they are known afterwards.
    ///
    /// # Errors
    /// Refused or not answered.
    pub async fn list_remote(
        &self,
        provider: &Provider,
        progress: Progress<'_>,
    ) -> Result<Vec<Looked>, ClientError> {
        if provider.dialect() == Some(crate::protocol::paygress::DIALECT_NAME) {
            return Err(not_in_dialect(
                "list of leases",
                "See satlet ls: what was rented from here is known here.",
            ));
        }
        must_speak(provider)?;
        let answer = self
            .ask(&provider.key, provider.relays(), Ask::List, progress)
            .await?;
        let Answer::List { leases } = *answer else {
            return Err(bad_answer());
        };
        let mut all = Vec::new();
        let mut terms = None;
        for status in leases {
            let known = self.records.lease(&provider.key, &status.lease)?;
            let mut lock = known.as_ref().and_then(|known| known.lock.clone());
            if lock.is_none() && status.state != LeaseState::Ended {
                if terms.is_none() {
                    terms = Some(self.lock_terms(provider, progress).await);
                }
                lock = terms.clone().flatten();
            }
            let lease = KnownLease {
                provider: provider.key,
                provider_name: provider.offer.hostname.clone(),
                relays: provider.relays(),
                mints: accepted_mints(provider),
                lock,
                ssh_key: known.and_then(|known| known.ssh_key),
                status,
                seen_at: now(),
                paygress: None,
            };
            all.push(self.looked(lease).await?);
        }
        Ok(all)
    }

    /// How a provider takes locked tokens, as a quote tells; `None` where it takes
    /// none, or does not tell now.
    async fn lock_terms(&self, provider: &Provider, progress: Progress<'_>) -> Option<LockTerms> {
        provider.offer.satlet.as_ref()?.lock_key.as_ref()?;
        let asked = self.quote(provider, Wanted::default(), None, progress);
        match asked.await {
            Ok(quote) => quote.lock,
            Err(error) => {
                tracing::debug!(
                    message = error.message,
                    "how tokens are locked is not known"
                );
                None
            }
        }
    }

    /// Asks for what a workload printed, at most `max_bytes` from the end.
    ///
    /// # Errors
    /// Refused or not answered.
    pub async fn logs(
        &self,
        lease: &KnownLease,
        max_bytes: Option<usize>,
        progress: Progress<'_>,
    ) -> Result<Output, ClientError> {
        if lease.paygress.is_some() {
            return Err(not_in_dialect(
                "logs",
                "Look inside instead: satlet exec LEASE -- CMD.",
            ));
        }
        let wanted = lease.status.lease.clone();
        let ask = Ask::Logs(Logs {
            lease: wanted.clone(),
            max_bytes,
        });
        match *self
            .ask(&lease.provider, lease.relays.clone(), ask, progress)
            .await?
        {
            Answer::Logs {
                lease,
                output,
                truncated,
            } if lease == wanted => Ok(Output {
                text: output,
                truncated,
            }),
            _ => Err(bad_answer()),
        }
    }

    /// Writes down what a provider said of a lease, and receives what it owes.
    pub(super) async fn looked(&self, mut lease: KnownLease) -> Result<Looked, ClientError> {
        let refunds = std::mem::take(&mut lease.status.refunds);
        let whence = Whence::of_lease(&lease.status.lease);
        let refunded = self
            .take_refunds(&lease.provider, &refunds, &whence)
            .await?;
        self.records.save_lease(&lease)?;
        Ok(Looked { lease, refunded })
    }

    /// Writes refunds down, then redeems them; what the wallet got.
    pub(super) async fn take_refunds(
        &self,
        provider: &PublicKey,
        refunds: &[Refund],
        whence: &Whence,
    ) -> Result<Msat, ClientError> {
        let mut noted = Vec::new();
        for refund in refunds {
            noted.push(self.records.note_refund(provider, refund, whence)?);
        }
        let mut sum = Msat::ZERO;
        for (name, saved) in noted {
            if let Some(net) = self.receive_refund(&name, saved).await {
                sum = sum.checked_add(net).unwrap_or(sum);
            }
        }
        Ok(sum)
    }
}

pub(super) fn must_speak(provider: &Provider) -> Result<(), ClientError> {
    if provider.speaks_satlet() {
        return Ok(());
    }
    Err(ClientError::new(
        Kind::Refused,
        "unsupported_version",
        format!(
            "{} ({}) does not speak {}",
            provider.offer.hostname,
            npub(&provider.key),
            crate::protocol::DIALECT_NAME
        ),
        "Choose another provider: satlet list.",
    ))
}

pub(super) fn accepted_mints(provider: &Provider) -> Vec<MintTerms> {
    let offer = &provider.offer;
    let units = || vec!["sat".to_owned(), "msat".to_owned()];
    let listed = offer.whitelisted_mints.iter().take(MAX_MINTS);
    match &offer.satlet {
        Some(more) => more.mints.clone(),
        None => listed
            .map(|url| MintTerms {
                url: url.clone(),
                units: units(),
                input_fee_ppk: None,
                state: None,
            })
            .collect(),
    }
}

pub(super) fn bad_answer() -> ClientError {
    ClientError::new(
        Kind::Refused,
        "bad_answer",
        "the provider's answer is not one to this question",
        "Tell the provider's operator, or choose another provider.",
    )
}
