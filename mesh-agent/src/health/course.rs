//! What the runs of a health check make of a task, and when the next one is due. Pure: times are arguments.

use std::{collections::VecDeque, time::Duration};

use chrono::{DateTime, Utc};
use mesh_runtime::HealthCheck;

/// Runs remembered (Docker's number).
const REMEMBERED: usize = 5;

/// How a task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// No run has succeeded yet.
    Starting,
    /// The last run succeeded, or too few have failed since.
    Healthy,
    /// Too many runs in a row have failed.
    Unhealthy,
}

/// One run of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// When it began.
    pub start: DateTime<Utc>,
    /// When it was over.
    pub end: DateTime<Utc>,
    /// The command's exit code; -1 if it could not be run, or was killed for taking too long.
    pub code: i32,
    /// What it wrote, or why it has no code of its own.
    pub output: String,
}

/// What is known of a task's health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// How it does.
    pub status: Status,
    /// Runs in a row that failed and count.
    pub failing_streak: u32,
    /// The last runs, oldest first.
    pub log: VecDeque<Run>,
}

impl Health {
    /// A task of which this is known.
    pub fn new(status: Status) -> Self {
        Self {
            status,
            failing_streak: 0,
            log: VecDeque::new(),
        }
    }

    /// Takes note of a run that began when the container was of this age.
    pub fn note(&mut self, check: &HealthCheck, age: Duration, run: Run) {
        let has_succeeded = run.code == 0;
        if self.log.len() == REMEMBERED {
            self.log.pop_front();
        }
        self.log.push_back(run);
        if has_succeeded {
            self.failing_streak = 0;
            self.status = Status::Healthy;
        } else if self.status != Status::Starting || age >= check.start_period {
            self.failing_streak = self.failing_streak.saturating_add(1);
            if self.failing_streak >= check.retries {
                self.status = Status::Unhealthy;
            }
        }
    }

    /// How long to wait until the next run, when the container is of this age.
    pub fn pause(&self, check: &HealthCheck, age: Duration) -> Duration {
        let left = check.start_period.saturating_sub(age);
        if self.status == Status::Starting && !left.is_zero() {
            // At its end failures begin to count: it is not waited for any longer than that.
            check.start_interval.min(left)
        } else {
            check.interval
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check() -> HealthCheck {
        HealthCheck {
            command: vec!["ask".to_owned()],
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(3),
            start_period: Duration::from_secs(20),
            start_interval: Duration::from_secs(5),
            retries: 3,
        }
    }

    fn run(code: i32) -> Run {
        Run {
            start: DateTime::UNIX_EPOCH,
            end: DateTime::UNIX_EPOCH,
            code,
            output: code.to_string(),
        }
    }

    /// A task's status and failing streak after runs, given as (age in seconds, exit code).
    fn after(begin: Status, runs: &[(u64, i32)]) -> (Status, u32) {
        let mut health = Health::new(begin);
        for (age, code) in runs {
            health.note(&check(), Duration::from_secs(*age), run(*code));
        }
        (health.status, health.failing_streak)
    }

    #[test]
    fn courses() {
        use Status::{Healthy, Starting, Unhealthy};
        for (begin, runs, expected) in [
            (Starting, &[][..], (Starting, 0)),
            (Starting, &[(5, 0)], (Healthy, 0)),
            // In the start period nothing is held against it ...
            (
                Starting,
                &[(5, 1), (10, 1), (15, 1), (19, 1)],
                (Starting, 0),
            ),
            // ... from its end on everything is ...
            (Starting, &[(5, 1), (20, 1), (50, 1)], (Starting, 2)),
            (Starting, &[(20, 1), (50, -1), (80, 2)], (Unhealthy, 3)),
            // ... and a success ends it.
            (Starting, &[(5, 0), (10, 1), (15, 1)], (Healthy, 2)),
            (
                Starting,
                &[(5, 0), (10, 1), (15, 1), (18, 1)],
                (Unhealthy, 3),
            ),
            // Only what fails in a row counts.
            (
                Healthy,
                &[(50, 1), (80, 1), (110, 0), (140, 1), (170, 1)],
                (Healthy, 2),
            ),
            (Healthy, &[(1, 1), (2, 1), (3, 1)], (Unhealthy, 3)),
        ] {
            assert_eq!(after(begin, runs), expected, "{begin:?}, {runs:?}");
        }
    }

    #[test]
    fn one_retry_and_none() {
        let mut health = Health::new(Status::Healthy);
        let once = HealthCheck {
            retries: 1,
            ..check()
        };
        health.note(&once, Duration::ZERO, run(1));
        assert_eq!(health.status, Status::Unhealthy);
    }

    #[test]
    fn pauses() {
        let starting = Health::new(Status::Starting);
        let healthy = Health::new(Status::Healthy);
        for (health, age, seconds) in [
            (&starting, 0, 5),
            (&starting, 14, 5),
            (&starting, 18, 2),
            (&starting, 20, 30),
            (&starting, 90, 30),
            (&healthy, 0, 30),
            (&healthy, 50, 30),
        ] {
            let pause = health.pause(&check(), Duration::from_secs(age));
            assert_eq!(pause, Duration::from_secs(seconds), "{health:?} at {age}");
        }
        let plain = HealthCheck {
            start_period: Duration::ZERO,
            ..check()
        };
        assert_eq!(starting.pause(&plain, Duration::ZERO), plain.interval);
    }

    #[test]
    fn the_last_runs_are_remembered() {
        let mut health = Health::new(Status::Starting);
        for code in 1..=7 {
            health.note(&check(), Duration::ZERO, run(code));
        }
        let codes: Vec<_> = health.log.iter().map(|run| run.code).collect();
        assert_eq!(codes, [3, 4, 5, 6, 7]);
    }
}
