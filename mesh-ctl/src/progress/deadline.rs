//! Services that do not converge: one whose label says how long its tasks may make no progress is not waited for
//! any longer than that.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use mesh_api::{
    deadline,
    engine::{Service, ServiceUpdateStatusStateEnum as Update, Task, TaskState},
    human::go_duration,
};

use super::{failure, state};
use crate::view::{created_at, word};

/// The managers know of an update that makes no progress first, and say what becomes of it.
const GRACE: Duration = Duration::from_secs(5);

/// How a service has got on since it is looked at.
#[derive(Debug, Default)]
pub(super) struct Course {
    /// Tasks of the newest version that ran when last looked at.
    running: HashSet<String>,
    /// What was last known of the update.
    phase: Option<Update>,
    /// When a task was last seen to run, or to run no more, the update became something else, or everything ran. As the managers
    /// have it, a task that is lost gives the others their time anew.
    progress: Option<Instant>,
}

impl Course {
    /// Takes up what there is `now`: the service's tasks of its newest version, and whether all run that shall. Says why it is of no
    /// use to wait any longer, once it is.
    pub(super) fn look(
        &mut self,
        service: &Service,
        tasks: &[Task],
        converged: bool,
        now: Instant,
    ) -> Option<String> {
        let phase = service.update_status.as_ref().and_then(|u| u.state);
        let ran = tasks.iter().filter(|t| state(t) == TaskState::RUNNING);
        let running = ran.filter_map(|task| task.id.clone()).collect();
        let is_other = std::mem::replace(&mut self.phase, phase) != phase;
        let is_moving = std::mem::replace(&mut self.running, running) != self.running;
        let last = *self.progress.get_or_insert(now);
        if converged || is_other || is_moving {
            self.progress = Some(now);
            return None;
        }
        let spec = service.spec.as_ref()?;
        let deadline = deadline::of(spec.labels.as_ref()).ok().flatten()?;
        if now.duration_since(last) < deadline + slack(service) {
            return None;
        }
        let idle = tasks.iter().filter(|t| state(t) != TaskState::RUNNING);
        let newest = idle.max_by_key(|task| created_at(task));
        let what = newest.map_or_else(|| "it has none".to_owned(), told);
        Some(format!(
            "no task has become running for {}: {what}",
            go_duration(deadline)
        ))
    }
}

/// Time that does not count: what an update lets pass by itself between tasks, and what its managers take to end it.
fn slack(service: &Service) -> Duration {
    let spec = service.spec.as_ref();
    let delay = match service.update_status.as_ref().and_then(|u| u.state) {
        Some(Update::UPDATING) => spec.and_then(|s| s.update_config.as_ref()?.delay),
        Some(Update::ROLLBACK_STARTED) => spec.and_then(|s| s.rollback_config.as_ref()?.delay),
        _ => return Duration::ZERO,
    };
    let delay = delay.and_then(|nanos| u64::try_from(nanos).ok());
    GRACE + Duration::from_nanos(delay.unwrap_or(0))
}

/// A task, its state and what went wrong.
fn told(task: &Task) -> String {
    // `web.1.<task id>`: the id says nothing to people.
    let name = task.name.as_deref().unwrap_or_default();
    let name = name.rsplit_once('.').map_or(name, |(short, _)| short);
    let is = format!("{name} is {}", word(Some(state(task))));
    match failure(task) {
        error if error.is_empty() => is,
        error => format!("{is}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(deadline: &str, update: &str) -> Service {
        let status = (!update.is_empty()).then(|| json!({"State": update}));
        serde_json::from_value(json!({
            "Spec": {"Labels": {"mesh.progress-deadline": deadline}, "UpdateConfig": {"Delay": 20_000_000_000_i64}},
            "UpdateStatus": status
        }))
        .expect("service")
    }

    fn task(id: &str, state: &str, error: &str) -> Task {
        serde_json::from_value(json!({
            "ID": id, "Name": format!("web.1.{id}"), "CreatedAt": format!("2026-01-01T00:00:0{}Z", &id[1..]),
            "Status": {"State": state, "Err": error}
        }))
        .expect("task")
    }

    #[test]
    fn a_service_is_waited_for_as_long_as_tasks_become_running() {
        let refused = "no suitable node (insufficient resources on 3 nodes)";
        let pending = [task("t1", "running", ""), task("t2", "pending", refused)];
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        for (label, update, limit) in [
            ("30s", "", Some(30)),
            ("30s", "completed", Some(30)),
            ("30s", "updating", Some(55)),
            ("30s", "rollback_started", Some(35)),
            ("off", "", None),
        ] {
            let service = service(label, update);
            let mut course = Course::default();
            let case = format!("{label} {update}");
            assert_eq!(course.look(&service, &[], false, at(0)), None, "{case}");
            assert_eq!(
                course.look(&service, &pending, false, at(10)),
                None,
                "{case}"
            );
            let Some(limit) = limit else {
                assert_eq!(course.look(&service, &pending, false, at(10_000)), None);
                continue;
            };
            let early = course.look(&service, &pending, false, at(10 + limit - 1));
            assert_eq!(early, None, "{case}");
            let told = course.look(&service, &pending, false, at(10 + limit));
            let expected =
                format!("no task has become running for 30s: web.1 is pending: {refused}");
            assert_eq!(told, Some(expected), "{case}");
        }
    }

    #[test]
    fn a_task_that_is_lost_gives_the_others_their_time_anew() {
        let service = service("30s", "updating");
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut course = Course::default();
        let mut tasks = [task("t1", "running", ""), task("t2", "preparing", "")];
        assert_eq!(course.look(&service, &tasks, false, at(0)), None);
        assert_eq!(course.look(&service, &tasks, false, at(54)), None);
        tasks[0] = task("t1", "failed", "task: non-zero exit (1)");
        assert_eq!(course.look(&service, &tasks, false, at(54)), None);
        assert_eq!(course.look(&service, &tasks, false, at(54 + 54)), None);
        let told = course.look(&service, &tasks, false, at(54 + 55));
        assert_eq!(
            told.as_deref(),
            Some("no task has become running for 30s: web.1 is preparing")
        );
    }

    #[test]
    fn a_phase_that_comes_while_all_runs_is_no_news_later() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let running = [task("t1", "running", "")];
        let mut course = Course::default();
        let before = service("30s", "");
        assert_eq!(course.look(&before, &running, true, at(0)), None);
        let updating = service("30s", "updating");
        assert_eq!(course.look(&updating, &running, true, at(10)), None);
        assert_eq!(course.look(&updating, &running, false, at(64)), None);
        let told = course.look(&updating, &running, false, at(65));
        assert_eq!(
            told.as_deref(),
            Some("no task has become running for 30s: it has none")
        );
    }

    #[test]
    fn what_has_converged_is_not_given_up() {
        let (service, begun) = (service("30s", ""), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut course = Course::default();
        let running = [task("t1", "running", "")];
        assert_eq!(course.look(&service, &running, true, at(0)), None);
        assert_eq!(course.look(&service, &running, true, at(100)), None);
        let failed = [
            task("t1", "failed", "task: non-zero exit (1)"),
            task("t2", "ready", ""),
        ];
        assert_eq!(course.look(&service, &failed, false, at(101)), None);
        assert_eq!(course.look(&service, &failed, false, at(130)), None);
        let told = course.look(&service, &failed, false, at(131));
        assert_eq!(
            told.as_deref(),
            Some("no task has become running for 30s: web.1 is ready")
        );
        assert_eq!(
            Course::default().look(&service, &[], true, at(500)),
            None,
            "a service without tasks"
        );
    }
}
