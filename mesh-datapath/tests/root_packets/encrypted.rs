//! An encrypted network: packets leave by the device that encrypts and are taken from no other, and only from it.

use mesh_common::{DropReason, Place, Verdict};
use mesh_datapath::{FormerCipher, Link};

use crate::{
    common::INGRESS,
    compare::moved_outcomes,
    frames::{Frame, node, syn, task, udp, vxlan},
    world::{
        CLIENT, ELSEWHERE, FAR, NEAR, NODE, OVER, PEER, SIDE, SIDE_GATE, SIDE_OVER, Side, UP, VNI,
        World,
    },
};

/// Has the key before, as well.
const FORMER: u32 = SIDE_OVER;

/// Encrypts the overlay network, or no longer; `device` is the one that does it.
fn encrypt(world: &mut World, encrypted: bool, device: Option<u32>) {
    encrypt_by(world, encrypted, device, None);
}

/// Likewise, `former` being the one that did it before.
fn encrypt_by(
    world: &mut World,
    encrypted: bool,
    device: Option<u32>,
    former: Option<FormerCipher>,
) {
    world.change(|desired| {
        desired.cipher = device;
        desired.former_cipher = former;
        let on_it = desired
            .endpoints
            .iter_mut()
            .filter(|((vni, _), _)| *vni == VNI);
        on_it.for_each(|(_, endpoint)| endpoint.encrypted = encrypted);
        for link in desired.links.values_mut() {
            if let Link::Overlay { encrypted: e, .. } = link {
                *e = encrypted;
            }
        }
    });
}

/// A packet of `FAR` to `NEAR` in a tunnel.
fn from_far(frame: Frame) -> Frame {
    vxlan(PEER, NODE, VNI, frame.macs(task(NEAR), task(FAR)))
}

/// What becomes of a packet.
fn outcome(
    world: &mut World,
    program: &'static str,
    frame: Frame,
    interface: u32,
) -> Vec<(&'static str, &'static str)> {
    let before = world.snapshot();
    world
        .run(program, &frame.bytes(), interface)
        .expect("a verdict");
    moved_outcomes(&before, &world.snapshot())
}

#[test]
fn what_is_encrypted_and_what_is_not_do_not_mix() {
    let mut world = World::new(Side::Node);
    let out = || syn((NEAR, 9), (FAR, 80)).macs(task(FAR), task(NEAR));
    let local = || syn((NEAR, 9), (SIDE, 80)).macs(task(SIDE), task(NEAR));
    let overlay = || from_far(udp((FAR, 9), (NEAR, 80)));
    let ingress = || {
        let asked = syn((CLIENT, 9), (PEER, 81)).macs(task(SIDE_GATE), node(PEER));
        vxlan(PEER, NODE, INGRESS, asked)
    };
    let unencrypted = DropReason::Unencrypted.name();
    let (forwarded, delivered) = (Verdict::Forwarded.name(), Verdict::Delivered.name());
    let device = ELSEWHERE;
    let cases = [
        (
            "plain: out",
            false,
            None,
            "overlay_tc",
            out(),
            OVER,
            forwarded,
        ),
        (
            "plain: in",
            false,
            None,
            "uplink_tc",
            overlay(),
            UP,
            delivered,
        ),
        (
            "plain: from the device",
            false,
            Some(device),
            "uplink_tc",
            overlay(),
            device,
            unencrypted,
        ),
        (
            "published: from the device",
            false,
            Some(device),
            "uplink_tc",
            ingress(),
            device,
            unencrypted,
        ),
        (
            "published: in",
            true,
            Some(device),
            "uplink_tc",
            ingress(),
            UP,
            delivered,
        ),
        (
            "encrypted: out, without the device",
            true,
            None,
            "overlay_tc",
            out(),
            OVER,
            unencrypted,
        ),
        (
            "encrypted: out",
            true,
            Some(device),
            "overlay_tc",
            out(),
            OVER,
            forwarded,
        ),
        (
            "encrypted: to a task here",
            true,
            None,
            "overlay_tc",
            local(),
            OVER,
            delivered,
        ),
        (
            "encrypted: in, not by the device",
            true,
            Some(device),
            "uplink_tc",
            overlay(),
            UP,
            unencrypted,
        ),
        (
            "encrypted: in, without the device",
            true,
            None,
            "uplink_tc",
            overlay(),
            UP,
            unencrypted,
        ),
        (
            "encrypted: in",
            true,
            Some(device),
            "uplink_tc",
            overlay(),
            device,
            delivered,
        ),
    ];
    for (name, encrypted, device, program, frame, interface, wanted) in cases {
        encrypt(&mut world, encrypted, device);
        let place = if program == "uplink_tc" {
            Place::UplinkTc
        } else {
            Place::Overlay
        };
        let found = outcome(&mut world, program, frame, interface);
        assert_eq!(found, [(place.name(), wanted)], "{name}");
    }
}

#[test]
fn both_devices_receive_as_long_as_there_are_two() {
    let mut world = World::new(Side::Node);
    encrypt(&mut world, true, Some(ELSEWHERE));
    let overlay = || from_far(udp((FAR, 9), (NEAR, 80)));
    let out = || syn((NEAR, 9), (FAR, 80)).macs(task(FAR), task(NEAR));
    let unencrypted = [(Place::UplinkTc.name(), DropReason::Unencrypted.name())];
    let delivered = [(Place::UplinkTc.name(), Verdict::Delivered.name())];
    let forwarded = [(Place::Overlay.name(), Verdict::Forwarded.name())];
    assert_eq!(
        outcome(&mut world, "uplink_tc", overlay(), FORMER),
        unencrypted
    );
    for peers in [vec![], vec![PEER.into()]] {
        let former = FormerCipher {
            device: FORMER,
            peers: peers.into_iter().collect(),
        };
        encrypt_by(&mut world, true, Some(ELSEWHERE), Some(former));
        for device in [ELSEWHERE, FORMER] {
            assert_eq!(
                outcome(&mut world, "uplink_tc", overlay(), device),
                delivered
            );
        }
        assert_eq!(outcome(&mut world, "overlay_tc", out(), OVER), forwarded);
    }
}

#[test]
fn what_may_not_enter_leaves_no_ports_for_the_rest_of_a_packet() {
    let mut world = World::new(Side::Node);
    encrypt(&mut world, true, Some(ELSEWHERE));
    let first = || from_far(udp((FAR, 9), (NEAR, 80)).fragment(0, true));
    for (interface, wanted, noted) in [
        (UP, DropReason::Unencrypted.name(), 0),
        (ELSEWHERE, Verdict::Delivered.name(), 1),
    ] {
        let found = outcome(&mut world, "uplink_tc", first(), interface);
        assert_eq!(found, [(Place::UplinkTc.name(), wanted)]);
        assert_eq!(world.memory().fragments.len(), noted, "{wanted}");
    }
}
