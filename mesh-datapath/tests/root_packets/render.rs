//! Frames as bytes, checksums included.

use etherparse::{EtherType, Icmpv4Header, Icmpv6Header, IpNumber, Ipv6Header, UdpHeader, VlanId};
use mesh_common::{Addr, checksum, crc, wire};

use crate::{
    frames::{Above, Frame, OnlyV6, Payload, Sum},
    six,
};

impl Frame {
    /// The frame, checksums included.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = [self.dmac, self.smac].concat();
        for tag in &self.tags {
            let id = VlanId::try_new(*tag).expect("12 bits");
            out.extend(EtherType::VLAN_TAGGED_FRAME.0.to_be_bytes());
            out.extend(id.value().to_be_bytes());
        }
        let payload = self.payload.bytes();
        let above = if self.ip.fragment_offset.value() == 0 {
            self.above(&payload)
        } else {
            Vec::new()
        };
        let rest = [above, payload].concat();
        match &self.v6 {
            None => {
                out.extend(EtherType::IPV4.0.to_be_bytes());
                let mut ip = self.ip.clone();
                ip.set_payload_len(rest.len()).expect("a short packet");
                ip.write(&mut out).expect("a vector takes all");
            }
            Some(v6) => {
                out.extend(EtherType::IPV6.0.to_be_bytes());
                self.ipv6(&mut out, v6, rest.len());
            }
        }
        out.extend(rest);
        out
    }

    /// The IPv6 header and what follows before the transport's.
    fn ipv6(&self, out: &mut Vec<u8>, v6: &OnlyV6, rest: usize) {
        let (offset, more) = (self.ip.fragment_offset.value(), self.ip.more_fragments);
        let mut extensions = v6.extensions.clone();
        if offset != 0 || more {
            // Not by etherparse, which puts the flag into the wrong bit.
            let field = (offset << 3 | u16::from(more)).to_be_bytes();
            let identification = u32::from(self.ip.identification).to_be_bytes();
            let body = [&field[..], &identification].concat();
            extensions.push((IpNumber::IPV6_FRAGMENTATION_HEADER, body));
        }
        let length: usize = extensions.iter().map(|(_, body)| 2 + body.len()).sum();
        let nexts = extensions.iter().skip(1).map(|(kind, _)| *kind);
        let mut header = self.ipv6_header();
        if let Some((first, _)) = extensions.first() {
            header.next_header = *first;
        }
        header
            .set_payload_length(length + rest)
            .expect("a short packet");
        header.write(out).expect("a vector takes all");
        for ((kind, body), next) in extensions.iter().zip(nexts.chain([self.protocol()])) {
            let eights = match *kind {
                IpNumber::IPV6_FRAGMENTATION_HEADER => 0,
                _ => (body.len() / 8) as u8,
            };
            out.extend([next.0, eights]);
            out.extend(body);
        }
    }

    fn ipv6_header(&self) -> Ipv6Header {
        let [source, destination] = self.ends_v6();
        Ipv6Header {
            next_header: self.protocol(),
            hop_limit: self.ip.time_to_live,
            source: source.octets(),
            destination: destination.octets(),
            ..Ipv6Header::default()
        }
    }

    fn ends_v6(&self) -> [std::net::Ipv6Addr; 2] {
        let end = |only: fn(&OnlyV6) -> Option<std::net::Ipv6Addr>, address: [u8; 4]| {
            let mapped = || six::address(address.into()).expect("it has been converted");
            self.v6.as_ref().and_then(only).unwrap_or_else(mapped)
        };
        [
            end(|v6| v6.source, self.ip.source),
            end(|v6| v6.destination, self.ip.destination),
        ]
    }

    fn protocol(&self) -> IpNumber {
        if self.v6.is_some() && self.ip.protocol == IpNumber::ICMP {
            IpNumber::IPV6_ICMP
        } else {
            self.ip.protocol
        }
    }

    /// Sum of the pseudo header of a packet with so many bytes behind the IP header.
    fn pseudo(&self, length: usize) -> u16 {
        let length = u16::try_from(length).expect("a short packet");
        let protocol = self.protocol().0;
        u16::from_be(if self.v6.is_some() {
            let [src, dst] = self.ends_v6().map(|address| Addr::v6(address.octets()));
            checksum::pseudo_v6(&src, &dst, protocol, length)
        } else {
            let [src, dst] = [self.ip.source, self.ip.destination].map(u32::from_ne_bytes);
            checksum::pseudo_v4(src, dst, protocol, length)
        })
    }

    /// The transport header.
    fn above(&self, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let result = match &self.above {
            Above::Tcp(header) => {
                let mut header = header.clone();
                header.checksum = match (self.sum, &self.v6) {
                    (Sum::Right, None) => header.calc_checksum_ipv4(&self.ip, payload),
                    (Sum::Right, Some(_)) => {
                        header.calc_checksum_ipv6(&self.ipv6_header(), payload)
                    }
                    (Sum::Zero, _) => Ok(0),
                    (Sum::Partial, _) => Ok(self.pseudo(header.header_len() + payload.len())),
                }
                .expect("short");
                header.write(&mut out)
            }
            Above::Udp { from, to } => {
                let mut header = if self.v6.is_some() {
                    UdpHeader::with_ipv6_checksum(*from, *to, &self.ipv6_header(), payload)
                } else {
                    UdpHeader::with_ipv4_checksum(*from, *to, &self.ip, payload)
                }
                .expect("a short packet");
                match self.sum {
                    Sum::Right => {}
                    Sum::Zero => header.checksum = 0,
                    Sum::Partial => header.checksum = self.pseudo(UdpHeader::LEN + payload.len()),
                }
                header.write(&mut out)
            }
            Above::Sctp { from, to } => {
                let tag = 0x1234_5678_u32.to_be_bytes();
                let header = [&from.to_be_bytes()[..], &to.to_be_bytes(), &tag].concat();
                let whole = [&header, &[0; 4][..], payload].concat();
                let check = match self.sum {
                    Sum::Right => crc::of(&whole),
                    // A device that is to complete it finds nothing there.
                    Sum::Zero | Sum::Partial => 0,
                };
                out.extend(header);
                out.extend(check.to_le_bytes());
                Ok(())
            }
            Above::Icmp(kind) if self.v6.is_some() => {
                let kind = six::message(kind).expect("it has been converted");
                let [src, dst] = self.ends_v6().map(|address| address.octets());
                Icmpv6Header::with_checksum(kind, src, dst, payload)
                    .expect("a short packet")
                    .write(&mut out)
            }
            Above::Icmp(kind) => Icmpv4Header::with_checksum(kind.clone(), payload).write(&mut out),
            Above::Nothing => Ok(()),
        };
        result.expect("a vector takes all");
        out
    }
}

impl Payload {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Tunnel(vni, inner) => {
                let mut out = vec![wire::VXLAN_FLAGS, 0, 0, 0];
                out.extend((vni << 8).to_be_bytes());
                out.extend(inner.bytes());
                out
            }
            Self::Quote(frames) => {
                let [sent, seen] = frames.each_ref().map(Frame::bytes);
                let header = if sent[12] == 8 {
                    wire::IPV4_LEN
                } else {
                    wire::IPV6_LEN
                };
                let l4 = wire::ETH_LEN + header;
                let mut quote = sent[wire::ETH_LEN..l4 + 8].to_vec();
                if frames[0].ip.protocol == IpNumber::UDP {
                    quote[header + 6..].copy_from_slice(&seen[l4 + 6..l4 + 8]);
                }
                quote
            }
        }
    }
}
