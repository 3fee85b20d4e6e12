//! This node's identity in use and on disk, where its private key is encrypted while managers are locked.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mesh_pki::{NodeIdentity, PkiError, Role, UnlockKey};
use tokio::sync::watch;

/// The identity. All that changes it passes here.
#[derive(Debug)]
pub(super) struct OwnIdentity {
    dir: PathBuf,
    current: watch::Sender<Arc<NodeIdentity>>,
    /// What its private key is encrypted with on disk.
    lock: Mutex<Option<UnlockKey>>,
}

impl OwnIdentity {
    /// One that was read from `dir`, or just written there; `lock` is what its private key is encrypted with.
    pub(super) fn new(dir: PathBuf, identity: NodeIdentity, lock: Option<UnlockKey>) -> Self {
        Self {
            dir,
            current: watch::Sender::new(Arc::new(identity)),
            lock: Mutex::new(lock),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<UnlockKey>> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is in use.
    pub(super) fn get(&self) -> Arc<NodeIdentity> {
        self.current.borrow().clone()
    }

    /// Follows it.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<NodeIdentity>> {
        self.current.subscribe()
    }

    /// A renewed one takes its place, on disk first; `show` is done before anybody is told of it. A worker's is not locked:
    /// nobody could unlock it.
    ///
    /// # Errors
    /// It cannot be written: the former one stays.
    pub(super) fn renew(&self, renewed: NodeIdentity, show: impl FnOnce()) -> Result<(), PkiError> {
        self.replace(&self.lock(), renewed, show)
    }

    /// `prolonged` takes the place of the one that it was made of, unless that was renewed meanwhile.
    ///
    /// # Errors
    /// It cannot be written: the former one stays.
    pub(super) fn prolong(
        &self,
        former: &NodeIdentity,
        prolonged: NodeIdentity,
    ) -> Result<(), PkiError> {
        let lock = self.lock();
        if *self.get() != *former {
            return Ok(());
        }
        self.replace(&lock, prolonged, || ())
    }

    fn replace(
        &self,
        lock: &Option<UnlockKey>,
        by: NodeIdentity,
        show: impl FnOnce(),
    ) -> Result<(), PkiError> {
        let key = lock.as_ref().filter(|_| by.role == Role::Manager);
        by.save(&self.dir, key)?;
        show();
        self.current.send_replace(Arc::new(by));
        Ok(())
    }

    /// The private key has been opened; `lock` is what it is encrypted with on disk, also when it is renewed.
    pub(super) fn open(&self, identity: NodeIdentity, lock: Option<UnlockKey>) {
        *self.lock() = lock;
        self.current.send_replace(Arc::new(identity));
    }

    /// Has the private key encrypted on disk with this key from now on, or with none.
    ///
    /// # Errors
    /// It cannot be written: it is as it was.
    pub(super) fn seal(&self, key: Option<&UnlockKey>) -> Result<(), PkiError> {
        let mut lock = self.lock();
        let identity = self.get();
        if !identity.has_key() {
            return Ok(());
        }
        let wanted = key.filter(|_| identity.role == Role::Manager);
        if !self.is_there(&identity, wanted) {
            identity.save(&self.dir, wanted)?;
        }
        *lock = key.cloned();
        Ok(())
    }

    /// Whether it is on disk like that.
    fn is_there(&self, identity: &NodeIdentity, lock: Option<&UnlockKey>) -> bool {
        let read = |lock| NodeIdentity::load(&self.dir, lock).ok().flatten();
        read(lock).is_some_and(|there| there == *identity)
            && read(None).is_some_and(|there| there.has_key() == lock.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_pki::{DEFAULT_CERTIFICATE_VALIDITY, RootCa, new_key_and_request};

    #[test]
    fn one_that_was_renewed_is_not_prolonged() {
        let dir = tempfile::tempdir().unwrap();
        let root = RootCa::create().unwrap();
        let [first, prolonged, renewed] =
            [(); 3].map(|()| NodeIdentity::first_manager(&root).unwrap());
        let own = OwnIdentity::new(dir.path().to_owned(), first.clone(), None);
        let is_there = |identity: &NodeIdentity| {
            let there = NodeIdentity::load(dir.path(), None).unwrap().unwrap();
            there == *identity && *own.get() == *identity
        };
        own.prolong(&first, prolonged.clone()).unwrap();
        assert!(is_there(&prolonged));
        own.renew(renewed.clone(), || ()).unwrap();
        own.prolong(&prolonged, first).unwrap();
        assert!(is_there(&renewed));
    }

    #[test]
    fn what_is_on_disk_is_locked_as_managers_are() {
        let dir = tempfile::tempdir().unwrap();
        let root = RootCa::create().unwrap();
        let identity = NodeIdentity::first_manager(&root).unwrap();
        let again = |role| {
            let pair = new_key_and_request().unwrap();
            let certificate = root.sign(
                &pair.request_pem,
                &identity.node_id,
                role,
                &identity.cluster_id,
                DEFAULT_CERTIFICATE_VALIDITY,
            );
            let root = root.certificate_pem().to_owned();
            NodeIdentity::new(certificate.unwrap(), pair.key_pem, root).unwrap()
        };
        let own = OwnIdentity::new(dir.path().to_owned(), identity.clone(), None);
        let key = UnlockKey::generate();
        let is_locked = || {
            let read = |key| NodeIdentity::load(dir.path(), key).unwrap().unwrap();
            assert!(read(Some(&key)) == *own.get());
            !read(None).has_key()
        };
        own.seal(None).unwrap();
        assert!(!is_locked());
        own.seal(Some(&key)).unwrap();
        assert!(is_locked());
        own.renew(again(Role::Manager), || ()).unwrap();
        assert!(is_locked(), "a renewed one is locked as well");
        own.renew(again(Role::Worker), || ()).unwrap();
        assert!(!is_locked(), "a worker's is not");
        own.seal(Some(&key)).unwrap();
        assert!(!is_locked());
        own.renew(again(Role::Manager), || ()).unwrap();
        assert!(is_locked());
        own.seal(None).unwrap();
        assert!(!is_locked());

        let without = identity.clone().without_key();
        let locked = OwnIdentity::new(dir.path().to_owned(), without, None);
        locked.seal(Some(&key)).unwrap();
        assert!(!is_locked(), "what is not known is not written");
        locked.open(identity.clone(), Some(key.clone()));
        locked.renew(again(Role::Manager), || ()).unwrap();
        let on_disk = NodeIdentity::load(dir.path(), None).unwrap().unwrap();
        assert!(!on_disk.has_key(), "renewed before its manager runs");
    }
}
