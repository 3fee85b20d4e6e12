//! How this manager comes into the group, and stays in it under its address.

use crate::{ErrorKind, ManagerError, core::Core, leader::JOIN_WAIT, raft::Peer};
use mesh_api::proto::{GroupRequest, JoinRequest, control_client::ControlClient};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tonic::Code;

/// How long a manager that joins goes on when the others cannot be reached, or have no leader.
const PATIENCE: Duration = Duration::from_secs(15);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(500);
/// Pause before another look at what this manager has been told.
const LOOK: Duration = Duration::from_millis(20);
/// Longest pause before a manager that is not in the group asks again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A try that failed.
struct Failure {
    error: ManagerError,
    /// Another one may succeed.
    is_passing: bool,
}

fn own(core: &Core) -> Peer {
    Peer {
        node_id: core.identity.node_id.clone(),
        addr: core.config.advertise.to_string(),
    }
}

/// Asks until this manager is let in.
pub(crate) async fn join(core: &Arc<Core>, remotes: &[String]) -> Result<(), ManagerError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask_all(core, remotes).await {
            Ok(()) => break,
            Err(failure) if !failure.is_passing || Instant::now() > deadline => {
                return Err(failure.error);
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    // The leader knows before this manager does.
    let own = own(core);
    while !core.consensus.managers().contains(&own) && Instant::now() < deadline {
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Sees to it that this manager is in the group, under its present address.
pub(crate) async fn keep(core: Arc<Core>, remotes: Vec<String>) {
    let cancel = core.cancel.clone();
    let keep = async {
        let own = own(&core);
        let mut pause = PAUSE;
        while !core.consensus.managers().contains(&own) {
            let known = core.consensus.managers().into_iter().map(|m| m.addr);
            let all: Vec<String> = remotes.iter().cloned().chain(known).collect();
            if let Err(failure) = ask_all(&core, &all).await {
                tracing::warn!(error = %failure.error, "this manager is not let in");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    };
    cancel.run_until_cancelled(keep).await;
}

/// Asks the managers in turn; the last failure is the answer.
async fn ask_all(core: &Core, remotes: &[String]) -> Result<(), Failure> {
    let mut last = Failure {
        error: ManagerError::no_leader(),
        is_passing: true,
    };
    for remote in remotes {
        match ask(core, remote).await {
            Err(failure) if failure.is_passing => last = failure,
            done => return done,
        }
    }
    Err(last)
}

async fn ask(core: &Core, remote: &str) -> Result<(), Failure> {
    let passing = |error: ManagerError| Failure {
        error,
        is_passing: true,
    };
    let machine = &core.config.machine;
    let channel = machine
        .connect(remote, core.credentials.client())
        .await
        .map_err(|e| passing(ManagerError::new(ErrorKind::Unavailable, e.to_string())))?;
    let refused = |status: tonic::Status| {
        let kind = match status.code() {
            Code::FailedPrecondition => ErrorKind::FailedPrecondition,
            Code::PermissionDenied => ErrorKind::PermissionDenied,
            _ => ErrorKind::Unavailable,
        };
        Failure {
            error: ManagerError::new(kind, status.message()),
            is_passing: kind == ErrorKind::Unavailable,
        }
    };
    let mut client = ControlClient::new(channel);
    let mut request = tonic::Request::new(GroupRequest {});
    request.set_timeout(JOIN_WAIT);
    let incarnation = match client.group(request).await {
        Ok(group) => group.into_inner().incarnation,
        // A version that rebuilds no groups.
        Err(status) if status.code() == Code::Unimplemented => String::new(),
        Err(status) => return Err(refused(status)),
    };
    core.store.expect(incarnation);
    let own = own(core);
    let mut request = tonic::Request::new(JoinRequest {
        node_id: own.node_id,
        address: own.addr,
        rules: core.store.knows(),
    });
    request.set_timeout(JOIN_WAIT);
    client.join(request).await.map(drop).map_err(refused)
}
