//! The moves of a task, as a table, and a walk through whole lives.

use super::*;

fn facts(wanted: Option<Wanted>, state: Option<TaskState>, container: Container) -> TaskFacts {
    TaskFacts {
        wanted,
        state,
        container,
        handed: true,
        job: None,
        net: Net::Complete,
        names: true,
        answers: true,
        health: Health::Good,
        rootfs: true,
    }
}

fn exited(code: i32) -> Container {
    Container::Exited {
        code,
        oom: false,
        error: None,
    }
}

#[test]
fn moves() {
    use TaskState as S;
    use Wanted as W;
    let failed = |text: &str| Some(Step::Move(S::Failed, Some(text.to_owned())));
    let to = |state| Some(Step::Move(state, None));
    let begin = |job| Some(Step::Begin(job));
    let run = Some(W::Running);
    let down = Some(W::Shutdown);
    for (wanted, state, container, expected) in [
        (run, None, Container::None, Some(Step::Accept)),
        (down, None, Container::None, Some(Step::Accept)),
        (None, None, Container::None, None),
        (run, Some(S::Accepted), Container::None, to(S::Preparing)),
        (
            run,
            Some(S::Preparing),
            Container::None,
            begin(Job::Prepare),
        ),
        (run, Some(S::Preparing), Container::Created, to(S::Ready)),
        (Some(W::Ready), Some(S::Ready), Container::Created, None),
        (run, Some(S::Ready), Container::Created, to(S::Starting)),
        (
            run,
            Some(S::Starting),
            Container::Created,
            begin(Job::Start),
        ),
        (run, Some(S::Starting), Container::Running, to(S::Running)),
        (run, Some(S::Running), Container::Running, None),
        (run, Some(S::Running), exited(0), to(S::Complete)),
        (
            run,
            Some(S::Running),
            exited(137),
            failed("task: non-zero exit (137)"),
        ),
        (
            run,
            Some(S::Starting),
            exited(1),
            failed("task: non-zero exit (1)"),
        ),
        (
            run,
            Some(S::Running),
            Container::None,
            failed("task: the container was removed by hand"),
        ),
        (down, Some(S::Accepted), Container::None, to(S::Shutdown)),
        (down, Some(S::Ready), Container::Created, begin(Job::Stop)),
        (down, Some(S::Running), Container::Running, begin(Job::Stop)),
        (down, Some(S::Running), exited(143), to(S::Shutdown)),
        (None, Some(S::Running), Container::Running, begin(Job::Stop)),
        (run, Some(S::Complete), exited(0), Some(Step::Disconnect)),
        (None, Some(S::Shutdown), exited(0), Some(Step::Disconnect)),
    ] {
        let facts = facts(wanted, state, container.clone());
        assert_eq!(next(&facts), expected, "{wanted:?} {state:?} {container:?}");
    }
}

#[test]
fn work_under_way_is_left_alone_unless_it_is_useless() {
    let mut facts = facts(
        Some(Wanted::Running),
        Some(TaskState::Preparing),
        Container::None,
    );
    facts.job = Some(Job::Prepare);
    assert_eq!(next(&facts), None);
    facts.wanted = Some(Wanted::Shutdown);
    assert_eq!(next(&facts), Some(Step::Abort));
    facts.job = Some(Job::Stop);
    assert_eq!(next(&facts), None);
}

#[test]
fn a_task_counts_as_running_once_it_listens() {
    let run = Some(Wanted::Running);
    let mut facts = facts(run, Some(TaskState::Starting), Container::Running);
    facts.answers = false;
    assert_eq!(next(&facts), Some(Step::Begin(Job::Listen)));
    facts.job = Some(Job::Listen);
    assert_eq!(next(&facts), None);
    facts.container = exited(1);
    assert_eq!(next(&facts), Some(Step::Abort), "it ended first");
    (facts.container, facts.wanted) = (Container::Running, Some(Wanted::Remove));
    assert_eq!(next(&facts), Some(Step::Abort), "nobody wants it any more");
}

#[test]
fn a_health_check_holds_a_task_back_and_ends_it() {
    use Health::{Awaited, Bad, Good, Late, Told};
    use TaskState as S;
    use Wanted as W;
    let stop = Some(Step::Begin(Job::Stop));
    for (wanted, state, health, expected) in [
        (W::Running, S::Starting, Awaited, None),
        (
            W::Running,
            S::Starting,
            Good,
            Some(Step::Move(S::Running, None)),
        ),
        (W::Running, S::Starting, Bad, Some(Step::Accuse)),
        // Nobody has been sent to it yet.
        (W::Running, S::Starting, Told, stop.clone()),
        (W::Running, S::Running, Good, None),
        // An agent that was restarted has nothing against a task that runs.
        (W::Running, S::Running, Awaited, None),
        (W::Running, S::Running, Bad, Some(Step::Accuse)),
        (W::Running, S::Running, Told, None),
        (W::Running, S::Running, Late, stop.clone()),
        (W::Shutdown, S::Running, Told, stop.clone()),
        (W::Shutdown, S::Running, Bad, stop),
    ] {
        let mut facts = facts(Some(wanted), Some(state), Container::Running);
        facts.health = health;
        assert_eq!(next(&facts), expected, "{wanted:?} {state:?} {health:?}");
    }
    for (code, wanted, text) in [
        (0, W::Running, "dockerexec: unhealthy container"),
        (
            143,
            W::Running,
            "task: non-zero exit (143): dockerexec: unhealthy container",
        ),
        (
            137,
            W::Shutdown,
            "task: non-zero exit (137): dockerexec: unhealthy container",
        ),
    ] {
        let mut facts = facts(Some(wanted), Some(S::Running), exited(code));
        facts.health = Told;
        let failed = Step::Move(S::Failed, Some(text.to_owned()));
        assert_eq!(next(&facts), Some(failed));
    }
    let mut facts = facts(Some(W::Running), Some(S::Starting), Container::Running);
    (facts.job, facts.answers, facts.health) = (Some(Job::Listen), false, Bad);
    assert_eq!(next(&facts), Some(Step::Abort));
}

#[test]
fn what_is_missing_is_mended() {
    let mut facts = facts(
        Some(Wanted::Running),
        Some(TaskState::Running),
        Container::Running,
    );
    facts.net = Net::Partial;
    assert_eq!(next(&facts), Some(Step::Connect));
    facts.net = Net::Complete;
    facts.names = false;
    assert_eq!(next(&facts), Some(Step::Serve));
    facts.names = true;
    facts.rootfs = false;
    assert_eq!(next(&facts), Some(Step::Begin(Job::Stop)));
}

/// Carries out steps on the facts, as the apply step does on the node.
fn carry_out(facts: &mut TaskFacts, step: Step) {
    match step {
        Step::Accept => facts.state = Some(TaskState::Accepted),
        Step::Move(state, _) => {
            assert!(
                facts.state.is_none_or(|old| old < state),
                "states only rise"
            );
            facts.state = Some(state);
        }
        Step::Accuse => facts.health = Health::Told,
        Step::Connect => facts.net = Net::Complete,
        Step::Serve => facts.names = true,
        Step::Disconnect => (facts.net, facts.names) = (Net::Absent, false),
        Step::Abort => facts.job = None,
        Step::Begin(Job::Prepare) => (facts.container, facts.rootfs) = (Container::Created, true),
        Step::Begin(Job::Start) => facts.container = Container::Running,
        Step::Begin(Job::Listen) => facts.answers = true,
        Step::Begin(Job::Stop) => facts.container = exited(143),
        Step::Begin(Job::Release) => facts.rootfs = false,
        Step::Begin(Job::Forget) => {
            (facts.state, facts.container, facts.rootfs) = (None, Container::None, false);
        }
    }
}

#[test]
fn whole_lives_settle() {
    let starts = [Wanted::Ready, Wanted::Running, Wanted::Shutdown];
    for first in starts {
        for ending in [Some(Wanted::Shutdown), Some(Wanted::Remove), None] {
            for stop_after in 0..12 {
                let mut facts = TaskFacts {
                    wanted: Some(first),
                    state: None,
                    container: Container::None,
                    handed: true,
                    job: None,
                    net: Net::Absent,
                    names: false,
                    answers: false,
                    health: Health::Good,
                    rootfs: false,
                };
                for _ in 0..stop_after {
                    if let Some(step) = next(&facts) {
                        carry_out(&mut facts, step);
                    }
                }
                facts.wanted = ending;
                let mut steps = 0;
                while let Some(step) = next(&facts) {
                    carry_out(&mut facts, step);
                    steps += 1;
                    assert!(steps < 12, "does not settle: {facts:?}");
                }
                assert_eq!(
                    (facts.net, facts.names, facts.rootfs),
                    (Net::Absent, false, false)
                );
                match ending {
                    None => assert_eq!(facts.state, None),
                    Some(_) => assert!(facts.state.is_none_or(TaskState::is_over)),
                }
            }
        }
    }
}

#[test]
fn a_task_waits_for_what_it_is_handed() {
    let preparing = facts(
        Some(Wanted::Running),
        Some(TaskState::Preparing),
        Container::None,
    );
    assert_eq!(next(&preparing), Some(Step::Begin(Job::Prepare)));
    let waiting = TaskFacts {
        handed: false,
        ..preparing
    };
    assert_eq!(next(&waiting), None);
    // Not once it is not wanted any more.
    let unwanted = TaskFacts {
        wanted: Some(Wanted::Shutdown),
        ..waiting.clone()
    };
    assert_eq!(next(&unwanted), Some(Step::Move(TaskState::Shutdown, None)));
    // Nor once its container is there.
    let made = TaskFacts {
        container: Container::Created,
        ..waiting
    };
    assert_eq!(next(&made), Some(Step::Move(TaskState::Ready, None)));
}
