//! What agents say to each other about direct return.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Begins every message. The first byte is none that VXLAN's flags may have.
const MAGIC: [u8; 8] = *b"\0meshdsr";
/// The part that all messages have: magic, kind, number of addresses, zeros, sender, number.
const FIXED: usize = 8 + 1 + 1 + 2 + 4 + 8;
/// An address; IPv4 is mapped.
const ADDRESS: usize = 16;
/// Addresses that a message has room for in the smallest packet that every IPv6 link takes (1,280 bytes).
pub(super) const MOST_ADDRESSES: usize = 64;

/// A message. Its number is an answer's as well: who has not seen the question cannot answer it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    /// Tunnel end point of the node that says it, also where it is sent under another address.
    pub(super) from: Ipv4Addr,
    pub(super) number: u64,
    pub(super) says: Says,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Says {
    /// Which addresses do published ports answer on?
    Ask,
    /// These.
    Addresses(Vec<IpAddr>),
    /// Sent in no tunnel, to an address under that very address: the proof, if it arrives.
    Proof,
    /// It has arrived.
    Seen,
}

/// Whether a datagram is one of these messages.
pub(crate) fn is_message(payload: &[u8]) -> bool {
    payload.starts_with(&MAGIC)
}

/// The first eight bytes, as a socket's filter compares them.
pub(super) fn magic_words() -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = MAGIC;
    [[a, b, c, d], [e, f, g, h]].map(u32::from_be_bytes)
}

impl Message {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let none = Vec::new();
        let (kind, addresses) = match &self.says {
            Says::Ask => (0, &none),
            Says::Addresses(addresses) => (1, addresses),
            Says::Proof => (2, &none),
            Says::Seen => (3, &none),
        };
        let told = addresses.iter().take(MOST_ADDRESSES);
        let mut bytes = MAGIC.to_vec();
        bytes.extend([kind, told.len() as u8, 0, 0]);
        bytes.extend(self.from.octets());
        bytes.extend(self.number.to_be_bytes());
        for address in told {
            let six = match address {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => *v6,
            };
            bytes.extend(six.octets());
        }
        bytes
    }

    /// `None`: something else, or cut short.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (fixed, rest) = bytes.split_first_chunk::<FIXED>()?;
        let [kind, count, _, _, a, b, c, d, number @ ..] = fixed.strip_prefix(&MAGIC)? else {
            return None;
        };
        let says = match kind {
            0 => Says::Ask,
            1 => {
                let told = rest.get(..usize::from(*count) * ADDRESS)?;
                let (addresses, _) = told.as_chunks::<ADDRESS>();
                let address = |octets: &[u8; ADDRESS]| Ipv6Addr::from(*octets).to_canonical();
                Says::Addresses(addresses.iter().map(address).collect())
            }
            2 => Says::Proof,
            3 => Says::Seen,
            _ => return None,
        };
        Some(Self {
            from: Ipv4Addr::new(*a, *b, *c, *d),
            number: u64::from_be_bytes(number.try_into().ok()?),
            says,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard() {
        let addresses = ["192.0.2.1", "fd00::1"].map(|text| text.parse().unwrap());
        for says in [
            Says::Ask,
            Says::Addresses(addresses.into()),
            Says::Addresses(Vec::new()),
            Says::Proof,
            Says::Seen,
        ] {
            let message = Message {
                from: Ipv4Addr::new(192, 0, 2, 7),
                number: u64::MAX - 5,
                says,
            };
            let bytes = message.bytes();
            assert!(is_message(&bytes));
            assert_eq!(Message::parse(&bytes), Some(message));
            for length in 0..bytes.len() {
                assert_eq!(Message::parse(&bytes[..length]), None, "{length}");
            }
        }
    }

    #[test]
    fn no_more_addresses_than_there_is_room_for() {
        let all = (0..100).map(|n| IpAddr::from([10, 0, 0, n]));
        let message = Message {
            from: Ipv4Addr::LOCALHOST,
            number: 1,
            says: Says::Addresses(all.collect()),
        };
        let bytes = message.bytes();
        assert!(bytes.len() + 48 <= 1280);
        let Some(Says::Addresses(told)) = Message::parse(&bytes).map(|heard| heard.says) else {
            panic!("addresses");
        };
        assert_eq!(told.len(), MOST_ADDRESSES);
    }
}
