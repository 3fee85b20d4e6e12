//! Requests to port 80 that go on while something happens to the mesh.

use std::{
    fmt,
    net::Ipv4Addr,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{Answer, KeptConnection, NetNs, Rig, Task, http_get};

/// Pause after each request: as many as one likes fit between two changes, and others need the processors as well.
const PAUSE: Duration = Duration::from_millis(10);

/// What came of the requests.
#[derive(Debug, Default)]
pub struct Asked {
    /// Requests from outside that were answered.
    pub answers: usize,
    /// Those that were not.
    pub failures: Vec<Failure>,
    /// Requests of a task, by the service's name, that were answered.
    pub inside: u64,
    /// Those that were not.
    pub inside_failed: u64,
}

/// A request that was not answered, or with an error.
#[derive(Debug)]
pub struct Failure {
    /// When its connection was begun.
    pub connected: Instant,
    /// When it was given up.
    pub ended: Instant,
    /// Who has answered an earlier request on the same connection.
    pub replica: Option<String>,
    /// Why, and whom it asked.
    pub why: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let took = (self.ended - self.connected).as_secs_f64();
        write!(f, "{}, {took:.1} s after it connected", self.why)
    }
}

impl Asked {
    /// All were answered, and there were some.
    ///
    /// # Errors
    /// With the failures.
    pub fn all_answered(&self) -> Result<()> {
        let told: Vec<String> = self.failures.iter().map(Failure::to_string).collect();
        ensure!(
            told.is_empty(),
            "{} requests failed, {} were answered:\n{}",
            told.len(),
            self.answers,
            told.join("\n")
        );
        let failed = self.inside_failed;
        ensure!(failed == 0, "{failed} requests of a task failed");
        ensure!(self.answers > 0, "nothing was asked");
        Ok(())
    }

    /// All failed requests.
    pub fn failed(&self) -> u64 {
        self.failures.len() as u64 + self.inside_failed
    }
}

/// Ends the requests when what happens to the mesh is over, be it by a panic.
pub struct Over<'a>(pub &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Has the client ask port 80 of each of these nodes, on new connections and on kept ones, while `act` runs.
///
/// # Errors
/// Those of `act`; or when nothing could be asked.
pub fn while_asking<T>(
    client: &NetNs,
    nodes: &[Ipv4Addr],
    act: impl FnOnce() -> Result<T>,
) -> Result<(T, Asked)> {
    let stop = AtomicBool::new(false);
    let mut asked = Asked::default();
    let done = thread::scope(|scope| {
        let stop = &stop;
        let askers: Vec<_> = nodes
            .iter()
            .flat_map(|node| [false, true].map(|keep| (*node, keep)))
            .map(|(node, keep)| scope.spawn(move || ask(client, node, keep, stop)))
            .collect();
        let over = Over(stop);
        let done = act();
        drop(over);
        for asker in askers {
            let (answers, failures) = asker.join().expect("no panic")?;
            asked.answers += answers;
            asked.failures.extend(failures);
        }
        done
    })?;
    Ok((done, asked))
}

/// As [`while_asking`], of all nodes; and has a task ask `web` by its name, on new connections.
///
/// # Errors
/// Those of `act`; or when nothing could be asked.
pub fn while_all_ask<T>(
    rig: &Rig,
    task: &Task,
    act: impl FnOnce() -> Result<T>,
) -> Result<(T, Asked)> {
    Askers::of(rig, task)?.while_asking(act)
}

/// Those that ask `web`: a client through each node, and a task by the service's name. They need nothing of the rig, whose
/// agents may be killed and started while they ask, but for that of the task's node.
#[derive(Debug)]
pub struct Askers {
    client: NetNs,
    nodes: Vec<Ipv4Addr>,
    inside: Command,
}

impl Askers {
    /// Through all nodes of a rig, and of this task.
    ///
    /// # Errors
    /// The task's node is not one of the rig's, or `mesh-ctl` was not built.
    pub fn of(rig: &Rig, task: &Task) -> Result<Self> {
        let mut inside = rig.node(&task.node)?.ctl_command()?;
        inside.args(["exec", &task.container]);
        inside.args(["whoami", "load", "conn", "web:80", "1"]);
        inside.stdin(Stdio::null());
        Ok(Self {
            client: rig.client.borrowed(),
            nodes: rig.nodes.iter().map(|node| node.address).collect(),
            inside,
        })
    }

    /// Has all of them ask while `act` runs.
    ///
    /// # Errors
    /// Those of `act`; or when nothing could be asked.
    pub fn while_asking<T>(self, act: impl FnOnce() -> Result<T>) -> Result<(T, Asked)> {
        let stop = AtomicBool::new(false);
        let ((done, inside), mut asked) = while_asking(&self.client, &self.nodes, || {
            thread::scope(|scope| {
                let inside = scope.spawn(|| ask_inside(self.inside, &stop));
                let over = Over(&stop);
                let done = act();
                drop(over);
                let inside = inside.join().expect("no panic");
                Ok((done?, inside?))
            })
        })?;
        (asked.inside, asked.inside_failed) = inside;
        Ok((done, asked))
    }
}

/// Asks a node again and again; gives the number of answers, and what failed.
fn ask(
    client: &NetNs,
    node: Ipv4Addr,
    keep: bool,
    stop: &AtomicBool,
) -> Result<(usize, Vec<Failure>)> {
    client.enter(|| {
        let mut kept = KeptConnection::new(node, 80);
        let (mut answers, mut failures) = (0, Vec::new());
        while !stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let status = if keep {
                kept.get("/")
            } else {
                http_get(node, 80, "/").map(|reply| reply.status)
            };
            let why = match status {
                Ok(200) => None,
                Ok(status) => Some(format!("{node}: status {status}")),
                Err(error) => Some(format!("{error:#}")),
            };
            match why {
                None => answers += 1,
                Some(why) => failures.push(Failure {
                    connected: if keep { kept.connected() } else { begun },
                    ended: Instant::now(),
                    replica: kept.replica().map(str::to_owned),
                    why,
                }),
            }
            thread::sleep(PAUSE);
        }
        Ok((answers, failures))
    })
}

/// Runs what has a task ask `web`, again and again until `stop` is set; gives how many requests were answered, and how many
/// not.
fn ask_inside(mut command: Command, stop: &AtomicBool) -> Result<(u64, u64)> {
    let mut sum = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let output = command.output().context("cannot run mesh-ctl")?;
        let text = Answer::of("mesh-ctl exec".to_owned(), &output).ok()?;
        let figures: serde_json::Value = serde_json::from_str(&text)?;
        let figure = |name: &str| {
            let value = figures[name].as_u64();
            value.with_context(|| format!("no {name:?} in {text}"))
        };
        sum.0 += figure("requests")?;
        sum.1 += figure("failed")?;
    }
    Ok(sum)
}
