//! Bytes that nobody is to see by accident.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use std::fmt;

/// Bytes that `Debug`, and so no log, shows. In JSON they are base64.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Sensitive(Vec<u8>);

impl Sensitive {
    /// The bytes themselves.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Sensitive {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Sensitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sensitive(..)")
    }
}

impl Serialize for Sensitive {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Sensitive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // The decoder's own words would show some of it.
        let bytes = STANDARD.decode(text);
        bytes
            .map(Self)
            .map_err(|_| D::Error::custom("not in base64"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_not_shown_and_survives_json() {
        let sensitive = Sensitive::from(b"open sesame\xff".to_vec());
        assert_eq!(format!("{sensitive:?}"), "Sensitive(..)");
        let json = serde_json::to_string(&sensitive).expect("json");
        assert_eq!(json, "\"b3BlbiBzZXNhbWX/\"");
        let read: Sensitive = serde_json::from_str(&json).expect("the same");
        assert_eq!(read.reveal(), b"open sesame\xff");
        let bad = serde_json::from_str::<Sensitive>("\"b3Bl~\"").expect_err("no base64");
        assert!(bad.to_string().starts_with("not in base64"), "{bad}");
    }

    #[test]
    fn a_message_with_it_does_not_show_it_either() {
        let handout = crate::proto::Handout {
            id: "abc".to_owned(),
            data: b"sesame".to_vec(),
            is_template: false,
        };
        assert_eq!(format!("{handout:?}"), "Handout { id: \"abc\", .. }");
    }
}
