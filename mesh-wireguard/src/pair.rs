//! One of this node's keys and one of another node's: between them, a WireGuard tunnel.

use std::{
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use boringtun::{noise::Tunn, x25519};

use crate::key::{OwnKey, PublicKey};

/// A key pair and its tunnel.
pub(crate) struct Pair {
    pub(crate) own: PublicKey,
    pub(crate) theirs: PublicKey,
    /// What the other end calls it by, shifted by eight bits: see [`Tunn::new`].
    pub(crate) index: u32,
    tunnel: Mutex<Tunn>,
    /// When the other end first showed that it has both keys too.
    proved: OnceLock<Instant>,
}

impl Pair {
    pub(crate) fn new(own: &OwnKey, theirs: PublicKey, index: u32) -> Self {
        let tunnel = Tunn::new(
            own.secret.clone(),
            x25519::PublicKey::from(theirs.0),
            None,
            None,
            index,
            Some(own.limiter.clone()),
        );
        Self {
            own: own.public,
            theirs,
            index,
            tunnel: Mutex::new(tunnel),
            proved: OnceLock::new(),
        }
    }

    pub(crate) fn tunnel(&self) -> MutexGuard<'_, Tunn> {
        self.tunnel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the other end has spoken with these keys.
    pub(crate) fn prove(&self) {
        self.proved.get_or_init(Instant::now);
    }

    pub(crate) fn proved(&self) -> Option<Instant> {
        self.proved.get().copied()
    }

    /// Whether the other end has had these keys for so long.
    pub(crate) fn proved_for(&self, now: Instant, time: Duration) -> bool {
        self.proved()
            .is_some_and(|since| now.saturating_duration_since(since) >= time)
    }
}
