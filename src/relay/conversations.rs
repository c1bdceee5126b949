//! What two keys have agreed on for NIP-44. Working it out is a fifth of what a
//! message costs, and who asks once asks again: it is remembered for the last
//! senders and receivers.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use nostr_sdk::nips::nip44::{self, v2::ConversationKey};
use nostr_sdk::{Keys, PublicKey};

/// Keys in one generation.
const GENERATION: usize = 2048;

/// Ours and theirs.
type Pair = (PublicKey, PublicKey);

/// Remembers between one and two generations of agreed keys, in at most 1 MB.
/// They are as secret as our own key, and no more memory holds that.
#[derive(Default)]
pub(super) struct Conversations(Mutex<Known>);

#[derive(Default)]
struct Known {
    young: HashMap<Pair, [u8; 32]>,
    old: HashMap<Pair, [u8; 32]>,
}

impl Conversations {
    /// What `ours` and `theirs` agree on; remembered from now on.
    ///
    /// # Errors
    /// Theirs is no point of the curve.
    pub(super) fn agree(
        &self,
        ours: &Keys,
        theirs: &PublicKey,
    ) -> Result<ConversationKey, nip44::Error> {
        let pair = (ours.public_key(), *theirs);
        if let Some(known) = self.look(&pair) {
            return Ok(ConversationKey::new(known));
        }
        let agreed = ConversationKey::derive(ours.secret_key(), theirs)?;
        if let Ok(bytes) = agreed.as_bytes().try_into() {
            self.note(pair, bytes);
        }
        Ok(agreed)
    }

    fn look(&self, pair: &Pair) -> Option<[u8; 32]> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(young) = known.young.get(pair) {
            return Some(*young);
        }
        let old = known.old.remove(pair)?;
        known.put(*pair, old);
        Some(old)
    }

    fn note(&self, pair: Pair, agreed: [u8; 32]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.put(pair, agreed);
    }
}

impl Known {
    fn put(&mut self, pair: Pair, agreed: [u8; 32]) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(pair, agreed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_what_is_worked_out_for_each_pair_by_itself() {
        let conversations = Conversations::default();
        let (a, b, c) = (Keys::generate(), Keys::generate(), Keys::generate());
        for (ours, theirs) in [(&a, &b), (&a, &c), (&b, &c), (&a, &b), (&b, &c)] {
            let agreed = conversations.agree(ours, &theirs.public_key()).unwrap();
            let fresh = ConversationKey::derive(ours.secret_key(), &theirs.public_key()).unwrap();
            assert_eq!(agreed.as_bytes(), fresh.as_bytes());
            // The other side works out the same.
            let other = conversations.agree(theirs, &ours.public_key()).unwrap();
            assert_eq!(agreed.as_bytes(), other.as_bytes());
        }
    }

    #[test]
    fn memory_is_bounded_and_who_comes_often_stays() {
        let conversations = Conversations::default();
        let often = (Keys::generate().public_key(), Keys::generate().public_key());
        conversations.note(often, [7; 32]);
        for n in 0..GENERATION * 5 {
            let mut bytes = [1; 32];
            bytes[..8].copy_from_slice(&n.to_be_bytes());
            let pair = (often.0, PublicKey::from_byte_array(bytes));
            conversations.note(pair, bytes);
            if n % 1000 == 0 {
                assert_eq!(conversations.look(&often), Some([7; 32]), "{n}");
            }
        }
        let known = conversations.0.lock().unwrap();
        assert!(known.young.len() <= GENERATION && known.old.len() <= GENERATION);
    }
}
