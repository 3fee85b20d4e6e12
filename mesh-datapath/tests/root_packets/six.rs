//! Rows in the other protocol: the same packets between the same ends, in IPv6. What IPv4 alone has (ARP, options, the
//! broadcast address) and what is given as bytes has no counterpart.

use std::{collections::BTreeMap, net::Ipv6Addr};

use etherparse::{Icmpv4Type, Icmpv6Type, IpNumber, icmpv4, icmpv6};
use mesh_common::{Addr, FlowKey, Nat};

use crate::{
    common::{INGRESS_V6, LAN_V6, OVERLAY_V6},
    frames::{Above, Frame, Packet, Payload},
    row::Row,
    world::Memory,
};

type Ipv4 = std::net::Ipv4Addr;

/// The IPv6 address of who has this one in the tables.
pub(crate) fn address(address: Ipv4) -> Option<Ipv6Addr> {
    let prefix = match address.octets() {
        [10, 0, 16, _] => OVERLAY_V6,
        [10, 0, 0, _] => INGRESS_V6,
        [192, 0, 2, ..=254] | [203, 0, 113, _] => LAN_V6,
        [127, 0, 0, 1] => return Some(Ipv6Addr::LOCALHOST),
        _ => return None,
    };
    Some(crate::common::six(prefix, address))
}

/// The message that says the same.
pub(crate) fn message(kind: &Icmpv4Type) -> Option<Icmpv6Type> {
    use icmpv4::DestUnreachableHeader as Unreachable;
    Some(match kind {
        Icmpv4Type::EchoRequest(echo) => Icmpv6Type::EchoRequest(*echo),
        Icmpv4Type::EchoReply(echo) => Icmpv6Type::EchoReply(*echo),
        Icmpv4Type::DestinationUnreachable(Unreachable::Port) => {
            Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port)
        }
        Icmpv4Type::DestinationUnreachable(Unreachable::FragmentationNeeded { next_hop_mtu }) => {
            Icmpv6Type::PacketTooBig {
                mtu: u32::from(*next_hop_mtu),
            }
        }
        Icmpv4Type::TimeExceeded(_) => {
            Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded)
        }
        _ => return None,
    })
}

impl Frame {
    /// The same in IPv6. A tunnel stays one over IPv4.
    pub(crate) fn six(&self) -> Option<Self> {
        let mut frame = self.clone();
        frame.payload = match &self.payload {
            Payload::Bytes(bytes) => Payload::Bytes(bytes.clone()),
            Payload::Tunnel(vni, inner) => {
                frame.payload = Payload::Tunnel(*vni, Box::new(inner.six()?));
                return Some(frame);
            }
            Payload::Quote(frames) => {
                let [sent, seen] = frames.each_ref().map(Self::six);
                Payload::Quote(Box::new([sent?, seen?]))
            }
        };
        let only = self.v6.clone().unwrap_or_default();
        only.source.or_else(|| address(self.ip.source.into()))?;
        only.destination
            .or_else(|| address(self.ip.destination.into()))?;
        if let Above::Icmp(kind) = &self.above {
            message(kind)?;
        }
        if !self.ip.options.is_empty() {
            return None;
        }
        frame.v6 = Some(only);
        Some(frame)
    }

    /// In IPv6, from this address.
    pub(crate) fn with_source_v6(mut self, source: Ipv6Addr) -> Self {
        self.v6.get_or_insert_default().source = Some(source);
        self
    }

    /// In IPv6, to this address.
    pub(crate) fn with_destination_v6(mut self, destination: Ipv6Addr) -> Self {
        self.v6.get_or_insert_default().destination = Some(destination);
        self
    }

    /// In IPv6, with one more extension header, of `eights` times eight bytes.
    pub(crate) fn extension(mut self, kind: IpNumber, eights: usize) -> Self {
        let extensions = &mut self.v6.get_or_insert_default().extensions;
        extensions.push((kind, vec![0; eights * 8 - 2]));
        self
    }
}

impl Packet {
    pub(crate) fn six(&self) -> Option<Self> {
        match self {
            Self::Frame(frame) => frame.six().map(Self::Frame),
            Self::Bytes(_) => None,
        }
    }
}

impl Memory {
    pub(crate) fn six(&self) -> Option<Self> {
        let flows = self.flows.iter().map(|(key, nat)| {
            let nat = Nat {
                src: map_address(nat.src)?,
                dst: map_address(nat.dst)?,
                ..*nat
            };
            Some((map_key(key)?, nat))
        });
        let conns = self.conns.iter();
        let fragments = self.fragments.iter();
        Some(Self {
            flows: flows.collect::<Option<BTreeMap<_, _>>>()?,
            fragments: fragments
                .map(|(key, fragment)| Some((map_key(key)?, *fragment)))
                .collect::<Option<BTreeMap<_, _>>>()?,
            conns: conns
                .map(|(key, backend)| Some((map_key(key)?, *backend)))
                .collect::<Option<BTreeMap<_, _>>>()?,
        })
    }
}

fn map_key(key: &FlowKey) -> Option<FlowKey> {
    Some(FlowKey {
        src: map_address(key.src)?,
        dst: map_address(key.dst)?,
        ..*key
    })
}

fn map_address(of: Addr) -> Option<Addr> {
    if !of.is_v4() {
        return Some(of);
    }
    let address = address(of.low_be().to_ne_bytes().into())?;
    Some(Addr::v6(address.octets()))
}

/// These rows in IPv6, as far as there are such packets.
pub(crate) fn six(rows: Vec<Row>) -> Vec<Row> {
    rows.iter().filter_map(Row::six).collect()
}
