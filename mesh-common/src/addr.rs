//! Addresses as map keys: 128 bits, IPv4 mapped into IPv6 (`::ffff:a.b.c.d`), in network byte order.

/// An IPv6 or mapped IPv4 address in network byte order.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Addr {
    /// The address as it stands in a packet, 32 bits at a time.
    pub words_be: [u32; 4],
}

impl Addr {
    /// No address.
    pub const NONE: Self = Self { words_be: [0; 4] };
    /// `::1`.
    pub const LOOPBACK_V6: Self = Self {
        words_be: [0, 0, 0, 1_u32.to_be()],
    };

    /// An IPv4 address given as it stands in a packet.
    #[inline(always)]
    pub const fn v4_be(address: u32) -> Self {
        Self {
            words_be: [0, 0, 0xffff_u32.to_be(), address],
        }
    }

    /// An IPv4 address from its four bytes.
    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self::v4_be(u32::from_ne_bytes(octets))
    }

    /// An IPv6 address from its sixteen bytes.
    pub const fn v6(o: [u8; 16]) -> Self {
        Self {
            words_be: [
                u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
                u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
                u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
                u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
            ],
        }
    }

    /// The last four bytes as they stand in a packet: the whole of an IPv4 address.
    #[inline(always)]
    pub const fn low_be(&self) -> u32 {
        self.words_be[3]
    }

    /// The IPv4 address of the last four bytes: of a mesh address of either family the one that the tables have it under
    /// (see [`Prefix`]).
    #[inline(always)]
    pub const fn low(&self) -> Self {
        Self::v4_be(self.low_be())
    }

    /// The address of the same family and network whose last four bytes are `low_be`.
    #[inline(always)]
    pub const fn with_low(&self, low_be: u32) -> Self {
        let [a, b, c, _] = self.words_be;
        Self {
            words_be: [a, b, c, low_be],
        }
    }

    /// The sixteen bytes.
    pub const fn octets(&self) -> [u8; 16] {
        let [a, b, c, d] = [
            self.words_be[0].to_ne_bytes(),
            self.words_be[1].to_ne_bytes(),
            self.words_be[2].to_ne_bytes(),
            self.words_be[3].to_ne_bytes(),
        ];
        [
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1],
            d[2], d[3],
        ]
    }

    /// Whether this is an IPv4 address.
    pub const fn is_v4(&self) -> bool {
        self.words_be[0] == 0 && self.words_be[1] == 0 && self.words_be[2] == 0xffff_u32.to_be()
    }

    /// Equality without a call to `memcmp`, which eBPF does not have.
    #[inline(always)]
    pub const fn same(&self, other: &Self) -> bool {
        self.words_be[0] == other.words_be[0]
            && self.words_be[1] == other.words_be[1]
            && self.words_be[2] == other.words_be[2]
            && self.words_be[3] == other.words_be[3]
    }
}

/// The first 96 bits of a network's IPv6 addresses. The last 32 are the IPv4 address of the same task, virtual
/// address or node, under which the tables have it. All zero where the network has no IPv6.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Prefix {
    /// The bits as they stand in a packet.
    pub words_be: [u32; 3],
}

impl Prefix {
    /// No IPv6.
    pub const NONE: Self = Self { words_be: [0; 3] };

    /// The prefix of an IPv6 address given by its sixteen bytes.
    pub const fn of(octets: [u8; 16]) -> Self {
        let [a, b, c, _] = Addr::v6(octets).words_be;
        Self {
            words_be: [a, b, c],
        }
    }

    /// Whether the network has IPv6.
    #[inline(always)]
    pub const fn is_some(&self) -> bool {
        // 32 zero bits begin no address that a host may have.
        self.words_be[0] != 0
    }

    /// The IPv6 address of what has `low_be` in IPv4.
    #[inline(always)]
    pub const fn join(&self, low_be: u32) -> Addr {
        let [a, b, c] = self.words_be;
        Addr {
            words_be: [a, b, c, low_be],
        }
    }

    /// Whether an address is the network's.
    #[inline(always)]
    pub const fn holds(&self, address: &Addr) -> bool {
        self.is_some()
            && self.words_be[0] == address.words_be[0]
            && self.words_be[1] == address.words_be[1]
            && self.words_be[2] == address.words_be[2]
    }
}

/// MAC of a task address: 02:42 and its last four bytes.
#[inline(always)]
pub const fn mac_of(low_be: u32) -> [u8; 6] {
    let [a, b, c, d] = low_be.to_ne_bytes();
    [0x02, 0x42, a, b, c, d]
}

/// MAC that names a node inside the ingress network: 02:43 and the last four bytes of its tunnel end point.
#[inline(always)]
pub const fn node_mac(low_be: u32) -> [u8; 6] {
    let [a, b, c, d] = low_be.to_ne_bytes();
    [0x02, 0x43, a, b, c, d]
}

/// MAC of the node that was asked, on a client's packet to another node's task: [`node_mac`], or with `direct` (zero or
/// one) 02:44 and the same bytes, which says that the reply need not come back this way.
#[inline(always)]
pub const fn asked_mac(low_be: u32, direct: u8) -> [u8; 6] {
    let [a, b, c, d, e, f] = node_mac(low_be);
    [a, b + direct, c, d, e, f]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_is_mapped() {
        let a = Addr::v4([10, 1, 2, 3]);
        assert_eq!(
            a.octets(),
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 2, 3]
        );
        assert!(a.is_v4());
        assert_eq!(Addr::v6(a.octets()), a);
        assert_eq!(mac_of(a.low_be()), [0x02, 0x42, 10, 1, 2, 3]);
        assert_eq!(asked_mac(a.low_be(), 0), node_mac(a.low_be()));
        assert_eq!(asked_mac(a.low_be(), 1), [0x02, 0x44, 10, 1, 2, 3]);
        assert!(!Addr::NONE.is_v4());
        assert_eq!(a.low(), a);
        assert_eq!(
            a.with_low(Addr::v4([10, 9, 9, 9]).low_be()),
            Addr::v4([10, 9, 9, 9])
        );
    }

    #[test]
    fn a_prefix_and_an_ipv4_address_make_an_ipv6_address() {
        let mut octets = [0; 16];
        octets[0] = 0xfd;
        octets[11] = 7;
        let prefix = Prefix::of(octets);
        let address = prefix.join(Addr::v4([10, 1, 2, 3]).low_be());
        octets[12..].copy_from_slice(&[10, 1, 2, 3]);
        assert_eq!(address.octets(), octets);
        assert!(prefix.holds(&address) && !prefix.holds(&Addr::v4([10, 1, 2, 3])));
        assert_eq!(address.low(), Addr::v4([10, 1, 2, 3]));
        assert_eq!(prefix.join(0).with_low(address.low_be()), address);
        octets[11] = 8;
        assert!(!prefix.holds(&Addr::v6(octets)));
        assert!(!Prefix::NONE.is_some() && !Prefix::NONE.holds(&Addr::NONE));
    }
}
