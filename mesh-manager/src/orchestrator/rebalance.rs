//! Moves replicas to nodes that have come, or come back, for services that ask for it: a few at a time, and each runs on its
//! new node before it goes from the old one. Swarm leaves them where they are until `service update --force`.

use super::{
    Group, Inputs, Plan,
    constraints::{Fate, fate},
    stop,
};
use crate::{
    Change, NewTask,
    scheduler::moves,
    state::{Node, Service, State, Task, TaskState},
};
use mesh_api::engine::ServiceUpdateStatusStateEnum as Status;
use std::collections::HashMap;

/// Label: how many replicas may move at the same time; `off`, the default: none.
pub(crate) const LABEL: &str = "mesh.rebalance";
/// Most of them.
const MOST: usize = 100;

const SECOND: i64 = 1_000_000_000;
/// A node that has just come may go again: for so long, in nanoseconds, nothing moves there.
const CALM: i64 = 30 * SECOND;
/// After a task of the service has failed nothing moves for so long, in nanoseconds: it may have been moved.
const HELD: i64 = 60 * SECOND;

/// How many replicas of a service with these labels may move at the same time.
///
/// # Errors
/// With the label, its value and what it may be.
pub fn budget(labels: Option<&HashMap<String, String>>) -> Result<usize, String> {
    match labels.and_then(|all| all.get(LABEL)).map(String::as_str) {
        None | Some("off") => Ok(0),
        Some(text) => text
            .parse()
            .ok()
            .filter(|count| (1..=MOST).contains(count))
            .ok_or_else(|| {
                format!(
                    "label {LABEL}={text} is invalid: expected off, or how many replicas may move at the same time, 1 to {MOST}"
                )
            }),
    }
}

fn runs(task: &Task) -> bool {
    task.status.state == TaskState::Running && !task.status.unhealthy
}

pub(super) fn plan(
    state: &State,
    service: &Service,
    groups: &[Group<'_>],
    inputs: &Inputs<'_>,
    plan: &mut Plan,
) {
    let (mut under_way, mut at_rest, mut settled) = (0, true, Vec::new());
    for group in groups.iter().filter(|g| !g.is_retired) {
        if group
            .live
            .iter()
            .any(|t| t.spec_version != service.spec_version)
        {
            return;
        }
        match group.live.as_slice() {
            [] | [_] if group.is_refilled => at_rest = false,
            [] => at_rest &= group.is_finished,
            [task] => {
                at_rest &= runs(task);
                settled.push(*task);
            }
            // Two of one version: the newer one is where it moves to.
            [old @ .., new] => {
                under_way += 1;
                if runs(new) && fate(state, service, new) == Fate::Kept {
                    for old in old {
                        stop::stop(state, old, TaskState::Shutdown, plan);
                    }
                } else if new.status.state == TaskState::Pending && !new.status.error.is_empty() {
                    // The node has no room for it any more.
                    stop::desire(new, TaskState::Remove, plan);
                }
            }
        }
    }
    let budget = budget(service.spec.labels.as_ref()).unwrap_or(0);
    let is_updating = service.update.as_ref().is_some_and(|update| {
        !matches!(update.state, Status::COMPLETED | Status::ROLLBACK_COMPLETED)
    });
    let slots = groups.iter().filter(|g| g.is_occupied()).count() as u64;
    let is_whole = slots == service.replicas();
    if budget <= under_way || !at_rest || !is_whole || is_updating {
        return;
    }
    let failed = |t: &Task| matches!(t.status.state, TaskState::Failed | TaskState::Rejected);
    let ended = state.tasks_of_service(&service.id).filter(|t| failed(t));
    // The managers' time: a node's clock may be anything.
    if let Some(last) = ended.map(|t| t.meta.updated_at).max() {
        let until = inputs.at(last).saturating_add(HELD);
        if inputs.now < until {
            plan.wake(until);
            return;
        }
    }
    let calm_from = |node: &Node| inputs.at(node.meta.updated_at).saturating_add(CALM);
    let is_calm = |node: &Node| calm_from(node) <= inputs.now;
    // The youngest has the least to lose.
    settled.sort_by_key(|t| std::cmp::Reverse((t.running_since, t.slot)));
    let moves = moves(
        state,
        &service.id,
        &settled,
        inputs.now,
        budget - under_way,
        &is_calm,
    );
    for (task, node) in moves {
        plan.push(Change::CreateTask(NewTask {
            node_id: Some(node.to_owned()),
            ..NewTask::of(service, task.slot)
        }));
    }
    let next = state.nodes().map(calm_from).filter(|at| *at > inputs.now);
    if let Some(next) = next.min() {
        plan.wake(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{World, constrained, replicated, template};
    use mesh_api::engine;
    use serde_json::json;

    fn moving(replicas: i64, budget: &str) -> engine::ServiceSpec {
        let mut spec = replicated("web", replicas);
        spec.labels = Some(HashMap::from([(LABEL.to_owned(), budget.to_owned())]));
        spec
    }

    /// Replicas on these nodes.
    fn on(world: &World, id: &str, nodes: &[&str]) -> Vec<usize> {
        nodes
            .iter()
            .map(|node| world.running_on(id, node))
            .collect()
    }

    /// A node comes back, and time passes.
    fn back(world: &mut World, node: &str) {
        world.node_up(node);
        world.work();
        world.now += CALM;
    }

    /// A service all of whose replicas are on n1, as n2 was down; n2 is back, and stays.
    fn crowded(spec: engine::ServiceSpec) -> (World, String) {
        let mut world = World::new(&["n1", "n2"]);
        let id = world.service(spec).unwrap();
        world.work();
        world.node_down("n2");
        world.work();
        back(&mut world, "n2");
        (world, id)
    }

    #[test]
    fn the_label_says_how_many() {
        let of = |text: &str| budget(Some(&HashMap::from([(LABEL.to_owned(), text.to_owned())])));
        assert_eq!(budget(None), Ok(0));
        assert_eq!(of("off"), Ok(0));
        assert_eq!(of("2"), Ok(2));
        for bad in ["", "0", "101", "-1", "on"] {
            let told = of(bad).expect_err(bad);
            assert!(told.contains("mesh.rebalance="), "{told}");
        }
    }

    #[test]
    fn replicas_go_back_to_a_node_that_came_back_and_stays() {
        let mut world = World::new(&["n1", "n2"]);
        let id = world.service(moving(4, "1")).unwrap();
        world.work();
        world.node_down("n2");
        world.work();
        assert_eq!(on(&world, &id, &["n1", "n2"]), [4, 0]);
        world.node_up("n2");
        world.work();
        assert_eq!(on(&world, &id, &["n1", "n2"]), [4, 0], "it may go again");
        world.now += CALM;
        world.work();
        assert_eq!(on(&world, &id, &["n1", "n2"]), [2, 2]);
        let before: Vec<String> = world.wanted(&id).iter().map(|t| t.id.clone()).collect();
        world.now += 1000 * SECOND;
        world.work();
        let after: Vec<String> = world.wanted(&id).iter().map(|t| t.id.clone()).collect();
        assert_eq!(before, after, "and rests there");
    }

    #[test]
    fn no_more_than_the_budget_move_and_each_runs_before_the_old_one_stops() {
        let (mut world, id) = crowded(moving(8, "2"));
        let mut moved = 0;
        for _ in 0..50 {
            world.settle();
            let runs = world.wanted(&id).iter().filter(|t| runs(t)).count();
            assert!(runs >= 8, "{runs} are left");
            let new: Vec<String> = world
                .wanted(&id)
                .iter()
                .filter(|t| t.status.state < TaskState::Running)
                .map(|t| t.id.clone())
                .collect();
            assert!(new.len() <= 2, "{} at once", new.len());
            moved += new.len();
            for id in &new {
                world.report(id, TaskState::Running);
            }
        }
        assert_eq!(moved, 4);
        world.work();
        assert_eq!(on(&world, &id, &["n1", "n2"]), [4, 4]);
    }

    #[test]
    fn without_the_label_they_stay() {
        for spec in [replicated("web", 4), moving(4, "off")] {
            let (mut world, id) = crowded(spec);
            world.work();
            assert_eq!(on(&world, &id, &["n1", "n2"]), [4, 0]);
        }
    }

    #[test]
    fn a_node_that_does_not_fit_gets_none() {
        let mut world = World::new(&["n1", "n2"]);
        let spec = constrained(moving(4, "4"), &["node.hostname==n1"]);
        let id = world.service(spec).unwrap();
        world.work();
        world.now += CALM;
        world.work();
        assert_eq!(on(&world, &id, &["n1", "n2"]), [4, 0]);
        let mut world = World::new(&["n1", "n2"]);
        let mut spec = moving(4, "4");
        // A node has 2 processors.
        let half = json!({"Reservations": {"NanoCPUs": SECOND / 2}});
        template(&mut spec).resources = serde_json::from_value(half).unwrap();
        let id = world.service(spec).unwrap();
        let mut other = replicated("other", 1);
        let all = json!({"Reservations": {"NanoCPUs": 2 * SECOND}});
        template(&mut other).resources = serde_json::from_value(all).unwrap();
        world.node_down("n2");
        world.work();
        back(&mut world, "n2");
        world.service(other).unwrap();
        world.settle();
        world.work();
        assert_eq!(
            on(&world, &id, &["n1", "n2"]),
            [4, 0],
            "the other has it all"
        );
    }

    #[test]
    fn after_a_failure_nothing_moves_for_a_while() {
        let (mut world, id) = crowded(moving(4, "1"));
        world.settle();
        let new = |world: &World| -> Vec<String> {
            let wanted = world.wanted(&id);
            let new = wanted
                .iter()
                .filter(|t| t.status.state < TaskState::Running);
            new.map(|t| t.id.clone()).collect()
        };
        let tried = new(&world);
        assert_eq!(tried.len(), 1);
        world.report(&tried[0], TaskState::Failed);
        world.settle();
        assert_eq!(on(&world, &id, &["n1", "n2"]), [4, 0]);
        assert!(new(&world).is_empty());
        world.now += HELD;
        world.work();
        assert_eq!(on(&world, &id, &["n1", "n2"]), [2, 2]);
    }

    #[test]
    fn moves_use_up_no_restarts() {
        let mut spec = moving(4, "1");
        let policy = json!({"MaxAttempts": 1, "Delay": 0});
        template(&mut spec).restart_policy = serde_json::from_value(policy).unwrap();
        let (mut world, id) = crowded(spec);
        world.settle();
        let tried = world.wanted(&id);
        let tried = tried.iter().find(|t| !runs(t)).unwrap().id.clone();
        world.report(&tried, TaskState::Rejected);
        world.settle();
        world.now += HELD;
        world.work();
        assert_eq!(on(&world, &id, &["n1", "n2"]), [2, 2]);
        let moved = world.wanted(&id);
        let moved: Vec<String> = moved
            .iter()
            .filter(|t| t.moved)
            .map(|t| t.id.clone())
            .collect();
        assert_eq!(moved.len(), 2);
        for task in &moved {
            world.report(task, TaskState::Failed);
        }
        world.work();
        assert_eq!(world.wanted(&id).len(), 4, "each may fail once");
        let restarted = world.wanted(&id);
        let restarted: Vec<String> = restarted
            .iter()
            .filter(|t| t.node_id.as_deref() == Some("n2"))
            .map(|t| t.id.clone())
            .collect();
        assert_eq!(restarted.len(), 2);
        for task in &restarted {
            world.report(task, TaskState::Failed);
        }
        world.work();
        assert_eq!(world.wanted(&id).len(), 2, "and no more often");
    }

    #[test]
    fn a_failure_counts_by_the_managers_clock() {
        let (mut world, id) = crowded(moving(4, "1"));
        world.settle();
        let tasks = world.wanted(&id);
        let tried = tasks.iter().find(|t| !runs(t)).unwrap().id.clone();
        let status = crate::state::TaskStatus {
            state: TaskState::Rejected,
            timestamp: world.now - 600 * SECOND,
            ..Default::default()
        };
        let report = crate::Operation::TaskStatuses(vec![(tried, status)]);
        world.apply(report).unwrap();
        world.settle();
        assert!(world.wanted(&id).iter().all(|t| runs(t)), "another move");
    }

    #[test]
    fn what_is_even_stays_though_a_node_was_changed() {
        let mut world = zones(&["a1", "b1", "b2"]);
        let id = world.service(over_zones(8)).unwrap();
        world.work();
        world.now += CALM;
        world.work();
        assert_eq!(on(&world, &id, &["a1", "b1", "b2"]), [4, 2, 2]);
        label(&mut world, "b2", "x", "y");
        assert_eq!(world.settle(), 0);
    }

    #[test]
    fn a_node_that_has_just_come_gets_none_of_what_moves() {
        let mut world = World::new(&["n1", "n2", "n3"]);
        world.node_down("n2");
        world.node_down("n3");
        let id = world.service(moving(6, "1")).unwrap();
        world.work();
        back(&mut world, "n2");
        world.node_up("n3");
        world.now += CALM / 2;
        world.settle();
        let tasks = world.wanted(&id);
        let moved: Vec<_> = tasks.iter().filter(|t| t.moved).collect();
        assert_eq!(moved.len(), 1);
        assert_eq!(moved[0].node_id.as_deref(), Some("n2"));
    }

    #[test]
    fn nothing_moves_while_replicas_are_to_be_made() {
        let (mut world, id) = crowded(moving(4, "off"));
        let grow = |spec: &mut engine::ServiceSpec| *spec = moving(8, "2");
        world.edit(&id, grow).unwrap();
        let changes = world.plan();
        assert_eq!(changes.len(), 4, "{changes:?}");
    }

    #[test]
    fn the_old_one_stays_if_the_new_ones_node_is_lost() {
        let (mut world, id) = crowded(moving(4, "1"));
        world.settle();
        let tasks = world.wanted(&id);
        let (slot, new) = tasks
            .iter()
            .find(|t| !runs(t))
            .map(|t| (t.slot, t.id.clone()))
            .unwrap();
        world.report(&new, TaskState::Running);
        world.node_down("n2");
        world.settle();
        let tasks = world.wanted(&id);
        let left = tasks.iter().filter(|t| t.slot == slot && runs(t));
        assert_eq!(left.count(), 1);
    }

    #[test]
    fn a_move_that_is_under_way_ends_though_the_label_is_gone() {
        let (mut world, id) = crowded(moving(4, "1"));
        world.settle();
        world.edit(&id, |spec| spec.labels = None).unwrap();
        world.work();
        assert_eq!(on(&world, &id, &["n1", "n2"]), [3, 1]);
        assert_eq!(world.wanted(&id).len(), 4);
    }

    /// Nodes whose zone is the first letter of their name.
    fn zones(nodes: &[&str]) -> World {
        let mut world = World::new(nodes);
        for node in nodes {
            label(&mut world, node, "zone", &node[..1]);
        }
        world
    }

    fn label(world: &mut World, node: &str, key: &str, value: &str) {
        let node = world.state.node(node).unwrap();
        let (id, version, mut spec) = (node.id.clone(), node.meta.version, node.spec.clone());
        let labels = spec.labels.get_or_insert_default();
        labels.insert(key.to_owned(), value.to_owned());
        let command = crate::Command::UpdateNode { id, version, spec };
        world.call(command).unwrap();
    }

    fn over_zones(replicas: i64) -> engine::ServiceSpec {
        let mut spec = moving(replicas, "1");
        let spread = json!({"Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.zone"}}]});
        template(&mut spec).placement = serde_json::from_value(spread).unwrap();
        spec
    }

    #[test]
    fn branches_are_evened_before_nodes() {
        let mut world = zones(&["a1", "a2", "b1"]);
        world.node_down("b1");
        let id = world.service(over_zones(4)).unwrap();
        world.work();
        assert_eq!(on(&world, &id, &["a1", "a2", "b1"]), [2, 2, 0]);
        back(&mut world, "b1");
        world.work();
        assert_eq!(on(&world, &id, &["a1", "a2", "b1"]), [1, 1, 2]);
    }
}
