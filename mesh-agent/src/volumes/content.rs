//! What is in volumes: its size, and what removals left.

use std::{collections::HashSet, fs, os::unix::fs::MetadataExt, path::Path};

use super::record::is_scratch;

/// Bytes of the files in a directory, each counted once; links are not followed, and what cannot be read counts nothing.
pub(super) fn size(dir: &Path) -> u64 {
    let mut left = vec![dir.to_owned()];
    let mut seen = HashSet::new();
    let mut total = 0;
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                left.push(entry.path());
            } else if meta.nlink() == 1 || seen.insert((meta.dev(), meta.ino())) {
                total += meta.len();
            }
        }
    }
    total
}

/// Removes what an agent that was killed left half made or half removed in the directory of volumes.
pub(super) fn sweep(volumes: &Path) {
    for entry in fs::read_dir(volumes).into_iter().flatten().flatten() {
        let is_left = is_scratch(&entry.file_name().to_string_lossy());
        if is_left && let Err(error) = mesh_image::remove_tree(&entry.path()) {
            let path = entry.path();
            tracing::warn!(path = %path.display(), %error, "what is left of a volume stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_count_files_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("d")).expect("made");
        fs::write(at("d/a"), [1; 1000]).expect("written");
        fs::hard_link(at("d/a"), at("b")).expect("linked");
        std::os::unix::fs::symlink("d/a", at("c")).expect("linked");
        // A link's own length is that of its text.
        assert_eq!(size(dir.path()), 1003);
        assert_eq!(size(&at("nothing")), 0);
    }

    #[test]
    fn only_what_is_left_is_swept() {
        let dir = tempfile::tempdir().expect("a directory");
        let left = crate::volumes::record::scratch_in(dir.path()).expect("made");
        for name in [".Trash/x", "data/_data"] {
            fs::create_dir_all(dir.path().join(name)).expect("made");
        }
        sweep(dir.path());
        let there = |name: &str| dir.path().join(name).exists();
        assert!(!left.exists() && there(".Trash/x") && there("data/_data"));
    }
}
