//! Kernel parameters under /proc/sys/net, of the namespace of the calling thread.

use std::{fs, io, path::Path};

/// Writes `value` unless it is there already. `key` has slashes: `net/ipv4/ip_forward`.
///
/// # Errors
/// When the parameter does not exist or /proc/sys is read-only.
pub fn set(key: &str, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/{key}");
    if fs::read_to_string(&path)
        .is_ok_and(|now| now.split_whitespace().eq(value.split_whitespace()))
    {
        return Ok(());
    }
    fs::write(&path, value)
        .map_err(|error| io::Error::new(error.kind(), format!("write {value} to {path}: {error}")))
}

/// As [`set`], for parameters that a kernel may not have.
pub fn set_if_there(key: &str, value: &str) {
    if let Err(error) = set(key, value) {
        tracing::debug!("{error}");
    }
}

/// The value of a parameter, where the kernel has it.
pub fn get(key: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/sys/{key}")).ok()?;
    Some(text.trim().to_owned())
}

/// Whether the kernel has IPv6 at all.
pub fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}
