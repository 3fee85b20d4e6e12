//! Hosts a manager on this node for as long as its certificate says that it is one.

use std::{
    fs, io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use mesh_manager::{ErrorKind, Manager};
use mesh_pki::{NodeIdentity, Role, UnlockKey};
use tokio::{
    sync::{Mutex, Notify, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{disk::Shared, identity::OwnIdentity, manager_config, own_manager, rebuild};
use crate::node::{Node, NodeError};

/// Pause before a manager that did not start, or stop, is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// How often the manager's certificate is looked at.
const LOOK: Duration = Duration::from_secs(10);

/// Follows the certificate.
#[derive(Debug)]
pub(super) struct Hosting {
    kept: Shared,
    turn: Arc<Turn>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

/// Who may start and stop the manager.
#[derive(Debug, Default)]
struct Turn {
    /// Held meanwhile.
    lock: Mutex<()>,
    /// Look again whether one is to be started.
    again: Notify,
}

/// The certificate that is not good and could not be prolonged: one try is enough, others may renew it.
#[derive(Debug, Default)]
pub(super) struct GivenUp(Option<String>);

impl GivenUp {
    fn is(&self, identity: &NodeIdentity) -> bool {
        self.0.as_deref() == Some(identity.certificate_pem.as_str())
    }
}

impl Hosting {
    /// Begins. The manager that runs, if one does, is the node's; whether one does is told through `hosted`.
    pub(super) fn start(
        node: Node,
        kept: Shared,
        identity: Arc<OwnIdentity>,
        hosted: watch::Sender<bool>,
    ) -> Self {
        let cancel = CancellationToken::new();
        let turn = Arc::<Turn>::default();
        let follow = follow(
            node,
            kept.clone(),
            identity,
            hosted,
            turn.clone(),
            cancel.clone(),
        );
        Self {
            kept,
            turn,
            task: tokio::spawn(follow),
            cancel,
        }
    }

    /// Ends the manager, makes it the only one of its cluster, and has it started again, also where that failed.
    pub(super) async fn rebuild(&self, node: &Node) -> Result<(), NodeError> {
        let held = self.turn.lock.lock().await;
        if let Some(manager) = node.host(None) {
            manager.shutdown().await;
        }
        let rebuilt = rebuild::rebuild_log(node, &self.kept.get()).await;
        drop(held);
        self.turn.again.notify_one();
        rebuilt
    }

    /// Ends, once what it is doing is done. The manager goes on.
    pub(super) async fn end(self) {
        self.cancel.cancel();
        if let Err(error) = self.task.await {
            warn!(%error, "the node's role was not followed to the end");
        }
    }
}

async fn follow(
    node: Node,
    kept: Shared,
    own: Arc<OwnIdentity>,
    hosted: watch::Sender<bool>,
    turn: Arc<Turn>,
    cancel: CancellationToken,
) {
    let mut identity = own.subscribe();
    let mut given_up = GivenUp::default();
    while !cancel.is_cancelled() {
        let held = turn.lock.lock().await;
        let now = identity.borrow_and_update().clone();
        let wanted = now.role == Role::Manager;
        let is_hosted = node.manager().is_some();
        let dismissal = dismissal_of(&node);
        let is_dismissed = dismissal
            .as_ref()
            .is_some_and(CancellationToken::is_cancelled);
        let done = match wanted {
            // Nothing is known of the manager's keys until it is unlocked.
            _ if !now.has_key() => Ok(()),
            true if !is_hosted => begin(&node, &kept, &own, &mut given_up).await,
            true if !is_good(&now) && !given_up.is(&now) => {
                begin_again(&node, &kept, &own, &mut given_up).await
            }
            true if is_dismissed => begin_anew(&node, &kept, &own, &mut given_up).await,
            false if is_hosted || kept.get().manager => finish(&node, &kept, &own).await,
            _ => Ok(()),
        };
        let mut lock = node.manager().map(|manager| manager.node_lock());
        let done = done.and_then(|()| seal(&own, lock.as_mut()));
        node.note(|trouble| {
            let why = done.as_ref().err();
            trouble.role = why.map(|why| format!("the node's role is not taken up yet: {why:#}"));
        });
        show(&node);
        hosted.send_replace(node.manager().is_some());
        drop(held);
        let dismissal = dismissal_of(&node);
        let dismissed = async {
            match &dismissal {
                Some(dismissal) => dismissal.cancelled().await,
                None => std::future::pending().await,
            }
        };
        let next = async {
            match done {
                Ok(()) => tokio::select! {
                    changed = identity.changed() => changed.is_ok(),
                    () = turn.again.notified() => true,
                    () = dismissed => true,
                    () = changed(lock) => true,
                    () = end(&now), if !given_up.is(&now) => true,
                },
                Err(error) => {
                    warn!(
                        error = format!("{error:#}"),
                        wanted, "the node's role is not taken up yet"
                    );
                    tokio::time::sleep(RETRY).await;
                    true
                }
            }
        };
        if cancel.run_until_cancelled(next).await != Some(true) {
            return;
        }
    }
}

/// Has the manager, if one runs, show the identity that is on disk by now.
pub(super) fn show(node: &Node) {
    let Some(manager) = node.manager() else {
        return;
    };
    if let Err(error) = manager.reload_identity() {
        warn!(%error, "the manager does not show the node's renewed certificate yet");
    }
}

/// Tells when the manager's group is of the past.
fn dismissal_of(node: &Node) -> Option<CancellationToken> {
    node.manager().map(|manager| manager.dismissal())
}

/// Has the node's private key locked on disk as its manager has it.
fn seal(own: &OwnIdentity, lock: Option<&mut watch::Receiver<Option<UnlockKey>>>) -> Result<()> {
    let Some(lock) = lock else { return Ok(()) };
    let key = lock.borrow_and_update().clone();
    own.seal(key.as_ref())
        .context("lock the node's private key as its manager has it")
}

/// Waits until a manager has it otherwise.
async fn changed(lock: Option<watch::Receiver<Option<UnlockKey>>>) {
    if let Some(mut lock) = lock
        && lock.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Gives up a manager whose group is of the past. If its node is still to be one, another manager joins the group that took
/// the place of the former.
async fn begin_anew(
    node: &Node,
    kept: &Shared,
    own: &OwnIdentity,
    given_up: &mut GivenUp,
) -> Result<()> {
    finish(node, kept, own).await?;
    begin(node, kept, own, given_up).await
}

/// Has a manager whose certificate is not good any more while it runs go on with a prolonged one, if it gets one.
async fn begin_again(
    node: &Node,
    kept: &Shared,
    own: &OwnIdentity,
    given_up: &mut GivenUp,
) -> Result<()> {
    if let Some(manager) = node.host(None) {
        manager.shutdown().await;
    }
    begin(node, kept, own, given_up).await
}

/// This manager's identity with its certificate prolonged, if it is not good now and may be. One that may not is given up.
///
/// # Errors
/// The manager's log cannot be read.
pub(super) async fn prolonged(
    config: &mesh_manager::Config,
    identity: &NodeIdentity,
    given_up: &mut GivenUp,
) -> Result<Option<NodeIdentity>> {
    match Manager::prolonged(config, identity).await {
        Err(error) if error.kind == ErrorKind::FailedPrecondition => {
            warn!(%error, "this manager's certificate is not good now, and cannot be prolonged here");
            given_up.0 = Some(identity.certificate_pem.clone());
            Ok(None)
        }
        prolonged => prolonged.context("prolong this manager's certificate"),
    }
}

fn is_good(identity: &NodeIdentity) -> bool {
    identity.is_good_at(SystemTime::now()).unwrap_or(true)
}

/// Waits until it is not good any more; timers know nothing of the time of day, which may be set.
async fn end(identity: &NodeIdentity) {
    while is_good(identity) {
        tokio::time::sleep(LOOK).await;
    }
}

/// Starts a manager, which asks the others to let it in.
async fn begin(
    node: &Node,
    kept: &Shared,
    identity: &OwnIdentity,
    given_up: &mut GivenUp,
) -> Result<()> {
    let now = kept.get();
    let config = manager_config(node, &now);
    if !now.manager {
        // Until this is on disk, no other manager counts on what is in the log.
        Manager::prepare(&config)?;
        let own = own_manager(now.listen);
        kept.change(|kept| kept.set_manager(true, own))?;
    }
    let former = identity.get();
    if let Some(prolonged) = prolonged(&config, &former, given_up).await? {
        let saved = identity.prolong(&former, prolonged);
        saved.context("save the node's prolonged certificate")?;
    }
    let manager = Manager::restart(config, now.managers).await;
    node.host(Some(manager.context("start the manager")?));
    info!("this node is a manager now");
    Ok(())
}

/// Stops the manager: the others have taken it out of their group.
async fn finish(node: &Node, kept: &Shared, identity: &OwnIdentity) -> Result<()> {
    if let Some(manager) = node.host(None) {
        manager.shutdown().await;
    }
    // What it is locked with goes with the log.
    identity
        .seal(None)
        .context("unlock the node's private key")?;
    let own = own_manager(kept.get().listen);
    kept.change(|kept| kept.set_manager(false, own))?;
    let log = node.config().manager_dir();
    match fs::remove_dir_all(&log) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", log.display()));
        }
        _ => {}
    }
    info!("this node is a worker now");
    Ok(())
}
