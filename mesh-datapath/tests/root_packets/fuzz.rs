//! Random and mutated packets: always a verdict, never a complaint of the kernel, and what passes is unchanged to
//! the byte. The same number of packets and the same seed make the same run; see `cargo xtask fuzz --help`.

use std::{env, net::Ipv4Addr, time::Instant};

use mesh_common::Place;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};

use crate::{
    compare::same_bytes,
    errors, fragments, gateway_tc, loopback_tc, overlay_tc, overlay_vips,
    row::{Row, actions},
    sizes, uplink_tc, uplink_tunnels, uplink_xdp, v6,
    world::*,
};

/// Packets per program unless `MESH_FUZZ_PACKETS` says otherwise.
const PACKETS: u64 = 20_000;
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
    /// What comes in by which interface.
    packets: Vec<(Vec<u8>, u32)>,
}

impl Source {
    /// The next packet, and the interface that it comes in by.
    fn next(&mut self) -> (Vec<u8>, u32) {
        let Self { random, packets } = self;
        let (packet, interface) = packets.choose(random).expect("rows");
        let (other, _) = packets.choose(random).expect("rows");
        let mut packet = packet.clone();
        if random.random_ratio(1, 16) {
            packet.truncate(ETHERNET);
            let length = random.random_range(0..256);
            packet.extend((0..length).map(|_| random.random::<u8>()));
        }
        for _ in 0..random.random_range(1..=3) {
            mutate(&mut packet, other, random);
        }
        (packet, *interface)
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

/// Verdicts counted so far. Programs for what is rare count where the packet came in.
fn counted(world: &World) -> u64 {
    let snapshot = world.snapshot();
    let lines = snapshot.verdicts.iter().chain(&snapshot.drops);
    lines.map(|line| line.packets).sum()
}

/// The rows of a place's own tables, in IPv4.
fn rows_v4(place: Place) -> Vec<Row> {
    match place {
        Place::UplinkXdp | Place::Tunnel => uplink_xdp::rows(),
        Place::UplinkTc => [
            uplink_tc::rows(),
            uplink_tunnels::rows(),
            errors::rows(place),
        ]
        .concat(),
        Place::Overlay => [
            overlay_tc::rows(),
            overlay_vips::rows(),
            errors::rows(place),
        ]
        .concat(),
        Place::Gateway => [gateway_tc::rows(), errors::rows(place)].concat(),
        Place::Loopback => loopback_tc::rows(),
    }
}

/// The packets of the tables of a place.
fn packets_of(place: Place, families: Families) -> Vec<(Vec<u8>, u32)> {
    let sizes = match place {
        Place::Tunnel | Place::Loopback => [Vec::new(), Vec::new()],
        _ => sizes::all(place, errors::MTU),
    };
    let [fragments, fragments_v6] = fragments::all(place);
    let [sizes, sizes_v6] = sizes;
    let v4 = || [rows_v4(place), fragments, sizes].concat();
    let v6 = || [v6::rows(place), fragments_v6, sizes_v6].concat();
    let rows = match families {
        Families::Both => [v4(), v6()].concat(),
        Families::V4 => v4(),
        Families::V6 => v6(),
    };
    // Mutations cut as well; whole packets get further.
    let whole = rows.iter().filter(|row| !row.name.ends_with("bytes of it"));
    whole
        .map(|row| (row.packet.bytes(), row.interface))
        .collect()
}

/// Which packets a program is given before they are mutated.
#[derive(Clone, Copy)]
enum Families {
    /// What packets enter.
    Both,
    /// What goes on with packets of IPv4.
    V4,
    /// With packets of IPv6.
    V6,
}

fn fuzz(name: &'static str, place: Place, families: Families) {
    let (packets, seed) = (
        number("MESH_FUZZ_PACKETS", PACKETS),
        number("MESH_FUZZ_SEED", SEED),
    );
    let mut world = World::new(Side::Node);
    let mut source = Source {
        random: SmallRng::seed_from_u64(seed),
        packets: packets_of(place, families),
    };
    let (before, taint_before, began) = (counted(&world), taint(), Instant::now());
    let allowed @ [pass, ..] = actions(place);
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
    assert_eq!(counted(&world) - before, packets, "one verdict each");
    assert_eq!(
        taint(),
        taint_before,
        "the kernel has warned of something: see dmesg"
    );
}

macro_rules! fuzz {
    ($($test:ident: $program:literal $place:ident $families:ident,)*) => {$(
        #[test]
        fn $test() {
            fuzz($program, Place::$place, Families::$families);
        }
    )*};
}

// Each program on its own, also those that others go on in: these meet what the others would not have let through.
// Not here: `cipher_tc`, as the kernel tries programs on nothing without an Ethernet header, and tracing's, which
// answer what they are told to.
fuzz! {
    fuzz_uplink_xdp: "uplink_xdp" UplinkXdp Both,
    fuzz_uplink_xdp_v6: "uplink_xdp_v6" UplinkXdp V6,
    fuzz_uplink_tc: "uplink_tc" UplinkTc Both,
    fuzz_uplink_tc_v6: "uplink_tc_v6" UplinkTc V6,
    fuzz_uplink_error: "uplink_error" UplinkTc V4,
    fuzz_uplink_error_v6: "uplink_error_v6" UplinkTc V6,
    fuzz_tunnel_error: "tunnel_error" UplinkTc V4,
    fuzz_tunnel_error_v6: "tunnel_error_v6" UplinkTc V6,
    fuzz_tunnel_tc: "tunnel_tc" Tunnel Both,
    fuzz_tunnel_tc_v6: "tunnel_tc_v6" Tunnel V6,
    fuzz_probe_tc: "probe_tc" Tunnel Both,
    fuzz_overlay_tc: "overlay_tc" Overlay Both,
    fuzz_overlay_tc_v6: "overlay_tc_v6" Overlay V6,
    fuzz_overlay_error: "overlay_error" Overlay V4,
    fuzz_overlay_error_v6: "overlay_error_v6" Overlay V6,
    fuzz_too_big: "too_big" Overlay V4,
    fuzz_too_big_v6: "too_big_v6" Overlay V6,
    fuzz_refused: "refused" Overlay V4,
    fuzz_refused_v6: "refused_v6" Overlay V6,
    fuzz_gateway_tc: "gateway_tc" Gateway Both,
    fuzz_gateway_tc_v6: "gateway_tc_v6" Gateway V6,
    fuzz_gateway_error: "gateway_error" Gateway V4,
    fuzz_gateway_error_v6: "gateway_error_v6" Gateway V6,
    fuzz_loopback_tc: "loopback_tc" Loopback Both,
    fuzz_loopback_tc_v6: "loopback_tc_v6" Loopback V6,
}
