//! The flow tables, as user space reads them: which client talks to which task, and how full the tables are.

use std::{
    collections::HashMap as Memory,
    net::{IpAddr, SocketAddr},
};

use aya::{
    Ebpf, Pod,
    maps::{HashMap, MapData, MapError},
};
use mesh_common::{Addr, Conn, FlowKey, NAT_PEER, Nat, SCOPE_TASK};

use crate::{Error, Fill, Flow, compile, host, snapshot::Fronts, tables};

/// The two tables that only programs write.
pub(crate) struct FlowTables {
    conns: HashMap<MapData, FlowKey, Conn>,
    flows: HashMap<MapData, FlowKey, Nat>,
    /// Entries each of them has room for.
    capacity: u32,
}

impl FlowTables {
    pub(crate) fn open(ebpf: &mut Ebpf, capacity: u32) -> Result<Self, Error> {
        Ok(Self {
            conns: open(ebpf, "CONNS")?,
            flows: open(ebpf, "FLOWS")?,
            capacity,
        })
    }

    /// The flows of this node's tasks. A table that changes while it is read may give an entry twice or not at all.
    pub(crate) fn read(&self, fronts: &Fronts) -> Result<Vec<Flow>, Error> {
        let now_s = host::boot_seconds() as u32;
        let entries = self.entries()?.into_iter();
        let mut flows: Vec<Flow> = entries
            .map(|(key, nat)| flow(&key, &nat, now_s, fronts))
            .collect();
        flows.sort_by(|a, b| (&a.service, a.client).cmp(&(&b.service, b.client)));
        Ok(flows)
    }

    /// How many open flows this node's tasks have by network and address of the task that answers. A network of
    /// `None` is the ingress network.
    pub(crate) fn count_open(&self) -> Result<Memory<(Option<u32>, Addr), u64>, Error> {
        let now_s = host::boot_seconds() as u32;
        let mut open = Memory::new();
        for (key, nat) in self.entries()? {
            if !nat.is_over(key.protocol, now_s) {
                *open.entry((network(&key), low(key.src))).or_default() += 1;
            }
        }
        Ok(open)
    }

    /// What there is about replies of tasks.
    fn entries(&self) -> Result<Memory<FlowKey, Nat>, Error> {
        // A key that is deleted while the table is walked makes the kernel begin again: each counts once, and a
        // table that is written all the time must not be walked for ever.
        let mut entries = Memory::new();
        for entry in self.flows.iter().take(2 * self.capacity as usize) {
            match entry {
                Ok((key, nat)) if key.scope <= SCOPE_TASK => entries.insert(key, nat),
                Ok(_) => continue,
                Err(MapError::KeyNotFound) => continue,
                Err(error) => return Err(tables::map_error("FLOWS", error)),
            };
        }
        Ok(entries)
    }

    /// How full both tables are.
    pub(crate) fn fill(&self) -> Result<Vec<Fill>, Error> {
        Ok(vec![
            self.fill_of("conns", &self.conns)?,
            self.fill_of("flows", &self.flows)?,
        ])
    }

    fn fill_of<V: Pod>(
        &self,
        table: &'static str,
        map: &HashMap<MapData, FlowKey, V>,
    ) -> Result<Fill, Error> {
        let mut entries = 0;
        for key in map.keys().take(self.capacity as usize) {
            key.map_err(|e| tables::map_error(table, e))?;
            entries += 1;
        }
        Ok(Fill {
            table,
            entries,
            capacity: self.capacity,
        })
    }
}

fn open<V: Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<HashMap<MapData, FlowKey, V>, Error> {
    HashMap::try_from(tables::take(ebpf, name)?).map_err(|e| tables::map_error(name, e))
}

/// The network of a task's reply; `None` if it leaves by the gateway link.
fn network(key: &FlowKey) -> Option<u32> {
    (key.scope != SCOPE_TASK).then_some(key.scope)
}

/// What the tables know a task or virtual address by: see [`mesh_common::Prefix`].
fn low(address: Addr) -> Addr {
    Addr::v4_be(address.low_be())
}

/// An entry's key is the task's reply, its value what the client sees instead.
fn flow(key: &FlowKey, nat: &Nat, now_s: u32, fronts: &Fronts) -> Flow {
    let address = |ip: IpAddr, port_be: u16| SocketAddr::new(ip, u16::from_be(port_be));
    let vni = network(key);
    let front = match vni {
        Some(vni) => fronts.vip(vni, low(nat.src)),
        None => fronts.port(nat.sport_be, key.protocol),
    };
    Flow {
        service: front.map(|front| front.name.clone()),
        vni,
        protocol: key.protocol,
        client: address(compile::ip(nat.dst), nat.dport_be),
        front: address(compile::ip(nat.src), nat.sport_be),
        backend: address(compile::ip(key.src), key.sport_be),
        asked: (nat.kind == NAT_PEER).then(|| compile::ip(nat.peer)),
        idle_s: now_s.wrapping_sub(nat.seen_s),
        closed: nat.closed != 0,
    }
}
