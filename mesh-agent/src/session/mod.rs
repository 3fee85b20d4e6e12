//! The stream to a manager: assignments in, task statuses and acknowledgements out.
//!
//! One task keeps it up for as long as the node is a member: it tries the known managers in turn,
//! with growing, jittered pauses, and tells everything anew after each reconnection. While no
//! manager answers, the last good assignment stands.

mod heart;
mod statuses;
mod stream;

use std::{path::PathBuf, sync::Arc, time::Duration};

use mesh_api::proto;
use mesh_pki::{NodeIdentity, Role};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing::{info, warn};

use crate::assignment::Assignment;

pub use statuses::Statuses;

/// First pause after a lost or failed session.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause: a returning manager is found again within this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// Log subscriptions that may wait for the node to look at them.
const LOG_QUEUE: usize = 64;

/// Questions of managers, and answers, that may wait.
const QUERY_QUEUE: usize = 16;

/// How long a node that leaves waits for a manager to take note.
const LAST_WORD: Duration = Duration::from_secs(3);

/// What a session needs to begin.
#[derive(Debug)]
pub struct Config {
    /// Who this node is; a renewed certificate is used from the next connection on.
    pub identity: watch::Receiver<Arc<NodeIdentity>>,
    /// What the node tells of itself.
    pub description: proto::NodeDescription,
    /// Its end of encrypted networks, which it tells anew when it changes.
    pub cipher: watch::Receiver<Option<proto::Cipher>>,
    /// The largest packet that its uplink takes, likewise; zero while it is not known.
    pub mtu: watch::Receiver<u32>,
    /// Managers known so far, `address:port`.
    pub managers: Vec<String>,
    /// Where the last good assignment is kept.
    pub assignment_file: PathBuf,
}

/// What a manager has to say against what this node proves itself with.
#[derive(Debug, Clone)]
pub struct Objection {
    /// What it is about. Of another one, nothing is said.
    pub against: Arc<NodeIdentity>,
    /// The root to trust in the place of its own, PEM.
    pub root_pem: Option<String>,
    /// Its certificate is to be of another root: it is to be renewed within this time.
    pub renew_within: Option<Duration>,
}

/// Whether a manager answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connection {
    /// Not yet, or not any more; the text says why, unless none has been asked.
    Lost(String),
    /// To this manager, `address:port`.
    Up(String),
    /// The managers do not take the node for one of theirs; the text says why.
    Refused(String),
}

/// A manager's word that this node is none of its own.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

/// A manager that does not lead names the one that does, `address:port`.
#[derive(Debug, thiserror::Error)]
#[error("the leader is at {0}")]
struct Elsewhere(String);

/// A running session. Dropping it ends the session.
#[derive(Debug)]
pub struct Session {
    /// What the managers want of this node; before their first word, what was kept on disk.
    pub assignment: watch::Receiver<Arc<Assignment>>,
    /// Where tasks report their states.
    pub statuses: Arc<Statuses>,
    /// The revision that has been applied; set it, and the managers are told.
    pub applied: watch::Sender<u64>,
    /// Whether a manager answers.
    pub connection: watch::Receiver<Connection>,
    /// The managers as last told by one of them, `address:port`.
    pub managers: watch::Receiver<Vec<String>>,
    /// The role that the managers have given this node; `None` before their first word.
    pub role: watch::Receiver<Option<Role>>,
    /// What a manager has last said against this node's identity.
    pub objection: watch::Receiver<Option<Objection>>,
    /// Logs that managers want to read.
    pub logs: mpsc::Receiver<proto::LogSubscription>,
    /// Questions of managers.
    pub queries: mpsc::Receiver<proto::Query>,
    /// Where they are answered.
    pub reports: mpsc::Sender<proto::Report>,
    /// The channel to the manager, while there is one; for publishing logs.
    pub channel: watch::Receiver<Option<Channel>>,
    leaving: CancellationToken,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.task.abort();
    }
}

impl Session {
    /// Starts connecting. Must be called within a Tokio runtime.
    pub fn start(config: Config) -> Self {
        let kept = Assignment::load(&config.assignment_file).unwrap_or_else(|error| {
            warn!(file = %config.assignment_file.display(), %error, "the kept assignment is unreadable; waiting for a manager");
            None
        });
        let (assignment_out, assignment) = watch::channel(Arc::new(kept.unwrap_or_default()));
        let (connection_out, connection) = watch::channel(Connection::Lost(String::new()));
        let (managers_out, managers) = watch::channel(config.managers.clone());
        let (role_out, role) = watch::channel(None);
        let (objection_out, objection) = watch::channel(None);
        let (logs_out, logs) = mpsc::channel(LOG_QUEUE);
        let (queries_out, queries) = mpsc::channel(QUERY_QUEUE);
        let (reports, reports_in) = mpsc::channel(QUERY_QUEUE);
        let (channel_out, channel) = watch::channel(None);
        let (applied, applied_in) = watch::channel(0);
        let statuses = Arc::new(Statuses::default());
        let (leaving, cancel) = (CancellationToken::new(), CancellationToken::new());
        let worker = Worker {
            leaving: leaving.clone(),
            config,
            assignment: assignment_out,
            connection: connection_out,
            managers: managers_out,
            role: role_out,
            objection: objection_out,
            logs: logs_out,
            queries: queries_out,
            reports: reports_in,
            channel: channel_out,
            applied: applied_in,
            statuses: Arc::clone(&statuses),
        };
        let ended = cancel.clone();
        let task = tokio::spawn(async move {
            ended.run_until_cancelled(worker.run()).await;
        });
        Self {
            assignment,
            statuses,
            applied,
            connection,
            managers,
            role,
            objection,
            logs,
            queries,
            reports,
            channel,
            leaving,
            cancel,
            task,
        }
    }

    /// Tells the managers that the node leaves, if one answers, and ends.
    pub async fn leave(mut self) {
        self.leaving.cancel();
        if timeout(LAST_WORD, &mut self.task).await.is_err() {
            warn!("no manager takes note that this node leaves");
        }
    }
}

struct Worker {
    leaving: CancellationToken,
    config: Config,
    assignment: watch::Sender<Arc<Assignment>>,
    connection: watch::Sender<Connection>,
    managers: watch::Sender<Vec<String>>,
    role: watch::Sender<Option<Role>>,
    objection: watch::Sender<Option<Objection>>,
    logs: mpsc::Sender<proto::LogSubscription>,
    queries: mpsc::Sender<proto::Query>,
    reports: mpsc::Receiver<proto::Report>,
    channel: watch::Sender<Option<Channel>>,
    applied: watch::Receiver<u64>,
    statuses: Arc<Statuses>,
}

impl Worker {
    async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        let mut turn = 0;
        let mut leader = None;
        let mut lost = None;
        loop {
            // The node of a manager that is locked has nothing to show until it is unlocked.
            let open = self.config.identity.wait_for(|identity| identity.has_key());
            if !matches!(self.leaving.run_until_cancelled(open).await, Some(Ok(_))) {
                return;
            }
            let managers = self.managers.borrow().clone();
            // The one that was just lost is asked last.
            if managers.len() > 1 && managers.get(turn % managers.len()) == lost.take().as_ref() {
                turn += 1;
            }
            let next = managers.get(turn % managers.len().max(1)).cloned();
            let was_named = leader.is_some();
            let Some(manager) = leader.take().or(next) else {
                self.lost("no manager is known".to_owned());
                return;
            };
            match self.session(&manager).await {
                Ok(()) => {
                    info!(manager, "the session ended");
                    pause = FIRST_PAUSE;
                }
                // One that was named and names another is as good as one that knows of none.
                Err(error) if error.is::<Elsewhere>() && !was_named => {
                    leader = error.downcast::<Elsewhere>().ok().map(|Elsewhere(at)| at);
                    continue;
                }
                Err(error) if error.is::<Refused>() => {
                    let refused = Connection::Refused(error.to_string());
                    self.connection.send_replace(refused);
                    pause = LONGEST_PAUSE;
                }
                Err(error) => {
                    if self.connection.borrow().clone() == Connection::Up(manager.clone()) {
                        warn!(manager, error = format!("{error:#}"), "lost the manager");
                        pause = FIRST_PAUSE;
                        lost = Some(manager);
                    }
                    self.lost(format!("{error:#}"));
                }
            }
            self.channel.send_replace(None);
            turn += 1;
            let pausing = tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0)));
            if self.leaving.run_until_cancelled(pausing).await.is_none() {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn lost(&self, why: String) {
        self.connection.send_replace(Connection::Lost(why));
    }
}
