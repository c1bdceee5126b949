//! Ecash for Lightning (NUT-04, NUT-23): a mint's invoice, and the ecash that is
//! made of it once it is paid. The key that may do so (NUT-20) is derived from the
//! wallet's seed, and so are the outputs (NUT-13): it can be asked for as often as
//! need be, and gives the money once.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cdk::Bolt11Invoice;
use cdk::amount::SplitTarget;
use cdk::nuts::{MintQuoteState, PaymentMethod, ProofsMethods};
use cdk_common::MintQuoteResponse;
use cdk_common::wallet::{TransactionDirection, TransactionStatus};
use sha2::{Digest, Sha256};

use super::account::Account;
use super::cdk_wallet::CdkWallet;
use super::errors::{maybe_sent, nothing_sent, store};
use super::{MintUrl, Unit, WalletError, token};
use crate::core::ids::PaymentId;
use crate::core::money::Msat;
use crate::core::time::Timestamp;

/// Unpaid invoices that one recovery asks about, at most: those that come after
/// them have their turn in the next one.
const ASKED_AT_ONCE: usize = 16;

/// Keys among which that of a lost invoice is looked for; each takes a fraction of
/// a millisecond.
const KEYS_TRIED: u32 = 10_000;

/// A Lightning invoice that becomes ecash when it is paid (NUT-04, NUT-23).
#[derive(Clone, PartialEq, Eq)]
pub struct MintQuote {
    /// The mint's name of the quote: not shown, since a mint without NUT-20 gives
    /// the money to whoever names it.
    pub id: String,
    /// The mint.
    pub mint: MintUrl,
    /// Unit of the ecash.
    pub unit: Unit,
    /// The invoice to pay.
    pub bolt11: String,
    /// When the invoice expires; `None`: the mint did not say.
    pub expires_at: Option<Timestamp>,
}

impl std::fmt::Debug for MintQuote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MintQuote")
            .field("mint", &self.mint)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

impl MintQuote {
    /// The payment that it is: SHA-256 over a version, mint, unit and the mint's
    /// name of the quote, each followed by a line feed.
    pub fn payment(&self) -> PaymentId {
        let mut hash = Sha256::new();
        let unit = token::unit_name(&self.unit);
        for part in ["invoice-v1", &self.mint.0, unit, &self.id] {
            hash.update(part.as_bytes());
            hash.update(b"\n");
        }
        PaymentId::from_bytes(hash.finalize().into())
    }
}

/// What an invoice is over; `None`: it is none, or names no amount.
pub fn amount_of(bolt11: &str) -> Option<Msat> {
    let invoice = Bolt11Invoice::from_str(bolt11).ok()?;
    invoice.amount_milli_satoshis().map(Msat::new)
}

impl Account {
    /// Asks the mint for an invoice over so many pieces of the unit.
    async fn invoice(&self, pieces: u64) -> Result<MintQuote, WalletError> {
        self.issues().await?;
        let quote = self
            .wallet
            .mint_quote(PaymentMethod::BOLT11, Some(pieces.into()), None, None)
            .await
            .map_err(|error| nothing_sent(&error))?;
        self.is_ours_alone(&quote).await?;
        Ok(MintQuote {
            id: quote.id,
            mint: self.mint.clone(),
            unit: self.unit.clone(),
            bolt11: quote.request,
            expires_at: (quote.expiry > 0).then(|| Timestamp::from_secs(quote.expiry)),
        })
    }

    /// Whether the mint will give the money to our key alone (NUT-20), where it
    /// says that it can.
    async fn is_ours_alone(
        &self,
        quote: &cdk_common::wallet::MintQuote,
    ) -> Result<(), WalletError> {
        let metadata = self
            .wallet
            .metadata_cache
            .load(&self.store, &self.client)
            .await
            .map_err(|error| nothing_sent(&error))?;
        if !metadata.mint_info.nuts.nut20.supported {
            return Ok(());
        }
        let told = self
            .client
            .get_mint_quote_status(PaymentMethod::BOLT11, &quote.id)
            .await
            .map_err(|error| nothing_sent(&error))?;
        let ours = quote.secret_key.as_ref().map(|key| key.public_key());
        match told {
            MintQuoteResponse::Bolt11(told) if told.pubkey.is_some() && told.pubkey == ours => {
                Ok(())
            }
            _ => Err(WalletError::Refused(
                "it does not lock the invoice to our key".to_owned(),
            )),
        }
    }

    /// Asks whether an invoice is paid, and if so makes the ecash; `None`: it is
    /// not.
    async fn collect(&self, id: &str) -> Result<Option<Msat>, WalletError> {
        if self
            .store
            .get_mint_quote(id)
            .await
            .map_err(store)?
            .is_none()
        {
            self.find_again(id).await?;
        }
        let state = self
            .wallet
            .check_mint_quote_status(id)
            .await
            .map_err(|error| nothing_sent(&error))?;
        match state.state {
            MintQuoteState::Unpaid => Ok(None),
            MintQuoteState::Paid => {
                let minted = self.wallet.mint(id, SplitTarget::default(), None).await;
                let proofs = minted.map_err(|error| maybe_sent(&error))?;
                self.msat(proofs.total_amount().map_err(store)?).map(Some)
            }
            MintQuoteState::Issued => {
                // The mint says that it gave the ecash to our key. Whether it came
                // here is another question.
                if !self.has_minted(id).await? {
                    self.restore().await?;
                }
                self.msat(state.amount_issued).map(Some)
            }
        }
    }

    /// Takes up an invoice that this wallet's file does not know (any more), if its
    /// key is one of ours.
    async fn find_again(&self, id: &str) -> Result<(), WalletError> {
        let method = Some(PaymentMethod::BOLT11);
        let found = self
            .wallet
            .fetch_mint_quote_with_key_search(id, method, KEYS_TRIED)
            .await
            .map_err(|error| nothing_sent(&error))?;
        if found.secret_key.is_some() {
            return Ok(());
        }
        self.store.remove_mint_quote(id).await.map_err(store)?;
        Err(WalletError::Refused("it is no invoice of ours".to_owned()))
    }

    /// Whether our books have the ecash of this quote.
    async fn has_minted(&self, id: &str) -> Result<bool, WalletError> {
        let incoming = self
            .wallet
            .list_transactions(Some(TransactionDirection::Incoming))
            .await
            .map_err(store)?;
        Ok(incoming.iter().any(|tx| {
            tx.quote_id.as_deref() == Some(id) && tx.status == TransactionStatus::Completed
        }))
    }

    /// Makes ecash of invoices that were paid while nobody looked, a few in each
    /// round. How many were, and how many could not be asked about.
    pub(super) async fn collect_some(&self) -> Result<(usize, usize), WalletError> {
        let mut open = self
            .wallet
            .get_unissued_mint_quotes()
            .await
            .map_err(store)?;
        if open.is_empty() {
            return Ok((0, 0));
        }
        open.sort_by(|one, other| one.id.cmp(&other.id));
        let first = self.collected.fetch_add(ASKED_AT_ONCE, Ordering::Relaxed);
        let turn = open.iter().cycle().skip(first % open.len());
        let (mut paid, mut unknown) = (0, 0);
        for quote in turn.take(open.len().min(ASKED_AT_ONCE)) {
            match self.collect(&quote.id).await {
                Ok(Some(_)) => paid += 1,
                Ok(None) => {}
                Err(_) => unknown += 1,
            }
        }
        Ok((paid, unknown))
    }
}

impl CdkWallet {
    /// Asks the mint for an invoice over `amount`.
    ///
    /// # Errors
    /// `MintNotAccepted`, `MintDown`, `Refused`, `TooSmall` (not whole pieces of
    /// the unit), `Store`. `OutcomeUnknown`: there may be an invoice that nobody
    /// knows; harmless.
    pub async fn mint_quote(
        &self,
        mint: &MintUrl,
        unit: &Unit,
        amount: Msat,
    ) -> Result<MintQuote, WalletError> {
        let pieces = token::whole_units(unit, amount).ok_or(WalletError::TooSmall)?;
        let actor = self.at(mint, unit)?;
        self.order(&actor, move |account: Arc<Account>| {
            Box::pin(async move { account.invoice(pieces).await })
        })
        .await
    }

    /// Asks whether the quote's invoice is paid, and if so makes the ecash.
    /// `None`: not paid yet. Safe to call again at any time.
    ///
    /// # Errors
    /// As [`mint_quote`](Self::mint_quote); `Refused` for an unknown quote.
    /// `OutcomeUnknown`: call it again.
    pub async fn mint_check(&self, quote: &MintQuote) -> Result<Option<Msat>, WalletError> {
        let actor = self.at(&quote.mint, &quote.unit)?;
        let id = quote.id.clone();
        self.order(&actor, move |account: Arc<Account>| {
            Box::pin(async move { account.collect(&id).await })
        })
        .await
    }

    /// Waits until the invoice is paid, at most `timeout`, and makes the ecash.
    ///
    /// # Errors
    /// As [`mint_check`](Self::mint_check); `MintDown` when the time is up and
    /// nothing was paid.
    pub async fn mint_wait(
        &self,
        quote: &MintQuote,
        timeout: Duration,
    ) -> Result<Msat, WalletError> {
        // A mint need not be able to notify (NUT-17), so it is asked, ever more seldom.
        const FIRST: Duration = Duration::from_millis(50);
        const LAST: Duration = Duration::from_secs(5);
        let paid = async {
            let mut pause = FIRST;
            loop {
                if let Some(amount) = self.mint_check(quote).await? {
                    return Ok(amount);
                }
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2).min(LAST);
            }
        };
        match tokio::time::timeout(timeout, paid).await {
            Ok(result) => result,
            Err(_) => Err(WalletError::MintDown("the invoice is not paid".to_owned())),
        }
    }

    /// Asks about this quote no more.
    pub(super) async fn drop_quote(&self, quote: &MintQuote) -> Result<(), WalletError> {
        let actor = self.at(&quote.mint, &quote.unit)?;
        let id = quote.id.clone();
        self.order(&actor, move |account: Arc<Account>| {
            Box::pin(async move { account.store.remove_mint_quote(&id).await.map_err(store) })
        })
        .await
    }
}
