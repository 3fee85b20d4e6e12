//! What came out against what was wanted, in words.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use mesh_common::wire;
use mesh_datapath::Snapshot;

use crate::world::{NODE, PEER};

/// A backend's counters that move.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Counted {
    /// Published port or virtual address, in words.
    pub(crate) front: String,
    pub(crate) backend: String,
    pub(crate) flows: u64,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// The frame is `inner` in a tunnel from this node to the other.
pub(crate) fn tunnel(frame: &[u8], inner: &[u8], vni: u32) -> Result<(), String> {
    let outer = SlicedPacket::from_ethernet(frame).map_err(|e| e.to_string())?;
    let Some(NetSlice::Ipv4(ip)) = &outer.net else {
        return Err("outer is not IPv4".into());
    };
    let header = ip.header();
    equal(
        "outer addresses",
        &(header.source_addr(), header.destination_addr()),
        &(NODE, PEER),
    )?;
    let checksum = header.to_header().calc_header_checksum();
    equal("outer checksum", &header.header_checksum(), &checksum)?;
    equal("outer: do not fragment", &header.dont_fragment(), &true)?;
    equal(
        "outer length",
        &usize::from(header.total_len()),
        &(frame.len() - wire::ETH_LEN),
    )?;
    let Some(TransportSlice::Udp(udp)) = &outer.transport else {
        return Err("outer is not UDP".into());
    };
    equal("outer port", &udp.destination_port(), &4789)?;
    equal(
        "outer port is dynamic",
        &(udp.source_port() >= 0xc000),
        &true,
    )?;
    equal("outer checksum, which is left out", &udp.checksum(), &0)?;
    let mut header = [8, 0, 0, 0, 0, 0, 0, 0];
    header[4..].copy_from_slice(&(vni << 8).to_be_bytes());
    let (vxlan, payload) = udp.payload().split_at(8);
    equal("VXLAN header", &vxlan, &&header[..])?;
    same_bytes(payload, inner)
}

pub(crate) fn equal<T: PartialEq + std::fmt::Debug>(
    what: &str,
    got: &T,
    wanted: &T,
) -> Result<(), String> {
    if got == wanted {
        Ok(())
    } else {
        Err(format!("{what}: {got:?}, wanted {wanted:?}"))
    }
}

pub(crate) fn same_bytes(got: &[u8], wanted: &[u8]) -> Result<(), String> {
    if got == wanted {
        return Ok(());
    }
    let at = got.iter().zip(wanted).position(|(a, b)| a != b);
    Err(format!(
        "byte {}:\n  got    {got:02x?}\n  wanted {wanted:02x?}",
        at.unwrap_or(got.len().min(wanted.len()))
    ))
}

/// The outcomes that were counted, each as often as it was.
pub(crate) fn moved_outcomes(
    before: &Snapshot,
    after: &Snapshot,
) -> Vec<(&'static str, &'static str)> {
    let lines = |s: &Snapshot| -> Vec<_> { s.verdicts.iter().chain(&s.drops).cloned().collect() };
    let mut moved = Vec::new();
    for (old, new) in lines(before).iter().zip(lines(after)) {
        moved.extend((old.packets..new.packets).map(|_| (new.place, new.name)));
    }
    moved
}

pub(crate) fn moved_counters(before: &Snapshot, after: &Snapshot) -> Vec<Counted> {
    let mut moved = Vec::new();
    for (old, new) in before.services.iter().zip(&after.services) {
        let front = match (new.address, new.protocol, new.published) {
            (_, Some(6), Some(port)) => format!("tcp/{port}"),
            (_, Some(17), Some(port)) => format!("udp/{port}"),
            (_, Some(132), Some(port)) => format!("sctp/{port}"),
            (Some(address), ..) => address.to_string(),
            other => panic!("an odd front: {other:?}"),
        };
        for (old, new) in old.backends.iter().zip(&new.backends) {
            let counted = Counted {
                front: front.clone(),
                backend: new.address.to_string(),
                flows: new.flows - old.flows,
                packets: new.packets - old.packets,
                bytes: new.bytes - old.bytes,
            };
            if counted.packets + counted.flows + counted.bytes > 0 {
                moved.push(counted);
            }
        }
    }
    moved
}
