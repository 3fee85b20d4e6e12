//! Frames made with etherparse, so that what the programs compute is held against somebody else's arithmetic.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Icmpv4Type, IpFragOffset, IpNumber,
    Ipv4Header, TcpHeader, icmpv4::DestUnreachableHeader,
};
use mesh_common::{asked_mac, mac_of, node_mac, wire};

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

/// MAC of the node that was asked, if the reply need not go there.
pub(crate) fn direct(address: Ipv4Addr) -> Mac {
    asked_mac(u32::from_ne_bytes(address.octets()), 1)
}

/// What goes behind the IP header.
#[derive(Debug, Clone)]
pub(crate) enum Above {
    Tcp(Box<TcpHeader>),
    Udp { from: u16, to: u16 },
    Sctp { from: u16, to: u16 },
    Icmp(Icmpv4Type),
    Nothing,
}

/// What the transport checksum is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sum {
    Right,
    Zero,
    /// The pseudo header's, as a sender on this machine leaves it for its device to complete.
    Partial,
}

/// What goes behind that.
#[derive(Debug, Clone)]
pub(crate) enum Payload {
    Bytes(Vec<u8>),
    /// This packet in VXLAN, on this network.
    Tunnel(u32, Box<Packet>),
    /// IP header and eight bytes of a packet. Of a datagram the checksum is the second one's.
    Quote(Box<[Frame; 2]>),
}

/// What a packet has in IPv6 only.
#[derive(Debug, Clone, Default)]
pub(crate) struct OnlyV6 {
    /// Extension headers in front of a fragment's: type and bytes from the third on.
    pub(crate) extensions: Vec<(IpNumber, Vec<u8>)>,
    /// Ends that IPv4 does not have.
    pub(crate) source: Option<Ipv6Addr>,
    pub(crate) destination: Option<Ipv6Addr>,
}

/// A frame that is still being described: IPv4, or the same in IPv6.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) dmac: Mac,
    pub(crate) smac: Mac,
    pub(crate) tags: Vec<u16>,
    pub(crate) ip: Ipv4Header,
    /// There if it is IPv6.
    pub(crate) v6: Option<OnlyV6>,
    pub(crate) above: Above,
    pub(crate) sum: Sum,
    pub(crate) payload: Payload,
}

/// What is given to a program, or comes out.
#[derive(Debug, Clone)]
pub(crate) enum Packet {
    Frame(Frame),
    Bytes(Vec<u8>),
}

impl Packet {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Frame(frame) => frame.bytes(),
            Self::Bytes(bytes) => bytes.clone(),
        }
    }
}

impl From<Frame> for Packet {
    fn from(frame: Frame) -> Self {
        Self::Frame(frame)
    }
}

impl From<Vec<u8>> for Packet {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<&[u8]> for Packet {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
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
        v6: None,
        above,
        sum: Sum::Right,
        payload: Payload::Bytes(WORDS.to_vec()),
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

/// An SCTP packet.
pub(crate) fn sctp(from: End, to: End) -> Frame {
    let above = Above::Sctp {
        from: from.1,
        to: to.1,
    };
    frame(from.0, to.0, IpNumber::SCTP, above)
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
        self.payload = Payload::Bytes(bytes.to_vec());
        self
    }

    /// An error's: the beginning of a packet, whose checksum is that of `seen` if it is a datagram.
    pub(crate) fn quote(mut self, sent: &Self, seen: &Self) -> Self {
        self.payload = Payload::Quote(Box::new([sent.clone(), seen.clone()]));
        self
    }

    /// What the sender hears if nobody is there.
    pub(crate) fn refused(&self) -> Self {
        let (from, to) = (self.ip.destination.into(), self.ip.source.into());
        let answer = match (&self.above, &self.payload) {
            (Above::Tcp(had), Payload::Bytes(data)) => {
                tcp((from, had.destination_port), (to, had.source_port))
                    .flags(|tcp| {
                        tcp.rst = true;
                        tcp.window_size = 0;
                        tcp.ack = !had.ack;
                        (tcp.sequence_number, tcp.acknowledgment_number) = if had.ack {
                            (had.acknowledgment_number, 0)
                        } else {
                            let marks = u32::from(had.syn) + u32::from(had.fin);
                            (0, had.sequence_number + data.len() as u32 + marks)
                        };
                    })
                    .payload(&[])
            }
            _ => icmp(
                from,
                to,
                Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port),
            )
            .quote(self, self),
        };
        answer.macs(self.smac, self.dmac).unnumbered()
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
}

/// `inner` in VXLAN, from one node to another.
pub(crate) fn vxlan(from: Ipv4Addr, to: Ipv4Addr, vni: u32, inner: impl Into<Packet>) -> Frame {
    let smac = if from == PEER { PEER_MAC } else { CLIENT_MAC };
    let mut frame = udp((from, 50_000), (to, 4789))
        .macs(NODE_MAC, smac)
        .unsummed();
    frame.payload = Payload::Tunnel(vni, Box::new(inner.into()));
    frame
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
