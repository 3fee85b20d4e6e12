//! Tables of packets, one file per program: what goes in, with which maps, what comes out, what is remembered and
//! counted. Every row begins with the world of `world.rs` and no flow but those it names.

mod affinity;
#[path = "../common/mod.rs"]
mod common;
mod compare;
mod cut_v6;
mod direct;
mod encrypted;
mod errors;
mod fragments;
mod frames;
mod full;
mod fuzz;
mod gateway_tc;
mod loopback_tc;
mod million;
mod neighbours;
mod overlay_tc;
mod overlay_vips;
mod paths;
mod render;
mod reuse;
mod room;
mod row;
mod sctp;
mod six;
mod sizes;
mod story;
mod trace;
mod traffic;
mod tunnel_tc;
mod uplink_tc;
mod uplink_tunnels;
mod uplink_xdp;
mod v6;
mod v6_links;
mod v6_uplink;
mod world;
