//! The settings of updates and of rollbacks, each with what it changes.

use crate::{
    Command,
    fixture::{SECOND, World, constrained, on, published, replicated, template},
    state::{Task, TaskState},
};
use mesh_api::engine::{self, ServiceUpdateStatusStateEnum as Update};
use serde_json::{Value, json};

/// A service of so many replicas that are replaced without a delay once they have ended.
fn spec(replicas: i64, update: Value, rollback: Value) -> engine::ServiceSpec {
    let mut spec = replicated("web", replicas);
    template(&mut spec).restart_policy = serde_json::from_value(json!({"Delay": 0})).unwrap();
    spec.update_config = serde_json::from_value(update).unwrap();
    spec.rollback_config = serde_json::from_value(rollback).unwrap();
    spec
}

/// A world in which an update, or the rollback of one, has just been asked for, with these settings.
fn begun(is_rollback: bool, replicas: i64, settings: &Value) -> (World, String) {
    let mut world = World::new(&["n1"]);
    let spec = match is_rollback {
        true => spec(replicas, json!({"Parallelism": 0}), settings.clone()),
        false => spec(replicas, settings.clone(), json!({})),
    };
    let id = world.service(spec).unwrap();
    world.work();
    world.force_update(&id);
    if is_rollback {
        world.work();
        world.now += 5 * SECOND;
        world.settle();
        assert_eq!(status(&world, &id), Some(Update::COMPLETED));
        let service = world.state.service(&id).unwrap();
        let rollback = Command::UpdateService {
            id: id.clone(),
            version: service.meta.version,
            spec: Box::new(service.spec.clone()),
            registry_auth: None,
            rollback: true,
        };
        world.call(rollback).unwrap();
    }
    (world, id)
}

fn status(world: &World, id: &str) -> Option<Update> {
    let service = world.state.service(id).unwrap();
    service.update.as_ref().map(|update| update.state)
}

/// Running tasks of the newest spec, in the order they began to run.
fn clean(world: &World, id: &str) -> Vec<Task> {
    let version = world.state.service(id).unwrap().spec_version;
    let wanted = world.wanted(id).into_iter();
    let clean =
        wanted.filter(|t| t.spec_version == version && t.status.state == TaskState::Running);
    let mut clean: Vec<Task> = clean.cloned().collect();
    clean.sort_by_key(|t| t.running_since);
    clean
}

fn last_start(world: &World, id: &str) -> i64 {
    let last = clean(world, id).last().and_then(|t| t.running_since);
    last.expect("one runs")
}

#[test]
fn so_many_at_a_time_in_this_order_with_a_delay_between() {
    for is_rollback in [false, true] {
        for (parallelism, order, replaced, serving) in [
            (1, "stop-first", 1, 3),
            (2, "stop-first", 2, 2),
            (3, "start-first", 3, 4),
        ] {
            let delay = 60 * SECOND;
            let settings = json!({"Parallelism": parallelism, "Order": order, "Delay": delay});
            let (mut world, id) = begun(is_rollback, 4, &settings);
            let case = format!("{settings}, rollback: {is_rollback}");
            world.settle();
            let serving_now = world.wanted(&id).iter().filter(|t| t.is_active()).count();
            assert_eq!(serving_now, serving, "{case}");
            world.work();
            assert_eq!(clean(&world, &id).len(), replaced, "{case}");
            world.now = last_start(&world, &id) + delay - 1;
            world.work();
            assert_eq!(clean(&world, &id).len(), replaced, "too early: {case}");
            world.now += 1;
            world.work();
            assert_eq!(clean(&world, &id).len(), 4.min(2 * replaced), "{case}");
        }
    }
}

#[test]
fn what_ends_within_the_monitor_period_fails_it() {
    use Update::{COMPLETED, PAUSED, ROLLBACK_COMPLETED, ROLLBACK_PAUSED};
    let default = 5 * SECOND;
    let long = 90 * SECOND;
    for (is_rollback, monitor, action, after, expected) in [
        (false, 0, "pause", default - 1, PAUSED),
        (false, 0, "pause", default, COMPLETED),
        (false, long, "pause", long - 1, PAUSED),
        (false, long, "pause", long, COMPLETED),
        (false, long, "continue", 1, COMPLETED),
        (true, 0, "pause", default - 1, ROLLBACK_PAUSED),
        (true, 0, "pause", default, ROLLBACK_COMPLETED),
        (true, long, "pause", long - 1, ROLLBACK_PAUSED),
        (true, long, "pause", long, ROLLBACK_COMPLETED),
        (true, long, "continue", 1, ROLLBACK_COMPLETED),
    ] {
        let settings = json!({"Monitor": monitor, "FailureAction": action});
        let (mut world, id) = begun(is_rollback, 2, &settings);
        let case = format!("{settings}, rollback: {is_rollback}, after {after}");
        world.work();
        assert_eq!(clean(&world, &id).len(), 2, "{case}");
        let last = clean(&world, &id).pop().unwrap();
        world.now = last.running_since.unwrap() + after;
        world.report(&last.id, TaskState::Failed);
        world.work();
        world.now += long;
        world.work();
        assert_eq!(status(&world, &id), Some(expected), "{case}");
        assert_eq!(world.wanted(&id).len(), 2, "{case}");
    }
}

/// So many tasks of the newest spec fail at once.
fn fail(world: &mut World, id: &str, count: usize) {
    let failing = clean(world, id);
    assert!(failing.len() >= count, "{failing:?}");
    for task in &failing[failing.len() - count..] {
        world.report(&task.id, TaskState::Failed);
    }
    world.settle();
}

#[test]
fn as_many_may_fail_as_the_ratio_says() {
    for (is_rollback, paused) in [(false, Update::PAUSED), (true, Update::ROLLBACK_PAUSED)] {
        for (ratio, failures, is_too_many) in [
            (0.0, 1, true),
            (0.24, 1, true),
            (0.25, 1, false),
            (0.25, 2, true),
            (0.5, 2, false),
            (0.5, 3, true),
            (1.0, 4, false),
        ] {
            let settings = json!({"Parallelism": 0, "MaxFailureRatio": ratio});
            let (mut world, id) = begun(is_rollback, 4, &settings);
            world.work();
            fail(&mut world, &id, failures);
            assert_eq!(
                status(&world, &id) == Some(paused),
                is_too_many,
                "{failures} of 4, ratio {ratio}, rollback: {is_rollback}"
            );
        }
    }
}

#[test]
fn the_ratio_is_one_of_the_replicas_that_are_replaced() {
    // Those that a larger service has more of were never out of date.
    for (failures, expected) in [(1, Update::UPDATING), (2, Update::PAUSED)] {
        let settings = json!({"Parallelism": 0, "MaxFailureRatio": 0.5});
        let (mut world, id) = begun(false, 2, &settings);
        world.work();
        let replaced: Vec<_> = clean(&world, &id).into_iter().map(|t| t.id).collect();
        world.scale(&id, 8);
        world.settle();
        for task in &replaced[..failures] {
            world.report(task, TaskState::Failed);
        }
        world.settle();
        assert_eq!(status(&world, &id), Some(expected), "{failures}");
    }

    // Nor were those that a paused update had replaced before it was tried again.
    let delay = 1000 * SECOND;
    let settings = json!({"Parallelism": 2, "MaxFailureRatio": 0.3, "Delay": delay});
    let (mut world, id) = begun(false, 4, &settings);
    world.work();
    fail(&mut world, &id, 2);
    assert_eq!(status(&world, &id), Some(Update::PAUSED));
    world.work();
    world.now += delay;
    let tried_again = |spec: &mut engine::ServiceSpec| {
        spec.labels = Some([("again".to_owned(), "yes".to_owned())].into());
    };
    world.edit(&id, tried_again).unwrap();
    assert_eq!(status(&world, &id), Some(Update::UPDATING));
    world.work();
    assert_eq!(clean(&world, &id).len(), 4);
    fail(&mut world, &id, 1);
    assert_eq!(status(&world, &id), Some(Update::PAUSED), "one of two");
}

#[test]
fn a_short_history_leaves_the_ratio_as_it_is() {
    for limit in [0, 1, 5] {
        let settings = json!({"Parallelism": 1, "MaxFailureRatio": 0.3});
        let (mut world, id) = begun(false, 4, &settings);
        let mut cluster = world.state.cluster().unwrap().clone();
        let orchestration = cluster.spec.orchestration.get_or_insert_default();
        orchestration.task_history_retention_limit = Some(limit);
        world.state.put_cluster(cluster);
        world.work();
        assert_eq!(clean(&world, &id).len(), 4);
        fail(&mut world, &id, 1);
        assert_eq!(status(&world, &id), Some(Update::UPDATING), "one of four");
    }
}

#[test]
fn a_pause_leaves_one_task_a_replica() {
    for is_rollback in [false, true] {
        let settings = json!({"Parallelism": 2, "Order": "start-first"});
        let (mut world, id) = begun(is_rollback, 2, &settings);
        world.settle();
        let version = world.state.service(&id).unwrap().spec_version;
        let wanted = world.wanted(&id).into_iter();
        let new = wanted.filter(|t| t.spec_version == version);
        let new: Vec<String> = new.map(|t| t.id.clone()).collect();
        assert_eq!(new.len(), 2);
        world.report(&new[0], TaskState::Running);
        world.report(&new[1], TaskState::Failed);
        world.work();
        let paused = match is_rollback {
            true => Update::ROLLBACK_PAUSED,
            false => Update::PAUSED,
        };
        assert_eq!(status(&world, &id), Some(paused));
        let wanted = world.wanted(&id);
        let running = wanted.iter().filter(|t| t.is_active()).count();
        assert_eq!((running, wanted.len()), (2, 2), "rollback: {is_rollback}");
    }
}

/// All do their work for a second, but the new tasks of the first replica fail: before they run, or a second later.
fn work_but_the_first(world: &mut World, id: &str, runs: bool) {
    world.settle();
    let version = world.state.service(id).unwrap().spec_version;
    let wanted = world.wanted(id).into_iter();
    let new = wanted.filter(|t| t.spec_version == version);
    let new: Vec<Task> = new.cloned().collect();
    for task in new {
        match (task.slot, task.running_since) {
            (1, None) if !runs => world.report(&task.id, TaskState::Rejected),
            (1, Some(_)) => world.report(&task.id, TaskState::Failed),
            (_, None) => world.report(&task.id, TaskState::Running),
            (_, Some(_)) => {}
        }
    }
    // Who was told to stop does.
    let tasks = world.state.tasks_of_service(id);
    let told = tasks.filter(|t| t.desired >= TaskState::Shutdown && !t.status.state.is_terminal());
    let told: Vec<String> = told.map(|t| t.id.clone()).collect();
    for task in told {
        world.report(&task, TaskState::Shutdown);
    }
    world.now += SECOND;
}

#[test]
fn the_delay_is_kept_after_a_failure_too() {
    for (order, runs) in [
        ("stop-first", false),
        ("start-first", false),
        ("stop-first", true),
    ] {
        let settings = json!({"FailureAction": "continue", "Delay": 60 * SECOND, "Order": order});
        let (mut world, id) = begun(false, 3, &settings);
        for second in 0..180 {
            work_but_the_first(&mut world, &id, runs);
            // The first replica failed within two seconds, and goes on failing.
            let clean = clean(&world, &id).into_iter();
            let replaced = clean.filter(|task| task.slot != 1).count();
            let (least, most) = ((second / 63).min(2), (second / 60).min(2));
            let case = format!("{settings}, runs: {runs}, {second} s");
            assert!((least..=most).contains(&replaced), "{case}: {replaced}");
        }
    }
}

#[test]
fn what_cannot_start_holds_up_no_other_replica() {
    for (is_rollback, ongoing) in [(false, Update::UPDATING), (true, Update::ROLLBACK_STARTED)] {
        for settings in [
            json!({"FailureAction": "continue"}),
            json!({"FailureAction": "continue", "Order": "start-first"}),
            json!({"MaxFailureRatio": 0.5}),
            json!({"MaxFailureRatio": 0.5, "Order": "start-first"}),
        ] {
            let (mut world, id) = begun(is_rollback, 4, &settings);
            let case = format!("{settings}, rollback: {is_rollback}");
            for _ in 0..20 {
                work_but_the_first(&mut world, &id, false);
            }
            let slots: Vec<u64> = clean(&world, &id).iter().map(|t| t.slot).collect();
            assert_eq!(slots, [2, 3, 4], "{case}");
            // The old task of the first replica still runs.
            let is_kept = settings["Order"] == "start-first";
            let is_over = status(&world, &id) != Some(ongoing);
            assert_eq!(is_over, !is_kept, "{case}");
        }
    }
}

/// How an update that has got so far is taken back.
#[derive(Debug, Clone, Copy)]
enum Back {
    /// By `service rollback`.
    Asked,
    /// By an update to the spec before.
    Updated,
    /// By itself, as a new task has failed.
    Failed,
}

#[test]
fn a_rollback_leaves_tasks_alone_that_the_update_has_not_got_to() {
    for back in [Back::Asked, Back::Updated, Back::Failed] {
        for (order, replaced) in [
            ("stop-first", 1),
            ("stop-first", 2),
            ("start-first", 1),
            ("start-first", 4),
        ] {
            let case = format!("{back:?} {order} {replaced}");
            let delay = 100 * SECOND;
            let settings = json!({"Parallelism": 1, "Order": order, "Delay": delay, "FailureAction": "rollback"});
            let (mut world, id) = begun(false, 4, &settings);
            let old: Vec<String> = world.wanted(&id).iter().map(|t| t.id.clone()).collect();
            for _ in 1..replaced {
                world.work();
                world.now += delay;
            }
            world.work();
            assert_eq!(clean(&world, &id).len(), replaced, "{case}");
            let is_old = |task: &&Task| old.contains(&task.id);
            let left: Vec<String> = world
                .wanted(&id)
                .into_iter()
                .filter(is_old)
                .map(|t| t.id.clone())
                .collect();
            assert_eq!(left.len(), 4 - replaced, "{case}");

            let service = world.state.service(&id).unwrap().clone();
            let previous = service.previous_spec.clone().unwrap();
            let update = |spec, rollback| Command::UpdateService {
                id: id.clone(),
                version: service.meta.version,
                spec,
                registry_auth: None,
                rollback,
            };
            match back {
                Back::Asked => drop(world.call(update(previous, true)).unwrap()),
                Back::Updated => drop(world.call(update(previous, false)).unwrap()),
                Back::Failed => fail(&mut world, &id, 1),
            }
            for _ in 0..6 {
                world.work();
                world.now += delay;
            }
            world.work();
            let done = match back {
                Back::Updated => Update::COMPLETED,
                Back::Asked | Back::Failed => Update::ROLLBACK_COMPLETED,
            };
            assert_eq!(status(&world, &id), Some(done), "{case}");
            assert_eq!(clean(&world, &id).len(), 4, "{case}");
            for task in &left {
                let task = world.state.task(task).unwrap();
                assert!(task.is_active(), "{case}: {task:?}");
            }
            // Each of the others was replaced once. The one that failed was first by one of the spec that is given up.
            let made = world.state.tasks_of_service(&id).count();
            let failed = usize::from(matches!(back, Back::Failed));
            assert_eq!(made, 4 + 2 * replaced + failed, "{case}");
        }
    }
}

/// A change of a spec.
type Edit = fn(&mut World, &mut engine::ServiceSpec);

#[test]
fn tasks_stay_where_all_is_as_they_were_made_of() {
    let image: Edit = |_, spec| {
        let container = template(spec).container_spec.as_mut().unwrap();
        container.image = Some("other".to_owned());
    };
    // What an update changes while it gets nowhere, what the next one changes beside taking that back, and whether tasks stay.
    let cases: &[(&str, Edit, Edit, bool)] = &[
        ("nothing else", image, |_, _| {}, true),
        (
            "placement",
            image,
            |_, spec| *spec = constrained(spec.clone(), &["node.role==worker"]),
            true,
        ),
        (
            "labels of the service",
            image,
            |_, spec| spec.labels = Some([("a".to_owned(), "b".to_owned())].into()),
            true,
        ),
        (
            "replicas",
            image,
            |_, spec| spec.mode = replicated("", 5).mode,
            true,
        ),
        (
            "environment",
            image,
            |_, spec| {
                let container = template(spec).container_spec.as_mut().unwrap();
                container.env = Some(vec!["A=1".to_owned()]);
            },
            false,
        ),
        (
            "a network there and back",
            |_, spec| *spec = on(spec.clone(), &["other"]),
            |_, _| {},
            true,
        ),
        (
            "a network",
            image,
            |_, spec| *spec = on(spec.clone(), &["other"]),
            false,
        ),
        (
            "a port of every node",
            image,
            |_, spec| spec.endpoint_spec = published("web", 8080, false).endpoint_spec,
            false,
        ),
        (
            "a port of the task's node",
            image,
            |_, spec| spec.endpoint_spec = published("web", 8080, true).endpoint_spec,
            false,
        ),
        (
            "a port there and back",
            |_, spec| spec.endpoint_spec = published("web", 8080, false).endpoint_spec,
            |_, _| {},
            true,
        ),
    ];
    for (what, first, then, stay) in cases {
        let mut world = World::new(&["n1", "n2", "n3", "n4"]);
        world.network("front", "10.5.0.0/24").unwrap();
        world.network("other", "10.6.0.0/24").unwrap();
        let before = on(spec(4, json!({}), json!({})), &["front"]);
        let id = world.service(before.clone()).unwrap();
        world.work();
        let old: Vec<String> = world.wanted(&id).iter().map(|t| t.id.clone()).collect();
        let mut changed = before.clone();
        first(&mut world, &mut changed);
        world.edit(&id, |spec| *spec = changed).unwrap();
        let version = world.state.service(&id).unwrap().spec_version;
        let mut wanted = before;
        then(&mut world, &mut wanted);
        world.edit(&id, |spec| *spec = wanted).unwrap();
        assert_ne!(world.state.service(&id).unwrap().spec_version, version);
        for _ in 0..6 {
            world.work();
            world.now += 10 * SECOND;
        }
        world.work();
        assert_eq!(status(&world, &id), Some(Update::COMPLETED), "{what}");
        let kept = world
            .wanted(&id)
            .into_iter()
            .filter(|t| old.contains(&t.id));
        assert_eq!(kept.count(), if *stay { 4 } else { 0 }, "{what}");
    }
}

/// What of the old version waits for room would use up the parallelism for ever.
#[test]
fn a_rollback_waits_for_no_task_that_finds_no_room() {
    let mut world = World::new(&["n1", "n2"]);
    let mut wanted = spec(3, json!({"Delay": 100 * SECOND}), json!({}));
    let placement = json!({"MaxReplicas": 1});
    template(&mut wanted).placement = serde_json::from_value(placement).unwrap();
    let id = world.service(wanted).unwrap();
    world.work();
    let running = |world: &World| -> Vec<String> {
        let tasks = world.wanted(&id).into_iter();
        let tasks = tasks.filter(|t| t.status.state == TaskState::Running);
        tasks.map(|t| t.id.clone()).collect()
    };
    let old = running(&world);
    assert_eq!(old.len(), 2);
    world.force_update(&id);
    world.work();
    assert_eq!(clean(&world, &id).len(), 1, "half done");
    let service = world.state.service(&id).unwrap().clone();
    let rollback = Command::UpdateService {
        id: id.clone(),
        version: service.meta.version,
        spec: service.previous_spec.clone().unwrap(),
        registry_auth: None,
        rollback: true,
    };
    world.call(rollback).unwrap();
    for _ in 0..6 {
        world.work();
        world.now += 10 * SECOND;
    }
    assert_eq!(clean(&world, &id).len(), 2, "all that run");
    let kept = running(&world).iter().filter(|id| old.contains(id)).count();
    assert_eq!(kept, 1);
}

/// To have no network and to be on the node's own is not the same, though neither is one of the cluster's.
#[test]
fn who_goes_to_the_nodes_own_network_is_replaced() {
    for between in [None, Some("other")] {
        let mut world = World::new(&["n1"]);
        let id = world.service(spec(2, json!({}), json!({}))).unwrap();
        world.work();
        let old: Vec<String> = world.wanted(&id).iter().map(|t| t.id.clone()).collect();
        let before = world.state.service(&id).unwrap().spec.clone();
        if let Some(image) = between {
            let edit = |spec: &mut engine::ServiceSpec| {
                let container = template(spec).container_spec.as_mut().unwrap();
                container.image = Some(image.to_owned());
            };
            world.edit(&id, edit).unwrap();
        }
        let there = |spec: &mut engine::ServiceSpec| *spec = on(before.clone(), &["host"]);
        world.edit(&id, there).unwrap();
        world.work();
        assert_eq!(clean(&world, &id).len(), 2);
        let is_old = |task: &&Task| old.contains(&task.id);
        assert_eq!(world.wanted(&id).into_iter().filter(is_old).count(), 0);
    }
}

#[test]
fn what_is_up_to_date_is_left_as_it_is() {
    let mut world = World::new(&["n1"]);
    let id = world.service(spec(2, json!({}), json!({}))).unwrap();
    world.work();
    let versions = |world: &World| -> Vec<u64> {
        let tasks = world.wanted(&id).into_iter().take(2);
        tasks.map(|task| task.meta.version).collect()
    };
    let before = versions(&world);
    world.scale(&id, 3);
    world.work();
    assert_eq!((versions(&world), world.wanted(&id).len()), (before, 3));
}

#[test]
fn by_older_rules_all_tasks_were_replaced() {
    for (rules, kept) in [(11, 0), (12, 2)] {
        let mut world = World::new(&["n1"]);
        let id = world.service(spec(2, json!({}), json!({}))).unwrap();
        world.work();
        world.force_update(&id);
        let service = world.state.service(&id).unwrap();
        let rollback = crate::Operation::Command(Command::UpdateService {
            id: id.clone(),
            version: service.meta.version,
            spec: Box::new(service.spec.clone()),
            registry_auth: None,
            rollback: true,
        });
        world.apply_by(rules, rollback).unwrap();
        assert_eq!(clean(&world, &id).len(), kept, "{rules}");
    }
}
