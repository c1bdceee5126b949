//! The wallet's file is lost, or the ledger's, and everything else is there.

mod ledger;
pub(crate) mod wallet;
