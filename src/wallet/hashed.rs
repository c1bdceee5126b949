//! Taking back what was locked to a hash and was not redeemed (NUT-14).

use super::cdk_wallet::CdkWallet;
use super::{LockTo, Redeemed, RedemptionState, Wallet, WalletError, locks};

impl CdkWallet {
    /// In two steps, each of which can be done again: the hashed token becomes one
    /// that is locked to keys of ours alone, and that one is redeemed.
    pub(super) async fn reopen(&self, token: &str, to: &LockTo) -> Result<Redeemed, WalletError> {
        // Some mints' words for that could mean anything.
        if cdk::util::unix_time() <= to.locktime.as_secs() {
            return Err(WalletError::Refused("its locktime is not over".to_owned()));
        }
        let (read, actor) = self.read(token)?;
        let face = read.info.face;
        let own = LockTo {
            key: self.lock_key(),
            hash: None,
            ..to.clone()
        };
        let key = locks::refund_secret(&self.seed, to.index)?;
        let opened = self
            .order(&actor, move |account| {
                Box::pin(async move { account.open_hashed(&read, &own, key).await })
            })
            .await?;
        let payment = self.inspect(&opened.token)?.payment;
        let redeemed = match self.redemption(payment, &opened.token).await? {
            RedemptionState::Done(redeemed) => redeemed,
            RedemptionState::NotDone => {
                // Past its locktime all mints take the refund key.
                self.take_back(payment, &opened.token, to.index).await?
            }
            RedemptionState::SpentElsewhere => return Err(WalletError::Spent),
            RedemptionState::Unknown => {
                return Err(WalletError::OutcomeUnknown("asked again later".to_owned()));
            }
        };
        Ok(Redeemed {
            net: redeemed.net,
            fee: face.saturating_sub(redeemed.net),
        })
    }
}
