//! What a member keeps of its membership: one small file besides its identity.

use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};
use mesh_pki::{KeyAndRequest, new_key_and_request};
use serde::{Deserialize, Serialize};

use crate::config::Config;

/// A membership as written to disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// Whether this node runs a manager.
    pub(crate) manager: bool,
    /// What a manager listens on.
    pub(crate) listen: SocketAddr,
    /// Address and port that others reach this node at.
    pub(crate) advertise: SocketAddr,
    /// Tunnel end point.
    pub(crate) data_path: std::net::IpAddr,
    /// UDP port of the tunnels.
    pub(crate) data_path_port: u16,
    /// Managers (`address:port`) to begin with.
    pub(crate) managers: Vec<String>,
    /// The node is on its way out: only clean up.
    #[serde(default)]
    pub(crate) leaving: bool,
}

/// Where the identity is kept.
pub(crate) fn identity_dir(config: &Config) -> PathBuf {
    config.swarm_dir().join("certificates")
}

/// Where the last good assignment is kept.
pub(crate) fn assignment_file(config: &Config) -> PathBuf {
    config.swarm_dir().join("assignment")
}

fn file(config: &Config) -> PathBuf {
    config.swarm_dir().join("membership.json")
}

impl Kept {
    /// Reads it; `None` for a node in no cluster.
    ///
    /// # Errors
    /// When it is there and unreadable.
    pub(crate) fn load(config: &Config) -> Result<Option<Self>> {
        let path = file(config);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("read {}", path.display()))
                .map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Notes whether this node runs a manager, which it asks first at `own`.
    pub(crate) fn set_manager(&mut self, manager: bool, own: SocketAddr) {
        let own = own.to_string();
        self.managers.retain(|at| *at != own);
        if manager {
            self.managers.insert(0, own);
        }
        self.manager = manager;
    }

    /// Takes over the managers' addresses as they say them. A manager goes on asking itself first.
    pub(crate) fn learn(&mut self, managers: &[String]) {
        let own = self.advertise.to_string();
        self.managers.truncate(usize::from(self.manager));
        let others = managers.iter().filter(|at| !self.manager || **at != own);
        self.managers.extend(others.cloned());
    }

    /// Writes it, atomically and durably.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub(crate) fn save(&self, config: &Config) -> Result<()> {
        let path = file(config);
        let write = || -> io::Result<()> {
            fs::create_dir_all(config.swarm_dir())?;
            let scratch = path.with_extension("new");
            fs::write(&scratch, serde_json::to_vec_pretty(self)?)?;
            fs::File::open(&scratch)?.sync_all()?;
            fs::rename(&scratch, &path)?;
            fs::File::open(config.swarm_dir())?.sync_all()
        };
        write().with_context(|| format!("write {}", path.display()))
    }
}

/// The membership on disk, for the parts of a running one that change it.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    config: Config,
    kept: Arc<Mutex<Kept>>,
}

impl Shared {
    pub(crate) fn new(config: Config, kept: Kept) -> Self {
        let kept = Arc::new(Mutex::new(kept));
        Self { config, kept }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept.
    pub(crate) fn get(&self) -> Kept {
        self.lock().clone()
    }

    /// Changes it, on disk first.
    ///
    /// # Errors
    /// When it cannot be written: nothing is changed then.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Kept)) -> Result<()> {
        let mut kept = self.lock();
        let mut next = kept.clone();
        change(&mut next);
        next.save(&self.config)?;
        *kept = next;
        Ok(())
    }
}

/// Where the key is kept by which the node asks to join, until it has joined: beside what a join begins by clearing away.
fn joining_key(config: &Config) -> PathBuf {
    config.data_dir.join("joining.key")
}

/// The key by which this node asks to join. It is the same one until [`forget_key`], so that managers whose answer was lost know
/// the node again.
///
/// # Errors
/// When none can be made, or kept.
pub(crate) fn key_to_join(config: &Config) -> Result<KeyAndRequest> {
    let path = joining_key(config);
    let kept = fs::read_to_string(&path).ok();
    // One that cannot be read is as good as none.
    if let Some(key) = kept.and_then(|key| KeyAndRequest::of_key(&key).ok()) {
        return Ok(key);
    }
    let key = new_key_and_request()?;
    let write = || -> io::Result<()> {
        let scratch = path.with_extension("new");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&scratch)?;
        file.write_all(key.key_pem.as_bytes())?;
        file.sync_all()?;
        fs::rename(&scratch, &path)
    };
    write().with_context(|| format!("write {}", path.display()))?;
    Ok(key)
}

/// Forgets that key: the node has joined, or nobody knows it.
///
/// # Errors
/// When it cannot be removed.
pub(crate) fn forget_key(config: &Config) -> Result<()> {
    let path = joining_key(config);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Forgets the cluster.
///
/// # Errors
/// When something cannot be removed.
pub(crate) fn wipe(config: &Config) -> Result<()> {
    match fs::remove_dir_all(config.swarm_dir()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context("remove the cluster's state from disk")
        }
        _ => fs::create_dir_all(config.swarm_dir()).context("create the state directory"),
    }
}
