//! Clients that change services, and keep in mind what was acknowledged: from then on it has to be read, and nothing older.

use crate::{
    cluster::Cluster,
    reader::Ledger,
    sim::{Life, Sim},
    specs,
    violation::{Plant, Violation},
};
use mesh_api::engine;
use mesh_manager::{
    Command, ErrorKind, ManagerError, ManagerHandle, Response,
    state::{Service, State},
};
use rand::Rng;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::time::timeout;

/// Label that counts a service's changes.
const COUNT: &str = "count";
/// What a client waits for an answer at most, milliseconds.
const PATIENCE: [u64; 3] = [500, 1_000, 20_000];
/// Services that a client has at a time.
const MOST: usize = 4;

/// What a client knows of one service, whose only writer it is.
#[derive(Debug)]
struct Known {
    /// Acknowledged, or read.
    count: u64,
    /// Changes whose answer was lost: they may have been made, or still be.
    perhaps: BTreeSet<u64>,
    /// It was asked to be removed, and the answer was lost.
    is_doomed: bool,
}

/// One client.
pub(crate) struct Client {
    number: usize,
    sim: Arc<Sim>,
    cluster: Arc<Cluster>,
    ledger: Arc<Ledger>,
    /// By name. Names are used once.
    services: BTreeMap<String, Known>,
    /// Their removal was acknowledged.
    gone: BTreeSet<String>,
    made: u64,
    counter: u64,
    /// Its network is there.
    has_network: bool,
    /// Writes that were acknowledged.
    pub(crate) acknowledged: u64,
}

/// Whether a change is certain not to have been made, and not to be made later.
pub(crate) fn is_refused(error: &ManagerError) -> bool {
    !matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Unknown)
        || *error == ManagerError::out_of_sequence()
}

/// What came of a call.
enum Done<T> {
    Yes(T),
    No,
    Perhaps,
}

/// How often a service was changed, itself's making included.
pub(crate) fn count_of(service: &Service) -> u64 {
    let labels = service.spec.labels.as_ref();
    let count = labels.and_then(|labels| labels.get(COUNT)?.parse().ok());
    count.unwrap_or(0)
}

impl Client {
    pub(crate) fn new(
        number: usize,
        sim: &Arc<Sim>,
        cluster: &Arc<Cluster>,
        ledger: &Arc<Ledger>,
    ) -> Self {
        Self {
            number,
            sim: sim.clone(),
            cluster: cluster.clone(),
            ledger: ledger.clone(),
            services: BTreeMap::new(),
            gone: BTreeSet::new(),
            made: 0,
            counter: 0,
            has_network: false,
            acknowledged: 0,
        }
    }

    /// Some time to think.
    pub(crate) fn pause(&self) -> Duration {
        self.sim.millis(0, 400)
    }

    fn patience(&self) -> Duration {
        let most = self.sim.pick(&PATIENCE).copied().unwrap_or_default();
        self.sim.millis(100, most)
    }

    /// Changes something, and reads.
    pub(crate) async fn step(&mut self) {
        let Some((manager, life)) = self.cluster.any_manager() else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            return;
        };
        if !self.has_network {
            self.create_network(&manager, &life).await;
            return;
        }
        let names: Vec<String> = self.services.keys().cloned().collect();
        let wanted = self.sim.dice().random_range(0..10);
        match self.sim.pick(&names).cloned() {
            Some(name) if wanted > 1 || names.len() >= MOST => {
                self.change(&manager, &life, name, wanted == 2).await;
            }
            _ => self.create(&manager, &life).await,
        }
    }

    async fn call(
        &mut self,
        manager: &ManagerHandle,
        life: &Life,
        command: Command,
    ) -> Done<Response> {
        let patience = self.patience();
        let called = life.during(timeout(patience, manager.call(command))).await;
        let done = match called {
            Some(Ok(Ok(response))) if !life.is_over() => {
                self.acknowledged += 1;
                Done::Yes(response)
            }
            Some(Ok(Err(error))) if is_refused(&error) => Done::No,
            _ => Done::Perhaps,
        };
        let word = match &done {
            Done::Yes(_) => "acknowledged",
            Done::No => "refused",
            Done::Perhaps => "unanswered",
        };
        self.sim
            .note(format_args!("client {}: {word}", self.number));
        done
    }

    fn network(&self) -> String {
        format!("n{}", self.number)
    }

    async fn create_network(&mut self, manager: &ManagerHandle, life: &Life) {
        let request = engine::NetworkCreateRequest {
            name: self.network(),
            ..Default::default()
        };
        let command = Command::CreateNetwork {
            request: Box::new(request),
        };
        // Refused: an earlier try was taken.
        self.has_network = !matches!(self.call(manager, life, command).await, Done::Perhaps);
    }

    async fn create(&mut self, manager: &ManagerHandle, life: &Life) {
        self.made += 1;
        self.counter += 1;
        let mode = specs::any_mode(&self.sim);
        let name = format!("{}{}-{}", specs::prefix(mode), self.number, self.made);
        let labels = HashMap::from([(COUNT.to_owned(), self.counter.to_string())]);
        let spec = engine::ServiceSpec {
            labels: Some(labels),
            ..specs::make(&self.sim, mode, &name, &self.network())
        };
        self.sim
            .note(format_args!("client {}: create {name}", self.number));
        let command = Command::CreateService {
            spec: Box::new(spec),
            registry_auth: String::new(),
        };
        let count = self.counter;
        let known = |count, perhaps| Known {
            count,
            perhaps,
            is_doomed: false,
        };
        let known = match self.call(manager, life, command).await {
            Done::Yes(_) => {
                self.ledger.changed(&name, count);
                known(count, BTreeSet::new())
            }
            Done::No => return,
            Done::Perhaps => known(0, BTreeSet::from([count])),
        };
        self.services.insert(name, known);
    }

    /// Reads a service, and removes or changes it by what was read.
    async fn change(&mut self, manager: &ManagerHandle, life: &Life, name: String, remove: bool) {
        // What is read now holds all that was acknowledged before, by whomever.
        let patience = self.patience();
        let read = life
            .during(timeout(patience, manager.group_by_leader()))
            .await;
        let Some(Ok(Ok(_))) = read else { return };
        if life.is_over() {
            return;
        }
        let found = {
            let view = manager.view();
            self.compare(&view, &name);
            view.find_service(&name)
                .ok()
                .map(|s| (s.id.clone(), s.meta.version, s.spec.clone()))
        };
        let Some(known) = self.services.get(&name) else {
            return;
        };
        let Some((id, version, mut spec)) = found else {
            // It was never made, or is gone; or it may still be made.
            if known.is_doomed {
                self.services.remove(&name);
            }
            return;
        };
        if remove {
            self.sim
                .note(format_args!("client {}: remove {name}", self.number));
            let (count, was_doomed) = (known.count, known.is_doomed);
            self.ledger.doom(&name);
            let done = self
                .call(manager, life, Command::RemoveService { id })
                .await;
            match done {
                Done::Perhaps if self.sim.plant == Some(Plant::RashRemovals) => {
                    self.services.remove(&name);
                    self.gone.insert(name);
                }
                Done::Yes(_) => {
                    self.ledger.removed(&name);
                    self.services.remove(&name);
                    self.gone.insert(name);
                }
                Done::No if was_doomed => {}
                Done::No => self.ledger.spare(&name, count),
                Done::Perhaps => {
                    if let Some(known) = self.services.get_mut(&name) {
                        known.is_doomed = true;
                    }
                }
            }
            return;
        }
        self.counter += 1;
        let count = self.counter;
        spec.labels = Some(HashMap::from([(COUNT.to_owned(), count.to_string())]));
        specs::edit(&self.sim, &mut spec);
        self.sim.note(format_args!(
            "client {}: update {name} to {count}",
            self.number
        ));
        let command = Command::UpdateService {
            id,
            version,
            spec: Box::new(spec),
            registry_auth: None,
            rollback: false,
        };
        let is_rash = self.sim.plant == Some(Plant::RashClients);
        let done = match self.call(manager, life, command).await {
            Done::Perhaps if is_rash => Done::Yes(Response::Done),
            done => done,
        };
        let Some(known) = self.services.get_mut(&name) else {
            return;
        };
        match done {
            Done::Yes(_) => {
                // It was made of the version that was read: whatever was made of older ones is refused from now on.
                known.count = count;
                known.perhaps.clear();
                self.ledger.changed(&name, count);
            }
            Done::No => {}
            Done::Perhaps => drop(known.perhaps.insert(count)),
        }
    }

    /// Compares what was read of a service with what was acknowledged.
    fn compare(&mut self, state: &State, name: &str) {
        let Some(known) = self.services.get_mut(name) else {
            return;
        };
        match state.find_service(name).ok().map(count_of) {
            Some(count) if count == known.count => {}
            Some(count) if known.perhaps.contains(&count) => {
                known.count = count;
                self.ledger.changed(name, count);
            }
            Some(count) => self.sim.violated(Violation::LostWrite, format_args!(
                "service {name} has change {count}, but {} was acknowledged or read (and may have {:?})",
                known.count, known.perhaps
            )),
            // Never made.
            None if known.count == 0 => {}
            None if known.is_doomed => {}
            None => self.sim.violated(Violation::LostWrite, format_args!(
                "service {name} is not there, but its change {} was acknowledged",
                known.count
            )),
        }
    }

    /// All that this client was told is true.
    pub(crate) fn compare_all(&mut self, state: &State) {
        let names: Vec<String> = self.services.keys().cloned().collect();
        for name in names {
            self.compare(state, &name);
        }
        if self.has_network && state.find_network(&self.network()).is_err() {
            let name = self.network();
            self.sim.violated(
                Violation::LostWrite,
                format_args!("network {name} is not there; it was made"),
            );
        }
        for name in &self.gone {
            if state.find_service(name).is_ok() {
                self.sim.violated(
                    Violation::Returned,
                    format_args!("service {name} is back; it was removed"),
                );
            }
        }
    }
}
