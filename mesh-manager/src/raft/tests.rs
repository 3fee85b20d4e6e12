//! The store under openraft's own suite, and what it leaves on disk.

use super::{
    Peer, Store,
    batch::Batch,
    log_store::LogStore,
    snapshot,
    state_machine::StateMachine,
    types::{Entry, LogId, SnapshotMeta, StorageError, TypeConfig, Vote, raft_id},
};
use crate::{
    Command, Machine, ManagerError, Operation, Proposal, RULES, UNTOLD, Unlock, state::State,
};
use mesh_pki::UnlockKey;
use openraft::{
    CommittedLeaderId, EntryPayload, RaftLogReader,
    storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine},
    testing::{StoreBuilder, Suite},
};
use redb::{Database, TableDefinition};
use std::{
    fs,
    io::Cursor,
    path::Path,
    sync::{Arc, Mutex},
};
use tokio::sync::watch;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, StateMachine), StorageError> {
        let directory = tempfile::tempdir().unwrap();
        let log = LogStore::create(
            &directory.path().join("raft.redb"),
            &Machine::Own,
            &Unlock::default(),
        )
        .unwrap()
        .without_snapshots();
        let machine = StateMachine::open(Arc::new(Store::new(RULES)), log.clone()).unwrap();
        Ok((directory, log, machine))
    }
}

#[test]
fn openrafts_suite_is_content() {
    Suite::test_all(Builder).unwrap();
}

/// The log file's bytes.
fn on_disk(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|part| part == text.as_bytes())
}

fn log_id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(1, 1), index)
}

/// What openraft knows of a snapshot whose last entry is this one.
fn upto(index: u64) -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: Some(log_id(index)),
        ..SnapshotMeta::default()
    }
}

/// An entry that makes a service of this name.
fn entry(index: u64, name: &str) -> Entry {
    let spec = serde_json::from_value(serde_json::json!({ "Name": name })).unwrap();
    let command = Command::CreateService {
        spec: Box::new(spec),
        registry_auth: String::new(),
    };
    Entry {
        log_id: log_id(index),
        payload: EntryPayload::Normal(Batch::new(vec![Proposal::new(
            Operation::Command(command),
            0,
        )])),
    }
}

fn names(entries: &[Entry]) -> Vec<String> {
    let name = |entry: &Entry| {
        let EntryPayload::Normal(batch) = &entry.payload else {
            panic!("{entry:?}");
        };
        let proposals = batch.proposals();
        let Operation::Command(Command::CreateService { spec, .. }) = &proposals[0].operation
        else {
            panic!("{proposals:?}");
        };
        spec.name.clone().unwrap()
    };
    entries.iter().map(name).collect()
}

#[tokio::test]
async fn entries_stay_until_a_snapshot_has_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("raft.redb");
    let open = || LogStore::open(&path, &Machine::Own, &Unlock::default()).unwrap();
    let mut log = LogStore::create(&path, &Machine::Own, &Unlock::default()).unwrap();
    let entries: Vec<_> = (0..6).map(|index| entry(index, "a")).collect();
    log.blocking_append(entries).await.unwrap();
    let mut other = log.clone();
    let purge = tokio::spawn(async move { other.purge(log_id(4)).await });
    log.put_snapshot(&upto(3), b"three".to_vec()).await.unwrap();
    assert_eq!(log.try_get_log_entries(0..).await.unwrap().len(), 6);
    assert!(!purge.is_finished());
    log.put_snapshot(&upto(4), b"four".to_vec()).await.unwrap();
    purge.await.unwrap().unwrap();
    assert_eq!(log.try_get_log_entries(0..).await.unwrap().len(), 1);
    // What took longer to make.
    log.put_snapshot(&upto(2), b"two".to_vec()).await.unwrap();
    assert_eq!(log.snapshot().unwrap().unwrap().1, b"four");
    drop(log);

    let mut log = open();
    log.purge(log_id(4)).await.unwrap();
    let mut other = log.clone();
    let purge = tokio::spawn(async move { other.purge(log_id(5)).await });
    log.give_up_snapshot();
    assert!(purge.await.unwrap().is_err());
    assert_eq!(log.try_get_log_entries(0..).await.unwrap().len(), 1);
}

#[tokio::test]
async fn old_keys_are_forgotten_once_the_log_is_compacted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("raft.redb");
    let (machine, unlock) = (Machine::Own, Unlock::default());
    let log = LogStore::create(&path, &machine, &unlock).unwrap();
    let mut log = log.without_snapshots();
    let old: Vec<_> = (1..4).map(|index| entry(index, "old")).collect();
    log.blocking_append(old).await.unwrap();
    let key = UnlockKey::generate();
    log.sealer().lock(Some(&key), 1, 0).unwrap();
    log.blocking_append([entry(4, "new")]).await.unwrap();
    log.put_snapshot(&upto(3), b"state".to_vec()).await.unwrap();
    log.purge(log_id(2)).await.unwrap();
    assert!(log.sealer().has_old(), "entry 3 is there still");
    drop(log);

    // Another process, which is told the key.
    let unlock = Unlock::from(key.clone());
    let mut log = LogStore::open(&path, &machine, &unlock).unwrap();
    let entries = log.try_get_log_entries(3..).await.unwrap();
    assert_eq!(names(&entries), ["old", "new"]);
    log.purge(log_id(3)).await.unwrap();
    assert!(!log.sealer().has_old());
    // With the keys in use, as after a failed write.
    let sealer = log.sealer().clone();
    drop(log);
    drop(LogStore::reopen(&path, &machine, &sealer).unwrap());
    for wrong in [Unlock::default(), Unlock::from(UnlockKey::generate())] {
        assert!(LogStore::open(&path, &machine, &wrong).is_err());
    }
    let mut log = LogStore::open(&path, &machine, &unlock).unwrap();
    let entries = log.try_get_log_entries(3..).await.unwrap();
    assert_eq!(names(&entries), ["new"]);
    let (_, state) = log.snapshot().unwrap().unwrap();
    assert_eq!(state, b"state");
}

/// What a crash at this moment leaves: both files as they are.
fn crash(path: &Path) -> tempfile::TempDir {
    let image = tempfile::tempdir().unwrap();
    for file in [path, &path.with_extension("key")] {
        fs::copy(file, image.path().join(file.file_name().unwrap())).unwrap();
    }
    image
}

/// The names in the log that is left, and its snapshot.
async fn left(image: &Path) -> Result<(Vec<String>, Option<Vec<u8>>), String> {
    let path = image.join("raft.redb");
    let mut log = LogStore::open(&path, &Machine::Own, &Unlock::default()).unwrap();
    let entries = log.try_get_log_entries(0..).await;
    let entries = entries.map_err(|error| error.to_string())?;
    let snapshot = log.snapshot().map_err(|error| error.to_string())?;
    Ok((names(&entries), snapshot.map(|(_, data)| data)))
}

#[tokio::test]
async fn a_crash_while_the_key_is_exchanged_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("raft.redb");
    let mut log = LogStore::create(&path, &Machine::Own, &Unlock::default()).unwrap();
    let mut images = Vec::new();
    let mut crash_with = |names: &[&str], snapshot: Option<&[u8]>| {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        images.push((crash(&path), names, snapshot.map(<[u8]>::to_vec)));
    };
    log.blocking_append([entry(1, "a"), entry(2, "b")])
        .await
        .unwrap();
    crash_with(&["a", "b"], None);

    // The disk does not take the new key: the former one goes on.
    let next = path.with_extension("key.next");
    fs::create_dir(&next).unwrap();
    assert!(log.sealer().renew(1).is_err());
    log.blocking_append([entry(3, "c")]).await.unwrap();
    crash_with(&["a", "b", "c"], None);
    fs::remove_dir(&next).unwrap();

    // On disk, and nothing encrypted with it so far; then some.
    log.sealer().renew(2).unwrap();
    crash_with(&["a", "b", "c"], None);
    log.blocking_append([entry(4, "d")]).await.unwrap();
    crash_with(&["a", "b", "c", "d"], None);

    // A snapshot for all of the former key's entries, which then go, and with the last one the key.
    let state: &[u8] = b"state";
    log.put_snapshot(&upto(3), state.to_vec()).await.unwrap();
    crash_with(&["a", "b", "c", "d"], Some(state));
    log.purge(log_id(2)).await.unwrap();
    assert!(log.sealer().has_old(), "entry 3 is there still");
    crash_with(&["c", "d"], Some(state));
    log.purge(log_id(3)).await.unwrap();
    assert!(!log.sealer().has_old());
    crash_with(&["d"], Some(state));
    for (image, names, snapshot) in &images {
        let left = left(image.path()).await.unwrap();
        assert_eq!(left, (names.clone(), snapshot.clone()));
    }

    // Had the files been written in another order: a record before its key, or a key forgotten before its records.
    for (of_log, of_key) in [(3, 1), (5, 6)] {
        let key = images[of_key].0.path().join("raft.key");
        fs::copy(key, images[of_log].0.path().join("raft.key")).unwrap();
        let refused = left(images[of_log].0.path()).await.unwrap_err();
        assert!(refused.contains("not in the key file"), "{refused}");
    }
}

#[tokio::test]
async fn a_log_in_which_nothing_happens_lets_go_of_its_old_key() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("raft.redb");
    let mut log = LogStore::create(&path, &Machine::Own, &Unlock::default()).unwrap();
    log.blocking_append([entry(1, "a")]).await.unwrap();
    log.put_snapshot(&upto(1), b"one".to_vec()).await.unwrap();
    log.purge(log_id(1)).await.unwrap();
    for now in 1..3 {
        let before = log.sealer().newest();
        log.sealer().renew(now).unwrap();
        assert!(log.sealer().has_old() && log.sealer().newest() != before);
        // The same state, written anew.
        log.put_snapshot(&upto(1), b"one".to_vec()).await.unwrap();
        assert!(!log.sealer().has_old());
    }
    assert_eq!(log.snapshot().unwrap().unwrap().1, b"one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_while_keys_come_and_go_is_read() {
    const LAST: u64 = 100;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("raft.redb");
    let mut log = LogStore::create(&path, &Machine::Own, &Unlock::default()).unwrap();
    let mut other = log.clone();
    let (written, mut last) = watch::channel(0);
    let appending = tokio::spawn(async move {
        for index in 1..=LAST {
            other.blocking_append([entry(index, "a")]).await.unwrap();
            written.send_replace(index);
        }
    });
    while last.changed().await.is_ok() {
        let index = *last.borrow_and_update();
        log.sealer().renew(0).unwrap();
        let state = index.to_string().into_bytes();
        log.put_snapshot(&upto(index), state.clone()).await.unwrap();
        log.purge(log_id(index)).await.unwrap();
        log.try_get_log_entries(0..).await.unwrap();
        assert_eq!(log.snapshot().unwrap().unwrap().1, state);
    }
    appending.await.unwrap();
    drop(log);
    left(directory.path()).await.unwrap();
}

#[tokio::test]
async fn what_is_on_disk_is_encrypted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("raft.redb");
    // As a version left it that did not encrypt.
    let db = Database::create(&path).unwrap();
    let txn = db.begin_write().unwrap();
    let old = serde_json::to_vec(&entry(1, "of-old")).unwrap();
    let table = TableDefinition::<u64, &[u8]>::new("log");
    let mut rows = txn.open_table(table).unwrap();
    rows.insert(1, old.as_slice()).unwrap();
    drop(rows);
    txn.commit().unwrap();
    drop(db);
    assert!(has(&on_disk(&path), "of-old"));

    let mut log = LogStore::open(&path, &Machine::Own, &Unlock::default()).unwrap();
    log.blocking_append([entry(2, "of-now")]).await.unwrap();
    log.put_snapshot(&upto(1), b"{\"a\":\"snapshot-of-now\"}".to_vec())
        .await
        .unwrap();
    drop(log);
    let mut log = LogStore::open(&path, &Machine::Own, &Unlock::default()).unwrap();
    let entries = log.try_get_log_entries(1..3).await.unwrap();
    assert_eq!(names(&entries), ["of-old", "of-now"]);
    let (_, data) = log.snapshot().unwrap().unwrap();
    assert_eq!(data, b"{\"a\":\"snapshot-of-now\"}");
    assert_eq!(
        log.get_log_state()
            .await
            .unwrap()
            .last_log_id
            .unwrap()
            .index,
        2
    );
    drop(log);
    assert!(!has(&on_disk(&path), "of-now"));

    // Without its key nothing is made of it, and no new key in the place of the lost one.
    let key = path.with_extension("key");
    let kept = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    let refused = LogStore::open(&path, &Machine::Own, &Unlock::default())
        .unwrap_err()
        .to_string();
    assert!(refused.contains("raft.key is missing"), "{refused}");
    assert!(!key.exists());
    fs::write(&key, kept).unwrap();
    LogStore::open(&path, &Machine::Own, &Unlock::default()).unwrap();
}

#[tokio::test]
async fn a_log_is_rebuilt_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("raft.redb");
    let own = Peer {
        node_id: "left".to_owned(),
        addr: "192.0.2.1:2377".to_owned(),
    };
    let mut log = LogStore::create(&path, &Machine::Own, &Unlock::default()).unwrap();
    // The last one may not be committed; it may have been acknowledged as well.
    let entries = [entry(0, "a"), entry(1, "b"), entry(2, "c")];
    log.blocking_append(entries).await.unwrap();
    log.save_vote(&Vote::new(7, 3)).await.unwrap();
    let told = || ManagerError::precondition("not this time");
    let refused = log.rebuild(&own, |_| Err(told())).await.unwrap_err();
    assert_eq!(refused, told());
    assert_eq!(
        names(&log.try_get_log_entries(0..9).await.unwrap()).len(),
        3
    );
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(7, 3)));
    assert!(log.snapshot().unwrap().is_none());

    let seen = Arc::new(Mutex::new(Vec::new()));
    let out = seen.clone();
    let keep = move |state: &mut State| {
        out.lock().unwrap().push(state.index());
        state.incarnation = "another".to_owned();
        Ok(())
    };
    log.rebuild(&own, keep).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [2], "all entries are applied");
    drop(log);
    let mut log = LogStore::open(&path, &Machine::Own, &Unlock::default()).unwrap();
    let id = raft_id("left");
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(8, id)));
    let state = log.get_log_state().await.unwrap();
    let last = LogId::new(CommittedLeaderId::new(8, id), 3);
    assert_eq!(state.last_purged_log_id, Some(last));
    assert_eq!(state.last_log_id, Some(last));
    assert!(log.try_get_log_entries(0..9).await.unwrap().is_empty());
    let store = Arc::new(Store::new(RULES));
    let mut machine = StateMachine::open(store.clone(), log.clone()).unwrap();
    let (applied, membership) = machine.applied_state().await.unwrap();
    assert_eq!(applied, Some(last));
    assert_eq!(membership.voter_ids().collect::<Vec<_>>(), [id]);
    let node = membership.membership().get_node(&id).unwrap();
    assert_eq!(node.addr, own.addr);
    assert_eq!(store.read().incarnation, "another");
    assert_eq!(store.read().index(), 3);
}

/// The same, by these rules.
fn entry_by(rules: u32, index: u64, name: &str) -> Entry {
    let mut entry = entry(index, name);
    if let EntryPayload::Normal(batch) = &mut entry.payload {
        let mut proposals = batch.proposals().to_vec();
        proposals.iter_mut().for_each(|p| p.rules = rules);
        *batch = Batch::new(proposals);
    }
    entry
}

#[tokio::test]
async fn nothing_is_applied_of_rules_that_are_not_known() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("raft.redb");
    let log = LogStore::create(&path, &Machine::Own, &Unlock::default()).unwrap();
    let store = Arc::new(Store::new(UNTOLD));
    let mut machine = StateMachine::open(store.clone(), log).unwrap();
    machine.apply([entry_by(UNTOLD, 1, "a")]).await.unwrap();
    assert_eq!(store.outdated(), None);
    let both = [entry_by(UNTOLD, 2, "b"), entry_by(RULES, 3, "c")];
    let refused = machine.apply(both).await.unwrap_err().to_string();
    let outdated = ManagerError::outdated(UNTOLD, RULES);
    assert!(refused.contains(&outdated.message), "{refused}");
    assert_eq!(store.read().index(), 1, "not even the first of them");
    assert_eq!(store.outdated(), Some(outdated.clone()));

    // Nor is a snapshot.
    let mut later = State::default();
    later.go_by(RULES);
    let snapshot = Box::new(Cursor::new(snapshot::write(&later).unwrap()));
    let refused = machine.install_snapshot(&upto(9), snapshot).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains(&outdated.message), "{refused}");
    assert_eq!(store.read().index(), 1);
}
