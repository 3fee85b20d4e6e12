//! A probe as it travels in a tunnel: a datagram from one node's tunnel end point to another's, on the ingress network.

use std::net::Ipv4Addr;

use mesh_common::wire::{IPV4_LEN, UDP_LEN};

use crate::{
    datagram::{self, Datagram},
    direct,
};

/// The payload's fixed part: magic, run, number, kind.
const FIXED: usize = 8 + 8 + 4 + 4;
const MAGIC: [u8; 8] = *b"meshprob";

/// Bytes of the smallest probe, from its IP header on.
pub(super) const SMALLEST: u32 = (IPV4_LEN + UDP_LEN + FIXED) as u32;

/// A probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Probe {
    /// Tunnel end point that sends it.
    pub(super) from: Ipv4Addr,
    /// Tunnel end point that it is for.
    pub(super) to: Ipv4Addr,
    /// Whose probes these are.
    pub(super) run: u64,
    /// Tells the probes of one sender apart.
    pub(super) number: u32,
    /// An answer to the probe of that number.
    pub(super) answer: bool,
}

/// What has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrived {
    /// As it was sent.
    Whole(Probe),
    /// A probe from this end point, with other contents.
    Changed(Ipv4Addr),
    /// A probe from this end point, as it was sent but for the checksum.
    BadChecksum(Ipv4Addr),
}

impl Probe {
    /// The frame, whose IP packet has `size` bytes. The checksum is left to the device, as those of tasks' packets
    /// are. `port`: the tunnels', host byte order.
    pub(super) fn frame(&self, size: u32, port: u16) -> Vec<u8> {
        let size = size.max(SMALLEST) as usize;
        let mut payload = MAGIC.to_vec();
        payload.extend(self.run.to_be_bytes());
        payload.extend(self.number.to_be_bytes());
        payload.extend(u32::from(self.answer).to_be_bytes());
        let fill = size - IPV4_LEN - UDP_LEN - FIXED;
        payload.extend(filling(self.run, self.number).take(fill));
        datagram::frame(self.from, self.to, port, &payload)
    }

    /// What `frame` is, if it is a probe. `summed`: its checksum is said to be complete.
    pub(super) fn parse(frame: &[u8], summed: bool) -> Option<Arrived> {
        let datagram = Datagram::parse(frame)?;
        let Datagram {
            from, to, payload, ..
        } = datagram;
        if direct::is_message(payload) {
            return None;
        }
        let Some((MAGIC, rest)) = payload.split_first_chunk::<8>().map(|(m, r)| (*m, r)) else {
            return Some(Arrived::Changed(from));
        };
        let (run, rest) = rest.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (answer, fill) = rest.split_first_chunk()?;
        let probe = Self {
            from,
            to,
            run: u64::from_be_bytes(*run),
            number: u32::from_be_bytes(*number),
            answer: u32::from_be_bytes(*answer) != 0,
        };
        if !filling(probe.run, probe.number)
            .take(fill.len())
            .eq(fill.iter().copied())
        {
            return Some(Arrived::Changed(from));
        }
        if summed && !datagram.is_sound() {
            return Some(Arrived::BadChecksum(from));
        }
        Some(Arrived::Whole(probe))
    }
}

/// Bytes without a pattern, the same for the same probe (SplitMix64).
fn filling(run: u64, number: u32) -> impl Iterator<Item = u8> {
    let mut state = run ^ (u64::from(number) << 32);
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)).to_be_bytes()
    })
    .flatten()
}

#[cfg(test)]
mod tests {
    use mesh_common::{checksum, wire::ETH_LEN};

    use super::*;
    use crate::datagram::{CHECK, L4, PAYLOAD};

    const PROBE: Probe = Probe {
        from: Ipv4Addr::new(192, 0, 2, 1),
        to: Ipv4Addr::new(192, 0, 2, 2),
        run: 7,
        number: 3,
        answer: false,
    };

    /// The frame as a device sends it.
    fn sent(size: u32) -> Vec<u8> {
        let mut frame = PROBE.frame(size, 4789);
        let sum = checksum::of(&frame[L4..]);
        frame[L4 + CHECK..PAYLOAD].copy_from_slice(&sum.to_ne_bytes());
        frame
    }

    #[test]
    fn what_is_sent_is_read() {
        for size in [SMALLEST, 101, 1450] {
            let frame = sent(size);
            assert_eq!(frame.len(), ETH_LEN + size as usize);
            assert_eq!(Probe::parse(&frame, true), Some(Arrived::Whole(PROBE)));
            let headers = etherparse::PacketHeaders::from_ethernet_slice(&frame).unwrap();
            let Some(etherparse::NetHeaders::Ipv4(ip, _)) = headers.net else {
                panic!("not IPv4");
            };
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            let udp = headers.transport.unwrap().udp().unwrap();
            let expected = udp
                .calc_checksum_ipv4(&ip, headers.payload.slice())
                .unwrap();
            assert_eq!(udp.checksum, expected);
            // On its way inside one machine the checksum is not complete.
            let raw = PROBE.frame(size, 4789);
            assert_eq!(Probe::parse(&raw, false), Some(Arrived::Whole(PROBE)));
        }
    }

    #[test]
    fn changes_are_seen() {
        let from = PROBE.from;
        let mut frame = sent(200);
        frame[150] ^= 1;
        assert_eq!(Probe::parse(&frame, true), Some(Arrived::Changed(from)));
        let mut frame = sent(200);
        frame[L4 + CHECK] ^= 1;
        assert_eq!(Probe::parse(&frame, true), Some(Arrived::BadChecksum(from)));
        assert_eq!(Probe::parse(&frame, false), Some(Arrived::Whole(PROBE)));
        for length in 0..PAYLOAD + FIXED {
            let cut = Probe::parse(&sent(200)[..length], true);
            assert_eq!(cut, None, "{length}");
        }
    }
}
