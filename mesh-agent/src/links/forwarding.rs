//! Makes the node a router for its tasks' IPv6. (IPv4's single switch is set where tasks are connected.)

use std::{io, net::IpAddr};

use super::{host::HostView, sysctl};
use crate::desired::NodeFacts;

/// Lets the kernel forward IPv6, once the node has an IPv6 address itself: without one, nothing leads out.
///
/// A kernel that forwards takes no more router advertisements unless told so, and a node that has its own address and
/// route from them would lose both: interfaces that take them are told so first.
///
/// # Errors
/// When a parameter cannot be written.
pub fn route_v6(host: &HostView, node: &NodeFacts) -> io::Result<()> {
    /// Whether packets are forwarded.
    const ALL: &str = "net/ipv6/conf/all/forwarding";
    let reaches = node.own_addresses.iter().any(IpAddr::is_ipv6);
    if !reaches || sysctl::get(ALL).as_deref() == Some("1") {
        return Ok(());
    }
    for interface in host.interfaces.values().filter(|i| !i.loopback) {
        let key = format!("net/ipv6/conf/{}/accept_ra", interface.name);
        // 1: unless forwarding. 2: even then.
        if sysctl::get(&key).as_deref() == Some("1") {
            sysctl::set(&key, "2")?;
        }
    }
    sysctl::set(ALL, "1")
}
