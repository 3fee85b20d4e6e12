//! Connections that stop being HTTP, and a command's streams on them.

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use hyper::ext::ReasonPhrase;
use hyper_util::rt::TokioIo;
use mesh_api::frames::StreamKind;
use mesh_runtime::{ExecSession, RuntimeError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::api::stream::{media_type, piece};

/// Bytes read at once from a command, and so the longest payload of a frame.
const CHUNK: usize = 32 << 10;

/// A connection that has stopped being HTTP.
pub(in crate::api) type Connection = TokioIo<hyper::upgrade::Upgraded>;

/// Answers `101 UPGRADED` and gives the connection once the answer has been sent; nothing if the
/// client went away.
pub(in crate::api) fn hijack(
    mut request: Request,
    terminal: bool,
) -> (
    Response,
    impl Future<Output = Option<Connection>> + Send + 'static,
) {
    let upgrade = hyper::upgrade::on(&mut request);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response
        .extensions_mut()
        .insert(ReasonPhrase::from_static(b"UPGRADED"));
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
    headers.insert(header::CONTENT_TYPE, media_type(terminal));
    (response, async { upgrade.await.ok().map(TokioIo::new) })
}

/// Lets a command run with nobody listening.
pub(super) async fn drain(session: ExecSession, ended: impl FnOnce(i32)) {
    let nobody = tokio::io::join(tokio::io::empty(), tokio::io::sink());
    relay(nobody, session, true, ended).await;
}

/// Carries a command's streams until it has ended. The exit code is recorded before the connection
/// closes, because that is when clients ask for it.
pub(super) async fn relay(
    connection: impl AsyncRead + AsyncWrite,
    session: ExecSession,
    terminal: bool,
    ended: impl FnOnce(i32),
) {
    let ExecSession {
        stdin,
        stdout,
        stderr,
        handle,
    } = session;
    let (mut from_client, to_client) = tokio::io::split(connection);
    let to_client = tokio::sync::Mutex::new(to_client);
    let input = async {
        if let Some(mut stdin) = stdin {
            // Either side may close first; then there is nothing more to carry.
            let _ = tokio::io::copy(&mut from_client, &mut stdin).await;
            let _ = stdin.shutdown().await;
        }
        // Input never ends the exec.
        std::future::pending::<()>().await;
    };
    let output = async {
        tokio::join!(
            send(stdout, StreamKind::Stdout, terminal, &to_client),
            send(stderr, StreamKind::Stderr, terminal, &to_client),
        );
    };
    tokio::select! {
        () = input => {}
        () = output => {}
    }
    let code = handle
        .wait()
        .await
        .unwrap_or_else(|error| error.exit_code());
    ended(code);
    // A client that is gone has nothing to be told.
    let _ = to_client.into_inner().shutdown().await;
}

async fn send<R, W>(
    source: Option<R>,
    kind: StreamKind,
    terminal: bool,
    sink: &tokio::sync::Mutex<W>,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let Some(mut source) = source else {
        return;
    };
    let mut buffer = vec![0; CHUNK];
    // A client that went away does not stop the command: its output is read on.
    let mut listening = true;
    while let Ok(length @ 1..) = source.read(&mut buffer).await {
        if !listening {
            continue;
        }
        let piece = piece(kind, Bytes::copy_from_slice(&buffer[..length]), terminal);
        listening = sink.lock().await.write_all(&piece).await.is_ok();
    }
}

/// Tells on the stream why the command could not be started.
pub(super) async fn complain(mut connection: Connection, terminal: bool, error: &RuntimeError) {
    let text = Bytes::from(format!("{error}\r\n"));
    let piece = piece(StreamKind::Stderr, text, terminal);
    // A client that is gone has nothing to be told.
    let _ = connection.write_all(&piece).await;
    let _ = connection.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_becomes_frames() {
        let sink = tokio::sync::Mutex::new(Vec::new());
        send(Some(&b"hi"[..]), StreamKind::Stdout, false, &sink).await;
        send(Some(&b"raw"[..]), StreamKind::Stdout, true, &sink).await;
        assert_eq!(sink.into_inner(), b"\x01\0\0\0\0\0\0\x02hiraw");
    }
}
