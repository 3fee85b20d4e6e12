//! Two nodes that hand each other what they send.

use std::cell::RefCell;

use super::*;

/// Where all of them listen.
const PORT: u16 = 51820;

#[derive(Default)]
struct Sent {
    datagrams: RefCell<Vec<(Ipv4Addr, Vec<u8>)>>,
    packets: RefCell<Vec<Vec<u8>>>,
}

impl Out for Sent {
    fn datagram(&self, to: SocketAddrV4, bytes: &[u8]) {
        assert_eq!(to.port(), PORT);
        self.datagrams.borrow_mut().push((*to.ip(), bytes.to_vec()));
    }
    fn packet(&self, bytes: &[u8]) {
        self.packets.borrow_mut().push(bytes.to_vec());
    }
}

/// Nodes, and what each has got out of its tunnels.
struct Lan {
    nodes: BTreeMap<Ipv4Addr, (Mesh, Sent)>,
    /// Everything that was on the wire.
    wire: Vec<Vec<u8>>,
}

fn node(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, last)
}

impl Lan {
    fn new(count: u8) -> Self {
        let nodes = (1..=count).map(|n| (node(n), (Mesh::new(node(n)), Sent::default())));
        Self {
            nodes: nodes.collect(),
            wire: Vec::new(),
        }
    }

    fn mesh(&mut self, n: u8) -> &mut Mesh {
        &mut self.nodes.get_mut(&node(n)).expect("it").0
    }

    /// Tells `n` everybody's present key.
    fn tell(&mut self, n: u8) {
        let keys = self.nodes.iter().filter(|(a, _)| **a != node(n));
        let keys = keys.map(|(address, (mesh, _))| (*address, (mesh.key(), PORT)));
        let keys = keys.collect();
        self.mesh(n).set_peers(&keys);
    }

    /// Lets every node do what is due, and delivers until nobody sends any more.
    fn settle(&mut self) {
        let mut buffer = vec![0; BUFFER];
        for (mesh, sent) in self.nodes.values() {
            mesh.tick(&mut buffer, sent);
        }
        self.deliver();
    }

    fn deliver(&mut self) {
        let mut buffer = vec![0; BUFFER];
        loop {
            let all = self.nodes.iter().flat_map(|(from, (_, sent))| {
                let taken = sent.datagrams.take().into_iter();
                taken.map(|(to, bytes)| (*from, to, bytes))
            });
            let all: Vec<_> = all.collect();
            if all.is_empty() {
                return;
            }
            for (from, to, bytes) in all {
                let (mesh, sent) = &self.nodes[&to];
                mesh.receive(SocketAddrV4::new(from, PORT), &bytes, &mut buffer, sent);
                self.wire.push(bytes);
            }
        }
    }

    /// Sends a packet through, and says whether it came out.
    fn carries(&mut self, from: u8, to: u8) -> bool {
        let packet = packet(node(from), node(to));
        let (mesh, sent) = &self.nodes[&node(from)];
        mesh.encrypt(&packet, &mut vec![0; BUFFER], sent);
        self.deliver();
        let got = self.nodes[&node(to)].1.packets.take();
        got.last() == Some(&packet)
    }

    fn proved(&self, n: u8) -> bool {
        self.nodes[&node(n)].0.peers().all(|peer| peer.proved)
    }
}

const SECRET: &[u8] = b"not to be read on the wire";

fn packet(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut bytes = vec![
        0x45,
        0,
        0,
        20 + SECRET.len() as u8,
        0,
        0,
        0,
        0,
        64,
        17,
        0,
        0,
    ];
    bytes.extend(from.octets());
    bytes.extend(to.octets());
    bytes.extend(SECRET);
    bytes
}

fn pair_of_nodes() -> Lan {
    let mut lan = Lan::new(2);
    lan.tell(1);
    lan.tell(2);
    lan.settle();
    assert!(lan.proved(1) && lan.proved(2));
    lan
}

#[test]
fn nodes_that_know_each_other_talk_and_nobody_reads_it() {
    let mut lan = pair_of_nodes();
    assert!(lan.carries(1, 2) && lan.carries(2, 1));
    let wire = lan.wire.concat();
    assert!(!wire.windows(SECRET.len()).any(|w| w == SECRET));
    let seen: Vec<_> = lan.mesh(1).peers().collect();
    assert_eq!(seen[0].received, seen[0].sent);
    assert!(seen[0].handshake.is_some());
}

#[test]
fn packets_wait_for_the_first_handshake() {
    let mut lan = Lan::new(2);
    lan.tell(1);
    // The other one does not know us yet, and learns of us later.
    assert!(!lan.carries(1, 2));
    lan.tell(2);
    lan.settle();
    assert!(lan.proved(1) && lan.proved(2));
    assert_eq!(lan.nodes[&node(2)].1.packets.borrow().len(), 1);
}

#[test]
fn a_key_is_changed_before_the_others_know_and_nothing_is_lost() {
    let mut lan = pair_of_nodes();
    for round in 0..3 {
        let before = lan.mesh(1).key();
        lan.mesh(1).rotate();
        assert_ne!(lan.mesh(1).key(), before);
        assert!(!lan.proved(1), "round {round}");
        lan.settle();
        // Node 2 has not heard of it.
        assert!(lan.carries(1, 2) && lan.carries(2, 1));
        lan.tell(2);
        assert!(lan.carries(1, 2) && lan.carries(2, 1));
        lan.settle();
        assert!(lan.proved(1) && lan.proved(2));
        assert!(lan.carries(1, 2) && lan.carries(2, 1));
        // Not yet: what is on its way may still use the old one.
        lan.mesh(1).retire(Instant::now());
        assert!(lan.mesh(1).is_rotating());
        let later = Instant::now() + SESSION;
        lan.mesh(1).retire(later);
        lan.mesh(2).retire(later);
        assert!(!lan.mesh(1).is_rotating());
        assert_eq!(lan.mesh(2).pairs.len(), 1);
        assert!(lan.carries(1, 2) && lan.carries(2, 1));
    }
}

#[test]
fn both_change_their_keys_at_once() {
    let mut lan = pair_of_nodes();
    lan.mesh(1).rotate();
    lan.mesh(2).rotate();
    lan.tell(2);
    lan.settle();
    assert!(lan.carries(1, 2) && lan.carries(2, 1));
    lan.tell(1);
    lan.settle();
    assert!(lan.proved(1) && lan.proved(2));
    assert!(lan.carries(1, 2) && lan.carries(2, 1));
}

#[test]
fn a_node_that_begins_anew_is_met_again() {
    let mut lan = pair_of_nodes();
    lan.nodes
        .insert(node(2), (Mesh::new(node(2)), Sent::default()));
    assert!(!lan.carries(1, 2));
    lan.tell(2);
    lan.tell(1);
    lan.settle();
    assert!(lan.carries(1, 2) && lan.carries(2, 1));
}

#[test]
fn nobody_speaks_for_another() {
    let mut lan = Lan::new(3);
    for n in 1..=3 {
        lan.tell(n);
    }
    lan.settle();
    let before = lan.mesh(2).refused();
    for (from, to) in [(node(3), node(2)), (node(1), node(9))] {
        // Node 1 has the key, and sends what it should not.
        let forged = packet(from, to);
        let (mesh, sent) = &lan.nodes[&node(1)];
        let peer = &mesh.peers[&node(2)];
        let mut buffer = vec![0; BUFFER];
        let TunnResult::WriteToNetwork(bytes) =
            peer.sending().tunnel().encapsulate(&forged, &mut buffer)
        else {
            panic!("there is a session");
        };
        sent.datagram(SocketAddrV4::new(node(2), PORT), bytes);
    }
    lan.deliver();
    assert_eq!(lan.mesh(2).refused(), before + 2);
    assert!(lan.nodes[&node(2)].1.packets.borrow().is_empty());
}

#[test]
fn a_node_that_is_gone_is_not_listened_to() {
    let mut lan = pair_of_nodes();
    lan.mesh(2).set_peers(&BTreeMap::new());
    assert!(!lan.carries(1, 2));
    assert!(!lan.carries(2, 1));
    assert_eq!(lan.mesh(2).pairs.len(), 0);
}

#[test]
fn noise_is_counted_and_dropped() {
    let mut lan = pair_of_nodes();
    let before = lan.mesh(1).refused();
    let mut buffer = vec![0; BUFFER];
    let mut forged = vec![4, 0, 0, 0];
    forged.resize(200, 7);
    let (mesh, sent) = &lan.nodes[&node(1)];
    for bytes in [&b""[..], b"x", &forged, &[1; 148]] {
        mesh.receive(SocketAddrV4::new(node(9), PORT), bytes, &mut buffer, sent);
    }
    assert_eq!(mesh.refused(), before + 4);
    assert!(sent.datagrams.borrow().is_empty());
}
