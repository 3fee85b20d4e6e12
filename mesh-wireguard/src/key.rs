//! Keys of nodes.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use boringtun::{
    noise::rate_limiter::RateLimiter,
    x25519::{self, StaticSecret},
};
use std::sync::Arc;

/// Handshakes a second and key that are answered without asking the sender to prove its address first. Each is
/// counted twice: when the sender is looked for, and by the pair.
const HANDSHAKES: u64 = 400;

/// A node's public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub(crate) [u8; 32]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no key: not base64 of 32 bytes.
#[derive(Debug, thiserror::Error)]
#[error("not a WireGuard key: base64 of 32 bytes was expected")]
pub struct NotAKey;

impl FromStr for PublicKey {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let bytes = STANDARD.decode(text).map_err(|_| NotAKey)?;
        bytes.try_into().map(Self).map_err(|_| NotAKey)
    }
}

/// One of this node's own keys.
pub(crate) struct OwnKey {
    pub(crate) secret: StaticSecret,
    pub(crate) public: PublicKey,
    /// Tells messages for this key from others, and floods from handshakes.
    pub(crate) limiter: Arc<RateLimiter>,
}

impl OwnKey {
    /// A new one.
    pub(crate) fn generate() -> Self {
        let secret = StaticSecret::from(rand::random::<[u8; 32]>());
        let public = x25519::PublicKey::from(&secret);
        Self {
            secret,
            limiter: Arc::new(RateLimiter::new(&public, HANDSHAKES)),
            public: PublicKey(public.to_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_text_and_back() {
        let key = OwnKey::generate().public;
        assert_eq!(key.to_string().len(), 44);
        assert_eq!(key.to_string().parse::<PublicKey>().expect("a key"), key);
        for bad in ["", "abc", "AAAA", &format!("{key}A")] {
            assert!(bad.parse::<PublicKey>().is_err(), "{bad:?}");
        }
    }
}
