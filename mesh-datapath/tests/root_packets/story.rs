//! A connection from its first packet to its last through two nodes: what one node puts out, the other gets.

use mesh_common::{Place, Verdict};

use crate::{
    compare::{equal, moved_outcomes, same_bytes},
    frames::*,
    row::program,
    traffic::*,
    world::*,
};

/// One packet at one program.
struct Step {
    name: &'static str,
    side: Side,
    place: Place,
    interface: u32,
    /// `None`: what the step before put out.
    packet: Option<Frame>,
    verdict: Verdict,
    /// What comes out, from its EtherType on; `None`: only the next step looks at it.
    out: Option<Frame>,
}

fn step(name: &'static str, side: Side, place: Place, verdict: Verdict) -> Step {
    let interface = match place {
        Place::Overlay => OVER,
        Place::Gateway => GATE,
        Place::Loopback => LO,
        _ => UP,
    };
    Step {
        name,
        side,
        place,
        interface,
        packet: None,
        verdict,
        out: None,
    }
}

impl Step {
    fn gets(mut self, packet: Frame) -> Self {
        self.packet = Some(packet);
        self
    }

    fn puts_out(mut self, frame: Frame) -> Self {
        self.out = Some(frame);
        self
    }
}

/// Tells a story in both protocols.
fn tell(steps: Vec<Step>) {
    let six = steps.iter().map(|step| Step {
        packet: step.packet.as_ref().map(|frame| frame.six().expect("IPv6")),
        out: step.out.as_ref().map(|frame| frame.six().expect("IPv6")),
        ..*step
    });
    let six = six.collect();
    tell_once(steps);
    tell_once(six);
}

fn tell_once(steps: Vec<Step>) {
    let mut worlds = [World::new(Side::Node), World::new(Side::Peer)];
    let mut last = Vec::new();
    for step in steps {
        let world = &mut worlds[usize::from(step.side == Side::Peer)];
        let packet = step.packet.as_ref().map_or(last, Frame::bytes);
        let before = world.snapshot();
        let trial = world.run(program(step.place), &packet, step.interface);
        let trial = trial.unwrap_or_else(|e| panic!("{}: {e}", step.name));
        let outcomes = moved_outcomes(&before, &world.snapshot());
        equal(
            "outcome",
            &outcomes,
            &vec![(step.place.name(), step.verdict.name())],
        )
        .unwrap_or_else(|e| panic!("{}: {e}", step.name));
        if let Some(out) = &step.out {
            same_bytes(&trial.packet[12..], &out.bytes()[12..])
                .unwrap_or_else(|e| panic!("{}: {e}", step.name));
        }
        last = trial.packet;
    }
}

/// The task on the other node, as a server.
const THERE: End = (FAR_GATE, TARGET);

fn ingress(asked: Place) -> Vec<Step> {
    let at = (NODE, 80);
    let to_task = |name, change: &dyn Fn(Frame) -> Frame, request, inside| {
        [
            step(name, Side::Node, asked, Verdict::Forwarded).gets(change(request)),
            step(
                "into the task",
                Side::Peer,
                Place::UplinkTc,
                Verdict::Delivered,
            )
            .puts_out(change(inside)),
        ]
    };
    let back = |name, change: &dyn Fn(Frame) -> Frame| {
        let inside = change(tcp(THERE, WHO)).macs(gateway(), task(FAR_GATE));
        [
            step(name, Side::Peer, Place::Gateway, Verdict::Returned).gets(inside),
            step(
                "out to the client",
                Side::Node,
                Place::UplinkXdp,
                Verdict::Returned,
            )
            .puts_out(change(tcp(at, WHO))),
        ]
    };
    let (first, middle) = ((begin(80), syn(WHO, THERE)), (open(80), tcp(WHO, THERE)));
    let last = |frame: Frame| frame.flags(|tcp| tcp.fin = true);
    [
        to_task("first segment", &|frame| frame, first.0, first.1),
        back("accepted", &|frame| frame.flags(|tcp| tcp.syn = true)),
        to_task(
            "question",
            &|frame| frame.payload(b"GET /"),
            middle.0.clone(),
            middle.1.clone(),
        ),
        back("answer", &|frame| frame.payload(&[b'x'; 1300])),
        back("last of the task", &last),
        to_task("last of the client", &last, middle.0, middle.1),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn story_of_a_client() {
    tell(ingress(Place::UplinkXdp));
}

#[test]
fn story_of_a_client_without_xdp() {
    tell(ingress(Place::UplinkTc));
}

#[test]
fn story_of_datagrams() {
    let at = (NODE, 80);
    tell(vec![
        step("question", Side::Node, Place::UplinkXdp, Verdict::Forwarded).gets(datagram(80)),
        step(
            "into the task",
            Side::Peer,
            Place::UplinkTc,
            Verdict::Delivered,
        )
        .puts_out(udp(WHO, THERE)),
        step("answer", Side::Peer, Place::Gateway, Verdict::Returned)
            .gets(udp(THERE, WHO).macs(gateway(), task(FAR_GATE))),
        step(
            "out to the client",
            Side::Node,
            Place::UplinkXdp,
            Verdict::Returned,
        )
        .puts_out(udp(at, WHO)),
    ]);
}

#[test]
fn story_of_a_process() {
    let (home, seen) = ((std::net::Ipv4Addr::LOCALHOST, 33_000), (NODE, 33_000));
    let call = syn(home, (home.0, 80)).macs([0; 6], [0; 6]);
    tell_once(vec![
        step(
            "call of localhost",
            Side::Node,
            Place::Loopback,
            Verdict::Forwarded,
        )
        .gets(call),
        step(
            "into the task",
            Side::Peer,
            Place::UplinkTc,
            Verdict::Delivered,
        )
        .puts_out(syn(seen, THERE)),
        step("answer", Side::Peer, Place::Gateway, Verdict::Returned)
            .gets(tcp(THERE, seen).macs(gateway(), task(FAR_GATE))),
        step(
            "XDP leaves it",
            Side::Node,
            Place::UplinkXdp,
            Verdict::Handover,
        ),
        step(
            "back to the process",
            Side::Node,
            Place::UplinkTc,
            Verdict::Returned,
        )
        .puts_out(tcp((home.0, 80), home)),
    ]);
}

#[test]
fn story_of_a_task_and_a_virtual_address() {
    let (me, there) = ((NEAR, 5001), (FAR, 80));
    let call = syn(me, (FAR_VIP, 80)).macs(task(FAR_VIP), task(NEAR));
    let answer = tcp(there, me).macs(task(NEAR), task(FAR));
    tell(vec![
        step("call", Side::Node, Place::Overlay, Verdict::Forwarded).gets(call),
        step(
            "into the task",
            Side::Peer,
            Place::UplinkTc,
            Verdict::Delivered,
        )
        .puts_out(syn(me, there)),
        step("answer", Side::Peer, Place::Overlay, Verdict::Forwarded).gets(answer),
        step(
            "back to the task",
            Side::Node,
            Place::UplinkTc,
            Verdict::Delivered,
        )
        .puts_out(tcp((FAR_VIP, 80), me)),
    ]);
}

#[test]
fn story_of_a_task_and_a_published_port() {
    let (me, at) = ((NEAR_GATE, 5000), (NODE, 80));
    let call = syn(me, at).macs(gateway(), task(NEAR_GATE));
    tell(vec![
        step("call", Side::Node, Place::Gateway, Verdict::Forwarded).gets(call),
        step(
            "into the task",
            Side::Peer,
            Place::UplinkTc,
            Verdict::Delivered,
        )
        .puts_out(syn(me, THERE)),
        step("answer", Side::Peer, Place::Gateway, Verdict::Returned)
            .gets(tcp(THERE, me).macs(gateway(), task(FAR_GATE))),
        step(
            "XDP leaves it",
            Side::Node,
            Place::UplinkXdp,
            Verdict::Handover,
        ),
        step(
            "back to the task",
            Side::Node,
            Place::UplinkTc,
            Verdict::Returned,
        )
        .puts_out(tcp(at, me)),
    ]);
}
