//! Docker's object ids: 25 characters of base36.

use rand::RngCore;

/// Length of an id in characters.
const ID_LEN: usize = 25;

/// A new random id. 125 random bits, as Docker's: 36^25 is a little more than 2^129.
pub fn new_id() -> String {
    let mut bytes = [0u8; 16];
    rand::rng().fill_bytes(&mut bytes);
    id_from_bytes(&bytes)
}

/// The id made of 16 bytes: the value (big endian, cut to 128 bits) in base36, padded with zeros.
pub fn id_from_bytes(bytes: &[u8; 16]) -> String {
    // 36^25 > 2^128, so that every value fits.
    base36(bytes, ID_LEN)
}

/// `bytes` as a big-endian number in base36, padded on the left with zeros to `width` characters.
/// Leading digits past `width` are cut.
pub fn base36(bytes: &[u8], width: usize) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut number = bytes.to_vec();
    let mut digits = Vec::with_capacity(width);
    while digits.len() < width {
        let mut remainder = 0u32;
        for byte in &mut number {
            let value = (remainder << 8) | u32::from(*byte);
            *byte = (value / 36) as u8;
            remainder = value % 36;
        }
        digits.push(DIGITS[remainder as usize]);
    }
    digits.reverse();
    digits.into_iter().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base36_is_positional_and_padded() {
        assert_eq!(base36(&[0], 3), "000");
        assert_eq!(base36(&[35], 3), "00z");
        assert_eq!(base36(&[36], 3), "010");
        assert_eq!(base36(&[1, 0], 3), "074");
        assert_eq!(base36(&[0xff; 16], ID_LEN), "f5lxx1zz5pnorynqglhzmsp33");
        assert_eq!(base36(&[0xff; 32], 50).len(), 50);
    }

    #[test]
    fn ids_have_the_form_and_differ() {
        let (a, b) = (new_id(), new_id());
        assert_ne!(a, b);
        for id in [a, b] {
            assert_eq!(id.len(), ID_LEN);
            let fits = |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase();
            assert!(id.bytes().all(fits), "{id}");
        }
    }
}
