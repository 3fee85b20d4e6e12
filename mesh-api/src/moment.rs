//! Times as the Engine API writes them. Its types hold them as text, so that all are written here.

use chrono::{DateTime, SecondsFormat, Utc};

/// RFC 3339 in UTC, to the nanosecond, without the zeros at a fraction's end: Go's `RFC3339Nano`, as in all of Docker's JSON.
pub fn to_text(at: DateTime<Utc>) -> String {
    let text = at.to_rfc3339_opts(SecondsFormat::Nanos, true);
    let text = text.trim_end_matches('Z').trim_end_matches('0');
    format!("{}Z", text.trim_end_matches('.'))
}

/// The same of nanoseconds since the epoch.
pub fn from_nanos(nanos: i64) -> String {
    to_text(DateTime::from_timestamp_nanos(nanos))
}

/// Reads such a time, of any zone; `None` if there is none or it is another text.
pub fn read(text: Option<&str>) -> Option<DateTime<Utc>> {
    let at = DateTime::parse_from_rfc3339(text?).ok()?;
    Some(at.to_utc())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Node;

    #[test]
    fn fractions_end_with_no_zeros() {
        for (nanos, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
            (1_767_322_800_000_000_000, "2026-01-02T03:00:00Z"),
            (1_767_323_045_120_000_000, "2026-01-02T03:04:05.12Z"),
            (1_767_323_045_100_000_000, "2026-01-02T03:04:05.1Z"),
            (1_767_323_045_000_000_100, "2026-01-02T03:04:05.0000001Z"),
            (1_767_323_045_123_456_789, "2026-01-02T03:04:05.123456789Z"),
            (1_767_323_050_000_000_000, "2026-01-02T03:04:10Z"),
        ] {
            assert_eq!(from_nanos(nanos), text);
            let at = read(Some(text)).expect("a time");
            assert_eq!(at.timestamp_nanos_opt(), Some(nanos));
            let node = Node {
                created_at: Some(from_nanos(nanos)),
                ..Node::default()
            };
            let json = serde_json::to_value(&node).expect("json");
            assert_eq!(json["CreatedAt"], text);
        }
    }

    #[test]
    fn other_zones_are_read_and_other_texts_are_not() {
        let at = |text| read(Some(text)).map(to_text);
        let utc = Some("2026-01-02T03:04:05.5Z".to_owned());
        assert_eq!(at("2026-01-02T05:04:05.500+02:00"), utc);
        for none in ["", "yesterday", "2026-01-02"] {
            assert_eq!(at(none), None, "{none}");
        }
        assert_eq!(read(None), None);
    }
}
