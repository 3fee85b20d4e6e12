//! The rig itself, before any agent: the LAN carries packets, and nothing stays behind.

use mesh_tests::{Rig, rig};

#[test]
fn a_world_is_made_and_leaves_no_trace() {
    let name = rig::test_name("w");
    let world = Rig::builder(&name).nodes(2).world().unwrap();
    let own = world.client_address().to_string();
    for node in &world.nodes {
        let there = node.address.to_string();
        world
            .client
            .sh(&["busybox", "ping", "-c", "1", "-W", "5", &there])
            .unwrap();
        let route = node.ns.sh(&["ip", "route", "get", &own]).unwrap();
        assert!(route.contains(mesh_tests::lan::UPLINK), "{route}");
    }
    let traces = Rig::traces(&name, 2);
    assert!(!traces.find().is_empty(), "the world is there");
    drop(world);
    assert_eq!(traces.find(), Vec::<String>::new());
}

#[test]
fn a_process_in_a_namespace_is_found_and_ended() {
    let name = rig::test_name("p");
    let world = Rig::builder(&name).nodes(1).world().unwrap();
    let mut sleeper = world.client.command("sleep", None).unwrap();
    let mut sleeper = sleeper.arg("1000").spawn().unwrap();
    let traces = Rig::traces(&name, 1);
    let found = traces.find().join("\n");
    assert!(found.contains("sleep 1000"), "{found}");
    // Reaped here, as it is our own child; killed by the rig's tear-down.
    let reaper = std::thread::spawn(move || sleeper.wait());
    drop(world);
    assert!(!reaper.join().unwrap().unwrap().success());
    assert_eq!(traces.find(), Vec::<String>::new());
}
