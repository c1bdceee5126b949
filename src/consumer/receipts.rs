//! Receipts of our leases: asked for, checked, and kept. What does not add up is
//! not kept, and said.

use super::client::{Client, Progress};
use super::error::{ClientError, Kind};
use super::history::Fate;
use super::paygress::not_in_dialect;
use super::reads::bad_answer;
use super::records::{KnownLease, Records};
use crate::core::ids::{LeaseId, PaymentId, PublicKey};
use crate::core::money::Msat;
use crate::core::receipt::Receipt;
use crate::protocol::receipt::SignedReceipt;
use crate::protocol::reply::Answer;
use crate::protocol::request::{Ask, OfLease};
use crate::relay::receipt::{ReceiptError, open};
use crate::wallet;

/// A receipt with what it says, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// As it was signed.
    pub signed: SignedReceipt,
    /// What it says.
    pub receipt: Receipt,
}

impl Kept {
    /// Which of two receipts of one lease is the newer account.
    fn is_newer(&self, than: &Self) -> bool {
        let age = |kept: &Self| {
            let receipt = &kept.receipt;
            let back = receipt.books.refunded_msat;
            (kept.signed.created_at, receipt.is_final(), back)
        };
        age(self) >= age(than)
    }
}

impl Client {
    /// Asks the provider for the receipt of a lease as of now, and keeps it. One
    /// of which nothing will change any more is not asked for again.
    ///
    /// # Errors
    /// Refused, not answered, what came is false, or lacks a payment of ours.
    pub async fn receipt(
        &self,
        lease: &KnownLease,
        progress: Progress<'_>,
    ) -> Result<Kept, ClientError> {
        if lease.paygress.is_some() {
            return Err(not_in_dialect(
                "receipt",
                "What is known here of the lease: satlet show LEASE.",
            ));
        }
        let id = &lease.status.lease;
        let kept = self.kept_receipt(&lease.provider, id)?;
        if let Some(kept) = kept.filter(|kept| kept.receipt.is_final()) {
            return self.all_in(kept);
        }
        let ask = Ask::Receipt(OfLease { lease: id.clone() });
        let answer = self
            .ask(&lease.provider, lease.relays.clone(), ask, progress)
            .await?;
        let Answer::Receipt { receipt, .. } = *answer else {
            return Err(bad_answer());
        };
        let me = self.public_key();
        let kept = keep(&self.records, &me, &lease.provider, Some(id), &receipt)?;
        self.all_in(kept)
    }

    /// The receipt, if every payment is in it that we know was spent for its
    /// lease. One that lists all and lacks one adds up, and is false.
    fn all_in(&self, kept: Kept) -> Result<Kept, ClientError> {
        let receipt = &kept.receipt;
        if !receipt.earlier_payments.is_none() {
            // Which ones are in the sum is not told.
            return Ok(kept);
        }
        for saved in self.records.requests()? {
            let ours = matches!(&saved.fate, Some(Fate::Spent { lease, .. })
                if *lease == receipt.lease && saved.provider == receipt.provider);
            let paid = saved.paid.as_ref().filter(|_| ours);
            let Some(payment) = paid.and_then(|paid| self.payment_of(&paid.token)) else {
                continue;
            };
            if receipt.payments.iter().any(|line| line.payment == payment) {
                continue;
            }
            let face = paid.map_or(Msat::ZERO, |paid| paid.face);
            let id = saved.request_id;
            return Err(ClientError::new(
                Kind::Payment,
                "incomplete_receipt",
                format!("the receipt lacks the payment of {face} that request {id} made"),
                "It is kept in receipts/, and the request with its answer is known: show both to the provider's operator.",
            )
            .with_request(id));
        }
        Ok(kept)
    }

    /// The id of a token of ours as a payment, as providers have it too.
    fn payment_of(&self, token: &str) -> Option<PaymentId> {
        let known = self.given_wallet.as_ref();
        match known.map(|wallet| wallet.inspect(token)) {
            Some(Ok(info)) => Some(info.payment),
            _ => wallet::read_info(token).ok().map(|info| info.payment),
        }
    }

    /// The newest receipt of a lease that is kept here.
    ///
    /// # Errors
    /// The records cannot be read.
    pub fn kept_receipt(
        &self,
        provider: &PublicKey,
        lease: &LeaseId,
    ) -> Result<Option<Kept>, ClientError> {
        let kept = self.records.receipt(provider, lease)?;
        Ok(kept.and_then(|signed| checked(signed).ok()))
    }

    /// Receipts that are kept here of leases whose id begins so.
    ///
    /// # Errors
    /// The records cannot be read.
    pub fn kept_receipts(&self, prefix: &str) -> Result<Vec<Kept>, ClientError> {
        let prefix = prefix.trim().to_lowercase();
        let all = self.records.receipts()?.into_iter();
        let mut kept: Vec<Kept> = all.filter_map(|signed| checked(signed).ok()).collect();
        kept.retain(|kept| kept.receipt.lease.as_str().starts_with(&prefix));
        Ok(kept)
    }

    /// Keeps a receipt that came beside money. That it is false is said, and
    /// keeps nobody from the money.
    pub(super) fn note_receipt(
        &self,
        provider: &PublicKey,
        lease: Option<&LeaseId>,
        signed: Option<&SignedReceipt>,
    ) {
        let Some(signed) = signed else { return };
        let me = self.public_key();
        if let Err(error) = keep(&self.records, &me, provider, lease, signed) {
            tracing::warn!(%error, "a receipt was not kept");
        }
    }
}

fn checked(signed: SignedReceipt) -> Result<Kept, ReceiptError> {
    let receipt = open(&signed)?;
    Ok(Kept { signed, receipt })
}

/// Checks a receipt that `provider` sent `me`, of `lease` if that is known, and
/// writes it down unless a newer one is there.
pub(super) fn keep(
    records: &Records,
    me: &PublicKey,
    provider: &PublicKey,
    lease: Option<&LeaseId>,
    signed: &SignedReceipt,
) -> Result<Kept, ClientError> {
    let new = checked(signed.clone()).map_err(|error| false_receipt(&error))?;
    let receipt = &new.receipt;
    let other_lease = lease.is_some_and(|lease| receipt.lease != *lease);
    if receipt.provider != *provider || receipt.owner != *me || other_lease {
        return Err(bad_answer());
    }
    let old = records.receipt(provider, &receipt.lease)?;
    let old = old.and_then(|signed| checked(signed).ok());
    if old.is_none_or(|old| new.is_newer(&old)) {
        records.save_receipt(provider, &receipt.lease, signed)?;
    }
    Ok(new)
}

/// What a person is told of a receipt that is not to be believed.
pub fn false_receipt(error: &ReceiptError) -> ClientError {
    ClientError::new(
        Kind::Payment,
        "false_receipt",
        format!("the receipt is false: {error}"),
        "Do not accept it; ask the provider's operator for a right one.",
    )
}
