//! Project tasks: set-up, eBPF build, demo, tests, benches, verification.

fn main() {}
