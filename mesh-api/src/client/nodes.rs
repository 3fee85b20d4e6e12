//! Calls about nodes, networks, virtual addresses and the packet path.

use std::{net::IpAddr, time::Duration};

use futures::Stream;
use hyper::Method;

use super::{
    Client, ClientError, Query, byte_stream, empty_body, filter_query, json_lines,
    transport::encode,
};
use crate::{
    Filters,
    engine::{
        Network, NetworkCreateRequest, NetworkCreateResponse, NetworkPruneResponse, Node, NodeSpec,
    },
    mesh::{Applied, Drop, Finding, Flow, OfNodes, TraceLine, Vip},
};

/// Milliseconds between two readings.
fn interval_query(interval: Option<Duration>) -> Query {
    let interval = interval.map(|interval| ("interval", interval.as_millis().to_string()));
    interval.into_iter().collect()
}

impl Client {
    /// The cluster's nodes.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn nodes(&self, filters: &Filters) -> Result<Vec<Node>, ClientError> {
        self.get("/nodes", &filter_query(filters)).await
    }

    /// A node by id, name or unique prefix.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn node(&self, reference: &str) -> Result<Node, ClientError> {
        self.get(&format!("/nodes/{}", encode(reference)), &[])
            .await
    }

    /// Changes a node's spec. `version` is the one that was read.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn node_update(
        &self,
        id: &str,
        version: u64,
        spec: &NodeSpec,
    ) -> Result<(), ClientError> {
        let query = [("version", version.to_string())];
        self.post_empty(&format!("/nodes/{}/update", encode(id)), &query, spec)
            .await
    }

    /// Removes a node from the cluster; one that is not down only with `force`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn node_remove(&self, reference: &str, force: bool) -> Result<(), ClientError> {
        let query = [("force", force.to_string())];
        self.delete(&format!("/nodes/{}", encode(reference)), &query)
            .await
    }

    /// Which nodes have not applied the state of `index`, an object's version. The answer comes once all that are up
    /// have, after `seconds` (60 at most) in any case.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn applied(&self, index: u64, seconds: u64) -> Result<Applied, ClientError> {
        let query = [
            ("index", index.to_string()),
            ("timeout", seconds.to_string()),
        ];
        self.get("/mesh/applied", &query).await
    }

    /// Networks.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn networks(&self, filters: &Filters) -> Result<Vec<Network>, ClientError> {
        self.get("/networks", &filter_query(filters)).await
    }

    /// A network by id, name or unique prefix.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn network(&self, reference: &str) -> Result<Network, ClientError> {
        self.get(&format!("/networks/{}", encode(reference)), &[])
            .await
    }

    /// Makes a network.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn network_create(
        &self,
        request: &NetworkCreateRequest,
    ) -> Result<NetworkCreateResponse, ClientError> {
        self.post("/networks/create", &[], request).await
    }

    /// Removes a network.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn network_remove(&self, reference: &str) -> Result<(), ClientError> {
        self.delete(&format!("/networks/{}", encode(reference)), &[])
            .await
    }

    /// Removes the networks that nothing uses; gives their names.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn networks_prune(&self, filters: &Filters) -> Result<Vec<String>, ClientError> {
        let answer: NetworkPruneResponse = self
            .post("/networks/prune", &filter_query(filters), &())
            .await?;
        Ok(answer.networks_deleted.unwrap_or_default())
    }

    /// Every virtual address and what is behind it. With an interval, what goes to each, and at what rate: the nodes take
    /// so long for two readings.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn vips(&self, interval: Option<Duration>) -> Result<Vec<Vip>, ClientError> {
        self.get("/mesh/vips", &interval_query(interval)).await
    }

    /// The virtual addresses of one service, or the one that is this address, and what goes to each task; with an interval,
    /// at what rate.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn vip(
        &self,
        reference: &str,
        interval: Option<Duration>,
    ) -> Result<Vec<Vip>, ClientError> {
        let path = format!("/mesh/vips/{}", encode(reference));
        self.get(&path, &interval_query(interval)).await
    }

    /// Checks all nodes, the tunnels between them and their published ports; takes some seconds.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn doctor(&self) -> Result<Vec<Finding>, ClientError> {
        self.get("/mesh/doctor", &[]).await
    }

    /// Follows packets through all nodes. The query says which: `client`, `service`, `port`, `protocol`, and `seconds`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn trace(
        &self,
        query: &Query,
    ) -> Result<impl Stream<Item = Result<TraceLine, ClientError>> + Send + use<>, ClientError>
    {
        let response = self
            .request(Method::GET, "/mesh/trace", query, empty_body(), &[])
            .await?;
        Ok(json_lines(byte_stream(response)))
    }

    /// The open flows of the node's tasks, or of one service's (name, or id); with `all`, those that have ended too.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn flows(&self, service: Option<&str>, all: bool) -> Result<Vec<Flow>, ClientError> {
        let service = service.map(|service| ("service", service.to_owned()));
        let all = all.then(|| ("all", "true".to_owned()));
        let query: Vec<_> = service.into_iter().chain(all).collect();
        self.get("/mesh/flows", &query).await
    }

    /// The open flows of all nodes' tasks; of one node's if `node` names it, of a service and of a client's address if these
    /// are given; with `all`, those that have ended too.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn flows_of_nodes(
        &self,
        node: Option<&str>,
        service: Option<&str>,
        client: Option<IpAddr>,
        all: bool,
    ) -> Result<OfNodes<Flow>, ClientError> {
        let client = client.map(|client| client.to_string());
        let query: Vec<_> = [
            ("node", node),
            ("service", service),
            ("client", client.as_deref()),
            ("all", all.then_some("true")),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?.to_owned())))
        .collect();
        self.get("/mesh/nodes/flows", &query).await
    }

    /// What the node's packet path dropped: every reason at every place.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn drops(&self) -> Result<Vec<Drop>, ClientError> {
        self.get("/mesh/drops", &[]).await
    }

    /// What all nodes dropped, or the one that `node` names.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn drops_of_nodes(&self, node: Option<&str>) -> Result<OfNodes<Drop>, ClientError> {
        let query: Vec<_> = node
            .map(|node| ("node", node.to_owned()))
            .into_iter()
            .collect();
        self.get("/mesh/nodes/drops", &query).await
    }
}
