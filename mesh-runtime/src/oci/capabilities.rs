//! The capabilities of a container: Docker's default set, changed by `cap_add` and `cap_drop`.

use crate::error::{Result, RuntimeError};

/// What a container has when nothing is said.
const DEFAULT: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Every capability, in the order of its kernel number.
const ALL: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Kernel number of a capability's name (`CAP_...`).
pub(crate) fn number(name: &str) -> Option<u32> {
    let position = ALL.iter().position(|known| *known == name)?;
    u32::try_from(position).ok()
}

/// The capabilities of the kernel's bit set `host`, by name.
pub(crate) fn available(host: u64) -> Vec<String> {
    let names = ALL.iter().enumerate();
    names
        .filter(|(number, _)| host & (1 << number) != 0)
        .map(|(_, name)| (*name).to_owned())
        .collect()
}

/// The bounding set of this process: what it could give to a container.
pub(crate) fn bounding_set() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(u64::MAX)
}

/// The resulting set, by name, in kernel order. `ALL` means what the bit set `host` has.
///
/// # Errors
/// A name that is no capability, or one that this host does not have to give.
pub(crate) fn resolve(add: &[String], drop: &[String], host: u64) -> Result<Vec<String>> {
    let canonical = |list: &[String]| {
        list.iter()
            .map(|n| canonical(n))
            .collect::<Result<Vec<_>>>()
    };
    let (add, drop) = (canonical(add)?, canonical(drop)?);
    let available = available(host);
    let has = |list: &[String], name: &str| list.iter().any(|entry| entry == name);
    if let Some(missing) = add.iter().find(|n| *n != "ALL" && !has(&available, n)) {
        return Err(RuntimeError::InvalidSpec {
            reason: format!("capability {missing} is not available to the agent on this host"),
        });
    }
    let keep = |name: &String| {
        if has(&add, name) {
            return true;
        }
        if has(&drop, "ALL") || has(&drop, name) {
            return false;
        }
        has(&add, "ALL") || DEFAULT.contains(&name.as_str())
    };
    Ok(available.into_iter().filter(keep).collect())
}

fn canonical(name: &str) -> Result<String> {
    let upper = name.to_ascii_uppercase();
    if upper == "ALL" {
        return Ok(upper);
    }
    let full = if upper.starts_with("CAP_") {
        upper
    } else {
        format!("CAP_{upper}")
    };
    if number(&full).is_none() {
        return Err(RuntimeError::InvalidSpec {
            reason: format!("unknown capability \"{name}\""),
        });
    }
    Ok(full)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(add: &[&str], drop: &[&str]) -> Vec<String> {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        resolve(&own(add), &own(drop), u64::MAX).unwrap()
    }

    #[test]
    fn additions_and_removals() {
        assert_eq!(set(&[], &[]).len(), DEFAULT.len());
        assert!(set(&["net_admin"], &[]).contains(&"CAP_NET_ADMIN".to_owned()));
        assert!(!set(&[], &["CAP_CHOWN"]).contains(&"CAP_CHOWN".to_owned()));
        assert_eq!(set(&["CHOWN"], &["ALL"]), ["CAP_CHOWN"]);
        assert_eq!(set(&["ALL"], &[]).len(), ALL.len());
        assert_eq!(set(&["ALL"], &["CHOWN"]).len(), ALL.len() - 1);
        assert!(resolve(&["FLY".to_owned()], &[], u64::MAX).is_err());
        assert!(resolve(&["CHOWN".to_owned()], &[], 0).is_err());
        assert_eq!(resolve(&["ALL".to_owned()], &[], 1).unwrap(), ["CAP_CHOWN"]);
    }
}
