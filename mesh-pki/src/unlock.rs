//! Unlock keys: what people keep so that a manager's keys, or a backup, are worth nothing without it.

use crate::PkiError;
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use chacha20poly1305::{AeadInPlace, Key, KeyInit, Tag, XChaCha20Poly1305, XNonce};
use rand::RngCore;
use std::{fmt, str::FromStr};

const PREFIX: &str = "SWMKEY-1-";
const LENGTH: usize = 32;
const NONCE: usize = 24;
const TAG: usize = 16;

/// A key of 32 bytes; its text is `SWMKEY-1-<base64 without padding>`. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct UnlockKey([u8; LENGTH]);

impl UnlockKey {
    /// A random key.
    pub fn generate() -> Self {
        let mut key = [0; LENGTH];
        rand::rng().fill_bytes(&mut key);
        Self(key)
    }

    /// The key of these bytes.
    ///
    /// # Errors
    /// [`PkiError::InvalidUnlockKey`] when they are not 32.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PkiError> {
        let key = bytes.try_into().map_err(|_| PkiError::InvalidUnlockKey)?;
        Ok(Self(key))
    }

    /// The key itself.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&Key::from(self.0))
    }

    /// Encrypts for a place (XChaCha20-Poly1305): a random nonce, the ciphertext, its tag.
    ///
    /// # Errors
    /// [`PkiError::WrongUnlockKey`] for more than the cipher takes at once (256 GiB).
    pub fn seal(&self, place: &[u8], clear: &[u8]) -> Result<Vec<u8>, PkiError> {
        let mut nonce = [0; NONCE];
        rand::rng().fill_bytes(&mut nonce);
        let mut sealed = Vec::with_capacity(NONCE + clear.len() + TAG);
        sealed.extend(nonce);
        sealed.extend(clear);
        let tag = self
            .cipher()
            .encrypt_in_place_detached(&XNonce::from(nonce), place, &mut sealed[NONCE..])
            .map_err(|_| PkiError::WrongUnlockKey)?;
        sealed.extend(tag);
        Ok(sealed)
    }

    /// Decrypts what was sealed for that place.
    ///
    /// # Errors
    /// [`PkiError::WrongUnlockKey`] when it was sealed with another key or for another place, or was changed since.
    pub fn open(&self, place: &[u8], sealed: &[u8]) -> Result<Vec<u8>, PkiError> {
        let parts = sealed
            .split_first_chunk::<NONCE>()
            .and_then(|(nonce, rest)| Some((nonce, rest.split_last_chunk::<TAG>()?)));
        let (nonce, (text, tag)) = parts.ok_or(PkiError::WrongUnlockKey)?;
        let mut clear = text.to_vec();
        self.cipher()
            .decrypt_in_place_detached(
                XNonce::from_slice(nonce),
                place,
                &mut clear,
                Tag::from_slice(tag),
            )
            .map_err(|_| PkiError::WrongUnlockKey)?;
        Ok(clear)
    }
}

impl FromStr for UnlockKey {
    type Err = PkiError;

    fn from_str(text: &str) -> Result<Self, PkiError> {
        let encoded = text.strip_prefix(PREFIX);
        let bytes = encoded.and_then(|encoded| STANDARD_NO_PAD.decode(encoded).ok());
        Self::from_bytes(&bytes.ok_or(PkiError::InvalidUnlockKey)?)
    }
}

impl fmt::Display for UnlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", STANDARD_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for UnlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnlockKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_text_and_is_not_shown() {
        let key = UnlockKey::generate();
        let text = key.to_string();
        assert_eq!(text.len(), PREFIX.len() + 43, "{text}");
        assert_eq!(text.parse::<UnlockKey>().unwrap(), key);
        assert_ne!(key, UnlockKey::generate());
        assert_eq!(format!("{key:?}"), "UnlockKey(..)");
        for bad in [
            "",
            "SWMKEY-1-",
            "SWMTKN-1-abc",
            &text[..text.len() - 1],
            &format!("{text}="),
            &text.replace("KEY-1", "KEY-2"),
        ] {
            assert!(bad.parse::<UnlockKey>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_sealed_opens_with_the_key_at_its_place_alone() {
        let key = UnlockKey::generate();
        for clear in [&b""[..], b"open sesame"] {
            let sealed = key.seal(b"here", clear).unwrap();
            assert_ne!(sealed, key.seal(b"here", clear).unwrap(), "another nonce");
            assert_eq!(key.open(b"here", &sealed).unwrap(), clear);
            assert!(key.open(b"there", &sealed).is_err());
            assert!(UnlockKey::generate().open(b"here", &sealed).is_err());
            for at in 0..sealed.len() {
                let mut changed = sealed.clone();
                changed[at] ^= 1;
                assert!(key.open(b"here", &changed).is_err(), "{at}");
                assert!(key.open(b"here", &sealed[..at]).is_err(), "{at}");
            }
        }
    }
}
