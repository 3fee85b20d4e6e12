//! A manager on loopback and simulated nodes that speak the real protocol and pretend to run tasks.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test file uses another part of this module"
)]

pub mod group;

use mesh_api::{engine, proto};
use mesh_manager::{Command, Config, InitOptions, Manager, ManagerHandle, Response, client};
use mesh_pki::{NodeIdentity, tls};
use proto::{manager_message::Message as In, node_message::Message as Out, object::Object as Body};
use serde_json::json;
use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// A tunnel end point that is in no network.
pub const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Waits are given up after this long.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// An address that nobody else uses: each process and call has its own in 127.0.0.0/8, and the port is none that the
/// kernel gives to connections.
pub fn free_address() -> SocketAddr {
    static CALLS: AtomicU32 = AtomicU32::new(1);
    let number = std::process::id() << 8 | CALLS.fetch_add(1, Ordering::Relaxed) & 0xff;
    let [_, a, b, c] = number.to_be_bytes();
    SocketAddr::from(([127, a | 0x80, b, c], 2377))
}

pub fn config(directory: &Path, address: SocketAddr) -> Config {
    Config {
        data_dir: directory.join("raft"),
        identity_dir: directory.join("certificates"),
        listen: address,
        advertise: address,
        engine_api: axum::Router::new(),
        timings: Default::default(),
        machine: Default::default(),
        unlock: Default::default(),
    }
}

/// A manager of a new cluster, with a heartbeat that finds dead nodes fast.
pub async fn manager(directory: &Path) -> ManagerHandle {
    manager_with(config(directory, free_address())).await
}

/// The same, as configured.
pub async fn manager_with(config: Config) -> ManagerHandle {
    let options = InitOptions {
        spec: engine::SwarmSpec {
            dispatcher: Some(engine::SwarmSpecDispatcher {
                heartbeat_period: Some(300_000_000),
            }),
            ..Default::default()
        },
        ..InitOptions::default()
    };
    Manager::init(config, options).await.expect("a new cluster")
}

/// Polls until `check` gives something.
pub async fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let polled = async {
        loop {
            if let Some(found) = check() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, polled).await {
        Ok(found) => found,
        Err(_) => panic!("never came: {what}"),
    }
}

/// A replicated service of some image.
pub fn service(name: &str, replicas: i64) -> engine::ServiceSpec {
    let spec = json!({
        "Name": name,
        "TaskTemplate": {
            "ContainerSpec": {"Image": "whoami:latest"},
            "RestartPolicy": {"Delay": 0},
        },
        "Mode": {"Replicated": {"Replicas": replicas}},
    });
    serde_json::from_value(spec).expect("a spec")
}

/// Publishes a TCP port; 0: one that the manager chooses.
pub fn publish(spec: &mut engine::ServiceSpec, published: i64, target: i64) {
    let port = json!({"Protocol": "tcp", "PublishedPort": published, "TargetPort": target});
    spec.endpoint_spec = serde_json::from_value(json!({"Ports": [port]})).expect("ports");
}

/// Puts a service on a network.
pub fn attach(spec: &mut engine::ServiceSpec, network: &str) {
    let template = spec.task_template.as_mut().expect("it has a template");
    template.networks = serde_json::from_value(json!([{"Target": network}])).expect("networks");
}

pub async fn create(manager: &ManagerHandle, spec: engine::ServiceSpec) -> String {
    let command = Command::CreateService {
        spec: Box::new(spec),
        registry_auth: String::new(),
    };
    match manager.call(command).await {
        Ok(Response::Created { id, .. }) => id,
        other => panic!("service was not created: {other:?}"),
    }
}

pub async fn create_network(manager: &ManagerHandle, name: &str) -> String {
    let request = engine::NetworkCreateRequest {
        name: name.to_owned(),
        ..Default::default()
    };
    match manager
        .call(Command::CreateNetwork {
            request: Box::new(request),
        })
        .await
    {
        Ok(Response::Created { id, .. }) => id,
        other => panic!("network was not created: {other:?}"),
    }
}

/// Updates a service with an edited copy of its spec.
pub async fn edit(
    manager: &ManagerHandle,
    id: &str,
    change: impl FnOnce(&mut engine::ServiceSpec),
) {
    let (mut spec, version) = {
        let view = manager.view();
        let service = view.service(id).expect("the service is there");
        (service.spec.clone(), service.meta.version)
    };
    change(&mut spec);
    let command = Command::UpdateService {
        id: id.to_owned(),
        version,
        spec: Box::new(spec),
        registry_auth: None,
        rollback: false,
    };
    manager.call(command).await.expect("the update is taken");
}

pub async fn scale(manager: &ManagerHandle, id: &str, replicas: i64) {
    edit(manager, id, |spec| spec.mode = service("", replicas).mode).await;
}

/// What a simulated node knows.
#[derive(Debug, Default)]
pub struct Known {
    pub tasks: BTreeMap<String, proto::Task>,
    pub networks: BTreeMap<String, proto::Network>,
    pub services: BTreeMap<String, proto::Service>,
    pub endpoints: BTreeMap<String, proto::Endpoint>,
    pub peers: BTreeMap<String, proto::Peer>,
    /// State that each task was reported in last.
    pub reported: HashMap<String, String>,
    /// Endpoint states at the time a task was told to stop, on this node.
    pub state_at_stop: HashMap<String, i32>,
    pub revision: u64,
    pub assignments: usize,
    /// The manager's last word on managers and on the node itself.
    pub welcome: proto::Welcome,
}

/// A node that joins by token, opens a session and reports every task as running until told to
/// stop it.
pub struct FakeNode {
    pub identity: NodeIdentity,
    pub known: Arc<Mutex<Known>>,
    out: mpsc::Sender<proto::NodeMessage>,
    cancel: CancellationToken,
}

pub fn send(body: Out) -> proto::NodeMessage {
    proto::NodeMessage {
        message: Some(body),
    }
}

pub fn status(task_id: &str, state: &str) -> proto::TaskStatus {
    proto::TaskStatus {
        task_id: task_id.to_owned(),
        state: state.to_owned(),
        timestamp: 1,
        ..Default::default()
    }
}

impl FakeNode {
    /// Joins as a worker and goes to work.
    pub async fn join(manager: &ManagerHandle, hostname: &str) -> Self {
        let (address, token) = {
            let view = manager.view();
            let cluster = view.cluster().expect("there is a cluster");
            (
                manager.managers()[0].1.clone(),
                cluster.worker_token.clone(),
            )
        };
        let joined = client::join(&address, &token, "active", OUTSIDE)
            .await
            .expect("the token is good");
        assert_eq!(joined.data_path_port, 4789);
        Self::open(&address, joined.identity, hostname).await
    }

    /// Opens a session with an identity, at the leader that the manager names if it does not lead (any more).
    pub async fn open(address: &str, identity: NodeIdentity, hostname: &str) -> Self {
        let mut address = address.to_owned();
        loop {
            match Self::try_open(&address, identity.clone(), hostname).await {
                Ok(node) => return node,
                Err(refusal) => {
                    let named = refusal.metadata().get(client::LEADER_ADDRESS);
                    let named = named.unwrap_or_else(|| panic!("a session: {refusal}"));
                    address = named.to_str().expect("an address").to_owned();
                }
            }
        }
    }

    async fn try_open(
        address: &str,
        identity: NodeIdentity,
        hostname: &str,
    ) -> Result<Self, tonic::Status> {
        let tls = tls::client_config(&identity).expect("the identity is whole");
        let channel = client::connect(address, tls)
            .await
            .expect("the manager serves");
        let mut dispatcher = proto::dispatcher_client::DispatcherClient::new(channel.clone());
        let (out, messages) = mpsc::channel(64);
        let hello = proto::NodeDescription {
            hostname: hostname.to_owned(),
            address: "127.0.0.1".to_owned(),
            data_path_address: "127.0.0.1".to_owned(),
            architecture: "x86_64".to_owned(),
            os: "linux".to_owned(),
            nano_cpus: 2_000_000_000,
            memory_bytes: 1 << 30,
            trusted_root: identity.root_digest().expect("a root"),
            ..Default::default()
        };
        out.send(send(Out::Hello(hello)))
            .await
            .expect("the queue is open");
        let mut stream = dispatcher
            .session(ReceiverStream::new(messages))
            .await?
            .into_inner();
        let known = Arc::new(Mutex::new(Known::default()));
        let cancel = CancellationToken::new();
        let node = Self {
            identity,
            known: known.clone(),
            out: out.clone(),
            cancel: cancel.clone(),
        };
        tokio::spawn(async move {
            let mut beat = tokio::time::interval(Duration::from_millis(100));
            loop {
                let message = tokio::select! {
                    () = cancel.cancelled() => return,
                    _ = beat.tick() => {
                        let beat = send(Out::Heartbeat(proto::Heartbeat::default()));
                        if out.send(beat).await.is_err() { return }
                        continue;
                    }
                    message = stream.message() => match message {
                        Ok(Some(message)) => message,
                        _ => return,
                    },
                };
                match message.message {
                    Some(In::Assignment(assignment)) => {
                        let revision = assignment.revision;
                        let statuses = known.lock().expect("no test panicked").take(assignment);
                        let applied = send(Out::Applied(proto::Applied { revision }));
                        if out.send(applied).await.is_err() {
                            return;
                        }
                        let statuses = proto::TaskStatuses { statuses };
                        if out.send(send(Out::Statuses(statuses))).await.is_err() {
                            return;
                        }
                    }
                    Some(In::Welcome(welcome)) => {
                        known.lock().expect("no test panicked").welcome = welcome;
                    }
                    Some(In::Logs(logs)) if !logs.close => {
                        publish_logs(channel.clone(), logs).await;
                    }
                    _ => {}
                }
            }
        });
        Ok(node)
    }

    /// Says something of a task that the node would not say by itself.
    pub async fn report(&self, status: proto::TaskStatus) {
        let statuses = proto::TaskStatuses {
            statuses: vec![status],
        };
        self.out
            .send(send(Out::Statuses(statuses)))
            .await
            .expect("the session is open");
    }

    /// Says of itself what the node would not say by itself.
    pub async fn describe(&self, description: proto::NodeDescription) {
        self.out
            .send(send(Out::Hello(description)))
            .await
            .expect("the session is open");
    }

    /// The node dies: no more words.
    pub fn kill(&self) {
        self.cancel.cancel();
    }

    pub fn id(&self) -> &str {
        &self.identity.node_id
    }
}

/// Two lines for each task asked for.
async fn publish_logs(channel: tonic::transport::Channel, logs: proto::LogSubscription) {
    let lines = logs
        .task_ids
        .iter()
        .flat_map(|task| {
            [1u32, 2].map(|stream| proto::LogLine {
                task_id: task.clone(),
                timestamp: i64::from(stream),
                stream,
                data: format!("line {stream} of {task}\n").into_bytes(),
                ..Default::default()
            })
        })
        .collect();
    let batch = proto::LogBatch {
        subscription_id: logs.id,
        lines,
        end: true,
        ..Default::default()
    };
    let mut dispatcher = proto::dispatcher_client::DispatcherClient::new(channel);
    let _ = dispatcher
        .publish_logs(futures::stream::iter([batch]))
        .await;
}

impl Known {
    /// Takes an assignment; returns what the node reports of its tasks.
    fn take(&mut self, assignment: proto::Assignment) -> Vec<proto::TaskStatus> {
        self.assignments += 1;
        self.revision = assignment.revision;
        if assignment.full {
            self.tasks.clear();
            self.networks.clear();
            self.services.clear();
            self.endpoints.clear();
            self.peers.clear();
        }
        for object in assignment.objects {
            match object.object {
                Some(Body::Task(t)) => drop(self.tasks.insert(t.id.clone(), t)),
                Some(Body::Network(n)) => drop(self.networks.insert(n.id.clone(), n)),
                Some(Body::Service(s)) => drop(self.services.insert(s.id.clone(), s)),
                Some(Body::Endpoint(e)) => drop(self.endpoints.insert(e.id.clone(), e)),
                Some(Body::Peer(p)) => drop(self.peers.insert(p.id.clone(), p)),
                Some(Body::Secret(_) | Body::Config(_)) | None => {}
            }
        }
        for id in assignment.removed {
            match id.kind() {
                proto::Kind::Task => drop(self.tasks.remove(&id.id)),
                proto::Kind::Network => drop(self.networks.remove(&id.id)),
                proto::Kind::Service => drop(self.services.remove(&id.id)),
                proto::Kind::Endpoint => drop(self.endpoints.remove(&id.id)),
                proto::Kind::Peer => drop(self.peers.remove(&id.id)),
                proto::Kind::Secret | proto::Kind::Config | proto::Kind::Unspecified => {}
            }
        }
        let mut statuses = Vec::new();
        for task in self.tasks.values() {
            let word = match task.desired_state.as_str() {
                "ready" => "ready",
                "running" => "running",
                _ => "shutdown",
            };
            if word == "shutdown" && !self.state_at_stop.contains_key(&task.id) {
                let state = self.endpoints.get(&task.id).map_or(-1, |e| e.state);
                self.state_at_stop.insert(task.id.clone(), state);
            }
            if self.reported.get(&task.id).is_none_or(|w| w != word) {
                self.reported.insert(task.id.clone(), word.to_owned());
                statuses.push(status(&task.id, word));
            }
        }
        statuses
    }
}
