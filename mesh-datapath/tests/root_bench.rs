//! The per-packet bench runs and measures every program.

use std::collections::BTreeSet;

#[test]
fn every_program_is_measured() {
    let dir = format!("/sys/fs/bpf/mesh-test-bench-{}", std::process::id());
    let costs = mesh_datapath::bench::packets(dir.as_ref()).expect("measured");
    let programs: BTreeSet<_> = costs.iter().map(|cost| cost.program).collect();
    assert_eq!(programs.len(), 8, "{programs:?}");
    assert!(!std::path::Path::new(&dir).exists());
}
