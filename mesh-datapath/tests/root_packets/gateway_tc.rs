//! The program on a task's gateway link: replies to clients, calls of published ports, the way out.

use std::net::Ipv4Addr;

use etherparse::{ArpOperation, IcmpEchoHeader, Icmpv4Type, IpNumber};
use mesh_common::{DropReason, FlowKey, Nat, Place, SCOPE_RETURN, SCOPE_TASK, wire};

use crate::{
    fragments::noted,
    frames::*,
    row::{Row, check_all, row},
    traffic::*,
    world::*,
};

const ROUTER: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The task as a server, and as a client.
const HERE: End = (NEAR_GATE, TARGET);
const CALLER: End = (NEAR_GATE, 5000);

fn sent(frame: Frame) -> Frame {
    frame.macs(gateway(), task(NEAR_GATE))
}

fn answer(to: End) -> Frame {
    sent(tcp(HERE, to))
}

/// How an answer is made one of the node that was asked.
fn flow(protocol: u8, asked: End, way: Way) -> (FlowKey, Nat) {
    (key(SCOPE_TASK, protocol, HERE, WHO), nat(asked, WHO, way))
}

fn ours(way: Way) -> (FlowKey, Nat) {
    flow(wire::TCP, (NODE, 86), way)
}

fn questions() -> Vec<Row> {
    let (request, response) = (ArpOperation::REQUEST, ArpOperation::REPLY);
    let me = (task(NEAR_GATE), NEAR_GATE);
    let question = arp(request, me, ([0; 6], ROUTER));
    let mut rows = vec![
        row("who has the gateway", question.clone()).answers(arp(
            response,
            (gateway(), ROUTER),
            me,
        )),
        row(
            "who has the node, which the stack knows",
            arp(request, me, ([0; 6], NODE)),
        ),
        row(
            "who has another task, which nobody answers",
            arp(request, me, ([0; 6], SIDE_GATE)),
        ),
        row(
            "the task's own MAC, for the stack",
            arp(response, me, (gateway(), NODE)),
        ),
        row(
            "a MAC for another's address",
            arp(response, (me.0, SIDE_GATE), (gateway(), NODE)),
        )
        .drops(DropReason::Spoofed),
        row(
            "another's MAC",
            arp(response, (task(SIDE_GATE), NEAR_GATE), (gateway(), NODE)),
        )
        .drops(DropReason::Spoofed),
    ];
    for length in 14..42 {
        let name = format!("a question, {length} bytes of it");
        rows.push(row(name, &question[..length]).drops(DropReason::Malformed));
    }
    rows
}

fn the_way_out() -> Vec<Row> {
    let echo = Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 5, seq: 6 });
    let web = (CLIENT, 443);
    let out = |frame| sent(frame);
    let spoofed = |name: &str, frame: Frame| row(name, frame).drops(DropReason::Spoofed);
    let as_another = |frame: Frame| frame.ip(|ip| ip.source = SIDE_GATE.octets());
    let tunnel = |to| out(vxlan(NEAR_GATE, to, VNI, tcp((FAR, 1), (NEAR, 2))));
    let mut version = answer(web).bytes();
    version[14] = 0x44;
    vec![
        row("out: TCP", out(tcp(CALLER, web))),
        row("out: UDP", out(udp(CALLER, web))),
        row("out: ping", out(icmp(NEAR_GATE, CLIENT, echo))),
        row(
            "out: a protocol without ports",
            out(other(NEAR_GATE, CLIENT, IpNumber::GRE)),
        ),
        row("out: IP options", out(tcp(CALLER, web).options(4))),
        row(
            "out: the first fragment",
            out(udp(CALLER, web).fragment(0, true)),
        )
        .notes(noted(SCOPE_TASK, CALLER, web)),
        row(
            "out: the last fragment",
            out(udp(CALLER, web).fragment(90, false)),
        ),
        row(
            "out: everybody, which is the stack's to refuse",
            out(udp(CALLER, ([255; 4].into(), 67))),
        ),
        row(
            "out: a published port of another node",
            out(syn(CALLER, (PEER, 80))),
        ),
        row(
            "out: a published port of another host",
            out(syn(CALLER, (CLIENT, 80))),
        ),
        row(
            "out: a port of this node that is not published",
            out(syn(CALLER, (NODE, 22))),
        ),
        row(
            "out: a VLAN's frame, which the stack ignores",
            out(tcp(CALLER, web)).tag(5),
        ),
        spoofed("with another's address", as_another(out(tcp(CALLER, web)))),
        spoofed("with the node's address", out(tcp((NODE, 5000), web))),
        spoofed(
            "with its own address on another network",
            out(tcp((NEAR, 5000), web)),
        ),
        spoofed(
            "with another's MAC",
            tcp(CALLER, web).macs(gateway(), task(SIDE_GATE)),
        ),
        spoofed(
            "with another's address and IP options",
            as_another(out(tcp(CALLER, web).options(1))),
        ),
        spoofed(
            "with another's address, in fragments",
            as_another(out(udp(CALLER, web).fragment(9, true))),
        ),
        spoofed(
            "with another's address, without ports",
            as_another(out(other(NEAR_GATE, CLIENT, IpNumber::GRE))),
        ),
        spoofed("a tunnel to a node", tunnel(PEER)),
        spoofed("a tunnel to this node", tunnel(NODE)),
        spoofed(
            "a tunnel to a host that may be a node tomorrow",
            tunnel(CLIENT),
        ),
        spoofed("a tunnel with IP options", tunnel(PEER).options(1)),
        spoofed(
            "a tunnel with all the IP options there can be",
            tunnel(PEER).options(10),
        ),
        spoofed(
            "a tunnel, its first fragment",
            tunnel(PEER).fragment(0, true),
        ),
        spoofed(
            "a tunnel in fragments with IP options",
            tunnel(PEER).fragment(0, true).options(2),
        ),
        row(
            "a tunnel, its last fragment, which is nothing without the first",
            tunnel(PEER).fragment(9, false),
        ),
        row(
            "from the tunnels' port to another",
            out(udp((NEAR_GATE, 4789), (PEER, 53))),
        ),
        row("TCP to the tunnels' port", out(tcp(CALLER, (PEER, 4789)))),
        spoofed(
            "an answer to a client that says it is a tunnel",
            sent(udp(HERE, (PEER, 4789))),
        )
        .knows((
            key(SCOPE_TASK, wire::UDP, HERE, (PEER, 4789)),
            nat((NODE, 86), (PEER, 4789), Way::Uplink(UP)),
        )),
        row("a link that no table has", answer(web))
            .drops(DropReason::UnknownLink)
            .by(ELSEWHERE),
        row("a header shorter than a header", version).drops(DropReason::Malformed),
    ]
}

fn answers() -> Vec<Row> {
    let to_client = |from, frame: fn(End, End) -> Frame| frame(from, WHO);
    let through_peer = |frame: Frame| frame.macs(node(PEER), node(NODE));
    let process = Ipv4Addr::LOCALHOST;
    let local = nat((process, 86), (process, 33_000), Way::Loopback);
    let from_task = nat(
        (NODE, 86),
        (SIDE_GATE, 5000),
        Way::Link(SIDE_GATE_LINK, task(SIDE_GATE)),
    );
    let itself = nat((NODE, 86), CALLER, Way::Link(GATE, task(NEAR_GATE)));
    let known = |to| key(SCOPE_TASK, wire::TCP, HERE, to);
    vec![
        row("an answer to a client that asked here", answer(WHO))
            .knows(ours(Way::Uplink(UP)))
            .returns_by_route(sent(to_client((NODE, 86), tcp))),
        row("an answer after ten hours of silence", answer(WHO))
            .knows(silent(36_000, ours(Way::Uplink(UP))))
            .returns_by_route(sent(to_client((NODE, 86), tcp))),
        row(
            "the answer to a first segment",
            answer(WHO).flags(|tcp| tcp.syn = true),
        )
        .knows(ours(Way::Uplink(UP)))
        .returns_by_route(sent(to_client((NODE, 86), tcp)).flags(|tcp| tcp.syn = true)),
        row(
            "an answer that resets",
            answer(WHO).flags(|tcp| tcp.rst = true),
        )
        .knows(ours(Way::Uplink(UP)))
        .remembers(closed(ours(Way::Uplink(UP))))
        .returns_by_route(sent(to_client((NODE, 86), tcp)).flags(|tcp| tcp.rst = true)),
        row(
            "an answer that finishes: the client may go on",
            answer(WHO).flags(|tcp| tcp.fin = true),
        )
        .knows(ours(Way::Uplink(UP)))
        .returns_by_route(sent(to_client((NODE, 86), tcp)).flags(|tcp| tcp.fin = true)),
        row(
            "an answer with a partial checksum",
            answer(WHO).payload(&[9; 1400]),
        )
        .knows(ours(Way::Uplink(UP)))
        .returns_by_route(sent(to_client((NODE, 86), tcp)).payload(&[9; 1400])),
        row("an answer in datagrams", sent(udp(HERE, WHO)))
            .knows(flow(wire::UDP, (NODE, 86), Way::Uplink(UP)))
            .returns_by_route(sent(to_client((NODE, 86), udp))),
        row(
            "an answer in datagrams without a checksum",
            sent(udp(HERE, WHO)).unsummed(),
        )
        .knows(flow(wire::UDP, (NODE, 86), Way::Uplink(UP)))
        .returns_by_route(sent(to_client((NODE, 86), udp)).unsummed()),
        row(
            "an answer to a client that asked the other node",
            answer(WHO),
        )
        .knows(flow(wire::TCP, (PEER, 86), Way::Node(PEER)))
        .returns_in_tunnel(through_peer(to_client((PEER, 86), tcp))),
        row("the same in datagrams", sent(udp(HERE, WHO)))
            .knows(flow(wire::UDP, (PEER, 86), Way::Node(PEER)))
            .returns_in_tunnel(through_peer(to_client((PEER, 86), udp))),
        row(
            "an answer to a client with a substitute for its port",
            answer((CLIENT, 1999)),
        )
        .knows((known((CLIENT, 1999)), nat((PEER, 86), WHO, Way::Node(PEER))))
        .returns_in_tunnel(through_peer(to_client((PEER, 86), tcp))),
        row("an answer to a task here", answer((SIDE_GATE, 5000)))
            .knows((known((SIDE_GATE, 5000)), from_task))
            .returns(tcp((NODE, 86), (SIDE_GATE, 5000)).macs(task(SIDE_GATE), gateway())),
        row("an answer to the task itself", answer((NODE, 5000)))
            .knows((known((NODE, 5000)), itself))
            .returns(tcp((NODE, 86), CALLER).macs(task(NEAR_GATE), gateway())),
        row(
            "an answer to a process of this node",
            answer((NODE, 33_000)),
        )
        .knows((known((NODE, 33_000)), local))
        .returns(tcp((process, 86), (process, 33_000)).macs([0; 6], [0; 6])),
        row(
            "an answer from another port",
            sent(tcp((NEAR_GATE, 9), WHO)),
        )
        .knows(ours(Way::Uplink(UP))),
        row("an answer by another protocol", sent(udp(HERE, WHO))).knows(ours(Way::Uplink(UP))),
    ]
}

fn calls() -> Vec<Row> {
    let call = |port| sent(syn(CALLER, (NODE, port)));
    let there = |frame: Frame| frame.macs(task(FAR_GATE), node(NODE));
    let me = Way::Link(GATE, task(NEAR_GATE));
    let returning = |protocol, port| {
        (
            key(SCOPE_RETURN, protocol, (NODE, port), CALLER),
            nat((NODE, port), CALLER, me),
        )
    };
    let bound = |port| {
        key(
            mesh_common::SCOPE_PUBLISHED,
            wire::UDP,
            CALLER,
            (NODE, port),
        )
    };
    vec![
        row("a call of this node, a task there", call(80))
            .forwards(there(syn(CALLER, (NODE, 80))))
            .remembers(returning(wire::TCP, 80))
            .counts("tcp/80", FAR_GATE, true),
        row("more of the call", sent(tcp(CALLER, (NODE, 80))))
            .knows(returning(wire::TCP, 80))
            .forwards(there(tcp(CALLER, (NODE, 80))))
            .counts("tcp/80", FAR_GATE, false),
        row("a call by datagram", sent(udp(CALLER, (NODE, 80))))
            .forwards(there(udp(CALLER, (NODE, 80))))
            .remembers(returning(wire::UDP, 80))
            .binds(bound(80), FAR_GATE)
            .counts("udp/80", FAR_GATE, true),
        row("a call of this node, a task here", call(81))
            .delivers(near(syn(CALLER, SERVER)))
            .remembers((
                key(SCOPE_TASK, wire::TCP, SERVER, CALLER),
                nat((NODE, 81), CALLER, me),
            ))
            .counts("tcp/81", SIDE_GATE, true),
        row("a call of this node, the task itself", call(86))
            .delivers(syn((NODE, 5000), HERE).macs(task(NEAR_GATE), gateway()))
            .remembers((
                key(SCOPE_TASK, wire::TCP, HERE, (NODE, 5000)),
                nat((NODE, 86), CALLER, me),
            ))
            .counts("tcp/86", NEAR_GATE, true),
        row(
            "a call of a service without a task, which the stack refuses",
            call(82),
        ),
    ]
}

/// Headers that end at every byte. The kernel tries no tc program on less than an IP header.
fn cut() -> Vec<Row> {
    let (segment, datagram) = (
        answer((CLIENT, 443)).bytes(),
        sent(udp(CALLER, (CLIENT, 443))).bytes(),
    );
    let mut rows = Vec::new();
    for length in 34..54 {
        let row = row(format!("TCP, {length} bytes of it"), &segment[..length]);
        rows.push(if length < 48 {
            row.drops(DropReason::Malformed)
        } else {
            row
        });
    }
    for length in 34..42 {
        let row = row(format!("UDP, {length} bytes of it"), &datagram[..length]);
        rows.push(if length < 38 {
            row.drops(DropReason::Malformed)
        } else {
            row
        });
    }
    rows
}

pub(crate) fn rows() -> Vec<Row> {
    let parts = [questions(), the_way_out(), answers(), calls(), cut()];
    let rows = parts.into_iter().flatten();
    rows.map(|row| row.by_default(GATE)).collect()
}

#[test]
fn gateway_tc() {
    check_all(Place::Gateway, &rows());
}
