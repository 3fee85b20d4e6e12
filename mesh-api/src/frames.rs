//! The multiplexed stream of logs, attach and exec: frames of
//! `[stream, 0, 0, 0, length (big endian u32)]` followed by the payload.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::Decoder;

/// Media type of a stream made of [`Frame`]s.
pub const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";

/// Media type of a stream of a terminal: bytes without frames.
pub const RAW: &str = "application/vnd.docker.raw-stream";

/// Bytes before each payload.
const HEADER_LEN: usize = 8;

/// The largest payload accepted. A longer one is a peer that lost its place in
/// the stream, and reading on would ask for gigabytes: decoding fails instead.
pub const MAX_PAYLOAD: usize = 16 << 20;

/// Which of a process's streams a payload belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum StreamKind {
    /// Written by the client.
    Stdin = 0,
    /// Standard output.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
    /// No stream of the process's: what the daemon could not do.
    System = 3,
}

impl TryFrom<u8> for StreamKind {
    type Error = FrameError;

    fn try_from(byte: u8) -> Result<Self, FrameError> {
        match byte {
            0 => Ok(Self::Stdin),
            1 => Ok(Self::Stdout),
            2 => Ok(Self::Stderr),
            3 => Ok(Self::System),
            other => Err(FrameError::UnknownStream(other)),
        }
    }
}

/// One piece of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The stream it belongs to.
    pub kind: StreamKind,
    /// Its bytes.
    pub payload: Bytes,
}

impl Frame {
    /// The frame as it travels.
    ///
    /// # Panics
    /// If the payload is 4 GiB or longer.
    pub fn to_bytes(&self) -> Bytes {
        let length = u32::try_from(self.payload.len()).expect("a frame is shorter than 4 GiB");
        let mut out = BytesMut::with_capacity(HEADER_LEN + self.payload.len());
        out.put_slice(&[self.kind as u8, 0, 0, 0]);
        out.put_u32(length);
        out.put_slice(&self.payload);
        out.freeze()
    }
}

/// Why a stream of frames cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The first byte of a header is none of 0 to 3.
    #[error("stream {0} is unknown: the peer does not send frames")]
    UnknownStream(u8),
    /// A payload longer than [`MAX_PAYLOAD`].
    #[error("a frame of {0} bytes is longer than the limit of {MAX_PAYLOAD}")]
    TooLong(usize),
    /// The connection failed, or ended inside a frame.
    #[error("the stream broke off")]
    Io(#[from] std::io::Error),
}

/// Reads [`Frame`]s; [`Frame::to_bytes`] writes them.
#[derive(Debug, Default, Clone, Copy)]
pub struct FrameCodec;

impl Decoder for FrameCodec {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(header) = src.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let kind = StreamKind::try_from(header[0])?;
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        if length > MAX_PAYLOAD {
            return Err(FrameError::TooLong(length));
        }
        if src.len() < HEADER_LEN + length {
            src.reserve(HEADER_LEN + length - src.len());
            return Ok(None);
        }
        src.advance(HEADER_LEN);
        Ok(Some(Frame {
            kind,
            payload: src.split_to(length).freeze(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: StreamKind, text: &'static str) -> Frame {
        Frame {
            kind,
            payload: Bytes::from_static(text.as_bytes()),
        }
    }

    #[test]
    fn header_is_dockers() {
        assert_eq!(
            &frame(StreamKind::Stderr, "hi\n").to_bytes()[..],
            b"\x02\0\0\0\0\0\0\x03hi\n"
        );
    }

    #[test]
    fn frames_survive_any_cut() {
        let frames = [
            frame(StreamKind::Stdout, "one\n"),
            frame(StreamKind::Stderr, ""),
            frame(StreamKind::Stdout, "three"),
        ];
        let wire: Vec<u8> = frames.iter().flat_map(|f| f.to_bytes().to_vec()).collect();
        for cut in 1..wire.len() {
            let mut codec = FrameCodec;
            let mut buffer = BytesMut::new();
            let mut seen = Vec::new();
            for part in [&wire[..cut], &wire[cut..]] {
                buffer.extend_from_slice(part);
                while let Some(frame) = codec.decode(&mut buffer).expect("valid frames") {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, frames, "cut at {cut}");
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn plain_text_is_refused() {
        let mut buffer = BytesMut::from(&b"GET / HTTP/1.1\r\n"[..]);
        let error = FrameCodec.decode(&mut buffer).expect_err("not a frame");
        assert!(matches!(error, FrameError::UnknownStream(b'G')));
    }

    #[test]
    fn a_lying_length_is_refused() {
        let mut buffer = BytesMut::from(&b"\x01\0\0\0\xff\xff\xff\xff"[..]);
        let error = FrameCodec.decode(&mut buffer).expect_err("too long");
        assert!(matches!(error, FrameError::TooLong(_)));
    }
}
