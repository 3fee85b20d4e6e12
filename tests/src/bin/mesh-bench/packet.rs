//! Nanoseconds a packet costs in each program, by the kernel's test_run.

use anyhow::Result;
use serde_json::Value;

/// Measures each program beside an empty one.
pub(crate) fn run() -> Result<Value> {
    anyhow::bail!("not measured yet")
}
