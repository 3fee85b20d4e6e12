//! The node's volumes: directories, and what the local driver's options mount there while tasks use it.
//!
//! `options` what is mounted · `mount` by a process of its own · `record` what is known of a volume, on disk · `content` what
//! it begins with, and its size · here: who uses one.
//!
//! A file server that does not answer may hold whoever looks through a mount of its own: nothing here does, but for threads that
//! may be kept, and processes that can be killed.
//!
//! Who uses a volume is read off the containers that there are, so an agent that comes anew knows it. Which mounts are ours
//! stands in a file for each, written before the mount: what somebody else has mounted there is used and left alone.

mod content;
mod mount;
mod options;
mod record;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::Utc;
use mesh_runtime::{ContainerInfo, ContainerState, Mount, Runtime};
use tokio::{
    sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
    time::timeout,
};

use crate::links::plan::container_id;
use record::{DATA, NAME_LETTERS};

pub use mount::{HELPER, helper_main};
pub use options::{OptionError, Options, check as check_options};
pub use record::{ANONYMOUS, Record, is_name};

/// Mounts, and first copies to what is mounted, that go on at the same time; each may wait for a file server.
const AT_ONCE: usize = 4;

/// Longest wait for one's turn among them.
const TURN_LIMIT: Duration = Duration::from_secs(120);

/// Why something is not done with a volume. The texts are Docker's where it has one.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// There is none of this name.
    #[error("get {0}: no such volume")]
    NotFound(String),
    /// Containers use it, these ones.
    #[error("remove {name}: volume is in use - [{}]", by.join(", "))]
    InUse {
        /// The volume.
        name: String,
        /// Ids of the containers.
        by: Vec<String>,
    },
    /// Something that is not ours is mounted in it.
    #[error("remove {0}: volume has active mounts")]
    Mounted(String),
    /// The name is none.
    #[error("create {name}: {cause}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The options are wrong.
    #[error("create {name}: {cause}")]
    Options {
        /// The volume.
        name: String,
        /// What is wrong.
        cause: OptionError,
    },
    /// Only the local driver is there.
    #[error(
        "create {name}: error looking up volume plugin {driver}: plugin {driver:?} not found: only the local driver is there"
    )]
    Driver {
        /// The volume.
        name: String,
        /// The driver asked for.
        driver: String,
    },
    /// It is there, and has other options.
    #[error(
        "create {0}: driver 'local' already has volume '{0}' with other options on this node: volume name must be unique: remove \
         it there, or use another name"
    )]
    Conflict(String),
    /// What its options say cannot be mounted.
    #[error("error while mounting volume '{}': {cause}", at.display())]
    Mount {
        /// Where.
        at: PathBuf,
        /// Why.
        cause: String,
    },
    /// The image's content cannot be copied into it.
    #[error("failed to populate volume {name}: {cause} (volume-nocopy leaves it as it is)")]
    Populate {
        /// The volume.
        name: String,
        /// Why.
        cause: mesh_image::ImageError,
    },
    /// The disk.
    #[error("{action} volume {name}: {cause}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The volume.
        name: String,
        /// The system's answer.
        cause: io::Error,
    },
}

/// A volume and what is known of it.
#[derive(Debug, Clone)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Where its content is.
    pub path: PathBuf,
    /// What is known of it.
    pub record: Record,
}

/// A volume as a task wants it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Where the task sees it and what the image has there is to be copied, unless the volume has content.
    pub copy: Vec<PathBuf>,
    /// What it is made with if it is not there; its options have to be the same if it is, where there are any.
    pub options: Options,
    /// Its labels, if it is not there.
    pub labels: BTreeMap<String, String>,
    /// It is the task's alone, and goes with it.
    pub is_anonymous: bool,
}

/// The volumes of this node. Cheap to clone.
#[derive(Clone)]
pub struct Volumes(Arc<Inner>);

struct Inner {
    /// One directory each; as the kernel names it.
    dir: PathBuf,
    /// All names of that directory that containers were made with.
    spellings: BTreeSet<PathBuf>,
    /// A file for each mount of ours, with its id; empty while it is being made. A reboot forgets them, as it does the mounts.
    marks: PathBuf,
    /// The program that mounts.
    helper: PathBuf,
    runtime: Runtime,
    /// Tasks that have no container yet, by volume.
    taken: Mutex<BTreeMap<String, Vec<String>>>,
    /// One thing at a time is done with each volume.
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    turns: Arc<Semaphore>,
    settling: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Volumes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Volumes").field(&self.0.dir).finish()
    }
}

/// Volumes that a task uses though it has no container yet; until this is dropped.
#[derive(Debug)]
pub struct Taken {
    volumes: Volumes,
    task: String,
    names: Vec<String>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut taken = guard(&self.volumes.0.taken);
        for name in &self.names {
            if let Some(tasks) = taken.get_mut(name) {
                if let Some(at) = tasks.iter().position(|task| *task == self.task) {
                    tasks.swap_remove(at);
                }
                if tasks.is_empty() {
                    taken.remove(name);
                }
            }
        }
    }
}

/// What keeps a volume for a task while something is done with it.
struct Hold {
    /// Given back before the lock is: who waits for that one is told the truth.
    _taken: Arc<Taken>,
    _lock: OwnedMutexGuard<()>,
}

impl Volumes {
    /// Those in `dir`, which are mounted by `helper` (this program, which [`helper_main`] answers in). Notes about mounts are
    /// in `marks`, which a reboot may forget.
    ///
    /// # Errors
    /// When the directories cannot be used.
    pub fn open(dir: &Path, marks: PathBuf, helper: PathBuf, runtime: Runtime) -> io::Result<Self> {
        fs::create_dir_all(&marks)?;
        let real = dir.canonicalize()?;
        // Listed now: what comes later is in use. It may be much, and nobody waits for it.
        let left = content::left(&real);
        std::thread::Builder::new().spawn(move || content::sweep(&left))?;
        let containers = runtime.list().into_iter();
        let mounts = containers.flat_map(|container| container.spec.mounts);
        Ok(Self(Arc::new(Inner {
            spellings: spellings(dir, &real, mounts),
            dir: real,
            marks,
            helper,
            runtime,
            taken: Mutex::default(),
            locks: Mutex::default(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            settling: tokio::sync::Mutex::default(),
        })))
    }

    /// The directory that all are in, as the kernel names it.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// Every volume, by name.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Volume>, VolumeError> {
        let failed = io_error("list", "");
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.0.dir).map_err(&failed)? {
            let name = entry.map_err(&failed)?.file_name();
            let Some(name) = name.to_str().filter(|name| is_name(name)) else {
                continue;
            };
            match self.get(name) {
                Ok(volume) => all.push(volume),
                // Removed meanwhile, or not ours to judge.
                Err(VolumeError::NotFound(_)) => {}
                Err(error) => tracing::warn!(%error, "a volume is left out"),
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// The volume of this name.
    ///
    /// # Errors
    /// There is none, or its record cannot be read.
    pub fn get(&self, name: &str) -> Result<Volume, VolumeError> {
        let dir = self.0.dir.join(name);
        if !is_name(name) || !dir.is_dir() {
            return Err(VolumeError::NotFound(name.to_owned()));
        }
        Ok(Volume {
            name: name.to_owned(),
            path: dir.join(DATA),
            record: Record::load(&dir).map_err(io_error("read", name))?,
        })
    }

    /// Makes a volume; one without a name gets one. One that is there is given, whatever its labels.
    ///
    /// # Errors
    /// A name or options that are none, or the volume is there with other options.
    pub async fn create(
        &self,
        name: &str,
        driver: &str,
        mut record: Record,
    ) -> Result<Volume, VolumeError> {
        let name = match name {
            "" => {
                record.labels.insert(ANONYMOUS.to_owned(), String::new());
                format!(
                    "{:032x}{:032x}",
                    rand::random::<u128>(),
                    rand::random::<u128>()
                )
            }
            name => name.to_owned(),
        };
        check_name(&name)?;
        if !matches!(driver, "" | "local") {
            return Err(VolumeError::Driver {
                name,
                driver: driver.to_owned(),
            });
        }
        let _lock = self.lock(&name).await;
        self.find_or_make(&name, record)
    }

    /// Removes a volume that nobody uses, and all that is in it.
    ///
    /// # Errors
    /// There is none, it is in use, or it cannot be removed.
    pub async fn remove(&self, name: &str) -> Result<(), VolumeError> {
        let _lock = self.lock(name).await;
        self.get(name)?;
        let by = self.users(name, |_| true);
        if !by.is_empty() {
            let by = by.iter().map(|task| container_id(task)).collect();
            let name = name.to_owned();
            return Err(VolumeError::InUse { name, by });
        }
        self.unmount(name).await?;
        let failed = io_error("remove", name);
        let dir = self.0.dir.join(name);
        if !mount::mounted(&dir).map_err(&failed)?.is_empty() {
            return Err(VolumeError::Mounted(name.to_owned()));
        }
        // Gone at once, whatever becomes of its content.
        let trash = record::scratch_in(&self.0.dir).map_err(&failed)?;
        fs::rename(&dir, &trash).map_err(&failed)?;
        let removed = spawn_blocking(move || mesh_image::remove_tree(&trash)).await;
        removed
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(failed)
    }

    /// Bytes in a volume.
    pub async fn size(&self, volume: &Volume) -> u64 {
        let path = volume.path.clone();
        let counted = spawn_blocking(move || content::size(&path)).await;
        counted.unwrap_or_default()
    }

    /// Whether a container uses it, be it one that has ended.
    pub fn is_used(&self, name: &str) -> bool {
        !self.users(name, |_| true).is_empty()
    }

    /// The name of the volume that this path is the content of.
    pub fn name_of(&self, path: &Path) -> Option<String> {
        let (volumes, name) = volume_of(path)?;
        self.0.spellings.contains(volumes).then(|| name.to_owned())
    }

    /// Makes volumes ready for a task: makes them, mounts what their options say, and copies what the image has there. They
    /// count as used until the answer is dropped; by then the task has its container.
    ///
    /// # Errors
    /// What goes into the task's error as it is.
    pub async fn take(
        &self,
        task: &str,
        wanted: &BTreeMap<String, Wanted>,
        rootfs: &Path,
    ) -> Result<Arc<Taken>, VolumeError> {
        let names: Vec<_> = wanted.keys().cloned().collect();
        {
            let mut taken = guard(&self.0.taken);
            for name in &names {
                taken.entry(name.clone()).or_default().push(task.to_owned());
            }
        }
        let taken = Arc::new(Taken {
            volumes: self.clone(),
            task: task.to_owned(),
            names,
        });
        for (name, wanted) in wanted {
            let hold = Hold {
                _taken: Arc::clone(&taken),
                _lock: self.lock(name).await,
            };
            let mut record = Record {
                created: None,
                options: wanted.options.clone(),
                labels: wanted.labels.clone(),
                task: None,
            };
            if wanted.is_anonymous {
                record.labels.insert(ANONYMOUS.to_owned(), String::new());
                record.task = Some(task.to_owned());
            }
            let volume = self.find_or_make(name, record)?;
            self.mount(&volume).await?;
            self.populate(&volume, rootfs, &wanted.copy, hold).await?;
        }
        Ok(taken)
    }

    /// Unmounts what no task uses any more. What cannot be unmounted now, or something is being done with, is looked at again the
    /// next time.
    pub async fn settle(&self) {
        let Ok(_settling) = self.0.settling.try_lock() else {
            return;
        };
        let marks = fs::read_dir(&self.0.marks).into_iter().flatten().flatten();
        let names: Vec<_> = marks
            .filter_map(|mark| mark.file_name().into_string().ok())
            .collect();
        for name in names {
            let Ok(_lock) = self.lock_of(&name).try_lock_owned() else {
                continue;
            };
            let is_live = |container: &ContainerInfo| container.state != ContainerState::Exited;
            if self.users(&name, is_live).is_empty()
                && let Err(error) = self.unmount(&name).await
            {
                tracing::warn!(%error, "a volume stays mounted for now");
            }
        }
    }

    /// Removes the volumes that were this task's alone; one that somebody has come to use by its name stays.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub async fn forget(&self, task: &str) -> Result<(), VolumeError> {
        // Older agents named them so, and wrote nothing down.
        let old = format!("{task}_");
        for volume in self.list()? {
            let is_own = volume.record.task.as_deref() == Some(task);
            if !is_own && !volume.name.starts_with(&old) {
                continue;
            }
            match self.remove(&volume.name).await {
                Err(
                    error @ (VolumeError::InUse { .. }
                    | VolumeError::Mounted(_)
                    | VolumeError::NotFound(_)),
                ) => tracing::warn!(task, %error, "a volume of an ended task is left"),
                removed => removed?,
            }
        }
        Ok(())
    }

    fn find_or_make(&self, name: &str, mut record: Record) -> Result<Volume, VolumeError> {
        options::check(&record.options).map_err(|cause| VolumeError::Options {
            name: name.to_owned(),
            cause,
        })?;
        match self.get(name) {
            Ok(found) if record.options.is_empty() || found.record.options == record.options => {
                // By hand, or by an older agent. This does not look at what is mounted there.
                match fs::create_dir(&found.path) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        Err(io_error("create", name)(error))
                    }
                    _ => Ok(found),
                }
            }
            Ok(_) => Err(VolumeError::Conflict(name.to_owned())),
            Err(VolumeError::NotFound(_)) => {
                record.created = Some(Utc::now());
                record
                    .make(&self.0.dir, name)
                    .map_err(io_error("create", name))?;
                self.get(name)
            }
            Err(error) => Err(error),
        }
    }

    /// Mounts what the volume's options say, unless something is mounted there.
    async fn mount(&self, volume: &Volume) -> Result<(), VolumeError> {
        let Some(mut source) = options::source(&volume.record.options) else {
            return Ok(());
        };
        let name = &volume.name;
        let failed = io_error("mount", name);
        if !self.mounts_at(name).map_err(&failed)?.is_empty() {
            return Ok(());
        }
        let wrong = |cause: String| VolumeError::Mount {
            at: volume.path.clone(),
            cause,
        };
        let _turn = self.turn().await.map_err(wrong)?;
        if let Some(server) = source.server() {
            let address = resolve(server).await.map_err(|cause| {
                wrong(format!(
                    "error resolving passed in network volume address: lookup {server}: {cause}"
                ))
            })?;
            source = source.at(address);
        }
        let mark = self.0.marks.join(name);
        fs::write(&mark, "").map_err(&failed)?;
        let shown = source.shown(&volume.path.display().to_string());
        if let Err(error) = mount::mount(&self.0.helper, source, &volume.path).await {
            // It may have come about all the same.
            self.unmount(name).await?;
            return Err(wrong(format!(
                "failed to mount local volume: {shown}: {error}"
            )));
        }
        let ids = self.mounts_at(name).map_err(&failed)?;
        let id = ids.last().map_or_else(String::new, u64::to_string);
        fs::write(&mark, id).map_err(failed)?;
        tracing::info!(volume = name, "mounted");
        Ok(())
    }

    /// Takes our mount away, if there is one.
    async fn unmount(&self, name: &str) -> Result<(), VolumeError> {
        let failed = io_error("unmount", name);
        let mark = self.0.marks.join(name);
        let known = match fs::read_to_string(&mark) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            known => known.map_err(&failed)?,
        };
        let at = self.0.dir.join(name).join(DATA);
        let ids = self.mounts_at(name).map_err(&failed)?;
        // An agent that ended between mount and note had looked that nothing was there.
        let is_ours = |id: &u64| known.is_empty() || id.to_string() == known;
        if ids.last().is_some_and(is_ours) {
            let unmounted = mount::unmount(&self.0.helper, &at).await;
            unmounted.map_err(|error| failed(io::Error::other(error)))?;
            tracing::info!(volume = name, "unmounted");
        }
        fs::remove_file(&mark).map_err(failed)
    }

    /// Ids of the mounts where the volume's content is, the topmost last.
    fn mounts_at(&self, name: &str) -> io::Result<Vec<u64>> {
        let at = self.0.dir.join(name).join(DATA);
        let all = mount::mounted(&at)?.into_iter();
        Ok(all
            .filter_map(|(path, id)| (path == at).then_some(id))
            .collect())
    }

    /// Copies what the image has. The copy cannot be broken off: it keeps the volume if nobody waits for it any more.
    async fn populate(
        &self,
        volume: &Volume,
        rootfs: &Path,
        targets: &[PathBuf],
        hold: Hold,
    ) -> Result<(), VolumeError> {
        let failed = io_error("populate", &volume.name);
        let first = content::First {
            name: volume.name.clone(),
            dir: self.0.dir.join(&volume.name),
            rootfs: rootfs.to_owned(),
            targets: targets.to_owned(),
        };
        let look = move || (first.is_due(), first, hold);
        let looked = spawn_blocking(look).await;
        let (is_due, first, hold) = looked.map_err(|error| failed(io::Error::other(error)))?;
        if !is_due? {
            return Ok(());
        }
        let turn = match volume.record.options.is_empty() {
            // A disk of this node's.
            true => None,
            false => Some(self.turn().await.map_err(|e| failed(io::Error::other(e)))?),
        };
        let copy = move || {
            let copied = first.copy();
            drop((turn, hold));
            copied
        };
        let copied = spawn_blocking(copy).await;
        copied.unwrap_or_else(|error| Err(failed(io::Error::other(error))))
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, String> {
        match timeout(TURN_LIMIT, Arc::clone(&self.0.turns).acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(format!(
                "other volumes of this node have been waited for during {} s: check their file servers",
                TURN_LIMIT.as_secs()
            )),
        }
    }

    /// Tasks whose containers use the volume, of those that `counts`, and those that are about to.
    fn users(&self, name: &str, counts: impl Fn(&ContainerInfo) -> bool) -> BTreeSet<String> {
        let uses = |container: &&ContainerInfo| {
            let mut mounts = container.spec.mounts.iter();
            mounts.any(|mount| {
                matches!(mount, Mount::Bind(bind) if self.name_of(&bind.source).as_deref() == Some(name))
            })
        };
        let containers = self.0.runtime.list();
        let mut users: BTreeSet<_> = containers
            .iter()
            .filter(|container| counts(container))
            .filter(uses)
            .map(|container| container.spec.id.clone())
            .collect();
        let taken = guard(&self.0.taken);
        users.extend(taken.get(name).into_iter().flatten().cloned());
        users
    }

    async fn lock(&self, name: &str) -> OwnedMutexGuard<()> {
        self.lock_of(name).lock_owned().await
    }

    fn lock_of(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = guard(&self.0.locks);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(name.to_owned()).or_default())
    }
}

/// The names of the directory `real` in these mounts of containers: what it was called may have changed since. What leads
/// nowhere any more counts too: better a volume too many in use than one too few.
fn spellings(dir: &Path, real: &Path, mounts: impl Iterator<Item = Mount>) -> BTreeSet<PathBuf> {
    let mut known = BTreeSet::from([dir.to_owned(), real.to_owned()]);
    for mount in mounts {
        let Mount::Bind(bind) = mount else { continue };
        let Some((volumes, _)) = volume_of(&bind.source) else {
            continue;
        };
        let is_ours = || match volumes.canonicalize() {
            Ok(found) => volumes.is_relative() || found == real,
            Err(_) => true,
        };
        if volumes.file_name() == dir.file_name() && !known.contains(volumes) && is_ours() {
            known.insert(volumes.to_owned());
        }
    }
    known
}

/// The directory of volumes and the volume that this path would be the content of.
fn volume_of(path: &Path) -> Option<(&Path, &str)> {
    let dir = path.parent().filter(|_| path.ends_with(DATA))?;
    let name = dir.file_name()?.to_str().filter(|name| is_name(name))?;
    Some((dir.parent()?, name))
}

/// Docker's rules for the name of a volume.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), VolumeError> {
    let wrong = |cause: String| {
        Err(VolumeError::Name {
            name: name.to_owned(),
            cause,
        })
    };
    if name.len() == 1 {
        return wrong(
            "volume name is too short, names should be at least two alphanumeric characters"
                .to_owned(),
        );
    }
    if !is_name(name) {
        return wrong(format!(
            "{name:?} includes invalid characters for a local volume name, only {NAME_LETTERS:?} are allowed. If you intended to \
             pass a host directory, use absolute path"
        ));
    }
    Ok(())
}

/// An address of a server.
async fn resolve(server: &str) -> Result<std::net::IpAddr, String> {
    let looked_up = timeout(TURN_LIMIT / 4, tokio::net::lookup_host((server, 0))).await;
    match looked_up {
        Ok(Ok(mut found)) => found
            .next()
            .map(|address| address.ip())
            .ok_or_else(|| "no such host".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

fn io_error(action: &'static str, name: &str) -> impl Fn(io::Error) -> VolumeError + use<> {
    let name = name.to_owned();
    move |cause| VolumeError::Io {
        action,
        name: name.clone(),
        cause,
    }
}

fn guard<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use mesh_runtime::BindMount;

    use super::*;

    #[test]
    fn names_are_refused_in_dockers_words() {
        assert!(check_name("data").is_ok());
        assert_eq!(
            check_name("d").expect_err("too short").to_string(),
            "create d: volume name is too short, names should be at least two alphanumeric characters"
        );
        assert_eq!(
            check_name("a/b").expect_err("a path").to_string(),
            "create a/b: \"a/b\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are \
             allowed. If you intended to pass a host directory, use absolute path"
        );
    }

    #[test]
    fn volumes_are_known_by_all_names_of_their_directory() {
        let base = tempfile::tempdir().expect("a directory");
        let at = |name: &str| base.path().join(name);
        for name in ["real/volumes", "other/volumes"] {
            fs::create_dir_all(at(name)).expect("made");
        }
        for name in ["old", "new"] {
            std::os::unix::fs::symlink(at("real"), at(name)).expect("linked");
        }
        let real = at("real/volumes").canonicalize().expect("there");
        let mounts = ["old", "gone", "other"].map(|name| {
            Mount::Bind(BindMount {
                source: at(name).join("volumes/data/_data"),
                ..BindMount::default()
            })
        });
        let known = spellings(&at("new/volumes"), &real, mounts.into_iter());
        let expected = [
            real,
            at("new/volumes"),
            at("old/volumes"),
            at("gone/volumes"),
        ];
        assert_eq!(known, BTreeSet::from(expected));
    }
}
