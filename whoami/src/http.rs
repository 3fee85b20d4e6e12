//! As much HTTP/1.1 as the server and its clients need: request lines, headers, keep-alive, no chunks.

use std::io::{BufRead, Result};

/// A request as far as it interests us.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// "/", "/bytes/100".
    pub(crate) path: String,
    /// Whether the connection stays open after the answer.
    pub(crate) keep: bool,
}

/// Reads one request, or nothing when the other side closed.
pub(crate) fn read_request(input: &mut impl BufRead) -> Result<Option<Request>> {
    let mut line = String::new();
    if input.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let path = words.nth(1).unwrap_or("/").to_owned();
    let mut keep = words.next() == Some("HTTP/1.1");
    loop {
        line.clear();
        if input.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("connection:") {
            keep = value.trim() == "keep-alive";
        }
    }
    Ok(Some(Request { path, keep }))
}

/// The head of an answer with a body of this many bytes.
pub(crate) fn head(status: &str, length: u64, keep: bool) -> String {
    let connection = if keep { "keep-alive" } else { "close" };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n"
    )
}

/// The head of an answer, as a client reads it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AnswerHead {
    /// Status code.
    pub(crate) status: u16,
    /// Announced length of the body.
    pub(crate) length: Option<u64>,
}

/// Reads the head of an answer.
pub(crate) fn read_head(input: &mut impl BufRead) -> Result<AnswerHead> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status =
        status.ok_or_else(|| std::io::Error::other(format!("not an HTTP answer: {line:?}")))?;
    let mut length = None;
    loop {
        line.clear();
        if input.read_line(&mut line)? == 0 || line.trim().is_empty() {
            return Ok(AnswerHead { status, length });
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_say_whether_to_stay() {
        let mut text =
            &b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nConnection: Close\r\n\r\n"[..];
        let first = read_request(&mut text).unwrap().unwrap();
        assert_eq!((first.path.as_str(), first.keep), ("/a", true));
        let second = read_request(&mut text).unwrap().unwrap();
        assert_eq!((second.path.as_str(), second.keep), ("/b", false));
        assert_eq!(read_request(&mut text).unwrap(), None);
    }

    #[test]
    fn an_answer_reads_as_written() {
        let text = head("200 OK", 5, true);
        let read = read_head(&mut text.as_bytes()).unwrap();
        assert_eq!((read.status, read.length), (200, Some(5)));
        assert!(read_head(&mut &b"SSH-2.0\r\n"[..]).is_err());
    }
}
