//! The per-packet bench runs and measures every program that packets enter, and its twin for IPv6.

use std::collections::BTreeSet;

#[test]
fn every_program_is_measured() {
    let dir = format!("/sys/fs/bpf/mesh-test-bench-{}", std::process::id());
    let costs = mesh_datapath::bench::packets(dir.as_ref()).expect("measured");
    let programs: BTreeSet<_> = costs.iter().map(|cost| cost.program).collect();
    let mut wanted = BTreeSet::from(["empty_xdp", "empty_tc", "undo_xdp"]);
    wanted.extend([
        "uplink_xdp",
        "uplink_tc",
        "overlay_tc",
        "gateway_tc",
        "loopback_tc",
    ]);
    wanted.extend([
        "uplink_xdp_v6",
        "uplink_tc_v6",
        "overlay_tc_v6",
        "gateway_tc_v6",
        "loopback_tc_v6",
    ]);
    assert_eq!(programs, wanted);
    assert!(!std::path::Path::new(&dir).exists());
}
