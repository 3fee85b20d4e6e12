//! What the data plane has to know of and to set on its host.

use std::{fs, io, path::Path};

use crate::{Desired, Error};

/// The uplink that carries tunnels: the one with the tunnel end point's address, else the first.
pub(crate) fn uplink_of(desired: &Desired) -> u32 {
    let first = desired.uplinks.first().copied().unwrap_or(0);
    let Some(vtep) = desired.vtep else {
        return first;
    };
    let Ok(addresses) = nix::ifaddrs::getifaddrs() else {
        return first;
    };
    addresses
        .filter(|entry| {
            let address = entry.address;
            let v4 = address
                .as_ref()
                .and_then(|a| a.as_sockaddr_in())
                .map(|a| a.ip().into());
            let v6 = address
                .as_ref()
                .and_then(|a| a.as_sockaddr_in6())
                .map(|a| a.ip().into());
            v4.or(v6) == Some(vtep)
        })
        .find_map(|entry| ifindex(&entry.interface_name).filter(|i| desired.uplinks.contains(i)))
        .unwrap_or(first)
}

/// Index of an interface of this namespace.
pub(crate) fn ifindex(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

/// Name of an interface of this namespace.
///
/// # Errors
/// When there is none with this index.
pub(crate) fn interface(ifindex: u32) -> io::Result<String> {
    let name = nix::net::if_::if_indextoname(ifindex)?;
    // Which takes the C function's null for an empty name.
    if name.is_empty() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    Ok(name.to_string_lossy().into_owned())
}

/// Name of an interface of this namespace; its index if it has none any more.
pub fn interface_or_index(ifindex: u32) -> String {
    interface(ifindex).unwrap_or_else(|_| ifindex.to_string())
}

/// Seconds of the monotonic clock, as the programs read it: comparable between processes of one boot.
pub(crate) fn monotonic_seconds() -> u64 {
    clock(libc::CLOCK_MONOTONIC).tv_sec as u64
}

/// Nanoseconds of the boot-time clock, as the programs read it.
pub fn boot_nanoseconds() -> u64 {
    let now = clock(libc::CLOCK_BOOTTIME);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn clock(clock: libc::clockid_t) -> libc::timespec {
    // SAFETY: all zero is a valid value of this plain C structure.
    let mut now: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: the structure outlives the call.
    let answer = unsafe { libc::clock_gettime(clock, &raw mut now) };
    // Only an unknown clock is refused.
    debug_assert_eq!(answer, 0);
    now
}

/// Lets the loopback interface take packets that carry own and loopback addresses but were not routed to it:
/// the replies of tasks to this node's own processes.
pub(crate) fn admit_loopback_replies() -> Result<(), Error> {
    for (name, value) in [
        ("route_localnet", "1"),
        ("accept_local", "1"),
        ("rp_filter", "2"),
    ] {
        let path = Path::new("/proc/sys/net/ipv4/conf/lo").join(name);
        if fs::read_to_string(&path).is_ok_and(|old| old.trim() == value) {
            continue;
        }
        fs::write(&path, value).map_err(|source| Error::Path {
            action: "set",
            path,
            source,
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_without_an_interface_has_no_name() {
        assert_eq!(interface_or_index(u32::MAX), u32::MAX.to_string());
        let loopback = ifindex("lo").expect("an interface");
        assert_eq!(interface_or_index(loopback), "lo");
    }
}
