//! Groups of managers.

use super::{OUTSIDE, PATIENCE, config, free_address, manager};
use mesh_manager::{Config, Manager, ManagerHandle, client};
use mesh_pki::Role;
use std::{path::Path, time::Duration};
use tempfile::TempDir;
use tokio::time::Instant;

/// A manager and where it lives.
pub struct Member {
    pub handle: ManagerHandle,
    pub directory: TempDir,
    pub config: Config,
}

/// Where a manager is reached.
pub fn address(manager: &ManagerHandle) -> String {
    let own = &manager.identity().node_id;
    let all = manager.managers();
    let found = all.iter().find(|(id, _)| id == own);
    found.expect("it is one of the managers").1.clone()
}

/// A manager that joins by another one.
pub async fn join(remote: &ManagerHandle, config: Config) -> ManagerHandle {
    let remote_address = address(remote);
    let token = {
        let view = remote.view();
        view.cluster().expect("a cluster").manager_token.clone()
    };
    let joined = client::join(&remote_address, &token, "active", OUTSIDE)
        .await
        .expect("the token is good");
    assert_eq!(joined.identity.role, Role::Manager);
    joined
        .identity
        .save(&config.identity_dir, None)
        .expect("space");
    Manager::prepare(&config).expect("space");
    let manager = Manager::join(config, vec![remote_address])
        .await
        .expect("it is not refused");
    assert!(manager.group().voters.contains(&joined.identity.node_id));
    manager
}

/// The same, somewhere else.
pub async fn member(remote: &ManagerHandle) -> Member {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), free_address());
    let handle = join(remote, config.clone()).await;
    Member {
        handle,
        directory,
        config,
    }
}

/// Three managers; the first one leads.
pub async fn three(directory: &Path) -> (ManagerHandle, Member, Member) {
    let first = manager(directory).await;
    let second = member(&first).await;
    // By a follower this time.
    let third = member(&second.handle).await;
    (first, second, third)
}

/// Starts a manager that was shut down: what served its last connections may hold the log for a moment.
pub async fn restart(config: Config, remotes: Vec<String>) -> ManagerHandle {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Manager::restart(config.clone(), remotes.clone()).await {
            Ok(manager) => return manager,
            Err(error) if Instant::now() > deadline => panic!("it does not start: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
