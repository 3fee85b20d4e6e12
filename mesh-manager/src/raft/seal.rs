//! Records at rest: encrypted with a data key that is kept in a [file beside the log](super::key_file).
//!
//! A sealed record is a version byte, the key's id, a random nonce and the ciphertext with its tag (XChaCha20-Poly1305,
//! whose nonces are long enough to be drawn at random for ever). It is bound to its place: moved elsewhere, it does not
//! open. Records of versions that did not seal are JSON, and are read as they are.

use super::key_file::{KEY, KEY_ID, KeyFile, Keys, StoredKey};
use crate::Unlock;
use chacha20poly1305::{AeadInPlace, Key as Secret, KeyInit, Tag, XChaCha20Poly1305, XNonce};
use mesh_pki::UnlockKey;
use rand::RngCore;
use std::{
    borrow::Cow,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

/// First byte of every sealed record. JSON begins with another one.
const VERSION: u8 = 1;
const NONCE: usize = 24;
const TAG: usize = 16;
const HEADER: usize = 1 + KEY_ID + NONCE;

/// Why a record cannot be read, or the keys cannot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    /// It was written with a key that is not in the file.
    #[error(
        "a record is encrypted with the key {id}, which is not in the key file: put the file back that belongs to this log"
    )]
    UnknownKey { id: String },
    /// It was changed, moved or cut short.
    #[error("an encrypted record is damaged")]
    Damaged,
    /// The keys are encrypted with the unlock key, which was not given.
    #[error("the keys are locked")]
    Locked,
    /// They are encrypted with another one.
    #[error("invalid key provided")]
    WrongKey,
    /// The key file is not what was written there.
    #[error("the key file is damaged: {0}")]
    KeyFile(String),
    /// The key file cannot be read or written.
    #[error("the key file: {0}")]
    Io(#[from] io::Error),
}

/// Which key of the log.
pub(super) type KeyId = [u8; KEY_ID];

struct DataKey {
    id: KeyId,
    cipher: XChaCha20Poly1305,
}

/// The keys in use, and how they are on disk.
struct Ring {
    stored: Keys,
    /// The last one encrypts.
    keys: Vec<DataKey>,
    /// What the file is encrypted with.
    lock: Option<UnlockKey>,
}

/// Encrypts and decrypts records.
pub(crate) struct Sealer {
    path: PathBuf,
    ring: RwLock<Ring>,
    /// Held while the file is written: one change at a time.
    changing: Mutex<()>,
    unlock: Unlock,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ring = self.ring();
        let ids: Vec<String> = ring.keys.iter().map(|key| hex(&key.id)).collect();
        f.debug_struct("Sealer")
            .field("keys", &ids)
            .field("locked", &ring.lock.is_some())
            .finish_non_exhaustive()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a record is encrypted.
pub(super) fn is_sealed(record: &[u8]) -> bool {
    record.first() == Some(&VERSION)
}

/// Whether a record is encrypted with another key than this one.
pub(super) fn is_of_other(record: &[u8], key: KeyId) -> bool {
    is_sealed(record) && record.get(1..=KEY_ID) != Some(&key[..])
}

impl Ring {
    fn new(stored: Keys, lock: Option<UnlockKey>) -> Result<Self, SealError> {
        let wrong = |what: &str| SealError::KeyFile(format!("a key has the wrong {what}"));
        let key = |stored: &StoredKey| -> Result<DataKey, SealError> {
            let key: [u8; KEY] = (stored.key.reveal().try_into()).map_err(|_| wrong("length"))?;
            Ok(DataKey {
                id: (stored.id.reveal().try_into()).map_err(|_| wrong("id"))?,
                cipher: XChaCha20Poly1305::new(&Secret::from(key)),
            })
        };
        let keys = stored.keys.iter().map(key).collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err(SealError::KeyFile("it holds no key".to_owned()));
        }
        Ok(Self { stored, keys, lock })
    }
}

impl Sealer {
    /// Draws a key at `now`, nanoseconds since the epoch, and writes it to `path`; it is on disk when this returns.
    pub(super) fn create(path: &Path, unlock: &Unlock, now: i64) -> Result<Self, SealError> {
        let stored = Keys {
            keys: vec![StoredKey::draw(now)],
            node: None,
            version: 0,
        };
        stored.write(path, None)?;
        Self::new(path, stored, None, unlock)
    }

    /// Reads the keys at `path`; `None` if there is no such file. Where they are locked, they are opened with `unlock`, which
    /// says from now on what they are locked with.
    pub(super) fn load(path: &Path, unlock: &Unlock) -> Result<Option<Self>, SealError> {
        let Some(file) = KeyFile::read(path)? else {
            return Ok(None);
        };
        let (stored, lock) = file.open(unlock.get())?;
        Self::new(path, stored, lock, unlock).map(Some)
    }

    fn new(
        path: &Path,
        stored: Keys,
        lock: Option<UnlockKey>,
        unlock: &Unlock,
    ) -> Result<Self, SealError> {
        let ring = Ring::new(stored, lock)?;
        unlock.set(ring.lock.clone());
        Ok(Self {
            path: path.to_owned(),
            ring: RwLock::new(ring),
            changing: Mutex::default(),
            unlock: unlock.clone(),
        })
    }

    fn ring(&self) -> RwLockReadGuard<'_, Ring> {
        // The ring is replaced as a whole.
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the keys, on disk first: no record is made with a key that is not there. While the file is written, records
    /// are made with the key that encrypted before, which `change` therefore leaves in it.
    fn change(
        &self,
        change: impl FnOnce(&mut Keys, &mut Option<UnlockKey>),
    ) -> Result<(), SealError> {
        let _in_turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut stored, mut lock) = {
            let ring = self.ring();
            (ring.stored.clone(), ring.lock.clone())
        };
        change(&mut stored, &mut lock);
        let next = Ring::new(stored, lock)?;
        next.stored.write(&self.path, next.lock.as_ref())?;
        self.unlock.set(next.lock.clone());
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    /// Whether the keys are locked as a cluster of this version has it, or a later one.
    pub(crate) fn is_locked_by(&self, key: Option<&UnlockKey>, version: u64) -> bool {
        let ring = self.ring();
        ring.stored.version > version || ring.lock.as_ref() == key
    }

    /// Locks the keys as a cluster of this version has it: with this key, or with none. With each key that they are locked
    /// with comes another one for the log, drawn at `now` (nanoseconds since the epoch), in the same write; what the former
    /// ones have encrypted is still read.
    pub(crate) fn lock(
        &self,
        key: Option<&UnlockKey>,
        version: u64,
        now: i64,
    ) -> Result<(), SealError> {
        self.change(|stored, lock| {
            *lock = key.cloned();
            stored.version = version;
            if key.is_some() {
                stored.keys.push(StoredKey::draw(now));
                let draw = || UnlockKey::generate().as_bytes().to_vec().into();
                stored.node.get_or_insert_with(draw);
            }
        })
    }

    /// Whether the key that encrypts has been in use for as long as `life` at `now`, nanoseconds since the epoch. So it is taken
    /// to be where that is not known, or it comes from a time that is as far ahead, as a clock was set.
    pub(crate) fn is_worn(&self, life: Duration, now: i64) -> bool {
        let made = self.ring().stored.keys.last().and_then(|key| key.made);
        made.is_none_or(|made| u128::from(now.abs_diff(made)) >= life.as_nanos())
    }

    /// Encrypts with another key from now on, drawn at `now` (nanoseconds since the epoch). It is on disk when this returns;
    /// what the former ones have encrypted is still read.
    pub(crate) fn renew(&self, now: i64) -> Result<(), SealError> {
        self.change(|stored, _| stored.keys.push(StoredKey::draw(now)))
    }

    /// The id of the key that encrypts now.
    pub(super) fn newest(&self) -> Option<KeyId> {
        self.ring().keys.last().map(|key| key.id)
    }

    /// Whether there are keys besides the one that encrypts.
    pub(crate) fn has_old(&self) -> bool {
        self.ring().keys.len() > 1
    }

    /// Forgets the keys from before this one: nothing is left that they have encrypted.
    pub(super) fn forget_before(&self, newest: KeyId) -> Result<(), SealError> {
        self.change(|stored, _| {
            let is_it = |key: &StoredKey| key.id.reveal() == newest;
            let at = stored.keys.iter().position(is_it).unwrap_or(0);
            stored.keys.drain(..at);
        })
    }

    /// What the node's private key may be encrypted with; `None` if managers were never locked.
    pub(crate) fn node_key(&self) -> Option<UnlockKey> {
        let ring = self.ring();
        let bytes = ring.stored.node.as_ref()?;
        UnlockKey::from_bytes(bytes.reveal()).ok()
    }

    /// What the node's private key is to be encrypted with; `None` while managers are not locked.
    pub(crate) fn node_lock(&self) -> Option<UnlockKey> {
        self.ring().lock.as_ref()?;
        self.node_key()
    }

    /// Encrypts a record for its place.
    pub(super) fn seal(&self, place: &[u8], clear: &[u8]) -> Result<Vec<u8>, SealError> {
        let ring = self.ring();
        let key = ring.keys.last().ok_or(SealError::Damaged)?;
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
        let ring = self.ring();
        let key = ring.keys.iter().find(|key| key.id == id);
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
    use std::{fs, os::unix::fs::PermissionsExt};

    const PLACE: &[u8] = b"here";
    const CLEAR: &[u8] = b"{\"open\":\"sesame\"}";

    fn create(path: &Path) -> Sealer {
        Sealer::create(path, &Unlock::default(), 0).unwrap()
    }

    fn load(path: &Path, key: Option<&UnlockKey>) -> Result<Option<Sealer>, SealError> {
        let unlock = key.cloned().map_or_else(Unlock::default, Unlock::from);
        Sealer::load(path, &unlock)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_record_opens_where_it_belongs_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raft.key");
        assert!(load(&path, None).unwrap().is_none());
        let sealer = create(&path);
        assert_eq!(mode(&path), 0o600);

        let record = sealer.seal(PLACE, CLEAR).unwrap();
        assert!(is_sealed(&record) && !is_sealed(CLEAR));
        assert!(!record.windows(6).any(|six| six == b"sesame"));
        assert_ne!(record, sealer.seal(PLACE, CLEAR).unwrap(), "another nonce");
        let again = load(&path, None).unwrap().unwrap();
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
        let [first, second] = [&one, &two].map(|path| create(path));
        let record = first.seal(PLACE, CLEAR).unwrap();
        let refused = second.open(PLACE, &record).unwrap_err().to_string();
        assert!(
            refused.contains(&hex(&first.ring().keys[0].id)),
            "{refused}"
        );

        let second_key = second.ring().stored.keys[0].clone();
        first
            .change(|stored, _| stored.keys.push(second_key))
            .unwrap();
        let both = load(&one, None).unwrap().unwrap();
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
            let refused = load(&one, None).unwrap_err();
            assert!(matches!(refused, SealError::KeyFile(_)), "{bad}");
        }
    }

    #[test]
    fn locked_keys_open_with_the_unlock_key_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raft.key");
        let unlock = Unlock::default();
        let sealer = Sealer::create(&path, &unlock, 0).unwrap();
        let record = sealer.seal(PLACE, CLEAR).unwrap();
        assert!(sealer.node_key().is_none() && sealer.node_lock().is_none());
        let [first, second] = [(); 2].map(|()| UnlockKey::generate());
        let opens = |key: Option<&UnlockKey>| {
            let sealer = load(&path, key)?.unwrap();
            sealer.open(PLACE, &record).map(|clear| clear == CLEAR)
        };
        let mut node_key = None;
        for (version, lock, other) in [
            (1, Some(&first), Some(&second)),
            (2, Some(&second), Some(&first)),
            (3, None, None),
            (4, Some(&second), Some(&first)),
        ] {
            assert!(!sealer.is_locked_by(lock, version));
            sealer.lock(lock, version, 0).unwrap();
            assert!(sealer.is_locked_by(lock, version));
            assert!(!sealer.is_locked_by(Some(&UnlockKey::generate()), version));
            // As a log that is read again has it.
            assert!(sealer.is_locked_by(other, version - 1));
            assert_eq!(unlock.get().as_ref(), lock);
            assert_eq!(sealer.node_lock().is_some(), lock.is_some());
            assert!(opens(lock).unwrap());
            let key = sealer.node_key();
            assert!(key.is_some() && (node_key.is_none() || node_key == key));
            node_key = key;
            let text = fs::read_to_string(&path).unwrap();
            assert_eq!(text.contains("\"keys\""), lock.is_none(), "{text}");
            if lock.is_some() {
                assert!(matches!(opens(None), Err(SealError::Locked)));
                assert!(matches!(opens(other), Err(SealError::WrongKey)));
            }
        }
        sealer.lock(None, 5, 0).unwrap();
        assert!(opens(Some(&first)).unwrap(), "not locked: any key will do");
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn locked_keys_that_were_changed_do_not_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raft.key");
        let key = UnlockKey::generate();
        create(&path).lock(Some(&key), 1, 0).unwrap();
        let text = fs::read(&path).unwrap();
        for at in 0..text.len() {
            let mut changed = text.clone();
            changed[at] ^= 2;
            fs::write(&path, &changed).unwrap();
            assert!(load(&path, Some(&key)).is_err(), "byte {at}");
            fs::write(&path, &text[..at]).unwrap();
            assert!(load(&path, Some(&key)).is_err(), "cut at {at}");
        }
        fs::write(&path, &text).unwrap();
        assert!(load(&path, Some(&key)).unwrap().is_some());
    }

    #[test]
    fn a_new_key_encrypts_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raft.key");
        let key = UnlockKey::generate();
        let sealer = create(&path);
        let old = sealer.seal(PLACE, CLEAR).unwrap();
        let is_old = |record: &[u8]| is_of_other(record, sealer.newest().unwrap());
        assert!(!is_old(&old) && !is_old(CLEAR) && !sealer.has_old());
        sealer.lock(Some(&key), 1, 0).unwrap();
        let new = sealer.seal(PLACE, CLEAR).unwrap();
        assert!(is_old(&old) && !is_old(&new) && sealer.has_old());
        let again = load(&path, Some(&key)).unwrap().unwrap();
        assert_eq!(*again.open(PLACE, &old).unwrap(), *CLEAR);
        let newest = sealer.newest().unwrap();
        sealer.lock(Some(&UnlockKey::generate()), 2, 0).unwrap();
        sealer.lock(Some(&key), 3, 0).unwrap();
        sealer.forget_before(newest).unwrap();
        assert_eq!(
            sealer.ring().keys.len(),
            3,
            "those that came meanwhile stay"
        );
        sealer.forget_before(sealer.newest().unwrap()).unwrap();
        let newer = sealer.seal(PLACE, CLEAR).unwrap();
        let again = load(&path, Some(&key)).unwrap().unwrap();
        assert!(!sealer.has_old() && !again.has_old());
        assert!(matches!(
            again.open(PLACE, &old),
            Err(SealError::UnknownKey { .. })
        ));
        assert_eq!(*again.open(PLACE, &newer).unwrap(), *CLEAR);
        sealer.lock(None, 4, 0).unwrap();
        assert!(!sealer.has_old(), "unlocking makes no key");
    }

    #[test]
    fn a_key_wears_out() {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        let day = i64::try_from(DAY.as_nanos()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raft.key");
        let sealer = Sealer::create(&path, &Unlock::default(), 10 * day).unwrap();
        let is_worn = |sealer: &Sealer, now| sealer.is_worn(DAY, now);
        for now in [10 * day, 11 * day - 1, 9 * day + 1] {
            assert!(!is_worn(&sealer, now), "{now}");
        }
        for now in [11 * day, 300 * day, 9 * day, 0] {
            assert!(is_worn(&sealer, now), "{now}");
        }
        sealer.renew(11 * day).unwrap();
        assert!(!is_worn(&sealer, 11 * day));
        let again = load(&path, None).unwrap().unwrap();
        assert!(!is_worn(&again, 12 * day - 1) && is_worn(&again, 12 * day));
        sealer.lock(None, 1, 12 * day).unwrap();
        assert!(is_worn(&sealer, 12 * day), "unlocking makes no key");
        let key = UnlockKey::generate();
        sealer.lock(Some(&key), 2, 12 * day).unwrap();
        assert!(!is_worn(&sealer, 12 * day));

        // As versions wrote it that did not say when.
        let path = dir.path().join("old.key");
        let id = r#"AAECAwQFBgc="#;
        let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let text = format!(r#"{{"keys":[{{"id":"{id}","key":"{key}"}}],"version":7}}"#);
        fs::write(&path, text).unwrap();
        let old = load(&path, None).unwrap().unwrap();
        let record = old.seal(PLACE, CLEAR).unwrap();
        assert!(is_worn(&old, 0));
        old.renew(0).unwrap();
        assert!(!is_worn(&old, 0));
        let again = load(&path, None).unwrap().unwrap();
        assert_eq!(*again.open(PLACE, &record).unwrap(), *CLEAR);
    }

    #[test]
    fn no_record_is_made_with_a_key_that_is_not_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raft.key");
        let sealer = create(&path);
        std::thread::scope(|scope| {
            let renewing = scope.spawn(|| {
                for now in 0..20 {
                    sealer.renew(now).unwrap();
                }
            });
            while !renewing.is_finished() {
                let record = sealer.seal(PLACE, CLEAR).unwrap();
                let on_disk = load(&path, None).unwrap().unwrap();
                assert_eq!(*on_disk.open(PLACE, &record).unwrap(), *CLEAR);
            }
        });
        assert_eq!(sealer.ring().keys.len(), 21);
    }

    /// At each step of a change a crash leaves the old file, or the new one.
    #[test]
    fn a_change_that_is_cut_off_or_fails_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raft.key");
        let [first, second] = [(); 2].map(|()| UnlockKey::generate());
        let sealer = create(&path);
        sealer.lock(Some(&first), 1, 0).unwrap();
        let record = sealer.seal(PLACE, CLEAR).unwrap();
        let before = fs::read(&path).unwrap();
        let newest = sealer.newest();
        let next = path.with_extension("key.next");

        // Cut off while the new file was written: any part of it may be there.
        for part in [&b""[..], &before[..9], b"{\"keys\":["] {
            fs::write(&next, part).unwrap();
            let again = load(&path, Some(&first)).unwrap().unwrap();
            assert_eq!(*again.open(PLACE, &record).unwrap(), *CLEAR);
        }
        // The disk refuses.
        fs::remove_file(&next).unwrap();
        fs::create_dir(&next).unwrap();
        assert!(matches!(
            sealer.lock(Some(&second), 2, 0),
            Err(SealError::Io(_))
        ));
        assert_eq!(fs::read(&path).unwrap(), before);
        assert!(sealer.is_locked_by(Some(&first), 2));
        assert_eq!(sealer.newest(), newest, "no key that is not on disk");
        assert_eq!(sealer.unlock.get().as_ref(), Some(&first));
        // And takes it in the end.
        fs::remove_dir(&next).unwrap();
        sealer.lock(Some(&second), 2, 0).unwrap();
        assert!(!next.exists());
        let again = load(&path, Some(&second)).unwrap().unwrap();
        assert_eq!(*again.open(PLACE, &record).unwrap(), *CLEAR);
    }
}
