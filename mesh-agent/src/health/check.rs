//! What a task's health check is: the specification's over the image's, and what Docker takes where neither says. Pure.

use std::time::Duration;

use mesh_api::engine::HealthConfig;
use mesh_image::{Healthcheck, ImageConfig};
use mesh_runtime::HealthCheck;

const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_PERIOD: Duration = Duration::ZERO;
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;

/// The check of a task; `None` where there is none, or one that no agent can run.
pub(crate) fn of(wanted: Option<&HealthConfig>, image: &ImageConfig) -> Option<HealthCheck> {
    let wanted = wanted.cloned().unwrap_or_default();
    let nothing = Healthcheck::default();
    let given = image.healthcheck.as_ref().unwrap_or(&nothing);
    let own = wanted.test.filter(|test| !test.is_empty());
    let command = command(own.as_ref().unwrap_or(&given.test), &image.shell)?;
    let time = |own: Option<i64>, image: i64, default| {
        let nanos = own.filter(|nanos| *nanos > 0).unwrap_or(image);
        let nanos = u64::try_from(nanos).ok().filter(|nanos| *nanos > 0);
        nanos.map_or(default, Duration::from_nanos)
    };
    let retries = wanted.retries.filter(|count| *count > 0);
    Some(HealthCheck {
        command,
        interval: time(wanted.interval, given.interval, INTERVAL),
        timeout: time(wanted.timeout, given.timeout, TIMEOUT),
        start_period: time(wanted.start_period, given.start_period, START_PERIOD),
        start_interval: time(wanted.start_interval, given.start_interval, START_INTERVAL),
        retries: u32::try_from(retries.unwrap_or(given.retries))
            .ok()
            .filter(|count| *count > 0)
            .unwrap_or(RETRIES),
    })
}

fn command(test: &[String], shell: &[String]) -> Option<Vec<String>> {
    let (kind, rest) = test.split_first()?;
    match kind.as_str() {
        _ if rest.is_empty() => None,
        "CMD" => Some(rest.to_vec()),
        "CMD-SHELL" if shell.is_empty() => {
            let shell = ["/bin/sh".to_owned(), "-c".to_owned()];
            Some([&shell[..], rest].concat())
        }
        "CMD-SHELL" => Some([shell, rest].concat()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn test(words_of: &[&str]) -> HealthConfig {
        HealthConfig {
            test: Some(words(words_of)),
            ..HealthConfig::default()
        }
    }

    fn image(test: &[&str]) -> ImageConfig {
        ImageConfig {
            healthcheck: Some(Healthcheck {
                test: words(test),
                interval: 7_000_000_000,
                retries: 9,
                ..Healthcheck::default()
            }),
            ..ImageConfig::default()
        }
    }

    #[test]
    fn commands() {
        let bare = ImageConfig::default();
        let checked = image(&["CMD", "ask", "me"]);
        let shelled = ImageConfig {
            shell: words(&["/bin/ash", "-ec"]),
            ..image(&["CMD-SHELL", "ask"])
        };
        for (wanted, image, expected) in [
            (None, &bare, None),
            (Some(test(&[])), &bare, None),
            (Some(test(&["CMD", "a", "b"])), &bare, Some(vec!["a", "b"])),
            (
                Some(test(&["CMD-SHELL", "a b"])),
                &bare,
                Some(vec!["/bin/sh", "-c", "a b"]),
            ),
            (Some(test(&["CMD"])), &bare, None),
            (Some(test(&["HTTP", "/"])), &bare, None),
            (None, &checked, Some(vec!["ask", "me"])),
            (
                Some(HealthConfig::default()),
                &checked,
                Some(vec!["ask", "me"]),
            ),
            (Some(test(&["NONE"])), &checked, None),
            (Some(test(&["CMD", "own"])), &checked, Some(vec!["own"])),
            (None, &shelled, Some(vec!["/bin/ash", "-ec", "ask"])),
            (None, &image(&["NONE"]), None),
        ] {
            let found = of(wanted.as_ref(), image).map(|check| check.command);
            assert_eq!(
                found,
                expected.map(|e| words(&e)),
                "{wanted:?} over {image:?}"
            );
        }
    }

    #[test]
    fn each_time_is_the_specifications_the_images_or_the_default() {
        let wanted = HealthConfig {
            timeout: Some(1_500_000_000),
            interval: Some(0),
            start_period: Some(2_000_000_000),
            ..HealthConfig::default()
        };
        let check = of(Some(&wanted), &image(&["CMD", "ask"])).expect("a check");
        assert_eq!(check.timeout, Duration::from_millis(1500));
        assert_eq!(check.interval, Duration::from_secs(7));
        assert_eq!(check.start_period, Duration::from_secs(2));
        assert_eq!((check.start_interval, check.retries), (START_INTERVAL, 9));
        let bare = of(Some(&test(&["CMD", "ask"])), &ImageConfig::default()).expect("a check");
        assert_eq!((bare.interval, bare.timeout), (INTERVAL, TIMEOUT));
        assert_eq!((bare.start_period, bare.retries), (START_PERIOD, RETRIES));
    }
}
