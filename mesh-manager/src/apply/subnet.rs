//! Choosing IPv4 subnets: from the user or from the cluster's pools, never overlapping. IPv6 is in `subnet_v6`.

use super::subnet_v6;
use crate::{
    ErrorKind, ManagerError,
    state::{Cluster, State},
};
use ipnetwork::{IpNetwork, Ipv4Network};
use mesh_api::engine;
use std::net::Ipv4Addr;

/// Shortest usable prefix: more than 2^24 addresses are of no use and slow to search.
const SHORTEST_PREFIX: u8 = 8;
/// Longest usable prefix: network, broadcast, gateway, VIP and some tasks have to fit.
const LONGEST_PREFIX: u8 = 29;

/// The subnet and gateway of a new network.
pub(super) fn choose(
    state: &State,
    cluster: &Cluster,
    ipam: Option<&engine::Ipam>,
) -> Result<(Ipv4Network, Ipv4Addr), ManagerError> {
    let configs = ipam.and_then(|i| i.config.as_deref()).unwrap_or_default();
    let mut wanted = configs
        .iter()
        .filter_map(|c| Some((c.subnet.as_deref()?, c.gateway.as_deref())));
    let ours = |text: &str| !text.is_empty() && !subnet_v6::is_v6(text);
    let Some((text, gateway)) = wanted.find(|(subnet, _)| ours(subnet)) else {
        let subnet = from_pools(state, cluster)?;
        return Ok((subnet, first_host(subnet)));
    };
    let subnet: Ipv4Network = text.parse().map_err(|_| {
        ManagerError::invalid(format!(
            "invalid subnet {text}: expected address/length, as 10.1.0.0/24 or fd00:1::/64"
        ))
    })?;
    check_first("subnet", text, subnet.into())?;
    if !(SHORTEST_PREFIX..=LONGEST_PREFIX).contains(&subnet.prefix()) {
        return Err(ManagerError::invalid(format!(
            "invalid subnet {text}: the length has to be between {SHORTEST_PREFIX} and {LONGEST_PREFIX}, as in 10.1.0.0/24"
        )));
    }
    if let Some(other) = state.networks().find(|n| n.subnet.overlaps(subnet)) {
        let (taken, name) = (other.subnet, other.name());
        return Err(overlap(format!(
            "{subnet} overlaps {taken} of network {name}"
        )));
    }
    if let Some((address, name)) = node_inside(state, subnet) {
        return Err(overlap(format!(
            "{subnet} holds {address}, the address of node {name}"
        )));
    }
    let gateway = match gateway {
        None | Some("") => first_host(subnet),
        Some(text) => text
            .parse()
            .ok()
            .filter(|a| subnet.contains(*a) && *a != subnet.network() && *a != subnet.broadcast())
            .ok_or_else(|| {
                ManagerError::invalid(format!(
                    "invalid gateway {text}: it is not an address of {subnet}"
                ))
            })?,
    };
    Ok((subnet, gateway))
}

/// Refuses a subnet or range (`what`), of either family and given as `text`, whose address is not its first one.
pub(super) fn check_first(what: &str, text: &str, subnet: IpNetwork) -> Result<(), ManagerError> {
    if subnet.ip() == subnet.network() {
        return Ok(());
    }
    Err(ManagerError::invalid(format!(
        "invalid {what} {text}: it should be {}/{}",
        subnet.network(),
        subnet.prefix()
    )))
}

/// A subnet with addresses that are somebody else's: `what` says whose.
pub(super) fn overlap(what: String) -> ManagerError {
    ManagerError::new(
        ErrorKind::PermissionDenied,
        format!("invalid pool request: Pool overlaps with other one on this address space: {what}"),
    )
}

fn first_host(subnet: Ipv4Network) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()) + 1)
}

/// A node whose address tasks on `subnet` would take for one of their own: (address, host name).
fn node_inside(state: &State, subnet: Ipv4Network) -> Option<(Ipv4Addr, String)> {
    state.nodes().find_map(|node| {
        let manager = node.manager_addr.as_deref().unwrap_or_default();
        [
            node.description.address.as_str(),
            node.description.data_path_address.as_str(),
            manager.rsplit_once(':').map_or("", |(host, _)| host),
        ]
        .iter()
        .filter_map(|text| text.parse::<Ipv4Addr>().ok())
        .find(|address| subnet.contains(*address))
        .map(|address| (address, node.description.hostname.clone()))
    })
}

/// The first free subnet of the pools.
fn from_pools(state: &State, cluster: &Cluster) -> Result<Ipv4Network, ManagerError> {
    let size = cluster.subnet_size.clamp(SHORTEST_PREFIX, LONGEST_PREFIX);
    let step = 1u64 << (32 - size);
    for pool in cluster
        .default_addr_pool
        .iter()
        .filter_map(|p| p.parse::<Ipv4Network>().ok())
    {
        let end = u64::from(u32::from(pool.broadcast())) + 1;
        let mut start = u64::from(u32::from(pool.network()));
        while start + step <= end {
            let candidate = u32::try_from(start)
                .ok()
                .and_then(|s| Ipv4Network::new(Ipv4Addr::from(s), size).ok());
            let Some(candidate) = candidate else { break };
            match state.networks().find(|n| n.subnet.overlaps(candidate)) {
                None if node_inside(state, candidate).is_some() => start += step,
                None => return Ok(candidate),
                // Go on past it, aligned.
                Some(other) => {
                    let past = u64::from(u32::from(other.subnet.broadcast())) + 1;
                    start = past.max(start + step).next_multiple_of(step);
                }
            }
        }
    }
    Err(ManagerError::precondition(
        "could not find an available, non-overlapping IPv4 address pool among the defaults to \
         assign to the network; give --subnet or a larger --default-addr-pool",
    ))
}
