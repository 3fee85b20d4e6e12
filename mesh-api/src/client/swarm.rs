//! Calls about the cluster and the agent itself.

use hyper::Method;
use serde::Serialize;

use super::{
    ByteStream, Client, ClientError, byte_stream, read_json,
    transport::{bytes_body, empty_body},
};
use crate::{
    UNLOCK_KEY,
    engine::{
        Swarm, SwarmInitRequest, SwarmJoinRequest, SwarmSpec, SwarmUnlockRequest, SystemInfo,
        SystemVersion, UnlockKeyResponse,
    },
};

/// A request with the availability that the generated type lacks.
#[derive(Serialize)]
struct WithAvailability<'a, T> {
    #[serde(flatten)]
    request: &'a T,
    #[serde(rename = "Availability")]
    availability: &'a str,
}

/// What of a cluster is made anew.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rotate {
    /// The token of workers.
    pub worker_token: bool,
    /// The token of managers.
    pub manager_token: bool,
    /// The key that managers are unlocked with.
    pub unlock_key: bool,
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

    /// A backup of the cluster; the key to it all, so not to be shown to anyone.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn swarm_backup(&self) -> Result<ByteStream, ClientError> {
        let path = "/mesh/swarm/backup";
        let answer = self.request(Method::GET, path, &[], empty_body(), &[]);
        Ok(byte_stream(answer.await?))
    }

    /// Makes this node the only manager of the cluster of a backup. Gives the node's id. The addresses and the
    /// availability are as in [`swarm_init`](Self::swarm_init), by the names `listenAddr`, `advertiseAddr`, `dataPathAddr`
    /// and `availability`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn swarm_restore(
        &self,
        backup: Vec<u8>,
        query: &[(&'static str, String)],
        unlock_key: Option<&str>,
    ) -> Result<String, ClientError> {
        let path = "/mesh/swarm/restore";
        let key = unlock_key.map(|key| (UNLOCK_KEY, key.to_owned()));
        let headers: Vec<_> = key.into_iter().collect();
        let body = bytes_body(backup);
        let answer = self.request(Method::POST, path, query, body, &headers);
        read_json(answer.await?).await
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

    /// Changes the cluster's spec, and makes these anew.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn swarm_update(
        &self,
        version: u64,
        spec: &SwarmSpec,
        rotate: Rotate,
    ) -> Result<(), ClientError> {
        let query = [
            ("version", version.to_string()),
            ("rotateWorkerToken", rotate.worker_token.to_string()),
            ("rotateManagerToken", rotate.manager_token.to_string()),
            ("rotateManagerUnlockKey", rotate.unlock_key.to_string()),
        ];
        self.post_empty("/swarm/update", &query, spec).await
    }

    /// The key that opens managers once they have started again; empty while they are not locked.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn swarm_unlock_key(&self) -> Result<String, ClientError> {
        let answer: UnlockKeyResponse = self.get("/swarm/unlockkey", &[]).await?;
        Ok(answer.unlock_key.unwrap_or_default())
    }

    /// Opens this node's manager.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn swarm_unlock(&self, key: String) -> Result<(), ClientError> {
        let body = SwarmUnlockRequest {
            unlock_key: Some(key),
        };
        self.post_empty("/swarm/unlock", &[], &body).await
    }
}
