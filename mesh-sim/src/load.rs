//! Clients that change services, and keep in mind what was acknowledged: from then on it has to be read, and nothing older.

use crate::{
    cluster::Cluster,
    sim::{Life, Sim},
};
use mesh_api::engine;
use mesh_manager::{Command, ErrorKind, ManagerError, ManagerHandle, Response, state::State};
use rand::Rng;
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::time::timeout;

/// Label that counts a service's changes.
const COUNT: &str = "count";
/// What a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
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
fn is_refused(error: &ManagerError) -> bool {
    !matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Unknown)
        || *error == ManagerError::out_of_sequence()
}

/// What came of a call.
enum Done<T> {
    Yes(T),
    No,
    Perhaps,
}

impl Client {
    pub(crate) fn new(number: usize, sim: &Arc<Sim>, cluster: &Arc<Cluster>) -> Self {
        Self {
            number,
            sim: sim.clone(),
            cluster: cluster.clone(),
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
        let called = life.during(timeout(PATIENCE, manager.call(command))).await;
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
        let name = format!("s{}-{}", self.number, self.made);
        let spec = self.spec(&name);
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
            Done::Yes(_) => known(count, BTreeSet::new()),
            Done::No => return,
            Done::Perhaps => known(0, BTreeSet::from([count])),
        };
        self.services.insert(name, known);
    }

    fn spec(&self, name: &str) -> engine::ServiceSpec {
        let mut dice = self.sim.dice();
        let replicas = dice.random_range(0..6);
        let order = ["stop-first", "start-first"][dice.random_range(0..2)];
        let mut spec = json!({
            "Name": name,
            "Labels": {COUNT: self.counter.to_string()},
            "TaskTemplate": {
                "ContainerSpec": {"Image": "image:1"},
                "RestartPolicy": {"Delay": 500_000_000},
            },
            "Mode": {"Replicated": {"Replicas": replicas}},
            "UpdateConfig": {
                "Parallelism": dice.random_range(1..3),
                "Order": order,
                "FailureAction": "continue",
            },
        });
        if dice.random_bool(0.5) {
            let published = [0, 8000, 8001][dice.random_range(0..3)];
            let port = json!({"Protocol": "tcp", "PublishedPort": published, "TargetPort": 80});
            spec["EndpointSpec"] = json!({"Ports": [port]});
        }
        if dice.random_bool(0.5) {
            spec["TaskTemplate"]["Networks"] = json!([{"Target": self.network()}]);
        }
        serde_json::from_value(spec).unwrap_or_default()
    }

    /// Reads a service, and removes or changes it by what was read.
    async fn change(&mut self, manager: &ManagerHandle, life: &Life, name: String, remove: bool) {
        // What is read now holds all that was acknowledged before, by whomever.
        let read = life
            .during(timeout(PATIENCE, manager.group_by_leader()))
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
            match self
                .call(manager, life, Command::RemoveService { id })
                .await
            {
                Done::Yes(_) => {
                    self.services.remove(&name);
                    self.gone.insert(name);
                }
                Done::No => {}
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
        self.edit(&mut spec);
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
        let done = self.call(manager, life, command).await;
        let Some(known) = self.services.get_mut(&name) else {
            return;
        };
        match done {
            Done::Yes(_) => {
                // It was made of the version that was read: whatever was made of older ones is refused from now on.
                known.count = count;
                known.perhaps.clear();
            }
            Done::No => {}
            Done::Perhaps => drop(known.perhaps.insert(count)),
        }
    }

    fn edit(&self, spec: &mut engine::ServiceSpec) {
        let mut dice = self.sim.dice();
        if dice.random_bool(0.5) {
            let replicas = dice.random_range(0..6);
            if let Some(mode) = spec.mode.as_mut().and_then(|m| m.replicated.as_mut()) {
                mode.replicas = Some(replicas);
            }
        }
        if dice.random_bool(0.4) {
            let container = spec
                .task_template
                .as_mut()
                .and_then(|t| t.container_spec.as_mut());
            if let Some(container) = container {
                container.image = Some(format!("image:{}", dice.random_range(1..100)));
            }
        }
    }

    /// Compares what was read of a service with what was acknowledged.
    fn compare(&mut self, state: &State, name: &str) {
        let Some(known) = self.services.get_mut(name) else {
            return;
        };
        let found = state.find_service(name).ok();
        let count = found.and_then(|s| s.spec.labels.as_ref()?.get(COUNT)?.parse().ok());
        match count {
            Some(count) if count == known.count => {}
            Some(count) if known.perhaps.contains(&count) => known.count = count,
            Some(count) => self.sim.violated(format_args!(
                "service {name} has change {count}, but {} was acknowledged or read (and may have {:?})",
                known.count, known.perhaps
            )),
            // Never made.
            None if known.count == 0 => {}
            None if known.is_doomed => {}
            None => self.sim.violated(format_args!(
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
            self.sim
                .violated(format_args!("network {name} is not there; it was made"));
        }
        for name in &self.gone {
            if state.find_service(name).is_ok() {
                self.sim
                    .violated(format_args!("service {name} is back; it was removed"));
            }
        }
    }
}
