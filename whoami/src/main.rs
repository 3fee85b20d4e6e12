//! The test image's only program: says over HTTP, TCP and UDP who answered and who asked.

fn main() {}
