//! Which task addresses differ between two states, and which services that concerns. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::model::{Backend, Endpoint, Service, mac_of};

/// Bits of [`Moved::suspects`].
const SUSPECTS: usize = 1 << 16;

/// The task addresses that came, went or are elsewhere.
pub(crate) struct Moved {
    addresses: BTreeSet<(u32, IpAddr)>,
    /// A bit for each value of an address's last two bytes. Services have a million backends together, and nearly all
    /// of them are found here not to have moved.
    suspects: Vec<u64>,
}

impl Moved {
    pub(crate) fn between(
        before: &BTreeMap<(u32, IpAddr), Endpoint>,
        now: &BTreeMap<(u32, IpAddr), Endpoint>,
    ) -> Self {
        let gone = before.iter().filter(|(key, at)| now.get(key) != Some(at));
        let come = now.iter().filter(|(key, at)| before.get(key) != Some(at));
        let addresses: BTreeSet<_> = gone.chain(come).map(|(key, _)| *key).collect();
        let mut suspects = vec![0; SUSPECTS / 64];
        for (_, address) in &addresses {
            let (word, bit) = place(*address);
            suspects[word] |= bit;
        }
        Self {
            addresses,
            suspects,
        }
    }

    /// Whether a service has one of these addresses.
    pub(crate) fn concern(&self, ingress_vni: u32, service: &Service) -> bool {
        let any = |vni: u32, backends: &[Backend]| {
            backends.iter().any(|backend| {
                let (word, bit) = place(backend.address);
                self.suspects[word] & bit != 0 && self.addresses.contains(&(vni, backend.address))
            })
        };
        !self.addresses.is_empty()
            && (any(ingress_vni, &service.ingress)
                || service
                    .vips
                    .iter()
                    .any(|((vni, _), backends)| any(*vni, backends)))
    }
}

/// The word of [`Moved::suspects`], and the bit in it.
fn place(address: IpAddr) -> (usize, u64) {
    let [.., high, low] = mac_of(address);
    let at = usize::from(u16::from_be_bytes([high, low]));
    (at / 64, 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Location;

    #[test]
    fn a_service_is_concerned_by_its_own_addresses_on_their_network() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let service = |vni, address| Service {
            vips: [(
                (vni, ip("10.9.0.1")),
                vec![Backend {
                    address: ip(address),
                    draining: false,
                }],
            )]
            .into(),
            ..Service::default()
        };
        let here = Endpoint {
            mac: [0; 6],
            location: Location::Local(5),
            encrypted: false,
        };
        let there = Endpoint {
            location: Location::Remote(ip("192.0.2.2")),
            ..here.clone()
        };
        let before = BTreeMap::from([
            ((7, ip("10.0.0.1")), here.clone()),
            ((7, ip("10.0.0.2")), here.clone()),
            ((7, ip("10.0.0.3")), here.clone()),
        ]);
        let now = BTreeMap::from([
            ((7, ip("10.0.0.2")), there),
            ((7, ip("10.0.0.3")), here.clone()),
            ((7, ip("10.0.0.4")), here),
        ]);
        let moved = Moved::between(&before, &now);
        for (vni, address, concerned) in [
            (7, "10.0.0.1", true),
            (7, "10.0.0.2", true),
            (7, "10.0.0.3", false),
            (7, "10.0.0.4", true),
            (8, "10.0.0.4", false),
            (7, "10.1.0.4", false),
        ] {
            let service = service(vni, address);
            assert_eq!(moved.concern(1, &service), concerned, "{vni} {address}");
        }
        let same = Moved::between(&now, &now);
        assert!(!same.concern(1, &service(7, "10.0.0.4")));
    }
}
