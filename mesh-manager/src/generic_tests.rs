//! Who is given what, when it is free again, and what happens where a node has something else than before.

use super::*;
use crate::{
    Change, Command, NodeReport, Operation, command::GENERIC_RESOURCES, fixture::*,
    state::TaskState,
};
use mesh_api::generic_resource::parse;
use serde_json::{Value, json};

/// A node says that it has these.
fn offer(world: &mut World, node: &str, terms: &[&str]) {
    offer_by(world, crate::RULES, node, terms);
}

fn offer_by(world: &mut World, rules: u32, node: &str, terms: &[&str]) {
    let description = NodeReport {
        generic_resources: parse(terms.iter().copied()).unwrap(),
        ..world.state.node(node).unwrap().description.clone()
    };
    let node_id = node.to_owned();
    let up = Operation::NodeUp {
        node_id,
        description,
    };
    world.apply_by(rules, up).unwrap();
}

fn reserving(mut spec: engine::ServiceSpec, wanted: &[(&str, i64)]) -> engine::ServiceSpec {
    let list: Vec<Value> = wanted
        .iter()
        .map(|(kind, number)| json!({"DiscreteResourceSpec": {"Kind": kind, "Value": number}}))
        .collect();
    let reserved = json!({"Reservations": {"GenericResources": list}});
    template(&mut spec).resources = serde_json::from_value(reserved).unwrap();
    template(&mut spec).restart_policy = serde_json::from_value(json!({"Delay": 0})).unwrap();
    spec
}

/// What a service's tasks that hold anything hold: node, kind and what of it, in order.
fn held(world: &World, id: &str) -> Vec<String> {
    let holders = world.state.tasks_of_service(id);
    let holders = holders.filter(|task| task.holds_resources());
    let mut held: Vec<String> = holders
        .flat_map(|task| {
            let node = task.node_id.clone().unwrap_or_default();
            let given = task.generic_resources.iter();
            given.map(move |(kind, amount)| format!("{node} {kind}={}", amount.text()))
        })
        .collect();
    held.sort();
    held
}

/// Nothing is given twice, and no more than there is.
fn check(world: &World) {
    for node in world.state.nodes() {
        let mut taken: BTreeMap<&str, (u64, BTreeSet<&str>)> = BTreeMap::new();
        for task in holders(&world.state, node) {
            for (kind, amount) in &task.generic_resources {
                let (number, names) = taken.entry(kind).or_default();
                match amount {
                    Amount::Discrete(more) => *number += more,
                    Amount::Named(more) => {
                        let all_new = more.iter().all(|name| names.insert(name));
                        assert!(all_new, "{} has {more:?} twice", node.id);
                    }
                }
            }
        }
        for (kind, (number, _)) in taken {
            if let Some(Amount::Discrete(has)) = node.description.generic_resources.get(kind) {
                assert!(number <= *has, "{number} of {has} {kind} on {}", node.id);
            }
        }
    }
}

fn reasons(world: &World, id: &str) -> Vec<String> {
    let wanted = world.wanted(id).into_iter();
    let pending = wanted.filter(|task| task.status.state == TaskState::Pending);
    pending.map(|task| task.status.error.clone()).collect()
}

#[test]
fn tasks_are_given_what_their_node_has_and_the_rest_wait() {
    // What the nodes have, replicas, what each reserves, what they hold, and how many wait.
    type Case<'a> = (
        &'a [&'a [&'a str]],
        i64,
        &'a [(&'a str, i64)],
        &'a [&'a str],
        usize,
    );
    let cases: &[Case<'_>] = &[
        (
            &[&["gpu=a", "gpu=b"]],
            3,
            &[("gpu", 1)],
            &["n1 gpu=a", "n1 gpu=b"],
            1,
        ),
        (
            &[&["gpu=a", "gpu=b", "gpu=c"]],
            2,
            &[("gpu", 2)],
            &["n1 gpu=a,b"],
            1,
        ),
        (
            &[&["ssd=5"]],
            3,
            &[("ssd", 2)],
            &["n1 ssd=2", "n1 ssd=2"],
            1,
        ),
        (
            &[&["gpu=a", "ssd=1"], &["gpu=a"]],
            2,
            &[("gpu", 1), ("ssd", 1)],
            &["n1 gpu=a", "n1 ssd=1"],
            1,
        ),
        (
            &[&["gpu=a"], &["gpu=a"]],
            2,
            &[("gpu", 1)],
            &["n1 gpu=a", "n2 gpu=a"],
            0,
        ),
        (&[&["ssd=1"]], 1, &[("gpu", 1)], &[], 1),
        (&[&["ssd=1"]], 1, &[("SSD", 1)], &[], 1),
        // Nothing is to be had only where there is the kind.
        (&[&["ssd=1"]], 2, &[("ssd", 0)], &[], 0),
        (&[&[]], 1, &[("ssd", 0)], &[], 1),
        (&[&["ssd=1"]], 1, &[("ssd", i64::MAX)], &[], 1),
    ];
    for (nodes, replicas, wanted, expected, waiting) in cases {
        let mut world = World::new(&["n1", "n2"][..nodes.len()]);
        for (node, terms) in ["n1", "n2"].iter().zip(*nodes) {
            offer(&mut world, node, terms);
        }
        let spec = reserving(replicated("web", *replicas), wanted);
        let id = world.service(spec).unwrap();
        world.work();
        let case = format!("{nodes:?} {wanted:?}");
        assert_eq!(held(&world, &id), *expected, "{case}");
        let reasons = reasons(&world, &id);
        assert_eq!(reasons.len(), *waiting, "{case}");
        let said = |text: &String| text.contains("insufficient resources on ");
        assert!(reasons.iter().all(said), "{case}: {reasons:?}");
        check(&world);
    }
}

#[test]
fn the_reason_counts_the_nodes() {
    let mut world = World::new(&["n1", "n2"]);
    offer(&mut world, "n1", &["gpu=a"]);
    let spec = reserving(replicated("web", 1), &[("gpu", 2)]);
    let id = world.service(spec).unwrap();
    world.work();
    let expected =
        "no suitable node (insufficient resources on 2 nodes; 1 node not available for new tasks)";
    assert_eq!(reasons(&world, &id), [expected]);
}

#[test]
fn what_a_task_holds_is_free_once_its_node_has_reported_its_end() {
    let mut world = World::new(&["n1"]);
    offer(&mut world, "n1", &["gpu=a"]);
    let id = world
        .service(reserving(replicated("web", 1), &[("gpu", 1)]))
        .unwrap();
    world.work();
    let first = world.wanted(&id)[0].id.clone();
    let shown = world.state.task(&first).unwrap().to_engine();
    let assigned = serde_json::to_value(shown.assigned_generic_resources).unwrap();
    let expected = json!([{"NamedResourceSpec": {"Kind": "gpu", "Value": "a"}}]);
    assert_eq!(assigned, expected);

    // It is told to stop, and still runs.
    world.force_update(&id);
    for _ in 0..3 {
        world.settle();
        world.now += SECOND;
    }
    let second = world.wanted(&id)[0].clone();
    assert_ne!(second.id, first);
    assert_eq!(second.status.state, TaskState::Pending);
    assert_eq!(held(&world, &id), ["n1 gpu=a"]);
    assert_eq!(reasons(&world, &id).len(), 1);

    world.report(&first, TaskState::Shutdown);
    world.work();
    let second = world.state.task(&second.id).unwrap();
    assert_eq!(second.status.state, TaskState::Running);
    assert_eq!(held(&world, &id), ["n1 gpu=a"]);
    check(&world);
    // The first one keeps the record.
    let first = world.state.task(&first).unwrap();
    assert!(!first.generic_resources.is_empty() && !first.holds_resources());
}

#[test]
fn a_node_that_is_down_gives_nothing_back() {
    let mut world = World::new(&["n1"]);
    offer(&mut world, "n1", &["gpu=a"]);
    let id = world
        .service(reserving(replicated("web", 1), &[("gpu", 1)]))
        .unwrap();
    world.work();
    let old = world.wanted(&id)[0].id.clone();
    world.node_down("n1");
    world.work();
    offer(&mut world, "n1", &["gpu=a"]);
    // It is back, and has not said yet what became of the task.
    world.settle();
    assert_eq!(reasons(&world, &id).len(), 1);
    assert_eq!(held(&world, &id), ["n1 gpu=a"]);
    world.report(&old, TaskState::Shutdown);
    world.work();
    assert_eq!(world.running_on(&id, "n1"), 1);
    check(&world);
}

#[test]
fn what_others_have_taken_meanwhile_is_not_given_again() {
    let mut world = World::new(&["n1"]);
    offer(&mut world, "n1", &["gpu=a", "ssd=3"]);
    let spec = reserving(replicated("web", 2), &[("gpu", 1), ("ssd", 2)]);
    let id = world.service(spec).unwrap();
    let changes = world.plan();
    world.apply(Operation::Reconcile(changes)).unwrap();
    // As if two leaders had placed them, or one by an older state.
    let assign = |task: &&Task| Change::Assign {
        task_id: task.id.clone(),
        node_id: "n1".to_owned(),
    };
    let changes: Vec<Change> = world.wanted(&id).iter().map(assign).collect();
    assert_eq!(changes.len(), 2);
    world.apply(Operation::Reconcile(changes)).unwrap();
    assert_eq!(held(&world, &id), ["n1 gpu=a", "n1 ssd=2"]);
    world.settle();
    assert_eq!(reasons(&world, &id).len(), 1, "the other one is pending");
    check(&world);
}

#[test]
fn who_holds_what_the_node_has_no_more_is_rejected() {
    // What there was, what there is, and how many of the tasks stay.
    for (before, after, kept) in [
        (&["gpu=a", "gpu=b"][..], &["gpu=a", "gpu=b", "gpu=c"][..], 2),
        (&["gpu=a", "gpu=b"], &["gpu=b"], 1),
        (&["gpu=a", "gpu=b"], &["gpu=2"], 0),
        (&["gpu=a", "gpu=b"], &[], 0),
        (&["gpu=2"], &["gpu=3"], 2),
        (&["gpu=2"], &["gpu=1"], 1),
        (&["gpu=2"], &["gpu=a", "gpu=b"], 0),
    ] {
        let mut world = World::new(&["n1"]);
        offer(&mut world, "n1", before);
        let id = world
            .service(reserving(replicated("web", 2), &[("gpu", 1)]))
            .unwrap();
        world.work();
        assert_eq!(world.running_on(&id, "n1"), 2);
        let first: Vec<String> = world.wanted(&id).iter().map(|t| t.id.clone()).collect();
        offer(&mut world, "n1", after);
        world.work();
        let case = format!("{before:?} {after:?}");
        let tasks = first.iter().map(|id| world.state.task(id).unwrap());
        let (stay, go): (Vec<&Task>, Vec<&Task>) =
            tasks.partition(|t| t.status.state == TaskState::Running);
        assert_eq!(stay.len(), kept, "{case}");
        for task in go {
            assert_eq!(task.status.state, TaskState::Rejected, "{case}");
            let text = "assigned node no longer meets constraints";
            assert_eq!(task.status.error, text, "{case}");
        }
        check(&world);
    }
}

#[test]
fn global_services_have_their_share_on_each_node() {
    let mut world = World::new(&["n1", "n2", "n3"]);
    offer(&mut world, "n1", &["gpu=a"]);
    offer(&mut world, "n2", &["gpu=2"]);
    let id = world
        .service(reserving(global("agent"), &[("gpu", 1)]))
        .unwrap();
    world.work();
    assert_eq!(held(&world, &id), ["n1 gpu=a", "n2 gpu=1"]);
    assert_eq!(reasons(&world, &id).len(), 1);
}

#[test]
fn a_move_takes_what_there_is_on_the_other_node() {
    let mut world = World::new(&["n1", "n2"]);
    offer(&mut world, "n1", &["gpu=a", "gpu=b", "gpu=c"]);
    let mut spec = reserving(replicated("web", 3), &[("gpu", 1)]);
    spec.labels = Some([("mesh.rebalance".to_owned(), "3".to_owned())].into());
    let id = world.service(spec).unwrap();
    world.work();
    world.now += 600 * SECOND;
    world.work();
    assert_eq!(world.running_on(&id, "n1"), 3, "n2 has none");
    offer(&mut world, "n2", &["gpu=x"]);
    world.now += 600 * SECOND;
    world.work();
    let on_n2: Vec<String> = held(&world, &id)
        .into_iter()
        .filter(|held| held.starts_with("n2"))
        .collect();
    assert_eq!(on_n2, ["n2 gpu=x"]);
    assert_eq!(world.running_on(&id, "n1"), 2);
    check(&world);
}

#[test]
fn the_nodes_own_words_are_shown() {
    let mut world = World::new(&["n1"]);
    offer(&mut world, "n1", &["ssd=2", "gpu=b", "gpu=a"]);
    let node = world.state.node("n1").unwrap();
    let (managers, holds) = Default::default();
    let shown = node.to_engine(&managers, &world.state.node_roots(), &holds);
    let resources = shown.description.and_then(|known| known.resources).unwrap();
    let expected = json!([
        {"NamedResourceSpec": {"Kind": "gpu", "Value": "a"}},
        {"NamedResourceSpec": {"Kind": "gpu", "Value": "b"}},
        {"DiscreteResourceSpec": {"Kind": "ssd", "Value": 2}},
    ]);
    let resources = serde_json::to_value(resources.generic_resources).unwrap();
    assert_eq!(resources, expected);
}

#[test]
fn bad_reservations_are_refused() {
    let discrete =
        |kind: &str, number: i64| json!({"DiscreteResourceSpec": {"Kind": kind, "Value": number}});
    for (list, said) in [
        (
            json!([{"NamedResourceSpec": {"Kind": "gpu", "Value": "a"}}]),
            "invalid argument for resource gpu",
        ),
        (json!([{}]), "invalid argument for resource "),
        (json!([discrete("", 1)]), "invalid kind"),
        (json!([discrete("a=b", 1)]), "invalid kind"),
        (json!([discrete("gpu", -1)]), "gpu=-1: Must not be negative"),
        (
            json!([discrete("gpu", 1), discrete("gpu", 1)]),
            "gpu is reserved twice",
        ),
    ] {
        let mut spec = replicated("web", 1);
        let reserved = json!({"Reservations": {"GenericResources": list}});
        template(&mut spec).resources = serde_json::from_value(reserved).unwrap();
        let mut world = World::new(&["n1"]);
        let error = world.service(spec.clone()).expect_err(said);
        assert!(error.message.contains(said), "{error}");
        assert_eq!(world.state.services().count(), 0);
        // A log in which it was taken, and came to nothing, is read as it was.
        let create = Command::CreateService {
            spec: Box::new(spec),
            registry_auth: String::new(),
        };
        let before = Operation::Command(create);
        world.apply_by(GENERIC_RESOURCES - 1, before).unwrap();
    }
}

#[test]
fn by_older_rules_nobody_has_any() {
    let mut world = World::new(&["n1"]);
    let before = GENERIC_RESOURCES - 1;
    offer_by(&mut world, before, "n1", &["gpu=a"]);
    let node = world.state.node("n1").unwrap();
    assert!(node.description.generic_resources.is_empty());
    let id = world
        .service(reserving(replicated("web", 1), &[("gpu", 1)]))
        .unwrap();
    world.settle();
    assert_eq!(reasons(&world, &id).len(), 1);
    // What a manager that did not know them has placed stays there, and takes nothing from others.
    let task_id = world.wanted(&id)[0].id.clone();
    let node_id = "n1".to_owned();
    let assign = Change::Assign { task_id, node_id };
    world
        .apply_by(before, Operation::Reconcile(vec![assign]))
        .unwrap();
    world.work();
    assert_eq!(world.running_on(&id, "n1"), 1);
    offer(&mut world, "n1", &["gpu=a"]);
    world.scale(&id, 2);
    world.work();
    assert_eq!(world.running_on(&id, "n1"), 2);
    assert_eq!(held(&world, &id), ["n1 gpu=a"]);
    // What is as it was in states of before is written as it was.
    let text = serde_json::to_string(&world.state.task(&world.wanted(&id)[0].id)).unwrap();
    assert!(!text.contains("generic_resources\":{}"), "{text}");
    check(&world);
}
