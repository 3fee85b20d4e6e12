//! Reading and following a container's log.

use std::collections::VecDeque;
use std::io::Read;
use std::path::PathBuf;
use std::pin::Pin;

use chrono::{DateTime, Utc};
use futures::{Stream, StreamExt};

use super::container::ContainerRef;
use super::inotify::DirectoryWatch;
use super::logfile::{self, LogFile};
use crate::error::{Result, RuntimeError};
use crate::spec::Output;
use crate::wire::LOG_FILE;

/// Bytes read from a log file at a time.
const CHUNK: usize = 64 << 10;

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

/// Opens the log of `container`.
pub(super) fn open(container: ContainerRef, options: LogOptions) -> Result<LogStream> {
    let path = container.state_dir.join(LOG_FILE);
    // Before the first look at the files, so that nothing is missed between the two.
    let watch = if options.follow {
        let watch = DirectoryWatch::new(&container.state_dir);
        Some(watch.map_err(RuntimeError::io("watch", &container.state_dir))?)
    } else {
        None
    };
    let mut files = logfile::open_all(&path);
    if let Some(lines) = options.tail {
        logfile::skip_to_tail(&mut files, lines).map_err(RuntimeError::io("read", &path))?;
    }
    let reader = Reader {
        container,
        options,
        path,
        watch,
        files: files.into(),
        input: Vec::new(),
        used: 0,
    };
    let stream = futures::stream::try_unfold(reader, |mut reader| async move {
        Ok(reader.next().await?.map(|record| (record, reader)))
    });
    Ok(stream.boxed())
}

/// A position in a log.
struct Reader {
    container: ContainerRef,
    options: LogOptions,
    path: PathBuf,
    watch: Option<DirectoryWatch>,
    /// Files to read, the current one first.
    files: VecDeque<LogFile>,
    input: Vec<u8>,
    /// How much of `input` has been turned into records.
    used: usize,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<LogRecord>> {
        loop {
            while let Some(line) = self.line() {
                let Some(record) = logfile::parse(&line) else {
                    continue;
                };
                if self.options.until.is_some_and(|until| record.time > until) {
                    return Ok(None);
                }
                if self.wants(&record) {
                    return Ok(Some(record));
                }
            }
            // Asked before reading: what was written before the end is then seen by the read.
            let ended = self.container.status.borrow().exit.is_some();
            if self.read()? || self.advance() {
                continue;
            }
            match &self.watch {
                Some(watch) if !ended => {
                    tokio::select! {
                        changed = watch.changed() => {
                            changed.map_err(RuntimeError::io("watch", &self.path))?;
                        }
                        _ = self.container.until(|status| status.exit.is_some()) => {}
                    }
                }
                _ => return Ok(None),
            }
        }
    }

    fn wants(&self, record: &LogRecord) -> bool {
        let stream = match record.stream {
            Output::Stdout => self.options.stdout,
            Output::Stderr => self.options.stderr,
        };
        stream && self.options.since.is_none_or(|since| record.time >= since)
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let rest = &self.input[self.used..];
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let line = rest[..end].to_vec();
        self.used += end + 1;
        Some(line)
    }

    /// Reads on in the current file; whether there was anything.
    fn read(&mut self) -> Result<bool> {
        let Some(current) = self.files.front_mut() else {
            return Ok(false);
        };
        self.input.drain(..self.used);
        self.used = 0;
        let begin = self.input.len();
        self.input.resize(begin + CHUNK, 0);
        let count = current
            .file
            .read(&mut self.input[begin..])
            .map_err(RuntimeError::io("read", &self.path))?;
        self.input.truncate(begin + count);
        Ok(count > 0)
    }

    /// Goes on to the next file, looking for new ones if need be; whether there is one.
    fn advance(&mut self) -> bool {
        if self.files.len() < 2 {
            let current = self.files.front().map(|file| file.inode);
            let mut found = logfile::open_all(&self.path);
            if let Some(position) = found.iter().position(|file| Some(file.inode) == current) {
                found.drain(..=position);
            }
            if found.is_empty() {
                return false;
            }
            // The current file may have grown between our last read and its rotation.
            if self.read().unwrap_or(false) {
                return true;
            }
            self.files.extend(found);
            if current.is_none() {
                return true;
            }
        }
        self.files.pop_front();
        true
    }
}
