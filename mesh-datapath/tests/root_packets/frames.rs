//! Frames made with etherparse, so that what the programs compute is held against somebody else's arithmetic.

use std::net::Ipv4Addr;

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Icmpv4Header, Icmpv4Type, IpFragOffset,
    IpNumber, Ipv4Header, TcpHeader, UdpHeader, VlanId,
};
use mesh_common::{checksum, mac_of, node_mac, wire};

use crate::world::{CLIENT_MAC, NODE_MAC, PEER, PEER_MAC};

pub(crate) type Mac = [u8; 6];
pub(crate) type End = (Ipv4Addr, u16);

/// What every payload is, unless said otherwise: an odd number of bytes, which checksums must cope with.
const WORDS: &[u8] = b"some words.";

/// MAC of a task's address.
pub(crate) fn task(address: Ipv4Addr) -> Mac {
    mac_of(u32::from_ne_bytes(address.octets()))
}

/// MAC that names a node on the ingress network.
pub(crate) fn node(address: Ipv4Addr) -> Mac {
    node_mac(u32::from_ne_bytes(address.octets()))
}

#[derive(Debug, Clone)]
enum Above {
    Tcp(Box<TcpHeader>),
    Udp { from: u16, to: u16 },
    Icmp(Icmpv4Type),
    Nothing,
}

/// What the transport checksum is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sum {
    Right,
    Zero,
    /// The pseudo header's, as a sender on this machine leaves it for its device to complete.
    Partial,
}

/// An IPv4 frame that is still being described.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    dmac: Mac,
    smac: Mac,
    tags: Vec<u16>,
    ip: Ipv4Header,
    above: Above,
    sum: Sum,
    payload: Vec<u8>,
}

fn frame(from: Ipv4Addr, to: Ipv4Addr, protocol: IpNumber, above: Above) -> Frame {
    let mut ip =
        Ipv4Header::new(0, 64, protocol, from.octets(), to.octets()).expect("a short packet");
    ip.identification = 7;
    Frame {
        dmac: NODE_MAC,
        smac: CLIENT_MAC,
        tags: Vec::new(),
        ip,
        above,
        sum: Sum::Right,
        payload: WORDS.to_vec(),
    }
}

/// A TCP segment in the middle of a connection.
pub(crate) fn tcp(from: End, to: End) -> Frame {
    let mut header = TcpHeader::new(from.1, to.1, 1000, 4000);
    header.ack = true;
    frame(from.0, to.0, IpNumber::TCP, Above::Tcp(Box::new(header)))
}

/// The first segment of a TCP connection.
pub(crate) fn syn(from: End, to: End) -> Frame {
    tcp(from, to).flags(|tcp| {
        tcp.syn = true;
        tcp.ack = false;
    })
}

/// A UDP datagram.
pub(crate) fn udp(from: End, to: End) -> Frame {
    let above = Above::Udp {
        from: from.1,
        to: to.1,
    };
    frame(from.0, to.0, IpNumber::UDP, above)
}

/// An ICMP message.
pub(crate) fn icmp(from: Ipv4Addr, to: Ipv4Addr, kind: Icmpv4Type) -> Frame {
    frame(from, to, IpNumber::ICMP, Above::Icmp(kind))
}

/// A packet of a protocol without ports.
pub(crate) fn other(from: Ipv4Addr, to: Ipv4Addr, protocol: IpNumber) -> Frame {
    frame(from, to, protocol, Above::Nothing)
}

impl Frame {
    pub(crate) fn macs(mut self, dmac: Mac, smac: Mac) -> Self {
        (self.dmac, self.smac) = (dmac, smac);
        self
    }

    /// Changes the TCP header.
    pub(crate) fn flags(mut self, change: impl FnOnce(&mut TcpHeader)) -> Self {
        if let Above::Tcp(header) = &mut self.above {
            change(header);
        }
        self
    }

    /// Changes the IP header.
    pub(crate) fn ip(mut self, change: impl FnOnce(&mut Ipv4Header)) -> Self {
        change(&mut self.ip);
        self
    }

    /// With IP options: router alert (RFC 2113), `words` times.
    pub(crate) fn options(self, words: usize) -> Self {
        self.ip(|ip| {
            let options = [0x94, 4, 0, 0].repeat(words);
            ip.options = options[..].try_into().expect("at most ten words");
        })
    }

    /// As the fragment at `offset`, in units of eight bytes.
    pub(crate) fn fragment(self, offset: u16, more: bool) -> Self {
        self.ip(|ip| {
            ip.fragment_offset = IpFragOffset::try_new(offset).expect("13 bits");
            ip.more_fragments = more;
            ip.dont_fragment = false;
        })
    }

    /// As a program makes it: without an identification, and free to be fragmented.
    pub(crate) fn unnumbered(self) -> Self {
        self.ip(|ip| (ip.identification, ip.dont_fragment) = (0, false))
    }

    pub(crate) fn payload(mut self, bytes: &[u8]) -> Self {
        self.payload = bytes.to_vec();
        self
    }

    /// With a VLAN tag in front of those it has.
    pub(crate) fn tag(mut self, id: u16) -> Self {
        self.tags.insert(0, id);
        self
    }

    /// Without a transport checksum.
    pub(crate) fn unsummed(mut self) -> Self {
        self.sum = Sum::Zero;
        self
    }

    /// With a transport checksum that a device would have to complete.
    pub(crate) fn partial(mut self) -> Self {
        self.sum = Sum::Partial;
        self
    }

    /// The frame, checksums included.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = [self.dmac, self.smac].concat();
        for tag in &self.tags {
            let id = VlanId::try_new(*tag).expect("12 bits");
            out.extend(EtherType::VLAN_TAGGED_FRAME.0.to_be_bytes());
            out.extend(id.value().to_be_bytes());
        }
        out.extend(EtherType::IPV4.0.to_be_bytes());
        let above = if self.ip.fragment_offset.value() == 0 {
            self.above()
        } else {
            Vec::new()
        };
        let mut ip = self.ip.clone();
        ip.set_payload_len(above.len() + self.payload.len())
            .expect("a short packet");
        ip.write(&mut out).expect("a vector takes all");
        out.extend(above);
        out.extend(&self.payload);
        out
    }

    /// The transport header.
    fn above(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let ip = &self.ip;
        let partial = |length: usize| {
            let [src, dst] = [ip.source, ip.destination].map(u32::from_ne_bytes);
            let length = u16::try_from(length + self.payload.len()).expect("a short packet");
            u16::from_be(checksum::pseudo_v4(src, dst, ip.protocol.0, length))
        };
        let result = match &self.above {
            Above::Tcp(header) => {
                let mut header = header.clone();
                header.checksum = match self.sum {
                    Sum::Right => header.calc_checksum_ipv4(ip, &self.payload).expect("short"),
                    Sum::Zero => 0,
                    Sum::Partial => partial(header.header_len()),
                };
                header.write(&mut out)
            }
            Above::Udp { from, to } => {
                let mut header = UdpHeader::with_ipv4_checksum(*from, *to, ip, &self.payload)
                    .expect("a short packet");
                match self.sum {
                    Sum::Right => {}
                    Sum::Zero => header.checksum = 0,
                    Sum::Partial => header.checksum = partial(UdpHeader::LEN),
                }
                header.write(&mut out)
            }
            Above::Icmp(kind) => {
                Icmpv4Header::with_checksum(kind.clone(), &self.payload).write(&mut out)
            }
            Above::Nothing => Ok(()),
        };
        result.expect("a vector takes all");
        out
    }
}

impl From<Frame> for Vec<u8> {
    fn from(frame: Frame) -> Self {
        frame.bytes()
    }
}

/// `inner` in VXLAN, from one node to another.
pub(crate) fn vxlan(from: Ipv4Addr, to: Ipv4Addr, vni: u32, inner: impl Into<Vec<u8>>) -> Frame {
    let mut payload = vec![8, 0, 0, 0];
    payload.extend((vni << 8).to_be_bytes());
    payload.extend(inner.into());
    let smac = if from == PEER { PEER_MAC } else { CLIENT_MAC };
    udp((from, 50_000), (to, 4789))
        .payload(&payload)
        .macs(NODE_MAC, smac)
        .unsummed()
}

/// An ARP packet in a frame of the same sender. A request goes to everybody.
pub(crate) fn arp(
    operation: ArpOperation,
    (smac, from): (Mac, Ipv4Addr),
    (dmac, to): (Mac, Ipv4Addr),
) -> Vec<u8> {
    let request = operation == ArpOperation::REQUEST;
    let (receiver, target) = if request {
        ([0xff; 6], [0; 6])
    } else {
        (dmac, dmac)
    };
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        operation,
        &smac,
        &from.octets(),
        &target,
        &to.octets(),
    )
    .expect("an ARP packet");
    let mut out = [receiver, smac].concat();
    out.extend(EtherType::ARP.0.to_be_bytes());
    packet.write(&mut out).expect("a vector takes all");
    out
}

/// MAC of every task's gateway.
pub(crate) fn gateway() -> Mac {
    mac_of(wire::GATEWAY_BE)
}
