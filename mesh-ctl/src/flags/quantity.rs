//! Sizes, CPUs and durations. Each parser's error is a text for clap.

use mesh_api::human;

/// Bytes: `64M`, `1.5g`, `512KiB`, `100`. Units are binary, as Docker reads memory.
pub(crate) fn bytes(text: &str) -> Result<i64, String> {
    let wrong = || format!("invalid size {text:?}: write it as 64M or 1g");
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number: f64 = text[..end].parse().map_err(|_| wrong())?;
    let unit = text[end..].trim().to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let shift = match unit.strip_suffix('i').unwrap_or(unit) {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(wrong()),
    };
    let bytes = number * (1_u64 << shift) as f64;
    if bytes.is_finite() && bytes < i64::MAX as f64 {
        Ok(bytes as i64)
    } else {
        Err(wrong())
    }
}

/// CPUs in billionths: `0.5` is 500,000,000.
pub(crate) fn cpus(text: &str) -> Result<i64, String> {
    let wrong = || format!("invalid number of CPUs {text:?}: write it as 0.5 or 2");
    let number: f64 = text.parse().map_err(|_| wrong())?;
    let nanos = (number * 1e9).round();
    if number >= 0.0 && nanos < i64::MAX as f64 {
        Ok(nanos as i64)
    } else {
        Err(wrong())
    }
}

/// Nanoseconds of a duration in Go's notation: `10s`, `1m30s`, `500ms`, `0`.
pub(crate) fn duration(text: &str) -> Result<i64, String> {
    human::parse_go_duration(text)
        .and_then(|time| i64::try_from(time.as_nanos()).ok())
        .ok_or_else(|| format!("invalid duration {text:?}: write it as 10s, 1m30s or 500ms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("64M", 64 << 20),
            ("1g", 1 << 30),
            ("1.5GiB", 3 << 29),
            ("100", 100),
            ("2kb", 2048),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "M", "-1", "5x", "1..2", "1gbb"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cpu_counts() {
        assert_eq!(cpus("0.5"), Ok(500_000_000));
        assert!(cpus("-1").is_err() && cpus("x").is_err());
    }

    #[test]
    fn durations() {
        for (text, expected) in [
            ("10s", 10_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5ms", 1_500_000),
            ("0", 0),
        ] {
            assert_eq!(duration(text), Ok(expected), "{text}");
        }
        for text in ["", "10", "s", "-1s", "1d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
