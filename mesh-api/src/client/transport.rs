//! One HTTP/1.1 exchange over a Unix socket, upgrades included.

use std::path::Path;

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use super::ClientError;
use crate::spelling;

/// The body of a request.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A connection that has stopped being HTTP.
pub type Upgraded = TokioIo<hyper::upgrade::Upgraded>;

/// No body.
pub(super) fn empty_body() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A JSON body.
///
/// # Errors
/// [`ClientError::Decode`] when the value has no JSON, such as a map with keys that are not text.
pub(super) fn json_body<T: Serialize>(value: &T) -> Result<Body, ClientError> {
    spelling::to_vec(value)
        .map(bytes_body)
        .map_err(ClientError::Decode)
}

/// A body of these bytes.
pub(super) fn bytes_body(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes))
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body sent as it is read.
pub(super) fn stream_body<S>(stream: S) -> Body
where
    S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
{
    BodyExt::boxed_unsync(StreamBody::new(stream.map_ok(Frame::data)))
}

/// Percent-encodes a value of a query or a path segment.
pub fn encode(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(byte as char);
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[derive(Deserialize)]
struct ErrorBody {
    message: String,
}

pub(super) async fn send(
    socket: &Path,
    method: Method,
    target: &str,
    body: Body,
    headers: &[(&'static str, String)],
) -> Result<Response<Incoming>, ClientError> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|cause| ClientError::Connect {
            socket: socket.to_owned(),
            cause,
        })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the response's body, or with the upgraded stream.
    tokio::spawn(connection.with_upgrades());
    let mut request = Request::builder()
        .method(method)
        .uri(target)
        .header(header::HOST, "mesh")
        .header(
            header::USER_AGENT,
            concat!("mesh-ctl/", env!("CARGO_PKG_VERSION")),
        )
        .header(header::CONTENT_TYPE, "application/json");
    // A header given by the caller replaces the default one.
    if let Some(defaults) = request.headers_mut() {
        for (name, value) in headers {
            let value = value.parse().map_err(hyper::http::Error::from)?;
            defaults.insert(*name, value);
        }
    }
    let request = request.body(body)?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    if status.is_success()
        || status == StatusCode::SWITCHING_PROTOCOLS
        || status == StatusCode::NOT_MODIFIED
    {
        return Ok(response);
    }
    let bytes = response.into_body().collect().await?.to_bytes();
    let message = match serde_json::from_slice::<ErrorBody>(&bytes) {
        Ok(body) => body.message,
        Err(_) => format!("{status}: {}", String::from_utf8_lossy(&bytes).trim()),
    };
    Err(ClientError::Daemon { status, message })
}

#[cfg(test)]
mod tests {
    use super::encode;

    #[test]
    fn values_are_encoded() {
        assert_eq!(encode("a b/c{\"x\":1}"), "a%20b%2Fc%7B%22x%22%3A1%7D");
    }
}
