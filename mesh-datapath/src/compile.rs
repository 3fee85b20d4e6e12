//! From [`Desired`] to what the maps must hold. Pure. Maglev rows are added by `rows.rs`.
//!
//! Of thousands of services a change concerns few: the others' fronts are those of the compilation before, the very
//! same objects, and so known to need nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use mesh_common::{
    Addr, AddrKey, Endpoint, LINK_GATEWAY, LINK_OVERLAY, Link, Peer, PortKey, Prefix, ScopedAddr,
    Settings, port_bit, wire::SCTP,
};

use crate::{
    model::{self, Backend, Desired, Location, Service, Subnet},
    moved::Moved,
};

/// What the maps must hold.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) settings: Settings,
    pub(crate) own: BTreeMap<Addr, u32>,
    pub(crate) peers: BTreeMap<Addr, Peer>,
    pub(crate) endpoints: BTreeMap<AddrKey, Endpoint>,
    pub(crate) links: BTreeMap<u32, Link>,
    /// The bitmap of TCP's and UDP's ports.
    pub(crate) ports: BTreeMap<u32, u64>,
    pub(crate) published: BTreeMap<PortKey, Arc<Front>>,
    pub(crate) vips: BTreeMap<AddrKey, Arc<Front>>,
    /// VNI by length of the prefix in bits and namespace with subnet.
    pub(crate) namespaces: BTreeMap<(u32, ScopedAddr), u32>,
}

impl Contents {
    /// Whether a port's front is the very same here.
    pub(crate) fn has_port(&self, key: &PortKey, front: Option<&Arc<Front>>) -> bool {
        same(self.published.get(key), front)
    }

    /// Whether a virtual address's front is the very same here.
    pub(crate) fn has_vip(&self, key: &AddrKey, front: Option<&Arc<Front>>) -> bool {
        same(self.vips.get(key), front)
    }
}

/// A compilation that has been applied.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    pub(crate) desired: Desired,
    pub(crate) contents: Contents,
}

fn same(before: Option<&Arc<Front>>, now: Option<&Arc<Front>>) -> bool {
    before
        .zip(now)
        .is_some_and(|(before, now)| Arc::ptr_eq(before, now))
}

/// What stands in front of a set of backends: a published port or a virtual address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Front {
    pub(crate) service: String,
    pub(crate) name: String,
    /// Port in the task, network byte order; zero for a virtual address.
    pub(crate) target_be: u16,
    /// As in [`Pool`](mesh_common::Pool).
    pub(crate) affinity_s: u32,
    /// As in [`Published`](mesh_common::Published).
    pub(crate) direct: bool,
    /// Take new flows; sorted.
    pub(crate) active: Vec<Addr>,
    /// Take no new flow.
    pub(crate) draining: BTreeSet<Addr>,
}

/// A 128-bit map address.
pub(crate) fn addr(address: IpAddr) -> Addr {
    match address {
        IpAddr::V4(v4) => Addr::v4(v4.octets()),
        IpAddr::V6(v6) => Addr::v6(v6.octets()),
    }
}

/// The address a map address stands for.
pub(crate) fn ip(address: Addr) -> IpAddr {
    IpAddr::from(address.octets()).to_canonical()
}

fn prefix(first: Option<Ipv6Addr>) -> Prefix {
    first.map_or(Prefix::NONE, |first| Prefix::of(first.octets()))
}

fn compile_peer(desired: &Desired, peer: &IpAddr, mtu: Option<u32>) -> Peer {
    let former = desired.former_cipher.as_ref();
    let former = former.filter(|former| former.peers.contains(peer));
    let cipher = former.map(|former| former.device).or(desired.cipher);
    Peer {
        mtu: mtu.unwrap_or(0),
        cipher: cipher.unwrap_or(0),
    }
}

/// Compiles. `uplink` is the interface that carries tunnels, `redirect` as in [`Settings`], `vxlan_port` in
/// host byte order. Fronts that are as they were are taken over from `applied`.
pub(crate) fn contents(
    desired: &Desired,
    applied: &Applied,
    uplink: u32,
    redirect: bool,
    vxlan_port: u16,
) -> Contents {
    let mut out = Contents {
        settings: Settings {
            vtep: desired.vtep.map_or(Addr::NONE, addr),
            prefix: prefix(desired.ingress_prefix),
            ingress_vni: desired.ingress_vni,
            uplink,
            cipher: desired.cipher.unwrap_or(0),
            former_cipher: desired
                .former_cipher
                .as_ref()
                .map_or(0, |former| former.device),
            vxlan_port_be: vxlan_port.to_be(),
            redirect: u8::from(redirect),
            // Set where it is written: see `Tables::set_tracing`.
            trace: 0,
        },
        own: desired
            .own_addresses
            .iter()
            .map(|a| (addr(*a), 1))
            .collect(),
        peers: desired
            .peers
            .iter()
            .map(|(peer, mtu)| (addr(*peer), compile_peer(desired, peer, *mtu)))
            .collect(),
        ..Contents::default()
    };
    for ((vni, address), endpoint) in &desired.endpoints {
        out.endpoints.insert(
            AddrKey {
                vni: *vni,
                address: addr(*address),
            },
            compile_endpoint(endpoint),
        );
    }
    for (ifindex, link) in &desired.links {
        out.links.insert(*ifindex, compile_link(link, desired));
    }
    for (cookie, subnets) in &desired.namespaces {
        for subnet in subnets {
            out.namespaces.insert(scoped(*cookie, subnet), subnet.vni);
        }
    }
    let moved = Moved::between(&applied.desired.endpoints, &desired.endpoints);
    for (id, service) in &desired.services {
        let kept = applied.desired.ingress_vni == desired.ingress_vni
            && applied.desired.services.get(id) == Some(service)
            && !moved.concern(desired.ingress_vni, service);
        let kept = |front: Option<&Arc<Front>>| front.filter(|f| kept && f.service == *id).cloned();
        for port in &service.ports {
            let key = PortKey {
                port_be: port.published.to_be(),
                protocol: port.protocol,
                pad: 0,
            };
            let front = kept(applied.contents.published.get(&key)).unwrap_or_else(|| {
                let mut reachable = reachable(desired, desired.ingress_vni, &service.ingress);
                reachable.retain(|b| !service.local_only || is_local(desired, b.address));
                front(id, service, port.target.to_be(), &reachable)
            });
            if port.protocol != SCTP {
                let (word, bit) = port_bit(port.protocol, port.published);
                *out.ports.entry(word).or_default() |= bit;
            }
            out.published.insert(key, front);
        }
        for ((vni, address), backends) in &service.vips {
            let key = AddrKey {
                vni: *vni,
                address: addr(*address),
            };
            let front = kept(applied.contents.vips.get(&key)).unwrap_or_else(|| {
                let reachable = reachable(desired, *vni, backends);
                front(id, service, 0, &reachable)
            });
            out.vips.insert(key, front);
        }
    }
    out
}

/// A subnet as a namespace sees it: the length of the prefix, cookie included, and what it is a prefix of.
fn scoped(cookie: u64, subnet: &Subnet) -> (u32, ScopedAddr) {
    let first = addr(subnet.first);
    let mapped = if first.is_v4() { 96 } else { 0 };
    let key = ScopedAddr {
        cookie: [cookie as u32, (cookie >> 32) as u32],
        address: first,
    };
    (64 + mapped + u32::from(subnet.prefix), key)
}

fn compile_endpoint(endpoint: &model::Endpoint) -> Endpoint {
    let (peer, ifindex) = match endpoint.location {
        Location::Local(ifindex) => (Addr::NONE, ifindex),
        Location::Remote(peer) => (addr(peer), 0),
    };
    Endpoint {
        peer,
        ifindex,
        mac: endpoint.mac,
        encrypted: endpoint.encrypted.into(),
        pad: 0,
    }
}

fn compile_link(link: &model::Link, desired: &Desired) -> Link {
    match link {
        model::Link::Overlay {
            vni,
            prefix: first,
            address,
            mac,
            encrypted,
        } => Link {
            address: addr(*address),
            prefix: prefix(*first),
            vni: *vni,
            mac: *mac,
            kind: LINK_OVERLAY,
            encrypted: u8::from(*encrypted),
        },
        model::Link::Gateway { address, mac } => Link {
            address: addr(*address),
            prefix: prefix(desired.ingress_prefix),
            vni: 0,
            mac: *mac,
            kind: LINK_GATEWAY,
            encrypted: 0,
        },
    }
}

/// The backends that have an endpoint. One without (a task that has just ended here) would only swallow flows.
fn reachable(desired: &Desired, vni: u32, backends: &[Backend]) -> Vec<Backend> {
    let there = |backend: &&Backend| desired.endpoints.contains_key(&(vni, backend.address));
    backends.iter().filter(there).cloned().collect()
}

/// Whether the task with an ingress address is on this node.
fn is_local(desired: &Desired, ingress: IpAddr) -> bool {
    let endpoint = desired.endpoints.get(&(desired.ingress_vni, ingress));
    endpoint.is_some_and(|endpoint| matches!(endpoint.location, Location::Local(_)))
}

fn front(id: &str, service: &Service, target_be: u16, backends: &[Backend]) -> Arc<Front> {
    let of = |draining: bool| -> BTreeSet<Addr> {
        backends
            .iter()
            .filter(|b| b.draining == draining)
            .map(|b| addr(b.address))
            .collect()
    };
    Arc::new(Front {
        service: id.to_owned(),
        name: service.name.clone(),
        target_be,
        affinity_s: service.affinity_s,
        direct: service.direct,
        active: of(false).into_iter().collect(),
        draining: of(true),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PublishedPort;

    #[test]
    fn a_node_is_sent_to_by_the_device_that_it_is_noted_with() {
        let peer: IpAddr = "192.0.2.2".parse().unwrap();
        let mut desired = Desired::default();
        let cipher = |desired: &Desired| compile_peer(desired, &peer, None).cipher;
        assert_eq!(cipher(&desired), 0);
        desired.cipher = Some(7);
        assert_eq!(cipher(&desired), 7);
        let mut former = model::FormerCipher {
            device: 6,
            peers: BTreeSet::new(),
        };
        desired.former_cipher = Some(former.clone());
        assert_eq!(cipher(&desired), 7);
        former.peers.insert(peer);
        desired.former_cipher = Some(former);
        assert_eq!(cipher(&desired), 6);
    }

    #[test]
    fn draining_and_unreachable_backends_are_not_active() {
        let mut service = Service {
            name: "web".into(),
            ..Service::default()
        };
        service.ports.insert(PublishedPort {
            protocol: 6,
            published: 80,
            target: 8080,
        });
        service.ingress = vec![
            Backend {
                address: "10.0.0.9".parse().unwrap(),
                draining: false,
            },
            Backend {
                address: "10.0.0.3".parse().unwrap(),
                draining: false,
            },
            Backend {
                address: "10.0.0.5".parse().unwrap(),
                draining: true,
            },
        ];
        let mut desired = Desired {
            ingress_vni: 7,
            ..Desired::default()
        };
        for address in service.ingress.iter().map(|b| b.address) {
            let endpoint = model::Endpoint {
                mac: [0; 6],
                location: Location::Local(9),
                encrypted: false,
            };
            desired.endpoints.insert((7, address), endpoint);
        }
        let gone = Backend {
            address: "10.0.0.4".parse().unwrap(),
            draining: false,
        };
        service.ingress.push(gone);
        desired.services.insert("id".into(), service.into());
        let contents = contents(&desired, &Applied::default(), 3, false, 4789);
        let front = contents.published.values().next().unwrap();
        assert_eq!(
            front.active,
            [Addr::v4([10, 0, 0, 3]), Addr::v4([10, 0, 0, 9])]
        );
        assert_eq!(front.draining.len(), 1);
        assert_eq!(contents.ports, BTreeMap::from([(1, 1 << 16)]));
        assert_eq!(
            contents.settings.vxlan_port_be.to_ne_bytes(),
            4789_u16.to_be_bytes()
        );
    }

    #[test]
    fn a_local_service_has_only_this_nodes_tasks_on_its_ports() {
        let [here, there] = ["10.0.0.3", "10.0.0.4"].map(|a| a.parse::<IpAddr>().unwrap());
        let vip = (9, "10.0.16.2".parse().unwrap());
        let backends: Vec<Backend> = [here, there]
            .map(|address| Backend {
                address,
                draining: false,
            })
            .into();
        let mut desired = Desired {
            ingress_vni: 7,
            ..Desired::default()
        };
        for vni in [7, 9] {
            for (address, location) in [
                (here, Location::Local(5)),
                (there, Location::Remote("192.0.2.2".parse().unwrap())),
            ] {
                let mac = [0; 6];
                let endpoint = model::Endpoint {
                    mac,
                    location,
                    encrypted: false,
                };
                desired.endpoints.insert((vni, address), endpoint);
            }
        }
        let port = PublishedPort {
            protocol: 6,
            published: 80,
            target: 80,
        };
        let service = Service {
            local_only: true,
            affinity_s: 60,
            ports: [port].into(),
            ingress: backends.clone(),
            vips: [(vip, backends)].into(),
            ..Service::default()
        };
        desired.services.insert("id".into(), service.into());
        let contents = contents(&desired, &Applied::default(), 3, false, 4789);
        let published = contents.published.values().next().unwrap();
        assert_eq!(published.active, [addr(here)]);
        assert_eq!(published.affinity_s, 60);
        let vip = contents.vips.values().next().unwrap();
        assert_eq!(vip.active, [addr(here), addr(there)]);
    }

    #[test]
    fn what_has_not_changed_is_the_same_object() {
        let address = |last| IpAddr::from([10, 0, 0, last]);
        let service = |last| Service {
            ports: [PublishedPort {
                protocol: 6,
                published: u16::from(last),
                target: 80,
            }]
            .into(),
            ingress: vec![Backend {
                address: address(last),
                draining: false,
            }],
            vips: [((9, address(100 + last)), Vec::new())].into(),
            ..Service::default()
        };
        let mut desired = Desired {
            ingress_vni: 7,
            ..Desired::default()
        };
        for (id, last) in [("a", 1), ("b", 2), ("c", 3)] {
            desired.services.insert(id.into(), service(last).into());
            let at = model::Endpoint {
                mac: [0; 6],
                location: Location::Local(5),
                encrypted: false,
            };
            desired.endpoints.insert((7, address(last)), at);
        }
        let first = contents(&desired, &Applied::default(), 3, false, 4789);
        let applied = Applied {
            desired: desired.clone(),
            contents: first,
        };
        let changed = |desired: &Desired| {
            let now = contents(desired, &applied, 3, false, 4789);
            let fresh = contents(desired, &Applied::default(), 3, false, 4789);
            assert_eq!(now.published, fresh.published);
            assert_eq!(now.vips, fresh.vips);
            let ports = now.published.iter();
            let ports = ports.filter(|(key, front)| !applied.contents.has_port(key, Some(front)));
            let vips = now.vips.iter();
            let vips = vips.filter(|(key, front)| !applied.contents.has_vip(key, Some(front)));
            let ports = ports.map(|(key, _)| u16::from_be(key.port_be)).collect();
            (ports, vips.count())
        };
        let none: Vec<u16> = Vec::new();
        assert_eq!(changed(&desired), (none, 0));
        let mut drained = desired.clone();
        if let Some(service) = drained.services.get_mut("b") {
            Arc::make_mut(service).ingress[0].draining = true;
        }
        assert_eq!(changed(&drained), (vec![2], 1));
        let mut gone = desired.clone();
        gone.endpoints.remove(&(7, address(3)));
        assert_eq!(changed(&gone), (vec![3], 1));
        let mut renumbered = desired.clone();
        renumbered.ingress_vni = 8;
        assert_eq!(changed(&renumbered), (vec![1, 2, 3], 3));
        let mut taken_over = desired;
        let service = taken_over.services.remove("c").expect("it");
        taken_over.services.insert("d".into(), service);
        assert_eq!(changed(&taken_over), (vec![3], 1));
    }

    #[test]
    fn addresses_go_there_and_back() {
        for text in ["10.0.0.1", "fd00::1"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(ip(addr(address)), address);
        }
    }
}
