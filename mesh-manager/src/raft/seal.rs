//! Records at rest: encrypted with a data key that is kept in a file beside the log, readable by root alone.
//!
//! A sealed record is a version byte, the key's id, a random nonce and the ciphertext with its tag (XChaCha20-Poly1305,
//! whose nonces are long enough to be drawn at random for ever). It is bound to its place: moved elsewhere, it does not
//! open. Records of versions that did not seal are JSON, and are read as they are.

use chacha20poly1305::{AeadInPlace, Key as Secret, KeyInit, Tag, XChaCha20Poly1305, XNonce};
use mesh_api::Sensitive;
use rand::RngCore;
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// First byte of every sealed record. JSON begins with another one.
const VERSION: u8 = 1;
const KEY_ID: usize = 8;
const KEY: usize = 32;
const NONCE: usize = 24;
const TAG: usize = 16;
const HEADER: usize = 1 + KEY_ID + NONCE;

/// Why a record cannot be read, or the keys cannot.
#[derive(Debug, thiserror::Error)]
pub(super) enum SealError {
    /// It was written with a key that is not in the file.
    #[error(
        "a record is encrypted with the key {id}, which is not in the key file: put the file back that belongs to this log"
    )]
    UnknownKey { id: String },
    /// It was changed, moved or cut short.
    #[error("an encrypted record is damaged")]
    Damaged,
    /// The key file is not what was written there.
    #[error("the key file is damaged: {0}")]
    KeyFile(String),
    /// The key file cannot be read or written.
    #[error("the key file: {0}")]
    Io(#[from] io::Error),
}

/// The key file.
#[derive(Serialize, Deserialize)]
struct KeyFile {
    /// The last one encrypts.
    keys: Vec<StoredKey>,
}

#[derive(Serialize, Deserialize)]
struct StoredKey {
    id: Sensitive,
    key: Sensitive,
}

struct DataKey {
    id: [u8; KEY_ID],
    cipher: XChaCha20Poly1305,
}

/// Encrypts and decrypts records.
pub(super) struct Sealer {
    /// The last one encrypts.
    keys: Vec<DataKey>,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<String> = self.keys.iter().map(|key| hex(&key.id)).collect();
        f.debug_struct("Sealer").field("keys", &ids).finish()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a record is encrypted.
pub(super) fn is_sealed(record: &[u8]) -> bool {
    record.first() == Some(&VERSION)
}

impl Sealer {
    /// Draws a key and writes it to `path`; it is on disk when this returns.
    pub(super) fn create(path: &Path) -> Result<Self, SealError> {
        let mut id = vec![0; KEY_ID];
        let mut key = vec![0; KEY];
        rand::rng().fill_bytes(&mut id);
        rand::rng().fill_bytes(&mut key);
        let (id, key) = (Sensitive::from(id), Sensitive::from(key));
        let file = KeyFile {
            keys: vec![StoredKey { id, key }],
        };
        let text = serde_json::to_vec(&file).map_err(|e| SealError::KeyFile(e.to_string()))?;
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
        Self::new(&file)
    }

    /// Reads the keys at `path`; `None` if there is no such file.
    pub(super) fn load(path: &Path) -> Result<Option<Self>, SealError> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let file = serde_json::from_slice(&text);
        let file: KeyFile = file.map_err(|e| SealError::KeyFile(e.to_string()))?;
        Self::new(&file).map(Some)
    }

    fn new(file: &KeyFile) -> Result<Self, SealError> {
        let wrong = |what: &str| SealError::KeyFile(format!("a key has the wrong {what}"));
        let key = |stored: &StoredKey| -> Result<DataKey, SealError> {
            let key: [u8; KEY] = (stored.key.reveal().try_into()).map_err(|_| wrong("length"))?;
            Ok(DataKey {
                id: (stored.id.reveal().try_into()).map_err(|_| wrong("id"))?,
                cipher: XChaCha20Poly1305::new(&Secret::from(key)),
            })
        };
        let keys = file.keys.iter().map(key).collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err(SealError::KeyFile("it holds no key".to_owned()));
        }
        Ok(Self { keys })
    }

    /// Encrypts a record for its place.
    pub(super) fn seal(&self, place: &[u8], clear: &[u8]) -> Result<Vec<u8>, SealError> {
        let key = self.keys.last().ok_or(SealError::Damaged)?;
        let mut nonce = [0; NONCE];
        rand::rng().fill_bytes(&mut nonce);
        let mut record = Vec::with_capacity(HEADER + clear.len() + TAG);
        record.push(VERSION);
        record.extend(key.id);
        record.extend(nonce);
        record.extend(clear);
        let tag = key
            .cipher
            .encrypt_in_place_detached(&XNonce::from(nonce), place, &mut record[HEADER..])
            .map_err(|_| SealError::Damaged)?;
        record.extend(tag);
        Ok(record)
    }

    /// What a record of that place says, encrypted or not.
    pub(super) fn open<'a>(
        &self,
        place: &[u8],
        record: &'a [u8],
    ) -> Result<Cow<'a, [u8]>, SealError> {
        if !is_sealed(record) {
            return Ok(Cow::Borrowed(record));
        }
        let (header, sealed) = record
            .split_first_chunk::<HEADER>()
            .ok_or(SealError::Damaged)?;
        let (text, tag) = sealed.split_last_chunk::<TAG>().ok_or(SealError::Damaged)?;
        let (id, nonce) = header[1..].split_at(KEY_ID);
        let mut keys = self.keys.iter();
        let key = keys.find(|key| key.id == id);
        let key = key.ok_or_else(|| SealError::UnknownKey { id: hex(id) })?;
        let mut clear = text.to_vec();
        key.cipher
            .decrypt_in_place_detached(
                XNonce::from_slice(nonce),
                place,
                &mut clear,
                Tag::from_slice(tag),
            )
            .map_err(|_| SealError::Damaged)?;
        Ok(Cow::Owned(clear))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const PLACE: &[u8] = b"here";
    const CLEAR: &[u8] = b"{\"open\":\"sesame\"}";

    #[test]
    fn a_record_opens_where_it_belongs_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raft.key");
        assert!(Sealer::load(&path).unwrap().is_none());
        let sealer = Sealer::create(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let record = sealer.seal(PLACE, CLEAR).unwrap();
        assert!(is_sealed(&record) && !is_sealed(CLEAR));
        assert!(!record.windows(6).any(|six| six == b"sesame"));
        assert_ne!(record, sealer.seal(PLACE, CLEAR).unwrap(), "another nonce");
        let again = Sealer::load(&path).unwrap().unwrap();
        assert_eq!(*again.open(PLACE, &record).unwrap(), *CLEAR);
        assert_eq!(*again.open(PLACE, CLEAR).unwrap(), *CLEAR, "an old one");
        let empty = sealer.seal(PLACE, b"").unwrap();
        assert_eq!(*again.open(PLACE, &empty).unwrap(), *b"");

        let damaged = |place: &[u8], record: &[u8]| {
            matches!(again.open(place, record), Err(SealError::Damaged))
        };
        assert!(damaged(b"there", &record));
        for length in [1, HEADER, record.len() - 1] {
            assert!(damaged(PLACE, &record[..length]), "{length}");
        }
        for at in [1 + KEY_ID, HEADER, record.len() - 1] {
            let mut changed = record.clone();
            changed[at] ^= 1;
            assert!(damaged(PLACE, &changed), "{at}");
        }
    }

    #[test]
    fn keys_are_found_by_their_id() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
        let [first, second] = [&one, &two].map(|path| Sealer::create(path).unwrap());
        let record = first.seal(PLACE, CLEAR).unwrap();
        let refused = second.open(PLACE, &record).unwrap_err().to_string();
        assert!(refused.contains(&hex(&first.keys[0].id)), "{refused}");

        let read =
            |path: &Path| -> KeyFile { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
        let mut both = read(&one);
        both.keys.extend(read(&two).keys);
        let both = Sealer::new(&both).unwrap();
        assert_eq!(*both.open(PLACE, &record).unwrap(), *CLEAR);
        let by_last = both.seal(PLACE, CLEAR).unwrap();
        assert_eq!(*second.open(PLACE, &by_last).unwrap(), *CLEAR);
        assert!(!format!("{both:?}").contains("cipher"));

        for bad in [
            "",
            "{}",
            r#"{"keys":[]}"#,
            r#"{"keys":[{"id":"AA==","key":"AA=="}]}"#,
        ] {
            fs::write(&one, bad).unwrap();
            let refused = Sealer::load(&one).unwrap_err();
            assert!(matches!(refused, SealError::KeyFile(_)), "{bad}");
        }
    }
}
