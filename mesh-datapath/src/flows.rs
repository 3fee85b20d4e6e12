//! The table of flows, as user space reads it: which client talks to which task.

use std::{
    collections::HashMap as Memory,
    net::{IpAddr, SocketAddr},
};

use aya::maps::MapError;
use mesh_common::{Addr, FlowKey, NAT_DIRECT, NAT_PEER, Nat, SCOPE_TASK};

use crate::{Error, Flow, compile, fill::Lru, host, snapshot::Fronts, tables};

/// What there is about replies of tasks.
pub(crate) struct Flows<'a>(pub(crate) &'a Lru<FlowKey, Nat>);

impl Flows<'_> {
    /// The flows of this node's tasks, ended ones too. A table that changes while it is read may give an entry twice or not at all.
    pub(crate) fn read(&self, fronts: &Fronts) -> Result<Vec<Flow>, Error> {
        let now_s = host::monotonic_seconds() as u32;
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
        let now_s = host::monotonic_seconds() as u32;
        let mut open = Memory::new();
        for (key, nat) in self.entries()? {
            if !nat.is_over(key.protocol, now_s) {
                *open.entry((network(&key), low(key.src))).or_default() += 1;
            }
        }
        Ok(open)
    }

    /// Each once, even if the table changes while it is read.
    fn entries(&self) -> Result<Memory<FlowKey, Nat>, Error> {
        let mut entries = Memory::new();
        for entry in self.0.map.iter().take(self.0.patience()) {
            match entry {
                Ok((key, nat)) if key.scope <= SCOPE_TASK => entries.insert(key, nat),
                Ok(_) => continue,
                Err(MapError::KeyNotFound) => continue,
                Err(error) => return Err(tables::map_error("FLOWS", error)),
            };
        }
        Ok(entries)
    }
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
        asked: matches!(nat.kind, NAT_PEER | NAT_DIRECT).then(|| compile::ip(nat.peer)),
        idle_s: now_s.wrapping_sub(nat.seen_s),
        closed: nat.closed != 0,
        ended: nat.is_over(key.protocol, now_s),
    }
}
