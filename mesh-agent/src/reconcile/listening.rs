//! Whether a started task answers yet: a socket has to be open on each port that its service publishes.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use mesh_api::proto::{self, Protocol};
use mesh_runtime::ContainerInfo;
use procfs::{ProcResult, net::TcpState, process::Process};

use crate::assignment::Assignment;

/// How long a command may take, from its start, until it listens. A task that never does is taken for running
/// then, as one that publishes nothing is at once.
const LIMIT: Duration = Duration::from_secs(10);

/// How often the sockets are looked at.
const POLL: Duration = Duration::from_millis(10);

/// Ports inside the task.
pub(crate) type Ports = BTreeSet<(Protocol, u16)>;

/// The ports on which clients expect a task.
pub(crate) fn ports(assignment: &Assignment, task: &proto::Task) -> Ports {
    let service = assignment.services.get(&task.service_id);
    service
        .into_iter()
        .flat_map(|service| &service.ports)
        .filter_map(|port| Some((port.protocol(), u16::try_from(port.target).ok()?)))
        // The kernel does not list the sockets of SCTP by process.
        .filter(|(protocol, _)| *protocol != Protocol::Sctp)
        .collect()
}

/// Waits until all ports are open, or have been waited for long enough.
pub(crate) async fn wait(container: &ContainerInfo, ports: &Ports) {
    let age = container
        .started_at
        .and_then(|at| (chrono::Utc::now() - at).to_std().ok())
        .unwrap_or_default();
    let open = async {
        while !are_open(container.pid, ports) {
            tokio::time::sleep(POLL).await;
        }
    };
    if tokio::time::timeout(LIMIT.saturating_sub(age), open)
        .await
        .is_err()
    {
        tracing::warn!(
            task = container.spec.id,
            ?ports,
            "the task does not listen on a port that its service publishes"
        );
    }
}

/// Whether a process' network namespace has a socket for each port. What cannot be read is not open.
fn are_open(pid: u32, ports: &Ports) -> bool {
    let missing = |protocol| {
        let wanted: Vec<u16> = ports
            .iter()
            .filter(|(p, _)| *p == protocol)
            .map(|(_, port)| *port)
            .collect();
        move |found: &[SocketAddr]| {
            wanted.iter().any(|port| {
                !found
                    .iter()
                    .any(|at| at.port() == *port && !at.ip().to_canonical().is_loopback())
            })
        }
    };
    let (tcp, udp) = (missing(Protocol::Tcp), missing(Protocol::Udp));
    sockets(pid).is_ok_and(|(listening, bound)| !tcp(&listening) && !udp(&bound))
}

/// Where a process' namespace listens (TCP) and is bound (UDP).
fn sockets(pid: u32) -> ProcResult<(Vec<SocketAddr>, Vec<SocketAddr>)> {
    let process = Process::new(pid.cast_signed())?;
    let listening = process.tcp()?.into_iter().chain(process.tcp6()?);
    let bound = process.udp()?.into_iter().chain(process.udp6()?);
    Ok((
        listening
            .filter(|entry| entry.state == TcpState::Listen)
            .map(|entry| entry.local_address)
            .collect(),
        bound.map(|entry| entry.local_address).collect(),
    ))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn are_open_here(protocol: Protocol, port: u16) -> bool {
        are_open(std::process::id(), &[(protocol, port)].into())
    }

    #[test]
    fn a_port_is_open_while_it_is_listened_on() {
        let outside = TcpListener::bind("0.0.0.0:0").unwrap();
        let inside = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = outside.local_addr().unwrap().port();
        assert!(are_open_here(Protocol::Tcp, port));
        assert!(!are_open_here(Protocol::Udp, port));
        let hidden = inside.local_addr().unwrap().port();
        assert!(!are_open_here(Protocol::Tcp, hidden), "nobody reaches it");
        drop(outside);
        assert!(!are_open_here(Protocol::Tcp, port));
        let datagrams = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = datagrams.local_addr().unwrap().port();
        assert!(are_open_here(Protocol::Udp, port));
    }
}
