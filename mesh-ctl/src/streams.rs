//! What containers write, on its way to our own output and error; the flags of the commands that show logs.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use mesh_api::{
    client::{ByteStream, LogOptions},
    frames::{Frame, FrameCodec, FrameError, StreamKind},
};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::{codec::FramedRead, io::StreamReader};

use crate::{flags::quantity, format, log_line::LogLine};

/// Flags of the commands that show logs.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LogFlags {
    /// Go on as lines are written
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Lines from the end of each log, or all
    #[arg(short = 'n', long, default_value = "all")]
    pub(crate) tail: String,
    /// Only lines since a time (2026-01-02T13:23:37Z, seconds since the epoch) or for so long (42m)
    #[arg(long)]
    pub(crate) since: Option<String>,
    /// Only lines until, likewise
    #[arg(long)]
    pub(crate) until: Option<String>,
    /// Show when each line was written
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// Show where each line comes from
    #[arg(long)]
    pub(crate) details: bool,
}

impl LogFlags {
    /// As the client wants them.
    pub(crate) fn options(&self) -> Result<LogOptions> {
        let tail = match self.tail.as_str() {
            "all" => None,
            text => Some(text.parse().with_context(|| {
                format!("invalid value for --tail {text:?}: it is a number of lines, or all")
            })?),
        };
        let now = Utc::now();
        Ok(LogOptions {
            follow: self.follow,
            timestamps: self.timestamps,
            details: self.details,
            tail,
            since: self.since.as_ref().map(|at| time(at, now)).transpose()?,
            until: self.until.as_ref().map(|at| time(at, now)).transpose()?,
            ..LogOptions::default()
        })
    }
}

/// Seconds since the epoch, of a time or of a duration before now.
fn time(text: &str, now: DateTime<Utc>) -> Result<String> {
    // 0 is the epoch, not a duration.
    let at = match quantity::duration(text) {
        Ok(nanos) if text != "0" => now - chrono::Duration::nanoseconds(nanos),
        _ => match DateTime::parse_from_rfc3339(text) {
            Ok(at) => at.to_utc(),
            Err(_) => {
                text.parse::<f64>().with_context(|| {
                    format!(
                        "invalid time {text:?}: write it as 2026-01-02T13:23:37Z or as a duration, 42m"
                    )
                })?;
                return Ok(text.to_owned());
            }
        },
    };
    Ok(format!(
        "{}.{:09}",
        at.timestamp(),
        at.timestamp_subsec_nanos()
    ))
}

/// A stream of the agent's as something to read from.
pub(crate) fn reader(stream: ByteStream) -> impl AsyncRead + Send + Unpin + 'static {
    StreamReader::new(stream.map_err(std::io::Error::other))
}

/// The lines of a stream of frames.
pub(crate) fn lines(
    stream: ByteStream,
    timestamps: bool,
    details: bool,
) -> BoxStream<'static, Result<LogLine>> {
    FramedRead::new(reader(stream), FrameCodec)
        .map(move |frame| {
            let frame = checked(frame)?;
            let stderr = frame.kind == StreamKind::Stderr;
            Ok(LogLine::parse(stderr, &frame.payload, timestamps, details))
        })
        .boxed()
}

/// Copies frames (or the raw bytes of a terminal) to our own output and error.
pub(crate) async fn copy(mut reader: impl AsyncRead + Unpin, raw: bool) -> Result<()> {
    if raw {
        let mut buffer = vec![0; 16 << 10];
        while let length @ 1.. = reader.read(&mut buffer).await? {
            write_to(StreamKind::Stdout, &buffer[..length])?;
        }
        return Ok(());
    }
    let mut frames = FramedRead::new(reader, FrameCodec);
    while let Some(frame) = frames.next().await {
        let frame = checked(frame)?;
        write_to(frame.kind, &frame.payload)?;
    }
    Ok(())
}

/// A frame of the process's. What the daemon could not do is an error, in Docker's words.
fn checked(frame: Result<Frame, FrameError>) -> Result<Frame> {
    let frame = frame?;
    ensure!(
        frame.kind != StreamKind::System,
        "error from daemon in stream: {}",
        String::from_utf8_lossy(&frame.payload).trim_end()
    );
    Ok(frame)
}

/// Writes bytes to our own output or error, at once.
fn write_to(kind: StreamKind, bytes: &[u8]) -> std::io::Result<()> {
    match kind {
        StreamKind::Stderr => std::io::stderr().lock().write_all(bytes),
        _ => format::write(bytes),
    }
}

/// Writes a line with what goes before it.
pub(crate) fn write_line(line: &LogLine, prefix: &str, details: bool) -> std::io::Result<()> {
    let mut out = Vec::new();
    if let Some(timestamp) = &line.timestamp {
        out.extend_from_slice(timestamp.as_bytes());
        out.push(b' ');
    }
    out.extend_from_slice(prefix.as_bytes());
    if details {
        let rest: Vec<String> = line
            .details
            .iter()
            .filter(|(name, _)| !name.starts_with("com.docker.swarm."))
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        if !rest.is_empty() {
            out.extend_from_slice(rest.join(",").as_bytes());
            out.push(b' ');
        }
    }
    out.extend_from_slice(&line.message);
    let kind = if line.stderr {
        StreamKind::Stderr
    } else {
        StreamKind::Stdout
    };
    write_to(kind, &out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let now = DateTime::from_timestamp(1000, 0).expect("time");
        assert_eq!(time("5m", now).expect("duration"), "700.000000000");
        assert_eq!(
            time("1970-01-01T00:01:00Z", now).expect("time"),
            "60.000000000"
        );
        assert_eq!(time("42.5", now).expect("seconds"), "42.5");
        assert_eq!(time("0", now).expect("the epoch"), "0");
        assert!(time("yesterday", now).is_err());
    }
}
