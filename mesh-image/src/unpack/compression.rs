//! Telling compressed from plain by the first bytes, whatever a media type or a name says.

use std::io::{self, BufReader, Cursor, Read};

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
const BZIP2: &[u8] = b"BZh";
/// Window log a zstd frame may ask for: 128 MiB of memory, the tool's own bound.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
const BUFFER: usize = 128 << 10;

/// Reads `reader` decompressed: gzip, zstd or plain.
pub(crate) fn decompress<'a>(mut reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut head = Vec::with_capacity(XZ.len());
    reader
        .by_ref()
        .take(XZ.len() as u64)
        .read_to_end(&mut head)?;
    let unsupported = |name: &str| {
        let text = format!("{name} compression is not supported, use gzip or zstd");
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    };
    let (gzip, zstd) = (head.starts_with(GZIP), head.starts_with(ZSTD));
    if head.starts_with(XZ) {
        return unsupported("xz");
    }
    if head.starts_with(BZIP2) {
        return unsupported("bzip2");
    }
    let whole = BufReader::with_capacity(BUFFER, Cursor::new(head).chain(reader));
    if gzip {
        let decoder = flate2::bufread::MultiGzDecoder::new(whole);
        return Ok(Box::new(BufReader::with_capacity(BUFFER, decoder)));
    }
    if zstd {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(whole)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
        return Ok(Box::new(BufReader::with_capacity(BUFFER, decoder)));
    }
    Ok(Box::new(whole))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decompress(bytes)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn all_supported_forms_read_the_same() {
        let text = b"some text ".repeat(1000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).unwrap();
        let gzip = gzip.finish().unwrap();
        let twice = [gzip.clone(), gzip.clone()].concat();
        assert_eq!(read(&gzip).unwrap(), text);
        assert_eq!(
            read(&twice).unwrap(),
            text.repeat(2),
            "members are concatenated"
        );
        assert_eq!(
            read(&zstd::encode_all(&text[..], 1).unwrap()).unwrap(),
            text
        );
        assert_eq!(read(&text).unwrap(), text);
        assert_eq!(read(b"").unwrap(), b"");
        assert!(read(&gzip[..gzip.len() / 2]).is_err(), "truncated");
        assert!(
            read(&[XZ, b"rest"].concat())
                .unwrap_err()
                .to_string()
                .contains("xz")
        );
    }
}
