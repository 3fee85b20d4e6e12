//! Requests that both ends of a link need.

use std::net::IpAddr;

use netlink_packet_route::{neighbour::NeighbourState, route::RouteMessage};
use rtnetlink::{Handle, LinkUnspec};

/// Brings an interface up.
pub(super) async fn up(handle: &Handle, index: u32) -> Result<(), rtnetlink::Error> {
    handle
        .link()
        .set(LinkUnspec::new_with_index(index).up().build())
        .execute()
        .await
}

/// Makes the MAC of a neighbour known for good.
pub(super) async fn neighbour(
    handle: &Handle,
    index: u32,
    address: IpAddr,
    mac: [u8; 6],
) -> Result<(), rtnetlink::Error> {
    handle
        .neighbours()
        .add(index, address)
        .link_layer_address(&mac)
        .state(NeighbourState::Permanent)
        .replace()
        .execute()
        .await
}

/// Makes a route, in the place of one to the same destination.
pub(super) async fn route(handle: &Handle, route: RouteMessage) -> Result<(), rtnetlink::Error> {
    handle.route().add(route).replace().execute().await
}
