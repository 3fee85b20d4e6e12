//! Lengths of time as Docker words them: in `docker ps`'s status by the agent, elsewhere by clients.

/// A length of time in one unit, such as `3 seconds` or `About a minute`.
pub fn duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const WEEK: i64 = 7 * DAY;
    const MONTH: i64 = 30 * DAY;
    const YEAR: i64 = 365 * DAY;
    match seconds {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        s if s < MINUTE => format!("{s} seconds"),
        s if s < 2 * MINUTE => "About a minute".to_owned(),
        s if s < HOUR => format!("{} minutes", s / MINUTE),
        // Docker rounds to whole hours.
        s if (s + HOUR / 2) / HOUR == 1 => "About an hour".to_owned(),
        s if s < 2 * DAY => format!("{} hours", (s + HOUR / 2) / HOUR),
        s if s < 2 * WEEK => format!("{} days", s / DAY),
        s if s < 2 * MONTH => format!("{} weeks", s / WEEK),
        s if s < 2 * YEAR => format!("{} months", s / MONTH),
        s => format!("{} years", s / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            (3 * 86_400, "3 days"),
            (20 * 86_400, "2 weeks"),
            (100 * 86_400, "3 months"),
            (900 * 86_400, "2 years"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
    }
}
