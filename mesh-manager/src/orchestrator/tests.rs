//! Replicas, restarts, drains, updates, history: the state before, what happens, the state after.

use crate::{
    Command,
    fixture::{SECOND, World, constrained, global, replicated, template},
    state::{Task, TaskState},
};
use mesh_api::engine::{
    self, ServiceUpdateStatusStateEnum as Update, TaskSpecRestartPolicyConditionEnum as Condition,
};

fn restart(
    spec: &mut engine::ServiceSpec,
    condition: Condition,
    delay: i64,
    attempts: Option<i64>,
) {
    template(spec).restart_policy = Some(engine::TaskSpecRestartPolicy {
        condition: Some(condition),
        delay: Some(delay),
        max_attempts: attempts,
        window: None,
    });
}

fn slots(world: &World, id: &str) -> Vec<u64> {
    world.wanted(id).iter().map(|t| t.slot).collect()
}

fn only(world: &World, id: &str) -> Task {
    let wanted = world.wanted(id);
    assert_eq!(wanted.len(), 1, "{wanted:?}");
    wanted[0].clone()
}

#[test]
fn scaling_keeps_low_slots_and_balance() {
    let mut world = World::new(&["n1", "n2"]);
    let id = world.service(replicated("web", 5)).unwrap();
    world.work();
    assert_eq!(slots(&world, &id), [1, 2, 3, 4, 5]);
    world.scale(&id, 2);
    world.work();
    assert_eq!(["n1", "n2"].map(|n| world.running_on(&id, n)), [1, 1]);
    assert_eq!(
        world.state.tasks_of_service(&id).count(),
        2,
        "scaled-down tasks leave no history"
    );
    world.scale(&id, 4);
    world.work();
    assert_eq!(slots(&world, &id), [1, 2, 3, 4]);
    assert_eq!(["n1", "n2"].map(|n| world.running_on(&id, n)), [2, 2]);
    world.scale(&id, 0);
    world.work();
    assert_eq!(world.state.tasks_of_service(&id).count(), 0);
}

#[test]
fn a_failed_task_is_replaced_after_the_delay() {
    let mut world = World::new(&["n1"]);
    let id = world.service(replicated("web", 1)).unwrap();
    world.work();
    let old = only(&world, &id);
    world.report(&old.id, TaskState::Failed);
    world.settle();
    let new = only(&world, &id);
    assert_ne!(new.id, old.id);
    assert_eq!((new.slot, new.desired), (1, TaskState::Ready));
    assert_eq!(
        world.state.task(&old.id).unwrap().desired,
        TaskState::Shutdown
    );
    // 5 s is the default.
    world.now += 4 * SECOND;
    world.settle();
    assert_eq!(only(&world, &id).desired, TaskState::Ready);
    world.now += SECOND;
    world.settle();
    assert_eq!(only(&world, &id).desired, TaskState::Running);
}

#[test]
fn a_task_that_cannot_even_start_is_not_retried_faster() {
    let mut world = World::new(&["n1"]);
    let id = world.service(replicated("web", 1)).unwrap();
    let begin = world.now;
    let mut made = 0;
    while world.now < begin + 60 * SECOND {
        world.settle();
        let task = only(&world, &id);
        if !task.status.state.is_terminal() {
            made += 1;
            world.report(&task.id, TaskState::Rejected);
        }
        world.now += SECOND;
    }
    assert_eq!(made, 13, "one at once, then one each 5 s");
}

#[test]
fn restart_conditions() {
    use TaskState::{Complete, Failed, Rejected};
    let cases = [
        (Condition::ANY, None, Complete, true),
        (Condition::ANY, None, Failed, true),
        (Condition::ON_FAILURE, None, Complete, false),
        (Condition::ON_FAILURE, None, Failed, true),
        (Condition::ON_FAILURE, None, Rejected, true),
        (Condition::NONE, None, Failed, false),
        (Condition::ANY, Some(1), Failed, true),
    ];
    for (condition, attempts, end, is_replaced) in cases {
        let mut world = World::new(&["n1"]);
        let mut spec = replicated("web", 1);
        restart(&mut spec, condition, 0, attempts);
        let id = world.service(spec).unwrap();
        world.work();
        let task = only(&world, &id).id;
        world.report(&task, end);
        world.work();
        assert_eq!(
            world.wanted(&id).len(),
            usize::from(is_replaced),
            "{condition} {end}"
        );
        // A finished replica begins anew when the spec changes.
        world.force_update(&id);
        world.work();
        assert_eq!(world.wanted(&id).len(), 1, "{condition} {end}");
    }
}

#[test]
fn restarts_are_counted() {
    let mut world = World::new(&["n1"]);
    let mut spec = replicated("web", 1);
    restart(&mut spec, Condition::ANY, 0, Some(7));
    let id = world.service(spec).unwrap();
    let mut runs = 0;
    loop {
        world.work();
        let Some(task) = world.wanted(&id).first().map(|t| t.id.clone()) else {
            break;
        };
        runs += 1;
        assert!(runs < 20, "restarts without end");
        world.report(&task, TaskState::Failed);
    }
    assert_eq!(runs, 8, "one start and seven restarts");
    assert_eq!(
        world.state.tasks_of_service(&id).count(),
        8,
        "max attempts widen the history"
    );
}

#[test]
fn restarts_are_counted_within_the_window() {
    // Seconds that the first task runs, that each later one runs, and the window; starts at most.
    for (first, later, window, starts) in [
        (1, 1, None, 3),
        (1, 40, None, 3),
        (100, 1, None, 3),
        (1, 1, Some(60), 3),
        (100, 1, Some(60), 3),
        // Never two restarts within the window: there is no end.
        (1, 40, Some(60), 10),
    ] {
        let mut world = World::new(&["n1"]);
        let mut spec = replicated("web", 1);
        restart(&mut spec, Condition::ANY, 0, Some(2));
        let policy = template(&mut spec).restart_policy.as_mut().unwrap();
        policy.window = window.map(|window: i64| window * SECOND);
        let id = world.service(spec).unwrap();
        let mut runs = 0;
        while runs < 10 {
            world.settle();
            let Some(task) = world.wanted(&id).first().map(|t| t.id.clone()) else {
                break;
            };
            world.report(&task, TaskState::Running);
            world.now += if runs == 0 { first } else { later } * SECOND;
            world.report(&task, TaskState::Failed);
            runs += 1;
        }
        assert_eq!(runs, starts, "{first} {later} {window:?}");
        // Whatever happens once the window is over.
        let left = world.wanted(&id).len();
        world.now += 600 * SECOND;
        world.settle();
        assert_eq!(world.wanted(&id).len(), left, "{first} {later} {window:?}");
    }
}

#[test]
fn history_is_cut_to_the_limit() {
    for (limit, kept) in [(None, 5), (Some(2), 2), (Some(0), 1), (Some(-1), 10)] {
        let mut world = World::new(&["n1"]);
        let mut cluster = world.state.cluster().unwrap().clone();
        let orchestration = cluster.spec.orchestration.get_or_insert_default();
        orchestration.task_history_retention_limit = limit;
        world.state.put_cluster(cluster);
        let mut spec = replicated("web", 2);
        restart(&mut spec, Condition::ANY, 0, None);
        let id = world.service(spec).unwrap();
        for _ in 0..9 {
            world.work();
            let task = world.wanted(&id)[0].id.clone();
            world.report(&task, TaskState::Failed);
        }
        world.work();
        let of_slot = |slot| {
            let tasks = world.state.tasks_of_service(&id);
            tasks.filter(|t| t.slot == slot).count()
        };
        assert_eq!((of_slot(1), of_slot(2)), (kept, 1), "{limit:?}");
    }
}

#[test]
fn a_down_nodes_tasks_are_replaced_at_once_and_orphaned_late() {
    let mut world = World::new(&["n1", "n2"]);
    let id = world.service(replicated("web", 2)).unwrap();
    world.work();
    world.node_down("n1");
    world.work();
    assert_eq!(world.running_on(&id, "n2"), 2);
    let old = world.state.tasks_of_node("n1").next().unwrap().clone();
    assert_eq!(
        (old.desired, old.status.state),
        (TaskState::Shutdown, TaskState::Running)
    );
    world.now += 23 * 3600 * SECOND;
    world.settle();
    assert_eq!(
        world.state.task(&old.id).unwrap().status.state,
        TaskState::Running
    );
    world.now += 3600 * SECOND;
    world.settle();
    assert_eq!(
        world.state.task(&old.id).unwrap().status.state,
        TaskState::Orphaned
    );
}

#[test]
fn a_drained_nodes_tasks_move_one_after_the_other_stops() {
    let mut world = World::new(&["n1", "n2"]);
    let id = world.service(replicated("web", 1)).unwrap();
    world.work();
    let old = only(&world, &id);
    let node = old.node_id.clone().unwrap();
    let other = if node == "n1" { "n2" } else { "n1" };
    let mut spec = world.state.node(&node).unwrap().spec.clone();
    spec.availability = Some(engine::NodeSpecAvailabilityEnum::DRAIN);
    let version = world.state.node(&node).unwrap().meta.version;
    world
        .call(Command::UpdateNode {
            id: node,
            version,
            spec,
        })
        .unwrap();
    world.settle();
    let new = only(&world, &id);
    assert_eq!(
        (new.desired, new.node_id.as_deref()),
        (TaskState::Ready, Some(other))
    );
    world.now += SECOND;
    world.work();
    assert_eq!(world.running_on(&id, other), 1);
    assert_eq!(
        world.state.task(&old.id).unwrap().status.state,
        TaskState::Shutdown
    );
    world.call(Command::RemoveService { id }).unwrap();
    world.work();
    assert_eq!(world.state.tasks().count(), 0, "no history of nothing");
}

#[test]
fn nobody_is_stopped_before_the_nodes_know() {
    let mut world = World::new(&["n1"]);
    let id = world.service(replicated("web", 2)).unwrap();
    world.work();
    world.acknowledge = false;
    world.scale(&id, 1);
    world.settle();
    let draining = |world: &World| {
        world
            .state
            .tasks_of_service(&id)
            .find(|t| t.drained_at.is_some())
            .cloned()
    };
    let task = draining(&world).expect("one drains");
    assert_eq!(task.desired, TaskState::Running);
    world.now += SECOND;
    world.settle();
    assert_eq!(
        draining(&world).unwrap().desired,
        TaskState::Running,
        "not acknowledged"
    );
    world.acknowledge = true;
    world.settle();
    assert_eq!(draining(&world).unwrap().desired, TaskState::Remove);

    // A node that never answers holds it up for a limited time.
    world.acknowledge = false;
    world.scale(&id, 0);
    world.settle();
    world.now += super::stop::nanos(world.timings.drain_limit);
    world.settle();
    assert!(
        world
            .state
            .tasks_of_service(&id)
            .all(|t| t.desired == TaskState::Remove)
    );
}

#[test]
fn a_replica_that_is_given_up_while_it_drains_is_told_no_earlier() {
    let mut world = World::new(&["n1"]);
    let id = world.service(replicated("web", 2)).unwrap();
    world.work();
    world.acknowledge = false;
    world.force_update(&id);
    world.settle();
    let mut tasks = world.state.tasks_of_service(&id);
    let draining = tasks.find(|t| t.drained_at.is_some()).unwrap().id.clone();
    drop(tasks);
    world.scale(&id, 1);
    world.settle();
    let desired = |world: &World| world.state.task(&draining).map(|t| t.desired);
    assert_eq!(desired(&world), Some(TaskState::Running));
    world.acknowledge = true;
    world.now += SECOND;
    world.settle();
    assert_eq!(desired(&world), Some(TaskState::Remove));
    world.work();
    assert_eq!(desired(&world), None);
    assert_eq!(world.wanted(&id).len(), 1);
}

#[test]
fn a_task_without_a_node_goes_at_once() {
    let mut world = World::new(&[]);
    let id = world.service(replicated("web", 3)).unwrap();
    world.settle();
    assert_eq!(world.wanted(&id).len(), 3);
    world.call(Command::RemoveService { id }).unwrap();
    world.settle();
    assert_eq!(world.state.tasks().count(), 0);
}

#[test]
fn a_global_service_follows_the_nodes() {
    let mut world = World::new(&["n1", "n2"]);
    let id = world.service(global("agent")).unwrap();
    world.work();
    assert_eq!(["n1", "n2"].map(|n| world.running_on(&id, n)), [1, 1]);
    world.node_down("n1");
    world.work();
    assert_eq!(world.wanted(&id).len(), 1);
    world.node_up("n1");
    world.work();
    assert_eq!(["n1", "n2"].map(|n| world.running_on(&id, n)), [1, 1]);
    world
        .call(Command::RemoveNode {
            id: "n2".to_owned(),
            force: true,
        })
        .unwrap();
    world.work();
    assert_eq!(world.wanted(&id).len(), 1);
    world
        .edit(&id, |s| {
            *s = constrained(s.clone(), &["node.role==manager"])
        })
        .unwrap();
    world.work();
    assert_eq!(world.wanted(&id).len(), 0, "the node no longer fits");
}

#[test]
fn updates_go_a_few_at_a_time() {
    for (parallelism, most) in [(1, 1), (2, 2), (0, 4)] {
        let mut world = World::new(&["n1"]);
        let mut spec = replicated("web", 4);
        spec.update_config = Some(engine::ServiceSpecUpdateConfig {
            parallelism: Some(parallelism),
            ..Default::default()
        });
        let id = world.service(spec).unwrap();
        world.work();
        world.force_update(&id);
        world.settle();
        let waiting = world
            .wanted(&id)
            .iter()
            .filter(|t| t.desired == TaskState::Ready)
            .count();
        assert_eq!(waiting, most);
        world.work();
        let service = world.state.service(&id).unwrap();
        assert!(
            world
                .wanted(&id)
                .iter()
                .all(|t| t.spec_version == service.spec_version)
        );
        assert_eq!(service.update.as_ref().unwrap().state, Update::UPDATING);
        world.now += 5 * SECOND;
        world.settle();
        let update = world.state.service(&id).unwrap().update.clone().unwrap();
        assert_eq!(update.state, Update::COMPLETED);
        assert!(update.completed_at.is_some());
    }
}

#[test]
fn a_start_first_update_that_fails_waits_before_it_tries_again() {
    let mut world = World::new(&["n1"]);
    let mut spec = replicated("web", 1);
    spec.update_config = Some(engine::ServiceSpecUpdateConfig {
        failure_action: Some(engine::ServiceSpecUpdateConfigFailureActionEnum::CONTINUE),
        order: Some(engine::ServiceSpecUpdateConfigOrderEnum::START_FIRST),
        ..Default::default()
    });
    let id = world.service(spec).unwrap();
    world.work();
    let old = only(&world, &id).id;
    world.force_update(&id);
    let begin = world.now;
    let mut made = 0;
    while world.now < begin + 60 * SECOND {
        world.settle();
        let new = world
            .wanted(&id)
            .iter()
            .find(|t| t.id != old)
            .map(|t| t.id.clone());
        if let Some(new) = new {
            made += 1;
            world.report(&new, TaskState::Failed);
        }
        world.now += SECOND;
    }
    assert!((10..=12).contains(&made), "one each 5 s: {made}");
    assert!(
        world.wanted(&id).iter().any(|t| t.id == old),
        "the old one runs on"
    );
}

#[test]
fn a_failing_update_pauses_or_rolls_back() {
    use engine::ServiceSpecUpdateConfigFailureActionEnum as Action;
    for (action, expected) in [
        (Action::PAUSE, Update::PAUSED),
        (Action::ROLLBACK, Update::ROLLBACK_COMPLETED),
    ] {
        let mut world = World::new(&["n1"]);
        let mut spec = replicated("web", 2);
        restart(&mut spec, Condition::ANY, 0, None);
        spec.update_config = Some(engine::ServiceSpecUpdateConfig {
            failure_action: Some(action),
            ..Default::default()
        });
        let id = world.service(spec).unwrap();
        world.work();
        world.force_update(&id);
        world.settle();
        let new = world
            .wanted(&id)
            .iter()
            .find(|t| t.desired == TaskState::Ready)
            .unwrap()
            .id
            .clone();
        world.report(&new, TaskState::Failed);
        world.work();
        world.now += 10 * SECOND;
        world.work();
        let service = world.state.service(&id).unwrap();
        assert_eq!(service.update.as_ref().unwrap().state, expected);
        let force = service.spec.task_template.as_ref().unwrap().force_update;
        assert_eq!(force, (expected == Update::PAUSED).then_some(1));
        assert_eq!(world.wanted(&id).len(), 2, "nothing is lost");
        let state = |world: &World| {
            let service = world.state.service(&id).unwrap();
            service.update.as_ref().map(|u| u.state)
        };
        world.now += SECOND;
        world.scale(&id, 3);
        match expected {
            Update::PAUSED => {
                assert_eq!(state(&world), Some(Update::UPDATING), "it is tried again");
                for _ in 0..4 {
                    world.work();
                    world.now += 10 * SECOND;
                }
                assert_eq!(state(&world), Some(Update::COMPLETED));
            }
            _ => assert_eq!(state(&world), None, "the rollback is over"),
        }
    }
}

#[test]
fn an_unhealthy_task_is_drained_and_replaced_as_the_policy_says() {
    for (condition, is_replaced) in [
        (Condition::ANY, true),
        (Condition::ON_FAILURE, true),
        (Condition::NONE, false),
    ] {
        let mut world = World::new(&["n1", "n2"]);
        let mut spec = replicated("web", 1);
        restart(&mut spec, condition, 3 * SECOND, None);
        let id = world.service(spec).unwrap();
        world.work();
        let old = only(&world, &id).id;
        assert!(world.state.task(&old).unwrap().is_active());
        world.acknowledge = false;
        world.sicken(&old);
        assert!(!world.state.task(&old).unwrap().is_active(), "at once");
        world.settle();
        let task = world.state.task(&old).unwrap();
        assert!(task.drained_at.is_some());
        assert_eq!(task.desired, TaskState::Running, "nodes still send to it");
        let desired = |world: &World| -> Vec<TaskState> {
            world.wanted(&id).iter().map(|t| t.desired).collect()
        };
        let next = |state| if is_replaced { vec![state] } else { vec![] };
        assert_eq!(desired(&world), next(TaskState::Ready));
        world.acknowledge = true;
        world.now += SECOND;
        world.settle();
        assert_eq!(world.state.task(&old).unwrap().desired, TaskState::Shutdown);
        world.now += 3 * SECOND;
        world.settle();
        assert_eq!(desired(&world), next(TaskState::Ready), "the old one runs");
        world.report(&old, TaskState::Failed);
        world.settle();
        assert_eq!(desired(&world), next(TaskState::Running));
    }
}

#[test]
fn a_start_first_update_waits_for_health_and_pauses_without() {
    let mut world = World::new(&["n1"]);
    let mut spec = replicated("web", 2);
    spec.update_config = Some(engine::ServiceSpecUpdateConfig {
        order: Some(engine::ServiceSpecUpdateConfigOrderEnum::START_FIRST),
        ..Default::default()
    });
    let id = world.service(spec).unwrap();
    world.work();
    let old: Vec<String> = world.wanted(&id).iter().map(|t| t.id.clone()).collect();
    let news = |world: &World| -> Vec<Task> {
        let wanted = world.wanted(&id).into_iter().cloned();
        wanted.filter(|t| !old.contains(&t.id)).collect()
    };
    world.force_update(&id);
    world.settle();
    let first = news(&world)[0].id.clone();
    world.report(&first, TaskState::Starting);
    world.now += 600 * SECOND;
    world.settle();
    assert_eq!(news(&world).len(), 1, "its health check is awaited");
    assert_eq!(world.wanted(&id).len(), 3);
    world.report(&first, TaskState::Running);
    world.settle();
    world.now += SECOND;
    world.settle();
    let is_told = |id: &&String| world.state.task(id).unwrap().desired == TaskState::Shutdown;
    let replaced = old.iter().find(is_told).unwrap().clone();
    world.report(&replaced, TaskState::Shutdown);
    world.settle();
    let second = news(&world).into_iter().find(|t| t.id != first).unwrap().id;
    world.report(&second, TaskState::Starting);
    world.sicken(&second);
    world.settle();
    world.report(&second, TaskState::Failed);
    world.settle();
    let update = world.state.service(&id).unwrap().update.clone().unwrap();
    assert_eq!(update.state, Update::PAUSED);
    let kept = world
        .wanted(&id)
        .iter()
        .filter(|t| old.contains(&t.id))
        .count();
    assert_eq!(kept, 1, "the old one runs on");
}

#[test]
fn a_leader_whose_clock_is_behind_waits_no_longer_than_it_has_to() {
    let mut world = World::new(&["n1"]);
    let mut spec = replicated("web", 2);
    spec.update_config = serde_json::from_value(serde_json::json!({"Delay": 10 * SECOND})).unwrap();
    let id = world.service(spec).unwrap();
    world.work();
    let back = |world: &mut World| {
        world.now -= 1000 * SECOND;
        world.leads_since = world.now;
        world.settle();
    };
    // One has failed, and another waits for its delay.
    let failed = world.wanted(&id)[0].id.clone();
    world.report(&failed, TaskState::Failed);
    world.settle();
    back(&mut world);
    let desired = |world: &World| world.wanted(&id)[0].desired;
    assert_eq!(desired(&world), TaskState::Ready);
    world.now += 5 * SECOND;
    world.settle();
    assert_eq!(desired(&world), TaskState::Running);
    world.work();
    // One was updated, and the other is next after the delay.
    world.now += 2000 * SECOND;
    world.force_update(&id);
    for _ in 0..5 {
        world.settle();
        let due: Vec<_> = world
            .state
            .tasks()
            .filter(|t| t.status.state < t.desired)
            .map(|t| (t.id.clone(), t.desired))
            .collect();
        for (task, to) in due {
            world.report(&task, to);
        }
        world.now += SECOND;
    }
    let version = world.state.service(&id).unwrap().spec_version;
    let updated = |world: &World| {
        let wanted = world.wanted(&id);
        wanted.iter().filter(|t| t.spec_version == version).count()
    };
    assert_eq!(updated(&world), 1);
    back(&mut world);
    assert_eq!(updated(&world), 1);
    world.now += 10 * SECOND;
    world.settle();
    assert_eq!(updated(&world), 2);
}

#[test]
fn an_update_that_is_overtaken_leaves_one_task_a_slot() {
    let mut world = World::new(&["n1"]);
    let mut spec = replicated("web", 1);
    let order = serde_json::json!({"Order": "start-first"});
    spec.update_config = serde_json::from_value(order).unwrap();
    let id = world.service(spec).unwrap();
    world.work();
    let serving = world.wanted(&id)[0].id.clone();
    for round in 1..5 {
        let force = |spec: &mut engine::ServiceSpec| template(spec).force_update = Some(round);
        world.edit(&id, force).unwrap();
        world.settle();
        let wanted = world.wanted(&id);
        assert!(wanted.iter().any(|t| t.id == serving), "round {round}");
        assert_eq!(wanted.len(), 2, "round {round}");
    }
    world.work();
    let wanted = world.wanted(&id);
    assert_eq!(wanted.len(), 1);
    assert_ne!(wanted[0].id, serving);
}
