//! One Ethernet segment: a bridge in a namespace of its own, and a veth pair to each member.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
};

use anyhow::Result;

use crate::netns::NetNs;

/// Name of the LAN interface inside each member.
pub const UPLINK: &str = "lan0";

/// The address on the LAN, a /24, with this last byte.
pub fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 77, last)
}

/// The IPv6 address on the LAN that goes with an IPv4 one: the same last byte, in a /64 of its own.
pub fn v6(address: Ipv4Addr) -> Ipv6Addr {
    let [.., last] = address.octets();
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, last.into())
}

/// What the veth pairs behave like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cable {
    /// A wire and its NIC: native XDP programs of the members can send back what they receive. The bridge's end has
    /// GRO on, because a veth takes frames from its peer's XDP program only with NAPI; and it computes
    /// checksums, as a wire carries complete ones: a frame that an XDP program sends on has no other chance
    /// to get its checksum.
    #[default]
    Wire,
    /// As the kernel makes them: large segments and checksums are left to a receiver on the same machine.
    Veth,
}

/// One Ethernet segment.
#[derive(Debug)]
pub struct Lan {
    ns: NetNs,
}

impl Lan {
    /// Makes the bridge in a namespace of the given name.
    ///
    /// # Errors
    /// When the name is taken or we are not root.
    pub fn new(name: &str) -> Result<Self> {
        let ns = NetNs::new(name)?;
        // No snooping and no spanning tree: a port forwards at once.
        ns.sh(&[
            "ip",
            "link",
            "add",
            "br0",
            "type",
            "bridge",
            "mcast_snooping",
            "0",
        ])?;
        ns.sh(&["ip", "link", "set", "br0", "up"])?;
        let filter = ["arptables", "iptables", "ip6tables"]
            .map(|table| format!("/proc/sys/net/bridge/bridge-nf-call-{table}"));
        ns.enter(|| {
            // A switch has no netfilter. The files are there once some program has loaded br_netfilter.
            for file in filter.iter().filter(|file| Path::new(file).exists()) {
                std::fs::write(file, "0")?;
            }
            Ok(())
        })?;
        Ok(Self { ns })
    }

    /// The namespace that holds the bridge.
    pub fn ns(&mut self) -> &mut NetNs {
        &mut self.ns
    }

    /// Runs a command where the bridge is.
    ///
    /// # Errors
    /// When it cannot be started or fails.
    pub fn sh(&self, argv: &[&str]) -> Result<()> {
        self.ns.sh(argv).map(drop)
    }

    /// Plugs a namespace in as [`UPLINK`] with this address and its IPv6 one. `port` names the bridge's end.
    ///
    /// # Errors
    /// When a link cannot be made.
    pub fn join(&self, member: &NetNs, port: &str, address: Ipv4Addr, cable: Cable) -> Result<()> {
        self.ns.sh(&[
            "ip",
            "link",
            "add",
            port,
            "type",
            "veth",
            "peer",
            "name",
            UPLINK,
            "netns",
            member.name(),
        ])?;
        self.ns
            .sh(&["ip", "link", "set", port, "master", "br0", "up"])?;
        if cable == Cable::Wire {
            self.ns
                .sh(&["ethtool", "-K", port, "gro", "on", "tx", "off"])?;
        }
        member.sh(&["ip", "addr", "add", &format!("{address}/24"), "dev", UPLINK])?;
        let six = format!("{}/64", v6(address));
        member.sh(&["ip", "addr", "add", &six, "dev", UPLINK, "nodad"])?;
        member.sh(&["ip", "link", "set", UPLINK, "up"])?;
        Ok(())
    }

    /// Pulls the plug of a port, or puts it back.
    ///
    /// # Errors
    /// When there is no such port.
    pub fn plug(&self, port: &str, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        self.sh(&["ip", "link", "set", port, state])
    }
}
