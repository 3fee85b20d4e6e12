//! Lengths of time as Docker words them: in `docker ps`'s status by the agent, elsewhere by clients.

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
