//! When keys change, with statuses and other nodes as they could be.

use super::*;
use crate::PROTOCOL;

/// All that is known of the others has been known for long.
const LONG: Duration = Duration::from_secs(1 << 30);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A pace with nothing to wait for.
fn pace() -> Pace {
    Pace {
        period: secs(100),
        least: Duration::ZERO,
        delay: Duration::ZERO,
    }
}

fn status(key_age_s: u64, rotating: bool, peers: &[PeerStatus]) -> Status {
    Status {
        protocol: PROTOCOL,
        address: Ipv4Addr::LOCALHOST.into(),
        port: 1,
        next_port: 1,
        ifindex: 1,
        former: None,
        former_key: String::new(),
        epoch: 5,
        user_space: None,
        key: String::new(),
        key_age_s,
        rotating,
        refused: 0,
        peers: peers.to_vec(),
    }
}

fn node(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, last)
}

fn key(last: u8, epoch: u64) -> String {
    format!("{last} of epoch {epoch}")
}

fn peer(last: u8, handshake_s: Option<u64>) -> PeerStatus {
    PeerStatus {
        address: node(last),
        key: key(last, 5),
        former_key: String::new(),
        proved: true,
        ifindex: 1,
        handshake_s,
        sent: 0,
        received: 0,
    }
}

/// Nodes 1, 2 and so on have keys of these epochs. They do not say what they had before.
fn told(epochs: &[u64]) -> BTreeMap<Ipv4Addr, Peer> {
    let peers = (1..).zip(epochs).map(|(last, epoch)| {
        let peer = Peer {
            key: key(last, *epoch),
            port: 1,
            epoch: Some(*epoch),
            former_key: String::new(),
        };
        (node(last), peer)
    });
    peers.collect()
}

/// The same, where all have the key of the epoch before as well.
fn told_both(epochs: &[u64]) -> BTreeMap<Ipv4Addr, Peer> {
    let mut told = told(epochs);
    for (last, peer) in (1..).zip(told.values_mut()) {
        let before = peer.epoch.and_then(|epoch| epoch.checked_sub(1));
        peer.former_key = before.map_or_else(String::new, |before| key(last, before));
    }
    told
}

#[test]
fn one_change_of_keys_waits_for_the_other() {
    let peer = peer(1, None);
    let due = |status: Status| status.is_rotation_due(&pace());
    assert!(!due(status(99, false, &[])));
    assert!(due(status(100, false, &[])));
    assert!(!due(status(100, true, std::slice::from_ref(&peer))));
    assert!(due(status(200, true, std::slice::from_ref(&peer))));
    // Nobody has heard of the last one: there is no manager to tell it.
    let deaf = PeerStatus {
        proved: false,
        ..peer
    };
    assert!(!due(status(1000, true, std::slice::from_ref(&deaf))));
}

#[test]
fn who_is_ahead_is_followed_in_time() {
    let met = [1, 2, 3].map(|last| peer(last, Some(179)));
    let next = |key_age_s, rotating, epochs: &[u64]| {
        let status = status(key_age_s, rotating, &met);
        status.next_epoch(&pace(), &told(epochs), LONG)
    };
    // Nobody is.
    assert_eq!(next(99, false, &[]), None);
    assert_eq!(next(100, false, &[]), Some(6));
    assert_eq!(next(99, false, &[4, 5]), None);
    // By one, and the key before is not needed any more.
    assert_eq!(next(0, false, &[6]), Some(6));
    assert_eq!(next(0, false, &[4, 6]), Some(6));
    // It is: a node that is down keeps its way for two periods.
    for age in [0, 100, 199] {
        assert_eq!(next(age, true, &[6, 6, 4]), None, "{age}");
    }
    assert_eq!(next(200, true, &[6, 6, 4]), Some(6));
    // Others wait, and the key that they have stays.
    assert_eq!(next(0, false, &[6, 5]), Some(6));
    // By more: they have no key in common with this node.
    assert_eq!(next(0, true, &[9, 9, 5]), Some(9));
    assert_eq!(next(0, true, &[9, 8]), Some(9));
}

#[test]
fn each_node_changes_at_a_time_of_its_own() {
    let pace = Pace {
        delay: secs(10),
        ..pace()
    };
    let idle = [1, 2].map(|last| peer(last, Some(1000)));
    let next = |key_age_s, rotating, epochs: &[u64], ahead_for| {
        let status = status(key_age_s, rotating, &idle);
        status.next_epoch(&pace, &told_both(epochs), secs(ahead_for))
    };
    // By itself, and after others.
    assert_eq!(next(109, false, &[5, 5], 1000), None);
    assert_eq!(next(110, false, &[5, 5], 1000), Some(6));
    assert_eq!(next(100, false, &[6, 6], 9), None);
    assert_eq!(next(100, false, &[6, 6], 10), Some(6));
    // What others do does not put it off.
    assert_eq!(next(110, false, &[6, 6], 0), Some(6));
    // Both hold after two periods as well, where a node is down.
    assert_eq!(next(209, true, &[6, 6, 4], 9), None);
    assert_eq!(next(200, true, &[6, 6, 4], 10), Some(6));
    assert_eq!(next(210, true, &[6, 6, 4], 0), Some(6));
    assert_eq!(next(209, true, &[5, 5], 1000), None);
    assert_eq!(next(210, true, &[5, 5], 1000), Some(6));
    // Who is ahead by more has no key in common with this node.
    assert_eq!(next(0, false, &[7, 7], 0), Some(7));
}

#[test]
fn nobody_drives_the_others() {
    let pace = Pace {
        least: secs(25),
        ..pace()
    };
    let next = |key_age_s, told: &BTreeMap<Ipv4Addr, Peer>| {
        let status = status(
            key_age_s,
            false,
            &[peer(1, Some(1000)), peer(2, Some(1000))],
        );
        status.next_epoch(&pace, told, LONG)
    };
    for told in [told_both(&[6, 6]), told_both(&[6, 5]), told(&[6, 5])] {
        assert_eq!(next(24, &told), None, "{told:?}");
        assert_eq!(next(25, &told), Some(6), "{told:?}");
    }
}

#[test]
fn nodes_of_a_mesh_spread_over_a_part_of_the_period() {
    let period = secs(12 * 3600);
    let of = |number: u16| {
        let [a, b] = number.to_be_bytes();
        Pace::of(period, Ipv4Addr::new(10, 0, a, b))
    };
    let mut tenths = [0; 10];
    let part = period / SPREAD;
    for number in 0..1000 {
        let pace = of(number);
        assert_eq!(pace, of(number));
        assert_eq!((pace.period, pace.least), (period, secs(3 * 3600)));
        assert!(pace.delay < part, "{pace:?}");
        tenths[(pace.delay.as_secs() * 10 / part.as_secs()) as usize] += 1;
    }
    // A tenth of the nodes in each tenth of the time, more or less.
    let is_even = tenths.iter().all(|count| (50..200).contains(count));
    assert!(is_even, "{tenths:?}");
}

#[test]
fn who_came_anew_is_not_waited_for() {
    let pace = Pace {
        least: secs(25),
        delay: secs(10),
        ..pace()
    };
    let next = |user_space: bool, peers: &[PeerStatus], told: &BTreeMap<Ipv4Addr, Peer>| {
        let status = Status {
            user_space: user_space.then(String::new),
            ..status(0, true, peers)
        };
        status.next_epoch(&pace, told, Duration::ZERO)
    };
    let (met, idle) = (peer(1, Some(179)), peer(2, Some(180)));
    let both = [met.clone(), idle.clone()];
    // A node that is not known here, and one whose session was with the key that it had.
    for told in [told(&[6, 6]), told_both(&[6, 6])] {
        assert_eq!(next(false, std::slice::from_ref(&met), &told), Some(6));
    }
    assert_eq!(next(false, &both, &told(&[6, 6])), Some(6));
    // It has another key before than the one that is known here, or the same.
    let mut other = told_both(&[6, 6]);
    assert_eq!(next(false, &both, &other), None);
    other.insert(
        node(2),
        Peer {
            former_key: key(2, 4),
            ..other[&node(2)].clone()
        },
    );
    assert_eq!(next(false, &both, &other), Some(6));
    // In user space that is a node with which nothing is said, and whose key before is not known either.
    assert_eq!(next(true, &both, &told(&[6, 6])), None);
    let unproved = |former_key: String| PeerStatus {
        key: key(2, 6),
        former_key,
        proved: false,
        ..idle.clone()
    };
    for (former_key, epoch) in [(key(2, 5), None), (String::new(), Some(6))] {
        let peers = [met.clone(), unproved(former_key)];
        assert_eq!(next(true, &peers, &told_both(&[6, 6])), epoch, "{peers:?}");
    }
    // One alone is where it is by itself.
    assert_eq!(next(false, &[idle], &told(&[5, 6, 4])), None);
}

#[test]
fn nobody_is_two_epochs_ahead_by_itself() {
    let next = |epochs: &[u64]| {
        let status = status(1000, false, &[]);
        status.next_epoch(&pace(), &told(epochs), LONG)
    };
    assert_eq!(next(&[5, 4]), Some(6));
    assert_eq!(next(&[4, 4]), None);
}

#[test]
fn one_node_alone_does_not_lead_the_others_astray() {
    let next = |epochs: &[u64]| {
        let status = status(0, false, &[]);
        status.next_epoch(&pace(), &told(epochs), LONG)
    };
    assert_eq!(next(&[u64::MAX]), None);
    assert_eq!(next(&[7, 5, 5]), None);
    assert_eq!(next(&[u64::MAX, 6]), Some(6));
    let last = Status {
        epoch: u64::MAX,
        ..status(1000, false, &[])
    };
    assert_eq!(last.next_epoch(&pace(), &told(&[]), LONG), None);
    assert!(last.is_astray(&told(&[5, 4])));
    // What it sends arrives, or would not.
    let (met, idle) = (peer(1, Some(179)), peer(2, Some(180)));
    assert!(!status(0, false, &[met, idle.clone()]).is_astray(&told(&[3, 3])));
    // By one, it has the key before, or has agreed upon this one. Or neither.
    let unproved = PeerStatus {
        proved: false,
        ..idle.clone()
    };
    for (rotating, peer, is_astray) in [
        (true, &unproved, false),
        (false, &idle, false),
        (false, &unproved, true),
    ] {
        let status = status(0, rotating, std::slice::from_ref(peer));
        assert_eq!(status.is_astray(&told(&[4, 4])), is_astray, "{status:?}");
    }
    let status = status(0, false, &[idle]);
    let cases: [(&[u64], bool); 4] = [
        (&[], false),
        (&[3, 3], true),
        (&[3, 4], false),
        (&[9], false),
    ];
    for (epochs, is_astray) in cases {
        assert_eq!(status.is_astray(&told(epochs)), is_astray, "{epochs:?}");
    }
}

#[test]
fn a_first_key_is_one_that_all_can_use() {
    let cases: [(&[u64], u64); 7] = [
        (&[], 0),
        (&[0, 0], 0),
        (&[7], 7),
        (&[7, 7], 7),
        (&[7, 8, 8], 8),
        (&[5, 8, 8], 8),
        (&[7, 7, u64::MAX], 7),
    ];
    for (epochs, epoch) in cases {
        assert_eq!(first_epoch(&told(epochs)), epoch, "{epochs:?}");
    }
}
