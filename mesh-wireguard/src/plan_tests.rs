//! Devices as the kernel could have them.

use super::*;

fn key(number: u8) -> PublicKey {
    PublicKey([number; 32])
}

fn node(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, last)
}

fn peer(last: u8, number: u8, port: u16, handshake_s: Option<u64>) -> DevicePeer {
    DevicePeer {
        key: key(number),
        address: Some(node(last)),
        endpoint: Some((node(last), port).into()),
        keepalive_s: if handshake_s.is_some() {
            0
        } else {
            KEEPALIVE_S
        },
        handshake: handshake_s.map(Duration::from_secs),
        sent: 10,
        received: 1,
    }
}

fn device(epoch: u64, peers: Vec<DevicePeer>) -> Device {
    Device {
        index: 100 + epoch as u32,
        epoch,
        made_s: 1000,
        mtu: 1440,
        is_up: true,
        key: key(epoch as u8),
        port: port(7, epoch),
        refused: 1,
        peers,
    }
}

/// Which key another node tells: its address, the key, its port and its epoch.
fn told(all: &[(u8, u8, u16, Option<u64>)]) -> BTreeMap<Ipv4Addr, (PublicKey, Peer)> {
    let all = all.iter().map(|(last, number, port, epoch)| {
        let peer = Peer {
            key: key(*number).to_string(),
            port: *port,
            epoch: *epoch,
        };
        (node(*last), (key(*number), peer))
    });
    all.collect()
}

fn set(last: u8, number: u8, port: u16, keepalive_s: u16) -> Change {
    Change::Set {
        key: key(number),
        address: node(last),
        endpoint: (node(last), port).into(),
        keepalive_s,
    }
}

#[test]
fn a_node_gets_the_device_of_its_key() {
    let (older, newest) = (device(4, vec![]), device(5, vec![]));
    let wanted = told(&[(2, 22, 7, Some(4)), (3, 33, 8, Some(5)), (4, 44, 9, None)]);
    let without_epochs = set(4, 44, 9, KEEPALIVE_S);
    assert_eq!(
        changes(&older, false, &wanted),
        [set(2, 22, 7, KEEPALIVE_S), without_epochs.clone()]
    );
    assert_eq!(
        changes(&newest, true, &wanted),
        [set(3, 33, 8, KEEPALIVE_S), without_epochs]
    );
}

#[test]
fn what_is_as_it_should_be_is_left_alone() {
    let peers = vec![peer(2, 22, 7, Some(5)), peer(3, 33, 8, None)];
    let told = told(&[(2, 22, 7, Some(4)), (3, 33, 8, Some(4))]);
    assert_eq!(changes(&device(4, peers), true, &told), []);
}

#[test]
fn who_has_answered_is_asked_no_more() {
    let mut answered = peer(2, 22, 7, Some(0));
    answered.keepalive_s = KEEPALIVE_S;
    let told = told(&[(2, 22, 7, Some(4))]);
    assert_eq!(
        changes(&device(4, vec![answered]), true, &told),
        [set(2, 22, 7, 0)]
    );
}

#[test]
fn the_key_before_stays_where_it_is() {
    let older = device(4, vec![peer(2, 22, 7, Some(5)), peer(4, 44, 9, Some(5))]);
    // Node 2 has moved on, and node 4, without epochs, has another key.
    let wanted = told(&[(2, 23, 8, Some(5)), (4, 45, 9, None)]);
    assert_eq!(changes(&older, false, &wanted), []);
    assert_eq!(
        changes(&older, true, &wanted),
        [Change::Remove(key(44)), set(4, 45, 9, KEEPALIVE_S)]
    );
}

#[test]
fn a_node_that_is_gone_or_began_anew_loses_its_key() {
    let found = device(4, vec![peer(2, 22, 7, Some(5)), peer(3, 33, 7, Some(5))]);
    let wanted = told(&[(2, 29, 7, Some(4))]);
    assert_eq!(
        changes(&found, true, &wanted),
        [
            Change::Remove(key(22)),
            Change::Remove(key(33)),
            set(2, 29, 7, KEEPALIVE_S)
        ]
    );
    // It fell behind: its key is no longer of this epoch.
    let behind = told(&[(2, 21, 7, Some(3)), (3, 33, 7, Some(4))]);
    assert_eq!(changes(&found, true, &behind), [Change::Remove(key(22))]);
}

#[test]
fn a_key_of_two_nodes_stays_with_who_has_it_or_is_neithers() {
    let twice = told(&[(2, 22, 7, Some(4)), (3, 22, 9, Some(4))]);
    assert_eq!(changes(&device(4, vec![]), true, &twice), []);
    for holder in [2, 3] {
        let port = if holder == 2 { 7 } else { 9 };
        let found = device(4, vec![peer(holder, 22, port, Some(5))]);
        assert_eq!(changes(&found, true, &twice), [], "{holder}");
    }
    // It had another one, and takes that of who tells a newer one meanwhile.
    let found = device(4, vec![peer(2, 22, 7, Some(5)), peer(3, 33, 9, Some(5))]);
    let stolen = told(&[(2, 23, 8, Some(5)), (3, 22, 9, Some(4))]);
    assert_eq!(changes(&found, false, &stolen), [Change::Remove(key(33))]);
    // A node that is gone keeps none: this one has another address now.
    let moved = told(&[(3, 22, 9, Some(4))]);
    let found = device(4, vec![peer(2, 22, 7, Some(5))]);
    assert_eq!(changes(&found, true, &moved), [set(3, 22, 9, KEEPALIVE_S)]);
}

#[test]
fn an_endpoint_that_moved_is_put_back() {
    let told = told(&[(2, 22, 9, Some(4))]);
    let found = device(4, vec![peer(2, 22, 7, Some(5))]);
    assert_eq!(changes(&found, true, &told), [set(2, 22, 9, 0)]);
}

#[test]
fn the_older_device_goes_when_no_session_is_left() {
    let told = [node(2), node(3)];
    let is_over = |new: [Option<u64>; 2], old: [Option<u64>; 2]| {
        let device = |epoch, [two, three]: [Option<u64>; 2]| {
            device(epoch, vec![peer(2, 2, 7, two), peer(3, 3, 7, three)])
        };
        is_over(&device(5, new), &device(4, old), told.iter())
    };
    assert!(is_over([Some(1), Some(1)], [Some(180), None]));
    assert!(!is_over([Some(1), Some(1)], [Some(179), None]));
    assert!(!is_over([Some(1), None], [Some(1000), Some(1000)]));
    // One has not moved at all.
    let newest = device(5, vec![peer(2, 2, 7, Some(1))]);
    assert!(!super::is_over(&newest, &device(4, vec![]), told.iter()));
}

#[test]
fn a_node_is_sent_to_by_the_newest_device_that_it_has_answered_by() {
    let both = |new: Vec<DevicePeer>, old: Vec<DevicePeer>| {
        let devices = [device(5, new), device(4, old)];
        let status = status(&devices, node(1), 1030).expect("devices");
        let peers = status.peers.into_iter();
        let told = peers.map(|peer| (peer.ifindex, peer.proved, peer.sent));
        told.collect::<Vec<_>>()
    };
    let (new, old) = (|s| peer(2, 25, 8, s), |s| peer(2, 24, 7, s));
    assert_eq!(
        both(vec![new(Some(1))], vec![old(Some(1))]),
        [(105, true, 20)]
    );
    assert_eq!(
        both(vec![new(None)], vec![old(Some(1))]),
        [(104, false, 20)]
    );
    assert_eq!(both(vec![], vec![old(Some(1))]), [(104, false, 10)]);
    assert_eq!(both(vec![], vec![old(None)]), [(104, false, 10)]);
    // It has answered by none: it may have begun anew.
    assert_eq!(both(vec![new(None)], vec![old(None)]), [(105, false, 20)]);
}

#[test]
fn ports_take_turns() {
    for (epoch, present, next) in [(4, 7, 8), (5, 8, 7)] {
        let told = status(&[device(epoch, vec![])], node(1), 1030).expect("a device");
        assert_eq!(
            (told.port, told.next_port, told.key_age_s),
            (present, next, 30)
        );
        assert_eq!((told.former, told.rotating), (None, false));
    }
    let told = status(&[device(5, vec![]), device(4, vec![])], node(1), 1030).expect("devices");
    assert_eq!(
        (told.ifindex, told.former, told.refused),
        (105, Some(104), 2)
    );
}
