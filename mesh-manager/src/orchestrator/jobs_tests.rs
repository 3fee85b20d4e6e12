//! Jobs: what they run, how often, and what is left of it.

use crate::{
    Command, Operation,
    fixture::{SECOND, World, constrained, global_job, job, replicated, template},
    state::{Task, TaskState, service_status},
};
use mesh_api::engine::{
    self, NodeSpecAvailabilityEnum as Availability, TaskSpecRestartPolicyConditionEnum as Condition,
};

fn begun(mut spec: engine::ServiceSpec, condition: Condition, attempts: i64) -> (World, String) {
    template(&mut spec).restart_policy = Some(engine::TaskSpecRestartPolicy {
        condition: Some(condition),
        delay: Some(3 * SECOND),
        max_attempts: Some(attempts),
        window: None,
    });
    let mut world = World::new(&["n1", "n2"]);
    let id = world.service(spec).unwrap();
    world.work();
    (world, id)
}

fn in_state(world: &World, id: &str, state: TaskState) -> Vec<Task> {
    let tasks = world.state.tasks_of_service(id);
    let mut tasks: Vec<Task> = tasks.filter(|t| t.status.state == state).cloned().collect();
    tasks.sort_by_key(|t| (t.slot, t.meta.created_at));
    tasks
}

fn running(world: &World, id: &str) -> Vec<Task> {
    in_state(world, id, TaskState::Running)
}

/// Running, desired and completed tasks, as `service ls` has them.
fn counts(world: &World, id: &str) -> (u64, u64, u64) {
    let status = service_status(&world.state, world.state.service(id).unwrap());
    let count = |number: Option<u64>| number.unwrap();
    (
        count(status.running_tasks),
        count(status.desired_tasks),
        count(status.completed_tasks),
    )
}

/// Lets the running tasks complete, one by one, until none runs any more; how many did.
fn run_out(world: &mut World, id: &str) -> usize {
    for count in 0..100 {
        world.work();
        let Some(task) = running(world, id).pop() else {
            return count;
        };
        world.report(&task.id, TaskState::Complete);
    }
    panic!("the job has no end");
}

#[test]
fn so_many_run_at_a_time_and_so_many_complete() {
    for (completions, concurrent, at_once) in [
        (1, 1, 1),
        (5, 2, 2),
        (3, 3, 3),
        (2, 9, 2),
        (0, 1, 0),
        (2, 0, 0),
    ] {
        let spec = job("job", completions, concurrent);
        let (mut world, id) = begun(spec, Condition::ANY, 0);
        let case = format!("{completions} {concurrent}");
        assert_eq!(running(&world, &id).len(), at_once, "{case}");
        assert_eq!(counts(&world, &id), (at_once as u64, concurrent, 0));
        let mut made = 0;
        loop {
            world.work();
            let tasks = running(&world, &id);
            assert!(tasks.len() <= at_once, "{case}");
            let Some(task) = tasks.first() else { break };
            world.report(&task.id, TaskState::Complete);
            made += 1;
        }
        let done = if concurrent == 0 { 0 } else { completions };
        assert_eq!(made, done, "{case}");
        assert_eq!(counts(&world, &id), (0, concurrent, done), "{case}");
        let slots: Vec<u64> = in_state(&world, &id, TaskState::Complete)
            .iter()
            .map(|t| t.slot)
            .collect();
        assert_eq!(slots, (1..=done).collect::<Vec<_>>(), "{case}");
        // A leader that has just taken over sees no more than this.
        world.now += 3600 * SECOND;
        assert_eq!(world.settle(), 0, "what is done is done: {case}");
    }
}

#[test]
fn failures_are_tried_again_as_the_policy_says() {
    use TaskState::{Complete, Failed, Rejected};
    for (condition, attempts, ends, completed) in [
        (Condition::ANY, 0, &[Complete][..], 1),
        (Condition::ANY, 0, &[Failed, Rejected, Failed, Complete], 1),
        (Condition::ON_FAILURE, 0, &[Failed, Complete], 1),
        (Condition::NONE, 0, &[Complete], 1),
        (Condition::NONE, 0, &[Failed], 0),
        (Condition::ANY, 2, &[Failed, Failed, Complete], 1),
        (Condition::ANY, 2, &[Failed, Failed, Failed], 0),
    ] {
        let (mut world, id) = begun(job("job", 1, 1), condition, attempts);
        let case = format!("{condition} {attempts} {ends:?}");
        for (number, end) in ends.iter().enumerate() {
            let tasks = running(&world, &id);
            assert_eq!(tasks.len(), 1, "{case}: run {number}");
            world.report(&tasks[0].id, *end);
            let is_last = number + 1 == ends.len();
            world.settle();
            let waiting = world
                .wanted(&id)
                .iter()
                .any(|t| t.desired == TaskState::Ready);
            assert_eq!(waiting, !is_last, "{case}: after run {number}");
            world.now += 3 * SECOND;
            world.work();
        }
        assert_eq!(counts(&world, &id).2, completed, "{case}");
        world.now += 3600 * SECOND;
        assert_eq!(world.settle(), 0, "{case}: no more than that");
        // Once more from the start.
        world.force_update(&id);
        world.work();
        assert_eq!(running(&world, &id).len(), 1, "{case}: the next iteration");
    }
}

#[test]
fn a_slot_that_failed_for_good_gives_way_to_the_others() {
    let (mut world, id) = begun(job("job", 3, 1), Condition::NONE, 0);
    let first = running(&world, &id)[0].id.clone();
    world.report(&first, TaskState::Failed);
    assert_eq!(run_out(&mut world, &id), 2);
    assert_eq!(counts(&world, &id), (0, 1, 2));
}

#[test]
fn each_change_is_another_iteration() {
    for (spec, is_global) in [(job("job", 2, 2), false), (global_job("job"), true)] {
        let (mut world, id) = begun(spec, Condition::ANY, 0);
        let first = running(&world, &id);
        assert_eq!(first.len(), 2);
        world.report(&first[0].id, TaskState::Complete);
        world.settle();
        world.now += SECOND;
        let label = |s: &mut engine::ServiceSpec| {
            s.labels
                .get_or_insert_default()
                .insert("a".into(), "b".into());
        };
        world.edit(&id, label).unwrap();
        let service = world.state.service(&id).unwrap();
        let job = service.job.unwrap();
        assert_eq!((job.iteration, job.last_execution), (1, world.now));
        assert!(service.update.is_none());
        let shown = service.to_engine(&world.state).job_status.unwrap();
        assert_eq!(shown.job_iteration.unwrap().index, Some(1));
        world.work();
        assert_eq!(counts(&world, &id).0, 2, "both run, and nothing of before");
        let old = |id: &String| world.state.task(id).cloned();
        assert!(old(&first[1].id).is_none(), "what ran was removed");
        assert_eq!(old(&first[0].id).is_none(), is_global);
        let is_current = |t: &Task| t.job_iteration == Some(1);
        assert!(running(&world, &id).iter().all(is_current));
        assert_eq!(run_out(&mut world, &id), 2);
        assert_eq!(counts(&world, &id).2, 2);
    }
}

#[test]
fn a_rollback_is_another_iteration_too() {
    let (mut world, id) = begun(job("job", 1, 1), Condition::ANY, 0);
    let scale = |s: &mut engine::ServiceSpec| s.mode = job("", 3, 3).mode;
    world.edit(&id, scale).unwrap();
    world.work();
    assert_eq!(running(&world, &id).len(), 3);
    let service = world.state.service(&id).unwrap();
    let back = Command::UpdateService {
        id: id.clone(),
        version: service.meta.version,
        spec: Box::default(),
        registry_auth: None,
        rollback: true,
    };
    world.call(back).unwrap();
    world.work();
    assert_eq!(running(&world, &id).len(), 1);
    let service = world.state.service(&id).unwrap();
    assert_eq!(service.iteration(), Some(2));
    assert!(service.update.is_none(), "nothing is rolled out");
}

#[test]
fn the_mode_stays() {
    let specs = [
        replicated("job", 1),
        crate::fixture::global("job"),
        job("job", 1, 1),
        global_job("job"),
    ];
    for (from, spec) in specs.iter().enumerate() {
        let mut world = World::new(&["n1"]);
        let id = world.service(spec.clone()).unwrap();
        for (to, other) in specs.iter().enumerate() {
            let changed = world.edit(&id, |s| *s = other.clone());
            let told = changed.map(drop).map_err(|e| e.message);
            let refused =
                "rpc error: code = Unimplemented desc = service mode change is not allowed";
            let expected = if from == to {
                Ok(())
            } else {
                Err(refused.to_owned())
            };
            assert_eq!(told, expected, "{from} {to}");
        }
    }
}

#[test]
fn a_lost_nodes_task_runs_elsewhere_and_what_it_did_counts() {
    let (mut world, id) = begun(job("job", 1, 1), Condition::ANY, 0);
    let lost = running(&world, &id).remove(0);
    let node = lost.node_id.clone().unwrap();
    world.node_down(&node);
    world.work();
    let new = running(&world, &id).into_iter().find(|t| t.id != lost.id);
    let new = new.expect("another one runs");
    assert_ne!(new.node_id, lost.node_id);
    assert_eq!(counts(&world, &id), (1, 1, 0));
    // It had come to its end before the node was back.
    world.node_up(&node);
    world.report(&lost.id, TaskState::Complete);
    world.work();
    assert_eq!(counts(&world, &id), (0, 1, 1));
    assert!(world.state.task(&new.id).is_none(), "not needed any more");
    world.now += 3600 * SECOND;
    assert_eq!(world.settle(), 0);
}

#[test]
fn what_completes_while_it_is_given_up_has_completed() {
    let spec = constrained(job("job", 1, 1), &["node.hostname==n1"]);
    let (mut world, id) = begun(spec, Condition::ANY, 0);
    world.acknowledge = false;
    let edit = |s: &mut engine::ServiceSpec| {
        let mut other = job("job", 1, 1);
        other.labels = Some([("a".to_owned(), "b".to_owned())].into());
        *s = constrained(other, &["node.labels.zone==a"]);
    };
    let label = |world: &mut World, zone: &str| {
        let node = world.state.node("n1").unwrap();
        let (version, mut spec) = (node.meta.version, node.spec.clone());
        spec.labels = Some([("zone".to_owned(), zone.to_owned())].into());
        let id = "n1".to_owned();
        world
            .call(Command::UpdateNode { id, version, spec })
            .unwrap();
    };
    label(&mut world, "a");
    world.edit(&id, edit).unwrap();
    world.acknowledge = true;
    world.work();
    world.acknowledge = false;
    label(&mut world, "b");
    world.settle();
    let task = running(&world, &id).remove(0);
    assert!(task.has_lost_its_node());
    world.report(&task.id, TaskState::Complete);
    world.settle();
    assert_eq!(counts(&world, &id), (0, 1, 1));
    assert_eq!(world.wanted(&id).len(), 0, "nothing waits for a node");
}

#[test]
fn a_drained_nodes_task_runs_elsewhere() {
    let (mut world, id) = begun(job("job", 1, 1), Condition::ANY, 0);
    let node = running(&world, &id)[0].node_id.clone().unwrap();
    world.set_availability(&node, Availability::DRAIN);
    world.work();
    let other = if node == "n1" { "n2" } else { "n1" };
    assert_eq!(world.running_on(&id, other), 1);
    assert_eq!(running(&world, &id).len(), 1);
    assert_eq!(run_out(&mut world, &id), 1);
}

#[test]
fn a_global_job_runs_once_on_each_node() {
    let (mut world, id) = begun(global_job("job"), Condition::ANY, 0);
    assert_eq!(["n1", "n2"].map(|n| world.running_on(&id, n)), [1, 1]);
    assert_eq!(counts(&world, &id), (2, 2, 0));
    let on = |world: &World, node: &str| -> String {
        let mut tasks = running(world, &id).into_iter();
        tasks
            .find(|t| t.node_id.as_deref() == Some(node))
            .unwrap()
            .id
    };
    let task = on(&world, "n1");
    world.report(&task, TaskState::Complete);
    world.work();
    assert_eq!(counts(&world, &id), (1, 1, 1));
    // Whatever becomes of the node: there it has been done.
    world.set_availability("n1", Availability::DRAIN);
    world.work();
    world.set_availability("n1", Availability::ACTIVE);
    world.node_down("n1");
    world.work();
    world.node_up("n1");
    world.work();
    assert_eq!(counts(&world, &id), (1, 1, 1));
    // Here it has not.
    world.node_down("n2");
    world.work();
    assert_eq!(counts(&world, &id), (0, 0, 1));
    world.node_up("n2");
    world.work();
    assert_eq!(counts(&world, &id), (1, 1, 1));
    world.set_availability("n2", Availability::DRAIN);
    world.work();
    assert_eq!(counts(&world, &id), (0, 0, 1));
    world.set_availability("n2", Availability::ACTIVE);
    assert_eq!(run_out(&mut world, &id), 1);
    assert_eq!(counts(&world, &id), (0, 0, 2));
    let remove = Command::RemoveNode {
        id: "n2".to_owned(),
        force: true,
    };
    world.call(remove).unwrap();
    world.work();
    assert_eq!(counts(&world, &id), (0, 0, 1), "its node is no more");
}

#[test]
fn what_completes_while_its_node_is_drained_does_not_run_again() {
    let (mut world, id) = begun(global_job("job"), Condition::ANY, 0);
    let task = running(&world, &id);
    let task = task.iter().find(|t| t.node_id.as_deref() == Some("n2"));
    let task = task.unwrap().id.clone();
    world.acknowledge = false;
    world.set_availability("n2", Availability::DRAIN);
    world.settle();
    world.report(&task, TaskState::Complete);
    world.acknowledge = true;
    world.work();
    world.set_availability("n2", Availability::ACTIVE);
    world.work();
    assert_eq!(world.running_on(&id, "n2"), 0);
    assert_eq!(counts(&world, &id).2, 1);
}

#[test]
fn tasks_planned_for_an_iteration_are_not_made_in_the_next() {
    let (mut world, id) = begun(job("job", 0, 1), Condition::ANY, 0);
    world.edit(&id, |s| s.mode = job("", 50, 50).mode).unwrap();
    let planned = world.plan();
    assert_eq!(planned.len(), 50);
    world.edit(&id, |s| s.mode = job("", 50, 1).mode).unwrap();
    world.apply(Operation::Reconcile(planned)).unwrap();
    world.settle();
    assert_eq!(world.wanted(&id).len(), 1);
}

#[test]
fn a_global_jobs_new_node_runs_it_too() {
    let spec = constrained(global_job("job"), &["node.hostname!=n2"]);
    let (mut world, id) = begun(spec, Condition::ANY, 0);
    assert_eq!(run_out(&mut world, &id), 1);
    world.set_availability("m", Availability::ACTIVE);
    world.node_up("m");
    world.work();
    assert_eq!(world.running_on(&id, "m"), 1);
    assert_eq!(run_out(&mut world, &id), 1);
    assert_eq!(counts(&world, &id), (0, 0, 2));
}

#[test]
fn history_is_cut_and_nothing_is_left_of_a_removed_job() {
    for (spec, most) in [(job("job", 1, 1), 5), (global_job("job"), 2)] {
        let (mut world, id) = begun(spec, Condition::ANY, 0);
        for number in 1..=9 {
            run_out(&mut world, &id);
            let force = |s: &mut engine::ServiceSpec| template(s).force_update = Some(number);
            world.edit(&id, force).unwrap();
        }
        world.work();
        assert_eq!(world.state.tasks_of_service(&id).count(), most);
        assert!(!running(&world, &id).is_empty());
        // What has completed counts, however often something failed before or after it.
        run_out(&mut world, &id);
        assert_eq!(world.state.tasks_of_service(&id).count(), most);
        world.call(Command::RemoveService { id }).unwrap();
        world.work();
        assert_eq!(world.state.tasks().count(), 0);
    }
}

#[test]
fn placement_holds_for_jobs() {
    let mut spec = job("job", 6, 6);
    template(&mut spec).placement = Some(engine::TaskSpecPlacement {
        max_replicas: Some(1),
        ..Default::default()
    });
    let (mut world, id) = begun(spec, Condition::ANY, 0);
    assert_eq!(["n1", "n2"].map(|n| world.running_on(&id, n)), [1, 1]);
    let waiting = in_state(&world, &id, TaskState::Pending);
    let reason = "no suitable node (max replicas per node limit exceed";
    assert!(waiting[0].status.error.starts_with(reason), "{waiting:?}");
    assert_eq!(run_out(&mut world, &id), 6, "completed ones hold no place");
}

#[test]
fn it_is_shown_as_swarm_shows_it() {
    let (mut world, id) = begun(job("job", 2, 2), Condition::ANY, 0);
    let tasks = running(&world, &id);
    world.report(&tasks[0].id, TaskState::Complete);
    world.settle();
    for (number, task) in tasks.iter().enumerate() {
        let task = world.state.task(&task.id).unwrap();
        let shown = task.to_engine();
        assert_eq!(shown.desired_state, Some(engine::TaskState::COMPLETE));
        assert_eq!(shown.job_iteration.unwrap().index, Some(0));
        let node = task.node_id.clone().unwrap();
        let (slot, name) = match number {
            0 => (None, format!("job.{node}.{}", task.id)),
            _ => (Some(1), format!("job.1.{}", task.id)),
        };
        assert_eq!((shown.slot, shown.name), (slot, Some(name)));
    }
    world
        .call(Command::RemoveService { id: id.clone() })
        .unwrap();
    world.settle();
    let shown = world.state.task(&tasks[1].id).unwrap().to_engine();
    assert_eq!(shown.desired_state, Some(engine::TaskState::REMOVE));
}
