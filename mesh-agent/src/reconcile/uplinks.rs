//! The node's uplinks and own addresses, for the packet path: those that are there, and for a while those of links that
//! are down.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::{
    desired::NodeFacts,
    links::{
        host::{HostView, Interface},
        plan,
    },
};

/// How long an uplink that is down stays one, with its addresses: connections that are open give up later.
const DOWN: Duration = Duration::from_secs(5 * 60);

/// How long an IPv6 address that has gone is still taken for the node's own. Linux takes them away with a link that goes down;
/// who sets it up again makes them anew, or a router advertisement does.
const GONE: Duration = Duration::from_secs(30);

/// The uplinks of this node. Published ports answer on every address but link-local ones, so every interface that has one
/// is an uplink, if its packets have the Ethernet header that programs read. What has none is left to the kernel, and
/// the log says so once; its addresses are the node's own all the same, for whoever asks them by another interface.
///
/// One that is down keeps its programs. Were they attached only after it has come up, what arrives before that would be the
/// kernel's, which knows no connection to a published port and resets it.
#[derive(Debug, Default)]
pub(crate) struct Uplinks {
    seen: BTreeMap<u32, Seen>,
}

/// What an uplink had.
#[derive(Debug)]
struct Seen {
    /// Indices are given again.
    name: String,
    /// When it was up.
    up: Instant,
    /// IPv6 addresses, and when they were there, or would have been if it had not been down.
    addresses: BTreeMap<IpAddr, Instant>,
}

impl Uplinks {
    /// What the packet path has to know of this node now.
    pub(crate) fn facts(
        &mut self,
        host: &HostView,
        instance: &str,
        vtep: IpAddr,
        now: Instant,
    ) -> NodeFacts {
        let prefix = plan::host_prefix(instance);
        let outside = |i: &&Interface| !i.loopback && !is_own(i, &prefix);
        let there: BTreeMap<u32, &Interface> = host
            .interfaces
            .values()
            .filter(outside)
            .map(|interface| (interface.index, interface))
            .collect();
        self.seen.retain(|index, seen| {
            there
                .get(index)
                .is_some_and(|interface| interface.name == seen.name)
        });
        let (mut uplinks, mut own_addresses) = (BTreeSet::new(), BTreeSet::new());
        for (index, interface) in there {
            let mut addresses = addresses(interface);
            let has_route = host.default_routes.contains(&index);
            if interface.up && (has_route || !addresses.is_empty()) {
                let seen = self.seen.entry(index).or_insert_with(|| {
                    if !interface.ethernet {
                        tell_without_ethernet(interface, vtep);
                    }
                    Seen {
                        name: interface.name.clone(),
                        up: now,
                        addresses: BTreeMap::new(),
                    }
                });
                seen.up = now;
                let six = addresses.iter().filter(|address| address.is_ipv6());
                seen.addresses.extend(six.map(|address| (*address, now)));
            }
            let Some(seen) = self.seen.get_mut(&index) else {
                continue;
            };
            let is_uplink = if interface.up {
                seen.addresses
                    .retain(|_, at| now.duration_since(*at) <= GONE);
                addresses.extend(seen.addresses.keys());
                has_route || !addresses.is_empty()
            } else {
                seen.addresses.values_mut().for_each(|at| *at = now);
                addresses.extend(seen.addresses.keys());
                now.duration_since(seen.up) <= DOWN
            };
            if is_uplink {
                if interface.ethernet {
                    uplinks.insert(index);
                }
                own_addresses.append(&mut addresses);
            } else {
                self.seen.remove(&index);
            }
        }
        NodeFacts {
            uplinks,
            own_addresses,
            vtep,
        }
    }
}

fn tell_without_ethernet(interface: &Interface, vtep: IpAddr) {
    let (name, kind) = (&interface.name, &interface.kind);
    if interface.holds(vtep) {
        tracing::error!(
            interface = name,
            kind,
            "the data path address is on an interface without Ethernet headers: tasks do not reach those of other nodes"
        );
    } else {
        tracing::warn!(
            interface = name,
            kind,
            "no Ethernet headers there: published ports do not answer to what comes in by this interface"
        );
    }
}

/// Interfaces that are up and would be uplinks, if their packets had Ethernet headers.
pub(crate) fn without_ethernet<'a>(host: &'a HostView, instance: &str) -> Vec<&'a Interface> {
    let prefix = plan::host_prefix(instance);
    let all = host.interfaces.values();
    all.filter(|i| i.up && !i.loopback && !i.ethernet && !is_own(i, &prefix))
        .filter(|i| host.default_routes.contains(&i.index) || !addresses(i).is_empty())
        .collect()
}

/// Whether an interface is a host end of this agent, a device that encrypts, or any tunnel device.
fn is_own(interface: &Interface, prefix: &str) -> bool {
    interface.name.starts_with(prefix)
        || interface.kind == "vxlan"
        || mesh_wireguard::is_device(&interface.name)
}

/// An interface's addresses that published ports answer on.
fn addresses(interface: &Interface) -> BTreeSet<IpAddr> {
    let all = interface.addresses.iter().map(|(address, _)| *address);
    all.filter(|address| !is_link_local(*address)).collect()
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn interface(index: u32, name: &str, kind: &str, addresses: &[&str]) -> (String, Interface) {
        let addresses = addresses
            .iter()
            .map(|a| (a.parse().expect("an address"), 24));
        let interface = Interface {
            index,
            name: name.to_owned(),
            mtu: 1500,
            up: name != "down",
            loopback: name == "lo",
            ethernet: !matches!(kind, "ppp" | "tun") && name != "lo",
            kind: kind.to_owned(),
            addresses: addresses.collect(),
        };
        (name.to_owned(), interface)
    }

    fn set<const N: usize>(addresses: [&str; N]) -> BTreeSet<IpAddr> {
        addresses.map(|a| a.parse().expect("an address")).into()
    }

    fn facts(uplinks: &mut Uplinks, host: &HostView, now: Instant) -> NodeFacts {
        let vtep = "192.0.2.1".parse().expect("an address");
        uplinks.facts(host, "inst", vtep, now)
    }

    #[test]
    fn every_addressed_interface_of_the_node_is_an_uplink() {
        let own = format!("{}0123456789", plan::host_prefix("inst"));
        let host = HostView {
            interfaces: BTreeMap::from([
                interface(1, "lo", "", &["127.0.0.1"]),
                interface(2, "eth0", "", &["192.0.2.1", "fe80::1", "2001:db8::1"]),
                interface(3, "eth1", "veth", &["198.51.100.1"]),
                interface(4, "eth2", "", &["fe80::2"]),
                interface(5, "ppp0", "ppp", &[]),
                interface(6, "down", "", &["203.0.113.1"]),
                interface(7, "mesh-vxlan", "vxlan", &["203.0.113.2"]),
                interface(8, &own, "veth", &["203.0.113.3"]),
                interface(9, "wan0", "", &[]),
                interface(10, "tun0", "tun", &["203.0.113.4"]),
                interface(11, "tun1", "tun", &["fe80::3"]),
                interface(12, "mesh-wg0", "tun", &["203.0.113.5"]),
            ]),
            default_routes: BTreeSet::from([5, 9]),
            host_routes: BTreeMap::new(),
        };
        let facts = facts(&mut Uplinks::default(), &host, Instant::now());
        assert_eq!(facts.uplinks, BTreeSet::from([2, 3, 9]));
        assert_eq!(
            facts.own_addresses,
            set(["192.0.2.1", "198.51.100.1", "203.0.113.4", "2001:db8::1"])
        );
        let without = without_ethernet(&host, "inst");
        let without = without.iter().map(|interface| &*interface.name);
        assert_eq!(without.collect::<Vec<_>>(), ["ppp0", "tun0"]);
    }

    /// One uplink, with its state.
    fn one(up: bool, addresses: &[&str]) -> HostView {
        let (name, mut interface) = interface(2, "eth0", "", addresses);
        interface.up = up;
        HostView {
            interfaces: BTreeMap::from([(name, interface)]),
            ..HostView::default()
        }
    }

    #[test]
    fn an_uplink_that_is_down_stays_one_for_a_while() {
        const BOTH: &[&str] = &["192.0.2.1", "2001:db8::1"];
        const FOUR: &[&str] = &["192.0.2.1"];
        let (both, four) = (set(["192.0.2.1", "2001:db8::1"]), set(["192.0.2.1"]));
        let mut uplinks = Uplinks::default();
        let mut now = Instant::now();
        let mut look = |after: Duration, up, addresses: &[&str]| {
            now += after;
            let facts = facts(&mut uplinks, &one(up, addresses), now);
            (facts.uplinks.contains(&2), facts.own_addresses)
        };
        assert_eq!(look(SECOND, true, BOTH), (true, both.clone()));
        // The kernel has taken the IPv6 address away.
        assert_eq!(look(SECOND, false, FOUR), (true, both.clone()));
        assert_eq!(look(2 * GONE, false, FOUR), (true, both.clone()));
        assert_eq!(look(SECOND, true, FOUR), (true, both.clone()));
        assert_eq!(look(SECOND, true, BOTH), (true, both.clone()));
        // An address that is not made again, and one of IPv4, which goes by being removed alone.
        assert_eq!(look(SECOND, false, &[]), (true, set(["2001:db8::1"])));
        assert_eq!(look(SECOND, true, FOUR), (true, both.clone()));
        assert_eq!(look(GONE, true, FOUR), (true, four.clone()));
        assert_eq!(look(SECOND, true, &[]), (false, set([])));
        // Down for too long.
        assert_eq!(look(SECOND, true, FOUR), (true, four.clone()));
        assert_eq!(look(DOWN, false, FOUR), (true, four));
        assert_eq!(look(SECOND, false, FOUR), (false, set([])));
    }

    #[test]
    fn an_index_that_another_interface_has_got_keeps_nothing() {
        let mut uplinks = Uplinks::default();
        let now = Instant::now();
        facts(&mut uplinks, &one(true, &["192.0.2.1"]), now);
        let mut host = one(false, &["192.0.2.1"]);
        let mut other = host.interfaces.remove("eth0").expect("the interface");
        other.name = "eth1".to_owned();
        host.interfaces.insert("eth1".to_owned(), other);
        assert!(facts(&mut uplinks, &host, now).uplinks.is_empty());
    }
}
