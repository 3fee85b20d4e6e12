//! SCTP: a flow as a datagram's is, but that its checksum covers the ports and all that follows, and no addresses.

use mesh_common::{DropReason, Place, SCOPE_TASK, wire::SCTP};

use crate::{
    common::INGRESS,
    frames::*,
    overlay_tc::{ME, reply},
    row::{Row, check_all, row},
    six::six,
    traffic::*,
    world::*,
};

fn packet(port: u16) -> Frame {
    sctp(WHO, (NODE, port))
}

fn by_xdp() -> Vec<Row> {
    let there = |row: Row, begins| {
        row.forwards(far(packet(80)))
            .counts("sctp/80", FAR_GATE, begins)
    };
    let back = |frame: Frame| vxlan(PEER, NODE, INGRESS, frame.macs(node(NODE), node(PEER)));
    let answer = sctp((NODE, 80), WHO);
    vec![
        there(row("a task there", packet(80)), true).binds(published(SCTP, 80), FAR_GATE),
        there(row("a task there, a known flow", packet(80)), false)
            .bound(published(SCTP, 80), FAR_GATE),
        row("a task here", packet(81))
            .hands_over()
            .binds(published(SCTP, 81), SIDE_GATE)
            .counts_flow("sctp/81", SIDE_GATE),
        row("a checksum for a device to complete", packet(80).unsummed()).hands_over(),
        row("published for TCP only", packet(1080)),
        row("published for UDP only", packet(2080)),
        row("of another host", sctp(WHO, (NOBODY, 80))),
        row("an answer", back(answer.clone())).returns(answer.macs(CLIENT_MAC, NODE_MAC)),
    ]
}

fn by_tc() -> Vec<Row> {
    let here = |row: Row| {
        row.binds(published(SCTP, 81), SIDE_GATE)
            .remembers(outside(SCTP, 81))
            .counts("sctp/81", SIDE_GATE, true)
    };
    let inside = || near(sctp(WHO, SERVER));
    let tunnel = sctp(WHO, (PEER, 81)).macs(task(SIDE_GATE), node(PEER));
    let behind_vip = sctp((FAR, 80), ME).macs(task(NEAR), task(FAR));
    let mut rows = vec![
        here(row(
            "a checksum for a device to complete",
            packet(81).unsummed(),
        ))
        .delivers(inside().unsummed()),
        row("a task there", packet(80))
            .forwards(far(packet(80)))
            .binds(published(SCTP, 80), FAR_GATE)
            .counts("sctp/80", FAR_GATE, true),
        row("a task there, a known flow", packet(80))
            .bound(published(SCTP, 80), FAR_GATE)
            .forwards(far(packet(80)))
            .counts("sctp/80", FAR_GATE, false),
        row(
            "a task here, which XDP has left to this program",
            packet(81),
        )
        .bound(published(SCTP, 81), SIDE_GATE)
        .delivers(inside())
        .remembers(outside(SCTP, 81))
        .counts("sctp/81", SIDE_GATE, false),
        row("not published", packet(443)),
        row("asked there", vxlan(PEER, NODE, INGRESS, tunnel))
            .delivers(inside())
            .remembers(through(SCTP)),
        row(
            "a reply from behind a virtual address",
            vxlan(PEER, NODE, VNI, behind_vip),
        )
        .delivers(sctp((FAR_VIP, 80), ME).macs(task(NEAR), task(FAR)))
        .knows(reply(SCTP, FAR, FAR_VIP)),
    ];
    for length in [0, 1, 3, 4, 255, 1000, 1400] {
        let payload = vec![0xa5; length];
        let row = row(
            format!("a task here, {length} bytes"),
            packet(81).payload(&payload),
        );
        rows.push(here(row).delivers(inside().payload(&payload)));
    }
    rows
}

fn by_gateway() -> Vec<Row> {
    let here = (NEAR_GATE, TARGET);
    let sent = |frame: Frame| frame.macs(gateway(), task(NEAR_GATE));
    let answer = sent(sctp(here, WHO));
    let flow = |asked, way| (key(SCOPE_TASK, SCTP, here, WHO), nat((asked, 86), WHO, way));
    let rows = [
        row("an answer", answer.clone())
            .knows(flow(NODE, Way::Uplink(UP)))
            .returns_by_route(sent(sctp((NODE, 86), WHO))),
        row(
            "one with a checksum for a device to complete",
            answer.clone().unsummed(),
        )
        .knows(flow(NODE, Way::Uplink(UP)))
        .returns_by_route(sent(sctp((NODE, 86), WHO)).unsummed()),
        row("an answer through the other node", answer.clone())
            .knows(flow(PEER, Way::Node(PEER)))
            .returns_in_tunnel(sctp((PEER, 86), WHO).macs(node(PEER), node(NODE))),
        row("the way out", answer),
    ];
    rows.map(|row| row.by(GATE)).into()
}

fn by_overlay() -> Vec<Row> {
    let call = |to| sctp(ME, (to, 80)).macs(task(to), task(NEAR));
    let rows = [
        row("to a task", call(FAR)).tunnels(call(FAR)),
        row("to a virtual address", call(FAR_VIP))
            .tunnels(call(FAR))
            .remembers(reply(SCTP, FAR, FAR_VIP))
            .binds(key(VNI, SCTP, ME, (FAR_VIP, 80)), FAR)
            .counts(FAR_VIP, FAR, true),
    ];
    rows.map(|row| row.by(OVER)).into()
}

/// Headers that end at every byte, the checksum last. The kernel tries no tc program on less than an IP header.
fn cut(place: Place) -> Vec<Row> {
    let to_other_task = sctp(ME, (FAR, 80)).macs(task(FAR), task(NEAR));
    let answer = sctp((NEAR_GATE, TARGET), WHO).macs(gateway(), task(NEAR_GATE));
    let frame = match place {
        Place::UplinkXdp => packet(80),
        Place::UplinkTc => packet(81),
        Place::Gateway => answer,
        _ => to_other_task,
    };
    let bytes = frame.bytes();
    let rows = (34..46).map(|length| {
        let bytes = &bytes[..length];
        let row = row(format!("SCTP, {length} bytes of it"), bytes);
        match (place, length) {
            (Place::UplinkXdp, 38..) => row.hands_over(),
            // The kernel refuses to change a checksum that is not there.
            (Place::UplinkTc, 38..) => row
                .drops(DropReason::Kernel)
                .binds(published(SCTP, 81), SIDE_GATE)
                .remembers(outside(SCTP, 81))
                .counts("sctp/81", SIDE_GATE, true),
            (Place::Gateway, ..38) => row.by(GATE).drops(DropReason::Malformed),
            (Place::Overlay, ..38) => row.by(OVER).drops(DropReason::Malformed),
            // Nothing of it is changed: it is for who gets it to refuse.
            (Place::Gateway, _) => row.by(GATE),
            (Place::Overlay, _) => row.by(OVER).tunnels(bytes),
            _ => row,
        }
    });
    rows.collect()
}

fn rows(place: Place) -> Vec<Row> {
    match place {
        Place::UplinkXdp => by_xdp(),
        Place::UplinkTc => by_tc(),
        Place::Gateway => by_gateway(),
        Place::Overlay => by_overlay(),
        _ => Vec::new(),
    }
}

#[test]
fn sctp_packets() {
    for place in [
        Place::UplinkXdp,
        Place::UplinkTc,
        Place::Gateway,
        Place::Overlay,
    ] {
        check_all(place, &rows(place));
        check_all(place, &six(rows(place)));
    }
}

#[test]
fn sctp_cut() {
    for place in [
        Place::UplinkXdp,
        Place::UplinkTc,
        Place::Gateway,
        Place::Overlay,
    ] {
        check_all(place, &cut(place));
    }
}
