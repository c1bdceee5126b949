//! What a wallet's owner does with it besides paying and being paid: tokens taken
//! back, restore from the seed.

use super::cdk_wallet::{Actor, CdkWallet};
use super::{MintUrl, PendingSend, ProofsState, Redeemed, Unit, Wallet, WalletError};
use crate::core::money::Msat;
use crate::core::purse::{AT_ONCE, Merge, fee};

/// Proofs beyond this number are worth a swap into fewer.
const MANY_PROOFS: usize = 32;

impl CdkWallet {
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

    /// Reads what this seed owns at `mint` from the mint (NUT-09, NUT-13), whatever
    /// was read before: the wallet does so by itself with a new file. Proofs that the
    /// file knows stay as they are. Gives what can be spent more.
    ///
    /// # Errors
    /// `MintNotAccepted`, `MintDown`, `Refused`, `Store`.
    pub async fn restore(&self, mint: &MintUrl) -> Result<Msat, WalletError> {
        let mut total = Msat::ZERO;
        let facts = self.facts(mint).await?;
        for unit in &facts.units {
            let actor = self.at(mint, unit)?;
            let had = self.anyway(&actor, |account| {
                Box::pin(async move {
                    let before = account.balance().await?;
                    // It may be all that is to be done, and be noted as done.
                    account.ready().await?;
                    account.restore().await?;
                    Ok(account.balance().await?.saturating_sub(before))
                })
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
