//! What to do next for each task. Pure: facts in, steps out; no clock and no I/O.
//!
//! Each pass plans at most one move per task; what a pass does wakes the next one, until nothing
//! is left to do. A crash at any point leaves facts from which the same moves follow.

use super::state::{TaskState, Wanted};

/// Docker's words for a task that was ended because its health check had failed.
const UNHEALTHY: &str = "dockerexec: unhealthy container";

/// What is known of a task when a pass begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskFacts {
    /// Where the managers want it; `None` when they no longer mention it.
    pub wanted: Option<Wanted>,
    /// Where it is; `None` when the node has not accepted it yet.
    pub state: Option<TaskState>,
    /// Its container.
    pub container: Container,
    /// Its secrets and configs are known, or it has none.
    pub handed: bool,
    /// Work under way for it.
    pub job: Option<Job>,
    /// Its namespace and links.
    pub net: Net,
    /// Its name server runs.
    pub names: bool,
    /// It answers on its published ports, or has none, or has been waited for.
    pub answers: bool,
    /// What its health check says.
    pub health: Health,
    /// Its root file system is there.
    pub rootfs: bool,
}

/// What a task's health check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It succeeded, or there is none.
    Good,
    /// It has not succeeded yet.
    Awaited,
    /// It has failed for good.
    Bad,
    /// It has, and the managers take the task out of load balancing, then end it.
    Told,
    /// It has, and the managers have had their time.
    Late,
}

impl Health {
    /// Whether the task is to end for it.
    fn is_bad(self) -> bool {
        matches!(self, Self::Bad | Self::Told | Self::Late)
    }
}

/// A task's container as observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Container {
    /// There is none.
    None,
    /// Made, not started.
    Created,
    /// The command runs.
    Running,
    /// The command ended.
    Exited {
        /// Exit code; 128 + n for signal n.
        code: i32,
        /// The kernel ended it for want of memory.
        oom: bool,
        /// Why the code is not the command's own.
        error: Option<String>,
    },
}

/// A task's namespace and links as observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Net {
    /// The task uses the host's network.
    Host,
    /// A network of the task is not known yet.
    Unknown,
    /// Nothing is there.
    Absent,
    /// Something is missing or not known to be right.
    Partial,
    /// All there.
    Complete,
}

/// Work in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// Image, root file system, container.
    Prepare,
    /// Start the command.
    Start,
    /// Wait until the command listens.
    Listen,
    /// Stop signal, grace, kill.
    Stop,
    /// Unmount the root file system of an ended task.
    Release,
    /// Remove container, root file system and record.
    Forget,
}

/// The next move for a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Take note of a new task.
    Accept,
    /// Report a state; the text is the error, if it is one.
    Move(TaskState, Option<String>),
    /// Report that its health check has failed for good.
    Accuse,
    /// Make or mend namespace and links.
    Connect,
    /// Start the name server.
    Serve,
    /// Take name server, links and namespace away.
    Disconnect,
    /// Begin work in the background.
    Begin(Job),
    /// Give up the work under way.
    Abort,
}

/// The next move for a task; `None` when it is where it shall be, or has to wait.
pub fn next(facts: &TaskFacts) -> Option<Step> {
    let wanted = facts.wanted.unwrap_or(Wanted::Remove);
    let Some(state) = facts.state else {
        return facts.wanted.map(|_| Step::Accept);
    };
    if let Some(job) = facts.job {
        let useless = match job {
            Job::Prepare => wanted >= Wanted::Shutdown,
            Job::Listen => {
                wanted >= Wanted::Shutdown
                    || facts.container != Container::Running
                    || facts.health.is_bad()
            }
            _ => false,
        };
        return useless.then_some(Step::Abort);
    }
    if state.is_over() {
        return after_the_end(facts);
    }
    if let Some(step) = ended(facts, state, wanted) {
        return Some(step);
    }
    if wanted >= Wanted::Shutdown {
        return Some(match facts.container {
            Container::Running | Container::Created => Step::Begin(Job::Stop),
            _ => Step::Move(TaskState::Shutdown, None),
        });
    }
    if facts.container == Container::Running {
        match facts.health {
            Health::Good | Health::Awaited => {}
            Health::Bad => return Some(Step::Accuse),
            // Clients may be talking to it.
            Health::Told if state == TaskState::Running => return None,
            Health::Told | Health::Late => return Some(Step::Begin(Job::Stop)),
        }
    }
    match facts.net {
        Net::Unknown => return None,
        Net::Absent | Net::Partial if state > TaskState::Accepted => return Some(Step::Connect),
        Net::Complete if !facts.names => return Some(Step::Serve),
        _ => {}
    }
    match (state, &facts.container) {
        (TaskState::Accepted, _) => Some(Step::Move(TaskState::Preparing, None)),
        (TaskState::Preparing, Container::Created) => Some(Step::Move(TaskState::Ready, None)),
        // A manager has to tell them again after a restart.
        (TaskState::Preparing, _) if !facts.handed => None,
        (TaskState::Preparing, _) => Some(Step::Begin(Job::Prepare)),
        (TaskState::Ready, _) if wanted == Wanted::Running => {
            Some(Step::Move(TaskState::Starting, None))
        }
        (TaskState::Starting, Container::Created) => Some(Step::Begin(Job::Start)),
        (TaskState::Starting, Container::Running) if !facts.answers => {
            Some(Step::Begin(Job::Listen))
        }
        (TaskState::Starting, Container::Running) if facts.health == Health::Good => {
            Some(Step::Move(TaskState::Running, None))
        }
        // Somebody unmounted it: the command cannot go on reading its files.
        (TaskState::Running, Container::Running) if !facts.rootfs => Some(Step::Begin(Job::Stop)),
        _ => None,
    }
}

fn after_the_end(facts: &TaskFacts) -> Option<Step> {
    if matches!(facts.net, Net::Partial | Net::Complete) || facts.names {
        return Some(Step::Disconnect);
    }
    match facts.container {
        // Its end was reported without anybody having seen it: an agent that died in between.
        Container::Running | Container::Created => return Some(Step::Begin(Job::Stop)),
        _ => {}
    }
    if facts.wanted.is_none() {
        return Some(Step::Begin(Job::Forget));
    }
    facts.rootfs.then_some(Step::Begin(Job::Release))
}

/// The move of a task whose container is over or gone.
fn ended(facts: &TaskFacts, state: TaskState, wanted: Wanted) -> Option<Step> {
    let begun = state >= TaskState::Ready;
    let (over, error) = match &facts.container {
        // Whoever had it ended.
        Container::Exited { code, .. } if facts.health.is_bad() => {
            let text = match code {
                0 => UNHEALTHY.to_owned(),
                code => format!("task: non-zero exit ({code}): {UNHEALTHY}"),
            };
            return Some(Step::Move(TaskState::Failed, Some(text)));
        }
        Container::Exited {
            code: 0,
            error: None,
            ..
        } => (TaskState::Complete, None),
        Container::Exited { code, oom, error } => {
            let text = match (error, oom) {
                (Some(error), _) => format!("task: {error}"),
                (None, true) => format!("task: non-zero exit ({code}): out of memory"),
                (None, false) => format!("task: non-zero exit ({code})"),
            };
            (TaskState::Failed, Some(text))
        }
        Container::None if begun => (
            TaskState::Failed,
            Some("task: the container was removed by hand".to_owned()),
        ),
        _ => return None,
    };
    Some(if wanted >= Wanted::Shutdown {
        Step::Move(TaskState::Shutdown, None)
    } else {
        Step::Move(over, error)
    })
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
