//! Fragments of datagrams: the first has the ports, the others follow it.

use mesh_common::{DropReason, FlowKey, Fragment, Place, SCOPE_PUBLISHED, SCOPE_TASK, wire};

use crate::{
    common::INGRESS,
    frames::*,
    overlay_tc,
    row::{Row, check_all, row},
    six::six,
    traffic::*,
    world::*,
};

/// What is remembered of a first fragment from one end to another.
pub(crate) fn noted(scope: u32, from: End, to: End) -> (FlowKey, Fragment) {
    // The identification of all frames here.
    let key = key(scope, wire::UDP, (from.0, 0), (to.0, 7));
    let fragment = Fragment {
        sport_be: from.1.to_be(),
        dport_be: to.1.to_be(),
        seen_s: 0,
    };
    (key, fragment)
}

fn first(frame: Frame) -> Frame {
    frame.fragment(0, true)
}

fn last(frame: Frame) -> Frame {
    frame.fragment(90, false)
}

fn on_the_uplink() -> Vec<Row> {
    let (asked, there) = ((NODE, 81), (NODE, 80));
    let client = |to| noted(SCOPE_PUBLISHED, WHO, to);
    let here = |row: Row| {
        row.binds(published(wire::UDP, 81), SIDE_GATE)
            .remembers(outside(wire::UDP, 81))
            .counts("udp/81", SIDE_GATE, true)
    };
    let away = |row: Row| {
        row.binds(published(wire::UDP, 80), FAR_GATE)
            .counts("udp/80", FAR_GATE, true)
    };
    let inside = |of: fn(Frame) -> Frame| near(of(udp(WHO, SERVER)));
    let tunnel = |of: fn(Frame) -> Frame| {
        let frame = of(udp(WHO, (PEER, 81)));
        vxlan(PEER, NODE, INGRESS, frame.macs(task(SIDE_GATE), node(PEER)))
    };
    let by_peer = noted(INGRESS, WHO, (PEER, 81));
    let overlay = |of: fn(Frame) -> Frame| {
        let frame = of(udp((FAR, 80), overlay_tc::ME));
        vxlan(PEER, NODE, VNI, frame.macs(task(NEAR), task(FAR)))
    };
    let replied =
        |of: fn(Frame) -> Frame| of(udp((FAR_VIP, 80), overlay_tc::ME)).macs(task(NEAR), task(FAR));
    let reply = overlay_tc::reply(wire::UDP, FAR, FAR_VIP);
    let of_reply = noted(VNI, (FAR, 80), overlay_tc::ME);
    vec![
        here(row("first, a task here", first(datagram(81))))
            .delivers(inside(first))
            .notes(client(asked)),
        here(row("last, a task here", last(datagram(81))))
            .delivers(inside(last))
            .has_noted(client(asked)),
        here(row("in the middle", datagram(81).fragment(20, true)))
            .delivers(near(udp(WHO, SERVER).fragment(20, true)))
            .has_noted(client(asked)),
        row("last, the first long ago", last(datagram(81))).has_noted_before(client(asked), 32),
        row("last, the first not yet here", last(datagram(81))),
        row(
            "last of another packet",
            last(datagram(81)).ip(|ip| ip.identification = 8),
        )
        .has_noted(client(asked)),
        row("last, by another protocol", last(tcp(WHO, asked))).has_noted(client(asked)),
        away(row("first, a task there", first(datagram(80))))
            .forwards(far(first(datagram(80))))
            .notes(client(there)),
        away(row("last, a task there", last(datagram(80))))
            .forwards(far(last(datagram(80))))
            .has_noted(client(there)),
        row("first, a port that is not published", first(datagram(443))),
        row("asked there, first", tunnel(first))
            .delivers(inside(first))
            .remembers(through(wire::UDP))
            .notes(by_peer),
        row("asked there, last", tunnel(last))
            .delivers(inside(last))
            .knows(through(wire::UDP))
            .has_noted(by_peer),
        row("asked there, last without the first", tunnel(last)).drops(DropReason::Fragment),
        row(
            "overlay: first of a reply from behind a virtual address",
            overlay(first),
        )
        .delivers(replied(first))
        .knows(reply)
        .notes(of_reply),
        row(
            "overlay: last of a reply from behind a virtual address",
            overlay(last),
        )
        .delivers(replied(last))
        .knows(reply)
        .has_noted(of_reply),
    ]
}

fn on_the_gateway() -> Vec<Row> {
    let here = (NEAR_GATE, TARGET);
    let sent = |frame: Frame| frame.macs(gateway(), task(NEAR_GATE));
    let answer = |of: fn(Frame) -> Frame| sent(of(udp(here, WHO)));
    let flow = |asked, way| {
        (
            key(SCOPE_TASK, wire::UDP, here, WHO),
            nat((asked, 86), WHO, way),
        )
    };
    let (ours, theirs) = (flow(NODE, Way::Uplink(UP)), flow(PEER, Way::Node(PEER)));
    let of_answer = noted(SCOPE_TASK, here, WHO);
    let through = |of: fn(Frame) -> Frame| of(udp((PEER, 86), WHO)).macs(node(PEER), node(NODE));
    let rows = [
        row("first of an answer", answer(first))
            .knows(ours)
            .notes(of_answer)
            .returns_by_route(sent(first(udp((NODE, 86), WHO)))),
        row("last of an answer", answer(last))
            .knows(ours)
            .has_noted(of_answer)
            .returns_by_route(sent(last(udp((NODE, 86), WHO)))),
        row("first of an answer through the other node", answer(first))
            .knows(theirs)
            .notes(of_answer)
            .returns_in_tunnel(through(first)),
        row("last of an answer through the other node", answer(last))
            .knows(theirs)
            .has_noted(of_answer)
            .returns_in_tunnel(through(last)),
        row("last of an answer, without the first", answer(last)).knows(ours),
    ];
    rows.map(|row| row.by(GATE)).into()
}

fn on_the_overlay() -> Vec<Row> {
    use overlay_tc::{ME, datagram, reply};
    let vip = |row: Row| {
        row.remembers(reply(wire::UDP, FAR, FAR_VIP))
            .binds(key(VNI, wire::UDP, ME, (FAR_VIP, 80)), FAR)
            .counts(FAR_VIP, FAR, true)
            .by(OVER)
    };
    let note = noted(VNI, ME, (FAR_VIP, 80));
    vec![
        vip(row("first, to a virtual address", first(datagram(FAR_VIP))))
            .tunnels(first(datagram(FAR)))
            .notes(note),
        vip(row("last, to a virtual address", last(datagram(FAR_VIP))))
            .tunnels(last(datagram(FAR)))
            .has_noted(note),
    ]
}

fn rows(place: Place) -> Vec<Row> {
    match place {
        Place::UplinkTc => on_the_uplink(),
        Place::Gateway => on_the_gateway(),
        Place::Overlay => on_the_overlay(),
        _ => Vec::new(),
    }
}

/// In both protocols.
pub(crate) fn all(place: Place) -> [Vec<Row>; 2] {
    [rows(place), six(rows(place))]
}

#[test]
fn fragments() {
    for place in [Place::UplinkTc, Place::Gateway, Place::Overlay] {
        for rows in all(place) {
            check_all(place, &rows);
        }
    }
}
