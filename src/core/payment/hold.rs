//! A payment that is held: its token is locked to a hash (NUT-14), room is held
//! for it, and nothing is taken before its owner gives the preimage away. With the
//! preimage it is a payment like any other; without it, it ends at its deadline.

use serde::{Deserialize, Serialize};

use super::hash_lock::{LockHash, Preimage};
use super::{Payment, PaymentState};
use crate::core::ids::RequestId;
use crate::core::time::Timestamp;

/// What a held payment waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The hash that its token is locked to.
    pub hash: LockHash,
    /// The token is not redeemed after this: its locktime is near.
    pub redeem_by: Timestamp,
    /// Once it was given. Not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preimage: Option<Preimage>,
}

/// Why a hold is not claimed; nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotClaimed {
    /// Its time is over, or it was released.
    #[error("the hold is over")]
    Over,
    /// Another request has claimed it.
    #[error("it was claimed with another request")]
    Before,
    /// The preimage of another hash.
    #[error("this is not the preimage of the token's hash")]
    Preimage,
}

impl Payment {
    /// Whether it is held for a preimage at `now`.
    pub fn is_held(&self, now: Timestamp) -> bool {
        self.state == PaymentState::Held && now < self.deadline
    }

    /// The payment after its owner gave the preimage, by `request`, which gets the
    /// answer. It is to be redeemed within `patience` seconds.
    ///
    /// # Errors
    /// [`NotClaimed`].
    pub fn claim(
        mut self,
        preimage: &Preimage,
        request: RequestId,
        now: Timestamp,
        patience: u64,
    ) -> Result<Self, NotClaimed> {
        let open = self.state == PaymentState::Held;
        let given = self.hold.as_ref().is_some_and(|h| h.preimage.is_some());
        let Some(hold) = self.hold.as_mut().filter(|_| open && now < self.deadline) else {
            return Err(if given {
                NotClaimed::Before
            } else {
                NotClaimed::Over
            });
        };
        if preimage.hash() != hold.hash {
            return Err(NotClaimed::Preimage);
        }
        hold.preimage = Some(preimage.clone());
        self.deadline = hold.redeem_by.min(now.plus_secs(patience));
        self.request = request;
        self.state = PaymentState::Reserved;
        Ok(self)
    }
}
