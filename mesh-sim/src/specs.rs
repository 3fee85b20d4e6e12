//! The services that clients make: of every mode, with ports, networks and generic resources, and what nodes have of these.

use crate::sim::Sim;
use mesh_api::{
    engine,
    generic_resource::{Amount, GenericResources, to_proto},
    proto,
};
use mesh_manager::state::ServiceMode;
use rand::{Rng, rngs::StdRng};
use serde_json::{Value, json};

/// What the names of jobs begin with: the nodes go by it.
pub(crate) const JOB: &str = "j";
/// What the names of other services begin with.
const SERVICE: &str = "s";

/// What each node has one or the other of, by name.
const NAMED: &str = "gpu";
/// What each node has so many of.
const DISCRETE: &str = "slot";

/// Replicated services are what most have.
const MODES: [ServiceMode; 8] = [
    ServiceMode::Replicated,
    ServiceMode::Replicated,
    ServiceMode::Replicated,
    ServiceMode::Replicated,
    ServiceMode::Global,
    ServiceMode::ReplicatedJob,
    ServiceMode::ReplicatedJob,
    ServiceMode::GlobalJob,
];

/// Any mode.
pub(crate) fn any_mode(sim: &Sim) -> ServiceMode {
    sim.pick(&MODES).copied().unwrap_or(ServiceMode::Replicated)
}

/// What the name of a service begins with.
pub(crate) fn prefix(mode: ServiceMode) -> &'static str {
    if mode.is_job() { JOB } else { SERVICE }
}

/// What every node has of the kinds that services reserve: too little for all.
pub(crate) fn resources() -> Vec<proto::GenericResource> {
    let names = ["a", "b"].map(str::to_owned).into();
    to_proto(&GenericResources::from([
        (NAMED.to_owned(), Amount::Named(names)),
        (DISCRETE.to_owned(), Amount::Discrete(3)),
    ]))
}

/// A new service's spec, but for its labels.
pub(crate) fn make(sim: &Sim, mode: ServiceMode, name: &str, network: &str) -> engine::ServiceSpec {
    let mut dice = sim.dice();
    let mut spec = json!({
        "Name": name,
        "TaskTemplate": {
            "ContainerSpec": {"Image": "image:1"},
            "RestartPolicy": {"Delay": 500_000_000},
        },
        "Mode": match mode {
            ServiceMode::Replicated => json!({"Replicated": {"Replicas": dice.random_range(0..6)}}),
            ServiceMode::Global => json!({"Global": {}}),
            ServiceMode::ReplicatedJob => json!({"ReplicatedJob": {
                "MaxConcurrent": dice.random_range(1..4),
                "TotalCompletions": dice.random_range(1..7),
            }}),
            ServiceMode::GlobalJob => json!({"GlobalJob": {}}),
        },
    });
    if !mode.is_job() {
        publish(&mut dice, &mut spec);
        if dice.random_bool(0.3) {
            reserve(&mut dice, &mut spec);
        }
    }
    if dice.random_bool(0.5) {
        spec["TaskTemplate"]["Networks"] = json!([{"Target": network}]);
    }
    serde_json::from_value(spec).unwrap_or_default()
}

/// Ports, and how it is updated: on a node there is no room for another task with the same port.
fn publish(dice: &mut StdRng, spec: &mut Value) {
    let mut order = ["stop-first", "start-first"][dice.random_range(0..2)];
    if dice.random_bool(0.5) {
        let mode = ["ingress", "ingress", "host"][dice.random_range(0..3)];
        if mode == "host" {
            order = "stop-first";
        }
        let published = [0, 8000, 8001][dice.random_range(0..3)];
        let port = json!({
            "Protocol": "tcp",
            "PublishedPort": published,
            "TargetPort": 80,
            "PublishMode": mode,
        });
        spec["EndpointSpec"] = json!({"Ports": [port]});
    }
    let action = ["continue", "pause"][dice.random_range(0..2)];
    spec["UpdateConfig"] = json!({
        "Parallelism": dice.random_range(0..3),
        "Order": order,
        "FailureAction": action,
    });
}

/// Generic resources; where they are all taken, there is no room for another task.
fn reserve(dice: &mut StdRng, spec: &mut Value) {
    let kind = [NAMED, DISCRETE][dice.random_range(0..2)];
    let number = dice.random_range(1..3);
    let resource = json!({"DiscreteResourceSpec": {"Kind": kind, "Value": number}});
    let reserved = json!({"GenericResources": [resource]});
    spec["TaskTemplate"]["Resources"] = json!({"Reservations": reserved});
    spec["UpdateConfig"]["Order"] = json!("stop-first");
}

/// Changes something or other of a spec. A job is executed again, whatever that is.
pub(crate) fn edit(sim: &Sim, spec: &mut engine::ServiceSpec) {
    let mut dice = sim.dice();
    let mode = spec.mode.as_mut();
    if dice.random_bool(0.5)
        && let Some(mode) = mode
    {
        if let Some(replicated) = &mut mode.replicated {
            replicated.replicas = Some(dice.random_range(0..6));
        }
        if let Some(job) = &mut mode.replicated_job {
            job.max_concurrent = Some(dice.random_range(1..4));
            job.total_completions = Some(dice.random_range(1..7));
        }
    }
    let template = spec.task_template.as_mut();
    if dice.random_bool(0.4)
        && let Some(container) = template.and_then(|t| t.container_spec.as_mut())
    {
        container.image = Some(format!("image:{}", dice.random_range(1..100)));
    }
}
