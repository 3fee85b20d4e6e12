//! Addresses of a network that nobody is given (`--aux-address`): they are somebody's outside of the cluster.

use super::subnet_v6;
use crate::ManagerError;
use ipnetwork::{IpNetwork, Ipv4Network};
use mesh_api::engine;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

/// The [rules](crate::command::RULES) from which on there are such; before, they were given as any other.
const RESERVED: u32 = 9;

/// What a new network with this `subnet` and `gateway` is never to give. An IPv6 address goes with the IPv4 one that is its last
/// 32 bits.
pub(super) fn choose(
    request: &engine::NetworkCreateRequest,
    subnet: Ipv4Network,
    gateway: Ipv4Addr,
    rules: u32,
) -> Result<BTreeSet<Ipv4Addr>, ManagerError> {
    let mut reserved = BTreeSet::new();
    if rules < RESERVED {
        return Ok(reserved);
    }
    let configs = request.ipam.iter().flat_map(|i| i.config.iter().flatten());
    for config in configs {
        let parent = config.subnet.as_deref().unwrap_or_default();
        // By name, so that all managers refuse the same.
        let mut given: Vec<_> = config.auxiliary_addresses.iter().flatten().collect();
        given.sort_unstable();
        for (name, text) in given {
            let invalid = |why: String| {
                ManagerError::invalid(format!("invalid auxiliary address {name}={text}: {why}"))
            };
            let address: IpAddr = text
                .parse()
                .map_err(|_| invalid("expected an address".to_owned()))?;
            if parent.is_empty() {
                return Err(invalid("it needs a subnet of its own".to_owned()));
            }
            let inside = match parent.parse::<IpNetwork>() {
                Ok(_) if !subnet_v6::is_v6(parent) => subnet.into(),
                Ok(parent) => parent,
                // Refused where it is chosen.
                Err(_) => continue,
            };
            if !inside.contains(address) {
                return Err(invalid(format!(
                    "parent subnet {inside} doesn't contain it"
                )));
            }
            let four = match address {
                IpAddr::V4(four) => four,
                // Nobody has one whose last bits are no address of the IPv4 subnet.
                IpAddr::V6(six) => Ipv4Addr::from(six.to_bits() as u32),
            };
            if four == gateway {
                return Err(invalid("it is the gateway's".to_owned()));
            }
            if subnet.contains(four) {
                reserved.insert(four);
            }
        }
    }
    Ok(reserved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Command, command::RULES, fixture::World, state::Network};

    /// A network with these subnets and, of each, an address.
    fn create(rules: u32, configs: &[(&str, &str)]) -> (World, Result<Network, ManagerError>) {
        let mut world = World::new(&["n1"]);
        let config = |(subnet, address): &(&str, &str)| engine::IpamConfig {
            subnet: (!subnet.is_empty()).then(|| (*subnet).to_owned()),
            auxiliary_addresses: Some([("router".to_owned(), (*address).to_owned())].into()),
            ..Default::default()
        };
        let request = engine::NetworkCreateRequest {
            name: "front".to_owned(),
            enable_ipv6: Some(true),
            ipam: Some(engine::Ipam {
                config: Some(configs.iter().map(config).collect()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let command = Command::CreateNetwork {
            request: Box::new(request),
        };
        let made = world.apply_by(rules, crate::Operation::Command(command));
        let network = made.map(|_| {
            let mut networks = world.state.networks();
            networks.find(|n| n.name() == "front").cloned().expect("it")
        });
        (world, network)
    }

    #[test]
    fn reserved_addresses_are_never_given() {
        for (configs, usable) in [
            (&[("10.77.0.0/29", "10.77.0.3")][..], &[2, 4, 5, 6][..]),
            (
                &[
                    ("10.77.0.0/29", "10.77.0.4"),
                    ("fd00:1::/64", "fd00:1::a4d:3"),
                ],
                &[2, 5, 6],
            ),
            // The broadcast address, which nobody has anyway.
            (&[("10.77.0.0/29", "10.77.0.7")], &[2, 3, 4, 5, 6]),
        ] {
            let (mut world, network) = create(RULES, configs);
            let network = network.expect("a network");
            let addresses = usable.iter().map(|last| Ipv4Addr::new(10, 77, 0, *last));
            let usable: BTreeSet<_> = addresses.collect();
            for _ in 0..2 {
                let mut allocation = super::super::address::Allocation::default();
                let given: BTreeSet<_> = (0..usable.len())
                    .map(|_| allocation.next(&world.state, &network.id).expect("one"))
                    .collect();
                assert_eq!(given, usable);
                allocation.next(&world.state, &network.id).unwrap_err();
                allocation.commit(&mut world.state);
            }
        }
    }

    #[test]
    fn what_is_refused() {
        for (subnet, address, why) in [
            ("10.77.0.0/24", "router", "expected an address"),
            (
                "10.77.0.0/24",
                "10.78.0.1",
                "parent subnet 10.77.0.0/24 doesn't contain it",
            ),
            ("10.77.0.0/24", "10.77.0.1", "it is the gateway's"),
            ("", "10.77.0.9", "it needs a subnet of its own"),
            (
                "fd00:1::/64",
                "fd00:2::9",
                "parent subnet fd00:1::/64 doesn't contain it",
            ),
        ] {
            let error = create(RULES, &[(subnet, address)]).1.expect_err(address);
            let told = format!("invalid auxiliary address router={address}: {why}");
            assert!(error.message.contains(&told), "{error}");
        }
        // Logs from before have some, of which nothing came.
        let before = create(RESERVED - 1, &[("10.77.0.0/24", "10.78.0.1")]).1;
        assert!(before.expect("a network").reserved.is_empty());
    }
}
