//! The flags of `service create` and `service update` about health checks, checked as Docker's client does.

use anyhow::{Result, bail};
use mesh_api::engine::{HealthConfig, TaskSpecContainerSpec};

use super::spec_flags::set;
use crate::flags::quantity;

#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct HealthFlags {
    /// Command whose exit code tells whether a task does well; given to the shell
    #[arg(long, value_name = "COMMAND")]
    health_cmd: Option<String>,
    /// Time between two runs of it
    #[arg(long, value_parser = quantity::duration)]
    health_interval: Option<i64>,
    /// How long one run may take
    #[arg(long, value_parser = quantity::duration)]
    health_timeout: Option<i64>,
    /// So many failures in a row make a task unhealthy
    #[arg(long)]
    health_retries: Option<i64>,
    /// Time after the start in which failures do not count
    #[arg(long, value_parser = quantity::duration)]
    health_start_period: Option<i64>,
    /// Time between two runs during that time
    #[arg(long, value_parser = quantity::duration)]
    health_start_interval: Option<i64>,
    /// Run no health check, the image's neither
    #[arg(long)]
    no_healthcheck: bool,
}

impl HealthFlags {
    /// Sets what was given.
    ///
    /// # Errors
    /// Flags that contradict each other.
    pub(super) fn apply(&self, container: &mut TaskSpecContainerSpec) -> Result<()> {
        let is_given = self.health_cmd.is_some()
            || self.health_interval.is_some()
            || self.health_timeout.is_some()
            || self.health_retries.is_some()
            || self.health_start_period.is_some()
            || self.health_start_interval.is_some();
        if self.no_healthcheck {
            if is_given {
                bail!("--no-healthcheck conflicts with --health-* options");
            }
            container.health_check = Some(HealthConfig {
                test: Some(vec!["NONE".to_owned()]),
                ..HealthConfig::default()
            });
        }
        if !is_given {
            return Ok(());
        }
        let check = container.health_check.get_or_insert_default();
        let is_off = |test: &Vec<String>| test.first().is_some_and(|word| word == "NONE");
        if check.test.as_ref().is_some_and(is_off) {
            check.test = None;
        }
        if let Some(command) = &self.health_cmd {
            // Without a command, that of the image.
            check.test =
                (!command.is_empty()).then(|| vec!["CMD-SHELL".to_owned(), command.clone()]);
        }
        set(&mut check.interval, &self.health_interval);
        set(&mut check.timeout, &self.health_timeout);
        set(&mut check.retries, &self.health_retries);
        set(&mut check.start_period, &self.health_start_period);
        set(&mut check.start_interval, &self.health_start_interval);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cmd::arguments;

    /// The health check after these flags.
    fn after(before: Value, line: &[&str]) -> Result<Value> {
        let mut container: TaskSpecContainerSpec = serde_json::from_value(before)?;
        arguments::<HealthFlags>(line)?.apply(&mut container)?;
        Ok(serde_json::to_value(container.health_check)?)
    }

    #[test]
    fn flags() {
        let check = |check: Value| json!({"HealthCheck": check});
        let none = json!({"Test": ["NONE"]});
        for (before, line, expected) in [
            (json!({}), &[][..], json!(null)),
            (
                json!({}),
                &["--health-cmd", "exit 0"],
                json!({"Test": ["CMD-SHELL", "exit 0"]}),
            ),
            (
                json!({}),
                &[
                    "--health-interval",
                    "5s",
                    "--health-timeout",
                    "500ms",
                    "--health-retries",
                    "2",
                ],
                json!({"Interval": 5_000_000_000_i64, "Timeout": 500_000_000, "Retries": 2}),
            ),
            (
                check(json!({"Test": ["CMD", "a"]})),
                &[
                    "--health-start-period",
                    "1m",
                    "--health-start-interval",
                    "1s",
                ],
                json!({"Test": ["CMD", "a"], "StartPeriod": 60_000_000_000_i64,
                       "StartInterval": 1_000_000_000}),
            ),
            (
                check(json!({"Test": ["CMD", "a"], "Retries": 2})),
                &["--no-healthcheck"],
                none.clone(),
            ),
            (
                check(none.clone()),
                &["--health-retries", "4"],
                json!({"Retries": 4}),
            ),
            (
                check(json!({"Test": ["CMD", "a"]})),
                &["--health-cmd", ""],
                json!({}),
            ),
            (check(none.clone()), &[], none),
        ] {
            let found = after(before.clone(), line).expect("flags");
            assert_eq!(found, expected, "{before} {line:?}");
        }
        let error = after(json!({}), &["--no-healthcheck", "--health-retries", "1"]);
        assert_eq!(
            error.expect_err("refused").to_string(),
            "--no-healthcheck conflicts with --health-* options"
        );
        assert!(after(json!({}), &["--health-interval", "soon"]).is_err());
    }
}
