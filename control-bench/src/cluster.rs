//! The managers: real agents on a LAN of namespaces, drained, so that they manage only. They are asked as any client
//! asks, on their sockets.

use std::time::Duration;

use anyhow::{Context, Result};
use mesh_api::{client::Client, engine};
use mesh_tests::{Node, Rig, eventually, managers, rig::UP_LIMIT};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

/// A cluster whose managers run no tasks.
pub(crate) struct Cluster {
    pub(crate) rig: Rig,
    runtime: Runtime,
}

impl Cluster {
    /// With so many managers.
    pub(crate) fn new(name: &str, count: usize) -> Result<Self> {
        let name = format!("{name}{}", std::process::id());
        let rig = Rig::builder(&name).nodes(count).without_swarm().build()?;
        managers::form(&rig)?;
        for node in &rig.nodes {
            // The node's first report may come between what the command reads and what it writes.
            eventually("the node to be drained", UP_LIMIT, || {
                let drain = ["node", "update", "--availability", "drain", &node.name];
                rig.first().ok(&drain).map(drop)
            })?;
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        Ok(Self { rig, runtime })
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// A client of a manager.
    pub(crate) fn client(node: &Node) -> Client {
        Client::unix(node.socket())
    }

    /// Index of the leader, as `by` says.
    pub(crate) fn leader(&self, by: usize) -> Result<usize> {
        managers::leader(&self.rig, &self.rig.nodes[by])
    }

    /// Token that simulated nodes join by.
    pub(crate) fn worker_token(&self) -> Result<String> {
        let token = self
            .rig
            .first()
            .ok(&["swarm", "join-token", "-q", "worker"])?;
        Ok(token.trim().to_owned())
    }

    /// Makes a service; gives its id.
    pub(crate) fn create(&self, spec: &engine::ServiceSpec) -> Result<String> {
        let client = Self::client(self.rig.first());
        let made = self.runtime.block_on(client.service_create(spec, None))?;
        made.id.context("the answer has no id")
    }

    /// Sets the number of a service's tasks.
    pub(crate) fn scale(&self, id: &str, replicas: usize) -> Result<()> {
        let client = Self::client(self.rig.first());
        self.runtime.block_on(async {
            let service = client.service(id, false).await?;
            let version = service.version.and_then(|version| version.index);
            let mut spec = service.spec.context("a service without a spec")?;
            spec.mode = mode(replicas)?;
            client
                .service_update(id, version.context("no version")?, &spec, None)
                .await?;
            Ok(())
        })
    }

    /// Waits until so many tasks of a service run, as the managers know.
    pub(crate) fn wait_running(&self, id: &str, count: usize, limit: Duration) -> Result<()> {
        let client = Self::client(self.rig.first());
        eventually("the tasks to run", limit, || {
            let all = mesh_api::Filters::default();
            let services = self.runtime.block_on(client.services(&all, true))?;
            let own = services
                .iter()
                .find(|service| service.id.as_deref() == Some(id));
            let running = own.and_then(|service| service.service_status.as_ref()?.running_tasks);
            anyhow::ensure!(
                running == Some(count as u64),
                "{running:?} of {count} tasks run"
            );
            Ok(())
        })
    }

    /// Waits until every manager answers, as each of them says.
    pub(crate) fn wait_whole(&self) -> Result<()> {
        for node in &self.rig.nodes {
            eventually("the managers to be reachable", UP_LIMIT, || {
                let said = managers::statuses(node)?;
                let is_up = |(_, status): &&(String, String)| {
                    ["Leader", "Reachable"].contains(&status.as_str())
                };
                let up = said.iter().filter(is_up).count();
                anyhow::ensure!(up == self.rig.nodes.len(), "{said:?}");
                Ok(())
            })?;
        }
        Ok(())
    }
}

fn mode(replicas: usize) -> Result<Option<engine::ServiceSpecMode>> {
    Ok(serde_json::from_value(
        json!({"Replicated": {"Replicas": replicas}}),
    )?)
}

/// A service of so many tasks, published on `port` where one is given. No simulated node looks at its image.
pub(crate) fn service(
    name: &str,
    replicas: usize,
    port: Option<u16>,
) -> Result<engine::ServiceSpec> {
    let ports: Vec<_> = port
        .map(|port| json!({"Protocol": "tcp", "TargetPort": 80, "PublishedPort": port}))
        .into_iter()
        .collect();
    let mut spec: engine::ServiceSpec = serde_json::from_value(json!({
        "Name": name,
        "TaskTemplate": {"ContainerSpec": {"Image": "simulated"}},
        "EndpointSpec": {"Mode": "vip", "Ports": ports},
    }))?;
    spec.mode = mode(replicas)?;
    Ok(spec)
}
