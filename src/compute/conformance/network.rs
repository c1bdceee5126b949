//! Where a workload gets, and where not.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::io::AsyncReadExt;

use super::support::{CALL, Doing, begin_line, create_new, ensure, eventually, plain, run, within};
use super::{Failure, Fixture, Outcome, Program};
use crate::compute::{Backend, Dial, ExecSession, Handle};

const PORT: u16 = 17_171;

/// Where clouds tell their machines secrets.
const METADATA: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);

const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT);

async fn reaches(fixture: &dyn Fixture, from: &Handle, to: SocketAddr) -> Result<bool, Failure> {
    match run(fixture, from, &Program::Connect(to)).await?.as_str() {
        "reached" => Ok(true),
        "unreachable" => Ok(false),
        other => Err(Failure::broken(format!("the probe of {to} said {other:?}"))),
    }
}

/// A listener inside that answers; ends with the session.
async fn listen(fixture: &dyn Fixture, handle: &Handle) -> Result<ExecSession, Failure> {
    let backend = fixture.backend();
    let line = fixture.program(&Program::Listen(PORT, "welcome".to_owned()));
    let session = begin_line(&*backend, handle, &line).await?;
    eventually("a listener inside answers on loopback", || async {
        Ok(reaches(fixture, handle, LOOPBACK).await?.then_some(()))
    })
    .await?;
    Ok(session)
}

/// A workload reaches itself on loopback, where nobody else listens.
pub async fn loopback_inside_works(fixture: &dyn Fixture) -> Outcome {
    let handle = create_new(fixture, &plain(fixture)).await?;
    let before = reaches(fixture, &handle, LOOPBACK).await?;
    ensure(!before, || {
        "somebody listens on a new workload's loopback".to_owned()
    })?;
    listen(fixture, &handle).await.map(|_| ())
}

/// No way to the address where clouds tell their machines secrets.
pub async fn metadata_address_is_out_of_reach(fixture: &dyn Fixture) -> Outcome {
    let handle = create_new(fixture, &plain(fixture)).await?;
    let reached = reaches(fixture, &handle, METADATA).await?;
    ensure(!reached, || format!("{METADATA} was reached"))
}

/// No way to what the host itself listens on, at any of its addresses.
pub async fn host_services_are_out_of_reach(fixture: &dyn Fixture) -> Outcome {
    let handle = create_new(fixture, &plain(fixture)).await?;
    let host = fixture.host().await?;
    if host.services.is_empty() {
        return Err(Failure::skipped("the fixture has no service on the host"));
    }
    none_reached(fixture, &handle, &host.services).await
}

/// No way to other machines in the host's own network.
pub async fn the_lan_is_out_of_reach(fixture: &dyn Fixture) -> Outcome {
    let handle = create_new(fixture, &plain(fixture)).await?;
    let host = fixture.host().await?;
    if host.lan.is_empty() {
        return Err(Failure::skipped("the fixture has no other machine"));
    }
    none_reached(fixture, &handle, &host.lan).await
}

async fn none_reached(fixture: &dyn Fixture, from: &Handle, to: &[SocketAddr]) -> Outcome {
    let before = fixture.touched();
    // At once, because each takes until the probe gives up.
    let probes = to.iter().map(|address| reaches(fixture, from, *address));
    let reached = futures::future::join_all(probes).await;
    for (address, reached) in to.iter().zip(reached) {
        ensure(!reached?, || format!("{address} was reached"))?;
    }
    let touched = fixture.touched().saturating_sub(before);
    ensure(touched == 0, || {
        format!("{touched} connections came through")
    })
}

/// Where the offer says that workloads reach the outside, they do; else not.
pub async fn the_outside_is_as_offered(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let handle = create_new(fixture, &plain(fixture)).await?;
    let host = fixture.host().await?;
    let offered = backend.capabilities().outgoing_network;
    let Some(outside) = host.outside.first() else {
        return Err(Failure::moot("the fixture has no machine outside"));
    };
    let reached = reaches(fixture, &handle, *outside).await?;
    ensure(reached == offered, || {
        format!("offered: {offered}, reached {outside}: {reached}")
    })
}

/// Neighbours do not reach each other, in either direction.
pub async fn neighbours_are_out_of_reach(fixture: &dyn Fixture) -> Outcome {
    let one = create_new(fixture, &plain(fixture)).await?;
    let other = create_new(fixture, &plain(fixture)).await?;
    for (from, to) in [(&one, &other), (&other, &one)] {
        let listener = listen(fixture, to).await?;
        let mut targets = addresses(fixture, to).await?;
        targets.push(LOOPBACK);
        for target in targets {
            let reached = reaches(fixture, from, target).await?;
            ensure(!reached, || format!("a neighbour was reached at {target}"))?;
        }
        drop(listener);
        eventually("the listener has ended", || async {
            Ok((!reaches(fixture, to, LOOPBACK).await?).then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// Where the workload might be reached.
async fn addresses(fixture: &dyn Fixture, of: &Handle) -> Result<Vec<SocketAddr>, Failure> {
    let text = run(fixture, of, &Program::Addresses).await?;
    let mut found: Vec<_> = text.split_whitespace().filter_map(ip).collect();
    found.retain(|ip| !ip.is_loopback() && !ip.is_unspecified());
    found.sort();
    found.dedup();
    Ok(found
        .into_iter()
        .map(|ip| SocketAddr::new(ip, PORT))
        .collect())
}

/// An address as people write it, or as 32 digits (`/proc/net/if_inet6`).
fn ip(word: &str) -> Option<IpAddr> {
    let digits = || (word.len() == 32).then(|| u128::from_str_radix(word, 16).ok());
    let plain = word.parse().ok();
    plain.or_else(|| Some(IpAddr::V6(digits()??.into())))
}

fn dial_of(backend: &dyn Backend) -> Result<&dyn Dial, Failure> {
    let dial = backend.dial();
    dial.ok_or_else(|| Failure::skipped("the backend has no dial"))
}

/// `dial` reaches a listener inside, by name and by address.
pub async fn dial_reaches_the_inside(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let handle = create_new(fixture, &plain(fixture)).await?;
    let listener = listen(fixture, &handle).await?;
    for host in ["127.0.0.1", "localhost"] {
        let dialled = within(CALL, "dial", dial_of(&*backend)?.dial(&handle, host, PORT)).await?;
        let mut stream = dialled.doing("dial")?;
        let mut greeting = [0; 7];
        let read = within(CALL, "a greeting", stream.read_exact(&mut greeting)).await?;
        read.doing("read of the greeting")?;
        ensure(&greeting == b"welcome", || {
            format!("greeted with {greeting:?}")
        })?;
    }
    drop(listener);
    Ok(())
}

/// `dial` does not reach the host's loopback or a neighbour, and says when
/// nobody listens.
pub async fn dial_reaches_the_inside_only(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let dial = dial_of(&*backend)?;
    let handle = create_new(fixture, &plain(fixture)).await?;
    let neighbour = create_new(fixture, &plain(fixture)).await?;
    let listener = listen(fixture, &neighbour).await?;
    let nobody = within(CALL, "dial", dial.dial(&handle, "127.0.0.1", PORT)).await?;
    ensure(nobody.is_err(), || {
        "a neighbour's loopback was reached".to_owned()
    })?;
    let before = fixture.touched();
    let host = fixture.host().await?;
    let dials = host.services.iter().chain(&host.lan).map(async |service| {
        let ip = service.ip().to_string();
        let dialled = within(CALL, "dial", dial.dial(&handle, &ip, service.port())).await?;
        ensure(dialled.is_err(), || format!("{service} was reached"))
    });
    let dials: Result<(), Failure> = futures::future::join_all(dials).await.into_iter().collect();
    dials?;
    drop(listener);
    let touched = fixture.touched().saturating_sub(before);
    ensure(touched == 0, || {
        format!("{touched} connections came through")
    })
}
