//! Memory of a process, as the kernel counts it.

use std::{fmt, fs};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Kilobytes of one process.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Resident.
    pub rss: u64,
    /// Proportional: shared pages divided among their users.
    pub pss: u64,
    /// In no other process.
    pub private: u64,
}

impl Size {
    /// What a process holds right now.
    ///
    /// # Errors
    /// When it is not there (any more).
    pub fn of_process(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let value = |name: &str| {
            text.lines()
                .find_map(|line| {
                    line.strip_prefix(name)?
                        .split_whitespace()
                        .next()?
                        .parse::<u64>()
                        .ok()
                })
                .with_context(|| format!("no {name} in {path}"))
        };
        Ok(Self {
            rss: value("Rss:")?,
            pss: value("Pss:")?,
            private: value("Private_Clean:")? + value("Private_Dirty:")?,
        })
    }

    /// For reports.
    pub fn json(&self) -> Value {
        json!({
            "rss_kib": self.rss,
            "pss_kib": self.pss,
            "private_kib": self.private,
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} MiB resident, {:.1} proportional, {:.1} private",
            mib(self.rss),
            mib(self.pss),
            mib(self.private)
        )
    }
}

/// Mebibytes of so many kibibytes.
pub fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
