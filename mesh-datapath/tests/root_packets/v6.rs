//! The programs' twins for IPv6: the rows of IPv4, as far as both have such packets, and what only IPv6 has.

use etherparse::IpNumber;
use mesh_common::Place;

use crate::{
    errors,
    frames::Frame,
    gateway_tc, overlay_tc, overlay_vips,
    row::{Row, check_all},
    six::six,
    uplink_tc, uplink_tunnels, uplink_xdp, v6_links, v6_uplink,
};

/// Ways to put extension headers between IP and transport: as many as are looked at, at the most.
pub(crate) fn extensions(frame: &Frame) -> [(&'static str, Frame); 5] {
    use IpNumber as N;
    let (hop, routing, last) = (
        N::IPV6_HEADER_HOP_BY_HOP,
        N::IPV6_ROUTE_HEADER,
        N::IPV6_DESTINATION_OPTIONS,
    );
    let frame = || frame.clone();
    [
        ("hop-by-hop options", frame().extension(hop, 1)),
        ("a routing header", frame().extension(routing, 3)),
        ("long destination options", frame().extension(last, 9)),
        ("a fragment header of a whole packet", whole(frame())),
        (
            "four extension headers",
            whole(
                frame()
                    .extension(hop, 1)
                    .extension(last, 1)
                    .extension(routing, 2),
            ),
        ),
    ]
}

/// With a fragment header that says there is no other (RFC 6946).
fn whole(frame: Frame) -> Frame {
    frame.extension(IpNumber::IPV6_FRAGMENTATION_HEADER, 1)
}

/// With more than that.
pub(crate) fn too_many(frame: Frame) -> Frame {
    let option = |frame: Frame, _| frame.extension(IpNumber::IPV6_DESTINATION_OPTIONS, 1);
    (0..5).fold(frame, option)
}

/// The rows of a place. Those of the tunnel device are only for the fuzzer: see `tunnel_tc`.
pub(crate) fn rows(place: Place) -> Vec<Row> {
    match place {
        Place::UplinkXdp => [six(uplink_xdp::rows()), v6_uplink::xdp()].concat(),
        Place::UplinkTc => [
            six(uplink_tc::rows()),
            six(uplink_tunnels::rows()),
            errors::rows_v6(place),
            v6_uplink::tc(),
        ]
        .concat(),
        Place::Tunnel => six(uplink_xdp::rows()),
        Place::Overlay => [
            six(overlay_tc::rows()),
            six(overlay_vips::rows()),
            errors::rows_v6(place),
            v6_links::on_overlay(),
        ]
        .concat(),
        Place::Gateway => [
            six(gateway_tc::rows()),
            errors::rows_v6(place),
            v6_links::on_gateway(),
        ]
        .concat(),
        Place::Loopback => v6_links::on_loopback(),
    }
}

#[test]
fn uplink_xdp_v6() {
    check_all(Place::UplinkXdp, &rows(Place::UplinkXdp));
}

#[test]
fn uplink_tc_v6() {
    check_all(Place::UplinkTc, &rows(Place::UplinkTc));
}

#[test]
fn overlay_tc_v6() {
    check_all(Place::Overlay, &rows(Place::Overlay));
}

#[test]
fn gateway_tc_v6() {
    check_all(Place::Gateway, &rows(Place::Gateway));
}

#[test]
fn loopback_tc_v6() {
    check_all(Place::Loopback, &rows(Place::Loopback));
}
