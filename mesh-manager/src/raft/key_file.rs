//! The file with a manager's keys, beside its log and readable by root alone. Where managers are locked, it is encrypted with
//! the unlock key, and so worth nothing without it.

use super::seal::SealError;
use mesh_api::Sensitive;
use mesh_pki::UnlockKey;
use rand::RngCore;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Bytes of a key's id.
pub(super) const KEY_ID: usize = 8;
/// Bytes of a key.
pub(super) const KEY: usize = 32;

/// What locked keys are encrypted for.
const LOCKED_PLACE: &[u8] = b"raft-keys";

/// The keys, as they are in the file.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Keys {
    /// The log's; the last one encrypts.
    pub(super) keys: Vec<StoredKey>,
    /// What the node's private key is encrypted with while managers are locked: it is in a file of its own, which then need
    /// not change with the unlock key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<Sensitive>,
    /// The version of the cluster that the file is locked, or not, by. A manager that reads its log again meets older ones.
    #[serde(default)]
    pub(super) version: u64,
}

/// A key of the log.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct StoredKey {
    pub(super) id: Sensitive,
    pub(super) key: Sensitive,
    /// When it was drawn, nanoseconds since the epoch; not known of those that older versions drew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) made: Option<i64>,
}

/// The file: the keys, or the keys encrypted with the unlock key.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum KeyFile {
    Locked { locked: Sensitive },
    Clear(Keys),
}

impl StoredKey {
    /// Draws one at `now`, nanoseconds since the epoch.
    pub(super) fn draw(now: i64) -> Self {
        let mut id = vec![0; KEY_ID];
        let mut key = vec![0; KEY];
        rand::rng().fill_bytes(&mut id);
        rand::rng().fill_bytes(&mut key);
        Self {
            id: id.into(),
            key: key.into(),
            made: Some(now),
        }
    }
}

impl KeyFile {
    /// Reads the file; `None` if there is none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, SealError> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        parse(&text).map(Some)
    }

    /// The keys, and what they were locked with. `unlock` is used where they are locked.
    pub(super) fn open(
        self,
        unlock: Option<UnlockKey>,
    ) -> Result<(Keys, Option<UnlockKey>), SealError> {
        let locked = match self {
            Self::Clear(keys) => return Ok((keys, None)),
            Self::Locked { locked } => locked,
        };
        let unlock = unlock.ok_or(SealError::Locked)?;
        let keys = unlock.open(LOCKED_PLACE, locked.reveal());
        let keys = keys.map_err(|_| SealError::WrongKey)?;
        Ok((parse(&keys)?, Some(unlock)))
    }
}

// The parser's own words would not help, and might show some of the keys.
fn parse<T: for<'de> Deserialize<'de>>(text: &[u8]) -> Result<T, SealError> {
    serde_json::from_slice(text).map_err(|_| SealError::KeyFile("it holds no keys".to_owned()))
}

impl Keys {
    /// Puts a file with these keys in the place of the one that is there, if one is: whatever happens, there is the old file
    /// or the new one. It is on disk when this returns.
    pub(super) fn write(&self, path: &Path, lock: Option<&UnlockKey>) -> Result<(), SealError> {
        let bad = |e: &dyn std::fmt::Display| SealError::KeyFile(e.to_string());
        let keys = serde_json::to_vec(self).map_err(|e| bad(&e))?;
        let text = match lock {
            None => keys,
            Some(lock) => {
                let locked = lock.seal(LOCKED_PLACE, &keys).map_err(|e| bad(&e))?;
                let locked = locked.into();
                serde_json::to_vec(&KeyFile::Locked { locked }).map_err(|e| bad(&e))?
            }
        };
        let next = path.with_extension("key.next");
        let mut out = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&next)?;
        out.write_all(&text)?;
        out.sync_all()?;
        fs::rename(&next, path)?;
        if let Some(parent) = path.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(())
    }
}
