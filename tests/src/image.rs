//! The image that demo, tests and benches run: whoami and busybox, both static, in an OCI archive.
