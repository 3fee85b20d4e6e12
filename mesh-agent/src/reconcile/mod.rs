//! One road to state: observe, plan (pure), apply (idempotent).
//!
//! The loop wakes on a new assignment, on a container's end, on finished work, on a change of the
//! node's interfaces, and every few seconds to find what nobody told it about.

mod apply;
mod beside;
mod handover;
pub mod jobs;
mod listening;
mod observe;
pub mod plan;
pub mod record;
pub mod state;
mod uplinks;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use mesh_datapath::Datapath;
use mesh_dns::{Upstreams, Zone};
use mesh_runtime::ContainerEvent;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinHandle,
};

use crate::{
    assignment::Assignment,
    config::Config,
    desired,
    health::{self, Watchers},
    links::{host::Host, watch as link_watch},
    node::{LocalTask, SharedDatapath},
    session::Statuses,
};
pub(crate) use apply::cipher;
use beside::Beside;
use cipher::{Ciphers, Outcome};
use jobs::Tools;
pub(crate) use observe::task_mtu;
use plan::Job;
use record::{Record, Records};
use uplinks::Uplinks;
pub(crate) use uplinks::without_ethernet;

/// How often the node looks for itself, should a notice have been lost.
const PERIOD: Duration = Duration::from_secs(5);

/// Notices that come this close together lead to one pass.
const GATHER: Duration = Duration::from_millis(5);

/// What a reconciler needs to begin.
pub struct Parts {
    /// The flags.
    pub config: Config,
    /// Name of this agent's kernel objects.
    pub instance: String,
    /// This node's tunnel end point.
    pub vtep: std::net::IpAddr,
    /// UDP port of the tunnels, host byte order.
    pub vxlan_port: u16,
    /// Images and containers.
    pub tools: Tools,
    /// What the managers want.
    pub assignment: watch::Receiver<Arc<Assignment>>,
    /// Where tasks report their states.
    pub statuses: Arc<Statuses>,
    /// The revision that has been applied last.
    pub applied: watch::Sender<u64>,
    /// The tasks, for the API.
    pub tasks: watch::Sender<Arc<Vec<LocalTask>>>,
    /// What is known of their health, for the API.
    pub health: health::Table,
    /// How WireGuard is, if an earlier agent left it running.
    pub encryption: Option<mesh_wireguard::Status>,
    /// Where this node's end of encrypted networks is told.
    pub cipher: watch::Sender<Option<mesh_api::proto::Cipher>>,
    /// Where the largest packet that the uplink takes is told.
    pub mtu: watch::Sender<u32>,
    /// Where the packet path is put for others to read its counters.
    pub datapath: SharedDatapath,
}

/// A running reconciler.
#[derive(Debug)]
pub struct Handle {
    task: JoinHandle<()>,
    empty: mpsc::Sender<oneshot::Sender<Result<()>>>,
}

impl Handle {
    /// Ends every task, takes away all that was made on this node, and ends.
    ///
    /// # Errors
    /// When something could not be removed.
    pub async fn clear(self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.empty
            .send(reply)
            .await
            .context("the reconciler has ended")?;
        let result = answer.await.context("the reconciler ended early")?;
        let _ = self.task.await;
        result
    }

    /// Ends at once and leaves everything running.
    pub fn stop(self) {
        self.task.abort();
    }
}

struct Reconciler {
    config: Config,
    instance: String,
    vtep: std::net::IpAddr,
    vxlan_port: u16,
    tools: Tools,
    host: Host,
    uplinks: Uplinks,
    datapath: SharedDatapath,
    records: Records,
    known: BTreeMap<String, Record>,
    /// Tasks whose namespace this process has set up inside, with the namespace's cookie.
    configured: BTreeMap<String, u64>,
    /// Whether tasks may have sockets that are connected to ended tasks.
    orphans: bool,
    /// Tasks that answer on their published ports, as far as they are going to.
    answering: HashSet<String>,
    /// The health checks of running tasks.
    watchers: Watchers,
    /// Failed attempts to connect a task.
    failures: HashMap<String, u32>,
    servers: HashMap<String, mesh_dns::Server>,
    upstreams: Upstreams,
    jobs: HashMap<String, (Job, JoinHandle<()>)>,
    done: mpsc::UnboundedSender<Done>,
    egress: Option<String>,
    cipher: watch::Sender<Option<mesh_api::proto::Cipher>>,
    mtu: watch::Sender<u32>,
    /// The devices that encrypt, as far as they are known to work.
    ciphers: Option<Ciphers>,
    /// What is asked of WireGuard.
    encrypting: Beside<Outcome>,
    /// The latest epoch of the other nodes' WireGuard keys, and since when it is known.
    others_epoch: Option<(u64, Instant)>,
    /// Why it has no new key, and until when none is tried.
    no_new_key: Option<(Instant, String)>,
    /// What is not as it should be with encrypted networks, and has been logged.
    cipher_warnings: BTreeSet<String>,
    /// What the services contribute to the packet path.
    parts: desired::Parts,
    zone: watch::Sender<Arc<Zone>>,
    /// The assignment that the zone has the names of.
    named: Arc<Assignment>,
    wake: Arc<Notify>,
    statuses: Arc<Statuses>,
    applied: watch::Sender<u64>,
    tasks: watch::Sender<Arc<Vec<LocalTask>>>,
}

/// The end of a job.
struct Done {
    id: String,
    job: Job,
    result: Result<()>,
}

/// Starts the loop.
///
/// # Errors
/// When netlink or the task directory cannot be used.
pub fn start(parts: Parts) -> Result<Handle> {
    let records = Records::new(parts.config.tasks_dir());
    let known = records.load().context("read the task records")?;
    handover::sweep(&parts.config.handover_dir()).context("remove what was left for tasks")?;
    let (done, finished) = mpsc::unbounded_channel();
    let wake = Arc::new(Notify::new());
    let upstreams = Upstreams::new(crate::dns::node_upstreams(
        &parts.config.dns,
        std::path::Path::new("/etc/resolv.conf"),
    ));
    let events = parts.tools.runtime.events();
    let reconciler = Reconciler {
        host: Host::connect()?,
        uplinks: Uplinks::default(),
        config: parts.config,
        instance: parts.instance,
        vtep: parts.vtep,
        vxlan_port: parts.vxlan_port,
        tools: parts.tools,
        datapath: parts.datapath,
        records,
        known,
        configured: BTreeMap::new(),
        orphans: true,
        answering: HashSet::new(),
        watchers: Watchers::new(parts.health, Arc::clone(&wake)),
        failures: HashMap::new(),
        servers: HashMap::new(),
        upstreams,
        jobs: HashMap::new(),
        done,
        egress: None,
        cipher: parts.cipher,
        mtu: parts.mtu,
        ciphers: parts.encryption.as_ref().map(Ciphers::of),
        encrypting: Beside::default(),
        others_epoch: None,
        no_new_key: None,
        cipher_warnings: BTreeSet::new(),
        parts: desired::Parts::default(),
        zone: watch::channel(Arc::default()).0,
        named: Arc::default(),
        wake: Arc::clone(&wake),
        statuses: parts.statuses,
        applied: parts.applied,
        tasks: parts.tasks,
    };
    let watcher = link_watch::watch(Arc::clone(&wake))?;
    let (empty, empty_rx) = mpsc::channel(1);
    let task = tokio::spawn(async move {
        reconciler
            .run(parts.assignment, events, finished, empty_rx)
            .await;
        watcher.abort();
    });
    Ok(Handle { task, empty })
}

impl Reconciler {
    async fn run(
        mut self,
        mut assignment: watch::Receiver<Arc<Assignment>>,
        mut events: mpsc::UnboundedReceiver<ContainerEvent>,
        mut finished: mpsc::UnboundedReceiver<Done>,
        mut empty: mpsc::Receiver<oneshot::Sender<Result<()>>>,
    ) {
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let wake = Arc::clone(&self.wake);
        let mut leaving: Option<oneshot::Sender<Result<()>>> = None;
        let (mut in_session, mut begins) = (true, true);
        self.publish();
        loop {
            tokio::select! {
                changed = assignment.changed(), if in_session => in_session = changed.is_ok(),
                () = wake.notified() => {}
                Some(_) = events.recv() => {}
                Some(done) = finished.recv() => self.finish(done),
                _ = tick.tick() => self.look_closer().await,
                Some(reply) = empty.recv() => leaving = Some(reply),
            }
            tokio::time::sleep(GATHER).await;
            while let Ok(done) = finished.try_recv() {
                self.finish(done);
            }
            while events.try_recv().is_ok() {}
            let wanted = if leaving.is_some() {
                Arc::default()
            } else {
                Arc::clone(&assignment.borrow_and_update())
            };
            // Before the first word of a manager nothing is known, which is not "no tasks".
            if wanted.revision == 0 && leaving.is_none() {
                continue;
            }
            match self.pass(&wanted).await {
                Ok(()) if begins => {
                    begins = false;
                    give_back_memory();
                }
                Ok(()) => {}
                Err(error) => tracing::error!(
                    error = format!("{error:#}"),
                    "reconciling failed, trying again"
                ),
            }
            if self.known.is_empty()
                && let Some(reply) = leaving.take()
            {
                let _ = reply.send(self.remove_everything().await);
                return;
            }
        }
    }
}

/// Opens the packet path once; later calls return what is open.
fn open_datapath(shared: &SharedDatapath, config: &mesh_datapath::Config) -> Result<()> {
    let mut slot = shared
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if slot.is_none() {
        *slot = Some(Datapath::open(config)?);
    }
    Ok(())
}

/// Gives back what only the start needed. Reading the eBPF programs takes megabytes for a moment, which leave gaps all over
/// the heap: the allocator by itself gives back only what is free at its end.
fn give_back_memory() {
    // SAFETY: takes a number, the bytes to keep at the heap's end.
    unsafe { libc::malloc_trim(0) };
    if let Err(error) = mesh_runtime::pages::release() {
        // Only memory is at stake.
        tracing::debug!(%error, "pages of the program stay");
    }
}

impl Reconciler {
    fn datapath_config(&self) -> mesh_datapath::Config {
        let dir = format!("/sys/fs/bpf/mesh/{}", self.instance);
        let mut config = mesh_datapath::Config::new(dir);
        config.vxlan_port = self.vxlan_port;
        config.xdp = self.config.xdp;
        config.tc = self.config.tc;
        config.row_bytes = self.config.row_memory << 20;
        config.backend_slots = self.config.backend_entries;
        config.flow_entries = self.config.flow_entries;
        config.cgroup = self.tools.runtime.cgroup_v2_parent();
        config
    }
}
