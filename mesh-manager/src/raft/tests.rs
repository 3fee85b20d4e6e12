//! The store under openraft's own suite.

use super::{
    Store,
    log_store::LogStore,
    state_machine::StateMachine,
    types::{StorageError, TypeConfig},
};
use openraft::testing::{StoreBuilder, Suite};
use std::sync::Arc;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, StateMachine), StorageError> {
        let directory = tempfile::tempdir().unwrap();
        let log = LogStore::create(&directory.path().join("raft.redb")).unwrap();
        let machine = StateMachine::open(Arc::new(Store::new()), log.clone()).unwrap();
        Ok((directory, log, machine))
    }
}

#[test]
fn openrafts_suite_is_content() {
    Suite::test_all(Builder).unwrap();
}
