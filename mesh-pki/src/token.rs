//! Join tokens: `SWMTKN-1-<50 base36: SHA-256 of the root CA>-<25 base36 secret>`.

use crate::{PkiError, base36, new_id};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use std::{fmt, str::FromStr};

const PREFIX: &str = "SWMTKN-1-";
const DIGEST_LEN: usize = 50;
const SECRET_LEN: usize = 25;

/// A join token. It names the cluster by its root CA and proves the right to join.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the root certificate's DER, 50 characters of base36.
    pub digest: String,
    /// The secret, 25 characters of base36.
    pub secret: String,
}

impl JoinToken {
    /// A new token with a random secret for the root with this digest.
    pub fn generate(digest: &str) -> Self {
        Self {
            digest: digest.to_owned(),
            secret: new_id(),
        }
    }
}

/// The digest of a root certificate as tokens carry it.
pub fn root_digest(root: &CertificateDer<'_>) -> String {
    base36(&Sha256::digest(root.as_ref()), DIGEST_LEN)
}

impl FromStr for JoinToken {
    type Err = PkiError;

    fn from_str(text: &str) -> Result<Self, PkiError> {
        let is_base36 = |s: &str| {
            s.bytes()
                .all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
        };
        let (digest, secret) = text
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('-'))
            .ok_or(PkiError::InvalidToken)?;
        if digest.len() != DIGEST_LEN
            || secret.len() != SECRET_LEN
            || !is_base36(digest)
            || !is_base36(secret)
        {
            return Err(PkiError::InvalidToken);
        }
        Ok(Self {
            digest: digest.to_owned(),
            secret: secret.to_owned(),
        })
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}-{}", self.digest, self.secret)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({PREFIX}{}-<secret>)", self.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RootCa, UnlockKey};
    use proptest::prelude::*;

    /// The text with another character at one place.
    fn changed(text: &str, at: usize, to: char) -> Option<String> {
        let mut all: Vec<char> = text.chars().collect();
        let at = at % all.len();
        let is_other = std::mem::replace(&mut all[at], to) != to;
        is_other.then(|| all.into_iter().collect())
    }

    proptest! {
        #[test]
        fn texts_of_tokens_are_read_and_changed_ones_are_no_token_or_another(
            digest in "[0-9a-z]{50}", secret in "[0-9a-z]{25}", at: usize, to in "[ -~é]",
        ) {
            let token = JoinToken { digest, secret };
            let text = token.to_string();
            prop_assert_eq!(&text.parse::<JoinToken>().unwrap(), &token);
            let to = to.chars().next().unwrap();
            let other = changed(&text, at, to).and_then(|text| text.parse::<JoinToken>().ok());
            prop_assert!(other.is_none_or(|other| other != token));
            for length in 0..text.len() {
                prop_assert!(text[..length].parse::<JoinToken>().is_err());
            }
        }

        #[test]
        fn texts_of_unlock_keys_are_read_and_changed_ones_are_no_key_or_another(
            key: [u8; 32], at: usize, to in "[ -~é]",
        ) {
            let key = UnlockKey::from_bytes(&key).unwrap();
            let text = key.to_string();
            prop_assert!(text.parse::<UnlockKey>().unwrap() == key);
            let to = to.chars().next().unwrap();
            let other = changed(&text, at, to).and_then(|text| text.parse::<UnlockKey>().ok());
            prop_assert!(other.is_none_or(|other| other != key));
        }
    }

    #[test]
    fn a_token_survives_its_text() {
        let ca = RootCa::create().unwrap();
        let token = JoinToken::generate(&ca.digest());
        assert_eq!(token.to_string().parse::<JoinToken>().unwrap(), token);
        assert_ne!(ca.digest(), RootCa::create().unwrap().digest());
    }

    #[test]
    fn other_texts_are_refused() {
        let good = JoinToken::generate(&"a".repeat(50)).to_string();
        let cases = [
            String::new(),
            "SWMTKN-1-".to_owned(),
            good.replace("SWMTKN-1", "SWMTKN-2"),
            good.to_uppercase(),
            format!("{good}x"),
            good[..good.len() - 1].to_owned(),
        ];
        for case in cases {
            assert!(case.parse::<JoinToken>().is_err(), "{case}");
        }
    }
}
