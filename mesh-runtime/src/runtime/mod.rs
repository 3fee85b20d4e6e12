//! The agent's side: containers by id, their shims, their exits.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::Utc;
use tokio::sync::{Semaphore, mpsc};

use crate::cgroup::Hierarchies;
use crate::error::{Result, RuntimeError};
use crate::spec::{ContainerSpec, ExecSpec};
use crate::wire::Request;

mod adopt;
mod client;
mod container;
mod events;
mod exe;
pub(crate) mod exec;
mod inotify;
mod logfile;
pub(crate) mod logs;
mod spawn;
mod types;

use container::{Container, ContainerRef, Lost, Record};
use events::EventHub;
use exe::ShimExe;
use exec::ExecSession;
use logs::{LogOptions, LogStream};
pub use types::{ContainerEvent, ContainerInfo, ContainerState, ExitStatus, RuntimeConfig};

/// How long a shim may take to end after its container has.
const SHIM_DEADLINE: Duration = Duration::from_secs(10);
/// How long SIGKILL may take to end a container (a process may hang in the kernel for a while).
const KILL_DEADLINE: Duration = Duration::from_secs(30);
/// Containers made at the same time: more only wait for the same locks in the kernel.
const PARALLEL_CREATES: usize = 8;

/// The containers of one agent. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: RuntimeConfig,
    exe: ShimExe,
    hierarchies: Hierarchies,
    containers: Mutex<BTreeMap<String, ContainerRef>>,
    events: EventHub,
    creates: Semaphore,
}

impl Runtime {
    /// Opens the state directory and adopts the containers found there: running ones keep their
    /// process ids, ended ones their exit status.
    ///
    /// # Errors
    /// When a directory cannot be made or read, the shim's executable is missing, or the host has
    /// no cgroups. A container whose shim is gone is not an error: it is listed as exited.
    pub async fn open(config: RuntimeConfig) -> Result<Self> {
        let parent = &config.cgroup_parent;
        if parent.is_empty()
            || parent
                .split('/')
                .any(|part| matches!(part, "" | "." | ".."))
        {
            return Err(RuntimeError::InvalidSpec {
                reason: format!("cgroup parent \"{parent}\" must be a relative path like mesh/n1"),
            });
        }
        for directory in [&config.state_dir, &config.run_dir] {
            fs::create_dir_all(directory).map_err(RuntimeError::io("create", directory))?;
        }
        let exe = ShimExe::open(&config).await.map_err(RuntimeError::io(
            "open the shim's executable",
            &config.shim_exe,
        ))?;
        let hierarchies = Hierarchies::detect()?;
        if let Some(path) = hierarchies.v2_path(parent) {
            fs::create_dir_all(&path).map_err(RuntimeError::io("create cgroup", path))?;
        }
        let runtime = Self {
            inner: Arc::new(Inner {
                config,
                exe,
                hierarchies,
                containers: Mutex::default(),
                events: EventHub::default(),
                creates: Semaphore::new(PARALLEL_CREATES),
            }),
        };
        runtime.adopt().await?;
        Ok(runtime)
    }

    /// Makes a container and its shim; the command waits for [`Runtime::start`].
    ///
    /// # Errors
    /// A taken id, an invalid specification, a command that is missing or cannot be executed, or
    /// what libcontainer says. Nothing of the container is left behind.
    pub async fn create(&self, spec: &ContainerSpec) -> Result<ContainerInfo> {
        let inner = &self.inner;
        check_id(&spec.id)?;
        let _permit = inner.creates.acquire().await;
        let state_dir = inner.config.state_dir.join(&spec.id);
        let run_dir = inner.config.run_dir.join(&spec.id);
        fs::create_dir(&state_dir).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => RuntimeError::Exists {
                id: spec.id.clone(),
            },
            _ => RuntimeError::io("create", &state_dir)(source),
        })?;
        let record = Record {
            spec: spec.clone(),
            cgroup: format!("{}/{}", inner.config.cgroup_parent, spec.id),
            created_at: Utc::now(),
        };
        match self.launch(record.clone(), &state_dir, &run_dir).await {
            Ok(container) => {
                let info = container.info();
                let runtime = self.clone();
                tokio::spawn(async move { runtime.watch(container, Lost::ShimKilled).await });
                Ok(info)
            }
            Err(error) => {
                // The first error is the one to tell; what is left is found by the next delete.
                if let Err(left) = self.erase(&record.cgroup, state_dir, run_dir).await {
                    tracing::warn!(id = %spec.id, error = %left, "clean-up is incomplete");
                }
                Err(error)
            }
        }
    }

    /// Lets the command run.
    ///
    /// # Errors
    /// When the container is not there, not in state created, or its command cannot be executed.
    pub async fn start(&self, id: &str) -> Result<()> {
        let container = self.find(id)?;
        if container.status.borrow().state != ContainerState::Created {
            return Err(container.wrong_state("created"));
        }
        container.command(&Request::Start).await?;
        container.status.send_modify(|status| {
            if status.state == ContainerState::Created {
                status.state = ContainerState::Running;
                status.started_at = Some(Utc::now());
            }
        });
        Ok(())
    }

    /// Sends a signal (its number) to the command.
    ///
    /// # Errors
    /// When the container is not there or not running.
    pub async fn signal(&self, id: &str, signal: i32) -> Result<()> {
        let container = self.find(id)?;
        if container.status.borrow().state != ContainerState::Running {
            return Err(container.wrong_state("running"));
        }
        container.command(&Request::Signal { signal }).await
    }

    /// Asks the command to end (`signal`, else the container's stop signal, else SIGTERM), kills the
    /// container after `grace`, and returns how it ended. An ended container answers at once.
    ///
    /// # Errors
    /// When the container is not there, or survives SIGKILL.
    pub async fn stop(&self, id: &str, signal: Option<i32>, grace: Duration) -> Result<ExitStatus> {
        let container = self.find(id)?;
        let state = container.status.borrow().state;
        if state == ContainerState::Running {
            let signal = signal
                .or(container.record.spec.stop_signal)
                .unwrap_or(libc::SIGTERM);
            // A command that ends meanwhile refuses the signal, which is just as well.
            let _ = container.command(&Request::Signal { signal }).await;
            let ended = container.until(|status| status.exit.is_some());
            if let Ok(status) = tokio::time::timeout(grace, ended).await
                && let Some(exit) = status.exit
            {
                return Ok(exit);
            }
        }
        self.kill(&container).await
    }

    /// Waits until the container has ended.
    ///
    /// # Errors
    /// When the container is not there.
    pub async fn wait(&self, id: &str) -> Result<ExitStatus> {
        let container = self.find(id)?;
        let status = container.until(|status| status.exit.is_some()).await;
        status.exit.ok_or_else(|| container.wrong_state("exited"))
    }

    /// Removes a container: its processes (killed if they still run), cgroups, mounts, sockets,
    /// log and state. Deleting what is not there succeeds.
    ///
    /// # Errors
    /// When something could not be removed; calling again tries again.
    pub async fn delete(&self, id: &str) -> Result<()> {
        check_id(id)?;
        let config = &self.inner.config;
        let mut cgroup = format!("{}/{id}", config.cgroup_parent);
        if let Ok(container) = self.find(id) {
            self.kill(&container).await?;
            let gone = container.until(|status| status.shim_gone);
            if tokio::time::timeout(SHIM_DEADLINE, gone).await.is_err() {
                return Err(container.gone(io::ErrorKind::TimedOut.into()));
            }
            cgroup.clone_from(&container.record.cgroup);
        }
        let (state, run) = (config.state_dir.join(id), config.run_dir.join(id));
        self.erase(&cgroup, state, run).await?;
        self.containers().remove(id);
        Ok(())
    }

    /// All containers, adopted ones included, sorted by id.
    pub fn list(&self) -> Vec<ContainerInfo> {
        let containers = self.containers();
        containers
            .values()
            .map(|container| container.info())
            .collect()
    }

    /// One container.
    ///
    /// # Errors
    /// When it is not there.
    pub fn inspect(&self, id: &str) -> Result<ContainerInfo> {
        self.find(id).map(|container| container.info())
    }

    /// Runs a command in a running container.
    ///
    /// # Errors
    /// When the container is not running, or the command is missing or cannot be executed.
    pub async fn exec(&self, id: &str, spec: &ExecSpec) -> Result<ExecSession> {
        let container = self.find(id)?;
        if container.status.borrow().state != ContainerState::Running {
            return Err(container.wrong_state("running"));
        }
        exec::start(&container, spec, &spawn::host(&self.inner.hierarchies)).await
    }

    /// Events from now on. What nobody was there to hear, e.g. the ends of containers that
    /// [`Runtime::open`] found, goes to the first subscriber.
    pub fn events(&self) -> mpsc::UnboundedReceiver<ContainerEvent> {
        self.inner.events.subscribe()
    }

    /// The log of a container, of an ended one too.
    ///
    /// # Errors
    /// When the container is not there or its log cannot be read.
    pub async fn logs(&self, id: &str, options: LogOptions) -> Result<LogStream> {
        let container = self.find(id)?;
        logs::open(container, options)
    }

    /// Host process ids of everything that runs in the container.
    ///
    /// # Errors
    /// When the container is not there.
    pub fn pids(&self, id: &str) -> Result<Vec<u32>> {
        let container = self.find(id)?;
        Ok(self.inner.hierarchies.pids(&container.record.cgroup))
    }

    /// Sets the size of the terminal of a container made with `tty`.
    ///
    /// # Errors
    /// When the container is not running or has no terminal.
    pub async fn resize(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        let container = self.find(id)?;
        container.command(&Request::Resize { rows, columns }).await
    }

    /// The cgroup2 directory above all containers, for programs that attach to it.
    pub fn cgroup_v2_parent(&self) -> Option<PathBuf> {
        let parent = &self.inner.config.cgroup_parent;
        self.inner.hierarchies.v2_path(parent)
    }

    /// Removes the cgroups above the containers, and what containers left in them, as far as they are empty. For an
    /// agent that leaves the machine for good.
    pub fn remove_parent_cgroups(&self) {
        let (hierarchies, parent) = (&self.inner.hierarchies, &self.inner.config.cgroup_parent);
        if let Err(error) = hierarchies.remove(parent) {
            tracing::warn!(parent, %error, "control groups are left");
        }
        hierarchies.prune(parent);
    }

    /// Where the runtime keeps things.
    pub fn config(&self) -> &RuntimeConfig {
        &self.inner.config
    }

    async fn launch(
        &self,
        record: Record,
        state_dir: &std::path::Path,
        run_dir: &std::path::Path,
    ) -> Result<ContainerRef> {
        let inner = self.inner.clone();
        let id = record.spec.id.clone();
        let prepared = {
            let (inner, record) = (inner.clone(), record.clone());
            let (state, run) = (state_dir.to_owned(), run_dir.to_owned());
            blocking(move || spawn::prepare(&record, &inner.hierarchies, &state, &run))
        };
        prepared.await?;
        let (pid, shim) = spawn::shim(&inner.exe, &id, state_dir, run_dir).await?;
        let (state, run) = (state_dir.to_owned(), run_dir.to_owned());
        let container = Arc::new(Container::new(record, state, run, pid, shim));
        self.containers().insert(id, container.clone());
        Ok(container)
    }

    /// SIGKILL, through the shim or, if that does not answer, through the cgroup.
    async fn kill(&self, container: &ContainerRef) -> Result<ExitStatus> {
        let signal = Request::Signal {
            signal: libc::SIGKILL,
        };
        if container.status.borrow().exit.is_none()
            && let Err(error) = container.command(&signal).await
        {
            tracing::debug!(id = container.id(), %error, "killing by cgroup");
            let (inner, cgroup) = (self.inner.clone(), container.record.cgroup.clone());
            blocking(move || inner.hierarchies.kill_all(&cgroup)).await?;
        }
        let ended = container.until(|status| status.exit.is_some());
        match tokio::time::timeout(KILL_DEADLINE, ended).await {
            Ok(status) => status.exit.ok_or_else(|| container.wrong_state("exited")),
            Err(_) => Err(container.gone(io::ErrorKind::TimedOut.into())),
        }
    }

    /// Removes cgroups and directories.
    async fn erase(&self, cgroup: &str, state: PathBuf, run: PathBuf) -> Result<()> {
        let (inner, cgroup) = (self.inner.clone(), cgroup.to_owned());
        blocking(move || {
            inner.hierarchies.kill_all(&cgroup)?;
            inner.hierarchies.remove(&cgroup)?;
            for directory in [run, state] {
                match fs::remove_dir_all(&directory) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(RuntimeError::io("remove", directory)(error));
                    }
                    _ => {}
                }
            }
            Ok(())
        })
        .await
    }

    fn find(&self, id: &str) -> Result<ContainerRef> {
        let containers = self.containers();
        containers
            .get(id)
            .cloned()
            .ok_or_else(|| RuntimeError::NotFound { id: id.to_owned() })
    }

    fn containers(&self) -> MutexGuard<'_, BTreeMap<String, ContainerRef>> {
        let containers = &self.inner.containers;
        containers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(RuntimeError::Io {
            action: "run a task for",
            path: "runtime".into(),
            source: io::Error::other(error),
        }),
    }
}

/// Ids become file names and cgroup names.
fn check_id(id: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.+".contains(&byte);
    if (1..=64).contains(&id.len()) && id.bytes().all(plain) && !id.starts_with('.') {
        return Ok(());
    }
    Err(RuntimeError::InvalidSpec {
        reason: format!("container id \"{id}\" must be 1 to 64 of [a-zA-Z0-9_.+-], not dot first"),
    })
}
