//! What a workload is as a container. Pure.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, Ipam,
    IpamConfig, NetworkCreateRequest, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};

use super::images::Ready;
use super::names::{IMAGE, Instance};
use crate::compute::{Image, WorkloadKey, WorkloadSpec};

/// Capabilities that stay: those of Docker's own list that package managers,
/// programs that drop to another user, and servers on low ports need. Not
/// NET_RAW (forged packets on the bridge), MKNOD (device nodes), AUDIT_WRITE
/// (the host's audit log).
pub(super) const CAPABILITIES: [&str; 11] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Processes of a workload that was promised no number: a fork bomb ends.
const PIDS_UNPROMISED: u32 = 1024;
/// Bytes of /dev/shm, which count as memory; the engine's own default.
const SHM: i64 = 64 * 1024 * 1024;
/// The kernel ends a tenant's processes before the host's (choom(1)).
const OOM_SCORE: i64 = 300;
/// Two files of this many bytes are kept of what the main process prints.
const LOG_BYTES: &str = "1m";
/// A core file of 1 byte: at this size, and at no other, the kernel does not
/// call the host's program for core files (core(5)).
const CORE: i64 = 1;
/// Stays up where an image names no command, for commands to be run inside.
const IDLE: [&str; 3] = ["/bin/sh", "-c", "while :; do sleep 86400; done"];

/// How a container is on the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wiring {
    /// Loopback only.
    Loopback,
    /// A network of its own of this name, and name servers.
    Own {
        network: String,
        resolvers: Vec<Ipv4Addr>,
    },
}

/// What the engine is asked to create. `quota`: it holds a size of the root
/// file system.
pub(super) fn container(
    instance: &Instance,
    key: &WorkloadKey,
    spec: &WorkloadSpec,
    image: &Ready,
    wiring: &Wiring,
    quota: bool,
) -> ContainerCreateBody {
    let mut labels = instance.labels(key, spec);
    labels.insert(IMAGE.to_owned(), asked_for(&spec.image));
    let env = spec
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    let idle = || IDLE.map(str::to_owned).to_vec();
    ContainerCreateBody {
        hostname: Some(key.to_string()),
        // By its id: what was found at the sale is what is run.
        image: Some(image.id.clone()),
        // A command takes the place of all that the image says.
        entrypoint: match (spec.command.is_empty(), image.has_command) {
            (false, _) => Some(spec.command.clone()),
            (true, true) => None,
            (true, false) => Some(idle()),
        },
        env: Some(env.collect()),
        // An open standard input: a shell as the main process stays up.
        open_stdin: Some(true),
        tty: Some(false),
        labels: Some(labels),
        host_config: Some(host_config(spec, wiring, quota)),
        ..ContainerCreateBody::default()
    }
}

fn asked_for(image: &Image) -> String {
    match image {
        Image::Host => "host".to_owned(),
        Image::Reference(reference) => reference.clone(),
        Image::Layout(path) => format!("layout {}", path.display()),
    }
}

fn host_config(spec: &WorkloadSpec, wiring: &Wiring, quota: bool) -> HostConfig {
    let resources = &spec.resources;
    let memory = (resources.memory_mib > 0).then(|| i64::from(resources.memory_mib) * 1024 * 1024);
    let pids = match resources.pids {
        0 => PIDS_UNPROMISED,
        sold => sold,
    };
    let text = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
    let (network, dns) = match wiring {
        Wiring::Loopback => ("none".to_owned(), None),
        Wiring::Own { network, resolvers } => (network.clone(), Some(name_servers(resolvers))),
    };
    HostConfig {
        cap_drop: text(&["ALL"]),
        cap_add: text(&CAPABILITIES),
        // Nothing about seccomp: so the engine's default profile is used.
        security_opt: text(&["no-new-privileges"]),
        privileged: Some(false),
        memory,
        // The same number for both together: no swap.
        memory_swap: memory,
        nano_cpus: (resources.cpu_millicores > 0)
            .then(|| i64::from(resources.cpu_millicores) * 1_000_000),
        pids_limit: Some(i64::from(pids)),
        oom_kill_disable: Some(false),
        oom_score_adj: Some(OOM_SCORE),
        shm_size: Some(memory.map_or(SHM, |memory| memory.min(SHM))),
        storage_opt: (quota && resources.disk_mib > 0).then(|| {
            let size = format!("{}m", resources.disk_mib);
            HashMap::from([("size".to_owned(), size)])
        }),
        ulimits: Some(vec![
            ulimit("core", (CORE, CORE)),
            ulimit("rtprio", (0, 0)),
            ulimit("nice", (0, 0)),
        ]),
        init: Some(true),
        // satletd decides what runs.
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        auto_remove: Some(false),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(pairs(&[("max-size", LOG_BYTES), ("max-file", "2")])),
        }),
        network_mode: Some(network),
        dns,
        // Else the host's search list goes in.
        dns_search: text(&["."]),
        port_bindings: None,
        publish_all_ports: Some(false),
        ipc_mode: Some("private".to_owned()),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        binds: None,
        mounts: None,
        devices: None,
        ..HostConfig::default()
    }
}

/// With none given, one that nobody answers at: the engine would take the
/// host's, and ask them for the workload.
fn name_servers(resolvers: &[Ipv4Addr]) -> Vec<String> {
    if resolvers.is_empty() {
        return vec![Ipv4Addr::LOCALHOST.to_string()];
    }
    resolvers.iter().map(ToString::to_string).collect()
}

fn ulimit(name: &str, (soft, hard): (i64, i64)) -> ResourcesUlimits {
    ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(soft),
        hard: Some(hard),
    }
}

fn pairs(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

/// A lease's network: a bridge of its own, of this name.
pub(super) fn network(
    instance: &Instance,
    key: &WorkloadKey,
    labels: HashMap<String, String>,
    slot: u32,
    subnet: &str,
) -> NetworkCreateRequest {
    NetworkCreateRequest {
        name: instance.name(key),
        driver: Some("bridge".to_owned()),
        enable_ipv6: Some(false),
        attachable: Some(false),
        ipam: Some(Ipam {
            driver: Some("default".to_owned()),
            config: Some(vec![IpamConfig {
                subnet: Some(subnet.to_owned()),
                ..IpamConfig::default()
            }]),
            options: None,
        }),
        options: Some(pairs(&[
            ("com.docker.network.bridge.name", &instance.bridge(slot)),
            ("com.docker.network.bridge.enable_icc", "false"),
        ])),
        labels: Some(labels),
        ..NetworkCreateRequest::default()
    }
}
