//! A file that nobody but its owner reads, and that is whole or not there.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// The file while it is written, under another name; dropped before [`SecretFile::finish`], it is removed.
#[derive(Debug)]
pub(super) struct SecretFile {
    file: File,
    scratch: PathBuf,
    path: PathBuf,
    is_done: bool,
}

impl SecretFile {
    /// Begins, beside `path`, where only an older file may be: a device or a link would be replaced, not written to.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        if fs::symlink_metadata(path).is_ok_and(|there| !there.is_file()) {
            let what = "there is something else than a file";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        let name = path
            .file_name()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not the name of a file"))?;
        let mut scratch_name = OsString::from(".");
        scratch_name.push(name);
        scratch_name.push(format!(".{}", std::process::id()));
        let scratch = path.with_file_name(scratch_name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&scratch)?;
        Ok(Self {
            file,
            scratch,
            path: path.to_owned(),
            is_done: false,
        })
    }

    /// Goes on.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Puts it in its place, in that of an older one if there is one; it is on disk when this returns.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.scratch, &self.path)?;
        self.is_done = true;
        let parent = self.path.parent().filter(|p| !p.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        if !self.is_done {
            // Nothing is left to tell of it.
            let _ = fs::remove_file(&self.scratch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_is_whole_and_private_or_not_there() {
        let directory = std::env::temp_dir().join(format!("mesh-ctl-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        let path = directory.join("backup");
        fs::write(&path, "older").expect("written");
        let names = || fs::read_dir(&directory).expect("listed").count();

        let mut given_up = SecretFile::create(&path).expect("made");
        given_up.write(b"half").expect("written");
        assert_eq!(names(), 2);
        drop(given_up);
        assert_eq!(fs::read(&path).expect("read"), b"older");
        assert_eq!(names(), 1);

        let mut file = SecretFile::create(&path).expect("made");
        file.write(b"wh").expect("written");
        file.write(b"ole").expect("written");
        file.finish().expect("finished");
        assert_eq!(fs::read(&path).expect("read"), b"whole");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(names(), 1);
        assert!(SecretFile::create(Path::new("/")).is_err());
        assert!(SecretFile::create(Path::new("/dev/null")).is_err());
        let link = directory.join("link");
        std::os::unix::fs::symlink(&path, &link).expect("linked");
        assert!(SecretFile::create(&link).is_err());
        fs::remove_dir_all(&directory).expect("removed");
    }
}
