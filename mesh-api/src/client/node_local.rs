//! Calls about what is on the node itself: its containers, its images, exec.

use bytes::Bytes;
use futures::Stream;
use hyper::{Method, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;

use super::{
    ByteStream, Client, ClientError, Query, Upgraded, auth_header, byte_stream, empty_body,
    filter_query, json_body,
    transport::{encode, stream_body},
};
use crate::{
    Filters,
    engine::{
        ContainerInspectResponse, ContainerSummary, ExecConfig, ExecInspectResponse, IdResponse,
        ImageInspect, ImageSummary,
    },
};

/// Which lines of a log to send, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Go on as lines are written.
    pub follow: bool,
    /// Put the time before each line.
    pub timestamps: bool,
    /// Put `key=value,..` before each line: where it comes from.
    pub details: bool,
    /// So many lines from the end of each task's log; all without.
    pub tail: Option<u64>,
    /// Only lines written since, as `seconds[.nanoseconds]` since the Unix epoch.
    pub since: Option<String>,
    /// Only lines written until, likewise.
    pub until: Option<String>,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            stdout: true,
            stderr: true,
            follow: false,
            timestamps: false,
            details: false,
            tail: None,
            since: None,
            until: None,
        }
    }
}

impl LogOptions {
    pub(super) fn query(&self) -> Query {
        let mut query: Query = Vec::new();
        let flags = [
            ("stdout", self.stdout),
            ("stderr", self.stderr),
            ("follow", self.follow),
            ("timestamps", self.timestamps),
            ("details", self.details),
        ];
        for (name, on) in flags {
            if on {
                query.push((name, "1".to_owned()));
            }
        }
        let tail = self
            .tail
            .map_or_else(|| "all".to_owned(), |lines| lines.to_string());
        query.push(("tail", tail));
        for (name, time) in [("since", &self.since), ("until", &self.until)] {
            if let Some(time) = time {
                query.push((name, time.clone()));
            }
        }
        query
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ExecStart {
    detach: bool,
    tty: bool,
}

impl Client {
    /// The node's containers; the running ones only, unless `all`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn containers(
        &self,
        all: bool,
        filters: &Filters,
    ) -> Result<Vec<ContainerSummary>, ClientError> {
        let mut query = filter_query(filters);
        if all {
            query.push(("all", "1".to_owned()));
        }
        self.get("/containers/json", &query).await
    }

    /// One of the node's containers, by id, name, task id or unique prefix.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn container(
        &self,
        reference: &str,
    ) -> Result<ContainerInspectResponse, ClientError> {
        self.get(&format!("/containers/{}/json", encode(reference)), &[])
            .await
    }

    /// Removes a container; one that runs only by `force`. Its service replaces it.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn container_remove(&self, reference: &str, force: bool) -> Result<(), ClientError> {
        let query = match force {
            true => vec![("force", "1".to_owned())],
            false => Vec::new(),
        };
        self.delete(&format!("/containers/{}", encode(reference)), &query)
            .await
    }

    /// The log lines of a container, as frames (raw bytes with a terminal).
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn container_logs(
        &self,
        reference: &str,
        options: &LogOptions,
    ) -> Result<ByteStream, ClientError> {
        self.logs(&format!("/containers/{}/logs", encode(reference)), options)
            .await
    }

    /// Prepares a command in a container. Gives the exec's id.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn exec_create(
        &self,
        container: &str,
        config: &ExecConfig,
    ) -> Result<String, ClientError> {
        let path = format!("/containers/{}/exec", encode(container));
        let answer: IdResponse = self.post(&path, &[], config).await?;
        Ok(answer.id)
    }

    /// Starts it, and gives the connection that carries its streams: frames from the command
    /// (raw bytes with a terminal), raw bytes to it.
    ///
    /// # Errors
    /// As [`request`](Self::request); [`ClientError::Stream`] when the agent does not upgrade.
    pub async fn exec_start(&self, exec: &str, tty: bool) -> Result<Upgraded, ClientError> {
        let body = json_body(&ExecStart { detach: false, tty })?;
        let headers = [
            (header::CONNECTION.as_str(), "Upgrade".to_owned()),
            (header::UPGRADE.as_str(), "tcp".to_owned()),
        ];
        let path = format!("/exec/{}/start", encode(exec));
        let response = self
            .request(Method::POST, &path, &[], body, &headers)
            .await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(ClientError::Stream(format!(
                "the agent answered {} instead of opening a stream",
                response.status()
            )));
        }
        Ok(TokioIo::new(hyper::upgrade::on(response).await?))
    }

    /// Starts it without its streams.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn exec_start_detached(&self, exec: &str, tty: bool) -> Result<(), ClientError> {
        let body = ExecStart { detach: true, tty };
        self.post_empty(&format!("/exec/{}/start", encode(exec)), &[], &body)
            .await
    }

    /// Tells the command's terminal its size, in characters.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn exec_resize(
        &self,
        exec: &str,
        rows: u16,
        columns: u16,
    ) -> Result<(), ClientError> {
        let query = [("h", rows.to_string()), ("w", columns.to_string())];
        self.post_empty(&format!("/exec/{}/resize", encode(exec)), &query, &())
            .await
    }

    /// How the command is getting on, or how it ended.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn exec_inspect(&self, exec: &str) -> Result<ExecInspectResponse, ClientError> {
        self.get(&format!("/exec/{}/json", encode(exec)), &[]).await
    }

    /// The node's images.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn images(&self, filters: &Filters) -> Result<Vec<ImageSummary>, ClientError> {
        self.get("/images/json", &filter_query(filters)).await
    }

    /// One of the node's images.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn image(&self, reference: &str) -> Result<ImageInspect, ClientError> {
        self.get(&format!("/images/{}/json", encode(reference)), &[])
            .await
    }

    /// Removes an image from the node.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn image_remove(&self, reference: &str, force: bool) -> Result<(), ClientError> {
        let query = if force {
            vec![("force", "1".to_owned())]
        } else {
            Vec::new()
        };
        self.delete(&format!("/images/{}", encode(reference)), &query)
            .await
    }

    /// Sends an archive of images. The answer is lines of
    /// [`ProgressLine`](crate::progress::ProgressLine).
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn image_load(
        &self,
        archive: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<ByteStream, ClientError> {
        let headers = [(
            header::CONTENT_TYPE.as_str(),
            "application/x-tar".to_owned(),
        )];
        let query = [("quiet", "0".to_owned())];
        let response = self
            .request(
                Method::POST,
                "/images/load",
                &query,
                stream_body(archive),
                &headers,
            )
            .await?;
        Ok(byte_stream(response))
    }

    /// Pulls an image. The answer is lines of [`ProgressLine`](crate::progress::ProgressLine).
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn image_pull(
        &self,
        name: &str,
        tag: &str,
        auth: Option<&str>,
    ) -> Result<ByteStream, ClientError> {
        let query = [("fromImage", name.to_owned()), ("tag", tag.to_owned())];
        let response = self
            .request(
                Method::POST,
                "/images/create",
                &query,
                empty_body(),
                &auth_header(auth),
            )
            .await?;
        Ok(byte_stream(response))
    }
}
