//! What is in volumes: the image's content, which they begin with, its size, and what removals left. All of it may wait for a
//! file server: for threads that may be kept.
//!
//! The image's content is copied to a draft in the volume and moved into its place once all of it is there. A mark beside the
//! volume's record, written before, names the draft: what an agent that was killed has left is removed, or brought to its end,
//! when the next task comes. Nothing but the draft is ever removed.

use std::{
    collections::HashSet,
    fs,
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use mesh_image::Content;

use super::{
    VolumeError, io_error,
    record::{DATA, is_scratch, scratch},
};

/// Names the draft while it is being copied.
const POPULATING: &str = "populating";

/// The same once it is complete.
const PUBLISHING: &str = "publishing";

/// The first content of a volume.
#[derive(Debug)]
pub(super) struct First {
    /// The volume.
    pub(super) name: String,
    /// Its own directory.
    pub(super) dir: PathBuf,
    /// The root file system of the task that comes.
    pub(super) rootfs: PathBuf,
    /// Where the task sees the volume.
    pub(super) targets: Vec<PathBuf>,
}

impl First {
    /// Whether there is something to copy, or to clear up.
    pub(super) fn is_due(&self) -> Result<bool, VolumeError> {
        let mut is_due = [POPULATING, PUBLISHING]
            .iter()
            .any(|mark| self.dir.join(mark).exists());
        for target in &self.targets {
            is_due |= self.find(target)?.is_some() && self.is_empty()?;
        }
        Ok(is_due)
    }

    /// Copies what the image has, if nothing is there.
    pub(super) fn copy(&self) -> Result<(), VolumeError> {
        self.resume()?;
        for target in &self.targets {
            let Some(content) = self.find(target)? else {
                continue;
            };
            if !self.is_empty()? {
                continue;
            }
            if let Err(error) = self.one(content) {
                // What is left now goes when the next task comes.
                if let Err(error) = self.resume() {
                    tracing::warn!(%error, "part of a copy is left");
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn one(&self, content: Content) -> Result<(), VolumeError> {
        let failed = io_error("populate", &self.name);
        let (mark, complete) = (self.dir.join(POPULATING), self.dir.join(PUBLISHING));
        let (data, draft) = (self.dir.join(DATA), scratch());
        let note = || {
            let mut file = fs::File::create(&mark)?;
            file.write_all(draft.as_bytes())?;
            file.sync_all()
        };
        note().map_err(&failed)?;
        content
            .copy(&data, &draft)
            .map_err(|cause| self.populate(cause))?;
        fs::rename(&mark, &complete).map_err(&failed)?;
        mesh_image::publish(&data, &draft).map_err(|cause| self.populate(cause))?;
        fs::remove_file(&complete).map_err(failed)
    }

    /// Removes what a copy that was broken off has left, or brings it to its end.
    fn resume(&self) -> Result<(), VolumeError> {
        let failed = io_error("populate", &self.name);
        let data = self.dir.join(DATA);
        for name in [PUBLISHING, POPULATING] {
            let mark = self.dir.join(name);
            let draft = match fs::read(&mark) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                text => String::from_utf8(text.map_err(&failed)?).unwrap_or_default(),
            };
            match name {
                // Cut short: there was no draft yet.
                _ if !is_scratch(&draft) => {}
                PUBLISHING => {
                    mesh_image::publish(&data, &draft).map_err(|cause| self.populate(cause))?;
                }
                _ => mesh_image::remove_tree(&data.join(&draft)).map_err(&failed)?,
            }
            fs::remove_file(&mark).map_err(&failed)?;
        }
        Ok(())
    }

    fn find(&self, target: &Path) -> Result<Option<Content>, VolumeError> {
        Content::find(&self.rootfs, target).map_err(|cause| self.populate(cause))
    }

    /// Whether nothing is there, but for drafts: another node may be at one.
    fn is_empty(&self) -> Result<bool, VolumeError> {
        let failed = io_error("populate", &self.name);
        for entry in fs::read_dir(self.dir.join(DATA)).map_err(&failed)? {
            let name = entry.map_err(&failed)?.file_name();
            if !is_scratch(&name.to_string_lossy()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn populate(&self, cause: mesh_image::ImageError) -> VolumeError {
        VolumeError::Populate {
            name: self.name.clone(),
            cause,
        }
    }
}

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

/// What an agent that was killed left half made or half removed in the directory of volumes.
pub(super) fn left(volumes: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(volumes).into_iter().flatten().flatten();
    entries
        .filter(|entry| is_scratch(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect()
}

/// Removes it.
pub(super) fn sweep(left: &[PathBuf]) {
    for path in left {
        if let Err(error) = mesh_image::remove_tree(path) {
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
        let scratch = crate::volumes::record::scratch_in(dir.path()).expect("made");
        for name in [".Trash/x", "data/_data"] {
            fs::create_dir_all(dir.path().join(name)).expect("made");
        }
        sweep(&left(dir.path()));
        let there = |name: &str| dir.path().join(name).exists();
        assert!(!scratch.exists() && there(".Trash/x") && there("data/_data"));
    }

    /// A new volume, for a task whose image has a directory `/srv` with a file.
    fn first(base: &Path) -> First {
        let first = First {
            name: "data".to_owned(),
            dir: base.join("data"),
            rootfs: base.join("rootfs"),
            targets: vec!["/srv".into()],
        };
        fs::create_dir_all(first.dir.join(DATA)).expect("made");
        fs::create_dir_all(first.rootfs.join("srv")).expect("made");
        fs::write(first.rootfs.join("srv/a"), "whole").expect("written");
        first
    }

    /// The names there.
    fn names(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).expect("listed").map(|entry| {
            let name = entry.expect("listed").file_name();
            name.to_string_lossy().into_owned()
        });
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn the_first_task_gets_the_images_content() {
        let base = tempfile::tempdir().expect("a directory");
        let first = first(base.path());
        assert!(first.is_due().expect("seen"));
        first.copy().expect("copied");
        assert_eq!(names(&first.dir.join(DATA)), ["a"]);
        assert_eq!(names(&first.dir), [DATA]);
        assert!(!first.is_due().expect("seen"));
    }

    #[test]
    fn half_a_copy_is_none() {
        let base = tempfile::tempdir().expect("a directory");
        let mut first = first(base.path());
        let (data, draft) = (first.dir.join(DATA), scratch());
        let half = data.join(&draft);
        fs::create_dir(&half).expect("made");
        for (mark, name) in [(POPULATING, "half"), (PUBLISHING, "complete")] {
            fs::create_dir_all(&half).expect("made");
            fs::write(half.join(name), "").expect("written");
            fs::write(first.dir.join(mark), &draft).expect("written");
            assert!(first.is_due().expect("seen"));
            // Be it for a task that wants nothing copied.
            first.targets.clear();
            first.copy().expect("cleared up");
            assert!(!half.exists() && names(&first.dir) == [DATA]);
        }
        assert_eq!(names(&data), ["complete"]);
        // A mark cut short, and one that names something else.
        for text in ["", "complete", "../x"] {
            fs::write(first.dir.join(POPULATING), text).expect("written");
            first.copy().expect("cleared up");
            assert_eq!(names(&data), ["complete"]);
        }
    }

    #[test]
    fn a_copy_that_fails_leaves_nothing() {
        let base = tempfile::tempdir().expect("a directory");
        let first = first(base.path());
        // Deeper than what is copied.
        let deep = (0..300).fold(first.rootfs.join("srv"), |path, _| path.join("d"));
        fs::create_dir_all(deep).expect("made");
        first.copy().expect_err("too deep");
        assert_eq!(names(&first.dir), [DATA]);
        assert!(names(&first.dir.join(DATA)).is_empty() && first.is_due().expect("seen"));
    }

    #[test]
    fn drafts_of_other_nodes_are_no_content() {
        let base = tempfile::tempdir().expect("a directory");
        let first = first(base.path());
        let theirs = scratch();
        fs::create_dir(first.dir.join(DATA).join(&theirs)).expect("made");
        first.copy().expect("copied");
        assert_eq!(names(&first.dir.join(DATA)), [theirs.as_str(), "a"]);
    }
}
