//! What the inside must not see or do.

use super::support::{create_new, ensure, plain, run, sh, sh_ok};
use super::{Escape, Failure, Fixture, Outcome, Program};
use crate::compute::{Handle, Image};

/// Capabilities (capabilities(7)) that reach past the wall wherever the kernel
/// is shared: raw I/O, modules, boot, clock, MAC, system log, alarms, audit.
const FORBIDDEN: [(&str, u32); 8] = [
    ("CAP_SYS_MODULE", 16),
    ("CAP_SYS_RAWIO", 17),
    ("CAP_SYS_BOOT", 22),
    ("CAP_SYS_TIME", 25),
    ("CAP_AUDIT_CONTROL", 30),
    ("CAP_MAC_ADMIN", 33),
    ("CAP_SYSLOG", 34),
    ("CAP_WAKE_ALARM", 35),
];

fn shares_kernel(fixture: &dyn Fixture) -> Result<(), Failure> {
    match fixture.backend().capabilities().isolation.as_str() {
        "shared-kernel" => Ok(()),
        other => Err(Failure::skipped(format!("{other}: the kernel is its own"))),
    }
}

async fn held(fixture: &dyn Fixture, handle: &Handle, escape: Escape) -> Outcome {
    let said = run(fixture, handle, &Program::Try(escape)).await?;
    ensure(said == "held", || format!("{escape:?}: {said:?}"))
}

/// It has a name of its own, and not the host's.
pub async fn hostname_is_its_own(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let handle = create_new(fixture, &plain(fixture)).await?;
    let name = sh_ok(&*backend, &handle, "cat /proc/sys/kernel/hostname").await?;
    ensure(name == handle.key.as_str(), || {
        format!("its name is {name:?}")
    })
}

/// No process of the host is seen.
pub async fn host_processes_are_hidden(fixture: &dyn Fixture) -> Outcome {
    let handle = create_new(fixture, &plain(fixture)).await?;
    let Some(process) = fixture.host().await?.process else {
        return Err(Failure::skipped(
            "the fixture has no host process to look for",
        ));
    };
    let seen = run(fixture, &handle, &Program::Processes).await?;
    ensure(!seen.is_empty(), || {
        "not even its own processes are seen".to_owned()
    })?;
    ensure(!seen.contains(&process), || {
        format!("{process} is seen: {seen}")
    })
}

/// Processes, mounts, network, IPC, name and users are apart from the host's.
pub async fn namespaces_are_its_own(fixture: &dyn Fixture) -> Outcome {
    shares_kernel(fixture)?;
    let backend = fixture.backend();
    let handle = create_new(fixture, &plain(fixture)).await?;
    let namespaces = fixture.host().await?.namespaces;
    if namespaces.is_empty() {
        return Err(Failure::skipped(
            "the fixture does not know the host's namespaces",
        ));
    }
    for (name, hosts) in namespaces {
        let own = sh_ok(
            &*backend,
            &handle,
            &format!("readlink /proc/self/ns/{name}"),
        )
        .await?;
        ensure(own.starts_with(&name), || format!("{name}: {own:?}"))?;
        ensure(own != hosts, || {
            format!("{name} of a command is the host's")
        })?;
        // The first process may not let itself be looked at.
        let line = format!("readlink /proc/1/ns/{name} || true");
        let first = sh_ok(&*backend, &handle, &line).await?;
        ensure(first != hosts, || {
            format!("{name} of the first process is the host's")
        })?;
    }
    Ok(())
}

/// Root inside is not root outside.
pub async fn root_inside_is_nobody_outside(fixture: &dyn Fixture) -> Outcome {
    shares_kernel(fixture)?;
    fixture.root_is_mapped().await?;
    let backend = fixture.backend();
    let handle = create_new(fixture, &plain(fixture)).await?;
    let id = sh_ok(&*backend, &handle, "id -u").await?;
    ensure(id == "0", || format!("commands run as {id}"))?;
    for map in ["/proc/self/uid_map", "/proc/1/uid_map"] {
        let text = sh(&*backend, &handle, &format!("cat {map}")).await?.text();
        let outside = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "0").then(|| words.next())?
        });
        let outside: Vec<_> = outside.collect();
        ensure(!outside.contains(&"0"), || format!("{map}: {text}"))?;
        ensure(map.contains("/1/") || outside.len() == 1, || {
            format!("{map}: {text}")
        })?;
    }
    Ok(())
}

/// No capability that reaches past the wall, no new privileges, a filter of
/// system calls: for the main process and for commands.
pub async fn privileges_are_dropped(fixture: &dyn Fixture) -> Outcome {
    shares_kernel(fixture)?;
    let backend = fixture.backend();
    let handle = create_new(fixture, &plain(fixture)).await?;
    let status = sh_ok(&*backend, &handle, "cat /proc/self/status").await?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|rest| rest.trim_start_matches(':').trim().to_owned())
            .unwrap_or_default()
    };
    let bounding = u64::from_str_radix(&field("CapBnd"), 16);
    let bounding = bounding.map_err(|_| Failure::broken(format!("no CapBnd in {status}")))?;
    for (name, bit) in FORBIDDEN {
        ensure(bounding & (1 << bit) == 0, || format!("{name} can be had"))?;
    }
    ensure(field("NoNewPrivs") == "1", || {
        "new privileges can be had".to_owned()
    })?;
    ensure(field("Seccomp") == "2", || {
        "system calls are not filtered".to_owned()
    })
}

/// Files of the host that are its own business cannot be read.
pub async fn host_files_are_hidden(fixture: &dyn Fixture) -> Outcome {
    let backend = fixture.backend();
    let handle = create_new(fixture, &plain(fixture)).await?;
    let secrets = fixture.host().await?.secrets;
    if secrets.is_empty() {
        return Err(Failure::skipped("the fixture has no secret on the host"));
    }
    for (path, text) in secrets {
        for place in [
            path.clone(),
            format!("/proc/1/root{path}"),
            format!("/proc/1/cwd{path}"),
        ] {
            let seen = sh(&*backend, &handle, &format!("cat {place}"))
                .await?
                .text();
            ensure(!seen.contains(&text), || format!("{place} can be read"))?;
        }
    }
    Ok(())
}

/// The host's own system directories cannot be written.
pub async fn host_files_cannot_be_written(fixture: &dyn Fixture) -> Outcome {
    if fixture.image() != Image::Host {
        return Err(Failure::moot("the image is the workload's own"));
    }
    let handle = create_new(fixture, &plain(fixture)).await?;
    held(fixture, &handle, Escape::WriteHostFiles).await
}

macro_rules! walls {
    ($($(#[$doc:meta])* $name:ident: $($escape:ident),+;)*) => {
        $($(#[$doc])*
        pub async fn $name(fixture: &dyn Fixture) -> Outcome {
            shares_kernel(fixture)?;
            let handle = create_new(fixture, &plain(fixture)).await?;
            $(held(fixture, &handle, Escape::$escape).await?;)+
            Ok(())
        })*
    };
}

walls! {
    /// It cannot mount.
    mounting_is_forbidden: Mount;
    /// It cannot load kernel modules.
    modules_are_forbidden: Module;
    /// It cannot write the kernel's settings or its triggers.
    kernel_settings_are_forbidden: Sysctl, Sysrq;
    /// It cannot read the kernel's memory.
    kernel_memory_is_hidden: KernelMemory;
    /// It cannot set the host's clock.
    the_clock_is_the_hosts: Clock;
    /// It cannot make device nodes.
    device_nodes_are_forbidden: DeviceNode;
    /// It cannot raise its own limits.
    its_limits_are_not_its_own: OwnLimits;
}
