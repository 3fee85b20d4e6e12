//! The node that packets are measured on: a task of each kind here, one on another node, and a client.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    process::Command,
};

use mesh_common::wire;

use crate::{
    Backend, Desired, Endpoint, Error, Link, Location, PublishedPort, Service, host, mac_of,
};

pub(super) const INGRESS: u32 = 4096;
pub(super) const OVERLAY: u32 = 4097;
pub(super) const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(super) const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const FAR_GATE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const NEAR_GATE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 2);
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 3);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 200);
const NODE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const PEER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x64);
const INGRESS_PREFIX: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0);
const OVERLAY_PREFIX: Ipv6Addr = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0);

/// Who is there, in one family.
pub(super) struct Addresses {
    pub(super) node: IpAddr,
    pub(super) peer: IpAddr,
    pub(super) client: IpAddr,
    /// Gateway link's address of the task here.
    pub(super) near_gate: IpAddr,
    /// Overlay addresses of the task on the other node, and of the one here.
    pub(super) far: IpAddr,
    pub(super) near: IpAddr,
    pub(super) vip: IpAddr,
    /// The node's own processes'.
    pub(super) local: IpAddr,
}

impl Addresses {
    pub(super) const V4: Self = Self {
        node: IpAddr::V4(NODE),
        peer: IpAddr::V4(PEER),
        client: IpAddr::V4(CLIENT),
        near_gate: IpAddr::V4(NEAR_GATE),
        far: IpAddr::V4(FAR),
        near: IpAddr::V4(NEAR),
        vip: IpAddr::V4(VIP),
        local: IpAddr::V4(Ipv4Addr::LOCALHOST),
    };

    pub(super) fn v6() -> Self {
        Self {
            node: NODE_V6.into(),
            peer: PEER_V6.into(),
            client: CLIENT_V6.into(),
            near_gate: join(INGRESS_PREFIX, NEAR_GATE),
            far: join(OVERLAY_PREFIX, FAR),
            near: join(OVERLAY_PREFIX, NEAR),
            vip: join(OVERLAY_PREFIX, VIP),
            local: Ipv6Addr::LOCALHOST.into(),
        }
    }
}

/// The address of a network with this prefix that ends in an IPv4 address.
fn join(prefix: Ipv6Addr, low: Ipv4Addr) -> IpAddr {
    IpAddr::V6((u128::from(prefix) | u128::from(u32::from(low))).into())
}

/// The interfaces.
#[derive(Clone, Copy)]
pub(super) struct World {
    pub(super) uplink: u32,
    pub(super) overlay: u32,
    pub(super) gateway: u32,
}

impl World {
    /// Makes them in the network namespace at hand, which is empty.
    pub(super) fn new() -> Result<Self, Error> {
        for line in [
            "link set lo up",
            "link add up0 type veth peer name up1",
            "link add ov0 type veth peer name ov1",
            "link add gw0 type veth peer name gw1",
            "addr add 192.0.2.1/24 dev up0",
            "addr add 2001:db8::1/64 dev up0 nodad",
            "link set up0 up",
            "link set up1 up",
            "link set ov0 up",
            "link set ov1 up",
            "link set gw0 up",
            "link set gw1 up",
            "neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev up0 nud permanent",
            "neigh add 192.0.2.100 lladdr 02:00:00:00:00:64 dev up0 nud permanent",
            "neigh add 2001:db8::64 lladdr 02:00:00:00:00:64 dev up0 nud permanent",
        ] {
            ip(line)?;
        }
        for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            let path = Path::new("/proc/sys/net").join(switch);
            fs::write(&path, "1").map_err(|source| Error::Path {
                action: "set",
                path,
                source,
            })?;
        }
        let index = |name: &str| host::ifindex(name).unwrap_or(0);
        Ok(Self {
            uplink: index("up0"),
            overlay: index("ov0"),
            gateway: index("gw0"),
        })
    }

    /// What the node has to do.
    pub(super) fn desired(self) -> Desired {
        let Self {
            uplink,
            overlay,
            gateway,
        } = self;
        let mut desired = Desired {
            uplinks: [uplink].into(),
            own_addresses: [IpAddr::V4(NODE), IpAddr::V6(NODE_V6)].into(),
            vtep: Some(NODE.into()),
            ingress_vni: INGRESS,
            ingress_prefix: Some(INGRESS_PREFIX),
            peers: [(IpAddr::V4(PEER), None)].into(),
            ..Desired::default()
        };
        for (vni, address, location) in [
            (INGRESS, FAR_GATE, Location::Remote(PEER.into())),
            (INGRESS, NEAR_GATE, Location::Local(gateway)),
            (OVERLAY, FAR, Location::Remote(PEER.into())),
            (OVERLAY, NEAR, Location::Local(overlay)),
        ] {
            let endpoint = Endpoint {
                mac: mac_of(address.into()),
                location,
                encrypted: false,
            };
            desired.endpoints.insert((vni, address.into()), endpoint);
        }
        let mac = mac_of(NEAR.into());
        desired.links.insert(
            overlay,
            Link::Overlay {
                vni: OVERLAY,
                prefix: Some(OVERLAY_PREFIX),
                address: NEAR.into(),
                mac,
                encrypted: false,
            },
        );
        let mac = mac_of(NEAR_GATE.into());
        desired.links.insert(
            gateway,
            Link::Gateway {
                address: NEAR_GATE.into(),
                mac,
            },
        );
        for (published, gate) in [(80, FAR_GATE), (81, NEAR_GATE)] {
            let backend = |address: Ipv4Addr| {
                vec![Backend {
                    address: address.into(),
                    draining: false,
                }]
            };
            let mut service = Service {
                ports: [wire::TCP, wire::UDP]
                    .map(|protocol| PublishedPort {
                        protocol,
                        published,
                        target: 8080,
                    })
                    .into(),
                ingress: backend(gate),
                ..Service::default()
            };
            if published == 80 {
                service.vips.insert((OVERLAY, VIP.into()), backend(FAR));
            }
            desired
                .services
                .insert(format!("s{published}"), service.into());
        }
        desired
    }
}

fn ip(line: &str) -> Result<(), Error> {
    let failed = |source| Error::Netlink {
        action: format!("run `ip {line}`"),
        source,
    };
    let output = Command::new("ip")
        .args(line.split(' '))
        .output()
        .map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(failed(std::io::Error::other(words)))
}
