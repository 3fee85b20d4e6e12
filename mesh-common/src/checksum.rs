//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624). Words as they stand in the packet.

use crate::Addr;

/// Folds carries: the ones' complement sum in 16 bits.
#[inline(always)]
pub const fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Sum, not yet complemented, of a pseudo header of IPv4 (RFC 793, 768). `length` in host byte order.
#[inline(always)]
pub const fn pseudo_v4(src_be: u32, dst_be: u32, protocol: u8, length: u16) -> u16 {
    fold(
        src_be as u64
            + dst_be as u64
            + ((protocol as u16).to_be() as u64)
            + (length.to_be() as u64),
    )
}

/// Sum, not yet complemented, of a pseudo header of IPv6 (RFC 8200, section 8.1). `length` in host byte order.
#[inline(always)]
pub const fn pseudo_v6(src: &Addr, dst: &Addr, protocol: u8, length: u16) -> u16 {
    fold(sum_v6(src) + sum_v6(dst) + ((protocol as u16).to_be() as u64) + (length.to_be() as u64))
}

/// Sum of an IPv6 address, to be folded.
#[inline(always)]
pub const fn sum_v6(address: &Addr) -> u64 {
    let [a, b, c, d] = address.words_be;
    a as u64 + b as u64 + c as u64 + d as u64
}

/// `check` (as in the packet) after one 16-bit word changed from `old` to `new` (RFC 1624, equation 3).
#[inline(always)]
pub const fn update(check: u16, old: u16, new: u16) -> u16 {
    !fold((!check as u64) + (!old as u64) + new as u64)
}

/// Checksum of a byte string. For user space and tests: eBPF cannot loop over a packet.
pub fn of(bytes: &[u8]) -> u16 {
    let mut sum = 0_u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    !fold(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_1071_example() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!((!of(&bytes)).to_ne_bytes(), [0xdd, 0xf2]);
    }

    #[test]
    fn update_is_recomputation() {
        let mut state = 1_u32;
        for _ in 0..2000 {
            let mut bytes = [0_u8; 20];
            for b in &mut bytes {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *b = (state >> 24) as u8;
            }
            let before = of(&bytes);
            let old = u16::from_ne_bytes([bytes[6], bytes[7]]);
            let new = (state >> 8) as u16;
            bytes[6..8].copy_from_slice(&new.to_ne_bytes());
            let (a, b) = (update(before, old, new), of(&bytes));
            // Both zeros of ones' complement mean the same.
            assert!(
                a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0),
                "{a:x} {b:x}"
            );
        }
    }

    #[test]
    fn pseudo_header_is_its_bytes() {
        let bytes = [10, 0, 0, 1, 10, 0, 0, 2, 0, 6, 0x05, 0xdc];
        let a = pseudo_v4(
            u32::from_ne_bytes([10, 0, 0, 1]),
            u32::from_ne_bytes([10, 0, 0, 2]),
            6,
            1500,
        );
        assert_eq!(a, !of(&bytes));
    }

    #[test]
    fn pseudo_header_of_ipv6_is_its_bytes() {
        let mut bytes = [0_u8; 40];
        for (n, byte) in bytes[..32].iter_mut().enumerate() {
            *byte = (n * 37 + 200) as u8;
        }
        bytes[34..36].copy_from_slice(&1400_u16.to_be_bytes());
        bytes[39] = 58;
        let address = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&bytes[at..at + 16]);
            Addr::v6(octets)
        };
        assert_eq!(pseudo_v6(&address(0), &address(16), 58, 1400), !of(&bytes));
    }
}
