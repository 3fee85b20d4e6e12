//! A store in a directory of its own, and images to put into it.

use std::fs;
use std::path::Path;

use mesh_image::build::{ArchiveBuilder, LayerBuilder};
use mesh_image::{ImageConfig, ImageStore, silent};
use tempfile::TempDir;

pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) store: Option<ImageStore>,
}

impl World {
    pub(crate) fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path()).unwrap();
        Self {
            dir,
            store: Some(store),
        }
    }

    pub(crate) fn store(&self) -> &ImageStore {
        self.store.as_ref().unwrap()
    }

    pub(crate) fn reopen(&mut self) {
        self.store = None;
        self.store = Some(ImageStore::open(self.dir.path()).unwrap());
    }

    pub(crate) fn load(&self, archive: &[u8]) -> mesh_image::Result<Vec<mesh_image::LoadedImage>> {
        self.store().load_blocking(archive, &silent())
    }

    /// Containers that have a root file system.
    pub(crate) fn containers(&self) -> Vec<String> {
        names(&self.dir.path().join("containers"))
    }

    pub(crate) fn count(&self, name: &str) -> usize {
        fs::read_dir(self.dir.path().join(name)).unwrap().count()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(store) = &self.store {
            for id in self.containers() {
                let _ = store.unmount_rootfs(&id);
            }
        }
    }
}

pub(crate) fn config() -> ImageConfig {
    ImageConfig {
        env: vec!["PATH=/bin".into()],
        cmd: vec!["/bin/hello".into()],
        working_dir: "/srv".into(),
        ..ImageConfig::default()
    }
}

/// Two layers: the second hides, replaces and empties parts of the first.
pub(crate) fn image(name: &str) -> ArchiveBuilder {
    let mut base = LayerBuilder::new();
    base.directory("bin", 0o755)
        .unwrap()
        .file("bin/hello", 0o4755, b"hello")
        .unwrap();
    base.hard_link("bin/hello2", "bin/hello")
        .unwrap()
        .symlink("sbin", "bin")
        .unwrap();
    base.file("etc/gone", 0o644, b"gone")
        .unwrap()
        .file("etc/kept", 0o600, b"old")
        .unwrap();
    base.file("data/old", 0o644, b"old")
        .unwrap()
        .directory("tmp", 0o1777)
        .unwrap();
    let mut top = LayerBuilder::new();
    top.file("etc/.wh.gone", 0, b"")
        .unwrap()
        .file("etc/kept", 0o600, b"new")
        .unwrap();
    top.file("data/.wh..wh..opq", 0, b"")
        .unwrap()
        .file("data/new", 0o644, b"new")
        .unwrap();
    top.file("tmp/x", 0o644, b"").unwrap();
    ArchiveBuilder::new(name, config())
        .layer(base.finish().unwrap())
        .layer(top.finish().unwrap())
}

pub(crate) fn docker(image: &ArchiveBuilder) -> Vec<u8> {
    let mut out = Vec::new();
    image.write_docker(&mut out).unwrap();
    out
}

pub(crate) fn oci(image: &ArchiveBuilder) -> Vec<u8> {
    let mut out = Vec::new();
    image.write_oci(&mut out).unwrap();
    out
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

pub(crate) fn xattr(path: &Path, name: &std::ffi::CStr) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut value = vec![0u8; 256];
    // SAFETY: both names are NUL-terminated and `value` is writable for the length given.
    let n = unsafe {
        libc::lgetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    usize::try_from(n).ok().map(|n| value[..n].to_vec())
}
