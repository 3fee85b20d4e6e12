//! Rolling updates, whatever order the nodes do their work in: how many replicas run meanwhile, at least and at most.

use super::{due, live};
use crate::{
    Operation,
    fixture::{SECOND, World, replicated, template},
    state::TaskState,
};
use mesh_api::engine::ServiceUpdateStatusStateEnum as Update;
use proptest::prelude::*;
use serde_json::json;

/// A service and how it is updated.
#[derive(Debug, Clone)]
struct Course {
    nodes: usize,
    replicas: usize,
    /// 0: all at once.
    parallelism: usize,
    start_first: bool,
    delay: i64,
    /// What happens one after the other: which of the tasks that are due comes to its next state, after how many
    /// milliseconds, and whether it ends instead if it was to run.
    steps: Vec<(usize, i64, bool)>,
}

fn course(failing: f64) -> impl Strategy<Value = Course> {
    let step = (any::<usize>(), 0_i64..3000, prop::bool::weighted(failing));
    let steps = prop::collection::vec(step, 0..80);
    (
        1_usize..4,
        1_usize..9,
        0_usize..5,
        any::<bool>(),
        0_i64..3,
        steps,
    )
        .prop_map(
            |(nodes, replicas, parallelism, start_first, delay, steps)| Course {
                nodes,
                replicas,
                parallelism,
                start_first,
                delay: delay * SECOND,
                steps,
            },
        )
}

impl Course {
    fn at_a_time(&self) -> usize {
        match self.parallelism {
            0 => self.replicas,
            parallelism => parallelism.min(self.replicas),
        }
    }

    /// Runs it; gives the world and the service with the update under way, or over. `least`: of replicas that run at any time.
    fn run(&self, least: usize) -> Result<(World, String), TestCaseError> {
        let mut world = World::new(&["n1", "n2", "n3"][..self.nodes]);
        let mut spec = replicated("web", self.replicas as i64);
        let order = if self.start_first {
            "start-first"
        } else {
            "stop-first"
        };
        spec.update_config = serde_json::from_value(json!({
            "Parallelism": self.parallelism,
            "Order": order,
            "Delay": self.delay,
            "FailureAction": "continue",
        }))
        .expect("a configuration");
        template(&mut spec).restart_policy =
            serde_json::from_value(json!({"Delay": SECOND})).expect("a policy");
        let id = world.service(spec).expect("a valid spec");
        world.work();
        world.force_update(&id);
        self.settle(&mut world, &id, least)?;
        for (which, pause, fails) in &self.steps {
            let due = due(&world);
            if !due.is_empty() {
                let (task, to) = &due[which % due.len()];
                let fails = *fails && *to == TaskState::Running;
                world.report(task, if fails { TaskState::Failed } else { *to });
            }
            world.now += pause * SECOND / 1000;
            self.settle(&mut world, &id, least)?;
        }
        Ok((world, id))
    }

    /// As [`World::settle`], with a look at what is true after each round.
    fn settle(&self, world: &mut World, id: &str, least: usize) -> Result<(), TestCaseError> {
        loop {
            let running = world.wanted(id).iter().filter(|t| t.is_active()).count();
            prop_assert!(running >= least, "{running} run, {least} have to");
            let most = match self.start_first {
                true => self.replicas + self.at_a_time(),
                false => self.replicas,
            };
            let wanted = live(world, id).len();
            prop_assert!(wanted <= most, "{wanted} are wanted, {most} at most");
            let changes = world.plan();
            if changes.is_empty() {
                return Ok(());
            }
            world.apply(Operation::Reconcile(changes)).expect("a plan");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_more_are_missing_than_are_replaced_at_a_time(course in course(0.0)) {
        let missing = if course.start_first { 0 } else { course.at_a_time() };
        let (mut world, id) = course.run(course.replicas - missing)?;
        // It comes to its end.
        for _ in 0..4 * course.replicas {
            world.work();
            world.now += 10 * SECOND;
        }
        world.work();
        let service = world.state.service(&id).expect("the service");
        let status = service.update.as_ref().map(|update| update.state);
        prop_assert_eq!(status, Some(Update::COMPLETED));
        let tasks = world.wanted(&id);
        prop_assert_eq!(tasks.len(), course.replicas);
        for task in tasks {
            prop_assert!(task.spec_version == service.spec_version && task.is_active(), "{task:?}");
        }
    }

    #[test]
    fn tasks_that_fail_are_not_replaced_by_more(course in course(0.3)) {
        course.run(0)?;
    }
}
