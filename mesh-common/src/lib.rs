//! The contract between the eBPF programs and user space: map keys and values, verdicts, packet arithmetic.
