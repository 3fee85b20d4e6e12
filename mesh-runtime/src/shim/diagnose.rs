//! Keeping what libcontainer says when it fails.
//!
//! The errors it returns have often lost their cause ("failed syscall") on the way through its
//! processes; the cause is in what it traces. A helper records its error events in the shim's log
//! file, also from inside the container, where neither that file nor the host's log can be opened.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::Path;

use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

/// Longest text added to an error.
const MAX_DETAILS: usize = 1024;

/// Where a helper's recording begins.
pub(super) struct Recording {
    log: Option<File>,
    begin: u64,
}

impl Recording {
    /// Records error events of this process and its children in `path` from now on. Without the
    /// file, errors are told with what they carry themselves.
    pub(super) fn begin(path: &Path) -> Self {
        let open = || {
            File::options()
                .append(true)
                .read(true)
                .create(true)
                .open(path)
        };
        let log = open().ok();
        let begin = log
            .as_ref()
            .and_then(|log| log.metadata().ok())
            .map_or(0, |data| data.len());
        if let Ok(writer) = open() {
            // Fails only if a subscriber is set already, which is then the one to hear of errors.
            let _ = tracing::subscriber::set_global_default(Recorder { writer });
        }
        Self { log, begin }
    }

    /// The first thing that was recorded, which is the one nearest to the cause.
    pub(super) fn cause(&self) -> Option<String> {
        let log = self.log.as_ref()?;
        let mut buffer = [0; MAX_DETAILS];
        let count = log.read_at(&mut buffer, self.begin).ok()?;
        let text = String::from_utf8_lossy(&buffer[..count]);
        let line = text.lines().next()?.trim();
        (!line.is_empty()).then(|| line.to_owned())
    }
}

/// Writes error events, one line each.
struct Recorder {
    writer: File,
}

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let text = format!("{}{}\n", line.message, line.fields).replace('\0', "");
        // There is nowhere else to tell of a log that cannot be written.
        let _ = (&self.writer).write_all(text.as_bytes());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, ", {}: {value:?}", field.name())
        };
    }
}
