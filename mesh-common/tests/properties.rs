//! The pure parts against etherparse and crc, which read and compute the same by themselves.

use std::net::Ipv4Addr;

use crc::{CRC_32_ISCSI, Crc};
use etherparse::{
    Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv4HeaderSlice, Ipv6Header, NetSlice,
    PacketBuilder, SlicedPacket, TcpHeader, TransportSlice, UdpHeader,
};
use mesh_common::{
    Addr, checksum, crc as sctp, flow_hash, mac_of, node_mac, port_bit, slot_of, wire,
};
use proptest::prelude::*;

type Octets = [u8; 4];
type Port = u16;
/// Addresses and ports of a segment.
type Ends = (Octets, Octets, Port, Port);
/// The same of IPv6.
type LongEnds = ([u8; 16], [u8; 16], Port, Port);

fn word(address: Octets) -> u32 {
    u32::from_ne_bytes(address)
}

/// `check` after an address has changed.
fn readdress(check: u16, old: Octets, new: Octets) -> u16 {
    let halves = |a: Octets| [[a[0], a[1]], [a[2], a[3]]].map(u16::from_ne_bytes);
    let pairs = halves(old).into_iter().zip(halves(new));
    pairs.fold(check, |check, (old, new)| checksum::update(check, old, new))
}

/// `check` after the ends of a packet of IPv6 have changed: addresses by their sums, as the programs do it.
fn change_ends(check: u16, old: LongEnds, new: LongEnds) -> u16 {
    let sum = |address| checksum::fold(checksum::sum_v6(&Addr::v6(address)));
    [
        (sum(old.0), sum(new.0)),
        (sum(old.1), sum(new.1)),
        (old.2.to_be(), new.2.to_be()),
        (old.3.to_be(), new.3.to_be()),
    ]
    .into_iter()
    .fold(check, |check, (old, new)| checksum::update(check, old, new))
}

/// The checksum of a datagram that computes to this one: zero would say that there is none (RFC 768).
fn datagram_sum(check: u16) -> u16 {
    if check == 0 { 0xffff } else { check }
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

/// The checksums over IPv6, as they stand in the packet: a segment's and a datagram's.
fn sums_v6((from, to, sport, dport): LongEnds, payload: &[u8]) -> (u16, u16) {
    let ip = Ipv6Header {
        source: from,
        destination: to,
        ..Ipv6Header::default()
    };
    let tcp = TcpHeader::new(sport, dport, 7, 9);
    let segment = tcp.calc_checksum_ipv6(&ip, payload).expect("short");
    let udp = UdpHeader::with_ipv6_checksum(sport, dport, &ip, payload).expect("short");
    (segment.to_be(), udp.checksum.to_be())
}

/// A datagram's over IPv4.
fn datagram_v4((from, to, sport, dport): Ends, payload: &[u8]) -> u16 {
    let ip = header(from, to, UdpHeader::LEN + payload.len(), IpNumber::UDP);
    let udp = UdpHeader::with_ipv4_checksum(sport, dport, &ip, payload).expect("short");
    udp.checksum.to_be()
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
    fn checksum_of_a_segment_over_ipv6(ends: LongEnds, payload in bytes(200)) {
        let (from, to, sport, dport) = ends;
        let segment = [&TcpHeader::new(sport, dport, 7, 9).to_bytes()[..], &payload].concat();
        let (from, to) = (Addr::v6(from), Addr::v6(to));
        let pseudo = checksum::pseudo_v6(&from, &to, wire::TCP, segment.len() as u16);
        let check = !checksum::fold(u64::from(pseudo) + u64::from(!checksum::of(&segment)));
        prop_assert_eq!(check, sums_v6(ends, &payload).0);
    }

    #[test]
    fn translated_over_ipv6_checksums_are_right(
        old: LongEnds, new: LongEnds, payload in bytes(100),
    ) {
        let ((segment, datagram), wanted) = (sums_v6(old, &payload), sums_v6(new, &payload));
        prop_assert!(same_sum(change_ends(segment, old, new), wanted.0), "TCP");
        prop_assert_eq!(datagram_sum(change_ends(datagram, old, new)), wanted.1, "UDP");
    }

    #[test]
    fn translated_datagrams_have_right_checksums(old: Ends, new: Ends, payload in bytes(100)) {
        let port = |check, old: Port, new: Port| checksum::update(check, old.to_be(), new.to_be());
        let check = datagram_v4(old, &payload);
        let check = readdress(readdress(check, old.0, new.0), old.1, new.1);
        let check = port(port(check, old.2, new.2), old.3, new.3);
        prop_assert_eq!(datagram_sum(check), datagram_v4(new, &payload));
    }

    /// Two bytes of payload that make the translated datagram's sum zero, which is sent as all ones.
    #[test]
    fn datagrams_whose_sum_becomes_zero(
        old: (Ends, LongEnds), new: (Ends, LongEnds), rest in bytes(100),
    ) {
        let port = |check, old: Port, new: Port| checksum::update(check, old.to_be(), new.to_be());
        let with = |word: u16| [&word.to_ne_bytes()[..], &rest].concat();
        let zero = with(datagram_v4(new.0, &with(0)));
        let check = datagram_v4(old.0, &zero);
        let check = readdress(readdress(check, old.0.0, new.0.0), old.0.1, new.0.1);
        let check = port(port(check, old.0.2, new.0.2), old.0.3, new.0.3);
        prop_assert_eq!(datagram_v4(new.0, &zero), 0xffff);
        prop_assert_eq!(datagram_sum(check), 0xffff);

        let zero = with(sums_v6(new.1, &with(0)).1);
        prop_assert_eq!(sums_v6(new.1, &zero).1, 0xffff);
        let check = change_ends(sums_v6(old.1, &zero).1, old.1, new.1);
        prop_assert_eq!(datagram_sum(check), 0xffff);
    }

    #[test]
    fn checksum_of_sctp(packet in bytes(2000)) {
        prop_assert_eq!(sctp::of(&packet), Crc::<u32>::new(&CRC_32_ISCSI).checksum(&packet));
    }

    #[test]
    fn translated_sctp_packets_have_right_checksums(
        ports: Octets, filler: [u8; 13], length in 12..=65_515_usize,
    ) {
        let mut packet: Vec<u8> = filler.into_iter().cycle().take(length).collect();
        let reference = |packet: &[u8]| Crc::<u32>::new(&CRC_32_ISCSI).checksum(packet);
        // A checksum is computed with itself zero.
        packet[8..12].fill(0);
        let (check, old) = (reference(&packet), packet[..4].try_into().expect("four"));
        packet[..4].copy_from_slice(&ports);
        let [old, new] = [old, ports].map(u32::from_le_bytes);
        let updated = sctp::update(check, old, new, length as u16, &sctp::times);
        prop_assert_eq!(updated, reference(&packet));
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
