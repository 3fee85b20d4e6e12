//! The manager's certificate in use, and the root that it trusts. The node renews them on disk and says so; here they are
//! taken up without a restart.

use crate::{ManagerError, raft::Sealer};
use mesh_pki::{NodeIdentity, UnlockKey, tls};
use rustls::{ClientConfig, ServerConfig};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How often the identity on disk is looked at unasked; certificates are renewed weeks before they end.
const CHECK: Duration = Duration::from_secs(600);

#[derive(Debug, Clone)]
struct Configs {
    certificate_pem: String,
    root_pem: String,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Configs {
    fn new(identity: &NodeIdentity) -> Result<Self, ManagerError> {
        let failed = |e| ManagerError::internal("cannot set up TLS", e);
        Ok(Self {
            certificate_pem: identity.certificate_pem.clone(),
            root_pem: identity.root_pem.clone(),
            server: tls::server_config(identity).map_err(failed)?,
            client: tls::client_config(identity).map_err(failed)?,
        })
    }
}

/// TLS configurations of the latest certificate.
#[derive(Debug)]
pub(crate) struct Credentials(RwLock<Configs>);

impl Credentials {
    pub(crate) fn new(identity: &NodeIdentity) -> Result<Self, ManagerError> {
        Ok(Self(RwLock::new(Configs::new(identity)?)))
    }

    /// For connections from nodes and managers.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.0
            .read()
            .unwrap_or_else(|e| e.into_inner())
            .server
            .clone()
    }

    /// For connections to managers.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        self.0
            .read()
            .unwrap_or_else(|e| e.into_inner())
            .client
            .clone()
    }

    /// Takes up another certificate, or another root to trust; whether it was another.
    pub(crate) fn reload(
        &self,
        directory: &Path,
        lock: Option<&UnlockKey>,
    ) -> Result<bool, ManagerError> {
        // Before it is read: who reads it later must not come first.
        let mut configs = self.0.write().unwrap_or_else(|e| e.into_inner());
        let identity = NodeIdentity::load(directory, lock)
            .map_err(|e| ManagerError::internal("cannot read the node's identity", e))?;
        let Some(identity) = identity else {
            return Ok(false);
        };
        if configs.certificate_pem == identity.certificate_pem
            && configs.root_pem == identity.root_pem
        {
            return Ok(false);
        }
        *configs = Configs::new(&identity)?;
        Ok(true)
    }

    /// Follows the identity on disk until cancelled.
    pub(crate) async fn follow(
        self: Arc<Self>,
        directory: PathBuf,
        keys: Arc<Sealer>,
        cancel: CancellationToken,
    ) {
        let mut check = tokio::time::interval(CHECK);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = check.tick() => {}
            }
            match self.reload(&directory, keys.node_key().as_ref()) {
                Ok(true) => tracing::info!("the renewed certificate is in use"),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the node's identity was not read"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_pki::RootCa;

    #[test]
    fn a_renewed_certificate_is_taken_up() {
        let directory = tempfile::tempdir().unwrap();
        let root = RootCa::create().unwrap();
        let first = NodeIdentity::first_manager(&root).unwrap();
        let credentials = Credentials::new(&first).unwrap();
        assert!(
            !credentials.reload(directory.path(), None).unwrap(),
            "nothing there"
        );
        first.save(directory.path(), None).unwrap();
        assert!(
            !credentials.reload(directory.path(), None).unwrap(),
            "the same"
        );
        let before = credentials.server();
        NodeIdentity::first_manager(&root)
            .unwrap()
            .save(directory.path(), None)
            .unwrap();
        assert!(credentials.reload(directory.path(), None).unwrap());
        assert!(!Arc::ptr_eq(&before, &credentials.server()));

        let mut trusting = NodeIdentity::load(directory.path(), None).unwrap().unwrap();
        trusting.root_pem = RootCa::create().unwrap().certificate_pem().to_owned();
        trusting.save(directory.path(), None).unwrap();
        assert!(
            credentials.reload(directory.path(), None).unwrap(),
            "another root"
        );
    }
}
