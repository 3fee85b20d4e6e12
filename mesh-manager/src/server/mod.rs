//! The gRPC services of a manager, over mutual TLS on one port.

mod auth;
mod ca;
mod connection;
mod control;
mod dispatcher;
mod engine;
mod logs;
mod raft;
mod session;

pub(crate) use ca::status;

use crate::{Config, ManagerError, core::Core, leader::ENGINE, machine::Port, raft::MAX_MESSAGE};
use axum::middleware::from_fn_with_state;
use connection::Accepted;
use mesh_api::proto::{
    control_server::ControlServer, dispatcher_server::DispatcherServer,
    node_ca_server::NodeCaServer, raft_server::RaftServer,
};
use std::{io, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, service::Routes, transport::Server};

/// Longest TLS handshake; a client that is slower is cut off.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Finished handshakes that may wait for the server.
const BACKLOG: usize = 64;
/// Dead connections are found by pings at this interval.
const KEEPALIVE: Duration = Duration::from_secs(2);
/// Pause after the system refused to accept, say for want of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Does work that comes to an end also where the caller does not wait for it.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::spawn(work).await;
    done.map_err(|e| Status::internal(format!("the work ended early: {e}")))
}

/// Binds the managers' port.
pub(crate) async fn bind(config: &Config) -> Result<Port, ManagerError> {
    let address = config.listen;
    config.machine.bind(address).await.map_err(|e| {
        ManagerError::internal(
            &format!("cannot listen on {address} for nodes; choose another --listen-addr"),
            e,
        )
    })
}

/// Serves until the manager is cancelled.
pub(crate) fn serve(core: &Arc<Core>, port: Port, api: axum::Router) {
    let services = Routes::new(NodeCaServer::new(ca::Service::new(core.clone())))
        .add_service(
            DispatcherServer::new(dispatcher::Service(core.clone()))
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
        )
        .add_service(
            RaftServer::new(raft::Service(core.clone()))
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
        )
        .add_service(
            ControlServer::new(control::Service(core.clone()))
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
        );
    let api = api.layer(from_fn_with_state(core.clone(), engine::guard));
    let services = services.into_axum_router().nest(ENGINE, api);
    let listener = match port {
        Port::Bound(listener) => listener,
        Port::Simulated(machine, address) => return machine.serve(address, services),
    };
    let (connections, incoming) = mpsc::channel(BACKLOG);
    core.tasks
        .spawn(accept(core.clone(), listener, connections));
    let router = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE * 2))
        .tcp_nodelay(true)
        .add_routes(Routes::from(services));
    let cancel = core.cancel.clone();
    core.tasks.spawn(async move {
        let stopped = cancel.cancelled_owned();
        let served = router
            .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stopped)
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "the manager's services stopped");
        }
    });
}

/// Accepts connections; handshakes run beside one another, so that a slow one holds up nobody.
async fn accept(
    core: Arc<Core>,
    listener: TcpListener,
    connections: mpsc::Sender<io::Result<Accepted>>,
) {
    loop {
        let (stream, peer) = tokio::select! {
            () = core.cancel.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            },
        };
        let acceptor = TlsAcceptor::from(core.credentials.server());
        let connections = connections.clone();
        tokio::spawn(async move {
            // Small messages matter more than full packets here; without it they are only slower.
            let _ = stream.set_nodelay(true);
            match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => drop(connections.send(Ok(Accepted::new(stream))).await),
                Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
            }
        });
    }
}
