//! Which mint a keyset id belongs to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cdk::nuts::Id;

use super::{MintUrl, WalletError};

/// The mint of every keyset id that this wallet has seen. Shared by all its accounts.
#[derive(Clone, Debug, Default)]
pub(super) struct Owners(Arc<Mutex<HashMap<Id, MintUrl>>>);

impl Owners {
    /// Notes that these ids are of `mint`.
    ///
    /// # Errors
    /// `Refused` where one is another mint's: outputs are derived from the id
    /// alone (NUT-13), so the two would use up each other's.
    pub(super) fn claim(
        &self,
        mint: &MintUrl,
        ids: impl IntoIterator<Item = Id>,
    ) -> Result<(), WalletError> {
        let mut owners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for id in ids {
            let owner = owners.entry(id).or_insert_with(|| mint.clone());
            if owner != mint {
                return Err(WalletError::Refused(format!(
                    "it uses the keyset id {id} of the mint {}",
                    owner.0
                )));
            }
        }
        Ok(())
    }
}
