//! Opening, adopting and removing, on this kernel.

mod common;

use common::chain;
use mesh_datapath::{Config, Datapath, Desired};

#[test]
fn open_apply_nothing_remove() {
    let dir = format!("/sys/fs/bpf/mesh-test-open-{}", std::process::id());
    let config = Config::new(&dir);
    let result =
        Datapath::open(&config).and_then(|mut datapath| datapath.apply(&Desired::default()));
    let removed = Datapath::remove(&config);
    let report = result.unwrap_or_else(|e| panic!("{}", chain(&e)));
    removed.unwrap_or_else(|e| panic!("{}", chain(&e)));
    assert_eq!(report.attached, 0);
    assert!(!std::path::Path::new(&dir).exists());
}
