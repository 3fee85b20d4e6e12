//! Writing the container's output to rotating files.
//!
//! One record per line: `<RFC 3339 time, nanoseconds> <stdout|stderr> <F|P> <bytes>\n`, the format
//! of Kubernetes' container runtimes. `F` ends a line the command wrote, `P` is a part of one that
//! is longer than [`MAX_LINE`] or was never finished. Bytes are kept as they were.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use crate::spec::{LogLimits, Output};
use crate::wire::LOG_FILE;

/// Longest record payload; a longer line is cut into parts, as Docker does.
const MAX_LINE: usize = 16 << 10;
/// Bytes of a record besides its payload: time, stream, tag, three spaces, newline.
const RECORD_HEAD: usize = 30 + 6 + 1 + 3 + 1;
/// One read from a pipe.
const CHUNK: usize = 16 << 10;

/// One stream of the command, with the line that is not finished yet.
pub(super) struct Source {
    fd: OwnedFd,
    stream: Output,
    pending: Vec<u8>,
    closed: bool,
}

impl Source {
    pub(super) fn new(fd: OwnedFd, stream: Output) -> Self {
        Self {
            fd,
            stream,
            pending: Vec::new(),
            closed: false,
        }
    }

    /// A terminal: one stream, whose other end closing reads as an I/O error.
    pub(super) fn terminal(fd: OwnedFd) -> Self {
        Self::new(fd, Output::Stdout)
    }

    pub(super) fn is_open(&self) -> bool {
        !self.closed
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Source {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// The current log file.
pub(super) struct LogWriter {
    path: PathBuf,
    limits: LogLimits,
    file: Option<File>,
    size: u64,
    batch: Vec<u8>,
}

impl LogWriter {
    /// Opens (or goes on with) the log in `directory`.
    pub(super) fn open(directory: &Path, limits: LogLimits) -> Self {
        let path = directory.join(LOG_FILE);
        let (file, size) = reopen(&path);
        Self {
            path,
            limits,
            file,
            size,
            batch: Vec::new(),
        }
    }

    /// Takes one chunk from `source`; returns whether there may be more at once.
    pub(super) fn pump(&mut self, source: &mut Source) -> bool {
        let mut buffer = [0; CHUNK];
        match crate::fds::read(source.fd.as_fd(), &mut buffer) {
            Ok(0) => {
                self.close(source);
                false
            }
            Ok(count) => {
                self.append(source, &buffer[..count]);
                count == CHUNK
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            // EIO: the last process with the terminal open has ended.
            Err(_) => {
                self.close(source);
                false
            }
        }
    }

    /// Takes everything that is there and ends the source.
    pub(super) fn drain(&mut self, source: &mut Source) {
        while source.is_open() && self.pump(source) {}
        self.close(source);
    }

    fn close(&mut self, source: &mut Source) {
        if !source.pending.is_empty() {
            let pending = std::mem::take(&mut source.pending);
            self.record(source.stream, b'P', &pending);
            self.flush();
        }
        source.closed = true;
    }

    fn append(&mut self, source: &mut Source, mut bytes: &[u8]) {
        if self.limits.is_off {
            return;
        }
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            if source.pending.is_empty() {
                self.line(source.stream, line);
            } else {
                source.pending.extend_from_slice(line);
                let pending = std::mem::take(&mut source.pending);
                self.line(source.stream, &pending);
            }
        }
        source.pending.extend_from_slice(bytes);
        while source.pending.len() >= MAX_LINE {
            let rest = source.pending.split_off(MAX_LINE);
            let part = std::mem::replace(&mut source.pending, rest);
            self.record(source.stream, b'P', &part);
        }
        self.flush();
    }

    fn line(&mut self, stream: Output, mut line: &[u8]) {
        while line.len() > MAX_LINE {
            let (part, rest) = line.split_at(MAX_LINE);
            self.record(stream, b'P', part);
            line = rest;
        }
        self.record(stream, b'F', line);
    }

    fn record(&mut self, stream: Output, tag: u8, payload: &[u8]) {
        let name = match stream {
            Output::Stdout => "stdout",
            Output::Stderr => "stderr",
        };
        let length = (RECORD_HEAD + payload.len()) as u64;
        if self.size + self.batch.len() as u64 + length > self.limits.max_size {
            self.flush();
            if self.size > 0 {
                self.rotate();
            }
        }
        let time = chrono::Utc::now().format("%Y-%m-%dT%H:%M:%S%.9fZ");
        // Writing to a Vec cannot fail.
        let _ = write!(self.batch, "{time} {name} {} ", char::from(tag));
        self.batch.extend_from_slice(payload);
        self.batch.push(b'\n');
    }

    /// Writes the batch. When the disk is full the records are lost; the command goes on.
    fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if let Some(file) = &mut self.file {
            match file.write_all(&self.batch) {
                Ok(()) => self.size += self.batch.len() as u64,
                Err(error) => eprintln!("write {}: {error}", self.path.display()),
            }
        }
        self.batch.clear();
        self.batch.shrink_to(CHUNK);
    }

    fn rotate(&mut self) {
        let keep = self.limits.max_files.max(1);
        self.file = None;
        if keep == 1 {
            let _ = fs::remove_file(&self.path);
        } else {
            for age in (1..keep).rev() {
                let from = if age == 1 {
                    self.path.clone()
                } else {
                    rotated(&self.path, age - 1)
                };
                // Files that are not there yet need no moving.
                let _ = fs::rename(from, rotated(&self.path, age));
            }
        }
        (self.file, self.size) = reopen(&self.path);
    }
}

/// Path of the `age`-th older log file, 1 being the youngest of them.
pub(crate) fn rotated(path: &Path, age: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{age}"));
    name.into()
}

fn reopen(path: &Path) -> (Option<File>, u64) {
    match OpenOptions::new().append(true).create(true).open(path) {
        Ok(file) => {
            let size = file.metadata().map_or(0, |data| data.len());
            (Some(file), size)
        }
        Err(error) => {
            eprintln!("open {}: {error}", path.display());
            (None, 0)
        }
    }
}
