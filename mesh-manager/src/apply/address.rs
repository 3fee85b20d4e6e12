//! Giving out addresses. The search goes on where it last ended, so that a freed address rests
//! until all of the subnet, or of the range in it, has been walked.

use crate::{ManagerError, state::State};
use std::net::Ipv4Addr;

/// Gathers the addresses of one operation, so that none is given out twice before it is stored.
#[derive(Debug, Default)]
pub(super) struct Allocation {
    taken: Vec<(String, Ipv4Addr)>,
    cursors: Vec<(String, u32)>,
}

impl Allocation {
    /// The next free address of a network.
    pub(super) fn next(
        &mut self,
        state: &State,
        network_id: &str,
    ) -> Result<Ipv4Addr, ManagerError> {
        let network = state
            .network(network_id)
            .ok_or_else(|| ManagerError::not_found("network", network_id))?;
        let from = network.range.unwrap_or(network.subnet);
        let exhausted = || {
            ManagerError::precondition(format!(
                "no available IPv4 addresses on network {} ({from}): use a network with a larger {}",
                network.name(),
                network.range.map_or("subnet", |_| "range"),
            ))
        };
        // Network, broadcast and gateway are never given out, nor what is reserved.
        let base = u32::from(network.subnet.network());
        let last = u32::from(network.subnet.broadcast()) - base - 1;
        let first = (u32::from(from.network()) - base).max(1);
        let last = (u32::from(from.broadcast()) - base).min(last);
        let count = (last + 1).saturating_sub(first);
        let is_walked = |address: &Ipv4Addr| (first..=last).contains(&(u32::from(*address) - base));
        let kept = network.reserved.iter().filter(|a| is_walked(a)).count();
        let kept = u32::try_from(kept).unwrap_or(u32::MAX);
        let usable = (count - u32::from(from.contains(network.gateway))).saturating_sub(kept);
        if state.indexes().taken(network_id) as u64 >= u64::from(usable) {
            return Err(exhausted());
        }
        let here = self.cursors.iter().rev().find(|(id, _)| id == network_id);
        let cursor = here.map_or(network.cursor, |(_, cursor)| *cursor);
        let begin = (cursor + 1).saturating_sub(first);
        for step in 0..count {
            // Walked in a circle.
            let offset = first + (begin + step) % count;
            let address = Ipv4Addr::from(base + offset);
            let is_free = address != network.gateway
                && !network.reserved.contains(&address)
                && !state.indexes().is_taken(network_id, address)
                && !self
                    .taken
                    .iter()
                    .any(|(id, a)| id == network_id && *a == address);
            if is_free {
                self.taken.push((network_id.to_owned(), address));
                self.cursors.push((network_id.to_owned(), offset));
                return Ok(address);
            }
        }
        Err(exhausted())
    }

    /// Makes the next search begin after the addresses given out.
    pub(super) fn commit(self, state: &mut State) {
        for (id, cursor) in self.cursors {
            if let Some(network) = state.networks.get_mut(&id) {
                network.cursor = cursor;
            }
        }
    }
}
