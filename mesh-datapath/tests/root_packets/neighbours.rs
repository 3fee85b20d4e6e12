//! Neighbour discovery: questions and answers.

use std::net::Ipv6Addr;

use etherparse::{
    EtherType, Icmpv6Header, Icmpv6Type, IpNumber, Ipv6Header, icmpv6::NeighborAdvertisementHeader,
};

use crate::frames::Mac;

/// Who asks or answers.
pub(crate) type Host = (Mac, Ipv6Addr);

/// "Who has `target`?", with the asker's MAC unless it has no address yet.
pub(crate) fn solicitation((mac, from): Host, target: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = target.octets();
    let option: &[u8] = if from.is_unspecified() {
        &[]
    } else {
        &[&[1, 1], &mac[..]].concat()
    };
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    let receiver = [0x33, 0x33, 0xff, a, b, c];
    message(
        Icmpv6Type::NeighborSolicitation,
        (mac, from),
        (receiver, group),
        &[&target.octets()[..], option].concat(),
    )
}

/// "I have it."
pub(crate) fn advertisement((mac, target): Host, to: Host, router: bool, option: bool) -> Vec<u8> {
    let header = NeighborAdvertisementHeader {
        router,
        solicited: true,
        r#override: true,
    };
    let mut body = target.octets().to_vec();
    if option {
        body.extend([2, 1]);
        body.extend(mac);
    }
    message(
        Icmpv6Type::NeighborAdvertisement(header),
        (mac, target),
        to,
        &body,
    )
}

/// A message as neighbours send it: its hop limit shows that nobody has forwarded it.
pub(crate) fn message(
    kind: Icmpv6Type,
    (smac, from): Host,
    (dmac, to): Host,
    body: &[u8],
) -> Vec<u8> {
    let (source, destination) = (from.octets(), to.octets());
    let mut out = [dmac, smac].concat();
    out.extend(EtherType::IPV6.0.to_be_bytes());
    let header = Icmpv6Header::with_checksum(kind, source, destination, body).expect("short");
    let ip = Ipv6Header {
        payload_length: (header.header_len() + body.len()) as u16,
        next_header: IpNumber::IPV6_ICMP,
        hop_limit: 255,
        source,
        destination,
        ..Ipv6Header::default()
    };
    ip.write(&mut out).expect("a vector takes all");
    header.write(&mut out).expect("a vector takes all");
    out.extend(body);
    out
}
