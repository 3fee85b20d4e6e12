//! Random and mutated packets: always a verdict, never a complaint of the kernel, and what passes is unchanged to
//! the byte. The same number of packets and the same seed make the same run; see `cargo xtask fuzz --help`.

use std::{env, net::Ipv4Addr, time::Instant};

use mesh_common::Place;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};

use crate::{
    compare::same_bytes,
    errors, fragments, gateway_tc, loopback_tc, overlay_tc, overlay_vips,
    row::{Row, actions, program},
    sizes, uplink_tc, uplink_tunnels, uplink_xdp, v6,
    world::*,
};

/// Packets per program unless `MESH_FUZZ_PACKETS` says otherwise.
const PACKETS: u64 = 100_000;
/// The seed unless `MESH_FUZZ_SEED` says otherwise.
const SEED: u64 = 1;
/// Shortest frame that the kernel tries a program on, and shortest IPv4 one that it tries a tc program on.
const ETHERNET: usize = 14;
const WITH_IPV4: usize = 34;
/// Shortest IPv6 one.
const WITH_IPV6: usize = 54;
/// Longest frame.
const LONGEST: usize = 1600;

/// Bytes on which parsers like to stumble.
const ODD: [u8; 12] = [0, 1, 6, 17, 0x0f, 0x40, 0x44, 0x46, 0x4f, 0x7f, 0x80, 0xff];
/// Addresses that the tables know, so that mutations meet them.
const KNOWN: [Ipv4Addr; 14] = [
    NODE, PEER, NOBODY, CLIENT, FAR, NEAR, SIDE, FAR_GATE, NEAR_GATE, SIDE_GATE, FAR_VIP, OWN_VIP,
    EMPTY_VIP, MOVED_VIP,
];

/// Makes packets out of the tables'.
struct Source {
    random: SmallRng,
    rows: Vec<Row>,
}

impl Source {
    /// The next packet, and the interface that it comes in by.
    fn next(&mut self) -> (Vec<u8>, u32) {
        let Self { random, rows } = self;
        let row = rows.choose(random).expect("rows");
        let other = &rows.choose(random).expect("rows").packet.bytes();
        let mut packet = row.packet.bytes();
        if random.random_ratio(1, 16) {
            packet.truncate(ETHERNET);
            let length = random.random_range(0..256);
            packet.extend((0..length).map(|_| random.random::<u8>()));
        }
        for _ in 0..random.random_range(1..=3) {
            mutate(&mut packet, other, random);
        }
        (packet, row.interface)
    }
}

fn mutate(packet: &mut Vec<u8>, other: &[u8], random: &mut SmallRng) {
    let at = random.random_range(0..packet.len());
    // Most of what matters is in the first headers.
    let early = random.random_range(0..packet.len().min(128));
    match random.random_range(0..9) {
        0 => packet[early] ^= 1 << random.random_range(0..8),
        1 => packet[early] = random.random(),
        2 => packet[early] = *ODD.choose(random).expect("some"),
        3 => packet[at] ^= 1 << random.random_range(0..8),
        4 => packet.truncate(at.max(ETHERNET)),
        5 => {
            let length = random.random_range(0..64.min(LONGEST - packet.len().min(LONGEST - 1)));
            packet.extend((0..length).map(|_| random.random::<u8>()));
        }
        6 => {
            // The end of another.
            packet.truncate(at.max(ETHERNET));
            packet.extend(other.iter().skip(at));
        }
        7 => {
            // A few bytes of another.
            let end = (early + random.random_range(1..8))
                .min(packet.len())
                .min(other.len());
            if early < end {
                packet[early..end].copy_from_slice(&other[early..end]);
            }
        }
        _ => {
            let known = KNOWN.choose(random).expect("some").octets();
            if let Some(place) = packet.get_mut(early..early + 4) {
                place.copy_from_slice(&known);
            }
        }
    }
}

/// As long as the kernel wants it.
fn lengthen(packet: &mut Vec<u8>, place: Place) {
    let least = match packet.get(12..14) {
        Some([8, 0]) if place != Place::UplinkXdp => WITH_IPV4,
        Some([0x86, 0xdd]) if place != Place::UplinkXdp => WITH_IPV6,
        _ => ETHERNET,
    };
    if packet.len() < least {
        packet.resize(least, 0);
    }
    packet.truncate(LONGEST);
}

fn number(name: &str, default: u64) -> u64 {
    match env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}: `{text}` is no number")),
        Err(_) => default,
    }
}

/// What the kernel has noted of its own troubles: a warning sets a bit.
fn taint() -> String {
    std::fs::read_to_string("/proc/sys/kernel/tainted").expect("a mounted /proc")
}

fn counted(world: &World, place: Place) -> u64 {
    let snapshot = world.snapshot();
    let lines = snapshot.verdicts.iter().chain(&snapshot.drops);
    let here = lines.filter(|line| line.place == place.name());
    here.map(|line| line.packets).sum()
}

fn fuzz(place: Place, mut rows: Vec<Row>) {
    let (packets, seed) = (
        number("MESH_FUZZ_PACKETS", PACKETS),
        number("MESH_FUZZ_SEED", SEED),
    );
    // Mutations cut as well; whole packets get further.
    rows.extend(v6::rows(place));
    rows.extend(fragments::all(place).concat());
    if !matches!(place, Place::Tunnel | Place::Loopback) {
        rows.extend(sizes::all(place).concat());
    }
    rows.retain(|row| !row.name.ends_with("bytes of it"));
    let mut world = World::new(Side::Node);
    let mut source = Source {
        random: SmallRng::seed_from_u64(seed),
        rows,
    };
    let (before, taint_before, began) = (counted(&world, place), taint(), Instant::now());
    let allowed @ [pass, ..] = actions(place);
    let name = program(place);
    let mut passed = 0_u64;
    world.inside(|datapath| {
        for number in 0..packets {
            let (mut packet, interface) = source.next();
            lengthen(&mut packet, place);
            let result = datapath
                .trial(name, &packet, interface)
                .map_err(|e| crate::common::chain(&e))
                .and_then(|trial| {
                    if !allowed.contains(&trial.action) {
                        return Err(format!("action {:#x}", trial.action));
                    }
                    if trial.action != pass {
                        return Ok(());
                    }
                    passed += 1;
                    same_bytes(&trial.packet, &packet)
                });
            if let Err(why) = result {
                let again = number + 1;
                panic!(
                    "{name}, packet {number} by interface {interface}: {why}\n{packet:02x?}\n\
                     again: cargo xtask fuzz {name} --packets {again} --seed {seed}"
                );
            }
        }
    });
    let seconds = began.elapsed().as_secs();
    println!("{name}: {packets} packets, {passed} passed unchanged, {seconds} s (seed {seed})");
    assert_eq!(counted(&world, place) - before, packets, "one verdict each");
    assert_eq!(
        taint(),
        taint_before,
        "the kernel has warned of something: see dmesg"
    );
}

#[test]
fn fuzz_uplink_xdp() {
    fuzz(Place::UplinkXdp, uplink_xdp::rows());
}

#[test]
fn fuzz_uplink_tc() {
    let rows = uplink_tc::rows().into_iter();
    fuzz(
        Place::UplinkTc,
        rows.chain(uplink_tunnels::rows())
            .chain(errors::rows(Place::UplinkTc))
            .collect(),
    );
}

#[test]
fn fuzz_tunnel_tc() {
    fuzz(Place::Tunnel, uplink_xdp::rows());
}

#[test]
fn fuzz_overlay_tc() {
    let rows = overlay_tc::rows().into_iter();
    fuzz(
        Place::Overlay,
        rows.chain(overlay_vips::rows())
            .chain(errors::rows(Place::Overlay))
            .collect(),
    );
}

#[test]
fn fuzz_gateway_tc() {
    let rows = gateway_tc::rows().into_iter();
    fuzz(
        Place::Gateway,
        rows.chain(errors::rows(Place::Gateway)).collect(),
    );
}

#[test]
fn fuzz_loopback_tc() {
    fuzz(Place::Loopback, loopback_tc::rows());
}
