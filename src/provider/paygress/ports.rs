//! Ports of single leases. One is listened on before money moves, for as long
//! as its lease lives, and given to another lease as late as possible: somebody
//! who comes late must not stand at a stranger's door.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::core::ids::LeaseId;
use crate::core::lease::Phase;
use crate::core::time::Timestamp;
use crate::ledger::{LEASES, LedgerError, PORTS, PortRow, Reader};
use crate::protocol::error::{Code, WireError};
use crate::provider::ctx::Ctx;
use crate::provider::refuse::{self, Refusal};

/// Ports that are tried for one lease.
const TRIES: usize = 16;

/// Ports that are held for a lease that is being written down.
#[derive(Default)]
pub struct HeldPorts(Mutex<BTreeSet<u16>>);

impl HeldPorts {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<u16>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A port that is listened on and belongs to no lease yet; closed when this is
/// dropped.
pub(super) struct Held {
    ctx: Arc<Ctx>,
    port: u16,
    kept: bool,
}

impl Held {
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// The lease is written down with it.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(ports) = &self.ctx.parts.ports
            && !self.kept
        {
            ports.close(self.port);
        }
        self.ctx.held_ports.lock().remove(&self.port);
    }
}

/// Takes the port that was free for the longest time and listens on it.
pub(super) async fn take(ctx: &Arc<Ctx>) -> Result<Held, Refusal> {
    let none = || {
        WireError::new(
            Code::NoCapacity,
            "no port is free for this lease now",
            "choose another provider or try again later; the token is still yours",
        )
    };
    let (Some(ports), Some(setting)) = (&ctx.parts.ports, &ctx.settings().paygress) else {
        return Err(none());
    };
    let range = setting.ports.clone();
    let free = ctx
        .ledger()
        .read(|reader| free(reader, range))
        .map_err(|error| refuse::internal(&error))?;
    let mut tries = 0;
    for port in free {
        if tries >= TRIES {
            break;
        }
        if !ctx.held_ports.lock().insert(port) {
            continue;
        }
        let mut held = Held {
            ctx: Arc::clone(ctx),
            port,
            kept: true,
        };
        // Held from here on; but somebody may have got it since we looked.
        if !still_free(ctx, port) {
            continue;
        }
        match ports.open(port).await {
            Ok(()) => {
                held.kept = false;
                return Ok(held);
            }
            Err(why) => {
                tracing::warn!(port, %why, "a port for a lease cannot be listened on");
                tries += 1;
            }
        }
    }
    Err(none())
}

fn still_free(ctx: &Ctx, port: u16) -> bool {
    let row = ctx.ledger().read(|r| r.get(&PORTS, &port.to_string()));
    row.is_ok_and(|row| row.is_none_or(|row| row.lease.is_none()))
}

/// Ports that no lease has, those that were free for the longest time first.
fn free(reader: &Reader, range: std::ops::RangeInclusive<u16>) -> Result<Vec<u16>, LedgerError> {
    let known: HashMap<String, PortRow> = reader.all(&PORTS)?.into_iter().collect();
    let since = |port: u16| match known.get(&port.to_string()) {
        Some(PortRow { lease: Some(_), .. }) => None,
        Some(row) => Some((row.since, port)),
        None => Some((Timestamp::default(), port)),
    };
    let mut free: Vec<_> = range.filter_map(since).collect();
    free.sort_unstable();
    Ok(free.into_iter().map(|(_, port)| port).collect())
}

/// Keeps the listeners what the ledger says, also after what was missed.
pub async fn keep(ctx: Arc<Ctx>) {
    let mut closed = ctx.closed.subscribe();
    let every = ctx.settings().timing.sweep;
    loop {
        if let Err(error) = sync(&ctx).await {
            tracing::error!(%error, "the ports of leases cannot be read");
        }
        // Whatever is told, the ledger is the truth.
        drop(tokio::time::timeout(every, closed.recv()).await);
    }
}

/// Listens on the ports of all leases that live, on no others, and frees those
/// of leases that are over.
///
/// # Errors
/// The ledger.
pub async fn sync(ctx: &Ctx) -> Result<(), LedgerError> {
    let Some(ports) = &ctx.parts.ports else {
        return Ok(());
    };
    // In this order: what is open and not held now is in the ledger by now.
    let open = ports.listening();
    let held = ctx.held_ports.lock().clone();
    let known = ctx.ledger().read(known)?;
    let wanted: BTreeSet<u16> = known.iter().filter(|p| p.lives).map(|p| p.port).collect();
    for port in open {
        if !wanted.contains(&port) && !held.contains(&port) {
            ports.close(port);
        }
    }
    let open: BTreeSet<u16> = ports.listening().into_iter().collect();
    for port in wanted.difference(&open) {
        if let Err(why) = ports.open(*port).await {
            tracing::warn!(port, %why, "the port of a lease cannot be listened on; again later");
        }
    }
    let over: Vec<Known> = known.into_iter().filter(|p| p.over).collect();
    if over.is_empty() {
        return Ok(());
    }
    let now = ctx.now();
    let freed = ctx.ledger().write(move |tx| {
        for Known { port, lease, .. } in over {
            let key = port.to_string();
            let row = tx.get(&PORTS, &key)?;
            if row.is_some_and(|row| row.lease.as_ref() == Some(&lease)) {
                let free = PortRow {
                    lease: None,
                    since: now,
                };
                tx.put(&PORTS, &key, &free)?;
            }
        }
        Ok(())
    });
    freed.await
}

/// A port that a lease has.
struct Known {
    port: u16,
    lease: LeaseId,
    /// Somebody may come to it.
    lives: bool,
    /// It is another lease's to have.
    over: bool,
}

fn known(reader: &Reader) -> Result<Vec<Known>, LedgerError> {
    let mut known = Vec::new();
    for (key, row) in reader.all(&PORTS)? {
        let (Ok(port), Some(id)) = (key.parse(), row.lease) else {
            continue;
        };
        let lease = reader.get(&LEASES, id.as_str())?;
        let ends = |phase| matches!(phase, Phase::Ending | Phase::Ended { .. });
        known.push(Known {
            port,
            lives: lease.as_ref().is_some_and(|lease| !ends(lease.phase)),
            over: lease.is_none_or(|lease| lease.has_ended()),
            lease: id,
        });
    }
    Ok(known)
}
