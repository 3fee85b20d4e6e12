//! The hash that picks a Maglev slot. All nodes must agree on it, so it has no seed but this file.

use crate::Addr;

/// Hash of a flow. Addresses and ports as they stand in the packet, so that byte order plays no part. An IPv6
/// address comes in by [`fold_v6`].
#[inline(always)]
pub const fn flow_hash(
    src_low_be: u32,
    dst_low_be: u32,
    sport_be: u16,
    dport_be: u16,
    protocol: u8,
) -> u32 {
    // Three multiplications of 64 bits, each followed by its upper half: what programs take longest to do on a packet.
    let addresses = ((src_low_be as u64) << 32) | dst_low_be as u64;
    // Ports low: a product spreads a bit only upwards.
    let rest = ((protocol as u64) << 32) | ((dport_be as u64) << 16) | sport_be as u64;
    let mut h = addresses.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    h = (h ^ (h >> 32) ^ rest).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 32)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    (h >> 32) as u32
}

/// The slot of a row of `length` slots that a hash falls into, without a division.
#[inline(always)]
pub const fn slot_of(hash: u32, length: u32) -> u32 {
    ((hash as u64 * length as u64) >> 32) as u32
}

/// An IPv6 address in 32 bits: every bit of it counts.
#[inline(always)]
pub const fn fold_v6(address: &Addr) -> u32 {
    let [a, b, c, d] = address.words_be;
    mix(mix(mix(a) ^ b) ^ c) ^ d
}

/// A bijection of 32 bits in which every input bit flips each output bit half of the time.
#[inline(always)]
const fn mix(mut h: u32) -> u32 {
    h ^= h >> 16;
    h = h.wrapping_mul(0x7feb_352d);
    h ^= h >> 15;
    h = h.wrapping_mul(0x846c_a68b);
    h ^ (h >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_ports_spread_evenly() {
        let mut slots = [0_u32; 16];
        for port in 32_768..49_152_u16 {
            let h = flow_hash(0x0100_000a, 0x0200_000a, port.to_be(), 80_u16.to_be(), 6);
            slots[slot_of(h, 16) as usize] += 1;
        }
        for n in slots {
            assert!((900..1150).contains(&n), "{slots:?}");
        }
    }

    #[test]
    fn every_bit_of_an_ipv6_address_counts() {
        let mut seen = [0_u32; 129];
        seen[0] = fold_v6(&Addr::NONE);
        for bit in 0..128_usize {
            let mut octets = [0; 16];
            octets[bit / 8] = 1 << (bit % 8);
            seen[bit + 1] = fold_v6(&Addr::v6(octets));
        }
        seen.sort_unstable();
        assert!(seen.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
