//! When a node makes itself a new key. Pure.
//!
//! Keys are numbered, by epochs. A node makes a new key when its own is old enough, or when another's is of a later epoch: so
//! all of them go from one to the next, and in any of them each node has one key. That is what the kernel's WireGuard
//! needs, whose devices have one key for each node; in user space any two keys make a pair. No node is followed that claims an
//! epoch far ahead of all others.
//!
//! All at once would be a handshake of each with each. So every node lets a time of its own pass before it follows those that
//! are ahead by one epoch: they still have the key before, and whoever has not (it started meanwhile) is followed at once.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    net::Ipv4Addr,
    time::Duration,
};

use crate::{Peer, PeerStatus, Status, plan::SESSION};

/// Of a period, the part over which the nodes of a mesh spread a change of keys.
const SPREAD: u32 = 8;
/// Of a period, the part that a key lasts at least, whatever others do.
const LEAST: u32 = 4;

/// How a node goes from key to key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// After which it makes itself a new one.
    pub period: Duration,
    /// How old its key has to be before it follows those that are ahead by one, so that no node drives the others.
    pub least: Duration,
    /// How long it waits with both, each node differently.
    pub delay: Duration,
}

impl Pace {
    /// That of the node at a tunnel end point.
    pub fn of(period: Duration, address: Ipv4Addr) -> Self {
        let mut hasher = DefaultHasher::new();
        address.hash(&mut hasher);
        let share = hasher.finish() as f64 / u64::MAX as f64;
        Self {
            period,
            least: period / LEAST,
            delay: (period / SPREAD).mul_f64(share),
        }
    }
}

impl Status {
    /// The epoch of the key to make now, if it is time for a new one: that of the nodes that are ahead, or the next. `told` is
    /// what is known of the other nodes, by tunnel end point, and `ahead_for` for how long their [latest](first_epoch) epoch
    /// has been known here. One node alone is followed by one epoch at most. Nor is this one ever more than one ahead of all
    /// others by itself.
    pub fn next_epoch(
        &self,
        pace: &Pace,
        told: &BTreeMap<Ipv4Addr, Peer>,
        ahead_for: Duration,
    ) -> Option<u64> {
        let latest = epochs(told).max();
        let is_ahead = latest.is_some_and(|latest| self.epoch > latest);
        match agreed_epoch(epochs(told).chain([self.epoch])).filter(|agreed| *agreed > self.epoch) {
            Some(ahead) if ahead - self.epoch == 1 && self.waits(pace, ahead, told, ahead_for) => {
                None
            }
            Some(ahead) => Some(ahead),
            None if !is_ahead && self.is_rotation_due(pace) => self.epoch.checked_add(1),
            None => None,
        }
    }

    /// Whether this node is ahead of all others, and nothing goes to any: by more than one epoch none of them follows it, by one
    /// not soon, and it has no key before. In user space it may have sessions with them nevertheless.
    pub fn is_astray(&self, told: &BTreeMap<Ipv4Addr, Peer>) -> bool {
        let latest = epochs(told).max();
        let ahead = latest.map_or(0, |latest| self.epoch.saturating_sub(latest));
        let is_cut = match ahead {
            0 => false,
            1 => !self.rotating && !self.peers.iter().any(|peer| peer.proved),
            _ => true,
        };
        is_cut && !self.peers.iter().any(PeerStatus::has_session)
    }

    /// Whether there is still time to follow others to the epoch `ahead`, the next one. There is as long as all that are
    /// ahead have a key in common with this node. One node alone that is ahead did not come anew, as that takes an epoch that
    /// another has.
    fn waits(
        &self,
        pace: &Pace,
        ahead: u64,
        told: &BTreeMap<Ipv4Addr, Peer>,
        ahead_for: Duration,
    ) -> bool {
        let ahead: Vec<_> = told
            .iter()
            .filter(|(_, peer)| peer.epoch == Some(ahead))
            .collect();
        if ahead.len() > 1
            && !ahead
                .iter()
                .all(|(address, peer)| self.meets(**address, peer))
        {
            return false;
        }
        let age = Duration::from_secs(self.key_age_s);
        // This node's key before may be a node's that is down, and they have this epoch's key too.
        let is_needed = self.rotating && age < whole(pace.period).saturating_mul(2);
        let is_early = ahead_for < pace.delay && age < self.due(pace);
        is_needed || is_early || age < pace.least
    }

    /// Whether packets go to that node, or would.
    fn meets(&self, address: Ipv4Addr, told: &Peer) -> bool {
        let mut peers = self.peers.iter().filter(|peer| peer.address == address);
        // It has both keys, and this node has the one before.
        let is_shared = |peer: &PeerStatus| {
            let known = [&peer.key, &peer.former_key];
            !told.former_key.is_empty() && known.contains(&&told.former_key)
        };
        // In user space its newest key has been tried at once. The kernel has tried none of another epoch.
        let is_tried = |peer: &PeerStatus| self.user_space.is_some() && peer.proved;
        peers.any(|peer| is_shared(peer) || is_tried(peer) || peer.has_session())
    }

    /// Whether it is time for a new key. One change waits for the other; but a node that never learns of it (it is down)
    /// holds it up for no longer than until the next is due, if any other has.
    fn is_rotation_due(&self, pace: &Pace) -> bool {
        Duration::from_secs(self.key_age_s) >= self.due(pace)
            && (!self.rotating || self.peers.iter().any(|peer| peer.proved))
    }

    /// How old its key may become at most, unless nobody knows it.
    fn due(&self, pace: &Pace) -> Duration {
        let periods = if self.rotating { 2 } else { 1 };
        whole(pace.period)
            .saturating_mul(periods)
            .saturating_add(pace.delay)
    }
}

impl PeerStatus {
    /// Whether there is a session that packets may go by.
    fn has_session(&self) -> bool {
        self.handshake_s
            .is_some_and(|since| since < SESSION.as_secs())
    }
}

/// No less than what the age of keys is told in.
fn whole(period: Duration) -> Duration {
    period.max(Duration::from_secs(1))
}

fn epochs(told: &BTreeMap<Ipv4Addr, Peer>) -> impl Iterator<Item = u64> {
    told.values().filter_map(|peer| peer.epoch)
}

/// The latest of these epochs, each a node's; but not one node's alone that is more than one ahead of all others.
fn agreed_epoch(told: impl IntoIterator<Item = u64>) -> Option<u64> {
    let mut told: Vec<u64> = told.into_iter().collect();
    told.sort_unstable();
    match told.as_slice() {
        [.., second, latest] if latest - second > 1 => Some(*second),
        told => told.last().copied(),
    }
}

/// The epoch of a node's first key, the others being `told`. While they change, it is the one that they change to: each
/// tells its newest key alone, so that nothing is known here of the one before.
pub fn first_epoch(told: &BTreeMap<Ipv4Addr, Peer>) -> u64 {
    agreed_epoch(epochs(told)).unwrap_or(0)
}

/// Why there is no new key of that epoch.
pub(crate) fn not_later(epoch: u64, present: u64) -> String {
    format!("a new key of epoch {epoch} was asked for, and the present one is of epoch {present}")
}

#[cfg(test)]
#[path = "rotation_tests.rs"]
mod tests;
