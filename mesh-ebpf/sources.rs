//! Which sources an eBPF object was built from. Shared by the build script of mesh-datapath, which embeds the object,
//! and by xtask, which builds it: an object of other sources is not embedded by mistake.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
};

/// What the object depends on, below the workspace's folder.
pub(crate) const SOURCES: [&str; 4] = [
    "mesh-ebpf/src",
    "mesh-ebpf/Cargo.toml",
    "mesh-common/src",
    "mesh-common/Cargo.toml",
];

/// Where the mark of an object's sources is kept.
pub(crate) fn mark_of(object: &Path) -> PathBuf {
    object.with_extension("sources")
}

/// The mark of the sources as they are: equal contents give equal marks.
pub(crate) fn mark(root: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect(&root.join(source), &mut files)?;
    }
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.strip_prefix(root).unwrap_or(&file).hash(&mut hasher);
        fs::read(&file)?.hash(&mut hasher);
    }
    Ok(format!("{:016x}\n", hasher.finish()))
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            collect(&entry?.path(), files)?;
        }
    } else {
        files.push(path.to_owned());
    }
    Ok(())
}
