//! Times, sizes and ids as people read them.

use chrono::{DateTime, Utc};
use mesh_api::{human::duration, moment};

/// Characters of an id in a table.
const SHORT_ID: usize = 12;

/// The first characters of an id, its digest's algorithm left out.
pub(crate) fn short_id(id: &str) -> &str {
    let id = id.strip_prefix("sha256:").unwrap_or(id);
    id.get(..SHORT_ID).unwrap_or(id)
}

/// The id, cut unless told otherwise.
pub(crate) fn id(id: &str, no_trunc: bool) -> &str {
    if no_trunc { id } else { short_id(id) }
}

/// The first letter in upper case.
pub(crate) fn title(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => String::new(),
    }
}

/// How long ago, such as `3 seconds ago`.
pub(crate) fn ago(now: DateTime<Utc>, then: DateTime<Utc>) -> String {
    format!("{} ago", duration((now - then).num_seconds()))
}

/// A time of the API's in Go's notation; empty for none.
pub(crate) fn moment(at: Option<&str>) -> String {
    let Some(at) = moment::read(at) else {
        return String::new();
    };
    let at = at.format("%Y-%m-%d %H:%M:%S%.9f").to_string();
    let at = at.trim_end_matches('0').trim_end_matches('.');
    format!("{at} +0000 utc")
}

/// Bytes with three significant digits and decimal units.
pub(crate) fn size(bytes: u64) -> String {
    decimal(bytes, 3)
}

/// The same with four digits, as Docker writes sums.
pub(crate) fn total(bytes: u64) -> String {
    decimal(bytes, 4)
}

/// A number by the second with three significant digits and a decimal prefix, such as `1.23M`.
pub(crate) fn rate(value: f64) -> String {
    scaled(value, 3, &["", "k", "M", "G", "T", "P", "E"])
}

fn decimal(bytes: u64, digits: usize) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    scaled(bytes as f64, digits, &UNITS)
}

/// In the largest of the units, each a thousand of the one before, that leaves one or more.
fn scaled(mut value: f64, digits: usize, units: &[&str]) -> String {
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{}{}", significant(value, digits), units[unit])
}

/// Bytes with binary units, such as `64MiB`.
pub(crate) fn binary_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{}{}", significant(value, 4), UNITS[unit])
}

/// A number with so many significant digits and no zeros at its end.
fn significant(value: f64, digits: usize) -> String {
    let whole = (value.trunc() as u64).to_string().len();
    let text = format!("{value:.*}", digits.saturating_sub(whole));
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// Orders names so that `web.10` comes after `web.9`.
pub(crate) fn natural_cmp(left: &str, right: &str) -> std::cmp::Ordering {
    let (mut a, mut b) = (left.as_bytes(), right.as_bytes());
    while let (Some(x), Some(y)) = (a.first(), b.first()) {
        if x.is_ascii_digit() && y.is_ascii_digit() {
            let digits = |text: &[u8]| text.iter().take_while(|c| c.is_ascii_digit()).count();
            let (n, m) = (digits(a), digits(b));
            let number = |text: &[u8]| {
                let start = text.iter().take_while(|c| **c == b'0').count();
                text[start..].to_vec()
            };
            let (p, q) = (number(&a[..n]), number(&b[..m]));
            let order = p.len().cmp(&q.len()).then_with(|| p.cmp(&q));
            if order.is_ne() {
                return order;
            }
            (a, b) = (&a[n..], &b[m..]);
        } else if x == y {
            (a, b) = (&a[1..], &b[1..]);
        } else {
            return x.cmp(y);
        }
    }
    a.len().cmp(&b.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for (value, text) in [
            (0.0, "0"),
            (0.5, "0.5"),
            (12.345, "12.3"),
            (1200.0, "1.2k"),
            (9.41e9, "9.41G"),
        ] {
            assert_eq!(rate(value), text);
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size(0), "0B");
        assert_eq!(size(1_234), "1.23kB");
        assert_eq!(size(142_000_000), "142MB");
        assert_eq!(binary_size(64 << 20), "64MiB");
        assert_eq!(binary_size(1_610_612_736), "1.5GiB");
    }

    #[test]
    fn names_in_natural_order() {
        let mut names = ["web.10", "web.2", "api.1", "web.1"];
        names.sort_by(|a, b| natural_cmp(a, b));
        assert_eq!(names, ["api.1", "web.1", "web.2", "web.10"]);
    }

    #[test]
    fn ids() {
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(id("short", false), "short");
    }
}
