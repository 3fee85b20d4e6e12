//! Work for one task that takes its time, done beside the loop: images, root file systems, the
//! container's life. Each piece may be repeated from the start after a crash.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc};

use anyhow::{Context, Result, anyhow};
use mesh_api::{
    engine::{TaskSpec, TaskSpecContainerSpec},
    handout::Kind,
    proto,
};
use mesh_image::{Credentials, ImageRecord, ImageStore, PullOptions, Reference, silent};
use mesh_runtime::{Runtime, RuntimeError};
use tokio::sync::Semaphore;

use super::{handover::Handover, listening};
use crate::{
    assignment::Handout,
    container::{self, Handed, Names, Places},
    volumes::Volumes,
};

/// Tasks prepared or started at the same time; more only compete for the same CPUs and disk.
const AT_ONCE: usize = 8;

/// What jobs work with.
#[derive(Clone)]
pub struct Tools {
    /// The containers.
    pub runtime: Runtime,
    /// The images.
    pub images: ImageStore,
    /// Who this node is, for templates.
    pub names: Names,
    /// The node's volumes.
    pub volumes: Volumes,
    /// Search domains of the node, inherited by tasks.
    pub search: Vec<String>,
    turns: Arc<Semaphore>,
}

/// What a container is made of, besides the tools.
#[derive(Debug, Clone)]
pub struct Order {
    /// The task.
    pub task: proto::Task,
    /// Its namespace; none for the host's.
    pub netns: Option<PathBuf>,
    /// Directory for the files shown to it.
    pub files: PathBuf,
    /// Directory for its secrets and configs while its container is being made.
    pub handover: PathBuf,
    /// Those, as far as they are known.
    pub handouts: BTreeMap<(Kind, String), Arc<Handout>>,
    /// Its addresses, the first one first in /etc/hosts.
    pub addresses: Vec<IpAddr>,
}

impl Tools {
    /// Puts them together.
    pub fn new(
        runtime: Runtime,
        images: ImageStore,
        names: Names,
        volumes: Volumes,
        search: Vec<String>,
    ) -> Self {
        Self {
            runtime,
            images,
            names,
            volumes,
            search,
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Image, root file system, files, container.
    ///
    /// # Errors
    /// What goes into the task's error as it is.
    pub async fn prepare(&self, order: Order) -> Result<()> {
        let task = &order.task;
        let spec = spec_of(task)?;
        let wanted = spec
            .container_spec
            .as_ref()
            .ok_or_else(|| anyhow!("the task has no container specification"))?;
        let image = self
            .image(
                wanted.image.as_deref().unwrap_or_default(),
                &task.registry_auth,
            )
            .await?;
        let turn = self.turns.acquire().await?;
        let rootfs = {
            let (images, image, id) = (self.images.clone(), image.clone(), task.id.clone());
            tokio::task::spawn_blocking(move || images.mount_rootfs(&image, &id)).await??
        };
        let places = Places {
            rootfs,
            netns: order.netns.clone(),
            resolv_conf: order.files.join("resolv.conf"),
            hosts: order.files.join("hosts"),
            hostname: order.files.join("hostname"),
            volumes: self.volumes.dir().to_owned(),
        };
        let mut plan = {
            let (task, spec, config) = (task.clone(), spec.clone(), image.config.clone());
            let (names, places) = (self.names.clone(), places.clone());
            // Templates may take a while.
            let make = move || container::plan(&task, &spec, &config, &names, &places);
            tokio::task::spawn_blocking(make).await??
        };
        for folder in &plan.folders {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("create {}", folder.display()))?;
        }
        // A file server that does not answer holds up nobody else's task.
        drop(turn);
        let _taken = self
            .volumes
            .take(&task.id, &plan.volumes, &places.rootfs)
            .await?;
        let _turn = self.turns.acquire().await?;
        std::fs::create_dir_all(&order.files).context("create the task's directory")?;
        let hostname = plan.container.hostname.clone();
        let resolv = if order.netns.is_some() {
            container::resolv_conf(wanted.dns_config.as_ref(), &self.search)
        } else {
            std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
        };
        let hosts = container::hosts(
            &hostname,
            &order.addresses,
            wanted.hosts.as_deref().unwrap_or_default(),
        );
        for (path, text) in [
            (&places.resolv_conf, resolv),
            (&places.hosts, hosts),
            (&places.hostname, format!("{hostname}\n")),
        ] {
            std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
        }
        // A half-made container of an earlier agent is in the way.
        self.runtime.delete(&task.id).await?;
        // Until the container has what is in there.
        let handover = order.hand_over(wanted, &self.names, plan.handed).await?;
        let mounts = handover.iter().flat_map(Handover::mounts);
        plan.container.mounts.extend(mounts);
        self.runtime.create(&plan.container).await?;
        Ok(())
    }

    /// The image: as it is here, else pulled.
    async fn image(&self, name: &str, auth: &str) -> Result<ImageRecord> {
        if name.is_empty() {
            return Err(anyhow!("the task names no image"));
        }
        if let Ok(found) = self.images.get(name) {
            return Ok(found);
        }
        let reference = Reference::parse(name)?;
        let options = PullOptions {
            credentials: Credentials::from_registry_auth(auth)?,
            platform: None,
        };
        self.images
            .pull(&reference, &options, &silent())
            .await
            .map_err(|error| anyhow!("No such image: {name}: {:#}", anyhow::Error::from(error)))
    }

    /// Lets the command begin.
    ///
    /// # Errors
    /// What goes into the task's error as it is.
    pub async fn start(&self, id: &str) -> Result<()> {
        let _turn = self.turns.acquire().await?;
        Ok(self.runtime.start(id).await?)
    }

    /// Waits until the command listens on the ports that its service publishes.
    ///
    /// # Errors
    /// When there is no such container.
    pub(crate) async fn listen(&self, id: &str, ports: &listening::Ports) -> Result<()> {
        listening::wait(&self.runtime.inspect(id)?, ports).await;
        Ok(())
    }

    /// Ends the command: stop signal, grace, kill.
    ///
    /// # Errors
    /// When the runtime cannot end it; the loop asks again.
    pub async fn stop(&self, task: &proto::Task) -> Result<()> {
        let spec = spec_of(task).unwrap_or_default();
        let grace = container::stop_grace(spec.container_spec.as_ref());
        let created = self
            .runtime
            .inspect(&task.id)
            .is_ok_and(|info| info.state == mesh_runtime::ContainerState::Created);
        if created {
            return Ok(self.runtime.delete(&task.id).await?);
        }
        match self.runtime.stop(&task.id, None, grace).await {
            Ok(_) | Err(RuntimeError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Unmounts the root file system of an ended task, and volumes that no other uses; its log stays.
    ///
    /// # Errors
    /// When it cannot be unmounted; the loop asks again.
    pub async fn release(&self, id: &str) -> Result<()> {
        let (images, id) = (self.images.clone(), id.to_owned());
        tokio::task::spawn_blocking(move || images.unmount_rootfs(&id)).await??;
        self.volumes.settle().await;
        Ok(())
    }

    /// Removes all there is of a task.
    ///
    /// # Errors
    /// When something cannot be removed; the loop asks again.
    pub async fn forget(&self, id: &str) -> Result<()> {
        self.runtime.delete(id).await?;
        self.release(id).await?;
        Ok(self.volumes.forget(id).await?)
    }
}

impl Order {
    /// Makes the files that the task is handed, if there are any.
    async fn hand_over(
        &self,
        wanted: &TaskSpecContainerSpec,
        node: &Names,
        files: Vec<Handed>,
    ) -> Result<Option<Handover>> {
        if files.is_empty() {
            return Ok(None);
        }
        let (task, wanted, node) = (self.task.clone(), wanted.clone(), node.clone());
        let (handouts, at) = (self.handouts.clone(), self.handover.clone());
        let make = move || {
            let files = container::contents(&task, &wanted, &node, &handouts, files)?;
            Handover::make(&at, files.iter().map(|(file, data)| (file, &**data)))
                .context("hand over secrets and configs")
        };
        tokio::task::spawn_blocking(make).await?.map(Some)
    }
}

/// The task's specification.
///
/// # Errors
/// When it cannot be read.
pub fn spec_of(task: &proto::Task) -> Result<TaskSpec> {
    serde_json::from_slice(&task.spec_json).context("the task's specification cannot be read")
}

/// Search domains in a resolv.conf.
pub fn search_domains(resolv_conf: &str) -> Vec<String> {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("search"))
        .next_back()
        .map(|rest| rest.split_whitespace().map(str::to_owned).collect())
        .unwrap_or_default()
}
