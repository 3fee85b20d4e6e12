//! Keeping the processors awake while something is measured.
//!
//! A virtual machine's idle processor is halted by its hypervisor, and woken 50 us and more later: longer than most of
//! what is measured here. The kernel's PM QoS asks it to poll instead, on all sides alike, for as long as the file is
//! open (Linux, Documentation/power/pm_qos_interface.rst).

use std::{
    fs::{File, OpenOptions},
    io::Write,
};

/// Longest time to wake up that is asked for, microseconds.
const LONGEST: i32 = 0;

/// The request; ends with the value.
#[derive(Debug)]
pub(crate) struct Awake {
    _request: File,
}

impl Awake {
    /// Asks for it. A kernel that has no such file is measured as it is, which is said.
    pub(crate) fn ask() -> Option<Self> {
        let file = "/dev/cpu_dma_latency";
        let asked = OpenOptions::new()
            .write(true)
            .open(file)
            .and_then(|mut request| {
                request.write_all(&LONGEST.to_ne_bytes())?;
                Ok(Self { _request: request })
            });
        asked
            .inspect_err(|error| eprintln!("bench: idle processors may sleep: {file}: {error}"))
            .ok()
    }
}
