//! Lengths of time as Docker words and reads them: in `docker ps`'s status by the agent, elsewhere by clients.

use std::time::Duration;

/// A length of time in one unit, such as `3 seconds` or `About a minute`.
pub fn duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    // From here on in hours: Docker rounds to whole hours first.
    const DAY: i64 = 24;
    const WEEK: i64 = 7 * DAY;
    const MONTH: i64 = 30 * DAY;
    const YEAR: i64 = 365 * DAY;
    match seconds {
        ..1 => return "Less than a second".to_owned(),
        1 => return "1 second".to_owned(),
        s if s < MINUTE => return format!("{s} seconds"),
        s if s < 2 * MINUTE => return "About a minute".to_owned(),
        s if s < HOUR => return format!("{} minutes", s / MINUTE),
        _ => {}
    }
    match (seconds + HOUR / 2) / HOUR {
        1 => "About an hour".to_owned(),
        h if h < 2 * DAY => format!("{h} hours"),
        h if h < 2 * WEEK => format!("{} days", h / DAY),
        h if h < 2 * MONTH => format!("{} weeks", h / WEEK),
        h if h < 2 * YEAR => format!("{} months", h / MONTH),
        h => format!("{} years", h / YEAR),
    }
}

/// A length of time in Go's notation, such as `1m30s` or `1.5ms`.
pub fn go_duration(time: Duration) -> String {
    const SECOND: u128 = 1_000_000_000;
    const MINUTE: u128 = 60 * SECOND;
    let nanos = time.as_nanos();
    // Below a second Go takes the largest unit that leaves something before the point.
    for (unit, name) in [(1_000_000, "ms"), (1_000, "µs"), (1, "ns")] {
        if (unit..SECOND).contains(&nanos) {
            return format!("{}{name}", nanos as f64 / unit as f64);
        }
    }
    let minutes = nanos / MINUTE;
    let seconds = (nanos % MINUTE) as f64 / SECOND as f64;
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// Reads a length of time in Go's notation: `10s`, `1m30s`, `500ms`, `0`. `None`: it is none, or more than an `i64` of
/// nanoseconds holds.
pub fn parse_go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanos = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        nanos += number
            * match &rest[..end] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return None,
            };
        rest = &rest[end..];
    }
    (!text.is_empty() && nanos < i64::MAX as f64).then(|| Duration::from_nanos(nanos as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (nanos, expected) in [
            (0, "0s"),
            (5_000_000_000, "5s"),
            (1_500_000_000, "1.5s"),
            (500_000_000, "500ms"),
            (1_500, "1.5µs"),
            (90_500_000_000, "1m30.5s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_nanos(nanos)), expected);
        }
    }

    #[test]
    fn durations_are_read() {
        for (text, nanos) in [
            ("10s", 10_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5ms", 1_500_000),
            ("2us3ns", 2_003),
            ("0", 0),
        ] {
            let expected = Some(Duration::from_nanos(nanos));
            assert_eq!(parse_go_duration(text), expected, "{text}");
        }
        for text in ["", "10", "s", "-1s", "1d", "1..2s", "2562048h"] {
            assert_eq!(parse_go_duration(text), None, "{text}");
        }
    }

    #[test]
    fn durations() {
        for (seconds, expected) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (150, "2 minutes"),
            (3600, "About an hour"),
            (2 * 3600, "2 hours"),
            (2 * 86_400 - 1, "2 days"),
            (3 * 86_400, "3 days"),
            (20 * 86_400, "2 weeks"),
            (100 * 86_400, "3 months"),
            (900 * 86_400, "2 years"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
    }
}
