//! The client of the control socket: HTTP over a Unix socket, one connection
//! per call.

mod error;
mod handouts;
mod node_local;
mod nodes;
mod services;
mod swarm;
mod transport;
mod volumes;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body_util::BodyExt;
use hyper::{Method, Response, body::Incoming, header};
use serde::{Serialize, de::DeserializeOwned};

pub use error::ClientError;
pub use node_local::LogOptions;
pub use swarm::Rotate;
pub use transport::{Body, Upgraded, encode};

use crate::{API_VERSION, Filters, spelling};
use transport::{empty_body, json_body};

/// A stream of bytes from the agent.
pub type ByteStream = futures::stream::BoxStream<'static, Result<Bytes, ClientError>>;

/// Arguments of a call, in order.
pub type Query = Vec<(&'static str, String)>;

/// Speaks to one agent.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    warnings: Arc<Mutex<BTreeSet<String>>>,
}

impl Client {
    /// A client of the agent that listens at `path`. Nothing is sent yet.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self {
            socket: path.into(),
            warnings: Arc::default(),
        }
    }

    /// A client of `unix:///path` or of a plain path.
    ///
    /// # Errors
    /// [`ClientError::Host`] for any other scheme: the agent listens on Unix sockets only.
    pub fn from_host(host: &str) -> Result<Self, ClientError> {
        match host.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::unix(path)),
            None if host.starts_with('/') => Ok(Self::unix(host)),
            _ => Err(ClientError::Host(host.to_owned())),
        }
    }

    /// Sends a request and gives the response when its status is a success.
    ///
    /// # Errors
    /// [`ClientError::Connect`] when nobody listens, [`ClientError::Daemon`] with the
    /// agent's own words when it refuses, [`ClientError::Transport`] when the connection breaks.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        query: &[(&'static str, String)],
        body: Body,
        headers: &[(&'static str, String)],
    ) -> Result<Response<Incoming>, ClientError> {
        let mut target = format!("/v{API_VERSION}{path}");
        for (index, (key, value)) in query.iter().enumerate() {
            target.push(if index == 0 { '?' } else { '&' });
            target.push_str(key);
            target.push('=');
            target.push_str(&transport::encode(value));
        }
        let response = transport::send(&self.socket, method, &target, body, headers).await?;
        let told = response.headers().get_all(header::WARNING);
        let told = told
            .iter()
            .filter_map(|value| warning_text(value.to_str().ok()?));
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.extend(told.map(str::to_owned));
        drop(warnings);
        Ok(response)
    }

    /// What answers so far came with for people to know, each once.
    pub fn take_warnings(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// GET, with the answer read as JSON.
    ///
    /// # Errors
    /// As [`request`](Self::request), and [`ClientError::Decode`] when the answer is of another shape.
    pub async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&'static str, String)],
    ) -> Result<T, ClientError> {
        let response = self
            .request(Method::GET, path, query, empty_body(), &[])
            .await?;
        read_json(response).await
    }

    /// POST of a JSON body, with the answer read as JSON.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&'static str, String)],
        body: &B,
    ) -> Result<T, ClientError> {
        self.post_with(path, query, body, &[]).await
    }

    /// As [`post`](Self::post), with headers.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn post_with<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&'static str, String)],
        body: &B,
        headers: &[(&'static str, String)],
    ) -> Result<T, ClientError> {
        let response = self
            .request(Method::POST, path, query, json_body(body)?, headers)
            .await?;
        read_json(response).await
    }

    /// POST of a JSON body whose answer carries nothing.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn post_empty<B: Serialize>(
        &self,
        path: &str,
        query: &[(&'static str, String)],
        body: &B,
    ) -> Result<(), ClientError> {
        self.request(Method::POST, path, query, json_body(body)?, &[])
            .await?;
        Ok(())
    }

    /// DELETE.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn delete(
        &self,
        path: &str,
        query: &[(&'static str, String)],
    ) -> Result<(), ClientError> {
        self.request(Method::DELETE, path, query, empty_body(), &[])
            .await?;
        Ok(())
    }
}

/// The text of a `Warning` header: `110 agent "text"`.
fn warning_text(header: &str) -> Option<&str> {
    header.split_once('"')?.1.strip_suffix('"')
}

/// The query argument of list calls.
fn filter_query(filters: &Filters) -> Query {
    filters
        .to_query()
        .map(|text| vec![("filters", text)])
        .unwrap_or_default()
}

/// The header that carries a registry's credentials.
fn auth_header(auth: Option<&str>) -> Vec<(&'static str, String)> {
    auth.map(|auth| vec![("x-registry-auth", auth.to_owned())])
        .unwrap_or_default()
}

/// The body of a response as it arrives.
fn byte_stream(response: Response<Incoming>) -> ByteStream {
    response
        .into_body()
        .into_data_stream()
        .map(|piece| piece.map_err(ClientError::Transport))
        .boxed()
}

/// Cuts a stream of bytes into lines of JSON.
pub fn json_lines<T: DeserializeOwned + Send + 'static>(
    stream: ByteStream,
) -> impl Stream<Item = Result<T, ClientError>> + Send {
    let reader =
        tokio_util::io::StreamReader::new(stream.map(|piece| piece.map_err(std::io::Error::other)));
    let lines = tokio_util::codec::FramedRead::new(reader, tokio_util::codec::LinesCodec::new());
    lines.filter_map(|line| async move {
        match line {
            Ok(text) if text.trim().is_empty() => None,
            Ok(text) => Some(serde_json::from_str(&text).map_err(ClientError::Decode)),
            Err(error) => Some(Err(ClientError::Stream(error.to_string()))),
        }
    })
}

async fn read_json<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, ClientError> {
    let bytes = response.into_body().collect().await?.to_bytes();
    spelling::from_slice(&bytes).map_err(ClientError::Decode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let client = Client::from_host("unix:///run/mesh/mesh.sock").expect("unix");
        assert_eq!(client.socket, PathBuf::from("/run/mesh/mesh.sock"));
        assert!(Client::from_host("/tmp/x.sock").is_ok());
        let error = Client::from_host("tcp://1.2.3.4:2375").expect_err("tcp");
        assert_eq!(
            error.to_string(),
            "cannot use host \"tcp://1.2.3.4:2375\": give a socket as unix:///path"
        );
    }

    #[tokio::test]
    async fn nobody_listens() {
        let error = Client::unix("/nonexistent/mesh.sock")
            .version()
            .await
            .expect_err("no agent");
        assert_eq!(
            error.to_string(),
            "cannot connect to the mesh agent at unix:///nonexistent/mesh.sock: is mesh-agent running?"
        );
    }
}
