//! What the kernel's devices are to be, and how things are with them. No I/O: devices as they were found in, changes out.
//!
//! A device has one key, and takes what comes from a node by one of that node's keys only: by the address in the packet. So
//! keys are numbered, by epochs that all nodes pass through, and each epoch has a device: two keys are on the same device
//! only if they are of the same epoch. The newest device and the one before it have ports of their own, and both of them
//! receive. A node is sent to by the one before until it has answered by the newest.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use crate::{PROTOCOL, Peer, PeerStatus, Status, key::PublicKey};

/// For so long after the last handshake a session is used, by both ends (`REJECT_AFTER_TIME`).
pub(crate) const SESSION: Duration = Duration::from_secs(180);
/// Devices at a time: that of the newest key, and of the one before.
pub(crate) const DEVICES: u64 = 2;
/// How often a node that has not answered yet is asked to; WireGuard does not do it more often.
const KEEPALIVE_S: u16 = 5;

/// A device, as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    /// Interface index.
    pub(crate) index: u32,
    /// Its key's.
    pub(crate) epoch: u64,
    /// Seconds after boot when it was made.
    pub(crate) made_s: u64,
    /// Bytes of the largest packet.
    pub(crate) mtu: u32,
    pub(crate) is_up: bool,
    pub(crate) key: PublicKey,
    /// UDP port, host byte order.
    pub(crate) port: u16,
    /// Packets from addresses that are not their sender's.
    pub(crate) refused: u64,
    pub(crate) peers: Vec<DevicePeer>,
}

/// Another node's key on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DevicePeer {
    pub(crate) key: PublicKey,
    /// Whose it is.
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) endpoint: Option<SocketAddr>,
    /// Zero: none.
    pub(crate) keepalive_s: u16,
    /// Since the last one, if there was any: both ends have shown that they have their keys.
    pub(crate) handshake: Option<Duration>,
    /// Bytes.
    pub(crate) sent: u64,
    /// Bytes.
    pub(crate) received: u64,
}

impl Device {
    /// Its peers, by whose they are.
    fn by_address(&self) -> BTreeMap<Ipv4Addr, &DevicePeer> {
        let peers = self.peers.iter();
        peers
            .filter_map(|peer| Some((peer.address?, peer)))
            .collect()
    }

    /// The UDP port that the device of an even epoch beside it has.
    pub(crate) fn first_port(&self) -> u16 {
        self.port.saturating_sub(port(0, self.epoch))
    }
}

/// One change of a device's peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// This key is nobody's here any more.
    Remove(PublicKey),
    /// This key is that node's.
    Set {
        key: PublicKey,
        address: Ipv4Addr,
        endpoint: SocketAddr,
        /// Zero: none.
        keepalive_s: u16,
    },
}

/// Which of the devices an epoch has.
pub(crate) fn slot(epoch: u64) -> u64 {
    epoch % DEVICES
}

/// The UDP port of an epoch's device.
pub(crate) fn port(first: u16, epoch: u64) -> u16 {
    first.saturating_add((slot(epoch) != 0).into())
}

/// What has to change on a device. `is_newest`: it has this node's newest key. A key that two nodes tell, or one tells that is
/// another's here, stays with who has it, else with neither: on a device it can be one node's only.
pub(crate) fn changes(
    device: &Device,
    is_newest: bool,
    wanted: &BTreeMap<Ipv4Addr, (PublicKey, Peer)>,
) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut kept = BTreeSet::new();
    let mut tellers = BTreeMap::<PublicKey, usize>::new();
    for (key, _) in wanted.values() {
        *tellers.entry(*key).or_default() += 1;
    }
    let known_peers = device.by_address();
    let holders = known_peers
        .iter()
        .filter(|(address, _)| wanted.contains_key(address));
    let holders: BTreeMap<PublicKey, Ipv4Addr> = holders
        .map(|(address, peer)| (peer.key, *address))
        .collect();
    for (address, (key, told)) in wanted {
        let known = known_peers.get(address).copied();
        // A key of a later epoch is not this device's, and the one before stays. Who knows no epochs has one key for all.
        let is_its = match told.epoch {
            Some(epoch) if epoch < device.epoch => continue,
            Some(epoch) => epoch == device.epoch,
            None => is_newest || known.is_none(),
        };
        if !is_its {
            kept.extend(known.map(|known| known.key));
            continue;
        }
        let is_free = match holders.get(key) {
            Some(holder) => holder == address,
            None => tellers[key] == 1,
        };
        if !is_free {
            continue;
        }
        kept.insert(*key);
        let known = known.filter(|known| known.key == *key);
        let is_proved = known.is_some_and(|known| known.handshake.is_some());
        let endpoint = SocketAddr::from((*address, told.port));
        let keepalive_s = if is_proved { 0 } else { KEEPALIVE_S };
        let is_so = |known: &DevicePeer| {
            known.endpoint == Some(endpoint) && known.keepalive_s == keepalive_s
        };
        if !known.is_some_and(is_so) {
            changes.push(Change::Set {
                key: *key,
                address: *address,
                endpoint,
                keepalive_s,
            });
        }
    }
    let gone = device.peers.iter().filter(|peer| !kept.contains(&peer.key));
    let gone = gone.map(|peer| Change::Remove(peer.key));
    gone.chain(changes).collect()
}

/// Whether the older device is needed no longer: all have answered by the newest, and no session of it is left.
pub(crate) fn is_over<'a>(
    newest: &Device,
    older: &Device,
    mut wanted: impl Iterator<Item = &'a Ipv4Addr>,
) -> bool {
    let newest = newest.by_address();
    let is_proved = |address: &Ipv4Addr| {
        let peer = newest.get(address);
        peer.is_some_and(|peer| peer.handshake.is_some())
    };
    let is_idle = |peer: &DevicePeer| peer.handshake.is_none_or(|since| since >= SESSION);
    wanted.all(is_proved) && older.peers.iter().all(is_idle)
}

/// How things are. `devices` has the newest first, `address` is this node's tunnel end point, `now_s` the time since boot.
pub(crate) fn status(devices: &[Device], address: Ipv4Addr, now_s: u64) -> Option<Status> {
    let (newest, older) = (devices.first()?, devices.get(1));
    let new = newest.by_address();
    let old = older.map(Device::by_address).unwrap_or_default();
    let nodes: BTreeSet<Ipv4Addr> = new.keys().chain(old.keys()).copied().collect();
    let first = newest.first_port();
    Some(Status {
        protocol: PROTOCOL,
        address: IpAddr::V4(address),
        port: newest.port,
        next_port: port(first, newest.epoch.wrapping_add(1)),
        ifindex: newest.index,
        former: older.map(|older| older.index),
        former_key: older.map_or_else(String::new, |older| older.key.to_string()),
        epoch: newest.epoch,
        key: newest.key.to_string(),
        key_age_s: now_s.saturating_sub(newest.made_s),
        rotating: older.is_some(),
        refused: devices.iter().map(|device| device.refused).sum(),
        user_space: None,
        peers: nodes
            .into_iter()
            .filter_map(|node| {
                let new = new.get(&node).map(|peer| (newest.index, *peer));
                let old = older.and_then(|older| Some((older.index, *old.get(&node)?)));
                peer_status(node, new, old)
            })
            .collect(),
    })
}

/// `new` and `old` are what the newest device and the one before have of a node, each with its interface index.
fn peer_status(
    address: Ipv4Addr,
    new: Option<(u32, &DevicePeer)>,
    old: Option<(u32, &DevicePeer)>,
) -> Option<PeerStatus> {
    let is_proved =
        |peer: Option<(u32, &DevicePeer)>| peer.is_some_and(|(_, peer)| peer.handshake.is_some());
    let by_old = old.filter(|_| new.is_none() || !is_proved(new) && is_proved(old));
    let (ifindex, peer) = by_old.or(new)?;
    let both = || new.into_iter().chain(old).map(|(_, peer)| peer);
    Some(PeerStatus {
        address,
        key: new.map_or(peer, |(_, new)| new).key.to_string(),
        former_key: String::new(),
        proved: is_proved(new),
        ifindex,
        handshake_s: peer.handshake.map(|since| since.as_secs()),
        sent: both().map(|peer| peer.sent).sum(),
        received: both().map(|peer| peer.received).sum(),
    })
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
