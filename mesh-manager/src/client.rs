//! How a node reaches the managers: channels over mutual TLS, and joining by token.

use crate::distrust::Watched;
use hyper_util::rt::TokioIo;
use mesh_api::proto::{self, node_ca_client::NodeCaClient};
use mesh_pki::{JoinToken, KeyAndRequest, NodeIdentity, PkiError, tls};
use rustls::pki_types::ServerName;
use std::{io, net::IpAddr, sync::Arc, time::Duration};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{
    Code,
    transport::{Channel, Endpoint, Uri},
};

pub use crate::distrust::Distrust;

/// Where a manager that does not lead says who does: metadata of its refusal of a session.
pub const LEADER_ADDRESS: &str = "mesh-leader";

/// Longest wait for a manager to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait for a manager to sign a certificate, or to remove who has got one.
const ISSUE_TIMEOUT: Duration = Duration::from_secs(20);
/// An idle connection is probed this often, so that a dead manager is noticed.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// Why a manager could not be reached or refused.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answered at the address.
    #[error("cannot reach a manager at {address}; check the address and that port is open")]
    Connect {
        /// "address:port".
        address: String,
        /// What the transport said.
        source: tonic::transport::Error,
    },
    /// Whoever answers is not a manager of this cluster.
    #[error("cannot trust the manager at {address}: {reason}")]
    Untrusted {
        /// "address:port".
        address: String,
        /// What is wrong with its certificate.
        reason: String,
    },
    /// The manager said no.
    #[error("the manager at {address} refused: {message}")]
    Refused {
        /// "address:port".
        address: String,
        /// Its words.
        message: String,
    },
    /// The manager was asked, and may have done it or not.
    #[error("the manager at {address} did not answer: {message}")]
    Unanswered {
        /// "address:port".
        address: String,
        /// What went wrong.
        message: String,
    },
    /// Keys, certificates or tokens are wrong.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

/// Opens a gRPC channel to the manager at `address` ("host:port") and waits until it stands.
///
/// # Errors
/// [`ClientError::Connect`] when nobody answers, [`ClientError::Untrusted`] when it is not a manager of this cluster.
pub async fn connect(
    address: &str,
    tls: Arc<rustls::ClientConfig>,
) -> Result<Channel, ClientError> {
    let (channel, _) = connect_watched(address, tls).await?;
    Ok(channel)
}

/// The same, and whether the manager turns out not to trust the certificate shown to it.
///
/// # Errors
/// As [`connect`].
pub async fn connect_watched(
    address: &str,
    tls: Arc<rustls::ClientConfig>,
) -> Result<(Channel, Distrust), ClientError> {
    let distrust = Distrust::default();
    let failed = |source: tonic::transport::Error| match untrusted(&source) {
        Some(reason) => ClientError::Untrusted {
            address: address.to_owned(),
            reason,
        },
        None => ClientError::Connect {
            address: address.to_owned(),
            source,
        },
    };
    let channel = endpoint(address)
        .map_err(failed)?
        .connect_with_connector(connector(move || tls.clone(), distrust.clone()))
        .await
        .map_err(failed)?;
    Ok((channel, distrust))
}

/// What TLS found wrong, if that is why a connection failed.
fn untrusted(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        if let Some(tls) = inner.and_then(|e| e.downcast_ref::<rustls::Error>()) {
            return Some(tls.to_string());
        }
        next = error.source();
    }
    None
}

/// As [`connect`], but connects at first use and again whenever the connection is lost, each time
/// with what `tls` gives then.
pub(crate) fn connect_lazy(
    address: &str,
    tls: impl Fn() -> Arc<rustls::ClientConfig> + Send + Sync + 'static,
) -> Result<Channel, ClientError> {
    let failed = |source| ClientError::Connect {
        address: address.to_owned(),
        source,
    };
    Ok(endpoint(address)
        .map_err(failed)?
        .connect_with_connector_lazy(connector(tls, Distrust::default())))
}

fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    // TLS is the connector's business: to tonic the connection is plain.
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE * 2)
        .keep_alive_while_idle(true))
}

fn connector(
    tls: impl Fn() -> Arc<rustls::ClientConfig> + Send + Sync + 'static,
    distrust: Distrust,
) -> impl tower::Service<Uri, Response = TokioIo<Watched>, Error = io::Error, Future: Send>
+ Send
+ 'static {
    tower::service_fn(move |uri: Uri| {
        let tls = TlsConnector::from(tls());
        let distrust = distrust.clone();
        async move {
            let host = uri
                .host()
                .unwrap_or_default()
                .trim_matches(['[', ']'])
                .to_owned();
            let port = uri.port_u16().unwrap_or(crate::config::DEFAULT_PORT);
            let stream = TcpStream::connect((host.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from(tls::MANAGER_NAME)
                .map_err(|e| io::Error::other(e.to_string()))?;
            let stream = tls.connect(name, stream).await?;
            Ok(TokioIo::new(Watched { stream, distrust }))
        }
    })
}

/// What a node that joins is given.
#[derive(Debug)]
pub struct Joined {
    /// Who it is from now on; not saved yet.
    pub identity: NodeIdentity,
    /// UDP port of VXLAN, the same on every node of the cluster.
    pub data_path_port: u16,
}

/// Joins a cluster: trusts the manager at `address` by the token's digest, has a fresh key signed,
/// and returns the node's new identity. `availability` is `active`, `pause` or
/// `drain`; `data_path` the node's tunnel end point.
///
/// # Errors
/// As [`connect`]; [`ClientError::Pki`] when the token is none, [`ClientError::Refused`] with the manager's words.
pub async fn join(
    address: &str,
    token: &str,
    availability: &str,
    data_path: IpAddr,
) -> Result<Joined, ClientError> {
    let key = mesh_pki::new_key_and_request()?;
    join_by(&key, address, token, availability, data_path).await
}

/// The same by a key that the node keeps until it has joined: if it asks again, because an answer was lost, it is the same
/// node.
///
/// # Errors
/// As [`join`].
pub async fn join_by(
    key: &KeyAndRequest,
    address: &str,
    token: &str,
    availability: &str,
    data_path: IpAddr,
) -> Result<Joined, ClientError> {
    let parsed: JoinToken = token.parse()?;
    let channel = connect(address, tls::pinned_client_config(&parsed.digest)?).await?;
    let request = proto::IssueNodeCertificateRequest {
        token: token.to_owned(),
        availability: availability.to_owned(),
        data_path_address: data_path.to_string(),
        ..Default::default()
    };
    issue(address, channel, request, key).await
}

/// Renews a node's certificate: a new key, the same id, the role that the managers hold now.
///
/// # Errors
/// As [`join`].
pub async fn renew(address: &str, identity: &NodeIdentity) -> Result<NodeIdentity, ClientError> {
    let channel = connect(address, tls::client_config(identity)?).await?;
    let key = mesh_pki::new_key_and_request()?;
    let renewed = issue(address, channel, Default::default(), &key).await?;
    Ok(renewed.identity)
}

/// Takes a join back that came to nothing after a certificate was given: the node is removed again. One that has had a session
/// is not.
///
/// # Errors
/// As [`connect`]; [`ClientError::Refused`] with the manager's words.
pub async fn withdraw(address: &str, identity: &NodeIdentity) -> Result<(), ClientError> {
    let channel = connect(address, tls::client_config(identity)?).await?;
    take_back(address, channel, proto::WithdrawRequest::default()).await
}

/// The same for a join by this key that was not answered, if it was made at all.
///
/// # Errors
/// As [`join`].
pub async fn withdraw_unanswered(
    key: &KeyAndRequest,
    address: &str,
    token: &str,
) -> Result<(), ClientError> {
    let parsed: JoinToken = token.parse()?;
    let channel = connect(address, tls::pinned_client_config(&parsed.digest)?).await?;
    let request = proto::WithdrawRequest {
        token: token.to_owned(),
        csr_pem: key.request_pem.clone().into_bytes(),
    };
    take_back(address, channel, request).await
}

async fn take_back(
    address: &str,
    channel: Channel,
    request: proto::WithdrawRequest,
) -> Result<(), ClientError> {
    let mut request = tonic::Request::new(request);
    request.set_timeout(ISSUE_TIMEOUT);
    let done = NodeCaClient::new(channel).withdraw(request).await;
    done.map(drop).map_err(|status| ClientError::Refused {
        address: address.to_owned(),
        message: status.message().to_owned(),
    })
}

async fn issue(
    address: &str,
    channel: Channel,
    asked: proto::IssueNodeCertificateRequest,
    pair: &KeyAndRequest,
) -> Result<Joined, ClientError> {
    let mut request = tonic::Request::new(proto::IssueNodeCertificateRequest {
        csr_pem: pair.request_pem.clone().into_bytes(),
        ..asked
    });
    request.set_timeout(ISSUE_TIMEOUT);
    let refused = |message: String| ClientError::Refused {
        address: address.to_owned(),
        message,
    };
    let answer = NodeCaClient::new(channel)
        .issue_node_certificate(request)
        .await
        .map_err(|status| match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
                ClientError::Unanswered {
                    address: address.to_owned(),
                    message: status.message().to_owned(),
                }
            }
            _ => refused(status.message().to_owned()),
        })?
        .into_inner();
    let data_path_port = u16::try_from(answer.data_path_port)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| {
            refused(format!(
                "it names {} as the data path port",
                answer.data_path_port
            ))
        })?;
    let text = |bytes: Vec<u8>| {
        String::from_utf8(bytes).map_err(|e| PkiError::InvalidCertificate {
            reason: e.to_string(),
        })
    };
    let identity = NodeIdentity::new(
        text(answer.certificate_pem)?,
        pair.key_pem.clone(),
        text(answer.root_ca_pem)?,
    )?;
    Ok(Joined {
        identity,
        data_path_port,
    })
}
