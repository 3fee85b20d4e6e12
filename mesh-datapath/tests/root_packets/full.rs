//! Tables that are full: each entry makes room for another, and no packet is dropped for it.

use mesh_datapath::Fill;

use crate::{
    frames::{End, Frame, gateway, syn, task, tcp, udp},
    world::*,
};

/// Entries of each table, and flows: many more.
const ENTRIES: u32 = 64;
const FLOWS: u16 = 1000;

fn client(flow: u16) -> End {
    (CLIENT, 20_000 + flow)
}

type Make = fn(End, End) -> Frame;

/// A packet of each flow, and whether the task answers it.
const ROUNDS: [(Make, bool); 5] = [
    (syn, true),
    (tcp, true),
    (tcp, true),
    (udp, false),
    (udp, false),
];

pub(crate) fn fill(world: &mut World, table: &str) -> Fill {
    let all = world.inside(|datapath| datapath.fill()).expect("fill");
    let found = all.into_iter().find(|fill| fill.table == table);
    found.expect("the table")
}

/// Runs a frame in one of the protocols, and demands an action.
fn run(world: &mut World, program: &'static str, frame: &Frame, ipv6: bool, by: u32, action: u32) {
    let six = frame.six().expect("IPv6");
    let bytes = if ipv6 { &six } else { frame }.bytes();
    let trial = world.run(program, &bytes, by).expect("a verdict");
    assert_eq!(trial.action, action, "{program}, IPv6: {ipv6}, {frame:?}");
}

/// `TC_ACT_REDIRECT`, `XDP_REDIRECT`.
pub(crate) const REDIRECT: u32 = 7;
const XDP_REDIRECT: u32 = 4;

pub(crate) fn drops(world: &World) -> u64 {
    world.snapshot().drops.iter().map(|line| line.packets).sum()
}

#[test]
fn full_tables_drop_nothing() {
    let mut world = World::with(Side::Node, |config| config.flow_entries = ENTRIES);
    let to = (NODE, 81);
    let before = drops(&world);
    for ipv6 in [false, true] {
        // Nearly every flow has lost its entry when its next packet comes.
        for (round, answered) in ROUNDS {
            for flow in 0..FLOWS {
                let request = round(client(flow), to);
                run(&mut world, "uplink_tc", &request, ipv6, UP, REDIRECT);
                if answered {
                    let answer = tcp((SIDE_GATE, TARGET), client(flow));
                    let answer = answer.macs(gateway(), task(SIDE_GATE));
                    run(
                        &mut world,
                        "gateway_tc",
                        &answer,
                        ipv6,
                        SIDE_GATE_LINK,
                        REDIRECT,
                    );
                }
            }
        }
        for flow in 0..FLOWS {
            let request = udp(client(flow), (NODE, 80));
            run(&mut world, "uplink_xdp", &request, ipv6, UP, XDP_REDIRECT);
        }
    }
    assert_eq!(drops(&world), before);
    for (table, rounds) in [("flows", 10), ("conns_any", 6)] {
        let fill = fill(&mut world, table);
        assert_eq!(fill.capacity, ENTRIES);
        assert!(fill.entries <= ENTRIES, "{fill:?}");
        // Some are found again: each processor has its own list of free entries.
        let most = rounds * u64::from(FLOWS);
        assert!((most / 2..=most).contains(&fill.inserted), "{fill:?}");
        assert_eq!(fill.evicted + u64::from(fill.entries), fill.inserted);
        assert_eq!(fill.refused, 0);
    }
}

/// What is removed has not been evicted.
#[test]
fn tables_that_are_not_full_have_evicted_nothing() {
    let mut world = World::new(Side::Node);
    for flow in 0..FLOWS {
        let request = syn(client(flow), (NODE, 81));
        run(&mut world, "uplink_tc", &request, false, UP, REDIRECT);
        run(&mut world, "uplink_tc", &request, false, UP, REDIRECT);
    }
    let call = syn((NEAR, 5000), (SIDE_VIP, 80)).macs(task(SIDE_VIP), task(NEAR));
    run(&mut world, "overlay_tc", &call, false, OVER, REDIRECT);
    let flows = fill(&mut world, "flows");
    let all = u64::from(FLOWS) + 1;
    assert_eq!((flows.inserted, u64::from(flows.entries)), (all, all));
    // The task itself uses those ports: what was known of them is forgotten.
    let call = syn((NEAR, 5000), (SIDE, 80)).macs(task(SIDE), task(NEAR));
    run(&mut world, "overlay_tc", &call, false, OVER, REDIRECT);
    let flows = fill(&mut world, "flows");
    assert_eq!((flows.inserted, u64::from(flows.entries)), (all, all - 1));
    assert_eq!((flows.evicted, flows.refused), (0, 0));
}
