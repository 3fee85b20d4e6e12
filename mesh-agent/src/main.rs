//! `mesh-agent`: parses flags and runs the node.

fn main() {}
