//! Choosing IPv6 subnets. Addresses in them need no allocation of their own: see
//! [`Network::v6`](crate::state::Network::v6).

use super::subnet;
use crate::{
    ManagerError,
    state::{Cluster, State, v6},
};
use ipnetwork::Ipv6Network;
use mesh_api::engine;
use sha2::{Digest, Sha256};
use std::net::Ipv4Addr;

/// Shortest usable prefix: RFC 4193 gives a site 48 bits.
const SHORTEST_PREFIX: u8 = 48;
/// Longest usable prefix: the last 32 bits are the IPv4 address.
const LONGEST_PREFIX: u8 = 96;
/// Length of the prefixes that we make ourselves.
const OWN_PREFIX: u8 = 64;

/// Whether a subnet is written as an IPv6 one.
pub(super) fn is_v6(subnet: &str) -> bool {
    subnet.contains(':')
}

/// The IPv6 subnet of a new network, if it shall have one: the user's, or one made of the cluster's id and `vni`.
/// `gateway` is the network's in IPv4.
pub(super) fn choose(
    state: &State,
    cluster: &Cluster,
    request: &engine::NetworkCreateRequest,
    vni: u32,
    gateway: Ipv4Addr,
) -> Result<Option<Ipv6Network>, ManagerError> {
    let configs = request.ipam.iter().flat_map(|i| i.config.iter().flatten());
    let mut given = configs.filter(|c| c.subnet.as_deref().is_some_and(is_v6));
    let config = given.next();
    let text = config.and_then(|c| c.subnet.as_deref());
    if let Some(second) = given.next().and_then(|c| c.subnet.as_deref()) {
        return Err(ManagerError::invalid(format!(
            "invalid subnet {second}: a network has one IPv6 subnet"
        )));
    }
    if request.enable_ipv6 != Some(true) {
        return match text {
            None => Ok(None),
            Some(text) => Err(ManagerError::invalid(format!(
                "invalid subnet {text}: the network has no IPv6; create it with --ipv6"
            ))),
        };
    }
    let subnet = match text {
        Some(text) => parse(text)?,
        None => own(&cluster.id, vni)?,
    };
    if let Some(other) = state
        .networks()
        .find(|n| n.subnet_v6.is_some_and(|s| s.overlaps(subnet)))
    {
        return Err(subnet::overlap(format!(
            "{subnet} overlaps the IPv6 subnet of network {}",
            other.name()
        )));
    }
    let implied = v6(subnet, gateway);
    let asked = config.and_then(|c| c.gateway.as_deref());
    if let Some(text) = asked.filter(|text| !text.is_empty())
        && text.parse() != Ok(implied)
    {
        return Err(ManagerError::invalid(format!(
            "invalid gateway {text}: the IPv6 gateway goes with the IPv4 one, {gateway}, and is {implied}"
        )));
    }
    Ok(Some(subnet))
}

fn parse(text: &str) -> Result<Ipv6Network, ManagerError> {
    let subnet: Ipv6Network = text.parse().map_err(|_| {
        ManagerError::invalid(format!(
            "invalid subnet {text}: expected IPv6 address/length, as fd00:1::/64"
        ))
    })?;
    subnet::check_first("subnet", text, subnet.into())?;
    if !(SHORTEST_PREFIX..=LONGEST_PREFIX).contains(&subnet.prefix()) {
        return Err(ManagerError::invalid(format!(
            "invalid subnet {text}: the length has to be between {SHORTEST_PREFIX} and {LONGEST_PREFIX}, \
             as the last 32 bits of an address are the task's IPv4 address"
        )));
    }
    let first = subnet.network();
    if first.is_multicast() || first.is_unicast_link_local() || first.segments()[0] == 0 {
        return Err(ManagerError::invalid(format!(
            "invalid subnet {text}: its addresses are none of a network's; use one of your own or of fd00::/8"
        )));
    }
    Ok(subnet)
}

/// A unique local prefix (RFC 4193): 40 bits of a hash as global id, 16 bits of the VNI as subnet id. The other
/// bits of the VNI go into the hash.
fn own(cluster_id: &str, vni: u32) -> Result<Ipv6Network, ManagerError> {
    let [_, high, subnet @ ..] = vni.to_be_bytes();
    let hash = Sha256::new()
        .chain_update(cluster_id)
        .chain_update([high])
        .finalize();
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&hash[..5]);
    octets[6..8].copy_from_slice(&subnet);
    Ipv6Network::new(octets.into(), OWN_PREFIX)
        .map_err(|error| ManagerError::invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Command, fixture::World, state::Network};

    fn create(
        world: &mut World,
        name: &str,
        ipv6: bool,
        subnets: &[(&str, &str)],
    ) -> Result<Network, ManagerError> {
        let config = |(subnet, gateway): &(&str, &str)| engine::IpamConfig {
            subnet: Some((*subnet).to_owned()),
            gateway: Some((*gateway).to_owned()),
            ..Default::default()
        };
        let request = engine::NetworkCreateRequest {
            name: name.to_owned(),
            enable_ipv6: ipv6.then_some(true),
            ipam: Some(engine::Ipam {
                config: Some(subnets.iter().map(config).collect()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let id = world.create(Command::CreateNetwork {
            request: Box::new(request),
        })?;
        Ok(world.state.network(&id).unwrap().clone())
    }

    #[test]
    fn subnets_are_made_or_taken() {
        let mut world = World::new(&[]);
        let ingress = world.state.ingress_network().unwrap().subnet_v6.unwrap();
        assert!(ingress.network().is_unique_local());
        let made = create(&mut world, "made", true, &[]).unwrap();
        let subnet = made.subnet_v6.unwrap();
        assert_eq!(subnet.prefix(), 64);
        let (a, b) = (ingress.network().segments(), subnet.network().segments());
        assert_eq!(a[..3], b[..3]);
        assert_eq!((a[3], b[3]), (4096, 4097));
        let gateway = made.v6(made.gateway).unwrap();
        assert_eq!(gateway.segments()[6..], [0x0a00, 0x1001]);

        let configs = [
            ("10.9.0.0/24", "10.9.0.7"),
            ("fd00:1::/64", "fd00:1::a09:7"),
        ];
        let taken = create(&mut world, "taken", true, &configs).unwrap();
        assert_eq!(taken.subnet.to_string(), "10.9.0.0/24");
        assert_eq!(taken.subnet_v6.unwrap().to_string(), "fd00:1::/64");
        let shown = taken.to_engine();
        assert_eq!(shown.enable_ipv6, Some(true));
        let config = shown.ipam.unwrap().config.unwrap();
        assert_eq!(config[1].gateway.as_deref(), Some("fd00:1::a09:7"));

        let plain = create(&mut world, "plain", false, &[]).unwrap();
        assert_eq!(plain.subnet_v6, None);
        assert_eq!(plain.to_engine().enable_ipv6, Some(false));
    }

    #[test]
    fn bad_subnets_are_refused_and_nothing_changes() {
        let mut world = World::new(&[]);
        create(&mut world, "there", true, &[("fd00:1::/64", "")]).unwrap();
        let overlap = "overlaps the IPv6 subnet of network there";
        let two = [("fd00:2::/64", ""), ("fd00:3::/64", "")];
        for (subnets, text) in [
            (&[("fd00:1:0:0:5::/80", "")][..], overlap),
            (&[("fd00:2::1/64", "")], "it should be fd00:2::/64"),
            (&[("fd00:2::/97", "")], "between 48 and 96"),
            (&[("fd00::/8", "")], "between 48 and 96"),
            (&[("fd00:2::/x", "")], "expected IPv6 address/length"),
            (&[("fe80::/64", "")], "none of a network's"),
            (&[("ff05::/64", "")], "none of a network's"),
            (&[("::/64", "")], "none of a network's"),
            (&[("fd00:2::/64", "fd00:2::1")], "goes with the IPv4 one"),
            (&two, "has one IPv6 subnet"),
        ] {
            let before = world.state.networks().count();
            let error = create(&mut world, "new", true, subnets).unwrap_err();
            assert!(error.message.contains(text), "{subnets:?}: {error}");
            assert_eq!(world.state.networks().count(), before);
        }
        let error = create(&mut world, "new", false, &[("fd00:2::/64", "")]).unwrap_err();
        assert!(error.message.contains("create it with --ipv6"), "{error}");
    }
}
