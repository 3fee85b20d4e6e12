//! Disks. What was written and not synced may be lost, in part and in any order, when the power goes; a disk may be full.

use crate::{
    sim::{Life, Sim},
    violation::Plant,
};
use rand::Rng;
use redb::{Builder, Database, DatabaseError, StorageBackend};
use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What is written whole or not at all, bytes.
const SECTOR: usize = 512;
/// A log is small here.
const CACHE: usize = 4 << 20;

/// A change that is not on the disk for good.
#[derive(Debug)]
enum Change {
    Write { at: usize, data: Vec<u8> },
    Length(usize),
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Self::Write { at, data } => {
                let end = at + data.len();
                if file.len() < end {
                    file.resize(end, 0);
                }
                file[*at..end].copy_from_slice(data);
            }
            Self::Length(length) => file.resize(*length, 0),
        }
    }
}

#[derive(Debug, Default)]
struct File {
    /// As it is read.
    current: Vec<u8>,
    /// As it is sure to be after a power cut.
    synced: Vec<u8>,
    unsynced: Vec<Change>,
}

/// How a machine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The process is killed: the kernel keeps what was written.
    Killed,
    /// All that was not synced is lost.
    PowerCut,
    /// Some of it is lost, whatever the order, and what is being written is torn.
    TornPowerCut,
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<PathBuf, File>,
    is_full: bool,
    /// The machine ends after so many more changes and syncs.
    ends_after: Option<u32>,
}

/// A machine's disk. It outlives the machine.
#[derive(Debug, Default)]
pub(crate) struct Disk(Mutex<State>);

impl Disk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is left once the machine has ended.
    pub(crate) fn end(&self, how: End, sim: &Sim) {
        let mut state = self.lock();
        state.ends_after = None;
        state.is_full = false;
        // Each file by itself; there is only one a manager.
        for file in state.files.values_mut() {
            let unsynced = std::mem::take(&mut file.unsynced);
            match how {
                End::Killed => unsynced.iter().for_each(|c| c.apply(&mut file.synced)),
                End::PowerCut => {}
                End::TornPowerCut => {
                    for change in unsynced {
                        tear(change, sim).apply(&mut file.synced);
                    }
                }
            }
            file.current.clone_from(&file.synced);
        }
    }

    /// Nothing is left on it.
    pub(crate) fn wipe(&self) {
        self.lock().files.clear();
    }

    /// From now on, or no more, writes are refused.
    pub(crate) fn fill(&self, is_full: bool) {
        self.lock().is_full = is_full;
    }

    /// It has room, and the machine does not end.
    pub(crate) fn heal(&self) {
        let mut state = self.lock();
        state.is_full = false;
        state.ends_after = None;
    }

    /// Ends the machine after so many more writes and syncs.
    pub(crate) fn end_after(&self, steps: u32) {
        self.lock().ends_after = Some(steps);
    }

    /// Opens a database for as long as `life` lasts.
    pub(crate) fn open(
        self: &Arc<Self>,
        path: &Path,
        create: bool,
        life: &Life,
        plant: Option<Plant>,
    ) -> Result<Database, DatabaseError> {
        {
            let mut state = self.lock();
            if !create && !state.files.contains_key(path) {
                return Err(io::Error::from(io::ErrorKind::NotFound).into());
            }
            state.files.entry(path.to_owned()).or_default();
        }
        let file = OpenFile {
            disk: self.clone(),
            path: path.to_owned(),
            life: life.clone(),
            is_forgetful: plant == Some(Plant::ForgetfulDisks),
        };
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE);
        builder.create_with_backend(file)
    }
}

/// What a power cut leaves of a change.
fn tear(change: Change, sim: &Sim) -> Change {
    let mut dice = sim.dice();
    match change {
        Change::Write { at, data } => {
            let sectors = data.len().div_ceil(SECTOR);
            let kept = match dice.random_range(0..3) {
                0 => 0,
                1 => data.len(),
                _ => dice.random_range(0..=sectors) * SECTOR,
            };
            let data = data[..kept.min(data.len())].to_vec();
            Change::Write { at, data }
        }
        length => length,
    }
}

/// A file as a machine has it open.
#[derive(Debug)]
struct OpenFile {
    disk: Arc<Disk>,
    path: PathBuf,
    life: Life,
    is_forgetful: bool,
}

impl OpenFile {
    fn with<T>(&self, work: impl FnOnce(&mut File) -> io::Result<T>) -> io::Result<T> {
        if self.life.is_over() {
            return Err(io::Error::other("the machine is off"));
        }
        let mut state = self.disk.lock();
        let file = state.files.get_mut(&self.path);
        work(file.ok_or(io::ErrorKind::NotFound)?)
    }

    /// A step at which the machine may end, or the disk may be full.
    fn step(&self, needs_room: bool) -> io::Result<()> {
        let mut state = self.disk.lock();
        if let Some(left) = &mut state.ends_after {
            *left = left.saturating_sub(1);
            if *left == 0 {
                state.ends_after = None;
                self.life.end();
            }
        }
        if state.is_full && needs_room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl StorageBackend for OpenFile {
    fn len(&self) -> Result<u64, io::Error> {
        self.with(|file| Ok(file.current.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.with(|file| {
            let at = offset as usize;
            let data = file.current.get(at..at + out.len());
            out.copy_from_slice(data.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.step(true)?;
        self.with(|file| {
            let change = Change::Length(len as usize);
            change.apply(&mut file.current);
            file.unsynced.push(change);
            Ok(())
        })
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.step(false)?;
        if self.is_forgetful {
            return Ok(());
        }
        self.with(|file| {
            for change in file.unsynced.drain(..) {
                change.apply(&mut file.synced);
            }
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.step(true)?;
        self.with(|file| {
            let change = Change::Write {
                at: offset as usize,
                data: data.to_vec(),
            };
            change.apply(&mut file.current);
            file.unsynced.push(change);
            Ok(())
        })
    }
}
