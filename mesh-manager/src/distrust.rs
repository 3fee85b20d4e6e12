//! A connection that keeps in mind that its other end does not trust the certificate shown to it. In TLS 1.3 that comes to
//! light after the handshake, and HTTP/2 does not hand it on.

use rustls::AlertDescription;
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

/// Whether the other end of a connection does not trust the root of the certificate shown to it.
#[derive(Debug, Clone, Default)]
pub struct Distrust(Arc<AtomicBool>);

impl Distrust {
    /// Whether that has come to light.
    pub fn is_known(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn note(&self, error: &io::Error) {
        let inner = error.get_ref().and_then(|e| e.downcast_ref());
        let Some(rustls::Error::AlertReceived(alert)) = inner else {
            return;
        };
        // Roots of one name differ by what their keys have signed.
        let is_distrust = [AlertDescription::UnknownCA, AlertDescription::DecryptError];
        if is_distrust.contains(alert) {
            self.0.store(true, Ordering::Release);
        }
    }
}

/// The connection.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) stream: TlsStream<TcpStream>,
    pub(crate) distrust: Distrust,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        if let Err(error) = &read {
            self.distrust.note(error);
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Watched {
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
