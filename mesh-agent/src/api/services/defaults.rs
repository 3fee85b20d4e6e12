//! What a spec that says nothing means, for `insertDefaults`.

use mesh_api::engine::{
    EndpointSpec, EndpointSpecModeEnum, ServiceSpec, ServiceSpecModeReplicated,
    ServiceSpecRollbackConfig, ServiceSpecRollbackConfigFailureActionEnum,
    ServiceSpecRollbackConfigOrderEnum, ServiceSpecUpdateConfig,
    ServiceSpecUpdateConfigFailureActionEnum, ServiceSpecUpdateConfigOrderEnum, TaskSpec,
    TaskSpecContainerSpec, TaskSpecPlacement, TaskSpecRestartPolicy,
    TaskSpecRestartPolicyConditionEnum,
};
use mesh_manager::state::ServiceMode;

const SECOND: i64 = 1_000_000_000;
/// How long a task may take to stop.
const STOP_GRACE: i64 = 10 * SECOND;
/// How long before a task is replaced.
const RESTART_DELAY: i64 = 5 * SECOND;
/// How long a new task is watched in an update.
const MONITOR: i64 = 5 * SECOND;

/// Fills in what is missing.
pub(super) fn insert(spec: &mut ServiceSpec) {
    let task = spec.task_template.get_or_insert_with(TaskSpec::default);
    let container = task
        .container_spec
        .get_or_insert_with(TaskSpecContainerSpec::default);
    container.stop_grace_period.get_or_insert(STOP_GRACE);
    container.dns_config.get_or_insert_default();
    task.placement
        .get_or_insert_with(TaskSpecPlacement::default);
    let restart = task
        .restart_policy
        .get_or_insert_with(TaskSpecRestartPolicy::default);
    restart
        .condition
        .get_or_insert(TaskSpecRestartPolicyConditionEnum::ANY);
    restart.delay.get_or_insert(RESTART_DELAY);
    restart.max_attempts.get_or_insert(0);
    mode(spec);
    let endpoint = spec.endpoint_spec.get_or_insert_with(EndpointSpec::default);
    endpoint.mode.get_or_insert(EndpointSpecModeEnum::VIP);
    if !ServiceMode::of(spec).is_job() {
        rollout(spec);
    }
}

/// How tasks are replaced; a job begins anew instead.
fn rollout(spec: &mut ServiceSpec) {
    let update = spec
        .update_config
        .get_or_insert_with(ServiceSpecUpdateConfig::default);
    update.parallelism.get_or_insert(1);
    update
        .failure_action
        .get_or_insert(ServiceSpecUpdateConfigFailureActionEnum::PAUSE);
    update.monitor.get_or_insert(MONITOR);
    update.max_failure_ratio.get_or_insert(0.0);
    update
        .order
        .get_or_insert(ServiceSpecUpdateConfigOrderEnum::STOP_FIRST);
    let rollback = spec
        .rollback_config
        .get_or_insert_with(ServiceSpecRollbackConfig::default);
    rollback.parallelism.get_or_insert(1);
    rollback
        .failure_action
        .get_or_insert(ServiceSpecRollbackConfigFailureActionEnum::PAUSE);
    rollback.monitor.get_or_insert(MONITOR);
    rollback.max_failure_ratio.get_or_insert(0.0);
    rollback
        .order
        .get_or_insert(ServiceSpecRollbackConfigOrderEnum::STOP_FIRST);
}

/// A service of no other mode is replicated, once where no number is given; a replicated job has one task at a time, and as
/// many in all as at a time. Stored, too: clients count on the numbers.
pub(super) fn mode(spec: &mut ServiceSpec) {
    let kind = ServiceMode::of(spec);
    let mode = spec.mode.get_or_insert_default();
    match kind {
        ServiceMode::Replicated => {
            let replicated = mode
                .replicated
                .get_or_insert_with(ServiceSpecModeReplicated::default);
            replicated.replicas.get_or_insert(1);
        }
        ServiceMode::ReplicatedJob => {
            if let Some(job) = &mut mode.replicated_job {
                let concurrent = *job.max_concurrent.get_or_insert(1);
                job.total_completions.get_or_insert(concurrent);
            }
        }
        ServiceMode::Global | ServiceMode::GlobalJob => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_stays() {
        let mut spec: ServiceSpec = serde_json::from_value(serde_json::json!({
            "Mode": {"Replicated": {"Replicas": 3}}, "UpdateConfig": {"Parallelism": 2}
        }))
        .expect("spec");
        insert(&mut spec);
        let spec = serde_json::to_value(spec).expect("json");
        assert_eq!(spec["Mode"]["Replicated"]["Replicas"], 3);
        assert_eq!(spec["UpdateConfig"]["Parallelism"], 2);
        assert_eq!(spec["UpdateConfig"]["FailureAction"], "pause");
        assert_eq!(spec["TaskTemplate"]["RestartPolicy"]["Condition"], "any");
        assert_eq!(
            spec["TaskTemplate"]["ContainerSpec"]["StopGracePeriod"],
            STOP_GRACE
        );
    }

    #[test]
    fn jobs_have_numbers_and_no_update() {
        for (given, stored) in [
            (serde_json::json!({}), (1, 1)),
            (serde_json::json!({"MaxConcurrent": 3}), (3, 3)),
            (serde_json::json!({"TotalCompletions": 5}), (1, 5)),
            (
                serde_json::json!({"MaxConcurrent": 0, "TotalCompletions": 2}),
                (0, 2),
            ),
        ] {
            let mut spec: ServiceSpec =
                serde_json::from_value(serde_json::json!({"Mode": {"ReplicatedJob": given}}))
                    .expect("spec");
            insert(&mut spec);
            assert!(spec.update_config.is_none() && spec.rollback_config.is_none());
            let job = spec.mode.and_then(|mode| mode.replicated_job).expect("job");
            let numbers = (job.max_concurrent, job.total_completions);
            assert_eq!(numbers, (Some(stored.0), Some(stored.1)));
        }
    }

    #[test]
    fn global_services_get_no_replicas() {
        let mut spec: ServiceSpec =
            serde_json::from_value(serde_json::json!({"Mode": {"Global": {}}})).expect("spec");
        insert(&mut spec);
        assert!(spec.mode.expect("mode").replicated.is_none());
    }
}
