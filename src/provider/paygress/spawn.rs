//! A workload for an existing client: what it asks for in our terms, and a
//! number, a port and a password beside the lease.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::Rng;
use rand::distr::Alphanumeric;

use super::ports::Held;
use super::{Done, errors, ports, wait};
use crate::core::ids::{PublicKey, RequestId};
use crate::core::lease::Lease;
use crate::ledger::{
    CONTAINER_OF, CONTAINERS, ContainerRow, LedgerError, OldAsk, PORTS, PortRow, Tx, container_key,
    next_container,
};
use crate::protocol::paygress::reply::{ErrorReply, ErrorType};
use crate::protocol::paygress::request::{Replication, Spawn, VolumeEncryption, sane_password};
use crate::protocol::request::Wanted;
use crate::provider::validate::{self, Price};
use crate::provider::{ctx::Ctx, handlers};

/// Characters of a password that we choose: 95 bits.
const PASSWORD: usize = 16;

/// Bytes of a volume key.
const VOLUME_KEY: usize = 32;

pub(super) async fn handle(
    ctx: &Arc<Ctx>,
    owner: PublicKey,
    id: RequestId,
    ask: &OldAsk,
    spawn: &Spawn,
) -> Result<Done, ErrorReply> {
    let refused = |refusal| errors::reply(&refusal);
    if let Some(encryption) = &spawn.volume_encryption {
        return Err(no_encryption(encryption));
    }
    if let Some(Replication::WarmStandby { .. }) = spawn.replication {
        let what = "this provider takes no part in warm standby; the token is still yours";
        return Err(ErrorReply::new(ErrorType::NotAddressed, what));
    }
    let wanted = wanted(ctx, spawn)?;
    let accepted = validate::wanted(ctx, &wanted, false, Price::AsOfNow).map_err(refused)?;
    let priced = handlers::priced(ctx, accepted, &spawn.cashu_token, handlers::Locks::None);
    let priced = priced.await.map_err(refused)?;
    let port = ports::take(ctx).await.map_err(refused)?;
    let password = password(&spawn.ssh_password);
    let (shared, number) = (Arc::clone(ctx), port.port());
    let by = Some(wait::pay_by(ask));
    let bought = handlers::buy(ctx, owner, id, priced, by, move |tx, lease| {
        note(&shared, tx, lease, number, password)
    });
    let lease = bought.await.map_err(refused)?;
    Held::keep(port);
    Ok(Done::Later(lease))
}

/// A tier that is not sold, or another image than was asked for, is refused:
/// nobody is sold what they did not choose.
fn wanted(ctx: &Ctx, spawn: &Spawn) -> Result<Wanted, ErrorReply> {
    let tier = match spawn.pod_spec_id.as_deref() {
        None => match ctx.unpriced_tiers().next() {
            Some(first) => Some(first.id.clone()),
            None => return Err(ErrorReply::new(ErrorType::NoSpecs, "nothing is for sale")),
        },
        Some(id) => match ctx.unpriced_tiers().find(|tier| tier.id.as_str() == id) {
            Some(tier) => Some(tier.id.clone()),
            None => return Err(no_such_tier(ctx)),
        },
    };
    let (template, image) = match spawn.template_slug.as_deref() {
        Some(slug) => match slug.parse() {
            Ok(slug) => (Some(slug), None),
            Err(_) => {
                let what = "there is no such template here; the token is still yours";
                return Err(ErrorReply::new(ErrorType::UnknownTemplate, what));
            }
        },
        None => (None, Some(image(ctx, &spawn.pod_image))),
    };
    Ok(Wanted {
        tier,
        template,
        image,
        ..Wanted::default()
    })
}

fn no_such_tier(ctx: &Ctx) -> ErrorReply {
    let names: Vec<_> = ctx.unpriced_tiers().map(|tier| tier.id.as_str()).collect();
    let what = format!(
        "there is no such tier here, choose one of: {}; the token is still yours",
        names.join(", ")
    );
    ErrorReply::new(ErrorType::SpecUnavailable, what)
}

/// What is run for `asked`, by the operator's list.
fn image(ctx: &Ctx, asked: &str) -> String {
    let settings = ctx.settings();
    let normal = settings.images.normal(asked).ok();
    let is_it = |name: &&String| {
        name.as_str() == asked || normal.is_some() && settings.images.normal(name).ok() == normal
    };
    let images = settings.paygress.as_ref().map(|old| &old.images);
    let run = images.and_then(|images| {
        let named = images.keys().find(is_it)?;
        images.get(named)
    });
    run.cloned().unwrap_or_else(|| asked.to_owned())
}

fn no_encryption(encryption: &VolumeEncryption) -> ErrorReply {
    let key = URL_SAFE_NO_PAD.decode(&encryption.key_b64);
    let what = match key {
        Ok(key) if key.len() == VOLUME_KEY => {
            "there are no encrypted volumes here; ask without one, the token is still yours"
        }
        _ => {
            "the volume key is not 32 bytes in base64url without padding; the token is still yours"
        }
    };
    ErrorReply::new(ErrorType::InvalidVolumeEncryption, what)
}

/// The wanted password, or one of ours where that one is too weak.
fn password(wanted: &str) -> String {
    if sane_password(wanted) {
        return wanted.to_owned();
    }
    let mut rng = rand::rng();
    (0..PASSWORD)
        .map(|_| char::from(rng.sample(Alphanumeric)))
        .collect()
}

/// Gives the lease its number and its port, in the commit that makes it.
fn note(ctx: &Ctx, tx: &Tx, lease: &Lease, port: u16, password: String) -> Result<(), LedgerError> {
    let key = port.to_string();
    if tx.get(&PORTS, &key)?.is_some_and(|row| row.lease.is_some()) {
        return Err(LedgerError::Rule(format!("port {port} is taken")));
    }
    let taken = PortRow {
        lease: Some(lease.id.clone()),
        since: ctx.now(),
    };
    tx.put(&PORTS, &key, &taken)?;
    let n = next_container(tx)?;
    tx.put(&CONTAINER_OF, lease.id.as_str(), &n)?;
    let row = ContainerRow {
        lease: lease.id.clone(),
        owner: lease.owner,
        port,
        password,
        claimed: false,
    };
    tx.put(&CONTAINERS, &container_key(n), &row)
}
