//! User space side of the data plane: loads, pins and attaches the eBPF programs and keeps their maps.
