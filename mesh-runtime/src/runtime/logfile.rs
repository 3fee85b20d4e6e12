//! The files of a container's log: their order, their lines, their records.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use chrono::{DateTime, Utc};

use super::logs::LogRecord;
use crate::shim::rotated;
use crate::spec::Output;

/// Bytes looked at in one step backwards.
const STEP: u64 = 64 << 10;

/// One file of a log.
#[derive(Debug)]
pub(super) struct LogFile {
    pub(super) file: File,
    /// Tells files apart whatever they are called by now.
    pub(super) inode: u64,
}

/// Opens the files of the log `path`, the oldest first. Files that are rotated meanwhile appear
/// once.
pub(super) fn open_all(path: &Path) -> Vec<LogFile> {
    let mut files: Vec<LogFile> = Vec::new();
    for age in 0.. {
        let opened = if age == 0 {
            File::open(path)
        } else {
            File::open(rotated(path, age))
        };
        let Ok(file) = opened else {
            // The current file is missing for a moment while the log is rotated.
            if age == 0 {
                continue;
            }
            break;
        };
        let Ok(inode) = file.metadata().map(|data| data.ino()) else {
            break;
        };
        if files.iter().all(|known| known.inode != inode) {
            files.push(LogFile { file, inode });
        }
    }
    files.reverse();
    files
}

/// Drops or seeks files so that only the last `lines` lines are left to read.
///
/// # Errors
/// What reading says.
pub(super) fn skip_to_tail(files: &mut Vec<LogFile>, lines: usize) -> io::Result<()> {
    let mut wanted = lines;
    for index in (0..files.len()).rev() {
        let (start, found) = tail_offset(&files[index].file, wanted)?;
        files[index].file.seek(SeekFrom::Start(start))?;
        wanted -= found;
        if wanted == 0 {
            files.drain(..index);
            break;
        }
    }
    Ok(())
}

/// Where the last `wanted` lines of `file` begin, and how many there are (at most `wanted`).
fn tail_offset(file: &File, wanted: usize) -> io::Result<(u64, usize)> {
    let mut end = file.metadata()?.len();
    if wanted == 0 {
        return Ok((end, 0));
    }
    let mut newlines = 0;
    let mut buffer = vec![0; STEP as usize];
    while end > 0 {
        let begin = end.saturating_sub(STEP);
        let part = &mut buffer[..(end - begin) as usize];
        file.read_exact_at(part, begin)?;
        for (index, byte) in part.iter().enumerate().rev() {
            if *byte == b'\n' {
                newlines += 1;
                // One newline ends the last line; the one before the first wanted line is one more.
                if newlines > wanted {
                    return Ok((begin + index as u64 + 1, wanted));
                }
            }
        }
        end = begin;
    }
    Ok((0, newlines))
}

/// Parses one line of a log, without its newline.
pub(super) fn parse(line: &[u8]) -> Option<LogRecord> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let time = DateTime::parse_from_rfc3339(time).ok()?.with_timezone(&Utc);
    let stream = match parts.next()? {
        b"stdout" => Output::Stdout,
        b"stderr" => Output::Stderr,
        _ => return None,
    };
    let complete = parts.next()? == b"F";
    let mut line = parts.next()?.to_vec();
    if complete {
        line.push(b'\n');
    }
    Some(LogRecord { time, stream, line })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn records_keep_their_bytes() {
        let record = parse(b"2026-01-02T03:04:05.000000006Z stderr F a b \xff").unwrap();
        assert_eq!(record.stream, Output::Stderr);
        assert_eq!(record.line, b"a b \xff\n");
        assert_eq!(record.time.timestamp_subsec_nanos(), 6);
        assert_eq!(parse(b"2026-01-02T03:04:05Z stdout P ").unwrap().line, b"");
        assert!(parse(b"rubbish").is_none());
    }

    #[test]
    fn a_tail_reaches_back_over_files() {
        let directory = std::env::temp_dir().join(format!("mesh-tail-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("log");
        let write = |path: &Path, from: usize, to: usize| {
            let mut file = File::create(path).unwrap();
            for number in from..to {
                writeln!(file, "{number}").unwrap();
            }
        };
        write(&rotated(&path, 2), 0, 10);
        write(&rotated(&path, 1), 10, 20_000);
        write(&path, 20_000, 20_003);
        let tail = |lines: usize| {
            let mut files = open_all(&path);
            skip_to_tail(&mut files, lines).unwrap();
            let mut text = String::new();
            for file in &mut files {
                file.file.read_to_string(&mut text).unwrap();
            }
            let lines: Vec<_> = text.lines().collect();
            (lines.len(), lines.first().map(|first| (*first).to_owned()))
        };
        assert_eq!(tail(0).0, 0);
        assert_eq!(tail(2), (2, Some("20001".to_owned())));
        assert_eq!(tail(3), (3, Some("20000".to_owned())));
        assert_eq!(tail(5), (5, Some("19998".to_owned())));
        assert_eq!(tail(19_998), (19_998, Some("5".to_owned())));
        assert_eq!(tail(99_999), (20_003, Some("0".to_owned())));
        std::fs::remove_dir_all(directory).unwrap();
    }
}
