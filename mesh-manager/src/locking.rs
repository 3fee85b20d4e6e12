//! The keys of this manager's log. They are locked as the cluster's spec has it, and opened with the unlock key when the manager
//! is started again (autolock). The one that encrypts is exchanged for another when it is locked anew, and when it has been in
//! use for as long as a certificate is good; the former ones are forgotten once the log has been compacted.

use crate::{
    Config, Manager, ManagerError, Unlock,
    core::Core,
    raft::{SealError, keys_in},
};
use mesh_pki::{NodeIdentity, PkiError, Role, UnlockKey};
use std::{sync::Arc, time::Duration};

/// Pause before the key file is written again after that failed.
const RETRY: Duration = Duration::from_secs(1);

/// How often the age of the log's key is looked at where nothing happens. Certificates are good for an hour and more.
const CHECK: Duration = Duration::from_secs(600);

/// Longest wait for the log to be compacted.
const COMPACT_LIMIT: Duration = Duration::from_secs(60);
/// Pause before the log is compacted again because something is left that a former key has encrypted, say as another manager
/// was being sent it; it doubles each time.
const COMPACT_PAUSE: Duration = Duration::from_secs(1);
/// The longest such pause.
const COMPACT_LONGEST_PAUSE: Duration = Duration::from_secs(3600);

fn failed(error: SealError) -> ManagerError {
    ManagerError::internal("cannot read the manager's keys", error)
}

impl Manager {
    /// Whether the keys on disk are locked, and not with the key that this process knows.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn is_locked(config: &Config) -> Result<bool, ManagerError> {
        match keys_in(&config.data_dir, &config.unlock) {
            Ok(_) => Ok(false),
            Err(SealError::Locked | SealError::WrongKey) => Ok(true),
            Err(error) => Err(failed(error)),
        }
    }

    /// Opens the keys on disk with this key, so that the manager can be started; false if it does not fit.
    ///
    /// # Errors
    /// The keys cannot be read.
    pub fn unlock(config: &Config, key: UnlockKey) -> Result<bool, ManagerError> {
        let unlock = Unlock::from(key);
        match keys_in(&config.data_dir, &unlock) {
            Ok(_) => {
                config.unlock.set(unlock.get());
                Ok(true)
            }
            Err(SealError::WrongKey) => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    /// What the node's private key is encrypted with on disk; `None` while managers are not locked.
    ///
    /// # Errors
    /// The keys cannot be read, or are locked.
    pub fn node_lock(config: &Config) -> Result<Option<UnlockKey>, ManagerError> {
        let keys = keys_in(&config.data_dir, &config.unlock).map_err(failed)?;
        Ok(keys.and_then(|keys| keys.node_lock()))
    }

    /// This node's identity on disk, `None` if it has none; without its private key while a manager's keys are locked.
    ///
    /// # Errors
    /// It cannot be read, or the keys cannot.
    pub fn identity(config: &Config) -> Result<Option<NodeIdentity>, ManagerError> {
        let unreadable = |e: PkiError| ManagerError::internal("cannot read the node's identity", e);
        let load = |lock| NodeIdentity::load(&config.identity_dir, lock).map_err(unreadable);
        match keys_in(&config.data_dir, &config.unlock) {
            Ok(keys) => load(keys.and_then(|keys| keys.node_key()).as_ref()),
            Err(SealError::Locked | SealError::WrongKey) => {
                // A worker's is not locked; a manager's may not be yet, when its keys are already.
                let without = |identity: NodeIdentity| match identity.role {
                    Role::Manager => identity.without_key(),
                    Role::Worker => identity,
                };
                Ok(load(None)?.map(without))
            }
            Err(error) => Err(failed(error)),
        }
    }
}

impl Core {
    /// Locks the keys on disk as the cluster has it.
    pub(crate) async fn follow_lock(&self) -> Result<(), ManagerError> {
        let _in_turn = self.locking.lock().await;
        let (key, version) = match self.store.read().cluster() {
            Some(cluster) => (cluster.unlock_key(), cluster.meta.version),
            None => return Ok(()),
        };
        if self.keys.is_locked_by(key.as_ref(), version) {
            return Ok(());
        }
        let is_locked = key.is_some();
        let (keys, now) = (self.keys.clone(), self.config.machine.now());
        let lock = move || keys.lock(key.as_ref(), version, now);
        let locked = self.config.machine.blocking(lock).await?;
        locked.map_err(|e| ManagerError::internal("cannot lock the manager's keys", e))?;
        self.node_lock.send_replace(self.keys.node_lock());
        tracing::info!(is_locked, "the manager's keys were locked anew");
        if is_locked {
            self.rekeyed.notify_one();
        }
        Ok(())
    }

    /// Exchanges the log's key for another one once it has been in use for as long as a certificate is good.
    async fn renew_data_key(&self) -> Result<(), ManagerError> {
        let _in_turn = self.locking.lock().await;
        let life = match self.store.read().cluster() {
            Some(cluster) => cluster.certificate_validity(),
            None => return Ok(()),
        };
        let (keys, now) = (self.keys.clone(), self.config.machine.now());
        if !keys.is_worn(life, now) {
            return Ok(());
        }
        let renewed = self
            .config
            .machine
            .blocking(move || keys.renew(now))
            .await?;
        renewed.map_err(|e| ManagerError::internal("cannot renew the key of the log", e))?;
        tracing::info!("this manager's log is encrypted with a new key from now on");
        self.rekeyed.notify_one();
        Ok(())
    }
}

/// Follows the cluster, and the clock, until the manager stops.
pub(crate) async fn run(core: Arc<Core>) {
    let mut index = core.store.index();
    let follow = async {
        loop {
            index.borrow_and_update();
            let followed = async {
                core.follow_lock().await?;
                core.renew_data_key().await
            };
            if let Err(error) = followed.await {
                tracing::warn!(%error, "the manager's keys stay as they are for now");
                tokio::time::sleep(RETRY).await;
            } else if let Ok(Err(_)) = tokio::time::timeout(CHECK, index.changed()).await {
                return;
            }
        }
    };
    core.cancel.run_until_cancelled(follow).await;
}

/// Has the log compacted whenever it gets another key, until the manager stops: again and again until nothing is left that the
/// former ones have encrypted, and they are forgotten.
pub(crate) async fn compact(core: Arc<Core>) {
    let mut leadership = core.consensus.leadership();
    let compact = async {
        loop {
            let mut pause = COMPACT_PAUSE;
            // The last run may have left some.
            while core.keys.has_old() {
                // Nothing is applied before there is a leader.
                if leadership.wait_for(|l| l.leader.is_some()).await.is_err() {
                    return;
                }
                let compacted = tokio::time::timeout(COMPACT_LIMIT, core.consensus.compact()).await;
                let compacted = compacted.unwrap_or_else(|_| Err(ManagerError::no_leader()));
                if let Err(error) = compacted {
                    tracing::warn!(%error, "what was encrypted with former keys of the log is kept for now");
                }
                // Entries are removed in the background.
                drop(tokio::time::timeout(pause, core.rekeyed.notified()).await);
                pause = (pause * 2).min(COMPACT_LONGEST_PAUSE);
            }
            core.rekeyed.notified().await;
        }
    };
    core.cancel.run_until_cancelled(compact).await;
}
