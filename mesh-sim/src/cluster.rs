//! The cluster's machines, and who watches them.

use crate::{
    checks::digest,
    disk::End,
    machine::{Host, Papers},
    network::address,
    rules::Seen,
    sim::{Life, Sim},
    violation::{Plant, Violation},
    worker::Worker,
};
use anyhow::{Context, Result};
use mesh_manager::{ErrorKind, InitOptions, ManagerError, ManagerHandle, RULES, Timings};
use mesh_pki::Role;
use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::task::JoinHandle;

/// Pause between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(100);
/// How long a manager is cut off, and how long it then has to unseat the leader: several elections' time.
const CUT: Duration = Duration::from_secs(10);

/// Whether a manager does not start, or is not let in, for good: its program may be too old.
fn is_outdated(error: &ManagerError) -> bool {
    error.kind == ErrorKind::FailedPrecondition
}

/// Managers on machines 1, 2, 3..., then workers.
pub(crate) struct Cluster {
    sim: Arc<Sim>,
    /// All machines: workers may become managers.
    pub(crate) hosts: Vec<Arc<Host>>,
    pub(crate) workers: Vec<Arc<Worker>>,
    /// Somebody who comes or goes as a manager, or was the last to.
    changing: Mutex<Option<JoinHandle<()>>>,
}

impl Cluster {
    /// A cluster with so many managers, whose programs know rules `program`, and workers.
    pub(crate) async fn start(
        sim: &Arc<Sim>,
        program: u32,
        managers: usize,
        workers: usize,
        directory: &Path,
        timings: Timings,
    ) -> Result<Arc<Self>> {
        let host = |number| Arc::new(Host::new(sim, number, program, directory, timings.clone()));
        let hosts: Vec<_> = (1..=managers + workers).map(host).collect();
        let first = hosts[0].init(InitOptions::default()).await?;
        first.ready().await?;
        let (token, for_workers) = {
            let view = first.view();
            let cluster = view.cluster().context("a cluster")?;
            (cluster.manager_token.clone(), cluster.worker_token.clone())
        };
        let papers = Papers::Token(token);
        for host in &hosts[1..managers] {
            host.join(&[1], &papers).await?;
        }
        let mut all = Vec::new();
        for number in managers + 1..=managers + workers {
            let worker = Worker::join(sim, number, managers, &for_workers).await?;
            worker.start(false);
            all.push(worker);
        }
        let cluster = Arc::new(Self {
            sim: sim.clone(),
            hosts,
            workers: all,
            changing: Mutex::default(),
        });
        for host in &cluster.hosts {
            if let Some((manager, life)) = host.manager() {
                cluster.watch(host.number, manager, life);
            }
        }
        sim.note(format_args!("{managers} managers, {workers} workers"));
        Ok(cluster)
    }

    /// Machines of all kinds.
    pub(crate) fn machines(&self) -> usize {
        self.hosts.len()
    }

    /// Machines that have a manager, or had, or are about to: not those of mere workers.
    pub(crate) fn in_use(&self) -> Vec<usize> {
        let in_use = self.hosts.iter().filter(|host| host.is_in_use());
        in_use.map(|host| host.number).collect()
    }

    /// Machines that are to be managers, running or not.
    fn members(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.hosts.iter().filter(|host| host.node_id().is_some())
    }

    /// Any machine that has no worker.
    pub(crate) fn any_without_worker(&self) -> Option<&Arc<Host>> {
        let alone = self.hosts.len() - self.workers.len();
        self.sim.pick(&self.hosts[..alone])
    }

    /// Any manager that runs.
    pub(crate) fn any_manager(&self) -> Option<(ManagerHandle, Life)> {
        let running: Vec<_> = self.hosts.iter().filter_map(|h| h.manager()).collect();
        self.sim.pick(&running).cloned()
    }

    /// Looks at all that a manager applies.
    fn watch(&self, number: usize, manager: ManagerHandle, life: Life) {
        let sim = self.sim.clone();
        tokio::spawn(async move {
            let mut index = manager.index();
            let mut seen = Seen::default();
            while let Some(Ok(())) = life.during(index.changed()).await {
                index.mark_unchanged();
                let view = manager.view();
                sim.checks().state(&sim, number, &view, &mut seen);
            }
        });
    }

    /// The machine ends; whether it was running.
    pub(crate) fn crash(&self, number: usize, how: End) -> bool {
        let host = &self.hosts[number - 1];
        let was_running = !host.is_down();
        if was_running {
            self.sim
                .note(format_args!("machine {number}: crash, {how:?}"));
            host.crash(how);
        }
        was_running
    }

    /// Starts a machine that has ended. A log that cannot be read is a violation.
    pub(crate) async fn restart(&self, number: usize) {
        let host = &self.hosts[number - 1];
        if !host.has_ended() {
            return;
        }
        // It may have ended by itself, in the middle of a write.
        host.crash(End::TornPowerCut);
        let others = self.members().filter(|h| h.number != number);
        let remotes: Vec<_> = others.map(|h| address(h.number)).collect();
        self.sim.note(format_args!("machine {number}: restart"));
        if self.sim.plant == Some(Plant::LostKeys) {
            host.lose_key();
        }
        let mut started = host.restart(remotes.clone()).await;
        if self.is_too_old(host) && started.as_ref().is_err_and(is_outdated) {
            self.sim
                .note(format_args!("machine {number}: it is too old"));
            host.install(RULES);
            started = host.restart(remotes).await;
        }
        match started {
            Ok(life) => {
                if let Some((manager, _)) = host.manager() {
                    self.watch(number, manager, life);
                }
            }
            Err(error) => self.sim.violated(
                Violation::NotStarted,
                format_args!("manager {number} does not start: {error}"),
            ),
        }
    }

    /// Whether a machine's program knows less than one that was there before.
    fn is_too_old(&self, host: &Host) -> bool {
        let node_id = host.node_id();
        node_id.is_some_and(|id| host.program() < self.sim.checks().has_known(&id))
    }

    /// Lets a machine that was wiped come in as a manager, by papers that may follow the token in force; whether it did.
    pub(crate) async fn come_in(&self, host: &Host, papers: impl Fn(String) -> Papers) -> bool {
        let running = self.hosts.iter().filter_map(|other| {
            let (manager, _) = other.manager()?;
            (other.number != host.number).then_some((other.number, manager))
        });
        let running: Vec<_> = running.collect();
        let Some((first, manager)) = self.sim.pick(&running) else {
            return false;
        };
        let token = manager.view().cluster().map(|c| c.manager_token.clone());
        let Some(token) = token else { return false };
        let others = self.members().map(|other| other.number);
        let others = others.filter(|number| number != first && *number != host.number);
        let remotes: Vec<usize> = std::iter::once(*first).chain(others).collect();
        match host.join(&remotes, &papers(token)).await {
            Ok(life) => {
                if let Some((manager, _)) = host.manager() {
                    self.watch(host.number, manager, life);
                }
                true
            }
            Err(error) => {
                let number = host.number;
                self.sim
                    .note(format_args!("machine {number}: not let in: {error}"));
                if error.downcast_ref().is_some_and(is_outdated) && host.program() < RULES {
                    host.install(RULES);
                }
                false
            }
        }
    }

    /// Has managers come or go, unless some do: one at a time, as one that is lost counts until it is out.
    pub(crate) fn change(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut changing = self.changing();
        if changing.as_ref().is_none_or(JoinHandle::is_finished) {
            *changing = Some(tokio::spawn(work));
        }
    }

    /// Waits until nobody comes or goes as a manager.
    pub(crate) async fn changed(&self, limit: Duration) {
        let changing = self.changing().take();
        let Some(changing) = changing else { return };
        if tokio::time::timeout(limit, changing).await.is_err() {
            self.sim.violated(
                Violation::StuckChange,
                format_args!(
                    "a manager is not in, or not out, {limit:?} after every fault was healed"
                ),
            );
        }
    }

    fn changing(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all managers run and have the same state, in which `is_settled` finds nothing more to be done.
    pub(crate) async fn converge(
        &self,
        limit: Duration,
        is_settled: impl Fn(&mesh_manager::state::State) -> Result<(), String>,
    ) {
        let until = tokio::time::Instant::now() + limit;
        loop {
            let missing = match self.has_settled(&is_settled).await {
                Ok(()) => return,
                Err(missing) => missing,
            };
            if tokio::time::Instant::now() > until {
                self.sim.violated(
                    Violation::NotSettled,
                    format_args!("not converged {limit:?} after every fault was healed: {missing}"),
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Cuts off a manager that does not lead, and lets it come back: nobody may be elected. All has to be well before.
    pub(crate) async fn keep_leader(&self) {
        let leads = |host: &Host| {
            host.manager()
                .is_none_or(|(manager, _)| manager.is_leader())
        };
        let Some(cut) = self.hosts.iter().find(|host| !leads(host)) else {
            return;
        };
        let number = cut.number;
        let leaders = self.sim.checks().leaders();
        self.sim
            .note(format_args!("network: manager {number} is alone"));
        let others = (1..=self.machines()).filter(|other| *other != number);
        let ways: BTreeSet<_> = others.flat_map(|m| [(m, number), (number, m)]).collect();
        for ways in [ways, BTreeSet::new()] {
            self.sim.network.cut(ways);
            tokio::time::sleep(CUT).await;
        }
        if self.sim.checks().leaders() != leaders {
            self.sim.violated(
                Violation::Unseated,
                format_args!(
                    "manager {number} was cut off, and unseated the leader when it was back"
                ),
            );
        }
    }

    /// Whether all managers run, have applied as much, in which nothing is left to be done, and agree. What costs least is
    /// asked first.
    async fn has_settled(
        &self,
        is_settled: impl Fn(&mesh_manager::state::State) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut applied = None;
        for host in self.members() {
            let number = host.number;
            let Some((manager, _)) = host.manager() else {
                return Err(format!("manager {number} does not run"));
            };
            let view = manager.view();
            match applied {
                None => is_settled(&view)?,
                Some(index) if index == view.index() => {}
                Some(_) => {
                    return Err(format!(
                        "manager {number} has not applied as much as the first"
                    ));
                }
            }
            applied = Some(view.index());
        }
        let agreed = self.agrees().await?;
        self.are_managers(&agreed)?;
        // Meanwhile there may have been more to do.
        is_settled(&agreed.view())
    }

    /// Whether those have a vote that are managers, and nobody else.
    fn are_managers(&self, agreed: &ManagerHandle) -> Result<(), String> {
        let members: BTreeSet<_> = self.members().filter_map(|host| host.node_id()).collect();
        let voters = agreed.group().voters;
        if voters != members {
            return Err(format!("{voters:?} have a vote, and {members:?} run"));
        }
        let view = agreed.view();
        let has_role = |worker: &&Arc<Worker>| {
            let node = view.node(&worker.node_id);
            node.is_some_and(|node| node.role == Role::Manager)
        };
        let mut workers = self.workers.iter();
        match workers.find(|w| has_role(w) != voters.contains(&w.node_id)) {
            Some(worker) => Err(format!(
                "worker {} is a manager: {}, and has a vote: {}",
                worker.number,
                has_role(&worker),
                voters.contains(&worker.node_id)
            )),
            None => Ok(()),
        }
    }

    /// Whether all managers run, agree on a leader, and have the same state; gives one of them.
    async fn agrees(&self) -> Result<ManagerHandle, String> {
        let mut first: Option<(ManagerHandle, u64, Option<String>)> = None;
        for host in self.members() {
            let number = host.number;
            let Some((manager, _)) = host.manager() else {
                return Err(format!("manager {number} does not run"));
            };
            let read = tokio::time::timeout(Duration::from_secs(20), manager.group_by_leader());
            let leader = match read.await {
                Ok(Ok(group)) => group.leader,
                Ok(Err(error)) => return Err(format!("manager {number}: {error}")),
                Err(_) => return Err(format!("manager {number} does not answer")),
            };
            if leader.is_none() {
                return Err(format!("manager {number} knows no leader"));
            }
            let own = digest(&manager.view());
            match &first {
                None => first = Some((manager, own, leader)),
                Some((_, state, same)) if *state == own && *same == leader => {}
                Some(_) => return Err(format!("manager {number} differs from the first")),
            }
        }
        first.map(|f| f.0).ok_or_else(|| "no manager".to_owned())
    }
}
