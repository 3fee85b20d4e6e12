//! A machine on which a manager runs, lives, crashes and is started again.

use crate::{
    disk::{Disk, End},
    network::{Caller, Network, address},
    process,
    sim::{Life, Sim},
};
use anyhow::{Context, Result};
use axum::Router;
use futures::{FutureExt, future::BoxFuture};
use mesh_api::proto::{IssueNodeCertificateRequest, node_ca_client::NodeCaClient};
use mesh_manager::{
    Config, InitOptions, Line, Machine, Manager, ManagerError, ManagerHandle, Simulated, Timings,
};
use mesh_pki::NodeIdentity;
use redb::{Database, DatabaseError};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

/// A machine. It stays what it is when what runs on it ends.
pub(crate) struct Host {
    pub(crate) number: usize,
    sim: Arc<Sim>,
    disk: Arc<Disk>,
    /// Identity and key of the log, as they are on a disk that loses nothing.
    directory: PathBuf,
    timings: Timings,
    node: Mutex<Node>,
    /// The rules that the program on it knows.
    program: AtomicU32,
    /// How wrong its clock is, nanoseconds.
    skew: Arc<AtomicI64>,
    /// Longest time that a write takes, milliseconds.
    slowest_write: Arc<AtomicU64>,
    running: Mutex<Running>,
}

/// Which node the machine is.
#[derive(Default)]
struct Node {
    /// Unset until it is one.
    id: Option<String>,
    certificate: Arc<OnceLock<CertificateDer<'static>>>,
}

/// What a machine comes in by as a manager.
pub(crate) enum Papers {
    /// A token makes it a new node.
    Token(String),
    /// It is this node, which has been promoted.
    Promoted(Caller),
}

#[derive(Default)]
struct Running {
    /// It has been a manager's, or is about to be, since it was wiped.
    is_in_use: bool,
    life: Life,
    /// The rules that the program knows which runs.
    rules: u32,
    manager: Option<ManagerHandle>,
}

/// One run of a machine, as its manager sees it.
struct Run {
    sim: Arc<Sim>,
    caller: Caller,
    disk: Arc<Disk>,
    rules: u32,
    skew: Arc<AtomicI64>,
    slowest_write: Arc<AtomicU64>,
}

impl Simulated for Run {
    fn line(&self, address: &str) -> Line {
        Network::line(&self.sim, self.caller.clone(), address)
    }

    fn serve(&self, address: SocketAddr, service: Router) {
        let (network, server) = (&self.sim.network, self.caller.clone());
        network.serve(address.to_string(), service, server);
    }

    fn database(&self, path: &Path, create: bool) -> Result<Database, DatabaseError> {
        let (life, plant) = (&self.caller.life, self.sim.plant);
        self.disk.open(path, create, life, plant)
    }

    fn work(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let life = self.caller.life.clone();
        let most = self.slowest_write.load(Ordering::Relaxed);
        let (before, after) = (self.sim.millis(0, most), self.sim.millis(0, most));
        async move {
            tokio::time::sleep(before).await;
            if life.is_over() {
                return;
            }
            work();
            tokio::time::sleep(after).await;
        }
        .boxed()
    }

    fn now(&self) -> i64 {
        process::time_of_day() + self.skew.load(Ordering::Relaxed)
    }

    fn rules(&self) -> u32 {
        self.rules
    }
}

impl Host {
    /// A machine with an empty disk; `directory` is one for all.
    pub(crate) fn new(
        sim: &Arc<Sim>,
        number: usize,
        program: u32,
        directory: &Path,
        timings: Timings,
    ) -> Self {
        Self {
            number,
            sim: sim.clone(),
            disk: Arc::default(),
            directory: directory.join(number.to_string()),
            timings,
            node: Mutex::default(),
            program: AtomicU32::new(program),
            skew: Arc::default(),
            slowest_write: Arc::new(AtomicU64::new(1)),
            running: Mutex::default(),
        }
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node(&self) -> MutexGuard<'_, Node> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id of the node that it is; `None` while it is to become one.
    pub(crate) fn node_id(&self) -> Option<String> {
        self.node().id.clone()
    }

    /// The manager ends, and nothing is left of what it had.
    pub(crate) fn wipe(&self) {
        self.crash(End::PowerCut);
        self.disk.wipe();
        *self.node() = Node::default();
        self.running().is_in_use = false;
    }

    /// The rules that the program on it knows.
    pub(crate) fn program(&self) -> u32 {
        self.program.load(Ordering::Relaxed)
    }

    /// Whether it runs an older program than is on it.
    pub(crate) fn runs_older(&self) -> bool {
        self.running().rules < self.program() && !self.is_down()
    }

    /// Puts another program on it, for when it is started next.
    pub(crate) fn install(&self, program: u32) {
        self.sim.note(format_args!(
            "machine {}: its program knows rules {program} from now on",
            self.number
        ));
        self.program.store(program, Ordering::Relaxed);
    }

    /// Whether a manager has been started here since it was wiped.
    pub(crate) fn is_in_use(&self) -> bool {
        self.running().is_in_use
    }

    /// The manager, while it runs.
    pub(crate) fn manager(&self) -> Option<(ManagerHandle, Life)> {
        let running = self.running();
        let manager = running.manager.clone()?;
        (!running.life.is_over()).then(|| (manager, running.life.clone()))
    }

    /// How this machine calls others.
    fn caller(&self, life: &Life) -> Caller {
        Caller {
            machine: self.number,
            life: life.clone(),
            certificate: self.node().certificate.clone(),
        }
    }

    /// Begins a new life.
    fn boot(&self) -> (Config, Life) {
        let life = Life::default();
        let mut running = self.running();
        *running = Running {
            is_in_use: true,
            life: life.clone(),
            rules: self.program(),
            manager: None,
        };
        let run = Run {
            sim: self.sim.clone(),
            caller: self.caller(&life),
            disk: self.disk.clone(),
            rules: self.program(),
            skew: self.skew.clone(),
            slowest_write: self.slowest_write.clone(),
        };
        let at = SocketAddr::from(([10, 1, 0, u8::try_from(self.number).unwrap_or(0)], 2377));
        let config = Config {
            data_dir: self.directory.join("raft"),
            identity_dir: self.directory.join("certificates"),
            listen: at,
            advertise: at,
            engine_api: Router::new(),
            timings: self.timings.clone(),
            machine: Machine::Simulated(Arc::new(run)),
            unlock: Default::default(),
        };
        (config, life)
    }

    /// A manager runs from now on, unless its life has ended meanwhile.
    fn runs(&self, manager: ManagerHandle, life: &Life) {
        if life.is_over() {
            tokio::spawn(async move { manager.shutdown().await });
        } else {
            self.running().manager = Some(manager);
        }
    }

    fn show(&self, identity: &NodeIdentity) -> Result<()> {
        let certificate = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes())
            .map_err(|e| anyhow::anyhow!("a certificate: {e}"))?;
        drop(self.node().certificate.set(certificate));
        Ok(())
    }

    /// Makes a new cluster.
    pub(crate) async fn init(&self, options: InitOptions) -> Result<ManagerHandle> {
        let (config, life) = self.boot();
        let manager = Manager::init(config, options).await?;
        self.show(manager.identity())?;
        let node_id = &manager.identity().node_id;
        self.sim.checks().knows(node_id, self.program());
        self.node().id = Some(node_id.clone());
        self.runs(manager.clone(), &life);
        Ok(manager)
    }

    /// Comes into a cluster as a manager, by the managers that answer at machines `remotes`; the first gives the certificate.
    pub(crate) async fn join(&self, remotes: &[usize], papers: &Papers) -> Result<Life> {
        let (config, life) = self.boot();
        let first = *remotes.first().context("no manager to ask")?;
        let (caller, token) = match papers {
            Papers::Token(token) => (self.caller(&life), token.as_str()),
            Papers::Promoted(node) => (node.clone(), ""),
        };
        let (identity, _) = certify(&self.sim, caller, first, token).await?;
        identity.save(&config.identity_dir, None)?;
        Manager::prepare(&config)?;
        self.show(&identity)?;
        let remotes = remotes.iter().map(|number| address(*number)).collect();
        self.sim.checks().knows(&identity.node_id, self.program());
        let manager = Manager::join(config, remotes).await?;
        self.node().id = Some(identity.node_id);
        self.runs(manager, &life);
        Ok(life)
    }

    /// Starts the manager again with what is on the disk.
    pub(crate) async fn restart(&self, remotes: Vec<String>) -> Result<Life, ManagerError> {
        let (config, life) = self.boot();
        if let Some(node_id) = self.node_id() {
            self.sim.checks().knows(&node_id, self.program());
        }
        match Manager::restart(config, remotes).await {
            Ok(manager) => {
                self.runs(manager, &life);
                Ok(life)
            }
            // It has crashed on its way.
            Err(_) if life.is_over() => Ok(life),
            Err(error) => Err(error),
        }
    }

    /// The key of its log is lost.
    pub(crate) fn lose_key(&self) {
        let key = self.directory.join("raft/raft.key");
        drop(std::fs::remove_file(key));
    }

    /// The machine ends, at whatever it is doing. Nobody hears of what its manager does from then on, until that ends, too.
    pub(crate) fn crash(&self, how: End) {
        let manager = {
            let mut running = self.running();
            running.life.end();
            running.manager.take()
        };
        self.disk.end(how, &self.sim);
        if let Some(manager) = manager {
            tokio::spawn(async move { manager.shutdown().await });
        }
    }

    /// Ends it in the middle of a write to come, if it writes so much.
    pub(crate) fn crash_while_writing(&self, steps: u32) {
        self.disk.end_after(steps);
    }

    /// Whether it has crashed, or was never started.
    pub(crate) fn is_down(&self) -> bool {
        let running = self.running();
        running.manager.is_none() || running.life.is_over()
    }

    /// Whether it is down, and there is something to start again. One that is no node is started by those who replace it.
    pub(crate) fn has_ended(&self) -> bool {
        self.is_down() && self.node_id().is_some()
    }

    /// The disk is full, or no more.
    pub(crate) fn fill(&self, is_full: bool) {
        self.disk.fill(is_full);
    }

    /// Nothing is wrong with the disk any more, and nothing is about to be.
    pub(crate) fn heal_disk(&self) {
        self.disk.heal();
        self.set_slowest_write(Duration::from_millis(2));
    }

    /// The clock jumps.
    pub(crate) fn set_skew(&self, seconds: i64) {
        self.skew.store(seconds * 1_000_000_000, Ordering::Relaxed);
    }

    /// The disk takes so long for a write, at most.
    pub(crate) fn set_slowest_write(&self, most: Duration) {
        let millis = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
        self.slowest_write.store(millis, Ordering::Relaxed);
    }
}

/// Gets a certificate by a token, or by the caller's own if that is empty; the identity, and its certificate as it is shown.
pub(crate) async fn certify(
    sim: &Arc<Sim>,
    caller: Caller,
    remote: usize,
    token: &str,
) -> Result<(NodeIdentity, CertificateDer<'static>)> {
    let pair = mesh_pki::new_key_and_request()?;
    let line = Network::line(sim, caller, &address(remote));
    let mut request = tonic::Request::new(IssueNodeCertificateRequest {
        token: token.to_owned(),
        csr_pem: pair.request_pem.into_bytes(),
        availability: "active".to_owned(),
        ..Default::default()
    });
    request.set_timeout(Duration::from_secs(20));
    let answer = NodeCaClient::new(line)
        .issue_node_certificate(request)
        .await
        .context("no certificate")?
        .into_inner();
    let identity = NodeIdentity::new(
        String::from_utf8(answer.certificate_pem)?,
        pair.key_pem,
        String::from_utf8(answer.root_ca_pem)?,
    )?;
    let der = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes())
        .map_err(|e| anyhow::anyhow!("a certificate: {e}"))?;
    Ok((identity, der))
}
