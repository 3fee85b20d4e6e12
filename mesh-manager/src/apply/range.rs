//! The part of a network's subnet that addresses are given from, where the user chose one (`--ip-range`).

use super::{subnet::check_first, subnet_v6};
use crate::ManagerError;
use ipnetwork::Ipv4Network;
use mesh_api::engine;

/// The [rules](crate::command::RULES) from which on there are ranges; before, addresses came from the whole subnet.
const RANGES: u32 = 6;

/// The range that a new network with this `subnet` is to have.
pub(super) fn choose(
    request: &engine::NetworkCreateRequest,
    subnet: Ipv4Network,
    rules: u32,
) -> Result<Option<Ipv4Network>, ManagerError> {
    if rules < RANGES {
        return Ok(None);
    }
    let configs = request.ipam.iter().flat_map(|i| i.config.iter().flatten());
    let mut chosen = None;
    for config in configs {
        let Some(text) = config.ip_range.as_deref().filter(|text| !text.is_empty()) else {
            continue;
        };
        let invalid =
            |why: String| ManagerError::invalid(format!("invalid ip-range {text}: {why}"));
        let parent = config.subnet.as_deref().unwrap_or_default();
        if parent.is_empty() {
            return Err(invalid("it needs a subnet of its own".to_owned()));
        }
        if subnet_v6::is_v6(parent) {
            let why = "an IPv6 address goes with the IPv4 one; give a range of the IPv4 subnet";
            return Err(invalid(why.to_owned()));
        }
        let range: Ipv4Network = text
            .parse()
            .map_err(|_| invalid("expected address/length, as 10.1.0.128/25".to_owned()))?;
        check_first("ip-range", text, range.into())?;
        if range.prefix() < subnet.prefix() {
            let why = format!("CIDR block is bigger than its parent subnet {subnet}");
            return Err(invalid(why));
        }
        if !subnet.contains(range.network()) {
            return Err(invalid(format!(
                "parent subnet {subnet} doesn't contain it"
            )));
        }
        chosen = Some(range);
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Command, command::RULES, fixture::World, state::Network};
    use std::{collections::BTreeSet, net::Ipv4Addr};

    fn create(rules: u32, subnet: &str, range: &str) -> (World, Result<Network, ManagerError>) {
        let mut world = World::new(&["n1"]);
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let ipam = engine::Ipam {
            config: Some(vec![engine::IpamConfig {
                subnet: text(subnet),
                ip_range: text(range),
                ..Default::default()
            }]),
            ..Default::default()
        };
        let request = engine::NetworkCreateRequest {
            name: "front".to_owned(),
            enable_ipv6: Some(true),
            ipam: Some(ipam),
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
    fn addresses_come_from_the_range_until_it_is_used_up() {
        // The gateway, 10.77.0.1, is outside of the one and inside of the other; the last address of the second is the
        // subnet's broadcast address.
        for (range, usable) in [
            (
                "10.77.0.8/30",
                ["10.77.0.8", "10.77.0.9", "10.77.0.10", "10.77.0.11"].as_slice(),
            ),
            ("10.77.0.0/30", &["10.77.0.2", "10.77.0.3"]),
            (
                "10.77.0.252/30",
                &["10.77.0.252", "10.77.0.253", "10.77.0.254"],
            ),
            ("10.77.0.9/32", &["10.77.0.9"]),
        ] {
            let (mut world, network) = create(RULES, "10.77.0.0/24", range);
            let id = network.expect("a network").id;
            let usable: BTreeSet<Ipv4Addr> = usable.iter().map(|a| a.parse().unwrap()).collect();
            // Twice: what was freed is found again.
            for _ in 0..2 {
                let mut allocation = super::super::address::Allocation::default();
                let given: BTreeSet<_> = (0..usable.len())
                    .map(|_| allocation.next(&world.state, &id).expect("an address"))
                    .collect();
                assert_eq!(given, usable, "{range}");
                let error = allocation.next(&world.state, &id).unwrap_err();
                assert!(error.message.contains(range), "{error}");
                allocation.commit(&mut world.state);
            }
        }
    }

    #[test]
    fn a_range_is_part_of_its_subnet() {
        for (subnet, range, why) in [
            ("10.77.0.0/24", "10.77.0.300/25", "expected address/length"),
            ("10.77.0.0/24", "10.77.0.1/25", "it should be 10.77.0.0/25"),
            (
                "10.77.0.0/24",
                "10.76.0.0/15",
                "CIDR block is bigger than its parent subnet 10.77.0.0/24",
            ),
            (
                "10.77.0.0/24",
                "10.78.0.0/25",
                "parent subnet 10.77.0.0/24 doesn't contain it",
            ),
            ("", "10.77.0.0/25", "it needs a subnet of its own"),
            (
                "fd00:1::/64",
                "fd00:1::/96",
                "an IPv6 address goes with the IPv4 one",
            ),
        ] {
            let error = create(RULES, subnet, range).1.expect_err(range);
            let told = format!("invalid ip-range {range}: {why}");
            assert!(error.message.contains(&told), "{error}");
        }
        // Logs from before have ranges, of which nothing came.
        let before = create(RANGES - 1, "10.77.0.0/24", "10.78.0.0/25").1;
        assert_eq!(before.expect("a network").range, None);
    }
}
