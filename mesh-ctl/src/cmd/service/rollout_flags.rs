//! The flags of `service create` and `service update` that say how tasks are replaced.

use mesh_api::engine::{
    ServiceSpec, ServiceSpecRollbackConfigFailureActionEnum as RollbackAction,
    ServiceSpecRollbackConfigOrderEnum as RollbackOrder,
    ServiceSpecUpdateConfigFailureActionEnum as UpdateAction,
    ServiceSpecUpdateConfigOrderEnum as UpdateOrder,
};

use super::spec_flags::set;
use crate::flags::quantity;

/// What comes first when a task is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Order {
    /// The old task is stopped, then the new one started.
    StopFirst,
    /// The new task is started, then the old one stopped.
    StartFirst,
}

/// What is done when too many new tasks fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum UpdateFailure {
    /// Leave things as they are.
    Pause,
    /// Go on.
    Continue,
    /// Put the previous spec back.
    Rollback,
}

/// What is done when too many tasks of a rollback fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum RollbackFailure {
    /// Leave things as they are.
    Pause,
    /// Go on.
    Continue,
}

#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct RolloutFlags {
    /// Tasks replaced at once; 0 is all
    #[arg(long)]
    update_parallelism: Option<u32>,
    /// How long to wait between replacements
    #[arg(long, value_parser = quantity::duration)]
    update_delay: Option<i64>,
    /// How long a new task is watched for failure
    #[arg(long, value_parser = quantity::duration)]
    update_monitor: Option<i64>,
    /// What is done when too many new tasks fail
    #[arg(long, value_enum)]
    update_failure_action: Option<UpdateFailure>,
    /// Share of new tasks that may fail, 0 to 1
    #[arg(long)]
    update_max_failure_ratio: Option<f64>,
    /// What comes first when a task is replaced
    #[arg(long, value_enum)]
    update_order: Option<Order>,
    /// Tasks rolled back at once; 0 is all
    #[arg(long)]
    rollback_parallelism: Option<u32>,
    /// How long to wait between replacements of a rollback
    #[arg(long, value_parser = quantity::duration)]
    rollback_delay: Option<i64>,
    /// How long a task of a rollback is watched for failure
    #[arg(long, value_parser = quantity::duration)]
    rollback_monitor: Option<i64>,
    /// What is done when too many tasks of a rollback fail
    #[arg(long, value_enum)]
    rollback_failure_action: Option<RollbackFailure>,
    /// Share of a rollback's tasks that may fail, 0 to 1
    #[arg(long)]
    rollback_max_failure_ratio: Option<f64>,
    /// What comes first when a task is rolled back
    #[arg(long, value_enum)]
    rollback_order: Option<Order>,
}

impl RolloutFlags {
    /// Sets what was given.
    pub(super) fn apply(&self, spec: &mut ServiceSpec) {
        self.update(spec);
        self.rollback(spec);
    }

    fn update(&self, spec: &mut ServiceSpec) {
        let mut config = spec.update_config.clone().unwrap_or_default();
        set(
            &mut config.parallelism,
            &self.update_parallelism.map(i64::from),
        );
        set(&mut config.delay, &self.update_delay);
        set(&mut config.monitor, &self.update_monitor);
        set(
            &mut config.max_failure_ratio,
            &self.update_max_failure_ratio,
        );
        let action = self.update_failure_action.map(|action| match action {
            UpdateFailure::Pause => UpdateAction::PAUSE,
            UpdateFailure::Continue => UpdateAction::CONTINUE,
            UpdateFailure::Rollback => UpdateAction::ROLLBACK,
        });
        set(&mut config.failure_action, &action);
        let order = self.update_order.map(|order| match order {
            Order::StopFirst => UpdateOrder::STOP_FIRST,
            Order::StartFirst => UpdateOrder::START_FIRST,
        });
        set(&mut config.order, &order);
        if spec.update_config.is_some() || config != Default::default() {
            spec.update_config = Some(config);
        }
    }

    fn rollback(&self, spec: &mut ServiceSpec) {
        let mut config = spec.rollback_config.clone().unwrap_or_default();
        set(
            &mut config.parallelism,
            &self.rollback_parallelism.map(i64::from),
        );
        set(&mut config.delay, &self.rollback_delay);
        set(&mut config.monitor, &self.rollback_monitor);
        set(
            &mut config.max_failure_ratio,
            &self.rollback_max_failure_ratio,
        );
        let action = self.rollback_failure_action.map(|action| match action {
            RollbackFailure::Pause => RollbackAction::PAUSE,
            RollbackFailure::Continue => RollbackAction::CONTINUE,
        });
        set(&mut config.failure_action, &action);
        let order = self.rollback_order.map(|order| match order {
            Order::StopFirst => RollbackOrder::STOP_FIRST,
            Order::StartFirst => RollbackOrder::START_FIRST,
        });
        set(&mut config.order, &order);
        if spec.rollback_config.is_some() || config != Default::default() {
            spec.rollback_config = Some(config);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cmd::arguments;

    fn read(line: &str) -> Result<ServiceSpec, clap::Error> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut spec = ServiceSpec::default();
        arguments::<RolloutFlags>(&words)?.apply(&mut spec);
        Ok(spec)
    }

    #[test]
    fn what_is_given_is_set() {
        let line = "--update-parallelism 0 --update-order start-first --update-failure-action rollback \
                    --update-delay 1s --rollback-monitor 500ms --rollback-max-failure-ratio 0.2";
        let spec = serde_json::to_value(read(line).expect("flags")).expect("json");
        assert_eq!(
            spec,
            json!({
                "UpdateConfig": {"Parallelism": 0, "Order": "start-first", "FailureAction": "rollback",
                                 "Delay": 1_000_000_000},
                "RollbackConfig": {"Monitor": 500_000_000, "MaxFailureRatio": 0.2},
            })
        );
        assert_eq!(read("").expect("none"), ServiceSpec::default());
    }

    #[test]
    fn bad_input_is_refused() {
        for line in [
            "--update-parallelism -1",
            "--update-order both",
            "--rollback-failure-action rollback",
            "--update-delay soon",
            "--update-max-failure-ratio lots",
        ] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
