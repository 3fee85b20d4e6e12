//! The manager as its own node sees it.

use crate::{
    AddNode, Answers, Bootstrap, Command, Config, ErrorKind, Following, InitOptions, Lead, Loads,
    LogSelector, LogStream, ManagerError, Managers, Operation, Response,
    apply::{self, Survivor},
    backup,
    config::RestoreOptions,
    core::Core,
    credentials::Credentials,
    dispatcher::Sessions,
    leader::LeaderChannel,
    loads, locking,
    logs::{self, LogBroker},
    machine::Port,
    member,
    orchestrator::{Driver, Liveness},
    proposer::Proposer,
    queries::{self, Queries},
    raft::{self, OpenRaft, Origin, Peer, Store},
    role_manager, root_rotation, rules, server,
    state::{Event, Holds, State, certificate_validity},
};
use mesh_api::{engine, proto::query::Question};
use mesh_pki::{JoinToken, NodeIdentity, Role, RootCa, UnlockKey, new_id};
use std::{
    fs, mem,
    ops::Deref,
    os::unix::fs::DirBuilderExt,
    sync::{Arc, Mutex, RwLockReadGuard},
    time::{Duration, Instant},
};
use tokio::sync::{broadcast, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Longest wait for open connections to end when the manager stops.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(3);

/// Bytes of the largest command, as JSON: it goes to other managers in one message, which they have to have on disk before
/// they are given up. As large as in Swarm.
const MAX_COMMAND: usize = 3 << 19;
/// Longest wait for the others to let this manager go.
const RESIGN_LIMIT: Duration = Duration::from_secs(6);
/// Pause before it asks again because its node was changed meanwhile.
const RESIGN_RETRY: Duration = Duration::from_millis(100);

/// Starts managers.
#[derive(Debug)]
pub struct Manager;

impl Manager {
    /// Makes a new cluster with this node as its first manager: root CA, the node's identity (saved
    /// into [`Config::identity_dir`]), the Raft log, the ingress network. Serves when it returns.
    ///
    /// # Errors
    /// The address is taken, or the disk refuses. No identity is kept then.
    pub async fn init(
        mut config: Config,
        options: InitOptions,
    ) -> Result<ManagerHandle, ManagerError> {
        let failed = |e: mesh_pki::PkiError| ManagerError::internal("cannot make the cluster", e);
        let port = server::bind(&config).await?;
        let root = RootCa::create().map_err(failed)?;
        let (root_pem, validity) = (root.certificate_pem(), certificate_validity(&options.spec));
        let identity =
            NodeIdentity::manager(&root, root_pem, &new_id(), validity).map_err(failed)?;
        let peer = Peer {
            node_id: identity.node_id.clone(),
            addr: config.advertise.to_string(),
        };
        let bootstrap = Bootstrap {
            cluster_id: identity.cluster_id.clone(),
            root_certificate_pem: root.certificate_pem().to_owned(),
            root_key_pem: root.key_pem().unwrap_or_default().to_owned(),
            worker_token: JoinToken::generate(&root.digest()).to_string(),
            manager_token: JoinToken::generate(&root.digest()).to_string(),
            unlock_key: Some(UnlockKey::generate().as_bytes().to_vec().into()),
            spec: options.spec,
            default_addr_pool: options
                .default_addr_pool
                .iter()
                .map(ToString::to_string)
                .collect(),
            subnet_size: options.subnet_size,
            data_path_port: options.data_path_port,
            node: AddNode {
                id: identity.node_id.clone(),
                role: Role::Manager,
                availability: options.availability,
                hostname: options.hostname,
                manager_addr: Some(peer.addr.clone()),
                data_path_address: String::new(),
                key: String::new(),
            },
        };
        let api = mem::take(&mut config.engine_api);
        let handle = ManagerHandle::start(config, identity, Origin::Founds(&peer)).await?;
        let begin = async {
            let bootstrap = Operation::Bootstrap(Box::new(bootstrap));
            handle.core.change(bootstrap).await?;
            handle.core.follow_lock().await?;
            // Last, so that a start that failed leaves no identity behind.
            handle.core.save_identity().map_err(failed)?;
            handle.run(port, api);
            Ok(())
        };
        if let Err(error) = begin.await {
            handle.shutdown().await;
            return Err(error);
        }
        Ok(handle)
    }

    /// Starts the manager again from what is on disk. It returns when it serves, which may be
    /// before there is a leader. `remotes` are other managers, "address:port".
    ///
    /// # Errors
    /// There is no identity, the log cannot be opened, or the address is taken.
    pub async fn restart(
        config: Config,
        remotes: Vec<String>,
    ) -> Result<ManagerHandle, ManagerError> {
        let handle = Self::open(config).await?;
        // It may have ended before it was let in, or be reached elsewhere now.
        let core = handle.core.clone();
        handle.core.tasks.spawn(member::keep(core, remotes));
        Ok(handle)
    }

    /// Makes this manager, which does not run, the only one of its cluster: for when a majority of the managers is lost. The
    /// state that its log holds is kept, the other managers are workers from now on, and what they send is not heard any more.
    /// All of it is on disk when this returns; [`Manager::restart`] goes on from there.
    ///
    /// # Errors
    /// There is no identity or no state here, this node's certificate is not a manager's, or the log cannot be opened or
    /// written: nothing is changed then.
    pub async fn rebuild(config: &Config) -> Result<(), ManagerError> {
        let identity = identity(config)?;
        if identity.role != Role::Manager {
            return Err(ManagerError::precondition("this node is a worker"));
        }
        let own = Peer {
            node_id: identity.node_id.clone(),
            addr: config.advertise.to_string(),
        };
        raft::rebuild(config, &own, |state| {
            if state.cluster().is_some() && state.node(&own.node_id).is_none() {
                return Err(ManagerError::precondition(
                    "the state here is from before this node was part of the swarm",
                ));
            }
            let node = AddNode {
                id: own.node_id.clone(),
                role: Role::Manager,
                availability: engine::NodeSpecAvailabilityEnum::ACTIVE,
                hostname: String::new(),
                manager_addr: Some(own.addr.clone()),
                data_path_address: String::new(),
                key: String::new(),
            };
            apply::rebuild(state, &Survivor::new(node, config.machine.now()))
        })
        .await
    }

    /// Goes on with the cluster of a backup, with this node as its only manager: it is a new node of that cluster, whose nodes
    /// trust it by the root CA that is in the backup. `clear` makes room on the disk, once the backup was read and the address is
    /// had. Serves when it returns.
    ///
    /// # Errors
    /// The backup cannot be read, the address is taken, or the disk refuses. No identity is kept then.
    pub async fn restore(
        mut config: Config,
        file: &[u8],
        options: RestoreOptions,
        clear: impl FnOnce() -> Result<(), ManagerError> + Send,
    ) -> Result<ManagerHandle, ManagerError> {
        let failed =
            |e: mesh_pki::PkiError| ManagerError::internal("cannot restore the cluster", e);
        let restored = backup::read(file, options.unlock_key.as_ref())
            .map_err(|e| ManagerError::new(e.kind(), e.to_string()))?
            .state;
        let Some(cluster) = restored.cluster() else {
            return Err(ManagerError::precondition(
                "there is no cluster in this backup",
            ));
        };
        let signer = cluster.signer().map_err(failed)?;
        let root_pem = &cluster.root_certificate_pem;
        let identity = NodeIdentity::manager(
            &signer,
            root_pem,
            &cluster.id,
            cluster.certificate_validity(),
        )
        .map_err(failed)?;
        let own = Peer {
            node_id: identity.node_id.clone(),
            addr: config.advertise.to_string(),
        };
        let node = AddNode {
            id: own.node_id.clone(),
            role: Role::Manager,
            availability: options.availability,
            hostname: options.hostname,
            manager_addr: Some(own.addr.clone()),
            data_path_address: options.data_path_address,
            key: String::new(),
        };
        let survivor = Survivor::new(node, config.machine.now());
        let port = server::bind(&config).await?;
        clear()?;
        Self::prepare(&config)?;
        raft::rebuild(&config, &own, move |state| {
            *state = restored;
            apply::rebuild(state, &survivor)
        })
        .await?;
        let api = mem::take(&mut config.engine_api);
        let handle = ManagerHandle::start(config, identity, Origin::GoesOn).await?;
        let begin = async {
            handle.core.follow_lock().await?;
            // Last, so that a start that failed leaves no identity behind.
            handle.core.save_identity().map_err(failed)
        };
        if let Err(error) = begin.await {
            handle.shutdown().await;
            return Err(error);
        }
        handle.run(port, api);
        Ok(handle)
    }

    /// Starts a manager with the identity and the log on disk.
    async fn open(mut config: Config) -> Result<ManagerHandle, ManagerError> {
        let identity = identity(&config)?;
        let port = server::bind(&config).await?;
        let api = mem::take(&mut config.engine_api);
        let handle = ManagerHandle::start(config, identity, Origin::GoesOn).await?;
        handle.run(port, api);
        Ok(handle)
    }

    /// Makes the empty log of a manager that is to come into a group, in the place of whatever is there. Once the node keeps in
    /// mind that it is a manager, [`Manager::join`] or [`Manager::restart`] ask the others to let it in: from then on the log
    /// must not be lost.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn prepare(config: &Config) -> Result<(), ManagerError> {
        let failed = |e: std::io::Error| ManagerError::internal("cannot make the manager's log", e);
        match fs::remove_dir_all(&config.data_dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            _ => {}
        }
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&config.data_dir).map_err(failed)?;
        OpenRaft::prepare(config)
    }

    /// As [`Manager::restart`], but also waits for a while until this manager has the state and a vote; whether it has is in
    /// [`ManagerHandle::group`]. If not, it goes on asking.
    ///
    /// # Errors
    /// It cannot start, or the others refuse for good: it has no vote, and its log may be removed.
    pub async fn join(config: Config, remotes: Vec<String>) -> Result<ManagerHandle, ManagerError> {
        let handle = Self::open(config).await?;
        let core = handle.core.clone();
        match member::join(&core, &remotes).await {
            Ok(()) => Ok(handle),
            Err(refusal) if refusal.kind != ErrorKind::Unavailable => {
                handle.shutdown().await;
                Err(refusal)
            }
            Err(error) => {
                tracing::warn!(%error, "this manager is not let in yet");
                core.tasks.spawn(member::keep(core.clone(), remotes));
                Ok(handle)
            }
        }
    }
}

/// The node's identity on disk, which has to be there and open.
fn identity(config: &Config) -> Result<NodeIdentity, ManagerError> {
    let identity = Manager::identity(config)?.ok_or_else(|| {
        ManagerError::new(
            ErrorKind::NotFound,
            format!("no node identity in {}", config.identity_dir.display()),
        )
    })?;
    if !identity.has_key() {
        return Err(ManagerError::precondition("the manager's keys are locked"));
    }
    Ok(identity)
}

/// A running manager. Cheap to clone; the manager runs until [`ManagerHandle::shutdown`].
#[derive(Clone)]
pub struct ManagerHandle {
    pub(crate) core: Arc<Core>,
}

impl std::fmt::Debug for ManagerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ManagerHandle")
            .field("identity", &self.core.identity)
            .finish()
    }
}

/// The applied state, locked for reading. Hold it shortly and never across an `await`.
#[derive(Debug)]
pub struct View<'a>(RwLockReadGuard<'a, State>);

impl Deref for View<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

impl ManagerHandle {
    /// Opens the log and takes part in consensus; serves nobody yet.
    async fn start(
        config: Config,
        identity: NodeIdentity,
        origin: Origin<'_>,
    ) -> Result<Self, ManagerError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&config.data_dir)
            .map_err(|e| {
                let path = config.data_dir.display();
                ManagerError::internal(&format!("cannot make the directory {path}"), e)
            })?;
        let credentials = Arc::new(Credentials::new(&identity)?);
        let store = Arc::new(Store::new(config.machine.rules()));
        let raft = OpenRaft::start(
            &config,
            &identity.node_id,
            origin,
            store.clone(),
            credentials.clone(),
        )
        .await?;
        let keys = raft.sealer();
        let raft = Arc::new(raft);
        let machine = config.machine.clone();
        let core = Core {
            config,
            identity,
            credentials,
            node_lock: watch::Sender::new(keys.node_lock()),
            keys,
            locking: Default::default(),
            rekeyed: Default::default(),
            proposer: Proposer::start(raft.clone(), store.clone(), machine),
            store,
            consensus: raft,
            sessions: Sessions::default(),
            catalog: Arc::default(),
            logs: LogBroker::default(),
            queries: Queries::default(),
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
            liveness: Mutex::new(Liveness::new(Instant::now())),
            leading: watch::Sender::new(false),
            leader_channel: LeaderChannel::default(),
        };
        Ok(Self {
            core: Arc::new(core),
        })
    }

    /// Starts the services and the reconcilers. The services alone hold the `api`, which may hold this very handle.
    fn run(&self, port: Port, api: axum::Router) {
        server::serve(&self.core, port, api);
        self.core.tasks.spawn(Driver::run(self.core.clone()));
        self.core.tasks.spawn(role_manager::run(self.core.clone()));
        self.core.tasks.spawn(root_rotation::run(self.core.clone()));
        self.core.tasks.spawn(rules::run(self.core.clone()));
        self.core.tasks.spawn(locking::run(self.core.clone()));
        self.core.tasks.spawn(locking::compact(self.core.clone()));
        let follow = self.core.credentials.clone().follow(
            self.core.config.identity_dir.clone(),
            self.core.keys.clone(),
            self.core.cancel.clone(),
        );
        self.core.tasks.spawn(follow);
    }

    /// What the node's private key is to be encrypted with on disk; `None` while managers are not locked.
    pub fn node_lock(&self) -> watch::Receiver<Option<UnlockKey>> {
        self.core.node_lock.subscribe()
    }

    /// Takes up this node's identity as it is on disk by now: a renewed certificate, another root to trust.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn reload_identity(&self) -> Result<(), ManagerError> {
        let lock = self.core.keys.node_key();
        let directory = &self.core.config.identity_dir;
        self.core.credentials.reload(directory, lock.as_ref())?;
        Ok(())
    }

    /// This node's identity, as it was when the manager started.
    pub fn identity(&self) -> &NodeIdentity {
        &self.core.identity
    }

    /// Changes the state. Returns once the change is committed and applied; a follower forwards to
    /// the leader.
    ///
    /// # Errors
    /// The state machine's refusal; unavailable when there is no leader in time, which does not say that nothing was changed.
    pub async fn call(&self, command: Command) -> Result<Response, ManagerError> {
        if crate::proposer::size(&command) > MAX_COMMAND {
            return Err(ManagerError::too_large());
        }
        let demoted = self.core.demotes(&command);
        let may_lock = matches!(command, Command::UpdateSwarm { .. });
        if let Some(node_id) = &demoted {
            self.core.check_demotion(node_id)?;
        }
        let done = self.core.change(Operation::Command(command)).await?;
        if let Some(node_id) = demoted {
            self.core.wait_for_demotion(&node_id).await;
        }
        // So that the new key is what opens this manager from now on.
        if may_lock && let Err(error) = self.core.follow_lock().await {
            tracing::warn!(%error, "it is tried again");
        }
        Ok(done)
    }

    /// Asks to leave the group of managers, as `node demote` has it, so that the others need not count on this one any more.
    /// Tries for some seconds. The node is told in its session once it is out.
    ///
    /// # Errors
    /// It is the last manager, too few others answer, or there is no leader.
    pub async fn resign(&self) -> Result<(), ManagerError> {
        let resigning = async {
            let id = self.core.identity.node_id.clone();
            loop {
                let (version, spec) = {
                    let view = self.view();
                    let node = view.find_node(&id)?;
                    (node.meta.version, node.spec.clone())
                };
                let demote = Command::UpdateNode {
                    id: id.clone(),
                    version,
                    spec: engine::NodeSpec {
                        role: Some(engine::NodeSpecRoleEnum::WORKER),
                        ..spec
                    },
                };
                self.core.check_demotion(&id)?;
                match self.core.change(Operation::Command(demote)).await {
                    Err(error) if error == ManagerError::out_of_sequence() => {
                        tokio::time::sleep(RESIGN_RETRY).await;
                    }
                    done => return done.map(drop),
                }
            }
        };
        let resigned = tokio::time::timeout(RESIGN_LIMIT, resigning).await;
        resigned.unwrap_or_else(|_| Err(ManagerError::no_leader()))
    }

    /// Which nodes get no new tasks now, by this manager's clock.
    pub fn holds(&self) -> Holds {
        let now = self.core.config.machine.now();
        self.core.store.read().holds(now)
    }

    /// The state as this manager has applied it.
    pub fn view(&self) -> View<'_> {
        View(self.core.store.read())
    }

    /// Changes as they are applied. A receiver that lags should read the state anew.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.core.store.subscribe()
    }

    /// The last changes since a time (nanoseconds since the epoch) but those of tasks, and all that follow.
    pub fn subscribe_since(&self, since: i64) -> (Vec<Event>, broadcast::Receiver<Event>) {
        self.core.store.subscribe_since(since)
    }

    /// The applied Raft index, for those who wait until the state has changed.
    pub fn index(&self) -> watch::Receiver<u64> {
        self.core.store.index()
    }

    /// Who answers for the cluster, this manager or another one. Waits for a leader until `deadline`.
    ///
    /// # Errors
    /// There is none, or this manager cannot write.
    pub async fn lead(&self, deadline: tokio::time::Instant) -> Result<Lead, ManagerError> {
        self.core.lead(deadline).await
    }

    /// Waits until `lead` leads no more.
    pub async fn until_lost(&self, lead: &Lead) {
        let mut leadership = self.core.consensus.leadership();
        let lost = leadership.wait_for(|now| match lead {
            Lead::Here => !now.is_self,
            Lead::There(remote) => now.leader.as_ref() != Some(remote.peer()),
        });
        // Without a sender there is no manager any more either.
        drop(lost.await);
    }

    /// The managers as this one sees them; whether they can be reached is known to the leader alone.
    pub fn group(&self) -> Managers {
        let consensus = &self.core.consensus;
        Managers {
            leader: self.core.leadership().leader.map(|l| l.node_id),
            voters: consensus
                .managers()
                .into_iter()
                .map(|m| m.node_id)
                .collect(),
            reachable: consensus.reachable(),
        }
    }

    /// The same, with what the leader knows.
    ///
    /// # Errors
    /// No leader answers.
    pub async fn group_by_leader(&self) -> Result<Managers, ManagerError> {
        let reachable = self.core.catch_up().await?;
        Ok(Managers {
            reachable,
            ..self.group()
        })
    }

    /// Whether this manager is the leader.
    pub fn is_leader(&self) -> bool {
        self.core.leadership().is_self
    }

    /// Cancelled once another group of managers has taken the place of the one that this manager is of: its log is worth
    /// nothing any more.
    pub fn dismissal(&self) -> CancellationToken {
        self.core.consensus.dismissal()
    }

    /// Waits until there is a leader and, on the leader, until its state is up to date.
    ///
    /// # Errors
    /// The manager is stopping, or stops leading meanwhile.
    pub async fn ready(&self) -> Result<(), ManagerError> {
        let mut leadership = self.core.consensus.leadership();
        let is_self = leadership
            .wait_for(|l| l.leader.is_some())
            .await
            .map_err(|_| ManagerError::no_leader())?
            .is_self;
        if is_self {
            self.core.consensus.catch_up().await
        } else {
            Ok(())
        }
    }

    /// Every manager: (node id, "address:port").
    pub fn managers(&self) -> Vec<(String, String)> {
        self.core
            .consensus
            .managers()
            .into_iter()
            .map(|m| (m.node_id, m.addr))
            .collect()
    }

    /// Waits until [`ManagerHandle::view`] holds all that was acknowledged before, by any manager; until `deadline`.
    ///
    /// # Errors
    /// There is no leader, or it does not answer.
    pub async fn catch_up(&self, deadline: tokio::time::Instant) -> Result<(), ManagerError> {
        let caught_up = tokio::time::timeout_at(deadline, self.core.catch_up()).await;
        caught_up.map_err(|_| ManagerError::no_leader())?.map(drop)
    }

    /// Logs of tasks, from whichever manager leads; waits for a leader until `deadline`. They go on where they were when
    /// another one comes to lead.
    ///
    /// # Errors
    /// There is no leader, or no such service or task.
    pub async fn logs(
        &self,
        selector: LogSelector,
        deadline: tokio::time::Instant,
    ) -> Result<LogStream, ManagerError> {
        logs::follow(&self.core, selector, deadline).await
    }

    /// What goes to the backends of a service, by its id, or of all services, asked of the nodes now. With an interval,
    /// they tell rates between two readings so far apart.
    ///
    /// # Errors
    /// When this manager does not lead.
    pub async fn loads(
        &self,
        service_id: Option<&str>,
        interval: Duration,
    ) -> Result<Loads, ManagerError> {
        loads::ask(&self.core, service_id, interval).await
    }

    /// Asks every node that is connected, or only the one with this id, what `question` says for its id, and waits as long
    /// as `patience`.
    ///
    /// # Errors
    /// When this manager does not lead.
    pub async fn ask(
        &self,
        only: Option<&str>,
        question: impl Fn(&str) -> Question,
        patience: Duration,
    ) -> Result<Answers, ManagerError> {
        queries::ask(&self.core, only, question, patience).await
    }

    /// Asks every node that is connected, or connects, a question that is answered again and again, until what this gives is
    /// dropped. One that is slow to take it holds the others up for no longer than `patience`.
    ///
    /// # Errors
    /// When this manager does not lead.
    pub fn follow(
        &self,
        question: Question,
        patience: Duration,
    ) -> Result<Following, ManagerError> {
        queries::follow(&self.core, question, patience)
    }

    /// A backup of the state as this manager knows it, to be restored by [`Manager::restore`]. Where managers are locked, it
    /// is as well.
    ///
    /// # Errors
    /// There is no state yet.
    pub fn backup(&self) -> Result<Vec<u8>, ManagerError> {
        let state = self.view().clone();
        let Some(cluster) = state.cluster() else {
            return Err(ManagerError::no_leader());
        };
        let key = cluster.unlock_key();
        backup::write(state, self.core.config.machine.now(), key.as_ref())
            .map_err(|e| ManagerError::internal("cannot make a backup", e))
    }

    /// Stops serving and closes the log.
    pub async fn shutdown(&self) {
        self.core.cancel.cancel();
        self.core.sessions.close_all();
        self.core.tasks.close();
        if tokio::time::timeout(SHUTDOWN_LIMIT, self.core.tasks.wait())
            .await
            .is_err()
        {
            tracing::debug!("some connections did not end in time");
        }
        self.core.consensus.shutdown().await;
    }
}
