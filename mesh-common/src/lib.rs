//! The contract between the eBPF programs and user space: map keys and values, verdicts, packet arithmetic.
#![no_std]

/// Version of the map layouts and of what the programs expect in them; part of the pin path.
pub const ABI_VERSION: u32 = 1;
