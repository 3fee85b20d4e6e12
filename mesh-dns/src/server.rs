//! The server on one task's pair of sockets.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, UdpSocket},
    sync::watch,
};

use crate::{Upstreams, Zone, handler::Handler};

/// A TCP connection that asks nothing for this long is closed.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Answers a TCP connection may have under way.
const TCP_QUEUE: usize = 16;

/// The DNS server of one task; dropping it closes its sockets.
pub struct Server {
    // Its tasks end with it.
    _server: hickory_server::Server<Handler>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// Answers on `udp` and `tcp`, sockets of the task's namespace, for a task on `networks` (ids).
    /// Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// The sockets cannot be registered with the runtime.
    pub fn start(
        udp: std::net::UdpSocket,
        tcp: std::net::TcpListener,
        zone: watch::Receiver<Arc<Zone>>,
        networks: Vec<String>,
        upstreams: Upstreams,
    ) -> io::Result<Self> {
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        let mut server = hickory_server::Server::new(Handler {
            zone,
            networks,
            upstreams,
        });
        server.register_socket(UdpSocket::from_std(udp)?);
        server.register_listener(TcpListener::from_std(tcp)?, TCP_IDLE, TCP_QUEUE);
        Ok(Self { _server: server })
    }
}
