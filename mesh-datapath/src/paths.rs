//! What routers on the way to other nodes have said that they take: programs keep it, for ten minutes.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use mesh_common::{Addr, PathMtu};

use crate::{
    Datapath, Error, compile, host,
    tables::{map_error, take},
};

const NAME: &str = "PATHS";

/// A way to another node that takes smaller packets than its ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarrowPath {
    /// The other node's tunnel end point.
    pub peer: Ipv4Addr,
    /// Largest tunnel packet in bytes, from its outer IP header on.
    pub mtu: u32,
    /// How long this is believed, unless a router says so again.
    pub left: Duration,
}

/// The table.
pub(crate) struct Paths(HashMap<MapData, Addr, PathMtu>);

impl Paths {
    pub(crate) fn open(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let map = HashMap::try_from(take(ebpf, NAME)?);
        Ok(Self(map.map_err(|e| map_error(NAME, e))?))
    }
}

impl Datapath {
    /// Reads the ways that take smaller packets than their ends, as routers have said.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn narrow_paths(&self) -> Result<Vec<NarrowPath>, Error> {
        let now_s = host::monotonic_seconds() as u32;
        let mut narrow = Vec::new();
        for entry in self.paths.0.iter() {
            let (peer, path) = entry.map_err(|e| map_error(NAME, e))?;
            let left = path.until_s.wrapping_sub(now_s) as i32;
            if let (IpAddr::V4(peer), 1..) = (compile::ip(peer), left) {
                narrow.push(NarrowPath {
                    peer,
                    mtu: path.mtu,
                    left: Duration::from_secs(left.unsigned_abs().into()),
                });
            }
        }
        narrow.sort_by_key(|path| path.peer);
        Ok(narrow)
    }
}
