//! What the packet path has to do, in user-space nouns. The reconciler builds a
//! [`Desired`] and hands it to [`Datapath::apply`](crate::Datapath::apply); nothing here knows of maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

/// A 48-bit Ethernet address, in transmission order.
pub type Mac = [u8; 6];

/// Everything the packet path of one node has to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Desired {
    /// Interfaces that face the other nodes and the clients.
    pub uplinks: BTreeSet<u32>,
    /// This node's own addresses, on which published ports answer.
    pub own_addresses: BTreeSet<IpAddr>,
    /// This node's VXLAN tunnel end point.
    pub vtep: Option<IpAddr>,
    /// VXLAN network identifier of the ingress network.
    pub ingress_vni: u32,
    /// IPv6 of the ingress network and of all gateway links: the first address of 2^32. The last 32 bits of a task's
    /// IPv6 address are its IPv4 address, so that nothing else here is IPv6 but [`Desired::own_addresses`].
    pub ingress_prefix: Option<Ipv6Addr>,
    /// Tunnel end points of the other nodes, and the largest packet that the node's wire takes, if it is known.
    pub peers: BTreeMap<IpAddr, Option<u32>>,
    /// The device that encrypts what is sent by it to the other nodes' tunnel end points, by interface index.
    pub cipher: Option<u32>,
    /// The one before it, as long as other nodes may use it.
    pub former_cipher: Option<FormerCipher>,
    /// Host ends of the local tasks' links, by interface index.
    pub links: BTreeMap<u32, Link>,
    /// Every task address this node may talk to, by (VNI, address).
    pub endpoints: BTreeMap<(u32, IpAddr), Endpoint>,
    /// Services by id. One that is the very same object as in the state before needs no look.
    pub services: BTreeMap<String, Arc<Service>>,
    /// The networks that the local tasks' sockets reach, by the cookie of the task's network namespace.
    pub namespaces: BTreeMap<u64, BTreeSet<Subnet>>,
}

/// A device that encrypts with a key that this node has had: what comes by it is taken as what comes by
/// [`Desired::cipher`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FormerCipher {
    /// Interface index.
    pub device: u32,
    /// The nodes that are still sent to by it, by their tunnel end points.
    pub peers: BTreeSet<IpAddr>,
}

/// A network as a task sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subnet {
    /// Its first address.
    pub first: IpAddr,
    /// Length of its prefix, in bits.
    pub prefix: u8,
    /// Its VXLAN network identifier.
    pub vni: u32,
}

/// The host end of a task's link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// On an overlay network.
    Overlay {
        /// VXLAN network identifier.
        vni: u32,
        /// IPv6 of the network, as [`Desired::ingress_prefix`].
        prefix: Option<Ipv6Addr>,
        /// The task's address.
        address: IpAddr,
        /// The task's own MAC.
        mac: Mac,
        /// Encrypted between nodes.
        encrypted: bool,
    },
    /// To the outside and from published ports.
    Gateway {
        /// The address on the link: the ingress address where the task has one, else node-local.
        address: IpAddr,
        /// The task's own MAC.
        mac: Mac,
    },
}

/// Where a task address is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The task's MAC.
    pub mac: Mac,
    /// On this node or another.
    pub location: Location,
    /// Its network is encrypted between nodes.
    pub encrypted: bool,
}

/// On this node or another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// Behind this host-end interface index.
    Local(u32),
    /// Behind this peer's tunnel end point.
    Remote(IpAddr),
}

/// A service: its virtual addresses, its published ports, its backends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Service {
    /// Name, for people.
    pub name: String,
    /// What one client asks goes to one task; so many seconds after a change of the backends too, while that task
    /// lives. Zero: every flow for itself.
    pub affinity_s: u32,
    /// Published ports are answered by this node's own tasks only.
    pub local_only: bool,
    /// Replies to clients of published ports need not go back through the node that was asked.
    pub direct: bool,
    /// Virtual addresses with the backends behind each: (VNI, address) to task addresses on that network.
    pub vips: BTreeMap<(u32, IpAddr), Vec<Backend>>,
    /// Published ports (ingress mode).
    pub ports: BTreeSet<PublishedPort>,
    /// Ingress backends: addresses on the ingress network.
    pub ingress: Vec<Backend>,
}

/// A port published on every node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublishedPort {
    /// IP protocol number: 6 TCP, 17 UDP, 132 SCTP.
    pub protocol: u8,
    /// Port on the nodes, host byte order.
    pub published: u16,
    /// Port in the task, host byte order.
    pub target: u16,
}

/// One task behind a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    /// Address on the network in question; found in [`Desired::endpoints`].
    pub address: IpAddr,
    /// Takes no new flow.
    pub draining: bool,
}

/// The MAC of an overlay address: 02:42 and the four bytes of an IPv4 address, or the last four of an IPv6 one.
pub fn mac_of(address: IpAddr) -> Mac {
    let [a, b, c, d] = match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            let o = v6.octets();
            [o[12], o[13], o[14], o[15]]
        }
    };
    [0x02, 0x42, a, b, c, d]
}
