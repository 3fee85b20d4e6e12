//! A row of the tables: what goes in, with which memory, what comes out, and what is remembered and counted.

use std::{collections::BTreeSet, net::Ipv4Addr};

use mesh_common::{DropReason, FlowKey, Fragment, Nat, Place, Verdict};

use crate::{
    common::INGRESS,
    compare::{Counted, equal, moved_counters, moved_outcomes, same_bytes, tunnel},
    frames::Packet,
    world::{Memory, PEER_MAC, Side, UP, VNI, World, addr},
};

/// What the program at a place may do, in its hook's own numbers: pass, send on, drop.
pub(crate) fn actions(place: Place) -> [u32; 3] {
    match place {
        Place::UplinkXdp => [2, 4, 1],
        _ => [u32::MAX, 7, 2],
    }
}

/// What comes out.
#[derive(Clone)]
enum Out {
    /// The very bytes that went in.
    Same,
    /// Dropped: nobody sees it.
    Nothing,
    /// This frame, from the byte given on.
    Frame(Packet, usize),
    /// This frame in a tunnel between two nodes, on this network.
    Tunnel(Packet, u32),
}

/// What is counted to a backend of a front.
#[derive(Clone)]
struct Counts {
    front: String,
    backend: Ipv4Addr,
    flows: u64,
    /// Whether the packet is: not where another program gets it next.
    packet: bool,
}

/// A row. It begins as a packet that comes in by the uplink and passes.
#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) packet: Packet,
    pub(crate) interface: u32,
    before: Memory,
    outcome: &'static str,
    action: usize,
    out: Out,
    after: Memory,
    counted: Vec<Counts>,
    only_v4: bool,
}

/// A packet that passes.
pub(crate) fn row(name: impl Into<String>, packet: impl Into<Packet>) -> Row {
    Row {
        name: name.into(),
        packet: packet.into(),
        interface: UP,
        before: Memory::default(),
        outcome: Verdict::Pass.name(),
        action: 0,
        out: Out::Same,
        after: Memory::default(),
        counted: Vec::new(),
        only_v4: false,
    }
}

impl Row {
    /// It comes in by another interface.
    pub(crate) fn by(mut self, interface: u32) -> Self {
        self.interface = interface;
        self
    }

    /// It comes in by this interface, unless it has one of its own.
    pub(crate) fn by_default(self, interface: u32) -> Self {
        if self.interface == UP {
            self.by(interface)
        } else {
            self
        }
    }

    /// A flow is known, and stays so. Its `seen_s` is how long it has been silent.
    pub(crate) fn knows(mut self, (key, nat): (FlowKey, Nat)) -> Self {
        self.before.flows.insert(key, nat);
        self.remembers((key, Nat { seen_s: 0, ..nat }))
    }

    /// A flow has a backend of its own, and keeps it.
    pub(crate) fn bound(mut self, key: FlowKey, backend: Ipv4Addr) -> Self {
        self.before.conns.insert(key, addr(backend));
        self.binds(key, backend)
    }

    /// A flow has had this backend so far.
    pub(crate) fn knows_backend(mut self, key: FlowKey, backend: Ipv4Addr) -> Self {
        self.before.conns.insert(key, addr(backend));
        self
    }

    /// Remembers the first fragment of a packet.
    pub(crate) fn notes(mut self, (key, fragment): (FlowKey, Fragment)) -> Self {
        self.after.fragments.insert(key, fragment);
        self
    }

    /// The first fragment of a packet has been here.
    pub(crate) fn has_noted(self, note: (FlowKey, Fragment)) -> Self {
        self.has_noted_before(note, 0)
    }

    /// So many seconds ago.
    pub(crate) fn has_noted_before(mut self, note: (FlowKey, Fragment), seconds: u32) -> Self {
        let (key, fragment) = note;
        let seen_s = seconds;
        self.before
            .fragments
            .insert(key, Fragment { seen_s, ..fragment });
        self.notes(note)
    }

    /// Left to the tc program of the same interface.
    pub(crate) fn hands_over(mut self) -> Self {
        self.outcome = Verdict::Handover.name();
        self
    }

    pub(crate) fn drops(mut self, reason: DropReason) -> Self {
        (self.outcome, self.action, self.out) = (reason.name(), 2, Out::Nothing);
        self
    }

    fn goes(mut self, verdict: Verdict, out: Out) -> Self {
        (self.outcome, self.action, self.out) = (verdict.name(), 1, out);
        self
    }

    /// To a task on another node, on the ingress network.
    pub(crate) fn forwards(self, inner: impl Into<Packet>) -> Self {
        self.goes(Verdict::Forwarded, Out::Tunnel(inner.into(), INGRESS))
    }

    /// To a task on another node, on an overlay network.
    pub(crate) fn tunnels(self, inner: impl Into<Packet>) -> Self {
        self.goes(Verdict::Forwarded, Out::Tunnel(inner.into(), VNI))
    }

    /// To a task on this node.
    pub(crate) fn delivers(self, frame: impl Into<Packet>) -> Self {
        self.goes(Verdict::Delivered, Out::Frame(frame.into(), 0))
    }

    pub(crate) fn answers(self, frame: impl Into<Packet>) -> Self {
        self.goes(Verdict::Answered, Out::Frame(frame.into(), 0))
    }

    /// Back to the client, with these MACs.
    pub(crate) fn returns(self, frame: impl Into<Packet>) -> Self {
        self.goes(Verdict::Returned, Out::Frame(frame.into(), 0))
    }

    /// Back to the client, the kernel filling in the MACs.
    pub(crate) fn returns_by_route(self, frame: impl Into<Packet>) -> Self {
        self.goes(Verdict::Returned, Out::Frame(frame.into(), 12))
    }

    /// Back to the client through the node that was asked.
    pub(crate) fn returns_in_tunnel(self, inner: impl Into<Packet>) -> Self {
        self.goes(Verdict::Returned, Out::Tunnel(inner.into(), INGRESS))
    }

    /// Remembers how to treat replies.
    pub(crate) fn remembers(mut self, (key, nat): (FlowKey, Nat)) -> Self {
        self.after.flows.insert(key, nat);
        self
    }

    pub(crate) fn forgets(mut self, key: FlowKey) -> Self {
        self.after.flows.remove(&key);
        self
    }

    /// Remembers a flow's backend.
    pub(crate) fn binds(mut self, key: FlowKey, backend: Ipv4Addr) -> Self {
        self.after.conns.insert(key, addr(backend));
        self
    }

    /// Counts the packet to a backend, by front: `tcp/80`, `udp/80` or a virtual address. `begins`: and a flow.
    pub(crate) fn counts(self, front: impl ToString, backend: Ipv4Addr, begins: bool) -> Self {
        self.counted(front, backend, begins.into(), true)
    }

    /// Counts a flow to a backend, and leaves the packet to the next program.
    pub(crate) fn counts_flow(self, front: impl ToString, backend: Ipv4Addr) -> Self {
        self.counted(front, backend, 1, false)
    }

    fn counted(
        mut self,
        front: impl ToString,
        backend: Ipv4Addr,
        flows: u64,
        packet: bool,
    ) -> Self {
        self.counted.push(Counts {
            front: front.to_string(),
            backend,
            flows,
            packet,
        });
        self
    }

    /// Only so many bytes of the packet come in, and what comes out lacks as many.
    pub(crate) fn cut(mut self, length: usize) -> Self {
        let whole = self.packet.bytes();
        let missing = whole.len() - length;
        let less = |packet: &Packet| {
            let mut bytes = packet.bytes();
            bytes.truncate(bytes.len().saturating_sub(missing));
            Packet::Bytes(bytes)
        };
        self.name = format!("{}, {length} bytes of it", self.name);
        self.packet = less(&self.packet);
        self.out = match &self.out {
            Out::Frame(frame, from) => Out::Frame(less(frame), *from),
            Out::Tunnel(inner, vni) => Out::Tunnel(less(inner), *vni),
            out => out.clone(),
        };
        self
    }

    /// It passes, and nothing is made of it.
    pub(crate) fn unnoticed(mut self) -> Self {
        (self.outcome, self.action, self.out) = (Verdict::Pass.name(), 0, Out::Same);
        self.after = self.before.clone();
        self.counted.clear();
        self
    }

    /// IPv6 does this in another way.
    pub(crate) fn only_v4(mut self) -> Self {
        self.only_v4 = true;
        self
    }

    /// The row in IPv6, if there are such packets.
    pub(crate) fn six(&self) -> Option<Self> {
        if self.only_v4 {
            return None;
        }
        let out = match &self.out {
            Out::Frame(frame, from) => Out::Frame(frame.six()?, *from),
            Out::Tunnel(inner, vni) => Out::Tunnel(inner.six()?, *vni),
            out => out.clone(),
        };
        Some(Self {
            name: self.name.clone(),
            packet: self.packet.six()?,
            before: self.before.six()?,
            out,
            after: self.after.six()?,
            counted: self.counted.clone(),
            ..*self
        })
    }

    /// Tries the packet. What is wrong, if anything is.
    pub(crate) fn check(&self, place: Place, world: &mut World) -> Result<(), String> {
        world.set_memory(&self.before);
        let before = world.snapshot();
        let packet = self.packet.bytes();
        let trial = world.run(program(place), &packet, self.interface)?;
        let after = world.snapshot();
        let xdp = place == Place::UplinkXdp;
        let action = actions(place)[self.action];
        let outcomes = moved_outcomes(&before, &after);
        equal("outcome", &outcomes, &vec![(place.name(), self.outcome)])?;
        equal("action", &trial.action, &action)?;
        self.out(&packet, &trial.packet, xdp)?;
        equal("memory", &world.memory(), &self.after)?;
        let counted = self.counted.iter().map(|counts| Counted {
            front: counts.front.clone(),
            backend: counts.backend.to_string(),
            flows: counts.flows,
            packets: counts.packet.into(),
            bytes: if counts.packet {
                packet.len() as u64
            } else {
                0
            },
        });
        let counted: Vec<_> = counted.collect();
        equal("counters", &moved_counters(&before, &after), &counted)
    }

    fn out(&self, sent: &[u8], got: &[u8], xdp: bool) -> Result<(), String> {
        match &self.out {
            Out::Nothing => Ok(()),
            Out::Same => same_bytes(got, sent),
            Out::Frame(frame, from) => same_bytes(&got[*from..], &frame.bytes()[*from..]),
            Out::Tunnel(inner, vni) => {
                // XDP fills in the MACs itself, for the others the kernel does.
                if xdp && (got[..6] != PEER_MAC || got[12..14] != [8, 0]) {
                    return Err(format!("not sent to the peer: {:02x?}", &got[..14]));
                }
                tunnel(got, &inner.bytes(), *vni)
            }
        }
    }
}

/// The program that is at a place.
pub(crate) fn program(place: Place) -> &'static str {
    match place {
        Place::UplinkXdp => "uplink_xdp",
        Place::UplinkTc => "uplink_tc",
        Place::Tunnel => "tunnel_tc",
        Place::Overlay => "overlay_tc",
        Place::Gateway => "gateway_tc",
        Place::Loopback => "loopback_tc",
    }
}

/// Tries all rows of a program's table and fails with all that is wrong.
pub(crate) fn check_all(place: Place, rows: &[Row]) {
    check_in(&mut World::new(Side::Node), place, rows);
}

/// The same on a node of one's own.
pub(crate) fn check_in(world: &mut World, place: Place, rows: &[Row]) {
    let mut names = BTreeSet::new();
    let mut wrong = Vec::new();
    for row in rows {
        assert!(names.insert(&row.name), "two rows are called {}", row.name);
        if let Err(why) = row.check(place, world) {
            wrong.push(format!("{}: {why}", row.name));
        }
    }
    println!("{}: {} rows", program(place), rows.len());
    assert!(
        wrong.is_empty(),
        "{} rows of {}:\n{}",
        wrong.len(),
        rows.len(),
        wrong.join("\n")
    );
}
