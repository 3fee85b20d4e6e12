//! Reading and following a container's log.

use std::pin::Pin;

use chrono::{DateTime, Utc};
use futures::Stream;

use crate::error::Result;
use crate::spec::Output;

/// Which part of a log to read.
#[derive(Debug, Clone, PartialEq)]
pub struct LogOptions {
    /// Go on until the container has ended, instead of stopping at the end of what is there.
    pub follow: bool,
    /// Only the last so many lines of what is there; `None` means all.
    pub tail: Option<usize>,
    /// Nothing written before this instant.
    pub since: Option<DateTime<Utc>>,
    /// Nothing written after this instant.
    pub until: Option<DateTime<Utc>>,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

impl Default for LogOptions {
    /// Everything there is, both streams, no following.
    fn default() -> Self {
        Self {
            follow: false,
            tail: None,
            since: None,
            until: None,
            stdout: true,
            stderr: true,
        }
    }
}

/// One line (or one part of a line longer than 16 KiB) a container wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// When the shim read it.
    pub time: DateTime<Utc>,
    /// From which stream.
    pub stream: Output,
    /// The bytes, with their newline if there was one.
    pub line: Vec<u8>,
}

/// The records of a log in the order they were written.
pub type LogStream = Pin<Box<dyn Stream<Item = Result<LogRecord>> + Send>>;
