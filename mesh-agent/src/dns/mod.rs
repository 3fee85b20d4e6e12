//! Names inside tasks: which zone an assignment makes, and a server at 127.0.0.11:53 in every task's
//! namespace. How questions are answered is mesh-dns's business.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

use mesh_dns::{Server, Upstreams, Zone};
use tokio::sync::watch;

use crate::links::netns;

/// Where the resolver of every task points.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// Opens the sockets in the namespace at `netns`, whose loopback is up, and serves.
///
/// # Errors
/// When the namespace is gone or the port is taken.
pub async fn start(
    netns: &Path,
    zone: watch::Receiver<Arc<Zone>>,
    networks: Vec<String>,
    upstreams: Upstreams,
) -> io::Result<Server> {
    let (udp, tcp) = netns::within_async(netns, || {
        let address = SocketAddr::from((SERVER, 53));
        Ok((
            std::net::UdpSocket::bind(address)?,
            std::net::TcpListener::bind(address)?,
        ))
    })
    .await?;
    Server::start(udp, tcp, zone, networks, upstreams)
}

/// The name servers in a resolv.conf, tasks' own one left out.
pub fn upstreams(resolv_conf: &str) -> Vec<SocketAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.split_whitespace().next()?.parse::<IpAddr>().ok())
        .filter(|address| *address != IpAddr::V4(SERVER))
        .map(|address| SocketAddr::new(address, 53))
        .collect()
}

/// The upstream servers of the node: those of the flags, else of `resolv_conf`.
pub fn node_upstreams(flags: &[Ipv4Addr], resolv_conf: &Path) -> Vec<SocketAddr> {
    if flags.is_empty() {
        std::fs::read_to_string(resolv_conf).map_or_else(|_| Vec::new(), |text| upstreams(&text))
    } else {
        flags
            .iter()
            .map(|address| SocketAddr::new(IpAddr::V4(*address), 53))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read() {
        let text = "# c\nnameserver 1.1.1.1\n nameserver\t9.9.9.9 # x\nnameserver 127.0.0.11\nsearch a\nnameserver fe80::1%eth0\nnameserver 2620:fe::fe\n";
        let got: Vec<_> = upstreams(text).iter().map(ToString::to_string).collect();
        assert_eq!(got, ["1.1.1.1:53", "9.9.9.9:53", "[2620:fe::fe]:53"]);
    }
}
