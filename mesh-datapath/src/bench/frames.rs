//! Packets as they come to a program.

use std::net::IpAddr;

use mesh_common::{Addr, checksum, wire};

use super::world::{NODE, PEER};
use crate::Mac;

/// TCP flags.
pub(super) const SYN: u8 = 0x02;
pub(super) const ACK: u8 = 0x10;

/// A packet's ends, each an address and a port.
pub(super) type Ends = [(IpAddr, u16); 2];

/// A frame with 64 bytes of payload: from and to these MACs and these ends.
pub(super) fn frame(
    [smac, dmac]: [Mac; 2],
    [from, to]: Ends,
    (protocol, flags): (u8, u8),
) -> Vec<u8> {
    let mut l4 = Vec::new();
    l4.extend(from.1.to_be_bytes());
    l4.extend(to.1.to_be_bytes());
    let check_at = if protocol == wire::TCP {
        l4.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        16
    } else {
        l4.extend([0, 72, 0, 0]);
        6
    };
    l4.extend([0x5a; 64]);
    let (ethertype, header, pseudo) = header(from.0, to.0, protocol, l4.len() as u16);
    let check = !checksum::fold(u64::from(pseudo) + u64::from(!checksum::of(&l4)));
    l4[check_at..check_at + 2].copy_from_slice(&check.to_ne_bytes());
    let mut frame = [dmac, smac].concat();
    frame.extend(ethertype.to_ne_bytes());
    frame.extend(header);
    frame.extend(l4);
    frame
}

/// Ethertype, as it stands in the frame, IP header, and sum of the pseudo header.
fn header(from: IpAddr, to: IpAddr, protocol: u8, length: u16) -> (u16, Vec<u8>, u16) {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let (src, dst) = (from.octets(), to.octets());
            let mut header = vec![wire::IPV4_NO_OPTIONS, 0];
            header.extend((wire::IPV4_LEN as u16 + length).to_be_bytes());
            header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            header.extend(src);
            header.extend(dst);
            let check = checksum::of(&header).to_ne_bytes();
            header[10..12].copy_from_slice(&check);
            let [src, dst] = [src, dst].map(u32::from_ne_bytes);
            let pseudo = checksum::pseudo_v4(src, dst, protocol, length);
            (wire::ETHERTYPE_IPV4_BE, header, pseudo)
        }
        (from, to) => {
            let [src, dst] = [from, to].map(|address| match address {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            });
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(length.to_be_bytes());
            header.extend([protocol, 64]);
            header.extend(src);
            header.extend(dst);
            let pseudo = checksum::pseudo_v6(&Addr::v6(src), &Addr::v6(dst), protocol, length);
            (wire::ETHERTYPE_IPV6_BE, header, pseudo)
        }
    }
}

/// A frame from the peer's tunnel.
pub(super) fn tunnel(vni: u32, inner: &[u8]) -> Vec<u8> {
    let header = wire::tunnel_header(
        u32::from_ne_bytes(PEER.octets()),
        u32::from_ne_bytes(NODE.octets()),
        wire::outer_port_be(1),
        crate::DEFAULT_VXLAN_PORT.to_be(),
        vni,
        inner.len() as u16,
    );
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(wire::ETHERTYPE_IPV4_BE.to_ne_bytes());
    frame.extend(header.map(u32::to_ne_bytes).as_flattened());
    frame.extend(inner);
    frame
}
