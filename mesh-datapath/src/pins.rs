//! Files and folders on a bpffs.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::Error;

/// What is in a folder of pins; none if there is no folder.
pub(crate) fn entries(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let error = |source| Error::Path {
        action: "list folder",
        path: dir.to_owned(),
        source,
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(error(e)),
    };
    entries
        .map(|entry| entry.map(|e| e.path()).map_err(error))
        .collect()
}

/// Where a pin is made that is to take the place of another in one step.
pub(crate) fn draft(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-new");
    PathBuf::from(name)
}

/// Removes a file. One that is not there is no error.
pub(crate) fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Path {
            action: "remove",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Removes a folder of pins and all below it; goes on after an error and reports the first.
pub(crate) fn remove_tree(dir: &Path) -> Result<(), Error> {
    let mut first = Ok(());
    for path in entries(dir)? {
        let removed = if path.is_dir() {
            remove_tree(&path)
        } else {
            remove_file(&path)
        };
        first = first.and(removed);
    }
    match fs::remove_dir(dir) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => first.and(Err(Error::Path {
            action: "remove folder",
            path: dir.to_owned(),
            source,
        })),
        _ => first,
    }
}
