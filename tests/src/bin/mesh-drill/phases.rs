//! What happens to the mesh while it is asked.

use std::{
    fmt,
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    NetNs, Rig, Task, eventually,
    load::{Asked, while_all_ask, while_asking},
    rig::UP_LIMIT,
};

use crate::heavy::{Heavy, under_load};

/// Between two changes of the service's size.
const SCALE_PERIOD: Duration = Duration::from_secs(1);
/// Tasks of the service where they are not scaled.
const TASKS: usize = 6;
/// How long agents are away when they are killed: shorter than managers wait before they give a node up.
const AWAY: Duration = Duration::from_millis(500);
/// How long the service is asked after a lost node's tasks have been replaced.
const AFTER_LOSS: Duration = Duration::from_secs(5);

/// What happened, and what came of the requests.
pub(crate) struct Phase {
    what: String,
    asked: Asked,
    /// None where a node is lost, which cannot be asked.
    heavy: Option<Heavy>,
    /// Failures on connections to what was lost.
    excused: usize,
}

impl Phase {
    /// Requests that failed and should not have.
    pub(crate) fn failed(&self) -> u64 {
        let heavy = self.heavy.as_ref();
        self.asked.failed() + heavy.map_or(0, |heavy| heavy.failures.len() as u64)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, answers) = (&self.what, self.asked.answers);
        let failed = self.asked.failures.len();
        write!(
            f,
            "{what}\n  from outside: {answers} requests answered, {failed} failed"
        )?;
        if self.excused > 0 {
            let excused = self.excused;
            write!(f, "; {excused} more on connections to the lost node")?;
        }
        let (answered, failed) = (self.asked.inside, self.asked.inside_failed);
        if answered + failed > 0 {
            write!(
                f,
                "\n  by its name, in a task: {answered} answered, {failed} failed"
            )?;
        }
        for failure in &self.asked.failures {
            write!(f, "\n  failed: {failure}")?;
        }
        if let Some(heavy) = &self.heavy {
            write!(f, "\n  {heavy}")?;
        }
        Ok(())
    }
}

/// Makes the service that is asked, and the task on the first node that asks it too.
pub(crate) fn services(rig: &Rig) -> Result<Task> {
    rig.network("front")?;
    let first = format!("node.hostname=={}", rig.first().name);
    rig.sleepers("shell", &["--network", "front", "--constraint", &first])?;
    let replicas = TASKS.to_string();
    // What answers says which node it is on.
    let web = ["--network", "front", "--hostname", "{{.Node.Hostname}}"];
    let many = ["--publish", "80:80", "--replicas", &replicas];
    rig.create("web", &[web, many].concat())?;
    rig.task("shell")
}

/// One task, twenty, one, ...
pub(crate) fn scale(rig: &Rig, shell: &Task, time: Duration, pause: Duration) -> Result<Phase> {
    let ((changes, heavy), asked) = while_all_loaded(rig, shell, pause, || {
        let begun = Instant::now();
        let mut changes = 0;
        while begun.elapsed() < time {
            let size = if changes % 2 == 0 { "web=1" } else { "web=20" };
            rig.first().ok(&["service", "scale", "-d", size])?;
            changes += 1;
            let next = SCALE_PERIOD * changes;
            thread::sleep(next.saturating_sub(begun.elapsed()));
        }
        Ok(changes)
    })?;
    let tasks = rig.history("web")?.len();
    let size = format!("web={TASKS}");
    rig.first().ok(&["service", "scale", "-d", &size])?;
    rig.wait_running("web", TASKS)?;
    Ok(Phase {
        what: format!(
            "{changes} times between 1 and 20 tasks in {} s ({tasks} tasks remembered at the end)",
            time.as_secs()
        ),
        asked,
        heavy: Some(heavy),
        excused: 0,
    })
}

/// All tasks by others, as often as there is time, once at least.
pub(crate) fn replace(rig: &Rig, shell: &Task, time: Duration, pause: Duration) -> Result<Phase> {
    let ((times, heavy), asked) = while_all_loaded(rig, shell, pause, || {
        let begun = Instant::now();
        let mut times = 0;
        while times == 0 || begun.elapsed() < time {
            rig.replace_all("web")?;
            times += 1;
        }
        Ok(times)
    })?;
    Ok(Phase {
        what: format!("all {TASKS} tasks replaced by an update, {times} times"),
        asked,
        heavy: Some(heavy),
        excused: 0,
    })
}

/// Agents are killed and started again, one after the other, as often as there is time, once each at least.
pub(crate) fn agents(rig: &mut Rig, time: Duration, pause: Duration) -> Result<Phase> {
    let before = rig.running("web")?;
    let (client, nodes) = outside(rig);
    let ((kills, heavy), asked) = while_asking(&client, &nodes, || {
        under_load(&client, &nodes, pause, || {
            let begun = Instant::now();
            let mut kills = 0;
            while kills < rig.nodes.len() || begun.elapsed() < time {
                let at = kills % rig.nodes.len();
                rig.nodes[at].kill()?;
                thread::sleep(AWAY);
                rig.nodes[at].start()?;
                rig.wait_ready(rig.nodes.len())?;
                kills += 1;
            }
            Ok(kills)
        })
    })?;
    eventually("the same tasks to run", UP_LIMIT, || {
        let after = rig.running("web")?;
        ensure!(after == before, "before {before:?}, after {after:?}");
        Ok(())
    })?;
    Ok(Phase {
        what: format!("agents killed and started again {kills} times; all tasks ran on"),
        asked,
        heavy: Some(heavy),
        excused: 0,
    })
}

/// The last node loses its power; the others are asked.
pub(crate) fn loss(rig: &mut Rig) -> Result<Phase> {
    let mut lost = rig.nodes.pop().context("a node")?;
    let held = rig.running("web")?;
    let held = held.iter().filter(|task| task.node == lost.name).count();
    let (client, nodes) = outside(rig);
    let ((lost_at, took), mut asked) = while_asking(&client, &nodes, || {
        thread::sleep(AFTER_LOSS);
        let lost_at = Instant::now();
        rig.cut_power(&mut lost)?;
        eventually("the lost tasks to run elsewhere", UP_LIMIT, || {
            let running = rig.running("web")?;
            let here = running.iter().filter(|task| task.node != lost.name);
            ensure!(here.count() == TASKS, "{running:?}");
            Ok(())
        })?;
        let took = lost_at.elapsed();
        thread::sleep(AFTER_LOSS);
        Ok((lost_at, took))
    })?;
    let all = asked.failures.len();
    asked.failures.retain(|failure| {
        let was_there = |replica: &String| *replica == lost.name;
        failure.connected > lost_at || !failure.replica.as_ref().is_none_or(was_there)
    });
    let excused = all - asked.failures.len();
    rig.lan.plug(&lost.port, true)?;
    lost.start()?;
    rig.nodes.push(lost);
    rig.wait_ready(rig.nodes.len())?;
    Ok(Phase {
        what: format!(
            "a node with {held} of {TASKS} tasks lost; replaced after {:.1} s",
            took.as_secs_f64()
        ),
        asked,
        heavy: None,
        excused,
    })
}

/// All ask, and load the nodes, while `act` runs.
fn while_all_loaded<T>(
    rig: &Rig,
    shell: &Task,
    pause: Duration,
    act: impl FnOnce() -> Result<T>,
) -> Result<((T, Heavy), Asked)> {
    let (client, nodes) = outside(rig);
    while_all_ask(rig, shell, || under_load(&client, &nodes, pause, act))
}

/// The client's namespace, apart from the rig, which is changed meanwhile; and the nodes' addresses.
fn outside(rig: &Rig) -> (NetNs, Vec<Ipv4Addr>) {
    let nodes = rig.nodes.iter().map(|node| node.address);
    (rig.client.borrowed(), nodes.collect())
}
