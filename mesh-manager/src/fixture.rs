//! A state that unit tests drive through the real state machine, with a clock they turn themselves.

use crate::{
    AddNode, Bootstrap, Change, Command, ManagerError, NodeReport, Operation, Outcome, Proposal,
    Response, apply,
    command::RULES,
    config::{DEFAULT_DATA_PATH_PORT, DEFAULT_SUBNET_SIZE, Timings, default_pool},
    orchestrator::{Inputs, plan},
    scheduler::schedule,
    state::{State, Task, TaskState, TaskStatus},
};
use mesh_api::{engine, handout::Kind};
use mesh_pki::Role;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// One second in nanoseconds.
pub(crate) const SECOND: i64 = 1_000_000_000;

/// The state, the clock and the log's index.
pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) now: i64,
    pub(crate) timings: Timings,
    /// Whether the nodes acknowledge at once.
    pub(crate) acknowledge: bool,
    /// When the manager began to lead.
    pub(crate) leads_since: i64,
    index: u64,
}

impl World {
    /// A cluster with a drained manager `m` and these workers, all ready.
    pub(crate) fn new(workers: &[&str]) -> Self {
        let mut world = Self {
            state: State::default(),
            now: 1000 * SECOND,
            timings: Timings::default(),
            acknowledge: true,
            leads_since: 0,
            index: 0,
        };
        let node = |id: &str, role, availability| AddNode {
            data_path_address: String::new(),
            key: String::new(),
            id: id.to_owned(),
            role,
            availability,
            hostname: id.to_owned(),
            manager_addr: (role == Role::Manager).then(|| "10.9.9.9:2377".to_owned()),
        };
        let bootstrap = Bootstrap {
            cluster_id: "c".repeat(25),
            root_certificate_pem: String::new(),
            root_key_pem: String::new(),
            worker_token: mesh_pki::JoinToken::generate(&"a".repeat(50)).to_string(),
            manager_token: mesh_pki::JoinToken::generate(&"a".repeat(50)).to_string(),
            unlock_key: None,
            spec: engine::SwarmSpec::default(),
            default_addr_pool: vec![default_pool().to_string()],
            subnet_size: DEFAULT_SUBNET_SIZE,
            data_path_port: DEFAULT_DATA_PATH_PORT,
            node: node("m", Role::Manager, engine::NodeSpecAvailabilityEnum::DRAIN),
        };
        world
            .apply(Operation::Bootstrap(Box::new(bootstrap)))
            .unwrap();
        for worker in workers {
            let active = engine::NodeSpecAvailabilityEnum::ACTIVE;
            world
                .apply(Operation::AddNode(node(worker, Role::Worker, active)))
                .unwrap();
            world.node_up(worker);
        }
        world
    }

    /// What `node promote` and `node demote` ask for.
    pub(crate) fn want_role(&mut self, id: &str, role: engine::NodeSpecRoleEnum) -> Outcome {
        let version = self.state.node(id).unwrap().meta.version;
        self.call(Command::UpdateNode {
            id: id.to_owned(),
            version,
            spec: engine::NodeSpec {
                role: Some(role),
                ..Default::default()
            },
        })
    }

    /// What the leader does about it.
    pub(crate) fn set_role(&mut self, id: &str, role: Role) {
        let set = Operation::SetRole {
            node_id: id.to_owned(),
            role,
        };
        self.apply(set).unwrap();
    }

    pub(crate) fn set_availability(
        &mut self,
        node: &str,
        availability: engine::NodeSpecAvailabilityEnum,
    ) {
        let node = self.state.node(node).unwrap();
        let (id, version, mut spec) = (node.id.clone(), node.meta.version, node.spec.clone());
        spec.availability = Some(availability);
        let command = Command::UpdateNode { id, version, spec };
        self.call(command).unwrap();
    }

    pub(crate) fn node_up(&mut self, id: &str) {
        let description = NodeReport {
            hostname: id.to_owned(),
            address: "10.9.0.1".to_owned(),
            data_path_address: "10.9.0.1".to_owned(),
            architecture: "x86_64".to_owned(),
            os: "linux".to_owned(),
            nano_cpus: 2 * SECOND,
            memory_bytes: 1 << 30,
            hands_out: true,
            fills_in: true,
            ..NodeReport::default()
        };
        self.apply(Operation::NodeUp {
            node_id: id.to_owned(),
            description,
        })
        .unwrap();
    }

    pub(crate) fn node_down(&mut self, id: &str) {
        let message = "heartbeat failure".to_owned();
        self.apply(Operation::NodeDown {
            node_id: id.to_owned(),
            message,
        })
        .unwrap();
    }

    pub(crate) fn apply(&mut self, operation: Operation) -> Outcome {
        self.apply_by(RULES, operation)
    }

    /// As a log is read again that managers of other versions have written.
    pub(crate) fn apply_by(&mut self, rules: u32, operation: Operation) -> Outcome {
        self.index += 1;
        let mut seed = [0u8; 16];
        seed[..8].copy_from_slice(&self.index.to_be_bytes());
        let proposal = Proposal {
            time: self.now,
            seed,
            rules,
            operation,
        };
        apply::apply(&mut self.state, self.index, &proposal)
    }

    pub(crate) fn call(&mut self, command: Command) -> Outcome {
        self.apply(Operation::Command(command))
    }

    /// Creates an object; its id.
    pub(crate) fn create(&mut self, command: Command) -> Result<String, ManagerError> {
        match self.call(command)? {
            Response::Created { id, .. } => Ok(id),
            other => panic!("nothing was created: {other:?}"),
        }
    }

    pub(crate) fn service(&mut self, spec: engine::ServiceSpec) -> Result<String, ManagerError> {
        self.create(Command::CreateService {
            spec: Box::new(spec),
            registry_auth: String::new(),
        })
    }

    pub(crate) fn network(&mut self, name: &str, subnet: &str) -> Result<String, ManagerError> {
        let ipam = (!subnet.is_empty()).then(|| engine::Ipam {
            config: Some(vec![engine::IpamConfig {
                subnet: Some(subnet.to_owned()),
                ..Default::default()
            }]),
            ..Default::default()
        });
        let request = engine::NetworkCreateRequest {
            name: name.to_owned(),
            ipam,
            ..Default::default()
        };
        self.create(Command::CreateNetwork {
            request: Box::new(request),
        })
    }

    /// Makes a secret or config.
    pub(crate) fn handout(
        &mut self,
        kind: Kind,
        name: &str,
        data: &[u8],
    ) -> Result<String, ManagerError> {
        self.create(Command::CreateHandout {
            kind,
            name: name.to_owned(),
            labels: BTreeMap::new(),
            data: data.to_vec().into(),
            is_template: false,
        })
    }

    /// Has a service's tasks handed secrets and configs, by name.
    pub(crate) fn claiming(
        &self,
        mut spec: engine::ServiceSpec,
        claims: &[(Kind, &str)],
    ) -> engine::ServiceSpec {
        let container = template(&mut spec).container_spec.as_mut().unwrap();
        for (kind, name) in claims {
            let id = &self.state.find_handout(*kind, name).unwrap().id;
            let file = json!({"Name": name, "UID": "0", "GID": "0", "Mode": 0o444});
            match kind {
                Kind::Secret => {
                    let claim = json!({"SecretID": id, "SecretName": name, "File": file});
                    let claim = serde_json::from_value(claim).unwrap();
                    container.secrets.get_or_insert_default().push(claim);
                }
                Kind::Config => {
                    let claim = json!({"ConfigID": id, "ConfigName": name, "File": file});
                    let claim = serde_json::from_value(claim).unwrap();
                    container.configs.get_or_insert_default().push(claim);
                }
            }
        }
        spec
    }

    /// Updates a service with an edited copy of its spec.
    pub(crate) fn edit(
        &mut self,
        id: &str,
        change: impl FnOnce(&mut engine::ServiceSpec),
    ) -> Outcome {
        let service = self.state.service(id).unwrap();
        let (mut spec, version) = (service.spec.clone(), service.meta.version);
        change(&mut spec);
        self.call(Command::UpdateService {
            id: id.to_owned(),
            version,
            spec: Box::new(spec),
            registry_auth: None,
            rollback: false,
        })
    }

    pub(crate) fn scale(&mut self, id: &str, replicas: i64) {
        self.edit(id, |spec| spec.mode = replicated("", replicas).mode)
            .unwrap();
    }

    /// Updates a service so that all its tasks are replaced.
    pub(crate) fn force_update(&mut self, id: &str) {
        self.edit(id, |spec| template(spec).force_update = Some(1))
            .unwrap();
    }

    pub(crate) fn report(&mut self, task: &str, state: TaskState) {
        let status = TaskStatus {
            state,
            timestamp: self.now,
            ..TaskStatus::default()
        };
        self.apply(Operation::TaskStatuses(vec![(task.to_owned(), status)]))
            .unwrap();
    }

    /// A node says that a task's health check has failed for good.
    pub(crate) fn sicken(&mut self, task: &str) {
        let status = TaskStatus {
            unhealthy: true,
            timestamp: self.now,
            ..self.state.task(task).unwrap().status.clone()
        };
        self.apply(Operation::TaskStatuses(vec![(task.to_owned(), status)]))
            .unwrap();
    }

    /// Plans and applies until nothing changes; how many rounds that took.
    pub(crate) fn settle(&mut self) -> usize {
        for round in 0..100 {
            let changes = self.plan();
            if changes.is_empty() {
                return round;
            }
            self.apply(Operation::Reconcile(changes)).unwrap();
        }
        panic!("the reconcilers never come to rest: {:?}", self.plan());
    }

    /// One round of all planners.
    pub(crate) fn plan(&self) -> Vec<Change> {
        let mut services: BTreeSet<String> = self.state.services().map(|s| s.id.clone()).collect();
        services.extend(self.state.tasks().map(|t| t.service_id.clone()));
        let acknowledged = |_| self.acknowledge;
        let inputs = Inputs {
            leads_since: self.leads_since,
            now: self.now,
            timings: &self.timings,
            is_acknowledged: &acknowledged,
        };
        let mut changes: Vec<Change> = services
            .iter()
            .map(|id| plan(&self.state, id, &inputs))
            .flat_map(|plan| plan.changes.into_iter().chain(plan.apart))
            .collect();
        changes.extend(schedule(&self.state, self.now, usize::MAX));
        changes
    }

    /// What well-behaved nodes do: run what shall run, stop what shall stop, then settle again.
    pub(crate) fn work(&mut self) {
        // An update of one task after the other takes three rounds for each.
        for _ in 0..100 {
            self.settle();
            let due: Vec<(String, TaskState)> = self
                .state
                .tasks()
                .filter(|t| t.status.state >= TaskState::Assigned && !t.status.state.is_terminal())
                .filter(|t| t.node_id.as_deref().is_some_and(|n| self.is_up(n)))
                .filter_map(|t| {
                    let to = match t.desired {
                        TaskState::Ready => TaskState::Ready,
                        TaskState::Running => TaskState::Running,
                        _ => TaskState::Shutdown,
                    };
                    (to != t.status.state).then(|| (t.id.clone(), to))
                })
                .collect();
            let drains = |t: &Task| t.drained_at.is_some() && t.desired <= TaskState::Running;
            if due.is_empty() && !self.state.tasks().any(drains) {
                return;
            }
            for (task, to) in due {
                self.report(&task, to);
            }
            self.now += SECOND;
        }
        panic!("the nodes never come to rest");
    }

    fn is_up(&self, node: &str) -> bool {
        self.state
            .node(node)
            .is_some_and(|n| n.state == crate::state::NodeState::Ready)
    }

    /// Wanted tasks of a service by slot.
    pub(crate) fn wanted(&self, service: &str) -> Vec<&Task> {
        let mut tasks: Vec<&Task> = self
            .state
            .tasks_of_service(service)
            .filter(|t| t.is_wanted())
            .collect();
        tasks.sort_by_key(|t| (t.slot, t.meta.created_at));
        tasks
    }

    /// Wanted and running tasks on a node.
    pub(crate) fn running_on(&self, service: &str, node: &str) -> usize {
        self.wanted(service)
            .iter()
            .filter(|t| t.status.state == TaskState::Running && t.node_id.as_deref() == Some(node))
            .count()
    }
}

/// A replicated service.
pub(crate) fn replicated(name: &str, replicas: i64) -> engine::ServiceSpec {
    let spec = json!({
        "Name": name,
        "TaskTemplate": {"ContainerSpec": {"Image": "whoami"}},
        "Mode": {"Replicated": {"Replicas": replicas}},
    });
    serde_json::from_value(spec).unwrap()
}

/// A global service.
pub(crate) fn global(name: &str) -> engine::ServiceSpec {
    let mut spec = replicated(name, 1);
    spec.mode = serde_json::from_value(json!({"Global": {}})).unwrap();
    spec
}

/// A job of so many tasks, of which so many run at a time.
pub(crate) fn job(name: &str, completions: u64, concurrent: u64) -> engine::ServiceSpec {
    let mut spec = replicated(name, 1);
    let job = json!({"TotalCompletions": completions, "MaxConcurrent": concurrent});
    spec.mode = serde_json::from_value(json!({"ReplicatedJob": job})).unwrap();
    spec
}

/// A job of a task on each node.
pub(crate) fn global_job(name: &str) -> engine::ServiceSpec {
    let mut spec = replicated(name, 1);
    spec.mode = serde_json::from_value(json!({"GlobalJob": {}})).unwrap();
    spec
}

/// A service with a port.
pub(crate) fn published(name: &str, port: i64, host: bool) -> engine::ServiceSpec {
    let mut spec = replicated(name, 1);
    let mode = if host { "host" } else { "ingress" };
    let port =
        json!({"Protocol": "tcp", "TargetPort": 8080, "PublishedPort": port, "PublishMode": mode});
    spec.endpoint_spec = serde_json::from_value(json!({"Ports": [port]})).unwrap();
    spec
}

/// Puts a service on networks.
pub(crate) fn on(mut spec: engine::ServiceSpec, networks: &[&str]) -> engine::ServiceSpec {
    let networks = networks.iter().map(|name| json!({"Target": name}));
    template(&mut spec).networks = serde_json::from_value(networks.collect()).unwrap();
    spec
}

/// Says where a service's tasks may run.
pub(crate) fn constrained(
    mut spec: engine::ServiceSpec,
    constraints: &[&str],
) -> engine::ServiceSpec {
    let placement = json!({"Constraints": constraints});
    template(&mut spec).placement = serde_json::from_value(placement).unwrap();
    spec
}

/// What a service's tasks are made from.
pub(crate) fn template(spec: &mut engine::ServiceSpec) -> &mut engine::TaskSpec {
    spec.task_template.as_mut().unwrap()
}
