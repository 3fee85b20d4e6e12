//! Calls about the cluster and the agent itself.

use serde::Serialize;

use super::{Client, ClientError};
use crate::engine::{
    Swarm, SwarmInitRequest, SwarmJoinRequest, SwarmSpec, SystemInfo, SystemVersion,
};

/// A request with the availability that the generated type lacks.
#[derive(Serialize)]
struct WithAvailability<'a, T> {
    #[serde(flatten)]
    request: &'a T,
    #[serde(rename = "Availability")]
    availability: &'a str,
}

impl Client {
    /// The agent and its node.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn info(&self) -> Result<SystemInfo, ClientError> {
        self.get("/info", &[]).await
    }

    /// The agent's version.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn version(&self) -> Result<SystemVersion, ClientError> {
        self.get("/version", &[]).await
    }

    /// The cluster, with its join tokens.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn swarm(&self) -> Result<Swarm, ClientError> {
        self.get("/swarm", &[]).await
    }

    /// Makes this node the first manager of a new cluster. Gives the node's id.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn swarm_init(
        &self,
        request: &SwarmInitRequest,
        availability: &str,
    ) -> Result<String, ClientError> {
        let body = WithAvailability {
            request,
            availability,
        };
        self.post("/swarm/init", &[], &body).await
    }

    /// Joins a cluster.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn swarm_join(
        &self,
        request: &SwarmJoinRequest,
        availability: &str,
    ) -> Result<(), ClientError> {
        let body = WithAvailability {
            request,
            availability,
        };
        self.post_empty("/swarm/join", &[], &body).await
    }

    /// Leaves the cluster.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn swarm_leave(&self, force: bool) -> Result<(), ClientError> {
        let query = if force {
            vec![("force", "1".to_owned())]
        } else {
            Vec::new()
        };
        self.post_empty("/swarm/leave", &query, &()).await
    }

    /// Changes the cluster's spec and rotates tokens.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn swarm_update(
        &self,
        version: u64,
        spec: &SwarmSpec,
        rotate_worker: bool,
        rotate_manager: bool,
    ) -> Result<(), ClientError> {
        let query = [
            ("version", version.to_string()),
            ("rotateWorkerToken", rotate_worker.to_string()),
            ("rotateManagerToken", rotate_manager.to_string()),
        ];
        self.post_empty("/swarm/update", &query, spec).await
    }
}
