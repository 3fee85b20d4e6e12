//! Runs the pure planners while this manager leads: waits for events and for the times they asked
//! for, reads the state, proposes the changes.

use super::{Inputs, Liveness, liveness::heartbeat_period, plan, round::Round};
use crate::{
    ManagerError, Operation,
    core::Core,
    scheduler,
    state::{Event, EventAction, NodeState, ObjectKind, State, is_due},
};
use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::broadcast::{self, error::RecvError};

/// Events are gathered this long before anything is planned.
const GATHER: Duration = Duration::from_millis(5);
/// How often silent nodes are looked for.
const LIVENESS_TICK: Duration = Duration::from_millis(250);
/// Silent nodes that are given up together: as many as share an entry.
const GIVEN_UP: usize = 128;
/// A look that comes this late means that the manager itself was not running.
const STALL: Duration = Duration::from_secs(2);
/// With so many changes nothing more is planned before they are proposed.
const MAX_CHANGES: usize = 500;
/// Tasks that are placed by one look at the state.
const MAX_PLACED: usize = 20_000;
/// Pause after a proposal failed, say because the leadership is being lost.
const RETRY: Duration = Duration::from_millis(100);

/// Drives the reconcilers of the leader.
pub(crate) struct Driver {
    core: Arc<Core>,
    events: broadcast::Receiver<Event>,
    /// Services to plan.
    dirty: BTreeSet<String>,
    /// When services want to be looked at again, nanoseconds since the epoch.
    timers: BTreeMap<String, i64>,
    /// When the first of the nodes that come and go may take tasks again, nanoseconds since the epoch.
    next_hold_end: Option<i64>,
    /// All services are to be planned.
    all_dirty: bool,
    /// Tasks may have become placeable.
    schedule: bool,
    /// Something other than a task has changed since the last look at the state: what was planned may be of no use.
    is_stale: bool,
    /// When silence was last measured.
    checked: Instant,
    /// Nanoseconds since the epoch.
    leads_since: i64,
}

impl Driver {
    /// Runs until the manager stops; plans only while it leads.
    pub(crate) async fn run(core: Arc<Core>) {
        let mut leadership = core.consensus.leadership();
        let cancel = core.cancel.clone();
        loop {
            let leads = tokio::select! {
                () = cancel.cancelled() => return,
                leads = leadership.wait_for(|l| l.is_self) => leads.is_ok(),
            };
            if !leads {
                return;
            }
            let lost = async {
                let _ = leadership.wait_for(|l| !l.is_self).await;
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = lost => {}
                () = Self::lead(core.clone()) => {}
            }
            core.leading.send_replace(false);
            core.sessions.close_all();
        }
    }

    async fn lead(core: Arc<Core>) {
        Self::catch_up(&core).await;
        *core.liveness() = Liveness::new(Instant::now());
        let events = core.store.subscribe();
        core.leading.send_replace(true);
        let mut driver = Self {
            leads_since: core.config.machine.now(),
            core,
            events,
            dirty: BTreeSet::new(),
            timers: BTreeMap::new(),
            next_hold_end: None,
            all_dirty: true,
            schedule: true,
            is_stale: false,
            checked: Instant::now(),
        };
        tracing::info!("leading: reconcilers start");
        let mut tick = tokio::time::interval(LIVENESS_TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            driver.reconcile().await;
            let next = driver.next_timer();
            tokio::select! {
                event = driver.events.recv() => {
                    driver.take(event);
                    tokio::time::sleep(GATHER).await;
                    driver.drain();
                }
                () = tokio::time::sleep(next) => driver.fire(),
                _ = tick.tick() => driver.find_silent().await,
            }
        }
    }

    /// Waits until all that is in the log, by former leaders or by proposals that failed here and may come true still, is in
    /// the state: nothing may be decided twice.
    async fn catch_up(core: &Core) {
        let caught_up = async || {
            if core.is_only_manager() {
                // Its own log is all there is, and is read before it leads; its disk may take no more.
                return core.consensus.catch_up().await;
            }
            let barrier = Operation::Reconcile(Vec::new());
            core.proposer.operation(barrier).await.map(drop)
        };
        while let Err(error) = caught_up().await {
            tracing::debug!(%error, "waiting for the latest state");
            tokio::time::sleep(RETRY).await;
        }
    }

    fn mark_all(&mut self) {
        self.all_dirty = true;
        self.schedule = true;
        self.is_stale = true;
    }

    fn take(&mut self, event: Result<Event, RecvError>) {
        match event {
            Ok(event) => self.mark(event),
            Err(RecvError::Lagged(_)) => self.mark_all(),
            Err(RecvError::Closed) => {}
        }
    }

    fn drain(&mut self) {
        loop {
            match self.events.try_recv() {
                Ok(event) => self.mark(event),
                Err(broadcast::error::TryRecvError::Lagged(_)) => self.mark_all(),
                Err(_) => return,
            }
        }
    }

    fn mark(&mut self, event: Event) {
        match event.kind {
            ObjectKind::Service => {
                self.dirty.insert(event.id);
                self.is_stale = true;
            }
            ObjectKind::Task => {
                self.schedule = true;
                self.dirty.extend(event.service_id);
            }
            ObjectKind::Node => {
                if event.action == EventAction::Remove {
                    self.core.liveness().forget(&event.id);
                    self.core.sessions.forget(&event.id);
                }
                self.mark_all();
            }
            ObjectKind::Cluster => self.mark_all(),
            ObjectKind::Network | ObjectKind::Secret | ObjectKind::Config => {}
        }
    }

    fn next_timer(&self) -> Duration {
        let Some(at) = self.timers.values().chain(&self.next_hold_end).min() else {
            return Duration::from_secs(3600);
        };
        let now = self.core.config.machine.now();
        Duration::from_nanos(u64::try_from(at - now).unwrap_or(0)).max(Duration::from_millis(1))
    }

    fn fire(&mut self) {
        let now = self.core.config.machine.now();
        let due: Vec<String> = self
            .timers
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            self.timers.remove(&id);
            self.dirty.insert(id);
        }
        if self.next_hold_end.is_some_and(|at| is_due(at, now)) {
            self.mark_all();
        }
    }

    /// Plans what is marked and proposes it.
    async fn reconcile(&mut self) {
        let begun = Instant::now();
        while self.has_work() {
            let round = self.plan();
            if let Err(error) = self.propose(round).await {
                tracing::warn!(%error, "changes were not taken; planning again");
                self.mark_all();
                tokio::time::sleep(RETRY).await;
                Self::catch_up(&self.core).await;
                return;
            }
            // However much there is to do, what is due by the clock gets its turn.
            if begun.elapsed() >= LIVENESS_TICK {
                return;
            }
        }
    }

    fn has_work(&self) -> bool {
        self.all_dirty || self.schedule || !self.dirty.is_empty()
    }

    /// Proposes a round, entry by entry, until it is done or no more up to date.
    async fn propose(&mut self, mut round: Round) -> Result<(), ManagerError> {
        let limit = self.core.config.timings.entry_changes;
        while let Some(changes) = round.next_entry(limit) {
            let entry = Operation::Reconcile(changes);
            self.core.proposer.operation(entry).await?;
            // What was just applied marks what has to be looked at next.
            self.drain();
            if self.checked.elapsed() >= LIVENESS_TICK {
                self.find_silent().await;
                self.drain();
            }
            if self.is_stale && round.len() > 0 {
                let (services, placements) = round.given_up();
                self.dirty.extend(services);
                self.schedule |= placements;
                return Ok(());
            }
        }
        Ok(())
    }

    /// One look at the state.
    fn plan(&mut self) -> Round {
        let core = self.core.clone();
        let state = core.store.read();
        let now = core.config.machine.now();
        // A clock may be set back.
        self.leads_since = self.leads_since.min(now);
        let acknowledged = LazyCell::new(|| {
            let ready = state.nodes().filter(|n| n.state == NodeState::Ready);
            let patience = core.config.timings.drain_limit;
            core.sessions
                .acknowledged(ready.map(|n| n.id.as_str()), patience, Instant::now())
        });
        let is_acknowledged = |index| *acknowledged >= index;
        let inputs = Inputs {
            now,
            leads_since: self.leads_since,
            timings: &core.config.timings,
            is_acknowledged: &is_acknowledged,
        };
        self.is_stale = false;
        self.next_hold_end = state.next_hold_end(now);
        if std::mem::take(&mut self.all_dirty) {
            // Also those that are only tasks by now.
            self.dirty.extend(state.services().map(|s| s.id.clone()));
            self.dirty.extend(state.services_of_tasks().cloned());
        }
        let mut round = Round::default();
        while round.len() < MAX_CHANGES {
            let Some(service_id) = self.dirty.pop_first() else {
                break;
            };
            let mut plan = plan(&state, &service_id, &inputs);
            match plan.wake_at.take() {
                Some(at) => drop(self.timers.insert(service_id.clone(), at)),
                None => drop(self.timers.remove(&service_id)),
            }
            round.add(&service_id, plan);
        }
        if self.schedule && round.len() < MAX_CHANGES {
            // What is placed marks tasks, and so the scheduler: those that are left get their turn.
            self.schedule = false;
            round.add_placements(scheduler::schedule(&state, now, MAX_PLACED));
        }
        round
    }

    /// Marks nodes that fell silent as down.
    async fn find_silent(&mut self) {
        let now = Instant::now();
        // Nobody was heard while this process stood still: that says nothing about the nodes.
        if now.duration_since(self.checked) > STALL {
            tracing::warn!("this manager was stalled; nodes get time to be heard again");
            self.core.liveness().excuse(now);
        }
        self.checked = now;
        let silent: Vec<String> = {
            let state = self.core.store.read();
            let ready = state.nodes().filter(|n| n.state == NodeState::Ready);
            self.silent(ready.map(|n| n.id.clone()), &state)
        };
        for some in silent.chunks(GIVEN_UP) {
            // Some may have been heard while others were given up.
            let still = self.silent(some.iter().cloned(), &self.core.store.read());
            for node in &still {
                tracing::warn!(node, "node is down: heartbeat failure");
            }
            let down = |node_id: &String| Operation::NodeDown {
                node_id: node_id.clone(),
                message: "heartbeat failure".to_owned(),
            };
            let outcomes = self.core.proposer.operations(still.iter().map(down)).await;
            for (node, outcome) in still.iter().zip(outcomes) {
                if let Err(error) = outcome {
                    tracing::warn!(node, %error, "cannot mark the node as down");
                }
            }
        }
    }

    /// Those of these nodes that are silent now.
    fn silent(&self, nodes: impl Iterator<Item = String>, state: &State) -> Vec<String> {
        let (period, now) = (heartbeat_period(state), Instant::now());
        let liveness = self.core.liveness();
        nodes
            .filter(|id| liveness.is_silent(id, period, now))
            .collect()
    }
}
