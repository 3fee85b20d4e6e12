//! One of this node's keys and one of another node's: between them, a WireGuard tunnel.

use std::{
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
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
    /// UDP port of the other end.
    port: AtomicU16,
    tunnel: Mutex<Tunn>,
    /// When the other end first showed that it has both keys too.
    proved: OnceLock<Instant>,
}

impl Pair {
    pub(crate) fn new(own: &OwnKey, theirs: PublicKey, port: u16, index: u32) -> Self {
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
            port: AtomicU16::new(port),
            tunnel: Mutex::new(tunnel),
            proved: OnceLock::new(),
        }
    }

    pub(crate) fn tunnel(&self) -> MutexGuard<'_, Tunn> {
        self.tunnel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.load(Relaxed)
    }

    pub(crate) fn set_port(&self, port: u16) {
        self.port.store(port, Relaxed);
    }

    /// Whether there was no handshake with these keys for so long.
    pub(crate) fn idle_for(&self, now: Instant, time: Duration) -> bool {
        let handshake = self.tunnel().time_since_last_handshake();
        let at = handshake.and_then(|since| Instant::now().checked_sub(since));
        at.is_none_or(|at| now.saturating_duration_since(at) >= time)
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
