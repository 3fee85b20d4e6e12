//! Direct return: what the node that was asked says of it, and where the task's node sends replies.

use std::sync::Arc;

use mesh_common::{FlowKey, Nat, Place, SCOPE_TASK, wire};

use crate::{
    common::INGRESS,
    fragments::noted,
    frames::*,
    row::{Row, check_in, row},
    six::six,
    traffic::*,
    world::*,
};

/// The task as a server.
const HERE: End = (NEAR_GATE, TARGET);
/// Behind no interface of this node.
const FAR_AWAY: End = (std::net::Ipv4Addr::new(203, 0, 113, 7), 40_000);

/// Makes a frame of a protocol.
type Make = fn(End, End) -> Frame;

/// All services ask for it.
fn world() -> World {
    let mut world = World::new(Side::Node);
    world.change(|desired| {
        for service in desired.services.values_mut() {
            Arc::make_mut(service).direct = true;
        }
    });
    world
}

fn check(world: &mut World, place: Place, rows: &[Row]) {
    check_in(world, place, rows);
    check_in(world, place, &six(rows.to_vec()));
}

#[test]
fn the_node_that_was_asked_says_that_replies_need_not_come_back() {
    let there = |frame: Frame| frame.macs(task(FAR_GATE), direct(NODE));
    let rows = |kind: &str| {
        vec![
            row(format!("{kind}: the first segment"), begin(80))
                .forwards(there(begin(80)))
                .counts("tcp/80", FAR_GATE, true),
            row(format!("{kind}: a segment"), open(80))
                .forwards(there(open(80)))
                .counts("tcp/80", FAR_GATE, false),
            row(format!("{kind}: a datagram"), datagram(80))
                .forwards(there(datagram(80)))
                .binds(published(wire::UDP, 80), FAR_GATE)
                .counts("udp/80", FAR_GATE, true),
            row(format!("{kind}: SCTP"), sctp(WHO, (NODE, 80)))
                .forwards(there(sctp(WHO, (NODE, 80))))
                .binds(published(wire::SCTP, 80), FAR_GATE)
                .counts("sctp/80", FAR_GATE, true),
        ]
    };
    let mut world = world();
    check(&mut world, Place::UplinkXdp, &rows("XDP"));
    check(&mut world, Place::UplinkTc, &rows("tc"));
    let aside = row("by an interface that carries no tunnels", open(80))
        .by(ELSEWHERE)
        .forwards(far(open(80)))
        .counts("tcp/80", FAR_GATE, false);
    check(&mut world, Place::UplinkTc, &[aside]);
}

#[test]
fn a_client_inside_the_asked_node_is_answered_through_it() {
    let caller = (NEAR_GATE, 5000);
    let call = syn(caller, (NODE, 80));
    let link = nat((NODE, 80), caller, Way::Link(GATE, task(NEAR_GATE)));
    let rows = [row(
        "a task's call",
        call.clone().macs(gateway(), task(NEAR_GATE)),
    )
    .by(GATE)
    .forwards(call.macs(task(FAR_GATE), node(NODE)))
    .remembers((
        key(mesh_common::SCOPE_RETURN, wire::TCP, (NODE, 80), caller),
        link,
    ))
    .counts("tcp/80", FAR_GATE, true)];
    check(&mut world(), Place::Gateway, &rows);
    let home = (std::net::Ipv4Addr::LOCALHOST, 33_000);
    let call = syn(home, (home.0, 80)).macs([0; 6], [0; 6]);
    let seen = syn((NODE, home.1), (NODE, 80));
    let rows = [row("a process's call", call)
        .by(LO)
        .forwards(seen.macs(task(FAR_GATE), node(NODE)))
        .remembers((
            key(
                mesh_common::SCOPE_RETURN,
                wire::TCP,
                (NODE, 80),
                (NODE, home.1),
            ),
            nat((home.0, 80), home, Way::Loopback),
        ))
        .counts("tcp/80", FAR_GATE, true)];
    check_in(&mut world(), Place::Loopback, &rows);
}

/// A client that asked the other node, which says whether the reply need not come back.
fn asked(frame: Frame, mac: Mac) -> Frame {
    vxlan(PEER, NODE, INGRESS, frame.macs(task(SIDE_GATE), mac))
}

fn of_side(protocol: u8, way: Way) -> (FlowKey, Nat) {
    (
        key(SCOPE_TASK, protocol, SERVER, WHO),
        nat((PEER, 81), WHO, way),
    )
}

#[test]
fn the_task_s_node_remembers_it_and_follows_a_change() {
    let at = (PEER, 81);
    let (through, straight) = (Way::Node(PEER), Way::Direct(PEER));
    let rows = [
        row("a first segment", asked(syn(WHO, at), direct(PEER)))
            .delivers(near(syn(WHO, SERVER)))
            .remembers(of_side(wire::TCP, straight)),
        row("a datagram", asked(udp(WHO, at), direct(PEER)))
            .delivers(near(udp(WHO, SERVER)))
            .remembers(of_side(wire::UDP, straight)),
        row("SCTP", asked(sctp(WHO, at), direct(PEER)))
            .delivers(near(sctp(WHO, SERVER)))
            .remembers(of_side(wire::SCTP, straight)),
        row(
            "an open connection becomes direct",
            asked(tcp(WHO, at), direct(PEER)),
        )
        .delivers(near(tcp(WHO, SERVER)))
        .knows(of_side(wire::TCP, through))
        .remembers(of_side(wire::TCP, straight)),
        row(
            "an open connection is no longer direct",
            asked(tcp(WHO, at), node(PEER)),
        )
        .delivers(near(tcp(WHO, SERVER)))
        .knows(of_side(wire::TCP, straight))
        .remembers(of_side(wire::TCP, through)),
        row(
            "the last segment of a direct one",
            asked(tcp(WHO, at).flags(|tcp| tcp.fin = true), direct(PEER)),
        )
        .delivers(near(tcp(WHO, SERVER).flags(|tcp| tcp.fin = true)))
        .knows(of_side(wire::TCP, straight))
        .remembers(closed(of_side(wire::TCP, straight))),
    ];
    check(&mut world(), Place::UplinkTc, &rows);
}

fn sent(frame: Frame) -> Frame {
    frame.macs(gateway(), task(NEAR_GATE))
}

/// A reply of the task to `client`, and the same as the client is to see it.
fn reply(frame: Make, client: End) -> [Frame; 2] {
    [sent(frame(HERE, client)), frame((PEER, 86), client)]
}

fn of_near(protocol: u8, client: End) -> (FlowKey, Nat) {
    (
        key(SCOPE_TASK, protocol, HERE, client),
        nat((PEER, 86), client, Way::Direct(PEER)),
    )
}

/// Replies of each protocol; `expect` says where they go.
fn replies(expect: impl Fn(Row, Frame) -> Row) -> Vec<Row> {
    let kinds: [(&str, u8, Make); 3] = [
        ("TCP", wire::TCP, tcp),
        ("UDP", wire::UDP, udp),
        ("SCTP", wire::SCTP, sctp),
    ];
    let mut rows = Vec::new();
    for (name, protocol, frame) in kinds {
        let [inside, outside] = reply(frame, WHO);
        rows.push(expect(
            row(name, inside).knows(of_near(protocol, WHO)),
            outside,
        ));
    }
    let fragment = |of: fn(Frame) -> Frame| reply(udp, WHO).map(of);
    let [inside, outside] = fragment(|frame| frame.fragment(0, true));
    let note = noted(SCOPE_TASK, HERE, WHO);
    let first = row("a first fragment", inside).knows(of_near(wire::UDP, WHO));
    rows.push(expect(first.notes(note), outside));
    let [inside, outside] = fragment(|frame| frame.fragment(90, false));
    let last = row("a last fragment", inside).knows(of_near(wire::UDP, WHO));
    rows.push(expect(last.has_noted(note), outside));
    let [inside, outside] = reply(tcp, WHO).map(|frame| frame.flags(|tcp| tcp.rst = true));
    let (key, nat) = of_near(wire::TCP, WHO);
    let reset = row("a reset", inside).knows((key, nat));
    rows.push(expect(reset.remembers(closed((key, nat))), outside));
    rows.into_iter().map(|row| row.by(GATE)).collect()
}

fn in_tunnel(row: Row, frame: Frame) -> Row {
    row.returns_in_tunnel(frame.macs(node(PEER), node(NODE)))
}

#[test]
fn proved_replies_go_straight_to_the_client() {
    let mut world = world();
    world.prove(PEER, 10);
    let straight = |row: Row, frame: Frame| row.returns_by_route(frame);
    check(&mut world, Place::Gateway, &replies(straight));
    let [inside, outside] = reply(tcp, WHO).map(|frame| frame.flags(|tcp| tcp.syn = true));
    let [far_inside, far_outside] = reply(udp, FAR_AWAY);
    let [other_inside, other_outside] = reply(udp, (STRANGER, 40_000));
    let rows = [
        in_tunnel(
            row(
                "what opens a connection goes by the node that clamps it",
                inside,
            )
            .knows(of_near(wire::TCP, WHO)),
            outside,
        ),
        in_tunnel(
            row("a client that this node has no way to", far_inside)
                .knows(of_near(wire::UDP, FAR_AWAY)),
            far_outside,
        )
        .only_v4(),
        row("a client whose MAC is unknown", other_inside)
            .knows(of_near(wire::UDP, (STRANGER, 40_000)))
            .returns_by_route(other_outside),
    ];
    check(&mut world, Place::Gateway, &rows.map(|row| row.by(GATE)));
}

#[test]
fn without_a_proof_replies_go_by_the_node_that_was_asked() {
    let mut world = world();
    check(&mut world, Place::Gateway, &replies(in_tunnel));
    world.prove(PEER, 0);
    check(&mut world, Place::Gateway, &replies(in_tunnel));
    // Another's address proves nothing.
    world.prove(PEER, -3);
    world.prove(CLIENT, 10);
    check(&mut world, Place::Gateway, &replies(in_tunnel));
}

#[test]
fn a_proof_of_another_node_is_left_to_the_agent() {
    let proof = udp((NODE, 40_000), (NODE, 4789)).payload(b"\0meshdsr and so on");
    let mut world = world();
    check(&mut world, Place::UplinkTc, &[row("tc", proof.clone())]);
    check_in(
        &mut world,
        Place::UplinkXdp,
        &[row("XDP", proof).hands_over()],
    );
}
