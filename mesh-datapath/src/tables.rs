//! The maps as user space sees them.

use std::collections::BTreeMap;

use aya::{
    Ebpf, Pod,
    maps::{Array, Map, MapData, MapError, PerCpuArray},
};
use mesh_common::{
    Addr, AddrKey, Endpoint, Link, PORT_WORDS, Peer, Pool, PortKey, Row, ScopedAddr, Settings,
    VerdictCount, wire,
};

use crate::{
    Error, Report,
    backends::Backends,
    lines::Lines,
    ports::Ports,
    rows::Write,
    table::{Hash, Trie},
};

/// All maps but those that only programs write (see `fill`).
pub(crate) struct Tables {
    settings: Array<MapData, Settings>,
    /// [`Settings::trace`], which is no part of a desired state.
    tracing: bool,
    ports: Array<MapData, u64>,
    ports_copy: BTreeMap<u32, u64>,
    pub(crate) rows: Lines,
    pub(crate) backends: Backends,
    verdicts: PerCpuArray<MapData, VerdictCount>,
    pub(crate) own: Hash<Addr, u32>,
    pub(crate) peers: Hash<Addr, Peer>,
    /// What is no part of a desired state, as [`Tables::tracing`].
    pub(crate) direct: Hash<Addr, u32>,
    pub(crate) endpoints: Hash<AddrKey, Endpoint>,
    pub(crate) links: Hash<u32, Link>,
    pub(crate) published: Ports,
    pub(crate) vips: Hash<AddrKey, Pool>,
    pub(crate) namespaces: Trie<ScopedAddr, u32>,
}

impl Tables {
    pub(crate) fn open(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let ports: Array<MapData, u64> = array(ebpf, "PORTS")?;
        let mut ports_copy = BTreeMap::new();
        for (word, bits) in ports.iter().enumerate() {
            let bits = bits.map_err(|e| map_error("PORTS", e))?;
            if bits != 0 {
                ports_copy.insert(word as u32, bits);
            }
        }
        let used = ports_copy
            .iter()
            .flat_map(|(word, bits)| ports_of(*word, *bits));
        let published = Ports::open(ebpf, used)?;
        Ok(Self {
            settings: array(ebpf, "SETTINGS")?,
            tracing: false,
            ports,
            ports_copy,
            rows: Lines::open(ebpf)?,
            backends: Backends::open(ebpf)?,
            verdicts: PerCpuArray::try_from(take(ebpf, "VERDICTS")?)
                .map_err(|e| map_error("VERDICTS", e))?,
            own: Hash::open(ebpf, "OWN")?,
            peers: Hash::open(ebpf, "PEERS")?,
            direct: Hash::open(ebpf, "DIRECT")?,
            endpoints: Hash::open(ebpf, "ENDPOINTS")?,
            links: Hash::open(ebpf, "LINKS")?,
            published,
            vips: Hash::open(ebpf, "VIPS")?,
            namespaces: Trie::open(ebpf, "NAMESPACES")?,
        })
    }

    pub(crate) fn put_settings(
        &mut self,
        wanted: Settings,
        report: &mut Report,
    ) -> Result<(), Error> {
        let error = |e| map_error("SETTINGS", e);
        let wanted = Settings {
            trace: self.tracing.into(),
            ..wanted
        };
        if self.settings.get(&0, 0).map_err(error)? != wanted {
            self.settings.set(0, wanted, 0).map_err(error)?;
            report.written += 1;
        }
        Ok(())
    }

    /// Tells the programs whether to tell of packets.
    pub(crate) fn set_tracing(&mut self, tracing: bool) -> Result<(), Error> {
        self.tracing = tracing;
        let settings = self.settings.get(&0, 0);
        let settings = settings.map_err(|e| map_error("SETTINGS", e))?;
        self.put_settings(settings, &mut Report::default())
    }

    /// Sets the bits of `wanted`; with `clear`, also clears all others.
    pub(crate) fn put_ports(
        &mut self,
        wanted: &BTreeMap<u32, u64>,
        clear: bool,
        report: &mut Report,
    ) -> Result<(), Error> {
        let words: Vec<u32> = self
            .ports_copy
            .keys()
            .chain(wanted.keys())
            .copied()
            .collect();
        for word in words {
            let old = self.ports_copy.get(&word).copied().unwrap_or(0);
            let new = wanted.get(&word).copied().unwrap_or(0);
            let new = if clear { new } else { new | old };
            if new != old {
                self.ports
                    .set(word, new, 0)
                    .map_err(|e| map_error("PORTS", e))?;
                self.ports_copy.insert(word, new);
                report.written += 1;
            }
        }
        Ok(())
    }

    /// The pools of all fronts.
    pub(crate) fn pools(&self) -> impl Iterator<Item = &Pool> {
        let published = self.published.copy().values().map(|p| &p.pool);
        published.chain(self.vips.copy().values())
    }

    /// The slots of a row, and the backends that they are numbers of.
    pub(crate) fn read_row(&self, row: &Row) -> Result<(Vec<u16>, Vec<Addr>), Error> {
        let (slots, list) = self.rows.read(row)?;
        let backends = list.into_iter().map(|index| self.backends.address(index));
        Ok((slots, backends.collect()))
    }

    /// Writes the row of a pool, all of whose backends have been put.
    pub(crate) fn write_row(&mut self, pool: u32, write: &Write) -> Result<(), Error> {
        // Past the last entry is none, and so no backend.
        let index = |address: &Addr| self.backends.index(pool, *address).unwrap_or(u32::MAX);
        let list: Vec<u32> = write.backends.iter().map(index).collect();
        self.rows.write(&write.row, &write.slots, &list)
    }

    /// The counter of an outcome, all processors together.
    pub(crate) fn verdict(&self, index: u32) -> Result<VerdictCount, Error> {
        let values = self
            .verdicts
            .get(&index, 0)
            .map_err(|e| map_error("VERDICTS", e))?;
        Ok(values
            .iter()
            .fold(VerdictCount::default(), |sum, c| VerdictCount {
                packets: sum.packets + c.packets,
                bytes: sum.bytes + c.bytes,
            }))
    }
}

/// The ports of a word of the bitmap.
fn ports_of(word: u32, bits: u64) -> impl Iterator<Item = PortKey> {
    let (protocol, first) = if word < PORT_WORDS / 2 {
        (wire::TCP, word << 6)
    } else {
        (wire::UDP, (word - PORT_WORDS / 2) << 6)
    };
    let set = (0..64).filter(move |bit| bits >> bit & 1 == 1);
    set.map(move |bit| PortKey {
        port_be: ((first + bit) as u16).to_be(),
        protocol,
        pad: 0,
    })
}

pub(crate) fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, Error> {
    ebpf.take_map(name)
        .ok_or(Error::Missing { kind: "map", name })
}

pub(crate) fn array<V: Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<Array<MapData, V>, Error> {
    Array::try_from(take(ebpf, name)?).map_err(|e| map_error(name, e))
}

pub(crate) fn map_error(map: &'static str, source: MapError) -> Error {
    Error::Map {
        map,
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use mesh_common::port_bit;

    use super::*;

    #[test]
    fn a_word_of_the_bitmap_names_its_ports() {
        for (protocol, port) in [(wire::TCP, 0), (wire::TCP, 65_535), (wire::UDP, 53)] {
            let (word, bit) = port_bit(protocol, port);
            let key = PortKey {
                port_be: port.to_be(),
                protocol,
                pad: 0,
            };
            assert_eq!(ports_of(word, bit).collect::<Vec<_>>(), [key]);
        }
    }
}
