//! From the assignment to what the packet path and the names have to be. Pure.

mod namespaces;
mod packets;
mod zone;

pub use namespaces::namespaces;
pub use packets::{LinkFacts, NodeFacts, datapath, mac_of};
pub use zone::zone;

use std::net::IpAddr;

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

/// The address a task or service holds on a network.
pub(crate) fn on_network(attachments: &[proto::Attachment], network: &str) -> Option<IpAddr> {
    attachments
        .iter()
        .find(|attachment| attachment.network_id == network)
        .and_then(|attachment| address(&attachment.address))
}
