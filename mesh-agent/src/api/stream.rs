//! Bodies that are written as things happen: log lines as frames, progress as lines of JSON.

use std::convert::Infallible;

use axum::{
    BoxError,
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::Response,
};
use chrono::{DateTime, SecondsFormat, Utc};
use futures::{Stream, StreamExt};
use mesh_api::frames::{Frame, MULTIPLEXED, RAW, StreamKind};
use serde::Serialize;

use super::args::Query;
use super::errors::ApiError;

/// What a client asked of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogArgs {
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) follow: bool,
    pub(super) timestamps: bool,
    pub(super) details: bool,
    pub(super) tail: Option<u64>,
    /// Nanoseconds since the epoch.
    pub(super) since: Option<i64>,
    /// Nanoseconds since the epoch.
    pub(super) until: Option<i64>,
}

impl LogArgs {
    pub(super) fn read(query: &Query) -> Result<Self, ApiError> {
        let (stdout, stderr) = (query.flag("stdout"), query.flag("stderr"));
        if !stdout && !stderr {
            return Err(ApiError::bad_request(
                "Bad parameters: you must choose at least one stream",
            ));
        }
        let tail = match query.get("tail") {
            None | Some("all") => None,
            // Docker takes what it cannot read, and negative numbers, for all.
            Some(text) => text.parse().ok(),
        };
        Ok(Self {
            stdout,
            stderr,
            follow: query.flag("follow"),
            timestamps: query.flag("timestamps"),
            details: query.flag("details"),
            tail,
            since: query.time("since")?.filter(|since| *since > 0),
            until: query.time("until")?.filter(|until| *until > 0),
        })
    }
}

/// One line on its way to a client.
pub(super) struct Line<'a> {
    pub(super) kind: StreamKind,
    pub(super) time: DateTime<Utc>,
    pub(super) details: &'a [(&'a str, &'a str)],
    pub(super) data: &'a [u8],
}

impl Line<'_> {
    /// The bytes to send: a frame, or with a terminal just what it wrote.
    pub(super) fn to_wire(&self, args: &LogArgs, terminal: bool) -> Bytes {
        let mut payload = Vec::with_capacity(self.data.len() + 40);
        if args.timestamps {
            let time = self.time.to_rfc3339_opts(SecondsFormat::Nanos, true);
            payload.extend_from_slice(time.as_bytes());
            payload.push(b' ');
        }
        if args.details {
            let pairs: Vec<String> = self
                .details
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            payload.extend_from_slice(pairs.join(",").as_bytes());
            payload.push(b' ');
        }
        payload.extend_from_slice(self.data);
        piece(self.kind, payload.into(), terminal)
    }
}

/// What a command wrote, as clients read it: as it is from a terminal, else in a frame.
pub(super) fn piece(kind: StreamKind, payload: Bytes, terminal: bool) -> Bytes {
    match terminal {
        true => payload,
        false => Frame { kind, payload }.to_bytes(),
    }
}

/// The media type of a log or an attached stream.
pub(super) fn media_type(terminal: bool) -> HeaderValue {
    HeaderValue::from_static(if terminal { RAW } else { MULTIPLEXED })
}

/// A response of pieces of log; an error breaks it off.
pub(super) fn log_response<E: Into<BoxError> + 'static>(
    terminal: bool,
    pieces: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
) -> Response {
    let body = Body::from_stream(pieces);
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, media_type(terminal));
    response
}

/// A line of JSON.
pub(super) fn json_line<T: Serialize>(item: &T) -> Bytes {
    let mut line = serde_json::to_vec(item).unwrap_or_default();
    line.extend_from_slice(b"\r\n");
    line.into()
}

/// A response of lines of JSON.
pub(super) fn json_lines<T: Serialize>(items: impl Stream<Item = T> + Send + 'static) -> Response {
    let lines = items.map(|item| Ok::<_, Infallible>(json_line(&item)));
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_carry_what_was_asked_for() {
        let line = Line {
            kind: StreamKind::Stderr,
            time: DateTime::from_timestamp(1, 5).expect("time"),
            details: &[("a", "1"), ("b", "2")],
            data: b"hello\n",
        };
        let mut args = LogArgs {
            stdout: true,
            stderr: true,
            follow: false,
            timestamps: false,
            details: false,
            tail: None,
            since: None,
            until: None,
        };
        assert_eq!(
            &line.to_wire(&args, false)[..],
            b"\x02\0\0\0\0\0\0\x06hello\n"
        );
        args.details = true;
        args.timestamps = true;
        assert_eq!(
            &line.to_wire(&args, true)[..],
            b"1970-01-01T00:00:01.000000005Z a=1,b=2 hello\n"
        );
    }
}
