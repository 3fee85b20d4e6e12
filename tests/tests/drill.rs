//! `mesh-drill`, a short one: scaled up and down, replaced, agents killed, a node lost, and no request fails that should not.

use std::process::Command;

use mesh_tests::{Answer, node};

#[test]
fn a_drill_fails_no_request() {
    let output = Command::new(node::program("mesh-drill").unwrap())
        .args(["--seconds", "10"])
        .output()
        .unwrap();
    let told = Answer::of("mesh-drill".to_owned(), &output).ok().unwrap();
    for phase in ["scale", "replace", "agents", "node loss"] {
        assert!(told.contains(&format!("\n{phase}: ")), "{phase}: {told}");
    }
}
