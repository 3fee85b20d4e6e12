//! The pure parts against etherparse, which reads and computes the same by itself.

use std::net::Ipv4Addr;

use etherparse::{
    Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv4HeaderSlice, NetSlice, PacketBuilder,
    SlicedPacket, TcpHeader, TransportSlice, UdpHeader,
};
use mesh_common::{Addr, checksum, flow_hash, mac_of, node_mac, port_bit, slot_of, wire};
use proptest::prelude::*;

type Octets = [u8; 4];
type Port = u16;
/// Addresses and ports of a segment.
type Ends = (Octets, Octets, Port, Port);

fn word(address: Octets) -> u32 {
    u32::from_ne_bytes(address)
}

/// `check` after an address has changed.
fn readdress(check: u16, old: Octets, new: Octets) -> u16 {
    let halves = |a: Octets| [[a[0], a[1]], [a[2], a[3]]].map(u16::from_ne_bytes);
    let pairs = halves(old).into_iter().zip(halves(new));
    pairs.fold(check, |check, (old, new)| checksum::update(check, old, new))
}

/// The two zeros of ones' complement mean the same.
fn same_sum(a: u16, b: u16) -> bool {
    a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0)
}

fn header(from: Octets, to: Octets, payload: usize, protocol: IpNumber) -> Ipv4Header {
    let payload = u16::try_from(payload).expect("a short packet");
    Ipv4Header::new(payload, 64, protocol, from, to).expect("a short packet")
}

/// The checksums of a segment, as they stand in the packet: IP's and TCP's.
fn sums((from, to, sport, dport): Ends, payload: &[u8]) -> (u16, u16) {
    let tcp = TcpHeader::new(sport, dport, 7, 9);
    let ip = header(from, to, tcp.header_len() + payload.len(), IpNumber::TCP);
    let check = tcp.calc_checksum_ipv4(&ip, payload).expect("short");
    (ip.calc_header_checksum().to_be(), check.to_be())
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..most)
}

proptest! {
    #[test]
    fn checksum_of_a_header(from: Octets, to: Octets, ttl: u8, id: u16, length in 0..60_000_usize) {
        let mut ip = header(from, to, length, IpNumber::UDP);
        (ip.time_to_live, ip.identification, ip.header_checksum) = (ttl, id, 0);
        prop_assert_eq!(checksum::of(&ip.to_bytes()), ip.calc_header_checksum().to_be());
    }

    #[test]
    fn checksum_of_a_segment(ends: Ends, payload in bytes(200)) {
        let (from, to, sport, dport) = ends;
        let segment = [&TcpHeader::new(sport, dport, 7, 9).to_bytes()[..], &payload].concat();
        let pseudo = checksum::pseudo_v4(word(from), word(to), wire::TCP, segment.len() as u16);
        let check = !checksum::fold(u64::from(pseudo) + u64::from(!checksum::of(&segment)));
        prop_assert_eq!(check, sums(ends, &payload).1);
    }

    #[test]
    fn translated_segments_have_right_checksums(old: Ends, new: Ends, payload in bytes(100)) {
        let (ip, tcp) = sums(old, &payload);
        let addresses = |check| readdress(readdress(check, old.0, new.0), old.1, new.1);
        let port = |check, old: Port, new: Port| checksum::update(check, old.to_be(), new.to_be());
        let tcp = port(port(addresses(tcp), old.2, new.2), old.3, new.3);
        let wanted = sums(new, &payload);
        prop_assert!(same_sum(addresses(ip), wanted.0), "IP");
        prop_assert!(same_sum(tcp, wanted.1), "TCP");
    }

    #[test]
    fn an_update_and_its_opposite_change_nothing(check: u16, old: u16, new: u16) {
        let there = checksum::update(check, old, new);
        prop_assert!(same_sum(checksum::update(there, new, old), check));
    }

    #[test]
    fn others_read_our_tunnel_headers(
        from: Octets, to: Octets, hash: u32, port: Port, vni in 0_u32..1 << 24, inner in bytes(300),
    ) {
        let length = u16::try_from(inner.len()).expect("short");
        let sport = wire::outer_port_be(hash);
        let words = wire::tunnel_header(word(from), word(to), sport, port.to_be(), vni, length);
        let header = words.map(u32::to_ne_bytes);
        let header = header.as_flattened();
        prop_assert_eq!(wire::OVERHEAD, header.len() + wire::ETH_LEN);
        let packet = [header, &inner].concat();
        let sliced = SlicedPacket::from_ip(&packet).expect("a packet");
        let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("not IPv4") };
        let ip = ip.header().to_header();
        prop_assert_eq!((ip.source, ip.destination), (from, to));
        prop_assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        prop_assert!(ip.dont_fragment && !ip.more_fragments && ip.options.is_empty());
        prop_assert_eq!(usize::from(ip.total_len), packet.len());
        let Some(TransportSlice::Udp(udp)) = &sliced.transport else { panic!("not UDP") };
        prop_assert_eq!((udp.destination_port(), udp.checksum()), (port, 0));
        prop_assert!(udp.source_port() >= 49_152);
        prop_assert_eq!(usize::from(udp.length()), 16 + inner.len());
        let vxlan = [[8, 0, 0, 0], (vni << 8).to_be_bytes()].concat();
        prop_assert_eq!(udp.payload(), [&vxlan[..], &inner].concat());
    }

    #[test]
    fn headers_are_where_the_constants_say(
        from: Octets, to: Octets, ports: (Port, Port), offset in 0_u16..1 << 13, more: bool,
        options in 0..=10_usize,
    ) {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv4(from, to, 64)
            .udp(ports.0, ports.1)
            .write(&mut frame, b"x")
            .expect("a vector takes all");
        prop_assert_eq!(wire::ETH_LEN, Ethernet2Header::LEN);
        prop_assert_eq!(&frame[12..14], wire::ETHERTYPE_IPV4_BE.to_ne_bytes());
        let ip = Ipv4HeaderSlice::from_slice(&frame[wire::ETH_LEN..]).expect("IPv4");
        let udp = UdpHeader::from_slice(&frame[wire::ETH_LEN + wire::IPV4_LEN..]).expect("UDP").0;
        prop_assert_eq!((udp.source_port, udp.destination_port), ports);
        prop_assert_eq!((wire::IPV4_LEN, wire::UDP_LEN), (Ipv4Header::MIN_LEN, UdpHeader::LEN));
        prop_assert_eq!(wire::IPV4_LONGEST, Ipv4Header::MAX_LEN);

        let mut ip = ip.to_header();
        ip.more_fragments = more;
        ip.fragment_offset = IpFragOffset::try_new(offset).expect("13 bits");
        ip.options = [1_u8; 40][..options * 4].try_into().expect("whole words");
        let bytes = ip.to_bytes();
        prop_assert_eq!(bytes[0] == wire::IPV4_NO_OPTIONS, options == 0);
        let fragment = u16::from_ne_bytes([bytes[6], bytes[7]]);
        prop_assert_eq!(fragment & wire::FRAGMENT_MASK_BE != 0, ip.is_fragmenting_payload());
        prop_assert_eq!(fragment & wire::FRAGMENT_OFFSET_BE != 0, offset != 0);
        prop_assert_eq!(fragment & wire::DONT_FRAGMENT_BE != 0, ip.dont_fragment);
    }

    #[test]
    fn addresses_are_kept(short: Octets, long: [u8; 16]) {
        let (v4, v6) = (Ipv4Addr::from(short), std::net::Ipv6Addr::from(long));
        prop_assert_eq!(Addr::v4(short).octets(), v4.to_ipv6_mapped().octets());
        prop_assert_eq!(Addr::v4(short).low_be(), word(short));
        prop_assert_eq!(Addr::v6(long).octets(), long);
        prop_assert_eq!(Addr::v6(long).is_v4(), v6.to_ipv4_mapped().is_some());
        prop_assert_eq!(&mac_of(word(short))[2..], short);
        prop_assert_ne!(mac_of(word(short)), node_mac(word(short)));
    }

    #[test]
    fn martians_are_what_std_says(first: u8, rest: [u8; 3]) {
        let octets = [first, rest[0], rest[1], rest[2]];
        let ip = Ipv4Addr::from(octets);
        // 240.0.0.0/4, reserved, ends in the broadcast address; 0.0.0.0/8 is "this network".
        let martian = ip.is_loopback() || ip.is_multicast() || first >= 240 || first == 0;
        prop_assert_eq!(wire::is_martian_be(word(octets)), martian);
        prop_assert_eq!(wire::is_loopback_be(word(octets)), ip.is_loopback());
    }

    #[test]
    fn port_bits_are_told_apart(a: Port, b: Port) {
        prop_assert_eq!(port_bit(wire::TCP, a) == port_bit(wire::TCP, b), a == b);
        prop_assert_ne!(port_bit(wire::TCP, a).0, port_bit(wire::UDP, b).0);
        prop_assert_eq!(port_bit(wire::UDP, a).1.count_ones(), 1);
    }

    /// Neighbouring clients and ports spread over any number of slots, within six standard deviations.
    #[test]
    fn flows_spread(client: u32, server: u32, slots in 2_u32..64) {
        let mut shares = vec![0_u32; slots as usize];
        for i in 0..8192_u32 {
            let client = client.wrapping_add(i / 256).to_be();
            let port = 32_768 + (i % 256) as u16;
            let hash = flow_hash(client, server, port.to_be(), 80_u16.to_be(), wire::TCP);
            shares[slot_of(hash, slots) as usize] += 1;
        }
        let mean = 8192.0 / f64::from(slots);
        for share in shares {
            prop_assert!((f64::from(share) - mean).abs() < 6.0 * mean.sqrt(), "{share} of {mean}");
        }
    }
}
