//! What is asked of mints when the daemon starts, and who waits for it.
//!
//! The wallet is put in order: what an earlier run began is brought to its end at
//! each mint before anything else is done there, and tokens that nobody knows of
//! come back. Meanwhile each mint is asked what it offers. Refunds and payouts wait
//! for the wallet; who pays waits until the mint that they pay at has told. A mint
//! that does not answer keeps both for a bounded time. Everybody else is served at
//! once, and workloads are looked after: that a mint is down is no reason to leave
//! a question without an answer.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::ctx::Ctx;
use super::mints;
use super::solvency;
use super::strays;

/// How long what waits for the wallet waits for what earlier runs left at mints.
const RECOVER: Duration = Duration::from_secs(30);

/// How far a start has come.
#[derive(Debug, Default)]
pub struct Opening(watch::Sender<Left>);

/// What is still to be done.
#[derive(Debug, Default)]
struct Left {
    /// The recovery has no place in the queues of the mints yet.
    queue: bool,
    wallet: bool,
    /// Those that have not told what they offer.
    mints: BTreeSet<String>,
}

impl Opening {
    /// From now on they wait, until [`run`] has done its work.
    pub fn begin(&self, mints: impl Iterator<Item = String>) {
        self.0.send_replace(Left {
            queue: true,
            wallet: true,
            mints: mints.collect(),
        });
    }

    /// Returns when what is asked of the wallet comes after the recovery of the
    /// same mint.
    pub async fn turn(&self) {
        self.wait(|left| !left.queue).await;
    }

    /// Returns when the wallet is in order, as far as mints answer.
    pub async fn wallet(&self) {
        self.wait(|left| !left.wallet).await;
    }

    /// As [`turn`](Self::turn), and this mint has told what it offers.
    pub async fn mint(&self, url: &str) {
        self.wait(|left| !left.queue && !left.mints.contains(url))
            .await;
    }

    /// The same of all mints.
    pub async fn mints(&self) {
        self.wait(|left| !left.queue && left.mints.is_empty()).await;
    }

    /// The recovery has its place in the queues.
    pub fn queued(&self) {
        self.0.send_modify(|left| left.queue = false);
    }

    /// The wallet is in order, or that was tried for long enough.
    pub fn wallet_is_ready(&self) {
        self.0.send_modify(|left| left.wallet = false);
    }

    /// Nobody waits for this mint any more.
    pub fn told(&self, url: &str) {
        self.0.send_if_modified(|left| left.mints.remove(url));
    }

    /// Nobody waits for any mint any more.
    pub fn all_told(&self) {
        self.0.send_modify(|left| left.mints.clear());
    }

    /// Nobody waits any more.
    fn end(&self) {
        self.0.send_replace(Left::default());
    }

    fn left(&self, what: impl FnOnce(&Left) -> bool) -> bool {
        what(&self.0.borrow())
    }

    async fn wait(&self, over: impl FnMut(&Left) -> bool) {
        // The sender lives as long as this does.
        drop(self.0.subscribe().wait_for(over).await);
    }
}

/// Lets all of them go where a start dies on the way. Where it is cut off, by the
/// end of the daemon, nothing is to begin any more.
struct LetGo<'a>(&'a Opening);

impl Drop for LetGo<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end();
        }
    }
}

/// Does it; nothing of it where it is over.
pub async fn run(ctx: &Arc<Ctx>) {
    let opening = &ctx.opening;
    let _end = LetGo(opening);
    let mut wallet = pin!(async {
        if opening.left(|left| left.wallet) {
            recover(ctx).await;
            strays::at_start(ctx).await;
            report(ctx).await;
            opening.wallet_is_ready();
        }
    });
    // What it asks of each mint is in that mint's queue from its first poll on.
    let done = futures::poll!(wallet.as_mut()).is_ready();
    opening.queued();
    let mints = async {
        if opening.left(|left| !left.mints.is_empty()) {
            mints::at_start(ctx).await;
        }
    };
    match done {
        true => mints.await,
        false => drop(tokio::join!(wallet, mints)),
    }
}

/// Brings what an earlier run began at mints to its end; a mint that is down is
/// tried again by the upkeep.
async fn recover(ctx: &Ctx) {
    match tokio::time::timeout(RECOVER, ctx.parts.wallet.recover()).await {
        Ok(Ok(found)) if found.recovered + found.compensated + found.unfinished > 0 => {
            tracing::info!(?found, "the wallet had unfinished operations");
        }
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::error!(%error, "the wallet could not recover; trying again"),
        Err(_) => tracing::warn!("mints do not answer; recovery goes on later"),
    }
}

/// Says what money is not explained.
async fn report(ctx: &Ctx) {
    match solvency::unexplained(ctx).await {
        Ok(found) => {
            for ((mint, unit), amount) in found {
                tracing::warn!(%mint, %unit, %amount, "ecash that no row of the ledger explains; it is not counted as earned");
            }
        }
        Err(error) => tracing::warn!(%error, "whether all ecash is explained is not known"),
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn who_pays_waits_for_the_mint_and_what_goes_back_for_the_wallet() {
        let opening = Opening::default();
        assert!(
            opening.mints().now_or_never().is_some(),
            "nothing was begun"
        );
        opening.begin(["a", "b"].map(str::to_owned).into_iter());
        opening.told("a");
        assert!(opening.turn().now_or_never().is_none());
        assert!(opening.mint("a").now_or_never().is_none());
        opening.queued();
        assert!(opening.turn().now_or_never().is_some());
        assert!(opening.mint("a").now_or_never().is_some());
        assert!(opening.mint("b").now_or_never().is_none());
        assert!(opening.mints().now_or_never().is_none());
        opening.all_told();
        assert!(opening.mints().now_or_never().is_some());
        assert!(opening.wallet().now_or_never().is_none());
        opening.wallet_is_ready();
        assert!(opening.wallet().now_or_never().is_some());
    }
}
