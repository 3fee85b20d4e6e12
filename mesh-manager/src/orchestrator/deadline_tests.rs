//! Updates that stand still, and those that only take their time.

use crate::{
    Command,
    fixture::{SECOND, World, constrained, replicated, template},
    state::{Service, Task, TaskState, TaskStatus},
};
use mesh_api::engine::{self, ServiceUpdateStatusStateEnum as Update};
use serde_json::{Value, json};

const DEADLINE: i64 = 90 * SECOND;

/// A service with the deadline, and with these settings of updates and of rollbacks.
fn spec(replicas: i64, settings: &Value) -> engine::ServiceSpec {
    let mut spec = replicated("web", replicas);
    let label = ("mesh.progress-deadline".to_owned(), "90s".to_owned());
    spec.labels = Some([label].into());
    spec.update_config = serde_json::from_value(settings.clone()).unwrap();
    // A rollback is never rolled back.
    let is_taken = settings["FailureAction"] != "rollback";
    let rollback = if is_taken {
        settings.clone()
    } else {
        json!({})
    };
    spec.rollback_config = serde_json::from_value(rollback).unwrap();
    spec
}

/// Asks for more than any node has.
fn greedy(spec: &mut engine::ServiceSpec) {
    let reserved = json!({"Reservations": {"NanoCPUs": 100 * SECOND}});
    template(spec).resources = serde_json::from_value(reserved).unwrap();
}

fn service<'a>(world: &'a World, id: &str) -> &'a Service {
    world.state.service(id).unwrap()
}

/// State and message of the update.
fn told(world: &World, id: &str) -> (Update, String) {
    let update = service(world, id).update.as_ref().unwrap();
    (update.state, update.message.clone())
}

/// How many tasks of the newest version run.
fn clean(world: &World, id: &str) -> usize {
    let version = service(world, id).spec_version;
    let runs = |t: &&&Task| t.spec_version == version && t.status.state == TaskState::Running;
    world.wanted(id).iter().filter(runs).count()
}

/// Time passes, and well-behaved nodes work.
fn pass(world: &mut World, time: i64) {
    world.now += time;
    world.work();
}

/// Both nodes refuse it: the manager's is drained.
const CAUSE: &str = "no task of the new version has become running for 1m30s: web.1 is pending: no suitable node (1 node \
                     not available for new tasks; insufficient resources on 1 node)";

#[test]
fn an_update_that_stands_still_does_its_failure_action_and_says_why() {
    for (action, state, words) in [
        (
            "pause",
            Update::PAUSED,
            "update paused due to lack of progress: ",
        ),
        (
            "continue",
            Update::UPDATING,
            "update goes on despite lack of progress: ",
        ),
        (
            "rollback",
            Update::ROLLBACK_STARTED,
            "update rolled back due to lack of progress: ",
        ),
    ] {
        let mut world = World::new(&["n1"]);
        let id = world
            .service(spec(
                2,
                &json!({"FailureAction": action, "Order": "start-first"}),
            ))
            .unwrap();
        world.work();
        let begun = world.now;
        world.edit(&id, greedy).unwrap();
        world.work();
        world.now = begun + DEADLINE - 1;
        world.settle();
        assert_eq!(
            told(&world, &id),
            (Update::UPDATING, "update in progress".to_owned())
        );
        world.now += 1;
        world.settle();
        let (shown, message) = told(&world, &id);
        assert_eq!(
            (shown, message),
            (state, format!("{words}{CAUSE}")),
            "{action}"
        );
        // Those before go on; the rollback leaves them as they are.
        assert_eq!(world.running_on(&id, "n1"), 2, "{action}");
        pass(&mut world, 10 * SECOND);
        if action == "rollback" {
            pass(&mut world, 10 * SECOND);
            assert_eq!(told(&world, &id).0, Update::ROLLBACK_COMPLETED);
            assert_eq!(
                service(&world, &id).spec.labels.as_ref().map(|l| l.len()),
                Some(1)
            );
        }
    }
}

#[test]
fn without_a_deadline_it_goes_on_for_ever() {
    for label in [None, Some("off")] {
        let mut world = World::new(&["n1"]);
        let mut spec = spec(2, &json!({}));
        let label = label.map(|text| ("mesh.progress-deadline".to_owned(), text.to_owned()));
        spec.labels = Some(label.into_iter().collect());
        let id = world.service(spec).unwrap();
        world.work();
        world.edit(&id, greedy).unwrap();
        world.work();
        pass(&mut world, 1_000_000 * SECOND);
        assert_eq!(
            told(&world, &id),
            (Update::UPDATING, "update in progress".to_owned())
        );
    }
}

#[test]
fn a_rollback_that_stands_still_is_paused_and_never_rolled_back() {
    for (action, state, words) in [
        (
            "pause",
            Update::ROLLBACK_PAUSED,
            "rollback update paused due to lack of progress: ",
        ),
        (
            "continue",
            Update::ROLLBACK_STARTED,
            "rollback goes on despite lack of progress: ",
        ),
    ] {
        let mut world = World::new(&["n1"]);
        let id = world
            .service(spec(1, &json!({"FailureAction": action})))
            .unwrap();
        world.work();
        world.force_update(&id);
        world.work();
        pass(&mut world, 10 * SECOND);
        assert_eq!(told(&world, &id).0, Update::COMPLETED);
        let update = service(&world, &id);
        let rollback = Command::UpdateService {
            id: id.clone(),
            version: update.meta.version,
            spec: Box::new(update.spec.clone()),
            registry_auth: None,
            rollback: true,
        };
        world.call(rollback).unwrap();
        world.settle();
        let new = world.wanted(&id).last().unwrap().id.clone();
        world.report(&new, TaskState::Preparing);
        pass_without_work(&mut world, DEADLINE);
        let cause = "no task of the new version has become running for 1m30s: web.1 is preparing";
        assert_eq!(
            told(&world, &id),
            (state, format!("{words}{cause}")),
            "{action}"
        );
    }
}

/// Time passes, and nodes do nothing.
fn pass_without_work(world: &mut World, time: i64) {
    world.now += time;
    world.settle();
}

#[test]
fn every_task_that_becomes_running_gives_it_time_again() {
    let mut world = World::new(&["n1"]);
    let id = world
        .service(spec(3, &json!({"Order": "start-first"})))
        .unwrap();
    world.work();
    world.force_update(&id);
    for done in 1..=3 {
        pass_without_work(&mut world, DEADLINE - SECOND);
        assert_eq!(told(&world, &id).0, Update::UPDATING, "{done}");
        let new = world
            .wanted(&id)
            .into_iter()
            .filter(|t| t.status.state == TaskState::Assigned);
        let new: Vec<String> = new.map(|t| t.id.clone()).collect();
        assert_eq!(new.len(), 1, "one at a time");
        world.report(&new[0], TaskState::Running);
        world.settle();
        assert_eq!(clean(&world, &id), done);
    }
    world.work();
    pass(&mut world, 10 * SECOND);
    assert_eq!(told(&world, &id).0, Update::COMPLETED);
    pass(&mut world, 10 * DEADLINE);
    assert_eq!(
        told(&world, &id).0,
        Update::COMPLETED,
        "what is over is not late"
    );
}

#[test]
fn what_the_update_itself_lets_pass_does_not_count() {
    // A delay between tasks that is longer than the deadline.
    let mut world = World::new(&["n1"]);
    let delay = 4 * DEADLINE;
    let id = world.service(spec(2, &json!({"Delay": delay}))).unwrap();
    world.work();
    world.force_update(&id);
    world.work();
    assert_eq!(clean(&world, &id), 1);
    pass(&mut world, delay - 10 * SECOND);
    assert_eq!(told(&world, &id).0, Update::UPDATING);
    pass(&mut world, 20 * SECOND);
    assert_eq!(clean(&world, &id), 2);
    // Nor does the time for which there were no managers.
    let mut world = World::new(&["n1"]);
    let id = world.service(spec(1, &json!({}))).unwrap();
    world.work();
    world.edit(&id, greedy).unwrap();
    world.work();
    world.now += 10 * DEADLINE;
    world.leads_since = world.now;
    pass_without_work(&mut world, DEADLINE - 1);
    assert_eq!(told(&world, &id).0, Update::UPDATING);
    pass_without_work(&mut world, 1);
    assert_eq!(told(&world, &id).0, Update::PAUSED);
}

#[test]
fn a_task_that_is_lost_while_all_are_monitored_has_the_whole_time() {
    type Loss<'a> = (&'a str, &'a dyn Fn(&mut World, &Task));
    let lose: [Loss<'_>; 3] = [
        ("its node is drained", &|world, task| {
            let drain = engine::NodeSpecAvailabilityEnum::DRAIN;
            world.set_availability(task.node_id.as_deref().unwrap(), drain);
        }),
        ("it is unhealthy", &|world, task| world.sicken(&task.id)),
        ("its node goes down", &|world, task| {
            world.node_down(task.node_id.as_deref().unwrap());
        }),
    ];
    for (action, (what, lose)) in ["pause", "continue"]
        .into_iter()
        .flat_map(|action| lose.map(|case| (action, case)))
    {
        let mut world = World::new(&["n1", "n2"]);
        let settings = json!({
            "Monitor": 10 * DEADLINE, "Parallelism": 0, "MaxFailureRatio": 1, "FailureAction": action
        });
        let id = world.service(spec(4, &settings)).unwrap();
        world.work();
        world.force_update(&id);
        world.work();
        pass(&mut world, 2 * DEADLINE);
        let goes_on = (Update::UPDATING, "update in progress".to_owned());
        assert_eq!(
            (told(&world, &id), clean(&world, &id)),
            (goes_on.clone(), 4)
        );
        let task = world.wanted(&id)[0].clone();
        lose(&mut world, &task);
        world.settle();
        assert!(clean(&world, &id) < 4, "{what}");
        assert_eq!(told(&world, &id), goes_on, "{action}: {what}");
        pass_without_work(&mut world, DEADLINE - 1);
        assert_eq!(told(&world, &id), goes_on, "{action}: {what}");
        world.work();
        assert_eq!((told(&world, &id), clean(&world, &id)), (goes_on, 4));
    }
}

#[test]
fn one_that_was_to_continue_says_when_it_goes_on() {
    let mut world = World::new(&["n1"]);
    let id = world
        .service(spec(1, &json!({"FailureAction": "continue"})))
        .unwrap();
    world.work();
    let placed = constrained(replicated("web", 1), &["node.labels.disk==ssd"]);
    let nowhere = |spec: &mut engine::ServiceSpec| {
        let task = template(spec);
        task.force_update = Some(1);
        task.placement = placed.task_template.and_then(|t| t.placement);
    };
    world.edit(&id, nowhere).unwrap();
    world.work();
    pass(&mut world, DEADLINE);
    let (state, message) = told(&world, &id);
    assert_eq!(state, Update::UPDATING);
    assert!(
        message.contains("scheduling constraints not satisfied"),
        "{message}"
    );
    let version = world.state.node("n1").unwrap().meta.version;
    let labelled = Command::UpdateNode {
        id: "n1".to_owned(),
        version,
        spec: serde_json::from_value(json!({"Labels": {"disk": "ssd"}})).unwrap(),
    };
    world.call(labelled).unwrap();
    world.work();
    assert_eq!(clean(&world, &id), 1);
    pass(&mut world, 10 * SECOND);
    assert_eq!(
        told(&world, &id),
        (Update::COMPLETED, "update completed".to_owned())
    );
}

#[test]
fn the_cause_is_the_last_error_of_the_newest_replica() {
    let mut world = World::new(&["n1"]);
    // So many may fail that failures are no reason to stop.
    let settings = json!({"MaxFailureRatio": 1.0});
    let mut spec = spec(1, &settings);
    template(&mut spec).restart_policy =
        serde_json::from_value(json!({"Delay": 1000 * SECOND})).unwrap();
    let id = world.service(spec).unwrap();
    world.work();
    world.force_update(&id);
    world.settle();
    let new = world.wanted(&id).last().unwrap().id.clone();
    world.now += SECOND;
    let status = TaskStatus {
        state: TaskState::Rejected,
        timestamp: world.now,
        error: "No such image: nobody/nothing:latest".to_owned(),
        ..TaskStatus::default()
    };
    let report = crate::Operation::TaskStatuses(vec![(new, status)]);
    world.apply(report).unwrap();
    world.settle();
    pass_without_work(&mut world, DEADLINE);
    let cause = "no task of the new version has become running for 1m30s: web.1 is assigned, the one before it was \
                 rejected: No such image: nobody/nothing:latest";
    let expected = format!("update paused due to lack of progress: {cause}");
    assert_eq!(told(&world, &id), (Update::PAUSED, expected));
}
