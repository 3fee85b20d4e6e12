//! Log, vote and snapshot in one redb file. Every write is on disk when it is acknowledged, so that
//! a process that is killed at any moment loses nothing it has answered for. Entries and snapshots
//! are encrypted with a key in a file of its own.

use super::{
    seal::{Sealer, is_of_other, is_sealed},
    types::{Entry, LogId, SnapshotMeta, StorageError, TypeConfig, Vote},
};
use crate::{Machine, ManagerError, Unlock};
use openraft::{
    AnyError, ErrorSubject, ErrorVerb, LogState, OptionalSend, RaftLogId, RaftLogReader,
    StorageIOError,
    storage::{LogFlushed, RaftLogStorage},
};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt::Debug,
    ops::{Bound, RangeBounds},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::{RwLock, watch};

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// Entries go to a follower in messages of so many bytes, or one by one.
const LONGEST_MESSAGE: usize = 512 << 10;

const VOTE: &str = "vote";
const PURGED: &str = "purged";
const SNAPSHOT_META: &str = "snapshot-meta";
const SNAPSHOT_DATA: &str = "snapshot-data";

/// What the key's file is called: as the log, but for this extension.
const KEY_EXTENSION: &str = "key";

/// Any failure below openraft.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The file.
#[derive(Debug, Clone)]
pub(super) struct LogStore {
    db: Arc<Database>,
    sealer: Arc<Sealer>,
    /// Shared from a record's encryption until it is on disk: whoever has had the other lock finds all in the file that was
    /// encrypted before.
    sealing: Arc<RwLock<()>>,
    /// The entries before this index are in the snapshot on disk; `None` once one could not be written.
    covered: Arc<watch::Sender<Option<u64>>>,
    machine: Machine,
}

/// How far a snapshot reaches: the index after its last entry.
fn end_of(meta: &SnapshotMeta) -> u64 {
    meta.last_log_id.map_or(0, |last| last.index + 1)
}

/// What openraft knows of the snapshot on disk.
fn meta_in(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<Option<SnapshotMeta>, Failure> {
    let meta = table.get(SNAPSHOT_META)?;
    Ok(meta
        .map(|meta| serde_json::from_slice(meta.value()))
        .transpose()?)
}

/// What an entry of the log is encrypted for.
fn place_of(index: u64) -> [u8; 11] {
    let mut place = *b"log........";
    place[3..].copy_from_slice(&index.to_be_bytes());
    place
}

fn storage_error(
    subject: ErrorSubject<u64>,
    verb: ErrorVerb,
    error: impl AsRef<dyn std::error::Error + Send + Sync>,
) -> StorageError {
    let error = AnyError::error(error.as_ref().to_string());
    StorageError::IO {
        source: StorageIOError::new(subject, verb, error),
    }
}

impl LogStore {
    /// Makes the file.
    pub(super) fn create(
        path: &Path,
        machine: &Machine,
        unlock: &Unlock,
    ) -> Result<Self, ManagerError> {
        Self::start(path, machine, true, |db| keys(path, db, machine, unlock))
    }

    /// Opens the file, which has to be there: without it, this manager's part in past decisions would be forgotten.
    pub(super) fn open(
        path: &Path,
        machine: &Machine,
        unlock: &Unlock,
    ) -> Result<Self, ManagerError> {
        Self::start(path, machine, false, |db| keys(path, db, machine, unlock))
    }

    /// Opens the file again, with the keys that are in use.
    pub(super) fn reopen(
        path: &Path,
        machine: &Machine,
        sealer: &Arc<Sealer>,
    ) -> Result<Self, ManagerError> {
        Self::start(path, machine, false, |_| Ok(sealer.clone()))
    }

    fn start(
        path: &Path,
        machine: &Machine,
        create: bool,
        sealer: impl FnOnce(&Database) -> Result<Arc<Sealer>, Failure>,
    ) -> Result<Self, ManagerError> {
        let start = || -> Result<Self, Failure> {
            let db = machine.database(path, create)?;
            let txn = db.begin_write()?;
            txn.open_table(LOG)?;
            txn.open_table(META)?;
            txn.commit()?;
            let sealer = sealer(&db)?;
            let covered = meta_in(&db.begin_read()?.open_table(META)?)?.map_or(0, |m| end_of(&m));
            Ok(Self {
                db: Arc::new(db),
                sealer,
                sealing: Arc::default(),
                covered: Arc::new(watch::Sender::new(Some(covered))),
                machine: machine.clone(),
            })
        };
        start().map_err(|e| {
            ManagerError::internal(&format!("cannot open the raft log {}", path.display()), e)
        })
    }

    /// The rules that this manager knows.
    pub(super) fn rules(&self) -> u32 {
        self.machine.rules()
    }

    /// What encrypts the records.
    pub(super) fn sealer(&self) -> &Arc<Sealer> {
        &self.sealer
    }

    /// Forgets the keys that no record is encrypted with any more. It is tried again when more records have gone.
    async fn forget_old_keys(&self) {
        if let Err(error) = self.try_forget_old_keys().await {
            tracing::warn!(%error, "old keys of the log are kept for now");
        }
    }

    async fn try_forget_old_keys(&self) -> Result<(), Failure> {
        let Some(newest) = self.sealer.newest().filter(|_| self.sealer.has_old()) else {
            return Ok(());
        };
        // What the former keys have encrypted is on disk then; nobody takes them any more.
        drop(self.sealing.write().await);
        let (db, sealer) = (self.db.clone(), self.sealer.clone());
        let forget = move || -> Result<(), Failure> {
            if !has_record(&db, |record| is_of_other(record, newest))? {
                sealer.forget_before(newest)?;
            }
            Ok(())
        };
        self.machine.blocking(forget).await?
    }

    fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Failure> {
        let table = self.db.begin_read()?.open_table(META)?;
        let value = table.get(key)?;
        Ok(value
            .map(|v| serde_json::from_slice(v.value()))
            .transpose()?)
    }

    /// Runs a write transaction on a thread that may block; it is on disk when this returns.
    async fn write(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), Failure> + Send + 'static,
    ) -> Result<(), Failure> {
        self.write_with((), change).await
    }

    /// The same, with something that is held until the end, also when nobody waits for that any more.
    async fn write_with(
        &self,
        held: impl Send + 'static,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), Failure> + Send + 'static,
    ) -> Result<(), Failure> {
        let db = self.db.clone();
        let write = move || -> Result<(), Failure> {
            let _held = held;
            let txn = db.begin_write()?;
            change(&txn)?;
            txn.commit()?;
            Ok(())
        };
        self.machine.blocking(write).await?
    }

    async fn put(&self, key: &'static str, value: &impl Serialize) -> Result<(), Failure> {
        let bytes = serde_json::to_vec(value)?;
        self.write(move |txn| {
            txn.open_table(META)?.insert(key, bytes.as_slice())?;
            Ok(())
        })
        .await
    }

    /// The stored snapshot: what openraft knows of it, and the state.
    pub(super) fn snapshot(&self) -> Result<Option<(SnapshotMeta, Vec<u8>)>, Failure> {
        let table = self.db.begin_read()?.open_table(META)?;
        let (Some(meta), Some(data)) = (meta_in(&table)?, table.get(SNAPSHOT_DATA)?) else {
            return Ok(None);
        };
        let data = self.sealer.open(SNAPSHOT_DATA.as_bytes(), data.value())?;
        Ok(Some((meta, data.into_owned())))
    }

    /// Replaces the stored snapshot, unless that reaches further.
    pub(super) async fn put_snapshot(
        &self,
        meta: &SnapshotMeta,
        data: Vec<u8>,
    ) -> Result<(), Failure> {
        let put = self.replace_snapshot(meta, data).await;
        match &put {
            Ok(()) => {
                self.covered.send_modify(|covered| {
                    let covered = covered.get_or_insert(0);
                    *covered = end_of(meta).max(*covered);
                });
                // Where nothing has been written since the last one, no entry is left to be removed.
                self.forget_old_keys().await;
            }
            Err(_) => self.give_up_snapshot(),
        }
        put
    }

    /// No snapshot comes that could take the place of entries.
    pub(super) fn give_up_snapshot(&self) {
        self.covered.send_replace(None);
    }

    async fn replace_snapshot(&self, meta: &SnapshotMeta, data: Vec<u8>) -> Result<(), Failure> {
        let (meta, end) = (serde_json::to_vec(meta)?, end_of(meta));
        let sealing = self.sealing.clone().read_owned().await;
        let sealer = self.sealer.clone();
        // Before the transaction: votes and entries do not wait for it.
        let seal = move || sealer.seal(SNAPSHOT_DATA.as_bytes(), &data);
        let data = self.machine.blocking(seal).await??;
        self.write_with(sealing, move |txn| {
            let mut table = txn.open_table(META)?;
            // One that was installed while this one was made: the log may be without the entries in between.
            if meta_in(&table)?.is_some_and(|there| end_of(&there) > end) {
                return Ok(());
            }
            table.insert(SNAPSHOT_META, meta.as_slice())?;
            table.insert(SNAPSHOT_DATA, data.as_slice())?;
            Ok(())
        })
        .await
    }

    /// Waits until the snapshot on disk has the entries up to this one.
    async fn until_covered(&self, last: u64) -> Result<(), Failure> {
        let mut covered = self.covered.subscribe();
        let ended = covered.wait_for(|covered| covered.is_none_or(|end| end > last));
        match *ended.await? {
            Some(_) => Ok(()),
            None => Err("there is no snapshot to take the place of entries".into()),
        }
    }

    /// Lets entries go that no snapshot has.
    #[cfg(test)]
    pub(super) fn without_snapshots(self) -> Self {
        self.covered.send_replace(Some(u64::MAX));
        self
    }

    /// Gives up the log for a snapshot of another history, with the vote that goes with it.
    pub(super) async fn replace(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        data: Vec<u8>,
    ) -> Result<(), Failure> {
        let sealing = self.sealing.clone().read_owned().await;
        let data = self.sealer.seal(SNAPSHOT_DATA.as_bytes(), &data)?;
        let rows = [
            (VOTE, serde_json::to_vec(&vote)?),
            (PURGED, serde_json::to_vec(&meta.last_log_id)?),
            (SNAPSHOT_META, serde_json::to_vec(&meta)?),
            (SNAPSHOT_DATA, data),
        ];
        self.write_with(sealing, move |txn| {
            txn.open_table(LOG)?.retain(|_, _| false)?;
            let mut table = txn.open_table(META)?;
            for (key, value) in &rows {
                table.insert(*key, value.as_slice())?;
            }
            Ok(())
        })
        .await
    }

    /// The vote that was given last.
    pub(super) fn vote(&self) -> Result<Option<Vote>, Failure> {
        self.get(VOTE)
    }

    /// The last entry that was ever in the log.
    pub(super) fn last_log_id(&self) -> Result<Option<LogId>, Failure> {
        let purged: Option<LogId> = self.get(PURGED)?;
        Ok(self.last()?.or(purged))
    }

    /// The entries from this index on.
    pub(super) fn entries_from(&self, index: u64) -> Result<Vec<Entry>, Failure> {
        self.range(index..)
    }

    /// All entries, one after the other: not all of a long log are in memory at a time.
    pub(super) fn entries(
        &self,
    ) -> Result<impl Iterator<Item = Result<Entry, Failure>> + use<'_>, Failure> {
        let table = self.db.begin_read()?.open_table(LOG)?;
        Ok(table.range::<u64>(..)?.map(|row| {
            let (index, value) = row?;
            self.entry(index.value(), value.value())
        }))
    }

    fn last(&self) -> Result<Option<LogId>, Failure> {
        let table = self.db.begin_read()?.open_table(LOG)?;
        let Some((index, value)) = table.last()? else {
            return Ok(None);
        };
        let entry = self.entry(index.value(), value.value())?;
        Ok(Some(*entry.get_log_id()))
    }

    fn entry(&self, index: u64, record: &[u8]) -> Result<Entry, Failure> {
        let clear = self.sealer.open(&place_of(index), record)?;
        Ok(serde_json::from_slice(&clear)?)
    }

    fn range(&self, range: impl RangeBounds<u64>) -> Result<Vec<Entry>, Failure> {
        self.range_of(range, usize::MAX)
    }

    /// The first entries of a range: no more than these bytes, but at least one.
    fn range_of(&self, range: impl RangeBounds<u64>, bytes: usize) -> Result<Vec<Entry>, Failure> {
        let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
        let is_empty = match bounds {
            (Bound::Included(s), Bound::Excluded(e)) => s >= e,
            (Bound::Included(s), Bound::Included(e)) => s > e,
            _ => false,
        };
        if is_empty {
            return Ok(Vec::new());
        }
        let table = self.db.begin_read()?.open_table(LOG)?;
        let (mut entries, mut length) = (Vec::new(), 0);
        for row in table.range::<u64>(bounds)? {
            let (index, value) = row?;
            length += value.value().len();
            if length > bytes && !entries.is_empty() {
                break;
            }
            entries.push(self.entry(index.value(), value.value())?);
        }
        Ok(entries)
    }
}

/// Where the keys of a log are.
pub(super) fn key_path(log: &Path) -> PathBuf {
    log.with_extension(KEY_EXTENSION)
}

/// The keys of the log at `path`; a log that is new, or of a version that did not encrypt, gets some.
fn keys(
    path: &Path,
    db: &Database,
    machine: &Machine,
    unlock: &Unlock,
) -> Result<Arc<Sealer>, Failure> {
    let key = key_path(path);
    Ok(Arc::new(match Sealer::load(&key, unlock)? {
        Some(sealer) => sealer,
        None if has_record(db, is_sealed)? => {
            return Err(format!("its key {} is missing", key.display()).into());
        }
        None => Sealer::create(&key, unlock, machine.now())?,
    }))
}

/// Whether there is such a record; the oldest ones are asked first.
fn has_record(db: &Database, is_such: impl Fn(&[u8]) -> bool) -> Result<bool, Failure> {
    let txn = db.begin_read()?;
    let (log, meta) = (txn.open_table(LOG)?, txn.open_table(META)?);
    for row in log.iter()? {
        if is_such(row?.1.value()) {
            return Ok(true);
        }
    }
    let snapshot = meta.get(SNAPSHOT_DATA)?;
    Ok(snapshot.is_some_and(|snapshot| is_such(snapshot.value())))
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        self.range(range)
            .map_err(|e| storage_error(ErrorSubject::Logs, ErrorVerb::Read, e))
    }

    /// As many of them as go into one message: a follower has to have them on disk within the period of heartbeats.
    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        self.range_of(start..end, LONGEST_MESSAGE)
            .map_err(|e| storage_error(ErrorSubject::Logs, ErrorVerb::Read, e))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let read = || -> Result<LogState<TypeConfig>, Failure> {
            Ok(LogState {
                last_purged_log_id: self.get(PURGED)?,
                last_log_id: self.last_log_id()?,
            })
        };
        read().map_err(|e| storage_error(ErrorSubject::Logs, ErrorVerb::Read, e))
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        self.put(VOTE, vote)
            .await
            .map_err(|e| storage_error(ErrorSubject::Vote, ErrorVerb::Write, e))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        self.vote()
            .map_err(|e| storage_error(ErrorSubject::Vote, ErrorVerb::Read, e))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let encode = |entry: Entry| -> Result<(u64, Vec<u8>), Failure> {
            let index = entry.get_log_id().index;
            let clear = serde_json::to_vec(&entry)?;
            Ok((index, self.sealer.seal(&place_of(index), &clear)?))
        };
        let sealing = self.sealing.clone().read_owned().await;
        let rows = entries
            .into_iter()
            .map(encode)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| storage_error(ErrorSubject::Logs, ErrorVerb::Write, e))?;
        let written = self
            .write_with(sealing, move |txn| {
                let mut table = txn.open_table(LOG)?;
                for (index, bytes) in &rows {
                    table.insert(index, bytes.as_slice())?;
                }
                Ok(())
            })
            .await;
        match written {
            Ok(()) => {
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(error) => Err(storage_error(ErrorSubject::Logs, ErrorVerb::Write, error)),
        }
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.write(move |txn| {
            txn.open_table(LOG)?
                .retain_in(log_id.index.., |_, _| false)?;
            Ok(())
        })
        .await
        .map_err(|e| storage_error(ErrorSubject::Logs, ErrorVerb::Delete, e))
    }

    /// Openraft removes entries while the state machine still writes the snapshot in their place, and goes on with the
    /// entries after them: a crash in between would leave a log that lacks some.
    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let purge = async {
            self.until_covered(log_id.index).await?;
            let bytes = serde_json::to_vec(&log_id)?;
            self.write(move |txn| {
                txn.open_table(META)?.insert(PURGED, bytes.as_slice())?;
                txn.open_table(LOG)?
                    .retain_in(..=log_id.index, |_, _| false)?;
                Ok(())
            })
            .await
        };
        purge
            .await
            .map_err(|e: Failure| storage_error(ErrorSubject::Logs, ErrorVerb::Delete, e))?;
        self.forget_old_keys().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::{CommittedLeaderId, EntryPayload, storage::RaftLogStorageExt};
    use std::sync::mpsc;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_key_is_kept_while_a_record_of_it_is_on_its_way() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("raft.redb");
        let mut log = LogStore::create(&path, &Machine::Own, &Unlock::default()).unwrap();
        // The file is taken: an entry is encrypted, and waits.
        let (let_go, until) = mpsc::channel::<()>();
        let (take, taken) = tokio::sync::oneshot::channel();
        let (holding, other) = (log.clone(), log.clone());
        let hold = move |_: &redb::WriteTransaction| {
            let _ = take.send(());
            Ok(until.recv()?)
        };
        let holding = tokio::spawn(async move { holding.write(hold).await.unwrap() });
        taken.await.unwrap();
        let appending = tokio::spawn(async move {
            let entry = Entry {
                log_id: LogId::new(CommittedLeaderId::new(1, 1), 1),
                payload: EntryPayload::Blank,
            };
            let mut other = other;
            other.blocking_append([entry]).await.unwrap();
        });
        while log.sealing.try_write().is_ok() {
            tokio::task::yield_now().await;
        }
        log.sealer().renew(0).unwrap();
        let other = log.clone();
        let forgetting = tokio::spawn(async move { other.try_forget_old_keys().await.unwrap() });
        // Until it waits, as it has to.
        while log.sealing.try_read().is_ok() && !forgetting.is_finished() {
            tokio::task::yield_now().await;
        }
        let_go.send(()).unwrap();
        for task in [holding, appending, forgetting] {
            task.await.unwrap();
        }
        assert!(log.sealer().has_old());
        assert_eq!(log.try_get_log_entries(0..).await.unwrap().len(), 1);
    }
}
