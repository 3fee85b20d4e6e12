//! A running membership: manager (perhaps), session, reconciler, logs, certificate renewal.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use mesh_api::{
    generic_resource,
    proto::{self, NodeDescription},
};
use mesh_manager::ManagerHandle;
use mesh_pki::{NodeIdentity, UnlockKey};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use super::{
    disk::{self, Kept, Shared},
    hosting::Hosting,
    identity::OwnIdentity,
    renewal,
};
use crate::{
    assignment::Assignment,
    config::Config,
    container::Names,
    logs,
    node::{ClusterInfo, Node, NodeError, NodeState, Role, Trouble},
    queries,
    reconcile::{self, Parts, jobs},
    session::{self, Connection, Session, Statuses},
};

/// Longest wait for the other managers to take this one out of their group.
const STEP_DOWN: Duration = Duration::from_secs(6);

/// Longest wait for a manager that was unlocked to run.
const UNLOCK_LIMIT: Duration = Duration::from_secs(20);
/// Longest wait for it to know its cluster.
const READY_LIMIT: Duration = Duration::from_secs(5);

/// A running membership.
pub struct Membership {
    kept: Shared,
    session: Session,
    reconciler: reconcile::Handle,
    identity: Arc<OwnIdentity>,
    hosting: Hosting,
    helpers: Vec<JoinHandle<()>>,
}

impl Membership {
    /// Starts everything. Without its private key, the node lets go on what runs there until it is [unlocked](Self::unlock).
    pub(super) fn start(
        node: &Node,
        kept: Kept,
        identity: NodeIdentity,
        manager: Option<ManagerHandle>,
    ) -> Result<Self> {
        let config = node.config();
        let info = ClusterInfo {
            node_id: identity.node_id.clone(),
            cluster_id: identity.cluster_id.clone(),
            role: role(manager.is_some()),
            advertise: kept.advertise.ip(),
            data_path: kept.data_path,
            managers: kept.managers.clone(),
        };
        node.note(|trouble| *trouble = Trouble::default());
        node.inner.state.send_replace(match identity.has_key() {
            true => NodeState::Pending(Some(info.clone())),
            false => NodeState::Locked,
        });
        let shared = Shared::new(config.clone(), kept.clone());
        let (hosted, hosted_in) = watch::channel(manager.is_some());
        let lock = manager
            .as_ref()
            .and_then(|m| m.node_lock().borrow().clone());
        node.host(manager);
        let identity = Arc::new(OwnIdentity::new(disk::identity_dir(config), identity, lock));
        let encryption = node.encryption();
        let told = encryption.as_ref().map(|status| {
            let known = known_cipher(config, &info.node_id, status);
            reconcile::cipher::told_first(status, known.as_ref())
        });
        let (cipher, cipher_in) = watch::channel(told);
        let (mtu, mtu_in) = watch::channel(0);
        let mut session = Session::start(session::Config {
            identity: identity.subscribe(),
            description: describe(node, &kept),
            cipher: cipher_in,
            mtu: mtu_in,
            managers: kept.managers.clone(),
            assignment_file: disk::assignment_file(config),
        });
        let parts = Parts {
            encryption,
            cipher,
            mtu,
            ..parts(node, &kept, &info.node_id, &session)
        };
        let reconciler = reconcile::start(parts).context("start reconciling")?;
        let (_, no_logs) = tokio::sync::mpsc::channel(1);
        let subscriptions = std::mem::replace(&mut session.logs, no_logs);
        let (_, no_queries) = tokio::sync::mpsc::channel(1);
        let queries = std::mem::replace(&mut session.queries, no_queries);
        let helpers = vec![
            logs::serve(
                node.runtime().clone(),
                info.node_id.clone(),
                subscriptions,
                session.channel.clone(),
            ),
            queries::serve(node.clone(), queries, session.reports.clone()),
            tokio::spawn(follow(
                node.clone(),
                shared.clone(),
                info,
                &session,
                Own {
                    identity: identity.subscribe(),
                    hosted: hosted_in,
                },
            )),
            tokio::spawn(renewal::run(
                node.clone(),
                identity.clone(),
                session.managers.clone(),
                session.role.clone(),
                session.objection.clone(),
            )),
        ];
        let hosting = Hosting::start(node.clone(), shared.clone(), identity.clone(), hosted);
        *node
            .inner
            .assignment
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(session.assignment.clone());
        Ok(Self {
            kept: shared,
            session,
            reconciler,
            identity,
            hosting,
            helpers,
        })
    }

    /// Goes on with the private key of this node, and waits for its manager.
    pub(super) async fn unlock(
        &self,
        node: &Node,
        identity: NodeIdentity,
        lock: Option<UnlockKey>,
    ) -> Result<(), NodeError> {
        self.identity.open(identity, lock);
        let mut state = node.inner.state.subscribe();
        let is_settled = |state: &NodeState| match state {
            NodeState::Error(_) => true,
            state => (state.cluster()).is_some_and(|info| info.role == Role::Manager),
        };
        let settled = timeout(UNLOCK_LIMIT, state.wait_for(is_settled)).await;
        let settled = settled.map(|state| state.map(|state| state.clone()));
        let failed = |why: &str| {
            let text = format!("swarm component could not be started: {why}");
            Err(NodeError::Remote(text))
        };
        match settled {
            Ok(Ok(NodeState::Error(why))) => return failed(&why),
            Ok(Ok(_)) => {}
            _ => {
                let why = node.trouble().role;
                return failed(why.as_deref().unwrap_or("the manager does not run yet"));
            }
        }
        // Alone it has its state in a moment; with others, they may have to be unlocked first.
        if let Some(manager) = node.manager()
            && timeout(READY_LIMIT, manager.ready()).await.is_err()
        {
            tracing::info!("the manager is unlocked, and looks for a leader");
        }
        Ok(())
    }

    /// Waits for the first session; false if it does not come in time.
    pub(super) async fn wait_until_up(&self, patience: Duration) -> bool {
        let mut connection = self.session.connection.clone();
        let up = connection.wait_for(|connection| matches!(connection, Connection::Up(_)));
        matches!(timeout(patience, up).await, Ok(Ok(_)))
    }

    /// Goes on with this node's manager as the only one of the cluster.
    pub(super) async fn rebuild_manager(&self, node: &Node) -> Result<(), NodeError> {
        self.hosting.rebuild(node).await
    }

    /// Notes on disk that the node leaves.
    pub(super) fn note_leaving(&self) -> Result<()> {
        self.kept.change(|kept| kept.leaving = true)
    }

    /// Ends everything and takes away all that was made on the node.
    pub(super) async fn end(self, node: &Node) -> Result<()> {
        let Self {
            kept,
            session,
            reconciler,
            hosting,
            helpers,
            identity: _,
        } = self;
        // One that is coming in has no vote yet.
        let is_last = node
            .manager()
            .is_some_and(|m| m.group().voters.iter().eq([&m.identity().node_id]));
        if let Some(manager) = node.manager()
            && !is_last
        {
            step_down(&manager, &session).await;
        }
        for helper in helpers {
            helper.abort();
        }
        hosting.end().await;
        if is_last {
            // Nobody is left to take note.
            drop(session);
        } else {
            session.leave().await;
        }
        forget_assignment(node);
        if let Some(manager) = node.host(None) {
            manager.shutdown().await;
        }
        if reconciler.clear().await.is_err() {
            // Perhaps it had failed before; a new one tries again.
            clear(node, &kept.get()).await?;
        }
        Ok(())
    }
}

/// Takes away what a membership left on the node, without a session.
pub(super) async fn clear(node: &Node, kept: &Kept) -> Result<()> {
    let (_keep, assignment) = watch::channel(Arc::new(Assignment::default()));
    let statuses = Arc::new(Statuses::default());
    let parts = Parts {
        assignment,
        statuses,
        applied: watch::channel(0).0,
        ..base(node, kept, "")
    };
    reconcile::start(parts)?.clear().await
}

fn forget_assignment(node: &Node) {
    *node
        .inner
        .assignment
        .write()
        .unwrap_or_else(PoisonError::into_inner) = None;
}

/// Has the others take this manager out of their group, if they can, so that they do not count on it any more.
async fn step_down(manager: &ManagerHandle, session: &Session) {
    if let Err(error) = manager.resign().await {
        tracing::warn!(%error, "this manager leaves without the others' consent");
        return;
    }
    let mut role = session.role.clone();
    let told = role.wait_for(|role| *role == Some(mesh_pki::Role::Worker));
    if timeout(STEP_DOWN, told).await.is_err() {
        tracing::warn!("this manager leaves before the others can do without it");
    }
}

fn parts(node: &Node, kept: &Kept, node_id: &str, session: &Session) -> Parts {
    Parts {
        assignment: session.assignment.clone(),
        statuses: Arc::clone(&session.statuses),
        applied: session.applied.clone(),
        ..base(node, kept, node_id)
    }
}

fn base(node: &Node, kept: &Kept, node_id: &str) -> Parts {
    let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let names = Names {
        id: node_id.to_owned(),
        hostname: node.hostname().to_owned(),
        architecture: std::env::consts::ARCH.to_owned(),
    };
    let tools = jobs::Tools::new(
        node.runtime().clone(),
        node.images().clone(),
        names,
        node.volumes().clone(),
        jobs::search_domains(&resolv_conf),
    );
    Parts {
        config: node.config().clone(),
        instance: node.instance().to_owned(),
        vtep: kept.data_path,
        vxlan_port: kept.data_path_port,
        tools,
        assignment: watch::channel(Arc::default()).1,
        statuses: Arc::default(),
        applied: watch::channel(0).0,
        encryption: None,
        cipher: watch::channel(None).0,
        mtu: watch::channel(0).0,
        tasks: node.inner.tasks.clone(),
        health: node.inner.health.clone(),
        datapath: Arc::clone(&node.inner.datapath),
    }
}

/// What the node is by itself, whatever managers say.
struct Own {
    identity: watch::Receiver<Arc<NodeIdentity>>,
    hosted: watch::Receiver<bool>,
}

/// Keeps the node's state and the list of managers on disk up to date with the session and with what the node hosts.
fn follow(
    node: Node,
    kept: Shared,
    mut info: ClusterInfo,
    session: &Session,
    mut own: Own,
) -> impl Future<Output = ()> + Send + 'static {
    let mut connection = session.connection.clone();
    let mut managers = session.managers.clone();
    async move {
        loop {
            let now = connection.borrow_and_update().clone();
            let known = managers.borrow_and_update().clone();
            info.role = role(*own.hosted.borrow_and_update());
            let identity = own.identity.borrow_and_update().clone();
            let is_locked = !identity.has_key();
            let is_coming = identity.role == mesh_pki::Role::Manager && info.role == Role::Worker;
            if known != info.managers && !known.is_empty() {
                info.managers.clone_from(&known);
                if let Err(error) = kept.change(|kept| kept.learn(&known)) {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "the managers' addresses are not saved"
                    );
                }
            }
            node.note(|trouble| {
                trouble.session = match &now {
                    Connection::Lost(why) if !why.is_empty() => Some(why.clone()),
                    _ => None,
                };
            });
            // Once active, a node stays so while it looks for its managers.
            node.inner.state.send_if_modified(|state| {
                let next = match &now {
                    _ if is_locked => NodeState::Locked,
                    Connection::Refused(why) => NodeState::Error(why.clone()),
                    Connection::Up(_) => NodeState::Active(info.clone()),
                    Connection::Lost(_) => match state {
                        NodeState::Pending(_) | NodeState::Locked => {
                            NodeState::Pending((!is_coming).then(|| info.clone()))
                        }
                        NodeState::Active(_) => NodeState::Active(info.clone()),
                        NodeState::Inactive | NodeState::Error(_) => state.clone(),
                    },
                };
                let changed = *state != next;
                *state = next;
                changed
            });
            tokio::select! {
                changed = connection.changed() => if changed.is_err() { return },
                changed = managers.changed() => if changed.is_err() { return },
                changed = own.hosted.changed() => if changed.is_err() { return },
                changed = own.identity.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// What others knew last of this node's WireGuard, if an agent before this one may have begun to change it.
fn known_cipher(
    config: &Config,
    node_id: &str,
    status: &mesh_wireguard::Status,
) -> Option<proto::Cipher> {
    status.former?;
    // The session says if it cannot be read.
    let kept = Assignment::load(&disk::assignment_file(config)).ok()??;
    kept.peers.get(node_id)?.cipher.clone()
}

fn role(is_manager: bool) -> Role {
    if is_manager {
        Role::Manager
    } else {
        Role::Worker
    }
}

fn describe(node: &Node, kept: &Kept) -> NodeDescription {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let labels = node
        .config()
        .labels
        .iter()
        .map(|label| match label.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None => (label.clone(), String::new()),
        });
    NodeDescription {
        hostname: node.hostname().to_owned(),
        address: kept.advertise.ip().to_string(),
        data_path_address: kept.data_path.to_string(),
        architecture: std::env::consts::ARCH.to_owned(),
        os: "linux".to_owned(),
        engine_version: env!("CARGO_PKG_VERSION").to_owned(),
        nano_cpus: i64::try_from(cpus).unwrap_or(1) * 1_000_000_000,
        memory_bytes: crate::node::memory(),
        engine_labels: labels.collect::<HashMap<_, _>>(),
        // Read when the agent was started.
        generic_resources: node
            .config()
            .generic_resources()
            .map(|has| generic_resource::to_proto(&has))
            .unwrap_or_default(),
        cipher: None,
        mtu: 0,
        encrypts: true,
        hands_out: true,
        fills_in: true,
        trusted_root: String::new(),
    }
}
