//! A connection that was accepted, with what is known of its other end.

use rustls::pki_types::CertificateDer;
use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::SystemTime,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// The other end of a connection; it comes with each of its requests.
#[derive(Debug, Clone)]
pub(super) struct OtherEnd {
    pub(super) address: Option<IpAddr>,
    /// Verified by TLS, but may have expired.
    pub(super) certificate: Option<Arc<CertificateDer<'static>>>,
    /// When the connection was accepted: of a certificate that expires later, nothing is held against it.
    pub(super) since: SystemTime,
}

/// The connection.
#[derive(Debug)]
pub(super) struct Accepted {
    stream: TlsStream<TcpStream>,
    other_end: OtherEnd,
}

impl Accepted {
    /// One whose handshake has been done now.
    pub(super) fn new(stream: TlsStream<TcpStream>) -> Self {
        let (tcp, tls) = stream.get_ref();
        let leaf = tls.peer_certificates().and_then(<[_]>::first);
        let other_end = OtherEnd {
            address: tcp.peer_addr().ok().map(|address| address.ip()),
            certificate: leaf.map(|leaf| Arc::new(leaf.clone().into_owned())),
            since: SystemTime::now(),
        };
        Self { stream, other_end }
    }
}

impl Connected for Accepted {
    type ConnectInfo = OtherEnd;

    fn connect_info(&self) -> OtherEnd {
        self.other_end.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
