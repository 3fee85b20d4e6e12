//! From the assignment to what the packet path and the names have to be. Pure.

mod namespaces;
mod packets;
mod parts;
mod zone;

pub use namespaces::namespaces;
pub use packets::{LinkFacts, NodeFacts, datapath, mac_of};
pub use parts::Parts;
pub use zone::zone;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mesh_api::proto;

/// Reads an address as the protocol carries it: with or without a prefix length.
pub(crate) fn address(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

/// First address and prefix length of a subnet.
pub(crate) fn subnet(text: &str) -> Option<(IpAddr, u8)> {
    let (first, length) = text.split_once('/')?;
    Some((first.parse().ok()?, length.parse().ok()?))
}

/// First address and prefix length of a network's IPv6 subnet, where it has one.
pub(crate) fn subnet_v6(network: &proto::Network) -> Option<(Ipv6Addr, u8)> {
    match subnet(&network.subnet_v6)? {
        (IpAddr::V6(first), length) => Some((first, length)),
        (IpAddr::V4(_), _) => None,
    }
}

/// The IPv6 address of whatever has `address` in the subnet that begins at `first`.
pub(crate) fn v6(first: Ipv6Addr, address: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(first) | u128::from(u32::from(address)))
}

/// The address a task or service holds on a network.
pub(crate) fn on_network(attachments: &[proto::Attachment], network: &str) -> Option<IpAddr> {
    attachments
        .iter()
        .find(|attachment| attachment.network_id == network)
        .and_then(|attachment| address(&attachment.address))
}
