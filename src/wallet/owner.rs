//! What a wallet's owner does with it besides paying and being paid: ecash over
//! Lightning, tokens taken back, restore from the seed.

use std::time::Duration;

use cdk::amount::SplitTarget;
use cdk::nuts::PaymentMethod;

use super::cdk_wallet::{Actor, CdkWallet};
use super::errors::{maybe_sent, nothing_sent, store};
use super::token;
use super::{MintUrl, PendingSend, ProofsState, Redeemed, Unit, Wallet, WalletError};
use crate::core::money::Msat;
use crate::core::purse::{AT_ONCE, Merge, fee};
use crate::core::time::Timestamp;

/// Proofs beyond this number are worth a swap into fewer.
const MANY_PROOFS: usize = 32;

/// A Lightning invoice that becomes ecash when it is paid (NUT-04, NUT-23).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MintQuote {
    /// The mint's name of the quote.
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
        self.order(&actor, move |account| {
            Box::pin(async move {
                account.issues().await?;
                let quote = account
                    .wallet
                    .mint_quote(PaymentMethod::BOLT11, Some(pieces.into()), None, None)
                    .await
                    .map_err(|error| nothing_sent(&error))?;
                Ok(MintQuote {
                    id: quote.id,
                    mint: account.mint.clone(),
                    unit: account.unit.clone(),
                    bolt11: quote.request,
                    expires_at: (quote.expiry > 0).then(|| Timestamp::from_secs(quote.expiry)),
                })
            })
        })
        .await
    }

    /// Asks whether the quote's invoice is paid, and if so makes the ecash.
    /// `None`: not paid yet. Safe to call again at any time.
    ///
    /// # Errors
    /// As [`mint_quote`](Self::mint_quote); `Refused` for an unknown quote.
    /// `OutcomeUnknown`: `recover` finishes it.
    pub async fn mint_check(&self, quote: &MintQuote) -> Result<Option<Msat>, WalletError> {
        let actor = self.at(&quote.mint, &quote.unit)?;
        let id = quote.id.clone();
        self.order(&actor, move |account| {
            Box::pin(async move {
                let state = account
                    .wallet
                    .check_mint_quote_status(&id)
                    .await
                    .map_err(|error| nothing_sent(&error))?;
                if u64::from(state.amount_mintable()) == 0 {
                    let issued = account.msat(state.amount_issued)?;
                    return Ok((!issued.is_zero()).then_some(issued));
                }
                let proofs = account
                    .wallet
                    .mint(&id, SplitTarget::default(), None)
                    .await
                    .map_err(|error| maybe_sent(&error))?;
                let amount = cdk::nuts::ProofsMethods::total_amount(&proofs).map_err(store)?;
                account.msat(amount).map(Some)
            })
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

    /// Takes a token in, for a consumer who was given one: asks, then redeems.
    ///
    /// # Errors
    /// As [`redeem`](Wallet::redeem); `Refused` while its proofs are in
    /// somebody's unfinished operation.
    pub async fn receive(&self, token: &str) -> Result<Redeemed, WalletError> {
        let info = self.inspect(token)?;
        match self.check(token).await? {
            ProofsState::Unspent => self.redeem(info.payment, token).await,
            ProofsState::Spent => Err(WalletError::Spent),
            ProofsState::Pending => Err(WalletError::Refused(
                "the token is in an unfinished operation".to_owned(),
            )),
        }
    }

    /// Takes a token back that this wallet made, if nobody has redeemed it.
    /// Gives what came back, less the mint's fee.
    ///
    /// # Errors
    /// As `inspect`; `Spent`; `Refused` for a token that is not pending here;
    /// `MintDown`; `OutcomeUnknown` (`recover` finishes it).
    pub async fn reclaim(&self, token: &str) -> Result<Msat, WalletError> {
        let (read, actor) = self.read(token)?;
        self.order(&actor, move |account| {
            Box::pin(async move { account.reclaim(&read).await })
        })
        .await
    }

    /// Tokens that this wallet made and that are not known to be redeemed;
    /// `recover` asks the mints about them.
    ///
    /// # Errors
    /// `Store`.
    pub async fn pending_sends(&self) -> Result<Vec<PendingSend>, WalletError> {
        let actors: Vec<Actor> = self.actors().values().cloned().collect();
        let mut pending = Vec::new();
        for actor in actors {
            pending.extend(actor.account().pending_sends().await?);
        }
        Ok(pending)
    }

    /// Reads what this seed owns at `mint` from the mint (NUT-09, NUT-13), after
    /// a loss of the wallet's file. Gives what can be spent of it.
    ///
    /// # Errors
    /// `MintNotAccepted`, `MintDown`, `Refused`, `Store`.
    pub async fn restore(&self, mint: &MintUrl) -> Result<Msat, WalletError> {
        let mut total = Msat::ZERO;
        let facts = self.facts(mint).await?;
        for unit in &facts.units {
            let actor = self.at(mint, unit)?;
            let had = self.order(&actor, |account| {
                Box::pin(async move { account.restore().await })
            });
            total = total.checked_add(had.await?).unwrap_or(total);
        }
        Ok(total)
    }

    /// Swaps many small proofs into few, where there are more than 32 in a unit.
    ///
    /// # Errors
    /// As [`send`](Wallet::send).
    pub async fn consolidate(&self, mint: &MintUrl, unit: &Unit) -> Result<(), WalletError> {
        let pieces = self.pieces(mint, unit).await?;
        if pieces.len() <= MANY_PROOFS {
            return Ok(());
        }
        for part in pieces.chunks(AT_ONCE) {
            let merge = Merge {
                ys: part.iter().map(|piece| piece.y.clone()).collect(),
                fee: fee(part, unit.piece()).ok_or(WalletError::TooSmall)?,
            };
            self.merge(mint, unit, &merge).await?;
        }
        Ok(())
    }
}
