//! Filters, spreading, and the words for what does not fit.

use super::{Constraint, Failures, MAX_ALONE, NodeSet, place, schedule};
use crate::{
    Change, Command, NodeReport, Operation,
    fixture::{SECOND, World, constrained, on, published, replicated, template},
    state::TaskState,
};
use mesh_api::{engine, handout::Kind};
use serde_json::{Value, json};
use std::collections::HashMap;

fn placed(replicas: i64, placement: Value) -> engine::ServiceSpec {
    let mut spec = replicated("x", replicas);
    template(&mut spec).placement = serde_json::from_value(placement).unwrap();
    spec
}

fn label(world: &mut World, node: &str, key: &str, value: &str) {
    let version = world.state.node(node).unwrap().meta.version;
    let mut spec = world.state.node(node).unwrap().spec.clone();
    spec.labels = Some(HashMap::from([(key.to_owned(), value.to_owned())]));
    world
        .call(Command::UpdateNode {
            id: node.to_owned(),
            version,
            spec,
        })
        .unwrap();
}

#[test]
fn constraints_match_as_swarms_do() {
    let mut world = World::new(&["n1"]);
    label(&mut world, "n1", "zone", "East");
    let node = world.state.node("n1").unwrap();
    let cases = [
        ("node.hostname==n1", true),
        ("node.hostname == N1", true),
        ("node.hostname!=n1", false),
        ("node.id==n1", true),
        ("node.role==worker", true),
        ("node.role!=manager", true),
        ("node.platform.os==linux", true),
        ("node.platform.arch==x86_64", true),
        ("node.labels.zone==east", true),
        ("node.labels.zone==eas", false),
        ("node.labels.zone!=west", true),
        ("node.labels.absent!=x", true),
        ("node.labels.absent==x", false),
        ("engine.labels.absent!=x", true),
        ("node.ip==10.9.0.1", true),
        ("node.ip==10.9.0.0/24", true),
        ("node.ip!=10.9.0.0/24", false),
        ("node.ip==nonsense", false),
        ("node.unknown==x", false),
        ("node.unknown!=x", false),
    ];
    for (text, expected) in cases {
        assert_eq!(
            Constraint::parse(text).unwrap().matches(node),
            expected,
            "{text}"
        );
    }
}

#[test]
fn what_does_not_fit_says_why() {
    let reserve = |cpus: i64, memory: i64| {
        let mut spec = replicated("x", 1);
        let resources = json!({"Reservations": {"NanoCPUs": cpus, "MemoryBytes": memory}});
        template(&mut spec).resources = serde_json::from_value(resources).unwrap();
        spec
    };
    let arm = json!({"Platforms": [{"Architecture": "arm64", "OS": "linux"}]});
    // The manager is drained: always one node not available.
    let drained = "1 node not available for new tasks";
    let cases = [
        (
            placed(1, json!({"Constraints": ["node.labels.ssd==yes"]})),
            format!(
                "no suitable node (scheduling constraints not satisfied on 2 nodes; {drained})"
            ),
        ),
        (
            reserve(3 * SECOND, 0),
            format!("no suitable node (insufficient resources on 2 nodes; {drained})"),
        ),
        (
            reserve(0, 2 << 30),
            format!("no suitable node (insufficient resources on 2 nodes; {drained})"),
        ),
        (
            placed(1, arm),
            format!("no suitable node (unsupported platform on 2 nodes; {drained})"),
        ),
        (
            placed(
                1,
                json!({"Constraints": ["node.hostname==n1", "node.role==manager"]}),
            ),
            format!(
                "no suitable node (scheduling constraints not satisfied on 2 nodes; {drained})"
            ),
        ),
    ];
    for (spec, expected) in cases {
        let mut world = World::new(&["n1", "n2"]);
        let id = world.service(spec).unwrap();
        world.settle();
        let task = world.wanted(&id)[0];
        assert_eq!(task.status.state, TaskState::Pending);
        assert_eq!(task.status.error, expected);
    }
    let mut world = World::new(&["n1", "n2"]);
    world.node_down("n1");
    world.node_down("n2");
    let id = world.service(replicated("x", 1)).unwrap();
    world.settle();
    let error = &world.wanted(&id)[0].status.error;
    assert_eq!(
        error,
        "no suitable node (3 nodes not available for new tasks)"
    );
    // As soon as one is back, it goes.
    world.node_up("n2");
    world.work();
    assert_eq!(world.running_on(&id, "n2"), 1);
    assert_eq!(world.wanted(&id)[0].status.error, "");
}

#[test]
fn tasks_with_secrets_go_to_nodes_that_hand_them_out() {
    for (is_template, told) in [
        (false, "secrets and configs not supported on 1 node"),
        (
            true,
            "templated secrets and configs not supported on 1 node",
        ),
    ] {
        let mut world = World::new(&["n1", "n2"]);
        for node in ["n1", "n2"] {
            let is_new = node == "n2";
            let description = NodeReport {
                hands_out: is_new || is_template,
                fills_in: is_new,
                ..world.state.node(node).unwrap().description.clone()
            };
            let node_id = node.to_owned();
            let up = Operation::NodeUp {
                node_id,
                description,
            };
            world.apply(up).unwrap();
        }
        world
            .call(Command::CreateHandout {
                kind: Kind::Secret,
                name: "key".to_owned(),
                labels: Default::default(),
                data: b"sesame".to_vec().into(),
                is_template,
            })
            .unwrap();
        let spec = world.claiming(replicated("x", 2), &[(Kind::Secret, "key")]);
        let id = world.service(spec.clone()).unwrap();
        world.work();
        assert_eq!(["n1", "n2"].map(|n| world.running_on(&id, n)), [0, 2]);

        let mut pinned = constrained(spec, &["node.hostname==n1"]);
        pinned.name = Some("y".to_owned());
        let id = world.service(pinned).unwrap();
        world.work();
        let error = &world.wanted(&id)[0].status.error;
        assert!(error.contains(told), "{error}");
    }
}

/// A node tells that its agent knows encrypted networks, or does not, as older ones.
fn tell(world: &mut World, node: &str, encrypts: bool) {
    let description = NodeReport {
        encrypts,
        ..world.state.node(node).unwrap().description.clone()
    };
    let node_id = node.to_owned();
    world
        .apply(Operation::NodeUp {
            node_id,
            description,
        })
        .unwrap();
}

#[test]
fn tasks_on_encrypted_networks_go_to_nodes_that_know_them() {
    // n1 and n2 are told of by whether they know them; the tasks that each then runs, and why others wait.
    let none = "no suitable node (encrypted networks not supported on 2 nodes; 1 node not available for new tasks)";
    let n2_alone = "no suitable node (1 node not available for new tasks; encrypted networks not supported on 1 node; \
                    scheduling constraints not satisfied on 1 node)";
    let on_n1 = ["node.hostname==n1"].as_slice();
    let cases = [
        (
            ["hidden"].as_slice(),
            [].as_slice(),
            [true, true],
            [1, 1],
            "",
        ),
        (&["hidden"], &[], [false, true], [0, 2], ""),
        (&["plain", "hidden"], &[], [true, false], [2, 0], ""),
        (&["plain"], &[], [false, false], [1, 1], ""),
        (&["hidden"], &[], [false, false], [0, 0], none),
        (&["hidden"], on_n1, [false, true], [0, 0], n2_alone),
    ];
    for (networks, constraints, knows, runs, error) in cases {
        let mut world = World::new(&["n1", "n2"]);
        for (node, encrypts) in ["n1", "n2"].into_iter().zip(knows) {
            tell(&mut world, node, encrypts);
        }
        world.network("plain", "").unwrap();
        let hidden = engine::NetworkCreateRequest {
            name: "hidden".to_owned(),
            options: Some([("encrypted".to_owned(), String::new())].into()),
            ..Default::default()
        };
        let request = Box::new(hidden);
        world.create(Command::CreateNetwork { request }).unwrap();
        let spec = constrained(on(replicated("x", 2), networks), constraints);
        let id = world.service(spec).unwrap();
        world.work();
        let case = format!("{networks:?} {constraints:?} {knows:?}");
        assert_eq!(
            ["n1", "n2"].map(|n| world.running_on(&id, n)),
            runs,
            "{case}"
        );
        for task in world.wanted(&id) {
            assert_eq!(task.status.error, error, "{case}");
        }
        // Once the agents are newer, nothing waits.
        tell(&mut world, "n1", true);
        tell(&mut world, "n2", true);
        world.work();
        let running = ["n1", "n2"].map(|n| world.running_on(&id, n));
        assert_eq!(running.iter().sum::<usize>(), 2, "{case}");
    }
}

#[test]
fn tasks_spread_by_service_then_in_all() {
    let mut world = World::new(&["n1", "n2", "n3"]);
    let a = world.service(replicated("a", 4)).unwrap();
    world.work();
    let b = world.service(replicated("b", 2)).unwrap();
    world.work();
    let counts = |world: &World, id: &str| ["n1", "n2", "n3"].map(|n| world.running_on(id, n));
    let mut spread = counts(&world, &a);
    spread.sort_unstable();
    assert_eq!(spread, [1, 1, 2]);
    // The node with most tasks in all gets none of b.
    let busiest = counts(&world, &a).iter().position(|c| *c == 2).unwrap();
    assert_eq!(counts(&world, &b)[busiest], 0);
}

#[test]
fn preferences_even_out_branches() {
    let mut world = World::new(&["n1", "n2", "n3"]);
    label(&mut world, "n1", "zone", "east");
    label(&mut world, "n2", "zone", "east");
    // n3 has no zone: a branch of its own.
    let by_zone = json!({"Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.zone"}}]});
    let id = world.service(placed(4, by_zone)).unwrap();
    world.work();
    assert_eq!(
        ["n1", "n2", "n3"].map(|n| world.running_on(&id, n)),
        [1, 1, 2]
    );
}

#[test]
fn host_ports_and_max_replicas_keep_tasks_apart() {
    let mut world = World::new(&["n1", "n2"]);
    let mut spec = published("web", 8080, true);
    spec.mode = replicated("web", 3).mode;
    let id = world.service(spec).unwrap();
    world.work();
    assert_eq!(["n1", "n2"].map(|n| world.running_on(&id, n)), [1, 1]);
    let errors: Vec<_> = world
        .wanted(&id)
        .iter()
        .map(|t| t.status.error.clone())
        .filter(|e| !e.is_empty())
        .collect();
    assert_eq!(
        errors,
        [
            "no suitable node (host-mode port already in use on 2 nodes; 1 node not available for \
             new tasks)"
        ]
    );
    let few = world.service(placed(3, json!({"MaxReplicas": 1}))).unwrap();
    world.work();
    assert_eq!(["n1", "n2"].map(|n| world.running_on(&few, n)), [1, 1]);
}

#[test]
fn a_node_that_fails_a_service_comes_last() {
    let mut world = World::new(&["n1", "n2"]);
    let mut spec = constrained(replicated("web", 1), &["node.hostname==n1"]);
    let policy = json!({"Delay": 0, "MaxAttempts": 9});
    template(&mut spec).restart_policy = serde_json::from_value(policy).unwrap();
    let id = world.service(spec).unwrap();
    for _ in 0..5 {
        world.work();
        let task = world.wanted(&id)[0].id.clone();
        world.report(&task, TaskState::Failed);
    }
    world
        .edit(&id, |spec| template(spec).placement = None)
        .unwrap();
    world.work();
    assert_eq!(world.running_on(&id, "n2"), 1);
}

#[test]
fn many_replicas_go_where_each_by_itself_would() {
    let mut world = World::new(&["n1", "n2", "n3", "n4"]);
    // Some nodes have other tasks already, and each takes so many of these only.
    world
        .service(constrained(replicated("old", 5), &["node.hostname==n2"]))
        .unwrap();
    world.work();
    world
        .service(placed(40, json!({"MaxReplicas": 7})))
        .unwrap();
    while world.state.pending_tasks().count() < 40 {
        let changes = world.plan();
        let created = changes
            .into_iter()
            .filter(|c| matches!(c, Change::CreateTask { .. }))
            .collect();
        world.apply(Operation::Reconcile(created)).unwrap();
    }
    let state = &world.state;
    let mut pending: Vec<_> = state.pending_tasks().collect();
    pending.sort_by_key(|t| t.slot);
    let failures = Failures::count(state, &pending[0].service_id, world.now);
    let mut nodes = NodeSet::build(state, world.now);
    let alone: Vec<_> = pending
        .iter()
        .map(|task| place(&nodes, state, &failures, task).map(|index| nodes.assign(index, task)))
        .collect();
    assert_eq!(alone.iter().filter(|placed| placed.is_ok()).count(), 28);

    let together: Vec<_> = schedule(state, world.now, usize::MAX)
        .into_iter()
        .map(|change| match change {
            Change::Assign { node_id, .. } => Ok(node_id),
            Change::Explain { error, .. } => Err(error),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(together, alone);
    assert_eq!(schedule(state, world.now, 10).len(), 10);
}

#[test]
fn tasks_that_take_a_look_at_all_nodes_each_are_placed_a_few_at_a_time() {
    let mut world = World::new(&["n1", "n2", "n3"]);
    let spread = json!({"Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.zone"}}]});
    let mut spec = placed(0, spread);
    spec.mode = replicated("x", MAX_ALONE as i64 + 10).mode;
    world.service(spec).unwrap();
    let created = world.plan();
    world.apply(Operation::Reconcile(created)).unwrap();
    let mut counts = Vec::new();
    while world.state.pending_tasks().next().is_some() {
        let changes = schedule(&world.state, world.now, usize::MAX);
        counts.push(changes.len());
        world.apply(Operation::Reconcile(changes)).unwrap();
    }
    assert_eq!(counts, [MAX_ALONE, 10]);
}

#[test]
fn a_changed_placement_counts_for_tasks_that_wait() {
    let mut world = World::new(&["n1", "n2"]);
    let spec = constrained(replicated("web", 2), &["node.labels.zone==a"]);
    let id = world.service(spec).unwrap();
    world.work();
    assert_eq!(world.state.pending_tasks().count(), 2);
    // Two more, and all four may go anywhere now.
    world
        .edit(&id, |spec| {
            template(spec).placement = None;
            spec.mode = replicated("web", 4).mode;
        })
        .unwrap();
    world.work();
    assert_eq!(world.running_on(&id, "n1"), 2);
    assert_eq!(world.running_on(&id, "n2"), 2);
    assert_eq!(world.state.tasks_of_service(&id).count(), 4);
}
