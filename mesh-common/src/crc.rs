//! CRC32c as SCTP has it (RFC 9260, appendix A): over the header and all chunks, addresses not included. It is linear, so
//! what it changes by follows from the changed bits and their distance from the end; the rest need not be read.

/// The polynomial, lowest power first.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// x^8: one byte.
const BYTE: u32 = 1 << 23;

/// The product of two polynomials modulo CRC32c's.
#[inline(always)]
pub const fn times(a: u32, mut b: u32) -> u32 {
    let (mut product, mut bit) = (0, 32);
    while bit != 0 {
        bit -= 1;
        product ^= b & 0_u32.wrapping_sub(a >> bit & 1);
        b = (b >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(b & 1));
    }
    product
}

/// What 2^`exponent` bytes multiply by.
const fn power(exponent: u32) -> u32 {
    let (mut power, mut squared) = (BYTE, 0);
    while squared < exponent {
        power = times(power, power);
        squared += 1;
    }
    power
}

#[inline(always)]
fn shift<const EXPONENT: u32>(sum: u32, bytes: u16, times: &impl Fn(u32, u32) -> u32) -> u32 {
    if bytes >> EXPONENT & 1 == 0 {
        sum
    } else {
        times(const { power(EXPONENT) }, sum)
    }
}

/// The checksum of an SCTP packet of `length` bytes that was `check`, after its first four bytes, the ports, have become
/// `new` in place of `old`. All three as they stand in the packet, read as little endian. `product` is [`times`].
#[inline(always)]
pub fn update(
    check: u32,
    old: u32,
    new: u32,
    length: u16,
    product: &impl Fn(u32, u32) -> u32,
) -> u32 {
    let mut sum = old ^ new;
    sum = shift::<0>(sum, length, product);
    sum = shift::<1>(sum, length, product);
    sum = shift::<2>(sum, length, product);
    sum = shift::<3>(sum, length, product);
    sum = shift::<4>(sum, length, product);
    sum = shift::<5>(sum, length, product);
    sum = shift::<6>(sum, length, product);
    sum = shift::<7>(sum, length, product);
    sum = shift::<8>(sum, length, product);
    sum = shift::<9>(sum, length, product);
    sum = shift::<10>(sum, length, product);
    sum = shift::<11>(sum, length, product);
    sum = shift::<12>(sum, length, product);
    sum = shift::<13>(sum, length, product);
    sum = shift::<14>(sum, length, product);
    sum = shift::<15>(sum, length, product);
    check ^ sum
}

/// Checksum of a byte string, as it stands in the packet read as little endian. For user space and tests: eBPF cannot
/// loop over a packet.
pub fn of(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(sum & 1));
        }
    }
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, section B.4.
    #[test]
    fn known_sums() {
        assert_eq!(of(&[0; 32]), 0x8a91_36aa);
        assert_eq!(of(&[0xff; 32]), 0x62a8_ab43);
        let rising: [u8; 32] = core::array::from_fn(|n| n as u8);
        assert_eq!(of(&rising), 0x46dd_794e);
        assert_eq!(of(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn update_is_recomputation() {
        let mut state = 1_u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let mut bytes = [0_u8; 9000];
        bytes.fill_with(&mut random);
        for length in (12..600).chain([1452, 4095, 4096, 8999, 9000]) {
            let packet = &mut bytes[..length];
            let word =
                |packet: &[u8]| u32::from_le_bytes([packet[0], packet[1], packet[2], packet[3]]);
            let (before, old) = (of(packet), word(packet));
            packet[..4].fill_with(&mut random);
            let new = word(packet);
            assert_eq!(
                update(before, old, new, length as u16, &times),
                of(packet),
                "{length}"
            );
        }
    }
}
