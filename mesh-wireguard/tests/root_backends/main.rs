//! Two nodes in network namespaces, whose WireGuard is the kernel's or in user space: keys change and nothing is lost.

mod traffic;
mod world;

use std::{collections::BTreeMap, net::UdpSocket};

use mesh_wireguard::{Backend, Handle, Request};
use traffic::Traffic;
use world::{PORT, World, eventually};

use Backend::{Auto, User};

/// Changes of keys in a row.
const CHANGES: usize = 3;

/// Lets both nodes change their keys, one or the other first, while packets go both ways.
fn change(backends: [Backend; 2]) {
    let mut world = World::new(backends);
    world.agree();
    let traffic = Traffic::start(&world);
    for number in 0..CHANGES {
        traffic.wait_for_more();
        let before = world.status();
        let epoch = before[0].epoch + 1;
        world.nodes[number % 2].ask(&Request::Rotate { epoch });
        world.pass();
        traffic.wait_for_more();
        // It follows by itself, unless it waits for the key before to be needed no longer.
        let other = &world.nodes[1 - number % 2];
        if other.ask(&Request::Status).epoch < epoch {
            assert_ne!(number, 0, "the first change waits for nothing");
            other.ask(&Request::Rotate { epoch });
        }
        world.agree();
        for (status, before) in world.status().iter().zip(&before) {
            assert_eq!((status.epoch, status.port), (epoch, before.next_port));
            assert_ne!(status.key, before.key);
            assert!(status.rotating, "the key before may be needed");
        }
    }
    traffic.wait_for_more();
    traffic.end();
}

#[test]
#[ignore = "`cargo xtask vm-test root_backends` runs it: it needs the kernel module wireguard"]
fn kernels_change_their_keys_and_no_packet_is_lost() {
    change([Auto, Auto]);
}

#[test]
#[ignore = "`cargo xtask vm-test root_backends` runs it: it needs the kernel module wireguard"]
fn a_kernel_and_a_node_in_user_space_change_their_keys_and_no_packet_is_lost() {
    change([Auto, User]);
}

#[test]
fn nodes_in_user_space_change_their_keys_and_no_packet_is_lost() {
    change([User, User]);
}

#[test]
#[ignore = "`cargo xtask vm-test root_backends` runs it: it needs the kernel module wireguard"]
fn the_kernel_goes_on_without_an_agent_and_the_next_one_finds_it() {
    let mut world = World::new([Auto, Auto]);
    world.agree();
    let traffic = Traffic::start(&world);
    traffic.wait_for_more();
    let before = world.status();
    let [node, other] = &mut world.nodes;
    let found = node.enter(|| node.find().expect("devices"));
    assert!(matches!(found, Handle::Kernel(_)));
    let status = node.enter(|| found.ask(&Request::Status).expect("a status"));
    assert_eq!(
        (&status.key, status.ifindex),
        (&before[0].key, before[0].ifindex)
    );
    assert_eq!((status.port, status.next_port), (PORT, PORT + 1));
    // Another agent, to which the epoch of a first key is told.
    node.setup.epoch = 9;
    node.pass(other.told());
    assert_eq!(node.ask(&Request::Status).key, before[0].key);
    traffic.wait_for_more();
    traffic.end();
    // And one with another port.
    node.setup.port = PORT + 10;
    node.pass(other.told());
    let status = node.ask(&Request::Status);
    assert_eq!(
        (status.key, status.port),
        (before[0].key.clone(), PORT + 10)
    );
    // Another agent's are another's.
    node.enter(|| Handle::end(&node.setup.socket, "other").expect("nothing to end"));
    assert_eq!(node.enter(|| node.find()), Some(found));
    node.enter(|| node.end().expect("to end it"));
    assert_eq!(node.enter(|| node.find()), None);
}

#[test]
#[ignore = "`cargo xtask vm-test root_backends` runs it: it needs the kernel module wireguard"]
fn what_encrypts_is_exchanged_only_for_user_space() {
    let mut world = World::new([Auto, Auto]);
    world.agree();
    let before = world.status();
    world.nodes[0].setup.backend = User;
    world.agree();
    let [status, other] = world.status();
    assert_ne!(status.key, before[0].key);
    assert_eq!(other.key, before[1].key, "the other node has nothing to do");
    let node = &mut world.nodes[0];
    let links = node.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev"));
    let links = links.expect("the links");
    assert!(!links.contains("mesh-wg0") && !links.contains("mesh-wg1"));
    node.setup.backend = Auto;
    assert_eq!(node.ask(&Request::Status).key, status.key);
}

#[test]
#[ignore = "`cargo xtask vm-test root_backends` runs it: it needs the kernel module wireguard"]
fn a_key_whose_port_is_taken_is_not_used() {
    let mut world = World::new([Auto, Auto]);
    world.agree();
    let traffic = Traffic::start(&world);
    let [node, other] = &mut world.nodes;
    let taken = node.enter(|| UdpSocket::bind(("0.0.0.0", PORT + 1)).expect("a socket"));
    let before = node.ask(&Request::Status);
    let epoch = before.epoch + 1;
    let refused = node.enter(|| node.handle().ask(&Request::Rotate { epoch }));
    let refused = refused.expect_err("the port is taken").to_string();
    assert!(refused.contains("51821"), "{refused}");
    let after = node.ask(&Request::Status);
    assert_eq!((&after.key, after.former), (&before.key, None));
    let refused = node.enter(|| {
        node.handle().ask(&Request::Rotate {
            epoch: before.epoch,
        })
    });
    assert!(refused.is_err(), "a key of an epoch that there is");
    traffic.wait_for_more();
    drop(taken);
    node.ask(&Request::Rotate { epoch });
    eventually("it to be made", || {
        node.pass(other.told());
        other.pass(node.told());
        node.ask(&Request::Status).epoch == epoch && node.is_settled()
    });
    traffic.end();
}

#[test]
#[ignore = "`cargo xtask vm-test root_backends` runs it: it needs the kernel module wireguard"]
fn two_devices_move_to_the_port_beside() {
    let mut world = World::new([Auto, Auto]);
    world.agree();
    let [node, other] = &mut world.nodes;
    let epoch = node.ask(&Request::Status).epoch + 1;
    node.ask(&Request::Rotate { epoch });
    // The newest device's port is to be the one that the other has.
    node.setup.port = PORT - 1;
    eventually("both to move", || {
        node.pass(other.told());
        let status = node.ask(&Request::Status);
        (status.port, status.next_port) == (PORT, PORT - 1)
    });
    world.agree();
}

#[test]
#[ignore = "`cargo xtask vm-test root_backends` runs it: it needs the kernel module wireguard"]
fn while_its_new_port_is_taken_a_device_stays_and_keys_go_on() {
    let mut world = World::new([Auto, Auto]);
    world.agree();
    let node = &mut world.nodes[0];
    let before = node.ask(&Request::Status);
    let taken = [10, 11].map(|beside| {
        node.enter(|| UdpSocket::bind(("0.0.0.0", PORT + beside)).expect("a socket"))
    });
    node.setup.port = PORT + 10;
    world.pass();
    let status = world.nodes[0].ask(&Request::Status);
    assert_eq!((&status.key, status.first_port()), (&before.key, PORT));
    // A new key has the port beside, and is agreed upon.
    let epoch = before.epoch + 1;
    world.nodes[0].ask(&Request::Rotate { epoch });
    world.agree();
    let status = world.nodes[0].ask(&Request::Status);
    assert_eq!((status.epoch, status.port), (epoch, PORT + 1));
    drop(taken);
    eventually("the devices to move", || {
        world.pass();
        world.nodes[0].ask(&Request::Status).first_port() == PORT + 10
    });
    world.agree();
    assert_eq!(world.nodes[0].ask(&Request::Status).key, status.key);
}

#[test]
#[ignore = "`cargo xtask vm-test root_backends` runs it: it needs the kernel module wireguard"]
fn while_its_new_port_is_published_a_device_stays() {
    stay_while_published(Auto);
}

#[test]
fn while_its_new_port_is_published_the_process_in_user_space_stays() {
    stay_while_published(User);
}

fn stay_while_published(backend: Backend) {
    let mut world = World::new([backend; 2]);
    world.agree();
    let key = world.nodes[0].ask(&Request::Status).key;
    let port = PORT + 10;
    world.nodes[0].setup.port = port;
    world.nodes[0].setup.used = published(port);
    world.agree();
    let status = world.nodes[0].ask(&Request::Status);
    assert_eq!((&status.key, status.first_port()), (&key, PORT));
    // Nor does it begin there.
    let node = &mut world.nodes[0];
    node.enter(|| node.end().expect("to end it"));
    let refused = node.enter(|| node.ensure().expect_err("the port is published"));
    let refused = refused.to_string();
    assert!(refused.starts_with("it is published: "), "{refused}");
    node.setup.used.clear();
    world.agree();
    assert_eq!(world.nodes[0].ask(&Request::Status).first_port(), port);
}

fn published(port: u16) -> BTreeMap<u16, String> {
    BTreeMap::from([(port, "it is published".to_owned())])
}

#[test]
fn while_its_new_port_is_taken_the_process_in_user_space_stays() {
    let mut world = World::new([User, User]);
    world.agree();
    let before = world.status();
    let node = &mut world.nodes[0];
    let port = PORT + 10;
    let taken = node.enter(|| UdpSocket::bind(("0.0.0.0", port)).expect("a socket"));
    node.setup.port = port;
    world.agree();
    let status = world.status();
    assert_eq!(
        (&status[0].key, status[0].first_port()),
        (&before[0].key, PORT)
    );
    drop(taken);
    world.agree();
    let status = world.nodes[0].ask(&Request::Status);
    assert_ne!(status.key, before[0].key);
    assert_eq!(status.first_port(), port);
}

#[test]
#[ignore = "`cargo xtask vm-test root_backends` runs it: it needs the kernel module wireguard"]
fn what_was_left_half_made_is_replaced_and_what_is_somebody_elses_stays() {
    let mut world = World::new([Auto, Auto]);
    let [node, _] = &mut world.nodes;
    node.ip("link add mesh-wg0 type wireguard");
    assert_eq!(node.ask(&Request::Status).user_space, None);
    node.enter(|| node.end().expect("to end it"));
    node.ip("link add mesh-wg0 type wireguard");
    node.ip("link set mesh-wg0 up");
    assert!(node.ask(&Request::Status).user_space.is_some());
    node.enter(|| node.end().expect("to end it"));
    node.setup.backend = User;
    assert!(node.ask(&Request::Status).user_space.is_some());
    node.ip("link show mesh-wg0");
}

#[test]
#[ignore = "`cargo xtask vm-test root_backends` runs it: it needs the kernel module wireguard"]
fn a_node_whose_ports_are_not_free_encrypts_in_user_space() {
    let mut world = World::new([Auto, Auto]);
    let [node, _] = &mut world.nodes;
    let taken = node.enter(|| UdpSocket::bind((node.setup.address, PORT + 1)).expect("a socket"));
    let why = node.ask(&Request::Status).user_space;
    let why = why.expect("not the kernel");
    assert!(why.contains("51821"), "{why}");
    node.enter(|| node.end().expect("to end it"));
    drop(taken);
    node.setup.used = published(PORT + 1);
    let why = node.ask(&Request::Status).user_space;
    assert_eq!(why.as_deref(), Some("it is published"));
    node.enter(|| node.end().expect("to end it"));
    node.setup.used.clear();
    assert_eq!(node.ask(&Request::Status).user_space, None);
}
