//! What the programs cost the kernel's verifier stays in bounds: it is what opening a data plane takes long for, and a
//! program above [`VERIFIER_LIMIT`] is refused.

use std::fs;

use mesh_datapath::{Config, Datapath, VERIFIER_LIMIT, VerifierCost};

/// Program, and the most instructions that the verifier may process in it: some half more than it did on Linux 6.18, and
/// on 6.1, whose verifier takes fewer ways for one it has been.
const BOUNDS: [(&str, u32, u32); 36] = [
    ("uplink_xdp", 26_000, 26_000),
    ("uplink_tc", 22_000, 33_000),
    ("tunnel_tc", 3_000, 3_000),
    ("probe_tc", 1_000, 1_000),
    ("overlay_tc", 20_000, 12_000),
    ("gateway_tc", 20_000, 23_000),
    ("loopback_tc", 30_000, 33_000),
    ("cipher_tc", 22_000, 15_000),
    ("uplink_xdp_v6", 50_000, 50_000),
    ("uplink_tc_v6", 75_000, 69_000),
    ("tunnel_tc_v6", 6_000, 4_000),
    ("overlay_tc_v6", 40_000, 29_000),
    ("gateway_tc_v6", 45_000, 48_000),
    ("loopback_tc_v6", 50_000, 196_000),
    ("uplink_error", 9_000, 6_000),
    ("uplink_error_v6", 28_000, 12_000),
    ("tunnel_error", 4_000, 4_000),
    ("tunnel_error_v6", 20_000, 18_000),
    ("overlay_error", 3_000, 3_000),
    ("overlay_error_v6", 8_000, 6_000),
    ("gateway_error", 2_000, 2_000),
    ("gateway_error_v6", 15_000, 10_000),
    ("too_big", 5_000, 2_000),
    ("too_big_v6", 8_000, 3_000),
    ("refused", 2_000, 2_000),
    ("refused_v6", 6_000, 4_000),
    ("trace_tc", 4_000, 5_000),
    ("trace_xdp", 4_000, 5_000),
    ("connect4", 2_000, 2_000),
    ("connect6", 2_000, 2_000),
    ("sendmsg4", 2_000, 1_000),
    ("sendmsg6", 2_000, 1_000),
    ("recvmsg4", 1_000, 1_000),
    ("recvmsg6", 1_000, 1_000),
    ("getpeername4", 1_000, 1_000),
    ("getpeername6", 1_000, 1_000),
];

/// Whether the bounds of 6.1 hold: on kernels before 6.6. No other one in between is known.
fn is_old() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a mounted /proc");
    let mut numbers = release.split(['.', '-']).map(str::parse);
    let mut next = || -> u32 { numbers.next().expect("a number").expect("a number") };
    (next(), next()) < (6, 6)
}

/// Each program and its bound on this kernel.
fn bounds() -> [(&'static str, u32); 36] {
    let old = is_old();
    BOUNDS.map(|(name, bound, bound_of_old)| (name, if old { bound_of_old } else { bound }))
}

#[test]
fn verifier_cost_is_bounded() {
    let dir = format!("/sys/fs/bpf/mesh-test-verifier-{}", std::process::id());
    let config = Config::new(&dir);
    let costs = Datapath::open(&config).and_then(|datapath| {
        // Whether the kernel counts runs is the machine's choice; it can always be asked.
        datapath.run_times()?;
        datapath.verifier_costs()
    });
    let removed = Datapath::remove(&config);
    let costs = costs.expect("opened");
    removed.expect("removed");
    let bounds = bounds();
    print(&costs, &bounds);
    let names: Vec<&str> = costs.iter().map(|cost| cost.program).collect();
    assert_eq!(names, bounds.map(|(name, _)| name));
    for (cost, (name, bound)) in costs.iter().zip(bounds) {
        let processed = cost.processed.expect("told since Linux 5.16");
        assert!(processed <= bound, "{name}: {processed}, bound {bound}");
    }
}

fn print(costs: &[VerifierCost], bounds: &[(&str, u32)]) {
    println!(
        "\n{:<16} {:>9} {:>7} {:>12} {:>12}",
        "program", "processed", "bound", "instructions", "machine code"
    );
    let processed = |cost: &VerifierCost| cost.processed.unwrap_or(0);
    for cost in costs {
        let bound = bounds.iter().find(|(name, _)| *name == cost.program);
        println!(
            "{:<16} {:>9} {:>7} {:>12} {:>12}",
            cost.program,
            processed(cost),
            bound.map_or(0, |(_, bound)| *bound),
            cost.instructions,
            cost.machine_code
        );
    }
    let sum: u32 = costs.iter().map(processed).sum();
    println!(
        "{:<16} {sum:>9}   (each: at most {VERIFIER_LIMIT})\n",
        "all"
    );
}
