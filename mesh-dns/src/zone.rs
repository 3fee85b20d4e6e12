//! Names to addresses, by network. Pure: no clock, no I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// What the zone says of a name, as one task sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    /// These, in a stable order.
    Known(T),
    /// A name of the mesh that this task must not or cannot resolve: NXDOMAIN, and nobody else is asked.
    Unknown,
    /// Not a name of the mesh: ask the upstreams.
    Foreign,
}

/// The names of the mesh. Names are kept in lower case without the final dot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Zone {
    networks: BTreeMap<String, Names>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Names {
    forward: BTreeMap<String, BTreeSet<IpAddr>>,
    reverse: BTreeMap<IpAddr, String>,
    /// The network's own name: `web.<network>` means `web` there.
    label: String,
    /// First address and prefix length.
    subnets: Vec<(IpAddr, u8)>,
}

impl Zone {
    /// Declares a network: its id, its name, and the subnets whose reverse names are the mesh's.
    pub fn add_network(
        &mut self,
        id: &str,
        name: &str,
        subnets: impl IntoIterator<Item = (IpAddr, u8)>,
    ) {
        let names = self.networks.entry(id.to_owned()).or_default();
        names.label = canonical(name);
        names.subnets = subnets.into_iter().collect();
    }

    /// Adds an address to a name on a network.
    pub fn add_name(&mut self, network: &str, name: &str, address: IpAddr) {
        let names = self.networks.entry(network.to_owned()).or_default();
        names
            .forward
            .entry(canonical(name))
            .or_default()
            .insert(address);
    }

    /// Sets the name an address answers to in reverse look-ups.
    pub fn add_reverse(&mut self, network: &str, address: IpAddr, name: &str) {
        let names = self.networks.entry(network.to_owned()).or_default();
        names.reverse.insert(address, canonical(name));
    }

    /// The addresses of `name` for a task on `networks` (ids).
    pub fn resolve(&self, networks: &[String], name: &str) -> Answer<Vec<IpAddr>> {
        let name = canonical(name);
        let mut found = BTreeSet::new();
        for names in networks.iter().filter_map(|id| self.networks.get(id)) {
            found.extend(names.get(&name).into_iter().flatten().copied());
        }
        if !found.is_empty() {
            Answer::Known(found.into_iter().collect())
        } else if self.is_own(&name) {
            Answer::Unknown
        } else {
            Answer::Foreign
        }
    }

    /// The name of `address` for a task on `networks` (ids), as `<name>.<network>`.
    pub fn reverse(&self, networks: &[String], address: IpAddr) -> Answer<String> {
        for names in networks.iter().filter_map(|id| self.networks.get(id)) {
            if let Some(name) = names.reverse.get(&address) {
                return Answer::Known(format!("{name}.{}", names.label));
            }
        }
        let own = self.networks.values().any(|names| {
            names
                .subnets
                .iter()
                .any(|&(first, length)| contains(first, length, address))
        });
        if own {
            Answer::Unknown
        } else {
            Answer::Foreign
        }
    }

    /// A name that only the mesh can know: `tasks.<anything>`, or one of any network of this node.
    fn is_own(&self, name: &str) -> bool {
        name.starts_with("tasks.")
            || self
                .networks
                .values()
                .any(|names| names.get(name).is_some())
    }
}

impl Names {
    /// By plain name, or by name and network.
    fn get(&self, name: &str) -> Option<&BTreeSet<IpAddr>> {
        self.forward.get(name).or_else(|| {
            let plain = name.strip_suffix(self.label.as_str())?.strip_suffix('.')?;
            self.forward.get(plain)
        })
    }
}

fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn contains(first: IpAddr, length: u8, address: IpAddr) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    let ((first_bits, width), (address_bits, other_width)) = (bits(first), bits(address));
    let differing = (first_bits ^ address_bits).leading_zeros();
    width == other_width && differing >= u32::from(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn zone() -> Zone {
        let mut zone = Zone::default();
        zone.add_network("n1", "Front", [(ip("10.0.16.0"), 20)]);
        zone.add_network("n2", "back", [(ip("10.0.32.0"), 20), (ip("fd00::"), 64)]);
        zone.add_name("n1", "web", ip("10.0.16.2"));
        zone.add_name("n1", "tasks.web", ip("10.0.16.5"));
        zone.add_name("n1", "tasks.web", ip("10.0.16.4"));
        zone.add_reverse("n1", ip("10.0.16.4"), "web.1.abc");
        zone.add_name("n2", "db", ip("10.0.32.2"));
        zone.add_name("n2", "db", ip("fd00::2"));
        zone
    }

    #[test]
    fn forward() {
        let zone = zone();
        let on = |ids: &[&str], name: &str| {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            zone.resolve(&ids, name)
        };
        let known = |addresses: &[&str]| Answer::Known(addresses.iter().map(|a| ip(a)).collect());
        for (networks, name, expected) in [
            (&["n1"][..], "web", known(&["10.0.16.2"])),
            (&["n1"], "WEB.", known(&["10.0.16.2"])),
            (&["n1"], "web.front", known(&["10.0.16.2"])),
            (&["n1"], "web.back", Answer::Foreign),
            (&["n1"], "tasks.web", known(&["10.0.16.4", "10.0.16.5"])),
            (&["n1"], "tasks.nobody", Answer::Unknown),
            // A name of another network of this node is not told, and not asked of anybody else.
            (&["n1"], "db", Answer::Unknown),
            (&["n2"], "web", Answer::Unknown),
            (&["n1", "n2"], "db", known(&["10.0.32.2", "fd00::2"])),
            (&["n1"], "example.org", Answer::Foreign),
            (&[], "web", Answer::Unknown),
            (&["gone"], "example.org", Answer::Foreign),
        ] {
            assert_eq!(on(networks, name), expected, "{name} on {networks:?}");
        }
    }

    #[test]
    fn reverse() {
        let zone = zone();
        let n1 = ["n1".to_owned()];
        let n2 = ["n2".to_owned()];
        for (networks, address, expected) in [
            (
                &n1,
                "10.0.16.4",
                Answer::Known("web.1.abc.front".to_owned()),
            ),
            (&n2, "10.0.16.4", Answer::Unknown),
            (&n1, "10.0.31.255", Answer::Unknown),
            (&n1, "10.0.48.0", Answer::Foreign),
            (&n1, "fd00::9", Answer::Unknown),
            (&n1, "fd01::9", Answer::Foreign),
            (&n1, "192.0.2.1", Answer::Foreign),
        ] {
            assert_eq!(zone.reverse(networks, ip(address)), expected, "{address}");
        }
    }
}
