//! Programs that want more than they were sold. After each, the workload and
//! its neighbour are as they were.

use super::support::{
    CALL, begin_line, create_new, ensure, eventually, finish, plain, random_key, run, sh_ok,
    started_at, unharmed, within,
};
use super::{Failure, Fixture, Outcome, Program};
use crate::compute::{BackendError, Handle};
use crate::core::capacity::Resources;
use crate::core::time::Timestamp;

const MIB: u64 = 1024 * 1024;

/// A workload that is put upon, and one beside it that must not notice.
struct Pair {
    bad: Handle,
    bad_since: Timestamp,
    good: Handle,
    good_since: Timestamp,
}

impl Pair {
    async fn new(fixture: &dyn Fixture, resources: Resources) -> Result<Self, Failure> {
        let backend = fixture.backend();
        let mut spec = plain(fixture);
        let good = create_new(fixture, &spec).await?;
        spec.resources = resources;
        let bad = create_new(fixture, &spec).await?;
        Ok(Self {
            bad_since: started_at(&*backend, &bad).await?,
            good_since: started_at(&*backend, &good).await?,
            bad,
            good,
        })
    }

    async fn both_unharmed(&self, fixture: &dyn Fixture) -> Outcome {
        unharmed(fixture, &self.good, self.good_since)
            .await
            .map_err(|error| Failure::broken(format!("the neighbour: {error}")))?;
        unharmed(fixture, &self.bad, self.bad_since)
            .await
            .map_err(|error| Failure::broken(format!("the workload itself: {error}")))
    }
}

/// The limits of the suite's workloads, if this one holds.
fn limits(fixture: &dyn Fixture, what: &str) -> Result<Resources, Failure> {
    let enforces = fixture.backend().capabilities().enforces;
    let holds = match what {
        "cpu" => enforces.cpu,
        "memory" => enforces.memory,
        "pids" => enforces.pids,
        _ => enforces.disk,
    };
    match holds {
        true => Ok(plain(fixture).resources),
        false => Err(fixture.unlimited(what)),
    }
}

async fn number(fixture: &dyn Fixture, handle: &Handle, what: &Program) -> Result<u64, Failure> {
    let text = run(fixture, handle, what).await?;
    let number = text
        .lines()
        .last()
        .and_then(|line| line.trim().parse().ok());
    number.ok_or_else(|| Failure::broken(format!("{what:?} printed {text:?}")))
}

/// A limit that does not hold here is refused, not ignored.
pub async fn what_cannot_be_enforced_is_refused(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let enforces = backend.capabilities().enforces;
    let ask = fixture.resources();
    let none = plain(fixture).resources;
    let attempts = [
        (
            enforces.cpu,
            Resources {
                cpu_millicores: ask.cpu_millicores,
                ..none
            },
        ),
        (
            enforces.memory,
            Resources {
                memory_mib: ask.memory_mib,
                ..none
            },
        ),
        (
            enforces.pids,
            Resources {
                pids: ask.pids,
                ..none
            },
        ),
        (
            enforces.disk,
            Resources {
                disk_mib: ask.disk_mib,
                ..none
            },
        ),
    ];
    let unenforced: Vec<_> = attempts.into_iter().filter(|(holds, _)| !holds).collect();
    if unenforced.is_empty() {
        return Err(Failure::moot("every limit holds on this host"));
    }
    for (_, resources) in unenforced {
        let mut spec = plain(fixture);
        spec.resources = resources;
        let made = within(CALL, "create", backend.create(&random_key(), &spec)).await?;
        ensure(matches!(made, Err(BackendError::Permanent(_))), || {
            format!("{resources:?} gave {made:?}")
        })?;
    }
    Ok(())
}

/// A program that burns two cores gets the part of one that was sold.
pub async fn cpu_limit_holds(fixture: &dyn Fixture) -> Outcome {
    const SECONDS: u32 = 3;
    let resources = Resources {
        cpu_millicores: 300,
        ..limits(fixture, "cpu")?
    };
    let pair = Pair::new(fixture, resources).await?;
    let text = run(fixture, &pair.bad, &Program::Spin(SECONDS)).await?;
    let used = times(&text).ok_or_else(|| Failure::broken(format!("times said {text:?}")))?;
    // A third more than was sold: the kernel counts in slices of a period.
    let most = f64::from(SECONDS) * 0.3 * 1.33 + 0.1;
    ensure(used <= most, || {
        format!("{used} s of CPU in {SECONDS} s, sold were 0.3 cores")
    })?;
    pair.both_unharmed(fixture).await
}

/// The sum of what `times` printed, in seconds.
fn times(text: &str) -> Option<f64> {
    let all = text.split_whitespace().map(|word| {
        let (minutes, seconds) = word.strip_suffix('s')?.split_once('m')?;
        Some(minutes.parse::<f64>().ok()? * 60.0 + seconds.parse::<f64>().ok()?)
    });
    all.sum()
}

/// A program may hold what was sold; one that wants more is ended, it alone.
pub async fn memory_limit_holds(fixture: &dyn Fixture) -> Outcome {
    let resources = limits(fixture, "memory")?;
    let pair = Pair::new(fixture, resources).await?;
    let little = resources.memory_mib / 3;
    let held = number(fixture, &pair.bad, &Program::FillMemory(little)).await?;
    ensure(held == u64::from(little).saturating_mul(MIB), || {
        format!(
            "{little} of {} MiB could not be held: {held}",
            resources.memory_mib
        )
    })?;
    let much = resources.memory_mib.saturating_mul(3);
    for _ in 0..2 {
        let held = number(fixture, &pair.bad, &Program::FillMemory(much)).await?;
        ensure(held == 0, || {
            format!(
                "{held} bytes were held, sold were {} MiB",
                resources.memory_mib
            )
        })?;
        pair.both_unharmed(fixture).await?;
    }
    Ok(())
}

/// No more processes than were sold.
pub async fn pids_limit_holds(fixture: &dyn Fixture) -> Outcome {
    let resources = limits(fixture, "pids")?;
    let pair = Pair::new(fixture, resources).await?;
    let limit = u64::from(resources.pids);
    let started = number(fixture, &pair.bad, &Program::ForkMany(resources.pids * 3)).await?;
    ensure(started <= limit, || {
        format!("{started} processes, sold were {limit}")
    })?;
    // A workload that was sold many can have many.
    ensure(started >= limit / 2, || {
        format!("only {started} of {limit} processes")
    })?;
    pair.both_unharmed(fixture).await
}

/// A fork bomb harms nobody else while it burns, and its workload lives on.
pub async fn a_fork_bomb_is_contained(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let pair = Pair::new(fixture, limits(fixture, "pids")?).await?;
    let line = fixture.program(&Program::ForkBomb);
    let bomb = begin_line(&*backend, &pair.bad, &line).await?;
    let neighbour = async {
        for _ in 0..5 {
            let said = within(
                CALL / 3,
                "the neighbour",
                sh_ok(&*backend, &pair.good, "echo fine"),
            );
            let said = said.await??;
            ensure(said == "fine", || format!("the neighbour said {said:?}"))?;
        }
        Ok(())
    };
    let (burnt, fine) = tokio::join!(finish(bomb, &[]), neighbour);
    burnt?;
    fine?;
    pair.both_unharmed(fixture).await
}

/// No more disk than was sold, wherever it is written.
pub async fn disk_limit_holds(fixture: &dyn Fixture) -> Outcome {
    let resources = limits(fixture, "disk")?;
    let pair = Pair::new(fixture, resources).await?;
    let disk = u64::from(resources.disk_mib).saturating_mul(MIB);
    let memory = u64::from(resources.memory_mib).saturating_mul(MIB);
    let much = resources.disk_mib.saturating_add(resources.memory_mib) * 3;
    let home = number(fixture, &pair.bad, &Program::FillDisk("$HOME".into(), much)).await?;
    ensure(home <= disk, || {
        format!("{home} bytes at home, sold were {disk}")
    })?;
    // What file systems keep for themselves is not counted against the host.
    ensure(home >= disk / 2, || {
        format!("only {home} of {disk} bytes at home")
    })?;
    pair.both_unharmed(fixture).await?;
    let everywhere = ["$HOME", "/tmp", "/var/tmp"].map(str::to_owned).to_vec();
    let sum = number(fixture, &pair.bad, &Program::FillDisks(everywhere, much)).await?;
    ensure(sum <= disk + memory, || {
        format!("{sum} bytes in all, sold were {disk}")
    })?;
    pair.both_unharmed(fixture).await
}

/// Files in memory count as memory, and filling them ends nothing else.
pub async fn files_in_memory_are_limited(fixture: &dyn Fixture) -> Outcome {
    let resources = limits(fixture, "memory")?;
    let pair = Pair::new(fixture, resources).await?;
    let memory = u64::from(resources.memory_mib).saturating_mul(MIB);
    let disk = u64::from(resources.disk_mib).saturating_mul(MIB);
    let much = resources.memory_mib.saturating_add(resources.disk_mib) * 3;
    for place in ["/dev/shm", "/tmp", "/run"] {
        let mounted = format!("grep -q ' {place} tmpfs ' /proc/mounts && echo memory || true");
        let backend = fixture.backend();
        let in_memory = sh_ok(&*backend, &pair.bad, &mounted).await? == "memory";
        if !in_memory && !backend.capabilities().enforces.disk {
            continue;
        }
        let program = Program::FillDisk(place.to_owned(), much);
        let wrote = number(fixture, &pair.bad, &program).await?;
        let most = if place == "/dev/shm" {
            memory
        } else {
            memory.max(disk)
        };
        ensure(wrote <= most, || {
            format!("{wrote} bytes in {place}, sold were {most}")
        })?;
        pair.both_unharmed(fixture).await?;
    }
    Ok(())
}

/// What one workload used up is there again for the next with its place.
pub async fn a_full_disk_goes_with_its_workload(fixture: &dyn Fixture) -> Outcome {
    let resources = limits(fixture, "disk")?;
    let backend = fixture.backend();
    let mib = resources.disk_mib / 2;
    for _ in 0..3 {
        let handle = create_new(fixture, &plain(fixture)).await?;
        let program = Program::FillDisk("$HOME".into(), mib);
        let wrote = number(fixture, &handle, &program).await?;
        ensure(wrote == u64::from(mib).saturating_mul(MIB), || {
            format!("only {wrote} bytes")
        })?;
        super::support::destroy(&*backend, &handle).await?;
    }
    eventually("nothing is left", || async {
        Ok(super::support::nothing_left(fixture).await.ok())
    })
    .await
}
