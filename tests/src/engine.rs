//! The Engine API as bytes: each exchange on a connection of its own.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// How long one exchange may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node's socket.
#[derive(Debug, Clone)]
pub struct Engine {
    socket: PathBuf,
}

/// A response.
#[derive(Debug)]
pub struct Response {
    /// Without the protocol: `200 OK`.
    pub status: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// All that comes after the headers.
    pub body: Vec<u8>,
}

impl Response {
    /// A header's value by its name in lower case; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    /// Whether it did as it was asked.
    pub fn is_success(&self) -> bool {
        self.status.starts_with('2')
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("not JSON: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The message of a refusal with this status.
    ///
    /// # Errors
    /// When it is not such a refusal.
    pub fn refused(&self, status: &str) -> Result<String> {
        ensure!(
            self.status.starts_with(status),
            "{} is not {status}",
            self.status
        );
        ensure!(
            self.header("content-type") == "application/json",
            "content type {:?}",
            self.header("content-type")
        );
        let message = self.json()?["message"].as_str().map(str::to_owned);
        message.context("a refusal without a message")
    }
}

impl Engine {
    /// What listens on this socket.
    pub fn at(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// One exchange; `headers` are whole lines.
    ///
    /// # Errors
    /// Nobody answers, or with something other than HTTP.
    pub fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Result<Response> {
        let mut stream = UnixStream::connect(&self.socket)
            .with_context(|| format!("cannot connect to {}", self.socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: docker\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        let end = bytes
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .context("no end of the headers")?;
        let head = String::from_utf8(bytes[..end].to_vec())?;
        let mut lines = head.lines();
        let status = lines
            .next()
            .and_then(|line| line.split_once(' '))
            .context("no status")?
            .1;
        Ok(Response {
            status: status.to_owned(),
            headers: lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                .collect(),
            body: bytes[end + 4..].to_vec(),
        })
    }

    /// Reads.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn get(&self, path: &str) -> Result<Response> {
        self.send("GET", path, "Connection: close\r\n", "")
    }

    /// Sends JSON.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn post(&self, path: &str, body: &Value) -> Result<Response> {
        self.send("POST", path, "Connection: close\r\n", &body.to_string())
    }
}
