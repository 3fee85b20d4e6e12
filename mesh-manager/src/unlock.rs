//! The unlock key in memory.

use mesh_pki::UnlockKey;
use std::sync::{Arc, Mutex, PoisonError};

/// What the key file of this node's manager is locked with, as far as this process knows. It outlives the manager, which can
/// so be stopped and started again; a process that is started has to be told anew.
#[derive(Debug, Clone, Default)]
pub struct Unlock(Arc<Mutex<Option<UnlockKey>>>);

impl From<UnlockKey> for Unlock {
    fn from(key: UnlockKey) -> Self {
        let unlock = Self::default();
        unlock.set(Some(key));
        unlock
    }
}

impl Unlock {
    pub(crate) fn get(&self) -> Option<UnlockKey> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set(&self, key: Option<UnlockKey>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = key;
    }
}
