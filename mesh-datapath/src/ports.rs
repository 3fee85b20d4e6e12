//! Published ports as user space sees them: for each port there is, the entry of `PUBLISHED` that it has. Those of TCP and
//! UDP are in an array, the few of SCTP in a table.
//!
//! An entry is never overwritten while a port has it, as a program that reads it meanwhile would see half of each. A
//! changed service is written to a free entry, and the port is pointed there in one step. The entry it had becomes free
//! last in line, so that no program still reads it when it is written again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData},
};
use mesh_common::{PortKey, Published, port_index, wire::SCTP};

use crate::{
    Error, Report,
    table::capacity,
    tables::{array, map_error, take},
};

const ENTRY_OF: &str = "ENTRY_OF";
const SCTP_PORTS: &str = "SCTP_PORTS";
const PUBLISHED: &str = "PUBLISHED";

/// The maps, with a copy of what they hold.
pub(crate) struct Ports {
    /// By [`port_index`]: an index in `entries`, plus one; zero where nothing is published.
    entry_of: Array<MapData, u32>,
    /// By port, network byte order: an index in `entries`.
    sctp: HashMap<MapData, u16, u32>,
    sctp_capacity: usize,
    entries: Array<MapData, Published>,
    copy: BTreeMap<PortKey, Published>,
    used: BTreeMap<PortKey, u32>,
    free: VecDeque<u32>,
}

impl Ports {
    /// Reads what `ports` of TCP and UDP have, no others of which may have anything, and those of SCTP.
    pub(crate) fn open(
        ebpf: &mut Ebpf,
        ports: impl Iterator<Item = PortKey>,
    ) -> Result<Self, Error> {
        let entry_of: Array<MapData, u32> = array(ebpf, ENTRY_OF)?;
        let entries: Array<MapData, Published> = array(ebpf, PUBLISHED)?;
        let sctp = take(ebpf, SCTP_PORTS)?;
        let sctp_capacity = capacity(&sctp).map_err(|e| map_error(SCTP_PORTS, e))?;
        let sctp: HashMap<MapData, u16, u32> =
            HashMap::try_from(sctp).map_err(|e| map_error(SCTP_PORTS, e))?;
        let mut used = BTreeMap::new();
        for port in ports {
            let entry = entry_of.get(&index(&port), 0);
            if let Some(at) = entry.map_err(|e| map_error(ENTRY_OF, e))?.checked_sub(1) {
                used.insert(port, at);
            }
        }
        for entry in sctp.iter() {
            let (port_be, at) = entry.map_err(|e| map_error(SCTP_PORTS, e))?;
            let port = PortKey {
                port_be,
                protocol: SCTP,
                pad: 0,
            };
            used.insert(port, at);
        }
        let mut copy = BTreeMap::new();
        for (port, at) in &used {
            let published = entries.get(at, 0).map_err(|e| map_error(PUBLISHED, e))?;
            copy.insert(*port, published);
        }
        let taken: BTreeSet<u32> = used.values().copied().collect();
        let free = (0..entries.len()).filter(|at| !taken.contains(at));
        Ok(Self {
            free: free.collect(),
            entry_of,
            sctp,
            sctp_capacity,
            entries,
            copy,
            used,
        })
    }

    /// For how many ports more there is room. One entry stays free for ports that change.
    pub(crate) fn room(&self) -> PortRoom {
        let sctp = self
            .used
            .keys()
            .filter(|port| port.protocol == SCTP)
            .count();
        PortRoom {
            all: self.free.len().saturating_sub(1),
            sctp: self.sctp_capacity.saturating_sub(sctp),
        }
    }

    /// What the ports have.
    pub(crate) fn copy(&self) -> &BTreeMap<PortKey, Published> {
        &self.copy
    }

    /// Writes what is new or different.
    pub(crate) fn put(
        &mut self,
        wanted: &BTreeMap<PortKey, Published>,
        report: &mut Report,
    ) -> Result<(), Error> {
        for (port, published) in wanted {
            if self.copy.get(port) == Some(published) {
                continue;
            }
            let capacity = self.entries.len();
            let at = *self.free.front().ok_or(Error::PortsFull { capacity })?;
            self.entries
                .set(at, published, 0)
                .map_err(|e| map_error(PUBLISHED, e))?;
            self.point(port, Some(at))?;
            self.free.pop_front();
            self.free.extend(self.used.insert(*port, at));
            self.copy.insert(*port, *published);
            report.written += 1;
        }
        Ok(())
    }

    /// Removes what is not wanted.
    pub(crate) fn prune(
        &mut self,
        wanted: impl Fn(&PortKey) -> bool,
        report: &mut Report,
    ) -> Result<(), Error> {
        let gone: Vec<PortKey> = self.copy.keys().copied().filter(|p| !wanted(p)).collect();
        for port in gone {
            self.point(&port, None)?;
            self.free.extend(self.used.remove(&port));
            self.copy.remove(&port);
            report.removed += 1;
        }
        Ok(())
    }

    /// Gives a port an entry, in one step, or none.
    fn point(&mut self, port: &PortKey, at: Option<u32>) -> Result<(), Error> {
        if port.protocol != SCTP {
            let entry = at.map_or(0, |at| at + 1);
            let set = self.entry_of.set(index(port), entry, 0);
            return set.map_err(|e| map_error(ENTRY_OF, e));
        }
        match at {
            Some(at) => self.sctp.insert(port.port_be, at, 0),
            None => self.sctp.remove(&port.port_be),
        }
        .map_err(|e| map_error(SCTP_PORTS, e))
    }
}

/// Room for ports that are not there yet.
pub(crate) struct PortRoom {
    all: usize,
    /// Those of SCTP among them.
    sctp: usize,
}

impl PortRoom {
    /// Takes the room that a port needs. Whether there was.
    pub(crate) fn take(&mut self, port: &PortKey) -> bool {
        let is_sctp = usize::from(port.protocol == SCTP);
        let there = self.all > 0 && self.sctp >= is_sctp;
        if there {
            self.all -= 1;
            self.sctp -= is_sctp;
        }
        there
    }
}

fn index(port: &PortKey) -> u32 {
    port_index(port.protocol, u16::from_be(port.port_be))
}
