//! Simulated nodes: each joins by token, holds its own certificate, connection and session, and does at once whatever
//! it is told.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use mesh_manager::client;
use mesh_pki::NodeIdentity;
use mesh_tests::{NetNs, interrupt};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Semaphore,
};

use crate::node;

/// Threads that all simulated nodes share.
const WORKERS: usize = 2;
/// Joins under way at the same time.
const JOINING: usize = 64;
/// How long all nodes together may take to join.
const JOIN_LIMIT: Duration = Duration::from_secs(600);
/// How often a count is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// Something a node was told or did that a measurement waits for.
#[derive(Debug)]
pub(crate) enum Event {
    /// A task of the watched service runs, as its node has just reported.
    Running { task: String, at: Instant },
    /// A node has just been told that this task takes connections.
    Told { task: String, at: Instant },
}

/// What all nodes write to.
#[derive(Debug)]
pub(crate) struct Board {
    /// Sessions that are open.
    pub(crate) open: AtomicUsize,
    /// Tasks that nodes have been told to run, since they joined.
    pub(crate) given: AtomicUsize,
    /// Name of the service whose [`Event`]s are wanted.
    pub(crate) watched: &'static str,
    pub(crate) events: mpsc::Sender<Event>,
}

/// The simulated nodes. They end when it is dropped.
pub(crate) struct Fleet {
    // Its threads are in the network namespace that the nodes are to be in.
    runtime: Option<Runtime>,
    pub(crate) board: Arc<Board>,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) nodes: usize,
}

impl Fleet {
    /// `nodes` nodes in a namespace, which join the manager at `manager`, "address:port".
    pub(crate) fn join(
        ns: &NetNs,
        manager: &str,
        token: &str,
        nodes: usize,
        watched: &'static str,
    ) -> Result<Self> {
        let runtime = ns.enter(|| {
            let mut builder = Builder::new_multi_thread();
            Ok(builder.worker_threads(WORKERS).enable_all().build()?)
        })?;
        let (sender, events) = mpsc::channel();
        let board = Arc::new(Board {
            open: AtomicUsize::new(0),
            given: AtomicUsize::new(0),
            watched,
            events: sender,
        });
        let fleet = Self {
            board: Arc::clone(&board),
            events,
            nodes,
            runtime: Some(runtime),
        };
        let (manager, token) = (manager.to_owned(), token.to_owned());
        let joined = fleet.runtime().spawn(async move {
            let turns = Arc::new(Semaphore::new(JOINING));
            let mut joining = tokio::task::JoinSet::new();
            for number in 0..nodes {
                let (manager, token, turns) = (manager.clone(), token.clone(), turns.clone());
                joining.spawn(async move {
                    let _turn = turns.acquire().await?;
                    let identity = join(&manager, &token, number).await?;
                    anyhow::Ok((number, Arc::new(identity)))
                });
            }
            while let Some(joined) = joining.join_next().await {
                let (number, identity) = joined??;
                let manager = manager.clone();
                tokio::spawn(node::run(number, identity, manager, Arc::clone(&board)));
            }
            anyhow::Ok(())
        });
        let joined = async { tokio::time::timeout(JOIN_LIMIT, joined).await };
        fleet
            .runtime()
            .block_on(joined)
            .context("the nodes do not join in time")???;
        fleet.wait("sessions to open", JOIN_LIMIT, nodes, |board| &board.open)?;
        Ok(fleet)
    }

    /// Waits until a count of the board is `wanted`; the moment at which it was.
    pub(crate) fn wait(
        &self,
        what: &str,
        limit: Duration,
        wanted: usize,
        count: impl Fn(&Board) -> &AtomicUsize,
    ) -> Result<Instant> {
        let begun = Instant::now();
        loop {
            let seen = count(&self.board).load(Ordering::Acquire);
            if seen >= wanted {
                return Ok(Instant::now());
            }
            if begun.elapsed() > limit {
                bail!("waited {limit:?} for {what}: {seen} of {wanted}");
            }
            interrupt::check()?;
            std::thread::sleep(LOOK);
        }
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it is there until the drop")
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The tunnel end point that a node pretends to have.
pub(crate) fn address(number: usize) -> Ipv4Addr {
    // 172.16.0.0/12 holds a million.
    let base = u32::from(Ipv4Addr::new(172, 16, 0, 1));
    Ipv4Addr::from(base + u32::try_from(number).unwrap_or(u32::MAX >> 12))
}

async fn join(manager: &str, token: &str, number: usize) -> Result<NodeIdentity> {
    let data_path = address(number).into();
    let joined = client::join(manager, token, "active", data_path).await;
    Ok(joined
        .with_context(|| format!("node {number} cannot join"))?
        .identity)
}
