//! Which address a node is reached at: said by the user, or found. Pure.

use std::net::{IpAddr, SocketAddr};

use mesh_manager::config::DEFAULT_PORT;

use crate::links::host::{HostView, Interface};

/// Why no address can be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressError {
    /// No such interface, or one without an address.
    #[error(
        "could not find local IP address for interface {0:?}: no such network interface, or it has no address"
    )]
    Interface(String),
    /// Not a port number.
    #[error("invalid port in address {0:?}; use ADDRESS[:PORT] or INTERFACE[:PORT]")]
    Port(String),
    /// Nothing to advertise.
    #[error("could not find the system's IP address - specify one with --advertise-addr")]
    None,
    /// More than one candidate.
    #[error(
        "could not choose an IP address to advertise since this system has multiple addresses ({0}) - specify one with --advertise-addr"
    )]
    Several(String),
}

/// `ADDRESS[:PORT]` or `INTERFACE[:PORT]`; an address need not be one of this node's (it may be
/// translated on the way).
///
/// # Errors
/// An unknown interface, or a port that is none.
pub(crate) fn parse(
    host: &HostView,
    text: &str,
    default_port: u16,
) -> Result<SocketAddr, AddressError> {
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok(socket);
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, default_port));
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (
            name,
            port.parse()
                .map_err(|_| AddressError::Port(text.to_owned()))?,
        ),
        None => (text, default_port),
    };
    let interface = host.interfaces.get(name);
    let address = interface
        .and_then(first_address)
        .ok_or_else(|| AddressError::Interface(name.to_owned()))?;
    Ok(SocketAddr::new(address, port))
}

/// The address to advertise: the one asked for, else the one listened on, else the only one of the
/// interfaces with a default route, else the only one there is.
///
/// # Errors
/// None, or several.
pub(crate) fn advertise(
    host: &HostView,
    asked: Option<&str>,
    listen: SocketAddr,
) -> Result<SocketAddr, AddressError> {
    if let Some(asked) = asked.filter(|text| !text.is_empty()) {
        return parse(host, asked, listen.port());
    }
    if !listen.ip().is_unspecified() {
        return Ok(listen);
    }
    let usable = |i: &&Interface| i.up && !i.loopback && first_address(i).is_some();
    let routed: Vec<_> = host
        .interfaces
        .values()
        .filter(usable)
        .filter(|i| host.default_routes.contains(&i.index))
        .collect();
    let candidates = if routed.is_empty() {
        host.interfaces.values().filter(usable).collect()
    } else {
        routed
    };
    let addresses: Vec<IpAddr> = candidates.into_iter().flat_map(own_addresses).collect();
    match addresses.as_slice() {
        [] => Err(AddressError::None),
        [one] => Ok(SocketAddr::new(*one, listen.port())),
        several => Err(AddressError::Several(
            several
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", "),
        )),
    }
}

/// What to listen on: what was asked for, else every address.
///
/// # Errors
/// An unknown interface, or a port that is none.
pub(crate) fn listen(host: &HostView, asked: Option<&str>) -> Result<SocketAddr, AddressError> {
    match asked.filter(|text| !text.is_empty()) {
        Some(asked) => parse(host, asked, DEFAULT_PORT),
        None => Ok(SocketAddr::from(([0, 0, 0, 0], DEFAULT_PORT))),
    }
}

fn own_addresses(interface: &Interface) -> impl Iterator<Item = IpAddr> {
    // The packet path's tunnels are IPv4 so far.
    interface
        .addresses
        .iter()
        .map(|(address, _)| *address)
        .filter(IpAddr::is_ipv4)
}

fn first_address(interface: &Interface) -> Option<IpAddr> {
    own_addresses(interface).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(interfaces: &[(&str, &[&str])], default: &[u32]) -> HostView {
        let mut view = HostView::default();
        for (index, (name, addresses)) in interfaces.iter().enumerate() {
            let interface = Interface {
                index: index as u32 + 1,
                name: (*name).into(),
                mtu: 1500,
                up: true,
                loopback: *name == "lo",
                ethernet: *name != "lo",
                kind: String::new(),
                addresses: addresses.iter().map(|a| (a.parse().unwrap(), 24)).collect(),
            };
            view.interfaces.insert((*name).into(), interface);
        }
        view.default_routes = default.iter().copied().collect();
        view
    }

    #[test]
    fn chosen_addresses() {
        let lan = view(&[("lo", &["127.0.0.1"]), ("eth0", &["192.0.2.5"])], &[]);
        let two = view(
            &[("eth0", &["192.0.2.5"]), ("eth1", &["198.51.100.5"])],
            &[],
        );
        let routed = view(
            &[("eth0", &["192.0.2.5"]), ("eth1", &["198.51.100.5"])],
            &[2],
        );
        let none = view(&[("lo", &["127.0.0.1"])], &[]);
        let table: &[(&HostView, Option<&str>, &str)] = &[
            (&lan, None, "192.0.2.5:2377"),
            (&lan, Some("eth0"), "192.0.2.5:2377"),
            (&lan, Some("eth0:99"), "192.0.2.5:99"),
            (&lan, Some("203.0.113.1"), "203.0.113.1:2377"),
            (&lan, Some("203.0.113.1:99"), "203.0.113.1:99"),
            (&routed, None, "198.51.100.5:2377"),
        ];
        let any = "0.0.0.0:2377".parse().unwrap();
        for (host, asked, expected) in table {
            let got = advertise(host, *asked, any).map(|a| a.to_string());
            assert_eq!(got.as_deref(), Ok(*expected), "{asked:?}");
        }
        assert!(matches!(
            advertise(&two, None, any),
            Err(AddressError::Several(_))
        ));
        assert_eq!(advertise(&none, None, any), Err(AddressError::None));
        assert_eq!(
            advertise(&lan, Some("eth7"), any),
            Err(AddressError::Interface("eth7".into()))
        );
        assert!(matches!(
            advertise(&lan, Some("eth0:x"), any),
            Err(AddressError::Port(_))
        ));
    }
}
