//! Invoices that a provider sends for an order: looked at before anybody pays
//! them, written down, and shown.

use super::client::{Client, now};
use super::error::{ClientError, Kind};
use super::records::{SavedOrder, SavedRequest, Standing};
use crate::protocol::reply::Invoice;
use crate::wallet::amount_of;

impl Client {
    /// Writes an invoice down, and shows it to whoever pays it. `false`, and nobody
    /// sees it, where it is not for what was ordered.
    pub(super) fn take_invoice(&self, saved: &SavedRequest, invoice: &Invoice, show: bool) -> bool {
        let Some(order) = &saved.order else {
            return true;
        };
        if wrong(order, invoice).is_some() {
            return false;
        }
        let mut saved = saved.clone();
        note(&mut saved, invoice);
        if let Err(error) = self.records.save_request(&saved) {
            // It is sent again when the request is.
            tracing::warn!(%error, "the invoice could not be written down");
        }
        // One that is over is not worth paying.
        if let Some(show_it) = self
            .show_invoice
            .as_ref()
            .filter(|_| show && now() < invoice.pay_by)
        {
            show_it(&saved.request_id, invoice);
        }
        true
    }
}

/// Notes on a request that its invoice is to be paid.
pub(super) fn note(saved: &mut SavedRequest, invoice: &Invoice) {
    saved.standing = Standing::Pending;
    saved.note = format!(
        "an invoice over {} is to be paid by {}",
        invoice.amount_msat, invoice.pay_by
    );
    if let Some(order) = &mut saved.order {
        order.invoice = Some(invoice.clone());
    }
}

/// Why this invoice must not be paid, if it must not.
pub(super) fn wrong(order: &SavedOrder, invoice: &Invoice) -> Option<ClientError> {
    let says = amount_of(&invoice.bolt11);
    let why = if says != Some(invoice.amount_msat) {
        "the provider's invoice is not over what the provider says".to_owned()
    } else if invoice.amount_msat > order.most {
        format!(
            "the provider's invoice is over {}, and {} was agreed to",
            invoice.amount_msat, order.most
        )
    } else {
        return None;
    };
    Some(ClientError::new(
        Kind::Refused,
        "wrong_invoice",
        why,
        "Do not pay it; choose another provider.",
    ))
}
