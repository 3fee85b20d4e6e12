//! Who is asked what. Pure.

use std::collections::BTreeMap;

use mesh_api::proto::{self, CheckQuestion, PortToAsk};
use mesh_manager::state::{NodeState, Port, Protocol, PublishMode, Service, State};

/// Ports that one node asks at most; it has some seconds for them.
const MOST_PORTS: usize = 1000;

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) id: String,
    pub(crate) name: String,
    /// Its tunnel end point.
    pub(crate) address: String,
    /// Why it is not asked; `None` if it is.
    pub(crate) away: Option<String>,
}

/// A published port of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) service: String,
    pub(crate) port: Port,
    /// Index of the node in [`Plan::members`].
    pub(crate) node: usize,
    /// Index of the node that asks; `None`: nobody does.
    pub(crate) by: Option<usize>,
}

/// What a run of checks looks at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Plan {
    pub(crate) members: Vec<Member>,
    pub(crate) targets: Vec<Target>,
    /// Published ports that no task answers: service and port.
    pub(crate) idle: Vec<(String, Port)>,
    pub(super) tunnel_port: u16,
    pub(super) run: u64,
    /// How many ports each node asks.
    pub(super) asks: BTreeMap<usize, usize>,
}

impl Plan {
    /// Every node and every published port. `run` tells this run from others.
    pub(crate) fn of(state: &State, run: u64) -> Self {
        let members = state.nodes().map(|node| Member {
            id: node.id.clone(),
            name: node.description.hostname.clone(),
            address: node.description.data_path_address.clone(),
            away: (node.state != NodeState::Ready).then(|| node.message.clone()),
        });
        let mut plan = Self {
            members: members.collect(),
            tunnel_port: state.cluster().map_or(0, |cluster| cluster.data_path_port),
            run,
            ..Self::default()
        };
        plan.members
            .sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        let mut services: Vec<&Service> = state.services().collect();
        services.sort_by_key(|service| service.name());
        for service in services {
            for port in &service.ports {
                plan.add(state, service, *port);
            }
        }
        plan
    }

    fn add(&mut self, state: &State, service: &Service, port: Port) {
        let running: Vec<&str> = state
            .tasks_of_service(&service.id)
            .filter(|task| task.is_active())
            .filter_map(|task| task.node_id.as_deref())
            .collect();
        if running.is_empty() {
            self.idle.push((service.name().to_owned(), port));
            return;
        }
        let own_only = port.mode == PublishMode::Host || service.is_local_only();
        for node in 0..self.members.len() {
            let member = &self.members[node];
            if member.away.is_some() || own_only && !running.contains(&member.id.as_str()) {
                continue;
            }
            // Only the flow tells that a datagram has arrived, and ports of the host's have none.
            let is_told = port.protocol == Protocol::Tcp || port.mode == PublishMode::Ingress;
            let by = self.asker(node).filter(|_| is_told);
            let by = by.filter(|by| {
                let asks = self.asks.entry(*by).or_default();
                *asks += 1;
                *asks <= MOST_PORTS
            });
            self.targets.push(Target {
                service: service.name().to_owned(),
                port,
                node,
                by,
            });
        }
    }

    /// The next node that is asked; the node itself if it is the only one.
    fn asker(&self, node: usize) -> Option<usize> {
        let count = self.members.len();
        let mut others = (1..=count).map(|n| (node + n) % count);
        others.find(|n| self.members[*n].away.is_none())
    }

    /// What the node of this id is asked. `now`: the manager's clock, nanoseconds since the epoch.
    pub(crate) fn question(&self, id: &str, now: i64) -> CheckQuestion {
        let asked = self.members.iter().filter(|member| member.away.is_none());
        let own = self.members.iter().position(|member| member.id == id);
        let ports = self
            .targets
            .iter()
            .filter(|t| t.by.is_some() && t.by == own);
        CheckQuestion {
            asked_at: now,
            run: self.run,
            peers: asked
                .filter(|member| member.id != id)
                .map(|member| member.address.clone())
                .collect(),
            ports: ports
                .map(|target| PortToAsk {
                    address: self.members[target.node].address.clone(),
                    port: target.port.published.into(),
                    protocol: spoken(&target.port).into(),
                })
                .collect(),
            tunnel_port: self.tunnel_port.into(),
        }
    }
}

/// A port's protocol, as nodes are told.
pub(super) fn spoken(port: &Port) -> proto::Protocol {
    match port.protocol {
        Protocol::Tcp => proto::Protocol::Tcp,
        Protocol::Udp => proto::Protocol::Udp,
        Protocol::Sctp => proto::Protocol::Sctp,
    }
}
