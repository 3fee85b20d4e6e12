//! `mesh-drill`, a short one: scaled up and down, replaced, agents killed, a node lost, and no request fails that should not.

use std::process::Command;

use mesh_tests::{Answer, node, rig};

#[test]
fn a_drill_fails_no_request() {
    let name = rig::test_name("drill");
    let output = Command::new(node::program("mesh-drill").unwrap())
        // Others test beside it.
        .args(["--seconds", "10", "--pause", "10", "--name", &name])
        .output()
        .unwrap();
    let told = Answer::of("mesh-drill".to_owned(), &output).ok().unwrap();
    for phase in ["scale", "replace", "agents", "node loss"] {
        assert!(told.contains(&format!("\n{phase}: ")), "{phase}: {told}");
    }
}
