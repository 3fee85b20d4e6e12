//! Two routers in the midst of a LAN, and between them a wire that takes smaller packets than all others.

use std::net::Ipv4Addr;

use super::{Lan, Ns, pair::N2, sh};

/// Their addresses, which errors come from.
const ADDRESSES: [Ipv4Addr; 2] = [
    Ipv4Addr::new(192, 168, 77, 251),
    Ipv4Addr::new(192, 168, 77, 252),
];

/// The routers, and the part of the LAN that is behind them.
pub(crate) struct Routers {
    routers: [Ns; 2],
    pub(crate) beyond: Lan,
}

impl Routers {
    /// Behind them is the second node, whose address they answer for on the other side, as they do for all others on its
    /// side. Packets of more than `mtu` bytes are answered.
    pub(crate) fn new(lan: &Lan, mtu: u32, wire: bool) -> Self {
        let (beyond, routers) = (Lan::new(), [Ns::new("r1"), Ns::new("r2")]);
        for (n, side) in [lan, &beyond].into_iter().enumerate() {
            side.join(&routers[n], &format!("p-r{n}"), ADDRESSES[n], wire);
        }
        let [near, far] = &routers;
        sh(&format!(
            "ip -n {} link add mid type veth peer name mid netns {}",
            near.0, far.0
        ));
        for router in &routers {
            router.sh("ip link set mid up");
            router.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0");
            router
                .sh("sysctl -qw net.ipv4.conf.all.proxy_arp=1 net.ipv4.conf.all.send_redirects=0");
        }
        near.sh(&format!("ip route add {N2}/32 dev mid"));
        far.sh("ip route add 192.168.77.0/25 dev mid");
        far.sh(&format!("ip route add {N2}/32 dev eth0"));
        let this = Self { routers, beyond };
        this.narrow(mtu);
        this
    }

    /// From now on packets of more than `mtu` bytes are answered.
    pub(crate) fn narrow(&self, mtu: u32) {
        for router in &self.routers {
            router.sh(&format!("ip link set mid mtu {mtu}"));
        }
    }
}
