//! A workload that another engine made, as the helper sees it before it goes
//! in: what a command has to give up to be no more than the workload's own
//! processes are.

use std::io;
use std::path::Path;

use super::launch;

/// What is particular about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    /// Whether it has a user namespace of its own.
    pub(super) own_users: bool,
    /// Its capability bounding set, as bits.
    bounding: u64,
    /// Label of a security module (AppArmor's profile, SELinux's context).
    label: Option<String>,
}

impl Foreign {
    /// Looks at the workload's first process, which the caller holds a pidfd of.
    pub(super) fn of(pid: i32) -> io::Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let bounding = bounding(&status).ok_or_else(|| io::Error::other("no bounding set"))?;
        // Kernels without a security module have no answer.
        let label = std::fs::read_to_string(format!("/proc/{pid}/attr/current"));
        Ok(Self {
            own_users: own_users(pid)?,
            bounding,
            label: label.ok().as_deref().and_then(confining),
        })
    }

    /// The bits of what a command may keep: never more than the workload has.
    pub(super) fn capabilities(&self) -> u64 {
        launch::capability_bits() & self.bounding
    }

    /// Takes on the label, with the next exec or at once. Refuses to go on
    /// where the module does not let us.
    pub(super) fn take_label(&self, with_exec: bool) -> io::Result<()> {
        let Some(label) = &self.label else {
            return Ok(());
        };
        let apparmor = Path::new("/sys/module/apparmor").exists() && !label.contains(':');
        let (file, word) = match (with_exec, apparmor) {
            (true, true) => ("exec", format!("exec {label}")),
            (true, false) => ("exec", label.clone()),
            (false, true) => ("current", format!("changeprofile {label}")),
            (false, false) => ("current", label.clone()),
        };
        std::fs::write(format!("/proc/thread-self/attr/{file}"), word)
            .map_err(|err| io::Error::new(err.kind(), format!("the label {label}: {err}")))
    }
}

/// Whether a process is in another user namespace than we are.
pub(super) fn own_users(pid: i32) -> io::Result<bool> {
    let ours = std::fs::read_link("/proc/self/ns/user")?;
    Ok(std::fs::read_link(format!("/proc/{pid}/ns/user"))? != ours)
}

/// `CapBnd` of proc_pid_status(5).
fn bounding(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    u64::from_str_radix(line?.trim(), 16).ok()
}

/// The label without AppArmor's mode; none where it confines nothing.
fn confining(text: &str) -> Option<String> {
    let text = text.trim().trim_end_matches('\0');
    let name = text.split(" (").next().unwrap_or(text);
    (!name.is_empty() && name != "unconfined" && name != "kernel").then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_keeps_no_more_than_the_workload_has() {
        let foreign = |bounding| Foreign {
            own_users: false,
            bounding,
            label: None,
        };
        assert_eq!(foreign(0b1001).capabilities(), 0b1001);
        // CAP_SYS_ADMIN (21) is never kept.
        assert_eq!(foreign(1 << 21 | 1).capabilities(), 1);
        let status = "Name:\tx\nCapBnd:\t00000000000404eb\n";
        assert_eq!(bounding(status), Some(0x404eb));
    }

    #[test]
    fn labels_are_read_as_the_modules_write_them() {
        assert_eq!(
            confining("docker-default (enforce)\n").as_deref(),
            Some("docker-default")
        );
        assert_eq!(
            confining("system_u:system_r:container_t:s0:c1,c2\0").as_deref(),
            Some("system_u:system_r:container_t:s0:c1,c2")
        );
        assert_eq!(confining("unconfined\n"), None);
        assert_eq!(confining("kernel\0"), None);
    }
}
