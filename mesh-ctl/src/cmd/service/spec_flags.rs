//! The flags of `service create` and `service update` that set one value each.

use mesh_api::engine::{
    ServiceSpec, TaskSpec, TaskSpecContainerSpec, TaskSpecLogDriver,
    TaskSpecRestartPolicyConditionEnum as Condition,
};

use crate::flags::{labels, quantity};

/// When an ended task is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum RestartCondition {
    /// Never.
    None,
    /// When it failed.
    OnFailure,
    /// Always.
    Any,
}

#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct SpecFlags {
    /// CPUs a task may use
    #[arg(long, value_parser = quantity::cpus)]
    limit_cpu: Option<i64>,
    /// Memory a task may use
    #[arg(long, value_parser = quantity::bytes)]
    limit_memory: Option<i64>,
    /// Processes a task may have
    #[arg(long)]
    limit_pids: Option<i64>,
    /// CPUs kept for a task
    #[arg(long, value_parser = quantity::cpus)]
    reserve_cpu: Option<i64>,
    /// Memory kept for a task
    #[arg(long, value_parser = quantity::bytes)]
    reserve_memory: Option<i64>,
    /// Host name in the tasks; may be a template
    #[arg(long)]
    hostname: Option<String>,
    /// User (or user:group) the command runs as
    #[arg(short, long)]
    user: Option<String>,
    /// Directory the command starts in
    #[arg(short, long)]
    workdir: Option<String>,
    /// When an ended task is replaced
    #[arg(long, value_enum)]
    restart_condition: Option<RestartCondition>,
    /// How long before a task is replaced
    #[arg(long, value_parser = quantity::duration)]
    restart_delay: Option<i64>,
    /// How often a task is replaced at most
    #[arg(long)]
    restart_max_attempts: Option<i64>,
    /// Time within which replacements count towards that
    #[arg(long, value_parser = quantity::duration)]
    restart_window: Option<i64>,
    /// How long a task may take to stop before it is killed
    #[arg(long, value_parser = quantity::duration)]
    stop_grace_period: Option<i64>,
    /// Signal that stops a task
    #[arg(long)]
    stop_signal: Option<String>,
    /// Mount the root file system read-only
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    read_only: Option<bool>,
    /// Give tasks a terminal
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tty: Option<bool>,
    /// Run an init in tasks
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    init: Option<bool>,
    /// What is kept of the tasks' output: json-file, local or none
    #[arg(long, value_name = "DRIVER")]
    log_driver: Option<String>,
    /// Option of the log driver, as key=value: max-size, max-file
    #[arg(long = "log-opt", value_name = "OPTION", requires = "log_driver")]
    log_options: Vec<String>,
    /// At most so many tasks per node; 0 is any number
    #[arg(long)]
    replicas_max_per_node: Option<i64>,
}

impl SpecFlags {
    /// Whether a node may have so many tasks only.
    pub(super) fn limits_replicas_per_node(&self) -> bool {
        self.replicas_max_per_node.is_some_and(|most| most > 0)
    }

    /// Sets what was given.
    pub(super) fn apply(&self, spec: &mut ServiceSpec) {
        let task = spec.task_template.get_or_insert_default();
        self.container(task.container_spec.get_or_insert_default());
        self.resources(task);
        self.restart(task);
        // An empty name leaves it as it is, as in Docker.
        if let Some(name) = self.log_driver.clone().filter(|name| !name.is_empty()) {
            task.log_driver = Some(TaskSpecLogDriver {
                name: Some(name),
                options: Some(labels(&self.log_options)),
            });
        }
        if let Some(most) = self.replicas_max_per_node {
            task.placement.get_or_insert_default().max_replicas = Some(most);
        }
    }

    fn container(&self, container: &mut TaskSpecContainerSpec) {
        set(&mut container.hostname, &self.hostname);
        set(&mut container.user, &self.user);
        set(&mut container.dir, &self.workdir);
        set(&mut container.stop_signal, &self.stop_signal);
        set(&mut container.stop_grace_period, &self.stop_grace_period);
        set(&mut container.read_only, &self.read_only);
        set(&mut container.tty, &self.tty);
        set(&mut container.init, &self.init);
    }

    fn resources(&self, task: &mut TaskSpec) {
        // A task template that differs, be it by an empty object, replaces the tasks.
        if self.limit_cpu.is_some() || self.limit_memory.is_some() || self.limit_pids.is_some() {
            let resources = task.resources.get_or_insert_default();
            let limits = resources.limits.get_or_insert_default();
            set(&mut limits.nano_cpus, &self.limit_cpu);
            set(&mut limits.memory_bytes, &self.limit_memory);
            set(&mut limits.pids, &self.limit_pids);
        }
        if self.reserve_cpu.is_some() || self.reserve_memory.is_some() {
            let resources = task.resources.get_or_insert_default();
            let kept = resources.reservations.get_or_insert_default();
            set(&mut kept.nano_cpus, &self.reserve_cpu);
            set(&mut kept.memory_bytes, &self.reserve_memory);
        }
    }

    fn restart(&self, task: &mut TaskSpec) {
        let given = self.restart_condition.is_some()
            || self.restart_delay.is_some()
            || self.restart_max_attempts.is_some()
            || self.restart_window.is_some();
        if !given {
            return;
        }
        let policy = task.restart_policy.get_or_insert_default();
        if let Some(condition) = self.restart_condition {
            policy.condition = Some(match condition {
                RestartCondition::None => Condition::NONE,
                RestartCondition::OnFailure => Condition::ON_FAILURE,
                RestartCondition::Any => Condition::ANY,
            });
        }
        set(&mut policy.delay, &self.restart_delay);
        set(&mut policy.max_attempts, &self.restart_max_attempts);
        set(&mut policy.window, &self.restart_window);
    }
}

/// Sets a field to what was given, if anything was.
pub(super) fn set<T: Clone>(field: &mut Option<T>, flag: &Option<T>) {
    if flag.is_some() {
        field.clone_from(flag);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_leaves_the_template_as_it_is() {
        let given = ServiceSpec {
            task_template: Some(TaskSpec {
                container_spec: Some(TaskSpecContainerSpec::default()),
                ..TaskSpec::default()
            }),
            ..ServiceSpec::default()
        };
        let mut spec = given.clone();
        SpecFlags::default().apply(&mut spec);
        assert_eq!(spec, given);
    }
    #[test]
    fn log_drivers() {
        let of = |words: &[&str]| {
            let flags: SpecFlags = crate::cmd::arguments(words).expect("flags");
            let mut spec = ServiceSpec::default();
            flags.apply(&mut spec);
            spec.task_template.and_then(|task| task.log_driver)
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["--log-driver", ""]), None);
        let local = of(&["--log-driver", "local", "--log-opt", "max-size=1m"]).expect("a driver");
        assert_eq!(local.name.as_deref(), Some("local"));
        assert_eq!(local.options.expect("options")["max-size"], "1m");
        crate::cmd::arguments::<SpecFlags>(&["--log-opt", "max-size=1m"]).expect_err("of what");
    }
}
