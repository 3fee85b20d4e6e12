//! The objects as the Engine API shows them.

use super::{
    Address, Cluster, Holds, Meta, Network, Node, NodeRoots, NodeState, Port, Protocol,
    PublishMode, Service, ServiceMode, State, Task, TaskState,
};
use crate::Managers;
use mesh_api::{engine, generic_resource, moment};
use mesh_pki::Role;
use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

impl Meta {
    pub(super) fn version(&self) -> Option<engine::ObjectVersion> {
        Some(engine::ObjectVersion {
            index: Some(self.version),
        })
    }
}

impl From<Port> for engine::EndpointPortConfig {
    fn from(port: Port) -> Self {
        Self {
            name: None,
            protocol: Some(match port.protocol {
                Protocol::Tcp => engine::EndpointPortConfigProtocolEnum::TCP,
                Protocol::Udp => engine::EndpointPortConfigProtocolEnum::UDP,
                Protocol::Sctp => engine::EndpointPortConfigProtocolEnum::SCTP,
            }),
            target_port: Some(i64::from(port.target)),
            published_port: Some(i64::from(port.published)),
            publish_mode: Some(match port.mode {
                PublishMode::Ingress => engine::EndpointPortConfigPublishModeEnum::INGRESS,
                PublishMode::Host => engine::EndpointPortConfigPublishModeEnum::HOST,
            }),
        }
    }
}

impl Cluster {
    /// `GET /swarm`, join tokens included.
    pub fn to_engine(&self) -> engine::Swarm {
        let mut spec = self.spec.clone();
        if let Some(ca) = &mut spec.ca_config {
            // Earlier versions kept what they were sent.
            (ca.signing_ca_cert, ca.signing_ca_key) = (None, None);
        }
        engine::Swarm {
            id: Some(self.id.clone()),
            version: self.meta.version(),
            created_at: Some(moment::from_nanos(self.meta.created_at)),
            updated_at: Some(moment::from_nanos(self.meta.updated_at)),
            spec: Some(spec),
            tls_info: Some(self.tls_info()),
            root_rotation_in_progress: Some(self.root_rotation.is_some()),
            data_path_port: Some(u32::from(self.data_path_port)),
            default_addr_pool: Some(self.default_addr_pool.clone()),
            subnet_size: Some(u32::from(self.subnet_size)),
            join_tokens: Some(engine::JoinTokens {
                worker: Some(self.worker_token.clone()),
                manager: Some(self.manager_token.clone()),
            }),
        }
    }

    /// The cluster part of `GET /info`: as [`Cluster::to_engine`] without the tokens.
    pub fn to_cluster_info(&self) -> engine::ClusterInfo {
        let swarm = self.to_engine();
        engine::ClusterInfo {
            id: swarm.id,
            version: swarm.version,
            created_at: swarm.created_at,
            updated_at: swarm.updated_at,
            spec: swarm.spec,
            tls_info: swarm.tls_info,
            root_rotation_in_progress: swarm.root_rotation_in_progress,
            data_path_port: swarm.data_path_port,
            default_addr_pool: swarm.default_addr_pool,
            subnet_size: swarm.subnet_size,
        }
    }
}

/// The Engine API's word for a role.
pub(crate) fn engine_role(role: Role) -> engine::NodeSpecRoleEnum {
    match role {
        Role::Worker => engine::NodeSpecRoleEnum::WORKER,
        Role::Manager => engine::NodeSpecRoleEnum::MANAGER,
    }
}

impl Node {
    /// `GET /nodes/{id}`, as the leader sees it; `roots` are [those in use](super::State::node_roots), `holds` [those
    /// in force](super::State::holds).
    pub fn to_engine(&self, managers: &Managers, roots: &NodeRoots, holds: &Holds) -> engine::Node {
        let report = &self.description;
        let mut spec = self.spec.clone();
        spec.role = Some(engine_role(self.desired_role()));
        spec.availability = Some(self.availability());
        engine::Node {
            id: Some(self.id.clone()),
            version: self.meta.version(),
            created_at: Some(moment::from_nanos(self.meta.created_at)),
            updated_at: Some(moment::from_nanos(self.meta.updated_at)),
            spec: Some(spec),
            description: Some(engine::NodeDescription {
                hostname: Some(report.hostname.clone()),
                platform: Some(engine::Platform {
                    architecture: Some(report.architecture.clone()),
                    os: Some(report.os.clone()),
                }),
                resources: Some(engine::ResourceObject {
                    nano_cpus: Some(report.nano_cpus),
                    memory_bytes: Some(report.memory_bytes),
                    generic_resources: generic_resource::to_engine(&report.generic_resources),
                }),
                engine: Some(engine::EngineDescription {
                    engine_version: Some(report.engine_version.clone()),
                    labels: Some(report.engine_labels.clone().into_iter().collect()),
                    plugins: None,
                }),
                tls_info: roots.of(self),
            }),
            status: Some(engine::NodeStatus {
                state: Some(match self.state {
                    NodeState::Unknown => engine::NodeState::UNKNOWN,
                    NodeState::Ready => engine::NodeState::READY,
                    NodeState::Down => engine::NodeState::DOWN,
                }),
                message: holds
                    .message(&self.id)
                    .or_else(|| (!self.message.is_empty()).then(|| self.message.clone())),
                addr: Some(report.address.clone()),
            }),
            manager_status: self
                .manager_addr
                .as_ref()
                .map(|addr| engine::ManagerStatus {
                    leader: (managers.leader.as_ref() == Some(&self.id)).then_some(true),
                    reachability: Some(if managers.reachable.contains(&self.id) {
                        engine::Reachability::REACHABLE
                    } else if managers.voters.contains(&self.id) {
                        engine::Reachability::UNREACHABLE
                    } else {
                        engine::Reachability::UNKNOWN
                    }),
                    addr: Some(addr.clone()),
                }),
        }
    }
}

impl Service {
    /// `GET /services/{id}`, without its status (see [`service_status`]). `state` gives the
    /// networks' prefix lengths.
    pub fn to_engine(&self, state: &State) -> engine::Service {
        let vip = |vip: &Address| engine::ServiceEndpointVirtualIps {
            network_id: Some(vip.network_id.clone()),
            addr: Some(with_prefix(state, vip)),
        };
        let endpoint_spec = self
            .spec
            .endpoint_spec
            .clone()
            .unwrap_or(engine::EndpointSpec {
                mode: Some(engine::EndpointSpecModeEnum::VIP),
                ports: None,
            });
        engine::Service {
            id: Some(self.id.clone()),
            version: self.meta.version(),
            created_at: Some(moment::from_nanos(self.meta.created_at)),
            updated_at: Some(moment::from_nanos(self.meta.updated_at)),
            spec: Some(self.spec.clone()),
            endpoint: Some(engine::ServiceEndpoint {
                spec: Some(endpoint_spec),
                ports: (!self.ports.is_empty())
                    .then(|| self.ports.iter().copied().map(Into::into).collect()),
                virtual_ips: (!self.vips.is_empty()).then(|| self.vips.iter().map(vip).collect()),
            }),
            update_status: self.update.as_ref().map(|u| engine::ServiceUpdateStatus {
                state: Some(u.state),
                started_at: Some(moment::from_nanos(u.started_at)),
                completed_at: u.completed_at.map(moment::from_nanos),
                message: Some(u.message.clone()),
            }),
            service_status: None,
            job_status: self.job.map(|job| engine::ServiceJobStatus {
                job_iteration: Some(iteration(job.iteration)),
                last_execution: Some(moment::from_nanos(job.last_execution)),
            }),
        }
    }
}

/// The number of a job's execution, as the Engine API has it.
fn iteration(index: u64) -> engine::ObjectVersion {
    engine::ObjectVersion { index: Some(index) }
}

/// An address with its network's prefix length, as Docker prints it.
fn with_prefix(state: &State, address: &Address) -> String {
    let prefix = state
        .network(&address.network_id)
        .map_or(32, |n| n.subnet.prefix());
    format!("{}/{prefix}", address.address)
}

impl Task {
    /// `GET /tasks/{id}`.
    pub fn to_engine(&self) -> engine::Task {
        let status = &self.status;
        let text = |s: &String| (!s.is_empty()).then(|| s.clone());
        let ran = !status.container_id.is_empty() || status.exit_code.is_some() || status.pid != 0;
        engine::Task {
            id: Some(self.id.clone()),
            version: self.meta.version(),
            created_at: Some(moment::from_nanos(self.meta.created_at)),
            updated_at: Some(moment::from_nanos(self.meta.updated_at)),
            name: Some(self.name()),
            labels: Some(Default::default()),
            spec: Some(engine::TaskSpec::clone(&self.spec)),
            service_id: Some(self.service_id.clone()),
            slot: (self.shown_slot() > 0)
                .then(|| i64::try_from(self.shown_slot()).unwrap_or(i64::MAX)),
            node_id: self.node_id.clone(),
            assigned_generic_resources: generic_resource::to_engine(&self.generic_resources),
            status: Some(engine::TaskStatus {
                timestamp: Some(moment::from_nanos(status.timestamp)),
                state: Some(status.state.into()),
                message: text(&status.message),
                err: text(&status.error),
                container_status: ran.then(|| engine::ContainerStatus {
                    container_id: text(&status.container_id),
                    pid: Some(i64::from(status.pid)),
                    exit_code: Some(i64::from(status.exit_code.unwrap_or(0))),
                }),
                port_status: Some(engine::PortStatus {
                    ports: (!self.host_ports.is_empty() && status.state == TaskState::Running)
                        .then(|| self.host_ports.iter().copied().map(Into::into).collect()),
                }),
            }),
            desired_state: Some(self.shown_desired().into()),
            job_iteration: self.job_iteration.map(iteration),
        }
    }

    fn shown_desired(&self) -> TaskState {
        let desired = match self.drain_to {
            // What its status becomes; what is wanted is that it stops.
            Some(TaskState::Rejected) => TaskState::Shutdown,
            then => then.unwrap_or(self.desired),
        }
        .max(self.desired);
        match desired {
            TaskState::Running if self.job_iteration.is_some() => TaskState::Complete,
            desired => desired,
        }
    }
}

impl Network {
    /// The reserved addresses of a family by their names, if there are any; of a network from before there were, none.
    fn auxiliary(&self, is_of: impl Fn(&IpAddr) -> bool) -> Option<HashMap<String, String>> {
        if self.reserved.is_empty() {
            return None;
        }
        let configs = self
            .spec
            .ipam
            .iter()
            .flat_map(|i| i.config.iter().flatten());
        let given = configs.flat_map(|config| config.auxiliary_addresses.iter().flatten());
        let named: HashMap<_, _> = given
            .filter(|(_, text)| text.parse().is_ok_and(|address| is_of(&address)))
            .map(|(name, text)| (name.clone(), text.clone()))
            .collect();
        (!named.is_empty()).then_some(named)
    }

    /// `GET /networks/{id}`.
    pub fn to_engine(&self) -> engine::Network {
        let mut options = self.spec.options.clone().unwrap_or_default();
        options.insert(
            "com.docker.network.driver.overlay.vxlanid_list".to_owned(),
            self.vni.to_string(),
        );
        let mut configs = vec![engine::IpamConfig {
            subnet: Some(self.subnet.to_string()),
            gateway: Some(self.gateway.to_string()),
            ip_range: self.range.map(|range| range.to_string()),
            auxiliary_addresses: self.auxiliary(IpAddr::is_ipv4),
        }];
        configs.extend(self.subnet_v6.map(|subnet| engine::IpamConfig {
            subnet: Some(subnet.to_string()),
            gateway: self.v6(self.gateway).map(|gateway| gateway.to_string()),
            auxiliary_addresses: self.auxiliary(IpAddr::is_ipv6),
            ..Default::default()
        }));
        engine::Network {
            name: Some(self.spec.name.clone()),
            id: Some(self.id.clone()),
            created: Some(moment::from_nanos(self.meta.created_at)),
            scope: Some("swarm".to_owned()),
            driver: Some("overlay".to_owned()),
            enable_ipv4: Some(true),
            enable_ipv6: Some(self.subnet_v6.is_some()),
            ipam: Some(engine::Ipam {
                driver: Some("default".to_owned()),
                config: Some(configs),
                options: None,
            }),
            internal: Some(self.spec.internal.unwrap_or(false)),
            attachable: Some(self.spec.attachable.unwrap_or(false)),
            ingress: Some(self.ingress),
            config_from: None,
            config_only: Some(false),
            containers: None,
            options: Some(options),
            labels: Some(self.spec.labels.clone().unwrap_or_default()),
            peers: None,
        }
    }
}

/// The counts that `service ls` shows.
pub fn service_status(state: &State, service: &Service) -> engine::ServiceServiceStatus {
    let mut running = 0;
    let mut wanted = 0;
    // A slot that was lost with its node may complete twice.
    let mut completed = BTreeSet::new();
    let is_current = |task: &&Task| task.job_iteration == service.iteration();
    for task in state.tasks_of_service(&service.id).filter(is_current) {
        if task.has_done_its_job() {
            let node = task.node_id.as_ref().filter(|_| task.slot == 0);
            completed.insert((task.slot, node));
            continue;
        }
        let node_up = task
            .node_id
            .as_deref()
            .and_then(|id| state.node(id))
            .is_some_and(|n| n.state != NodeState::Down);
        if task.is_wanted() {
            wanted += 1;
        }
        if task.status.state == TaskState::Running && task.is_wanted() && node_up {
            running += 1;
        }
    }
    engine::ServiceServiceStatus {
        running_tasks: Some(running),
        desired_tasks: Some(match service.mode() {
            ServiceMode::Replicated => service.replicas(),
            ServiceMode::ReplicatedJob => service.max_concurrent(),
            ServiceMode::Global | ServiceMode::GlobalJob => wanted,
        }),
        completed_tasks: service.job.map(|_| completed.len() as u64),
    }
}
