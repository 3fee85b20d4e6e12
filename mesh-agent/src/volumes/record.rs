//! What is known of a volume, beside its content: a small file.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::options::Options;

/// The label of a volume that nobody gave a name.
pub const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// The letters of a name, as Docker's texts show them.
pub(super) const NAME_LETTERS: &str = "[a-zA-Z0-9][a-zA-Z0-9_.-]";

const FILE: &str = "volume.json";

/// Directory of a volume's content, in the volume's own. The names are Docker's.
pub(super) const DATA: &str = "_data";

/// What is known of a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// When it was made; unknown of one that an older agent made.
    pub created: Option<DateTime<Utc>>,
    /// What is mounted there, if anything is.
    pub options: Options,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The task that it is made for and goes with.
    pub task: Option<String>,
}

impl Record {
    /// That of the volume in `dir`; empty for one that an older agent made, which had no options.
    pub(super) fn load(dir: &Path) -> io::Result<Self> {
        match fs::read(dir.join(FILE)) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = fs::metadata(dir)?.modified()?;
                Ok(Self {
                    created: Some(made.into()),
                    ..Self::default()
                })
            }
            Err(error) => Err(error),
        }
    }

    /// Makes the volume `name` in `volumes`: all of it, or nothing.
    pub(super) fn make(&self, volumes: &Path, name: &str) -> io::Result<()> {
        // No volume's name begins with a dot.
        let draft = scratch_in(volumes)?;
        let write = || {
            fs::create_dir(draft.join(DATA))?;
            let file = fs::File::create(draft.join(FILE))?;
            serde_json::to_writer(&file, self)?;
            // What is mounted there must not be forgotten: the task would write into the directory below.
            file.sync_all()?;
            fs::rename(&draft, volumes.join(name))
        };
        write().inspect_err(|_| {
            // What is left goes at the next start.
            let _ = fs::remove_dir_all(&draft);
        })
    }
}

/// What names of [`scratch`] are, but for a random number.
const SCRATCH: &str = ".mesh-";

/// A new directory whose name is no volume's; [`is_scratch`] knows it.
pub(super) fn scratch_in(volumes: &Path) -> io::Result<PathBuf> {
    let path = volumes.join(scratch());
    fs::create_dir(&path)?;
    Ok(path)
}

/// A new name that [`is_scratch`] knows.
pub(super) fn scratch() -> String {
    format!("{SCRATCH}{:032x}", rand::random::<u128>())
}

/// Whether what has this name is an agent's, half made or half removed.
pub(super) fn is_scratch(name: &str) -> bool {
    name.strip_prefix(SCRATCH).is_some_and(|number| {
        number.len() == 32 && number.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// Whether a volume may have this name.
pub fn is_name(name: &str) -> bool {
    name.len() <= 255
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "data-1", "A.b_c", &"a".repeat(255)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".a", "-a", "a/b", "..", "a b", "é", &"a".repeat(256)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn records_are_read_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let record = Record {
            created: Some(Utc::now()),
            options: [("type".to_owned(), "tmpfs".to_owned())].into(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            task: Some("t".to_owned()),
        };
        record.make(dir.path(), "data").expect("made");
        let at = dir.path().join("data");
        assert_eq!(Record::load(&at).expect("read"), record);
        assert!(at.join(DATA).is_dir());
        // Another one of the name is not made, and leaves nothing.
        record.make(dir.path(), "data").expect_err("it is there");
        let names = fs::read_dir(dir.path()).expect("listed").count();
        assert_eq!(names, 1);
    }

    #[test]
    fn volumes_of_older_agents_have_a_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let record = Record::load(dir.path()).expect("read");
        assert!(record.created.is_some() && record.options.is_empty());
    }
}
