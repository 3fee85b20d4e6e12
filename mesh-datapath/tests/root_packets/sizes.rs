//! What ends of TCP connections announce as their largest segment: lowered where a connection crosses a tunnel.

use mesh_common::{Place, SCOPE_RETURN, SCOPE_TASK, wire};

use crate::{
    common::INGRESS,
    errors::MTU,
    frames::*,
    overlay_tc,
    row::{Row, check_all, row},
    six::six,
    traffic::*,
    world::*,
};

/// Announces so much, behind `before`.
fn behind(frame: Frame, before: &[u8], most: u16) -> Frame {
    let option = [&[2, 4][..], &most.to_be_bytes()].concat();
    let options = [before, &option].concat();
    frame.flags(|tcp| tcp.set_options_raw(&options).expect("options"))
}

fn announces(frame: Frame, most: u16) -> Frame {
    behind(frame, b"", most)
}

/// An uplink of 1,500 bytes.
const MORE: u16 = 1460;

/// The rows of a place, where tunnels take packets of `mtu` bytes; `six`: as they are in IPv6, whose header is longer.
fn rows(place: Place, six: bool, mtu: u16) -> Vec<Row> {
    let most = mtu - if six { 60 } else { 40 };
    let accepted = |from, to| syn(from, to).flags(|tcp| tcp.ack = true);
    let lowered = |frame: Frame| [announces(frame.clone(), MORE), announces(frame, most)];
    match place {
        Place::UplinkXdp => {
            let sends = |name: &str, [before, after]: [Frame; 2], begins| {
                row(name, before)
                    .forwards(far(after))
                    .counts("tcp/80", FAR_GATE, begins)
            };
            let same = |frame: Frame| [frame.clone(), frame];
            let tunnel =
                |frame: Frame| vxlan(PEER, NODE, INGRESS, frame.macs(node(NODE), node(PEER)));
            let [back, out] = lowered(accepted((NODE, 80), WHO));
            let hidden = behind(accepted((NODE, 80), WHO), &[1], MORE);
            vec![
                sends("announces more than fits", lowered(begin(80)), true),
                sends(
                    "announces what fits",
                    same(announces(begin(80), most)),
                    true,
                ),
                sends("announces little", same(announces(begin(80), 536)), true),
                sends(
                    "announces in the middle of a connection",
                    same(announces(open(80), MORE)),
                    false,
                ),
                row(
                    "announces behind another option",
                    behind(begin(80), &[1], MORE),
                )
                .hands_over(),
                row("the other end announces more than fits", tunnel(back))
                    .returns(out.macs(CLIENT_MAC, NODE_MAC)),
                row(
                    "the other end announces behind another option",
                    tunnel(hidden),
                )
                .hands_over(),
            ]
        }
        Place::UplinkTc => {
            let sends = |name: &str, before: &[u8], announced, after| {
                row(name, behind(begin(80), before, announced))
                    .forwards(far(behind(begin(80), before, after)))
                    .counts("tcp/80", FAR_GATE, true)
            };
            let asked =
                |frame: Frame| vxlan(PEER, NODE, INGRESS, frame.macs(task(SIDE_GATE), node(PEER)));
            let overlay = |frame: Frame| vxlan(PEER, NODE, VNI, frame.macs(task(NEAR), task(FAR)));
            let caller = (NEAR_GATE, 5000);
            let called = nat((NODE, 80), caller, Way::Link(GATE, task(NEAR_GATE)));
            let [back, returned] = lowered(accepted((NODE, 80), caller));
            let [question, _] = lowered(syn(WHO, (PEER, 81)));
            let [_, inside] = lowered(syn(WHO, SERVER));
            let [first, second] = lowered(syn((FAR, 5000), (NEAR, 80)));
            vec![
                sends("announces more than fits", &[], MORE, most),
                sends("announces as much as there is", &[], u16::MAX, most),
                sends("announces what fits", &[], most, most),
                sends("behind an odd number of bytes", &[1], MORE, most),
                sends(
                    "behind other options",
                    &[4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0],
                    MORE,
                    most,
                ),
                sends("behind nine others", &[1; 9], MORE, most),
                sends("too far back", &[1; 10], MORE, MORE),
                sends("behind the end of options", &[0, 1, 1, 1], MORE, MORE),
                sends("behind an option of no length", &[8, 0], MORE, MORE),
                sends("behind an option of one byte", &[8, 1], MORE, MORE),
                sends("within an option", &[8, 6], MORE, MORE),
                sends("in two bytes more than there are", &[8, 40], MORE, MORE),
                row("to a task here", announces(begin(81), MORE))
                    .delivers(near(announces(syn(WHO, SERVER), MORE)))
                    .remembers(outside(wire::TCP, 81))
                    .counts("tcp/81", SIDE_GATE, true),
                row("out of a tunnel, to a task here", asked(question))
                    .delivers(near(inside))
                    .remembers(through(wire::TCP)),
                row(
                    "out of a tunnel, to a task that called",
                    vxlan(PEER, NODE, INGRESS, back.macs(node(NODE), node(PEER))),
                )
                .knows((key(SCOPE_RETURN, wire::TCP, (NODE, 80), caller), called))
                .returns(returned.macs(task(NEAR_GATE), gateway())),
                row("out of an overlay tunnel", overlay(first))
                    .delivers(second.macs(task(NEAR), task(FAR))),
            ]
        }
        Place::Overlay => {
            let [there, less] = lowered(overlay_tc::begin(FAR));
            let [here, _] = lowered(overlay_tc::begin(SIDE));
            let [vip, _] = lowered(overlay_tc::begin(FAR_VIP));
            vec![
                row("announces more than fits", there).tunnels(less.clone()),
                row("announces more to a task here", here.clone()).delivers(here),
                row("announces more to a virtual address", vip)
                    .tunnels(less)
                    .remembers(overlay_tc::reply(wire::TCP, FAR, FAR_VIP))
                    .binds(key(VNI, wire::TCP, overlay_tc::ME, (FAR_VIP, 80)), FAR)
                    .counts(FAR_VIP, FAR, true),
            ]
        }
        _ => {
            let here = (NEAR_GATE, TARGET);
            let answer = accepted(here, WHO).macs(gateway(), task(NEAR_GATE));
            let flow = |asked, way| {
                (
                    key(SCOPE_TASK, wire::TCP, here, WHO),
                    nat((asked, 86), WHO, way),
                )
            };
            let [answer, _] = lowered(answer);
            let [back, _] = lowered(accepted((NODE, 86), WHO));
            let [_, through] = lowered(accepted((PEER, 86), WHO));
            vec![
                row("an answer that announces more, to outside", answer.clone())
                    .knows(flow(NODE, Way::Uplink(UP)))
                    .returns_by_route(back),
                row("an answer that announces more than fits", answer)
                    .knows(flow(PEER, Way::Node(PEER)))
                    .returns_in_tunnel(through.macs(node(PEER), node(NODE))),
            ]
        }
    }
}

/// In both protocols, on the interface that it comes in by.
pub(crate) fn all(place: Place, mtu: u16) -> [Vec<Row>; 2] {
    let interface = match place {
        Place::Overlay => OVER,
        Place::Gateway => GATE,
        _ => UP,
    };
    [rows(place, false, mtu), six(rows(place, true, mtu))].map(|rows| {
        let rows = rows.into_iter();
        rows.map(|row| row.by_default(interface)).collect()
    })
}

#[test]
fn largest_segments() {
    for place in [
        Place::UplinkXdp,
        Place::UplinkTc,
        Place::Overlay,
        Place::Gateway,
    ] {
        for rows in all(place, MTU) {
            check_all(place, &rows);
        }
    }
}
