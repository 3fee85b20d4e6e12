//! The label by which a service says how long its tasks may make no progress: Swarm's specs have no field for it.

use crate::human;
use std::{collections::HashMap, time::Duration};

/// Label: how long an update may go on without another task of its becoming running; `off`, the default: for ever.
pub const LABEL: &str = "mesh.progress-deadline";
/// The shortest that makes sense: managers and nodes take their time, too.
const LEAST: Duration = Duration::from_secs(1);
/// The longest: seven days.
const MOST: Duration = Duration::from_secs(7 * 24 * 3600);

/// What the labels of a service say of it; `None`: it may take as long as it takes.
///
/// # Errors
/// With the label, its value and what it may be.
pub fn of(labels: Option<&HashMap<String, String>>) -> Result<Option<Duration>, String> {
    match labels.and_then(|all| all.get(LABEL)).map(String::as_str) {
        None | Some("off") => Ok(None),
        Some(text) => human::parse_go_duration(text)
            .filter(|time| (LEAST..=MOST).contains(time))
            .map(Some)
            .ok_or_else(|| {
                format!(
                    "label {LABEL}={text} is invalid: expected off, or a time from 1s to 168h such as 90s or 5m"
                )
            }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_is_a_time_or_off() {
        let told = |text: &str| of(Some(&[(LABEL.to_owned(), text.to_owned())].into()));
        assert_eq!(of(None), Ok(None));
        assert_eq!(of(Some(&HashMap::new())), Ok(None));
        for (text, seconds) in [
            ("off", None),
            ("1s", Some(1)),
            ("1m30s", Some(90)),
            ("168h", Some(604_800)),
        ] {
            assert_eq!(told(text), Ok(seconds.map(Duration::from_secs)), "{text}");
        }
        for bad in ["", "0", "999ms", "168h1s", "30", "-1s", "never", "1e300h"] {
            let error = told(bad).expect_err(bad);
            let expected = format!("label mesh.progress-deadline={bad} is invalid: expected off");
            assert!(error.starts_with(&expected), "{error}");
        }
    }
}
