//! Lengths, offsets and constants of the headers the programs read and write.

use crate::Addr;

/// Ethernet header.
pub const ETH_LEN: usize = 14;
/// IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// IPv4 header with all the options it can have.
pub const IPV4_LONGEST: usize = 60;
/// IPv6 header without extensions.
pub const IPV6_LEN: usize = 40;
/// UDP header.
pub const UDP_LEN: usize = 8;
/// VXLAN header.
pub const VXLAN_LEN: usize = 8;
/// What VXLAN over IPv4 adds to a packet: outer IPv4, UDP and VXLAN headers, and one more Ethernet header.
pub const OVERHEAD: usize = IPV4_LEN + UDP_LEN + VXLAN_LEN + ETH_LEN;

/// EtherType of IPv4, as it stands in the packet.
pub const ETHERTYPE_IPV4_BE: u16 = 0x0800_u16.to_be();
/// EtherType of IPv6, as it stands in the packet.
pub const ETHERTYPE_IPV6_BE: u16 = 0x86dd_u16.to_be();
/// EtherType of ARP, as it stands in the packet.
pub const ETHERTYPE_ARP_BE: u16 = 0x0806_u16.to_be();

/// IP protocol number.
pub const ICMP: u8 = 1;
/// IP protocol number.
pub const TCP: u8 = 6;
/// IP protocol number.
pub const UDP: u8 = 17;
/// IP protocol number.
pub const ICMPV6: u8 = 58;
/// IP protocol number.
pub const SCTP: u8 = 132;

/// Extension header of IPv6: hop-by-hop options.
pub const V6_HOP_BY_HOP: u8 = 0;
/// Extension header of IPv6: routing.
pub const V6_ROUTING: u8 = 43;
/// Extension header of IPv6: fragment.
pub const V6_FRAGMENT: u8 = 44;
/// Extension header of IPv6: destination options.
pub const V6_DESTINATION: u8 = 60;

/// First byte of an IPv4 header without options.
pub const IPV4_NO_OPTIONS: u8 = 0x45;
/// "More fragments" and the offset: zero in an unfragmented packet.
pub const FRAGMENT_MASK_BE: u16 = 0x3fff_u16.to_be();
/// The offset alone: not zero in all fragments but the first.
pub const FRAGMENT_OFFSET_BE: u16 = 0x1fff_u16.to_be();
/// "Do not fragment".
pub const DONT_FRAGMENT_BE: u16 = 0x4000_u16.to_be();

/// Address of every task's default gateway, as it stands in the packet: 169.254.1.1, on no wire but the task's link.
pub const GATEWAY_BE: u32 = u32::from_ne_bytes([169, 254, 1, 1]);

/// The same in IPv6: fe80::1.
pub const GATEWAY_V6: Addr = Addr {
    words_be: [0xfe80_0000_u32.to_be(), 0, 0, 1_u32.to_be()],
};

/// TTL of outer headers.
pub const OUTER_TTL: u8 = 64;
/// VXLAN flags with a valid VNI.
pub const VXLAN_FLAGS: u8 = 0x08;

/// Outer UDP source port for a flow: from the dynamic range, so that switches and NICs spread flows. Network order.
#[inline(always)]
pub const fn outer_port_be(hash: u32) -> u16 {
    (0xc000 | (hash ^ (hash >> 16)) as u16 & 0x3fff).to_be()
}

/// Whether an IPv4 address, as it stands in the packet, is in 127.0.0.0/8.
#[inline(always)]
pub const fn is_loopback_be(address: u32) -> bool {
    address.to_ne_bytes()[0] == 127
}

/// Whether no host can be the source of a packet from outside with this IPv4 address, as it stands in the packet:
/// "this network", loopback, multicast, reserved (RFC 1812, section 5.3.7).
#[inline(always)]
pub const fn is_martian_be(address: u32) -> bool {
    let first = address.to_ne_bytes()[0];
    first == 0 || first == 127 || first >= 224
}

/// Whether an IPv6 address is in fe80::/10.
#[inline(always)]
pub const fn is_link_local_v6(address: &Addr) -> bool {
    let [a, b, _, _] = address.words_be[0].to_ne_bytes();
    a == 0xfe && b & 0xc0 == 0x80
}

/// Whether no host can be the source of a packet from outside with this IPv6 address: unspecified, loopback, mapped
/// IPv4, multicast; and link-local, to which no other node could reply.
#[inline(always)]
pub const fn is_martian_v6(address: &Addr) -> bool {
    address.words_be[0] == 0
        || address.words_be[0].to_ne_bytes()[0] == 0xff
        || is_link_local_v6(address)
}

/// Outer IPv4, UDP and VXLAN headers, in front of the inner Ethernet header: words as they stand in the packet, which
/// are written nine at a time and not byte by byte.
#[inline(always)]
pub fn tunnel_header(
    src_be: u32,
    dst_be: u32,
    sport_be: u16,
    dport_be: u16,
    vni: u32,
    inner_len: u16,
) -> [u32; 9] {
    let ip_len = inner_len.wrapping_add((IPV4_LEN + UDP_LEN + VXLAN_LEN) as u16);
    let udp_len = inner_len.wrapping_add((UDP_LEN + VXLAN_LEN) as u16);
    let first = u16::from_ne_bytes([IPV4_NO_OPTIONS, 0]);
    let ttl = u16::from_ne_bytes([OUTER_TTL, UDP]);
    let sum = first as u64
        + ip_len.to_be() as u64
        + DONT_FRAGMENT_BE as u64
        + ttl as u64
        + src_be as u64
        + dst_be as u64;
    let check = !crate::checksum::fold(sum);
    [
        pair(first, ip_len.to_be()),
        pair(0, DONT_FRAGMENT_BE),
        pair(ttl, check),
        src_be,
        dst_be,
        pair(sport_be, dport_be),
        pair(udp_len.to_be(), 0),
        u32::from_ne_bytes([VXLAN_FLAGS, 0, 0, 0]),
        (vni << 8).to_be(),
    ]
}

/// Two half words in the order of the packet.
#[inline(always)]
const fn pair(first: u16, second: u16) -> u32 {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnel_header_has_a_right_checksum_and_lengths() {
        let words = tunnel_header(
            u32::from_ne_bytes([192, 168, 0, 1]),
            u32::from_ne_bytes([192, 168, 0, 2]),
            0xc123_u16.to_be(),
            4789_u16.to_be(),
            0x0001_0203,
            100,
        );
        let h = words.map(u32::to_ne_bytes);
        let h = h.as_flattened();
        assert_eq!(crate::checksum::of(&h[..20]), 0);
        assert_eq!(u16::from_be_bytes([h[2], h[3]]), 136);
        assert_eq!(u16::from_be_bytes([h[24], h[25]]), 116);
        assert_eq!(&h[32..35], &[1, 2, 3]);
    }
}
