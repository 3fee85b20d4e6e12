//! The program on a task's overlay link: what a task sends to virtual addresses.

use etherparse::IpNumber;
use mesh_common::{DropReason, FlowKey, Place, wire};

use crate::{
    frames::*,
    overlay_tc::{ME, PORT, begin, datagram, open, reply, sent},
    row::{Row, check_all, row},
    traffic::*,
    world::*,
};

/// The key of what the task sends.
fn sending(protocol: u8, to: std::net::Ipv4Addr) -> FlowKey {
    key(VNI, protocol, ME, (to, 80))
}

pub(crate) fn rows() -> Vec<Row> {
    let balanced = |name: &str, protocol, frame: Frame, vip, backend, begins| {
        row(name, frame)
            .remembers(reply(protocol, backend, vip))
            .binds(sending(protocol, vip), backend)
            .counts(vip, backend, begins)
    };
    let tcp_row = |name: &str, frame, vip, backend, begins| {
        balanced(name, wire::TCP, frame, vip, backend, begins)
    };
    let udp_row =
        |name: &str, frame, vip, backend| balanced(name, wire::UDP, frame, vip, backend, true);
    let near = |frame: Frame| frame.macs(task(SIDE), task(NEAR));
    let myself = |frame: Frame| frame.macs(task(NEAR), task(NEAR));
    let hairpin = (
        key(VNI, wire::TCP, (NEAR, 80), (OWN_VIP, PORT)),
        nat((OWN_VIP, 80), ME, Way::Link(OVER, task(NEAR))),
    );
    let drops = |name: &str, frame: Frame, reason| row(name, frame).drops(reason);
    let rows = [
        tcp_row(
            "virtual: a first segment to a task there",
            begin(FAR_VIP),
            FAR_VIP,
            FAR,
            true,
        )
        .tunnels(begin(FAR)),
        tcp_row(
            "virtual: in the middle, its memory lost",
            open(FAR_VIP),
            FAR_VIP,
            FAR,
            false,
        )
        .tunnels(open(FAR)),
        tcp_row(
            "virtual: in the middle, known",
            open(FAR_VIP),
            FAR_VIP,
            FAR,
            false,
        )
        .bound(sending(wire::TCP, FAR_VIP), FAR)
        .knows(reply(wire::TCP, FAR, FAR_VIP))
        .tunnels(open(FAR)),
        udp_row("virtual: a datagram", datagram(FAR_VIP), FAR_VIP, FAR).tunnels(datagram(FAR)),
        udp_row(
            "virtual: a datagram without a checksum",
            datagram(FAR_VIP).unsummed(),
            FAR_VIP,
            FAR,
        )
        .tunnels(datagram(FAR).unsummed()),
        tcp_row(
            "virtual: a first segment to a task here",
            begin(SIDE_VIP),
            SIDE_VIP,
            SIDE,
            true,
        )
        .delivers(near(syn(ME, (SIDE, 80)))),
        udp_row(
            "virtual: a datagram to a task here",
            datagram(SIDE_VIP),
            SIDE_VIP,
            SIDE,
        )
        .delivers(near(udp(ME, (SIDE, 80)))),
        row(
            "virtual: the answer of a task here",
            tcp((SIDE, 80), ME).macs(task(NEAR), task(SIDE)),
        )
        .by(SIDE_OVER)
        .knows(reply(wire::TCP, SIDE, SIDE_VIP))
        .delivers(tcp((SIDE_VIP, 80), ME).macs(task(NEAR), task(SIDE))),
        row("virtual: a task that reaches itself", begin(OWN_VIP))
            .delivers(myself(syn((OWN_VIP, PORT), (NEAR, 80))))
            .remembers(hairpin)
            .binds(sending(wire::TCP, OWN_VIP), NEAR)
            .counts(OWN_VIP, NEAR, true),
        row(
            "virtual: its answer to itself",
            sent(tcp((NEAR, 80), (OWN_VIP, PORT)), OWN_VIP),
        )
        .knows(hairpin)
        .delivers(tcp((OWN_VIP, 80), ME).macs(task(NEAR), task(OWN_VIP))),
        tcp_row(
            "virtual: moved, a new connection",
            begin(MOVED_VIP),
            MOVED_VIP,
            FAR,
            true,
        )
        .tunnels(begin(FAR)),
        tcp_row(
            "virtual: moved, an open one stays",
            open(MOVED_VIP),
            MOVED_VIP,
            SIDE,
            false,
        )
        .delivers(near(tcp(ME, (SIDE, 80)))),
        balanced(
            "virtual: moved, a flow of datagrams stays",
            wire::UDP,
            datagram(MOVED_VIP),
            MOVED_VIP,
            SIDE,
            false,
        )
        .bound(sending(wire::UDP, MOVED_VIP), SIDE)
        .delivers(near(udp(ME, (SIDE, 80)))),
        tcp_row(
            "virtual: drained, an open one goes on",
            open(DRAINED_VIP),
            DRAINED_VIP,
            FAR,
            false,
        )
        .tunnels(open(FAR)),
        drops(
            "virtual: drained, no new connection",
            begin(DRAINED_VIP),
            DropReason::NoBackend,
        ),
        tcp_row(
            "virtual: ended, an open one meets the new task",
            open(FORGOTTEN_VIP),
            FORGOTTEN_VIP,
            FAR,
            false,
        )
        .tunnels(open(FAR)),
        drops(
            "virtual: nobody behind it",
            begin(EMPTY_VIP),
            DropReason::NoBackend,
        ),
        row("virtual: nobody behind it any more", open(EMPTY_VIP))
            .answers(open(EMPTY_VIP).refused()),
        row("virtual: nobody behind it, a datagram", datagram(EMPTY_VIP))
            .answers(datagram(EMPTY_VIP).refused()),
        drops(
            "virtual: a protocol without ports",
            sent(other(NEAR, FAR_VIP, IpNumber::GRE), FAR_VIP),
            DropReason::Protocol,
        ),
        drops(
            "virtual: IP options",
            open(FAR_VIP).options(1),
            DropReason::Protocol,
        ),
        drops(
            "virtual: the last fragment of nothing known",
            datagram(FAR_VIP).fragment(90, false),
            DropReason::Fragment,
        ),
        drops(
            "virtual: with another's address",
            sent(syn((FAR, PORT), (FAR_VIP, 80)), FAR_VIP),
            DropReason::Spoofed,
        ),
    ];
    rows.map(|row| row.by_default(OVER)).into()
}

/// Headers that end at every byte. Where the ports are there, and the checksum that is to change is not, the kernel refuses
/// the change; what ends behind it is for the task to refuse.
fn cut() -> Vec<Row> {
    let balanced = |row: Row, protocol, begins| {
        row.remembers(reply(protocol, FAR, FAR_VIP))
            .binds(sending(protocol, FAR_VIP), FAR)
            .counts(FAR_VIP, FAR, begins)
    };
    let (segment, datagram) = (open(FAR_VIP).bytes(), datagram(FAR_VIP).bytes());
    let (mut rows, inner) = (Vec::new(), open(FAR).bytes());
    for length in 34..54 {
        let row = row(format!("TCP, {length} bytes of it"), &segment[..length]);
        rows.push(match length {
            ..48 => row.drops(DropReason::Malformed),
            48..52 => balanced(row.drops(DropReason::Kernel), wire::TCP, false),
            _ => balanced(row, wire::TCP, false).tunnels(&inner[..length]),
        });
    }
    for length in 34..42 {
        let row = row(format!("UDP, {length} bytes of it"), &datagram[..length]);
        rows.push(match length {
            ..38 => row.drops(DropReason::Malformed),
            _ => balanced(row.drops(DropReason::Kernel), wire::UDP, true),
        });
    }
    rows.into_iter().map(|row| row.by(OVER)).collect()
}

#[test]
fn overlay_tc_virtual_cut() {
    check_all(Place::Overlay, &cut());
}

#[test]
fn overlay_tc_virtual() {
    check_all(Place::Overlay, &rows());
}
