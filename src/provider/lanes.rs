//! Requests that ask a mint wait in lanes of their own, one for each mint and
//! one for quotes, which ask all of them: a mint that hangs fills its own lane,
//! and nobody's status waits behind it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ctx::Ctx;
use super::refuse::Refusal;
use super::settings::Settings;
use crate::protocol::error::{Code, WireError};
use crate::protocol::request::Ask;

/// Requests in one lane that are handled at once.
const RUNNING: usize = 32;
/// Requests in one lane, those included that wait.
const IN_LANE: usize = 128;

/// One queue: so many are in it, and so many of these run.
struct Lane {
    all: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

/// A place in a lane, until it is dropped.
pub(super) struct Place {
    _all: OwnedSemaphorePermit,
    _running: OwnedSemaphorePermit,
}

impl Lane {
    fn new() -> Self {
        Self {
            all: Arc::new(Semaphore::new(IN_LANE)),
            running: Arc::new(Semaphore::new(RUNNING)),
        }
    }

    /// `None` where the lane is full; else waits for its turn.
    async fn enter(&self) -> Option<Place> {
        let all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        let running = Arc::clone(&self.running).acquire_owned().await.ok()?;
        Some(Place {
            _all: all,
            _running: running,
        })
    }
}

/// The lanes of all mints that are accepted.
pub(super) struct Lanes {
    mints: BTreeMap<String, Lane>,
    quotes: Lane,
}

/// Whether a request asks a mint before it can be answered.
pub(super) fn asks_a_mint(ask: &Ask) -> bool {
    matches!(ask, Ask::Quote(_)) || ask.token().is_some() || ask.order().is_some()
}

impl Lanes {
    pub(super) fn new(settings: &Settings) -> Self {
        let lane = |url: &String| (url.clone(), Lane::new());
        Self {
            mints: settings.mints.iter().map(|mint| lane(&mint.url)).collect(),
            quotes: Lane::new(),
        }
    }

    /// Waits for the turn of a request that asks a mint; `None` for one that
    /// does not.
    ///
    /// # Errors
    /// The lane is full; nothing was taken.
    pub(super) async fn enter(&self, ctx: &Ctx, ask: &Ask) -> Result<Option<Place>, Refusal> {
        if matches!(ask, Ask::Quote(_)) {
            let place = self.quotes.enter().await.ok_or_else(full)?;
            ctx.opening.mints().await;
            return Ok(Some(place));
        }
        if ask.order().is_some() {
            let mint = ctx.settings().lightning().map(|(_, mint)| mint);
            return match mint {
                Some(mint) => self.enter_at(ctx, mint).await,
                None => Ok(None),
            };
        }
        match ask.token() {
            Some(token) => self.enter_with(ctx, token).await,
            None => Ok(None),
        }
    }

    /// Waits for the turn of a request with this token.
    ///
    /// # Errors
    /// The lane is full; nothing was taken.
    pub(super) async fn enter_with(
        &self,
        ctx: &Ctx,
        token: &str,
    ) -> Result<Option<Place>, Refusal> {
        // What is no token of an accepted mint is refused without asking one.
        let mint = ctx.parts.wallet.inspect(token).ok().map(|info| info.mint);
        match mint {
            Some(mint) => self.enter_at(ctx, &mint.0).await,
            None => Ok(None),
        }
    }

    async fn enter_at(&self, ctx: &Ctx, mint: &str) -> Result<Option<Place>, Refusal> {
        let Some(lane) = self.mints.get(mint) else {
            return Ok(None);
        };
        let place = lane.enter().await.ok_or_else(full)?;
        ctx.opening.mint(mint).await;
        Ok(Some(place))
    }
}

fn full() -> Refusal {
    WireError::new(
        Code::TooManyRequests,
        "too many requests wait for that mint",
        "try again in a minute with a new request id, or pay with another mint's token",
    )
}
