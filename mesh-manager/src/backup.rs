//! A backup: all that it takes to go on elsewhere with a cluster whose managers are lost. So it is as secret as the managers
//! themselves: the root key, join tokens, secrets and registry credentials are in there.
//!
//! The file: [`MAGIC`], the format's number (one byte), what follows (one byte: [`CLEAR`] or [`LOCKED`]), the rules by which
//! the state was made (four bytes, big endian), the state, and the SHA-256 of all before it. The state is JSON; where managers
//! are locked it is encrypted with the unlock key, which is the same then that managers are unlocked with.

use crate::{ErrorKind, RULES, state::State};
use mesh_api::backup::{CLEAR, LOCKED, MAGIC};
use mesh_pki::UnlockKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The format that this version writes, and the newest that it reads.
const FORMAT: u8 = 1;
const HEADER: usize = MAGIC.len() + 2 + 4;
const DIGEST: usize = 32;

/// Why a backup cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// Something else.
    #[error("this is not a backup of a swarm")]
    Foreign,
    /// A later version's.
    #[error(
        "this backup was made by a newer version (format {format}, rules {rules}), which this one does not know: restore it with that version"
    )]
    Newer {
        /// Of the file.
        format: u8,
        /// Of the state.
        rules: u32,
    },
    /// A version's whose objects have parts that are not known here.
    #[error(
        "this backup was made by version {version}, and holds what this one does not know ({part}): restore it with that version"
    )]
    Unknown {
        /// Which one made it.
        version: String,
        /// The first such part.
        part: String,
    },
    /// Not what was written.
    #[error("this backup is damaged, or cut short")]
    Damaged,
    /// The unlock key is missing.
    #[error("this backup is locked: the swarm's unlock key is needed")]
    Locked,
    /// The unlock key is another one.
    #[error("the backup could not be unlocked: invalid key provided")]
    WrongKey,
    /// The state cannot be written.
    #[error("the state cannot be written down: {0}")]
    Encode(String),
}

impl BackupError {
    /// The class of the refusal.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::WrongKey => ErrorKind::Unauthenticated,
            _ => ErrorKind::InvalidArgument,
        }
    }
}

/// What is in a backup.
#[derive(Serialize, Deserialize)]
pub(crate) struct Backup {
    /// When it was made, nanoseconds since the epoch.
    pub(crate) created_at: i64,
    /// By which version.
    pub(crate) version: String,
    /// The state.
    pub(crate) state: State,
}

/// Writes a backup of this state, made at `time` (nanoseconds since the epoch).
pub(crate) fn write(
    state: State,
    time: i64,
    key: Option<&UnlockKey>,
) -> Result<Vec<u8>, BackupError> {
    let failed = |e: &dyn std::fmt::Display| BackupError::Encode(e.to_string());
    let backup = Backup {
        created_at: time,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state,
    };
    pack(serde_json::to_vec(&backup).map_err(|e| failed(&e))?, key)
}

/// The file of a backup with this JSON.
fn pack(clear: Vec<u8>, key: Option<&UnlockKey>) -> Result<Vec<u8>, BackupError> {
    let mut file = MAGIC.to_vec();
    file.extend([FORMAT, if key.is_some() { LOCKED } else { CLEAR }]);
    file.extend(RULES.to_be_bytes());
    let body = match key {
        Some(key) => {
            let sealed = key.seal(&file, &clear);
            sealed.map_err(|e| BackupError::Encode(e.to_string()))?
        }
        None => clear,
    };
    file.extend(body);
    let digest = Sha256::digest(&file);
    file.extend(digest);
    Ok(file)
}

/// Reads a backup.
pub(crate) fn read(file: &[u8], key: Option<&UnlockKey>) -> Result<Backup, BackupError> {
    if !file.starts_with(MAGIC) {
        return Err(BackupError::Foreign);
    }
    let (all, digest) = file
        .split_last_chunk::<DIGEST>()
        .ok_or(BackupError::Damaged)?;
    let (header, body) = all.split_at_checked(HEADER).ok_or(BackupError::Damaged)?;
    let (kind, rules) = header[MAGIC.len()..].split_at(2);
    let (format, lock) = (kind[0], kind[1]);
    if format > FORMAT {
        return Err(BackupError::Newer { format, rules: 0 });
    }
    if Sha256::digest(all).as_slice() != digest {
        return Err(BackupError::Damaged);
    }
    let rules = rules
        .iter()
        .fold(0, |number, byte| number << 8 | u32::from(*byte));
    if rules > RULES {
        return Err(BackupError::Newer { format, rules });
    }
    let clear = match (lock, key) {
        (CLEAR, _) => body.to_vec(),
        (LOCKED, None) => return Err(BackupError::Locked),
        (LOCKED, Some(key)) => key.open(header, body).map_err(|_| BackupError::WrongKey)?,
        _ => return Err(BackupError::Damaged),
    };
    let mut backup = unpack(&clear)?;
    backup.state.rebuild_indexes();
    Ok(backup)
}

/// Reads the JSON of a backup, which is as it was written. What is not known here is not left out: the cluster would go on
/// without it.
fn unpack(clear: &[u8]) -> Result<Backup, BackupError> {
    #[derive(Deserialize)]
    struct Maker {
        version: String,
    }
    let unknown = |part: String| match serde_json::from_slice(clear) {
        Ok(Maker { version }) => BackupError::Unknown { version, part },
        Err(_) => BackupError::Damaged,
    };
    let mut part = None;
    let json = &mut serde_json::Deserializer::from_slice(clear);
    let backup = serde_ignored::deserialize(json, |path| {
        part.get_or_insert_with(|| path.to_string());
    });
    match (backup, part) {
        (Ok(backup), None) => Ok(backup),
        (Ok(_), Some(part)) => Err(unknown(part)),
        // The error's text may quote what is secret.
        (Err(error), _) => Err(unknown(format!("at byte {}", error.column()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::World;
    use mesh_api::backup::is_locked;

    fn text(state: &State) -> String {
        serde_json::to_string(state).unwrap()
    }

    fn made(key: Option<&UnlockKey>) -> (State, Vec<u8>) {
        let world = World::new(&["n1", "n2"]);
        let file = write(world.state.clone(), world.now, key).unwrap();
        (world.state, file)
    }

    fn refused(file: &[u8], key: Option<&UnlockKey>) -> BackupError {
        match read(file, key) {
            Err(error) => error,
            Ok(_) => panic!("it was read"),
        }
    }

    #[test]
    fn a_state_survives_its_backup() {
        let key = UnlockKey::generate();
        for key in [None, Some(&key)] {
            let (state, file) = made(key);
            assert_eq!(is_locked(&file), key.is_some());
            let backup = read(&file, key).unwrap();
            assert_eq!(text(&backup.state), text(&state));
            assert_eq!(backup.version, env!("CARGO_PKG_VERSION"));
            let is_clear = file.windows(10).any(|part| part == b"\"networks\"");
            assert_ne!(is_clear, key.is_some());
        }
        let (_, locked) = made(Some(&key));
        assert_eq!(refused(&locked, None), BackupError::Locked);
        let other = UnlockKey::generate();
        assert_eq!(refused(&locked, Some(&other)), BackupError::WrongKey);
    }

    #[test]
    fn what_was_changed_or_cut_is_refused() {
        for key in [None, Some(&UnlockKey::generate())] {
            let (_, file) = made(key);
            for at in (0..file.len()).step_by(7).chain([file.len() - 1]) {
                let mut changed = file.clone();
                changed[at] ^= 4;
                assert!(read(&changed, key).is_err(), "byte {at}");
                assert!(read(&file[..at], key).is_err(), "cut at {at}");
            }
            let longer = [&file[..], b"x"].concat();
            assert_eq!(refused(&longer, key), BackupError::Damaged);
        }
        for foreign in [&b""[..], b"{}", b"PK\x03\x04"] {
            assert_eq!(refused(foreign, None), BackupError::Foreign);
        }
    }

    #[test]
    fn parts_that_are_not_known_are_refused() {
        type Change = fn(&mut serde_json::Value);
        let table: [(Change, &str); 4] = [
            (|backup| backup["later"] = 1.into(), "later"),
            (
                |backup| backup["state"]["later"] = serde_json::json!({"a": 1}),
                "state.later",
            ),
            (
                |backup| backup["state"]["cluster"]["spec"]["Later"] = 1.into(),
                "spec.Later",
            ),
            (
                |backup| backup["state"]["cluster"]["id"] = serde_json::json!(["secret"]),
                "at byte ",
            ),
        ];
        let world = World::new(&["n1"]);
        let backup = Backup {
            created_at: world.now,
            version: "9.8".to_owned(),
            state: world.state,
        };
        let backup = serde_json::to_value(&backup).unwrap();
        let key = UnlockKey::generate();
        for key in [None, Some(&key)] {
            let packed = |backup: &serde_json::Value| {
                pack(serde_json::to_vec(backup).unwrap(), key).unwrap()
            };
            read(&packed(&backup), key).unwrap();
            for (change, part) in table {
                let mut changed = backup.clone();
                change(&mut changed);
                let error = refused(&packed(&changed), key);
                let BackupError::Unknown { version, .. } = &error else {
                    panic!("{error}");
                };
                assert_eq!(version, "9.8");
                let text = error.to_string();
                assert!(text.contains(part) && !text.contains("secret"), "{text}");
            }
        }
    }

    #[test]
    fn a_newer_versions_is_refused() {
        let (_, file) = made(None);
        let mut newer = file.clone();
        newer[MAGIC.len()] = FORMAT + 1;
        let format = FORMAT + 1;
        assert_eq!(
            refused(&newer, None),
            BackupError::Newer { format, rules: 0 }
        );
        let mut all = file[..file.len() - DIGEST].to_vec();
        all[HEADER - 4..HEADER].copy_from_slice(&(RULES + 1).to_be_bytes());
        let digest = Sha256::digest(&all);
        all.extend(digest);
        let rules = RULES + 1;
        assert_eq!(refused(&all, None), BackupError::Newer { format: 1, rules });
    }
}
