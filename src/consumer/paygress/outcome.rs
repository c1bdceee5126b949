//! From a good reply to what is known of the lease: written down first, then its
//! request is closed.

use super::super::client::{Client, Progress, now};
use super::super::error::ClientError;
use super::super::history::Fate;
use super::super::reads::bad_answer;
use super::super::records::{KnownLease, PaygressLease, PaygressRequest, SavedRequest};
use super::super::settle::Settled;
use super::access::{password_in, save_password};
use super::fit;
use super::lease::seen;
use super::settle::paid;
use super::terms::tier_name;
use crate::core::capacity::Resources;
use crate::core::money::Msat;
use crate::core::pricing::purchase;
use crate::protocol::paygress::reply::{AccessDetails, StatusReply, TopUpDone};
use crate::protocol::paygress::request::Request;
use crate::protocol::reply::{Access, Answer, LeaseState, LeaseStatus, SpawnAnswer, TopupAnswer};

/// A lease may be so many seconds shorter than what was paid before it is said.
const SHORT: u64 = 120;

impl Client {
    pub(super) fn leased(
        &self,
        saved: SavedRequest,
        info: &PaygressRequest,
        access: &AccessDetails,
        exact: bool,
        progress: Progress<'_>,
    ) -> Result<Settled, ClientError> {
        if !exact {
            progress(&format!(
                "beware: the provider gives {} millicores and {} MiB, not the {} and {} that were bought",
                access.cpu_millicores,
                access.memory_mb,
                info.spec.cpu_millicores,
                info.spec.memory_mb
            ));
        }
        let mut lease = new_lease(&saved, info, &access.pod_npub)?;
        let status = &mut lease.status;
        let bought = status.remaining_seconds;
        if let Some(ends) = fit::instant(&access.expires_at) {
            status.expires_at = Some(ends);
            status.remaining_seconds = ends.secs_since(now());
        }
        if status.remaining_seconds.saturating_add(SHORT) < bought {
            progress(&format!(
                "beware: the provider counts {} s, {bought} s were paid",
                status.remaining_seconds
            ));
        }
        status.gives = gives(access.cpu_millicores, access.memory_mb);
        status.access = (!access.host_address.is_empty()).then(|| Access {
            host: access.host_address.clone(),
            port: access.node_port,
            user: "root".to_owned(),
            host_key: String::new(),
        });
        let password = password_in(&access.instructions, &password_of(&saved));
        self.spawned(saved, info, lease, &password)
    }

    /// A lease whose reply was lost, by its status.
    pub(super) fn found_again(
        &self,
        saved: SavedRequest,
        info: &PaygressRequest,
        status: &StatusReply,
    ) -> Result<Settled, ClientError> {
        let pod = format!(
            "container-{}",
            status.pod_id.trim_start_matches("container-")
        );
        let mut lease = seen(new_lease(&saved, info, &pod)?, status);
        lease.status.gives = gives(status.cpu_millicores, status.memory_mb);
        let password = password_of(&saved);
        self.spawned(saved, info, lease, &password)
    }

    /// Writes a new lease down, then closes its request.
    pub(super) fn spawned(
        &self,
        mut saved: SavedRequest,
        info: &PaygressRequest,
        lease: KnownLease,
        password: &str,
    ) -> Result<Settled, ClientError> {
        save_password(&self.home, &lease, password)?;
        self.records.save_lease(&lease)?;
        let (paid_msat, mint_fee_msat) = sums(&saved, info)?;
        saved.fate = Some(spent_for(info));
        self.close(&mut saved, "done")?;
        let answer = SpawnAnswer {
            status: lease.status.clone(),
            paid_msat,
            mint_fee_msat,
        };
        Ok(Settled {
            request_id: saved.request_id,
            answer: Answer::Spawn(answer),
            lease: Some(lease),
            refunded: Msat::ZERO,
        })
    }

    pub(super) fn topped_up(
        &self,
        mut saved: SavedRequest,
        info: &PaygressRequest,
        done: &TopUpDone,
    ) -> Result<Settled, ClientError> {
        let ends = fit::instant(&done.new_expires_at).ok_or_else(bad_answer)?;
        let known = self.records.lease(&saved.provider, &info.lease)?;
        let lease = known.map(|mut lease| {
            lease.status.state = LeaseState::Active;
            lease.status.expires_at = Some(ends);
            lease.status.remaining_seconds = ends.secs_since(now());
            lease.seen_at = now();
            lease
        });
        if let Some(lease) = &lease {
            self.records.save_lease(lease)?;
        }
        let (paid_msat, mint_fee_msat) = sums(&saved, info)?;
        saved.fate = Some(spent_for(info));
        self.close(&mut saved, "done")?;
        let answer = TopupAnswer {
            lease: info.lease.clone(),
            added_seconds: done.extended_duration_seconds,
            expires_at: ends,
            paid_msat,
            mint_fee_msat,
            credit_msat: Msat::ZERO,
        };
        Ok(Settled {
            request_id: saved.request_id,
            answer: Answer::Topup(answer),
            lease,
            refunded: Msat::ZERO,
        })
    }
}

/// What was given, and what the mint keeps of it by its published fees.
fn sums(saved: &SavedRequest, info: &PaygressRequest) -> Result<(Msat, Msat), ClientError> {
    let face = paid(saved)?.face;
    Ok((face, face.saturating_sub(info.net)))
}

fn gives(cpu_millicores: u64, memory_mb: u64) -> Resources {
    Resources {
        cpu_millicores: u32::try_from(cpu_millicores).unwrap_or(u32::MAX),
        memory_mib: u32::try_from(memory_mb).unwrap_or(u32::MAX),
        disk_mib: 0,
        pids: 0,
    }
}

/// The password that we asked for.
fn password_of(saved: &SavedRequest) -> String {
    match Request::read(&saved.body) {
        Ok(Request::Spawn(spawn)) => spawn.ssh_password,
        _ => String::new(),
    }
}

fn new_lease(
    saved: &SavedRequest,
    info: &PaygressRequest,
    pod: &str,
) -> Result<KnownLease, ClientError> {
    let spec = &info.spec;
    let seconds = purchase(info.net, spec.rate_msats_per_sec).map_or(0, |bought| bought.seconds);
    let image = match Request::read(&saved.body) {
        Ok(Request::Spawn(spawn)) => spawn.template_slug.unwrap_or(spawn.pod_image),
        _ => String::new(),
    };
    let status = LeaseStatus {
        lease: info.lease.clone(),
        state: LeaseState::Active,
        why: "paid; no stop and no refund".to_owned(),
        tier: tier_name(&spec.id).ok_or_else(bad_answer)?,
        image,
        rate_msat_per_s: spec.rate_msats_per_sec,
        gives: gives(spec.cpu_millicores, spec.memory_mb),
        created_at: saved.written_at,
        started_at: Some(now()),
        expires_at: Some(now().plus_secs(seconds)),
        destroy_at: None,
        remaining_seconds: seconds,
        credit_msat: Msat::ZERO,
        gift_seconds: None,
        access: None,
        refunds: Vec::new(),
    };
    Ok(KnownLease {
        provider: saved.provider,
        provider_name: saved.provider_name.clone(),
        relays: saved.relays.clone(),
        mints: saved.mints.clone(),
        lock: None,
        ssh_key: None,
        status,
        seen_at: now(),
        paygress: Some(PaygressLease {
            key_index: info.key_index,
            pod: pod.to_owned(),
            spec: spec.clone(),
            host_key: String::new(),
            heard: Vec::new(),
        }),
    })
}

/// What the mint kept is not told in this dialect.
fn spent_for(info: &PaygressRequest) -> Fate {
    Fate::Spent {
        lease: info.lease.clone(),
        mint_fee: None,
    }
}
