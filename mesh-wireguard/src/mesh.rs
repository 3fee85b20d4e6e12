//! Which key pairs there are with which node, and which of them packets are sent with. No I/O: datagrams and packets in,
//! datagrams and packets out.
//!
//! Keys change without a packet lost: a node that makes a new one goes on with the old one beside it. Whoever learns the
//! new one begins a handshake with it, and what it sends goes by the old pair until the new one has been answered. An old
//! key is dropped when it has not been needed for as long as WireGuard uses a session. Each key has a port: the kernel's
//! WireGuard has another one for every other key.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use boringtun::noise::{Packet, Tunn, TunnResult, handshake::parse_handshake_anon};

use crate::{
    key::{OwnKey, PublicKey},
    pair::Pair,
    plan::SESSION,
};

/// Keys that a node has at a time: the one it tells, and the one before.
const KEYS: usize = 2;
/// First byte of a message with data, which also ends a handshake.
const DATA: u8 = 4;
/// Room for any message, and for what it makes out of a packet.
pub(crate) const BUFFER: usize = 65_536 + 64;

/// Where datagrams and packets go.
pub(crate) trait Out {
    /// To a node's WireGuard port, or to who shall prove its address.
    fn datagram(&self, to: SocketAddrV4, bytes: &[u8]);
    /// Out of the tunnel, from a node: to the device.
    fn packet(&self, bytes: &[u8]);
}

/// All nodes, as one of them sees them.
pub(crate) struct Mesh {
    /// This node's address, outside and inside the tunnels.
    address: Ipv4Addr,
    /// Newest first.
    own: Vec<OwnKey>,
    peers: BTreeMap<Ipv4Addr, Peer>,
    /// By [`Pair::index`].
    pairs: HashMap<u32, (Ipv4Addr, Arc<Pair>)>,
    next_index: u32,
    refused: AtomicU64,
}

/// Another node.
struct Peer {
    /// And their UDP ports; newest first.
    keys: Vec<(PublicKey, u16)>,
    /// The pair of both newest keys, then all others.
    pairs: Vec<Arc<Pair>>,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Peer {
    /// The pair to send with: the newest, once it is proved; until then another that is, the latest of them.
    fn sending(&self) -> &Arc<Pair> {
        let newest = &self.pairs[0];
        if newest.proved().is_some() {
            return newest;
        }
        let others = self.pairs[1..].iter().filter(|p| p.proved().is_some());
        others.max_by_key(|p| p.proved()).unwrap_or(newest)
    }
}

/// What is known of another node.
pub(crate) struct Seen {
    pub(crate) address: Ipv4Addr,
    pub(crate) key: PublicKey,
    /// The one before, if it may be needed.
    pub(crate) former_key: Option<PublicKey>,
    /// The newest keys of both are in use.
    pub(crate) proved: bool,
    /// Since the last handshake, where there is a session.
    pub(crate) handshake: Option<Duration>,
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

impl Mesh {
    /// Of a node that has a new key and knows no other yet.
    pub(crate) fn new(address: Ipv4Addr) -> Self {
        Self {
            address,
            own: vec![OwnKey::generate()],
            peers: BTreeMap::new(),
            pairs: HashMap::new(),
            next_index: rand::random::<u32>() >> 8,
            refused: AtomicU64::new(0),
        }
    }

    /// The key to tell others.
    pub(crate) fn key(&self) -> PublicKey {
        self.own[0].public
    }

    /// The key before, if it is still there.
    pub(crate) fn former_key(&self) -> Option<PublicKey> {
        self.own.get(1).map(|own| own.public)
    }

    /// Whether the key before is still there.
    pub(crate) fn is_rotating(&self) -> bool {
        self.own.len() > 1
    }

    /// Datagrams and packets that were no node's, or not from the address they should be.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// The other nodes.
    pub(crate) fn peers(&self) -> impl Iterator<Item = Seen> {
        self.peers.iter().map(|(address, peer)| Seen {
            address: *address,
            key: peer.keys[0].0,
            former_key: peer.keys.get(1).map(|(key, _)| *key),
            proved: peer.pairs[0].proved().is_some(),
            handshake: peer.sending().tunnel().time_since_last_handshake(),
            sent: peer.sent.load(Relaxed),
            received: peer.received.load(Relaxed),
        })
    }

    /// Sets who the other nodes are.
    pub(crate) fn set_peers(&mut self, wanted: &BTreeMap<Ipv4Addr, (PublicKey, u16)>) {
        self.peers.retain(|address, _| wanted.contains_key(address));
        for (address, (key, port)) in wanted {
            let peer = self.peers.entry(*address).or_insert_with(|| Peer {
                keys: Vec::new(),
                pairs: Vec::new(),
                sent: AtomicU64::new(0),
                received: AtomicU64::new(0),
            });
            if peer.keys.first() != Some(&(*key, *port)) {
                peer.keys.retain(|(old, _)| old != key);
                peer.keys.insert(0, (*key, *port));
                peer.keys.truncate(KEYS);
            }
        }
        self.pair();
    }

    /// Makes a new key; the one before stays until no node needs it.
    pub(crate) fn rotate(&mut self) {
        self.own.insert(0, OwnKey::generate());
        self.own.truncate(KEYS);
        self.pair();
    }

    /// Drops keys that have not been needed for as long as a session lasts.
    pub(crate) fn retire(&mut self, now: Instant) {
        let idle = |peer: &Peer| {
            let mut others = peer.pairs[1..].iter();
            peer.pairs[0].proved_for(now, SESSION) && others.all(|p| p.idle_for(now, SESSION))
        };
        let before = self.own.len() + self.peers.values().map(|p| p.keys.len()).sum::<usize>();
        if self.peers.values().all(idle) {
            self.own.truncate(1);
        }
        for peer in self.peers.values_mut().filter(|peer| idle(peer)) {
            peer.keys.truncate(1);
        }
        let after = self.own.len() + self.peers.values().map(|p| p.keys.len()).sum::<usize>();
        if before != after {
            self.pair();
        }
    }

    /// Makes a pair of each own key and each key of another node, and drops those of keys that are gone.
    fn pair(&mut self) {
        let mut pairs = HashMap::new();
        for (address, peer) in &mut self.peers {
            let mut all = Vec::with_capacity(self.own.len() * peer.keys.len());
            for own in &self.own {
                for (theirs, port) in &peer.keys {
                    let is_it = |p: &&Arc<Pair>| p.own == own.public && p.theirs == *theirs;
                    let known = peer.pairs.iter().find(is_it).cloned();
                    let pair = known.unwrap_or_else(|| {
                        // Eight bits of an index are the tunnel's, for its sessions.
                        while self.pairs.contains_key(&self.next_index)
                            || pairs.contains_key(&self.next_index)
                        {
                            self.next_index = (self.next_index + 1) & 0xff_ffff;
                        }
                        Arc::new(Pair::new(own, *theirs, *port, self.next_index))
                    });
                    pair.set_port(*port);
                    pairs.insert(pair.index, (*address, pair.clone()));
                    all.push(pair);
                }
            }
            peer.pairs = all;
        }
        self.pairs = pairs;
    }

    /// A packet to encrypt.
    pub(crate) fn encrypt(&self, packet: &[u8], buffer: &mut [u8], out: &impl Out) {
        let Some(IpAddr::V4(to)) = Tunn::dst_address(packet) else {
            return;
        };
        let Some(peer) = self.peers.get(&to) else {
            return;
        };
        peer.sent.fetch_add(packet.len() as u64, Relaxed);
        let pair = peer.sending();
        let mut tunnel = pair.tunnel();
        if let TunnResult::WriteToNetwork(bytes) = tunnel.encapsulate(packet, buffer) {
            out.datagram(SocketAddrV4::new(to, pair.port()), bytes);
        }
    }

    /// A datagram that came from `from`.
    pub(crate) fn receive(
        &self,
        from: SocketAddrV4,
        datagram: &[u8],
        buffer: &mut [u8],
        out: &impl Out,
    ) {
        let is_taken = match Tunn::parse_incoming_packet(datagram) {
            Ok(Packet::HandshakeInit(_)) => self.answer(from, datagram, buffer, out),
            Ok(Packet::HandshakeResponse(p)) => {
                self.hand_over(p.receiver_idx, from, datagram, buffer, out)
            }
            Ok(Packet::PacketCookieReply(p)) => {
                self.hand_over(p.receiver_idx, from, datagram, buffer, out)
            }
            Ok(Packet::PacketData(p)) => {
                self.hand_over(p.receiver_idx, from, datagram, buffer, out)
            }
            Err(_) => false,
        };
        if !is_taken {
            self.refused.fetch_add(1, Relaxed);
        }
    }

    /// The beginning of a handshake: which of our keys it is for is told by its first checksum, and who sent it by its
    /// contents.
    fn answer(
        &self,
        from: SocketAddrV4,
        datagram: &[u8],
        buffer: &mut [u8],
        out: &impl Out,
    ) -> bool {
        for own in &self.own {
            match own
                .limiter
                .verify_packet(Some(IpAddr::V4(*from.ip())), datagram, buffer)
            {
                Ok(Packet::HandshakeInit(message)) => {
                    let public = boringtun::x25519::PublicKey::from(own.public.0);
                    let Ok(half) = parse_handshake_anon(&own.secret, &public, &message) else {
                        return false;
                    };
                    let theirs = PublicKey(half.peer_static_public);
                    let mut pairs = self.pairs.values();
                    // Another node may call that key its own: who has it is where it came from.
                    let is_it = |(address, pair): &&(Ipv4Addr, Arc<Pair>)| {
                        address == from.ip() && pair.own == own.public && pair.theirs == theirs
                    };
                    let Some((address, pair)) = pairs.find(is_it) else {
                        return false;
                    };
                    return self.run(*address, pair, from, datagram, buffer, out);
                }
                // Under load: the sender has to show that it is at its address.
                Err(TunnResult::WriteToNetwork(cookie)) => {
                    out.datagram(from, cookie);
                    return true;
                }
                _ => {}
            }
        }
        false
    }

    fn hand_over(
        &self,
        index: u32,
        from: SocketAddrV4,
        datagram: &[u8],
        buffer: &mut [u8],
        out: &impl Out,
    ) -> bool {
        let Some((address, pair)) = self.pairs.get(&(index >> 8)) else {
            return false;
        };
        self.run(*address, pair, from, datagram, buffer, out)
    }

    /// Whether it was a message of the pair's other end.
    fn run(
        &self,
        address: Ipv4Addr,
        pair: &Pair,
        from: SocketAddrV4,
        datagram: &[u8],
        buffer: &mut [u8],
        out: &impl Out,
    ) -> bool {
        let Some(peer) = self.peers.get(&address) else {
            return false;
        };
        let to = SocketAddrV4::new(address, pair.port());
        let is_data = matches!(
            Tunn::parse_incoming_packet(datagram),
            Ok(Packet::PacketData(_))
        );
        let mut tunnel = pair.tunnel();
        // The beginning of a handshake may be a replay, and a cookie anybody's. What follows a handshake proves the keys.
        match tunnel.decapsulate(Some(IpAddr::V4(*from.ip())), datagram, buffer) {
            TunnResult::Err(_) | TunnResult::WriteToTunnelV6(..) => return false,
            TunnResult::Done if !is_data => return true,
            TunnResult::Done => {}
            TunnResult::WriteToTunnelV4(packet, source) => {
                // A node speaks for itself only.
                if source != address || Tunn::dst_address(packet) != Some(self.address.into()) {
                    return false;
                }
                peer.received.fetch_add(packet.len() as u64, Relaxed);
                out.packet(packet);
            }
            TunnResult::WriteToNetwork(bytes) => {
                out.datagram(to, bytes);
                if bytes.first() != Some(&DATA) {
                    return true;
                }
            }
        }
        pair.prove();
        // What waited for a session.
        while let TunnResult::WriteToNetwork(bytes) = tunnel.decapsulate(None, &[], buffer) {
            out.datagram(to, bytes);
        }
        true
    }

    /// What is due by the clock: several times a second.
    pub(crate) fn tick(&self, buffer: &mut [u8], out: &impl Out) {
        for own in &self.own {
            own.limiter.reset_count();
        }
        for (address, peer) in &self.peers {
            for (number, pair) in peer.pairs.iter().enumerate() {
                let to = SocketAddrV4::new(*address, pair.port());
                let mut tunnel = pair.tunnel();
                if let TunnResult::WriteToNetwork(bytes) = tunnel.update_timers(buffer) {
                    out.datagram(to, bytes);
                }
                // Nobody waits for a packet to try new keys.
                if number == 0
                    && pair.proved().is_none()
                    && let TunnResult::WriteToNetwork(bytes) =
                        tunnel.format_handshake_initiation(buffer, false)
                {
                    out.datagram(to, bytes);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "mesh_tests.rs"]
mod tests;
