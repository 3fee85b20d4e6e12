//! The pool of node-local addresses: one that takes nothing away from the node, as a task's address is a host route there.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use ipnetwork::Ipv4Network;

/// The pools of which the first free one is taken where none is given: those that Docker gives its own networks last, and one of
/// the space that carriers share (RFC 6598), for nodes that have routes to all private addresses.
pub const POOLS: [Ipv4Network; 4] = [
    pool([172, 31, 0, 0], 16),
    pool([172, 30, 0, 0], 16),
    pool([192, 168, 240, 0], 20),
    pool([100, 127, 0, 0], 16),
];

/// Bits of the shortest route that leads to certain others: a shorter one leads to the outside, as a default route does, say
/// the two halves of all addresses that a VPN takes.
const SHORTEST_ROUTE: u8 = 8;

const fn pool([a, b, c, d]: [u8; 4], prefix: u8) -> Ipv4Network {
    match Ipv4Network::new_checked(Ipv4Addr::new(a, b, c, d), prefix) {
        Some(pool) => pool,
        None => panic!("a prefix is 32 bits long at most"),
    }
}

/// IPv4 addresses that the node reaches others by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupied {
    /// Which they are.
    pub subnet: Ipv4Network,
    /// What makes them so.
    pub by: By,
}

/// What addresses are occupied by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// An address of this interface, with its subnet.
    Address(String),
    /// A route of the main table, on this interface if it is on a single one.
    Route(Option<String>),
    /// A name server that the node asks for its tasks.
    NameServer,
}

impl fmt::Display for Occupied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subnet = self.subnet;
        match &self.by {
            By::Address(interface) => write!(f, "the address {subnet} of {interface}"),
            By::Route(Some(interface)) => write!(f, "the route to {subnet} on {interface}"),
            By::Route(None) => write!(f, "the route to {subnet}"),
            By::NameServer => write!(f, "the name server {}", subnet.ip()),
        }
    }
}

/// No pool can be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PoolError {
    /// The one that was given.
    #[error(
        "--local-pool {pool} overlaps {occupied}, which tasks would take away from the node; choose another pool"
    )]
    Given {
        /// As given.
        pool: Ipv4Network,
        /// The first that it overlaps.
        occupied: Occupied,
    },
    /// None was given.
    #[error("every pool for node-local addresses overlaps something of the node ({}); choose one with --local-pool", list(.0))]
    None(Vec<(Ipv4Network, Occupied)>),
}

fn list(pools: &[(Ipv4Network, Occupied)]) -> String {
    let each = pools
        .iter()
        .map(|(pool, occupied)| format!("{pool}: {occupied}"));
    each.collect::<Vec<_>>().join("; ")
}

/// The pool that is `given`, or the first of [`POOLS`] that overlaps nothing.
///
/// # Errors
/// When it overlaps something, or all of them do.
pub fn choose(given: Option<Ipv4Network>, occupied: &[Occupied]) -> Result<Ipv4Network, PoolError> {
    let counts = |one: &&Occupied| match one.by {
        By::Route(_) => one.subnet.prefix() >= SHORTEST_ROUTE,
        By::Address(_) | By::NameServer => true,
    };
    let overlapped = |pool: Ipv4Network| {
        let mut all = occupied.iter().filter(counts);
        all.find(|one| one.subnet.overlaps(pool))
    };
    if let Some(pool) = given {
        return match overlapped(pool).cloned() {
            None => Ok(pool),
            Some(occupied) => Err(PoolError::Given { pool, occupied }),
        };
    }
    let mut refused = Vec::new();
    for pool in POOLS {
        match overlapped(pool) {
            None => return Ok(pool),
            Some(by) => refused.push((pool, by.clone())),
        }
    }
    Err(PoolError::None(refused))
}

/// What name servers occupy.
pub fn name_servers(servers: &[SocketAddr]) -> impl Iterator<Item = Occupied> {
    servers.iter().filter_map(|server| match server.ip() {
        IpAddr::V4(address) => Some(Occupied {
            subnet: address.into(),
            by: By::NameServer,
        }),
        IpAddr::V6(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Network {
        text.parse().expect("a network")
    }

    fn route(text: &str) -> Occupied {
        Occupied {
            subnet: net(text),
            by: By::Route(Some("eth0".to_owned())),
        }
    }

    #[test]
    fn a_pool_takes_nothing_away() {
        let address = Occupied {
            subnet: net("172.31.16.5/20"),
            by: By::Address("eth0".to_owned()),
        };
        let server = ["172.31.0.2:53", "[fd00::1]:53"].map(|s| s.parse().expect("an address"));
        let server: Vec<_> = name_servers(&server).collect();
        let given = "--local-pool 172.31.0.0/16 overlaps ";
        let end = ", which tasks would take away from the node; choose another pool";
        for (occupied, chosen, refusal) in [
            (vec![], "172.31.0.0/16", None),
            (
                vec![
                    route("0.0.0.0/0"),
                    route("10.0.0.0/8"),
                    route("172.30.255.0/24"),
                ],
                "172.31.0.0/16",
                None,
            ),
            (
                vec![address],
                "172.30.0.0/16",
                Some("the address 172.31.16.5/20 of eth0"),
            ),
            (
                vec![route("172.31.0.2/32")],
                "172.30.0.0/16",
                Some("the route to 172.31.0.2/32 on eth0"),
            ),
            (server, "172.30.0.0/16", Some("the name server 172.31.0.2")),
            (
                vec![route("10.0.0.0/8"), route("172.16.0.0/12")],
                "192.168.240.0/20",
                Some("the route to 172.16.0.0/12 on eth0"),
            ),
            (
                vec![route("192.168.0.0/16"), route("172.16.0.0/12")],
                "100.127.0.0/16",
                Some("the route to 172.16.0.0/12 on eth0"),
            ),
        ] {
            assert_eq!(choose(None, &occupied), Ok(net(chosen)), "{occupied:?}");
            let first = choose(Some(POOLS[0]), &occupied);
            match refusal {
                None => assert_eq!(first, Ok(POOLS[0]), "{occupied:?}"),
                Some(by) => {
                    let refused = first.expect_err("it overlaps").to_string();
                    assert_eq!(refused, format!("{given}{by}{end}"));
                }
            }
        }
    }

    #[test]
    fn who_has_routes_everywhere_chooses() {
        let halves = ["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1"].map(route);
        assert_eq!(choose(None, &halves), Ok(POOLS[0]), "the way out");
        let routes = ["172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"].map(route);
        let refused = choose(None, &routes).expect_err("no pool is free");
        let by = [0, 0, 1, 2].map(|number| routes[number].clone());
        let all = POOLS.into_iter().zip(by).collect();
        assert_eq!(refused, PoolError::None(all));
        let told = refused.to_string();
        let last =
            "; 100.127.0.0/16: the route to 100.64.0.0/10 on eth0); choose one with --local-pool";
        assert!(told.ends_with(last), "{told}");
        let free = net("198.18.0.0/16");
        assert_eq!(choose(Some(free), &routes), Ok(free));
    }
}
