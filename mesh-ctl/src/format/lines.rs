//! Text written line by line.

use std::fmt::{Display, Write};

/// Lines so far.
#[derive(Default)]
pub(crate) struct Lines(pub(crate) String);

impl Lines {
    /// Adds a line.
    pub(crate) fn put(&mut self, line: impl Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{line}");
    }
}
