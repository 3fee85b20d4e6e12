//! The node's own side: host ends, routes to gateway addresses, uplinks.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
    path::Path,
};

use futures::TryStreamExt;
use ipnetwork::Ipv4Network;
use netlink_packet_route::{
    address::AddressAttribute,
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType},
};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::{
    LinkError, errno,
    local_pool::{By, Occupied},
    netlink,
    plan::{GATEWAY, LinkKind, TaskLink, mac_of},
    sysctl,
};

/// An interface of the node's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Kernel index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Bytes of IP packet that fit.
    pub mtu: u32,
    /// Set up.
    pub up: bool,
    /// The loopback interface.
    pub loopback: bool,
    /// Packets have an Ethernet header there (`ARPHRD_ETHER`), unlike on WireGuard, tun, PPP and IP tunnels.
    pub ethernet: bool,
    /// Kernel kind (`veth`, `bridge`, ...), empty for hardware.
    pub kind: String,
    /// Addresses with prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
}

impl Interface {
    /// Whether it has `address`.
    pub fn holds(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|(own, _)| *own == address)
    }
}

/// What there is in the node's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostView {
    /// Interfaces by name.
    pub interfaces: BTreeMap<String, Interface>,
    /// Interfaces with a default route.
    pub default_routes: BTreeSet<u32>,
    /// Host routes (/32, /128) by address, to interface index.
    pub host_routes: BTreeMap<IpAddr, u32>,
}

impl HostView {
    /// The interface that holds `address`.
    pub fn holder(&self, address: IpAddr) -> Option<&Interface> {
        self.interfaces
            .values()
            .find(|interface| interface.holds(address))
    }
}

/// A route of the main table.
struct Route {
    /// Where to; nothing for a default route.
    to: Option<IpAddr>,
    /// Bits of it.
    prefix: u8,
    /// Interface, if it is a single one.
    out: Option<u32>,
    /// It leads somewhere, and refuses nothing.
    is_unicast: bool,
}

/// The netlink handle of the node's namespace.
#[derive(Debug, Clone)]
pub struct Host {
    handle: Handle,
}

impl Host {
    /// Connects; wants an async runtime.
    ///
    /// # Errors
    /// When no netlink socket can be opened.
    pub fn connect() -> Result<Self, LinkError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(LinkError::io("open a netlink socket"))?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Reads interfaces, addresses and routes.
    ///
    /// # Errors
    /// When a dump fails.
    pub async fn observe(&self) -> Result<HostView, LinkError> {
        let mut view = HostView::default();
        let mut names = BTreeMap::new();
        let mut links = self.handle.link().get().execute();
        while let Some(link) = links
            .try_next()
            .await
            .map_err(LinkError::netlink("list interfaces"))?
        {
            let mut interface = Interface {
                index: link.header.index,
                name: String::new(),
                mtu: 1500,
                up: link.header.flags.contains(LinkFlags::Up),
                loopback: link.header.flags.contains(LinkFlags::Loopback),
                ethernet: link.header.link_layer_type == LinkLayerType::Ether,
                kind: String::new(),
                addresses: Vec::new(),
            };
            for attribute in link.attributes {
                match attribute {
                    LinkAttribute::IfName(name) => interface.name = name,
                    LinkAttribute::Mtu(mtu) => interface.mtu = mtu,
                    LinkAttribute::LinkInfo(infos) => {
                        for info in infos {
                            if let LinkInfo::Kind(kind) = info {
                                interface.kind = kind.to_string();
                            }
                        }
                    }
                    _ => {}
                }
            }
            names.insert(interface.index, interface.name.clone());
            view.interfaces.insert(interface.name.clone(), interface);
        }
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) = addresses
            .try_next()
            .await
            .map_err(LinkError::netlink("list addresses"))?
        {
            // On point-to-point links `Local` is ours and `Address` the peer's.
            let mut own = None;
            for attribute in &message.attributes {
                match attribute {
                    AddressAttribute::Local(address) => own = Some(*address),
                    AddressAttribute::Address(address) if own.is_none() => own = Some(*address),
                    _ => {}
                }
            }
            let interface = names
                .get(&message.header.index)
                .and_then(|name| view.interfaces.get_mut(name));
            if let (Some(address), Some(interface)) = (own, interface) {
                interface
                    .addresses
                    .push((address, message.header.prefix_len));
            }
        }
        self.observe_routes(&mut view, RouteMessageBuilder::<Ipv4Addr>::new().build())
            .await?;
        if sysctl::has_ipv6() {
            self.observe_routes(&mut view, RouteMessageBuilder::<Ipv6Addr>::new().build())
                .await?;
        }
        Ok(view)
    }

    async fn observe_routes(
        &self,
        view: &mut HostView,
        request: RouteMessage,
    ) -> Result<(), LinkError> {
        self.each_route(request, |route| match (route.prefix, route.to, route.out) {
            (0, _, Some(index)) => {
                view.default_routes.insert(index);
            }
            (32, Some(address @ IpAddr::V4(_)), Some(index))
            | (128, Some(address @ IpAddr::V6(_)), Some(index)) => {
                view.host_routes.insert(address, index);
            }
            _ => {}
        })
        .await
    }

    /// What the node reaches others by over IPv4: its addresses with their subnets, and routes of the main table. Interfaces whose
    /// name begins with `own` are the mesh's, and do not count.
    ///
    /// # Errors
    /// When a dump fails.
    pub async fn occupied(&self, own: &str) -> Result<Vec<Occupied>, LinkError> {
        let view = self.observe().await?;
        let others = view
            .interfaces
            .values()
            .filter(|i| !i.name.starts_with(own));
        let addresses = others.flat_map(|interface| {
            interface.addresses.iter().filter_map(|(address, prefix)| {
                let IpAddr::V4(address) = address else {
                    return None;
                };
                Some(Occupied {
                    subnet: Ipv4Network::new(*address, *prefix).ok()?,
                    by: By::Address(interface.name.clone()),
                })
            })
        });
        let mut all: Vec<_> = addresses.collect();
        let name = |index| view.interfaces.values().find(|i| i.index == index);
        let request = RouteMessageBuilder::<Ipv4Addr>::new().build();
        self.each_route(request, |route| {
            let out = route.out.and_then(name).map(|i| i.name.clone());
            let Some(IpAddr::V4(to)) = route.to else {
                return;
            };
            if route.is_unicast && !out.as_ref().is_some_and(|name| name.starts_with(own)) {
                all.extend(Ipv4Network::new(to, route.prefix).map(|subnet| Occupied {
                    subnet,
                    by: By::Route(out),
                }));
            }
        })
        .await?;
        Ok(all)
    }

    /// Hands over the routes of the main table.
    async fn each_route(
        &self,
        request: RouteMessage,
        mut take: impl FnMut(Route),
    ) -> Result<(), LinkError> {
        let mut routes = self.handle.route().get(request).execute();
        while let Some(route) = routes
            .try_next()
            .await
            .map_err(LinkError::netlink("list routes"))?
        {
            let mut out = None;
            let mut to = None;
            let mut table = u32::from(route.header.table);
            for attribute in &route.attributes {
                match attribute {
                    RouteAttribute::Oif(index) => out = Some(*index),
                    RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                        to = Some(IpAddr::V4(*address));
                    }
                    RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
                        to = Some(IpAddr::V6(*address));
                    }
                    RouteAttribute::Table(id) => table = *id,
                    _ => {}
                }
            }
            if table == MAIN_TABLE {
                take(Route {
                    to,
                    prefix: route.header.destination_prefix_length,
                    out,
                    is_unicast: route.header.kind == RouteType::Unicast,
                });
            }
        }
        Ok(())
    }

    /// Creates a veth pair with one end in the task's namespace already.
    ///
    /// # Errors
    /// When the kernel refuses; a pair that is there is kept.
    pub async fn create_pair(
        &self,
        link: &TaskLink,
        netns: &Path,
        mtu: u32,
    ) -> Result<(), LinkError> {
        let file = std::fs::File::open(netns)
            .map_err(LinkError::io(format!("open {}", netns.display())))?;
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(link.task_name.clone())
            .address(link.mac.to_vec())
            .mtu(mtu)
            .setns_by_fd(file.as_raw_fd())
            .build();
        let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(link.host_name.clone())
            .address(mac_of(GATEWAY).to_vec())
            .mtu(mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        match self.handle.link().add(message).execute().await {
            Err(error) if errno(&error) != libc::EEXIST => Err(LinkError::netlink(format!(
                "create link {}",
                link.host_name
            ))(error)),
            _ => Ok(()),
        }
    }

    /// Brings a host end up, and for a gateway link makes the route and the neighbour to the task.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn configure_host_end(&self, link: &TaskLink, index: u32) -> Result<(), LinkError> {
        let v6 = |name: &str, value: &str| {
            sysctl::set_if_there(&format!("net/ipv6/conf/{}/{name}", link.host_name), value);
        };
        // No IPv6 of the node's own on a link that belongs to a task; what the task sends to the outside goes on.
        v6("addr_gen_mode", "1");
        v6("accept_ra", "0");
        let routed = link.kind == LinkKind::Gateway && link.v6.is_some();
        v6("disable_ipv6", if routed { "0" } else { "1" });
        let v4 = |name: &str, value: &str| {
            sysctl::set_if_there(&format!("net/ipv4/conf/{}/{name}", link.host_name), value);
        };
        v4("rp_filter", "0");
        if link.kind == LinkKind::Gateway {
            // For the node's own callers of `mode=host` ports on 127.0.0.1, and below on ::1; see `egress`.
            v4("route_localnet", "1");
        }
        netlink::up(&self.handle, index)
            .await
            .map_err(LinkError::netlink(format!(
                "set up link {}",
                link.host_name
            )))?;
        if link.kind == LinkKind::Gateway {
            self.lead_to(link, index, link.address.into()).await?;
            if let Some((address, _)) = link.v6.filter(|_| sysctl::has_ipv6()) {
                self.lead_to(link, index, address.into()).await?;
                // What `route_localnet` is to IPv4: from an interface, nothing is routed to an address of another one
                // that is only valid there. The loopback interface's own route comes first; it has no priority.
                let loopback = RouteMessageBuilder::<Ipv6Addr>::new()
                    .destination_prefix(Ipv6Addr::LOCALHOST, 128)
                    .output_interface(index)
                    .table_id(LOCAL_TABLE)
                    .kind(RouteType::Local)
                    .priority(index)
                    .build();
                netlink::route(&self.handle, loopback)
                    .await
                    .map_err(LinkError::netlink("route to ::1".to_owned()))?;
            }
        }
        Ok(())
    }

    /// The neighbour and the route to an address of the task.
    async fn lead_to(&self, link: &TaskLink, index: u32, address: IpAddr) -> Result<(), LinkError> {
        let failed = || LinkError::netlink(format!("route to {address}"));
        let route = match address {
            IpAddr::V4(four) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(four, 32)
                .output_interface(index)
                .scope(RouteScope::Link)
                .build(),
            IpAddr::V6(six) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(six, 128)
                .output_interface(index)
                .build(),
        };
        netlink::neighbour(&self.handle, index, address, link.mac)
            .await
            .map_err(failed())?;
        netlink::route(&self.handle, route).await.map_err(failed())
    }

    /// Deletes an interface; one that is gone is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn delete(&self, index: u32) -> Result<(), LinkError> {
        match self.handle.link().del(index).execute().await {
            Err(error) if !matches!(errno(&error), libc::ENODEV | libc::EINVAL) => Err(
                LinkError::netlink(format!("delete interface {index}"))(error),
            ),
            _ => Ok(()),
        }
    }
}

/// `RT_TABLE_MAIN`.
const MAIN_TABLE: u32 = 254;
/// `RT_TABLE_LOCAL`.
const LOCAL_TABLE: u32 = 255;
