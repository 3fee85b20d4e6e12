//! Network namespaces of tasks: made, kept by a bind mount, entered by a thread of their own.
//!
//! A thread that changed its namespace is never given back to a pool; it ends with its work.

use std::{fs, io, path::Path, thread};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

use super::LinkError;

/// `NSFS_MAGIC`: what a bind-mounted namespace's file system is called.
const NSFS_MAGIC: nix::sys::statfs::FsType = nix::sys::statfs::FsType(0x6e73_6673);

/// Whether `path` is a mounted namespace.
pub fn exists(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|s| s.filesystem_type() == NSFS_MAGIC)
}

/// Makes a namespace and mounts it at `path`; one that is there is kept.
///
/// # Errors
/// When the kernel refuses, usually for want of CAP_SYS_ADMIN.
pub fn create(path: &Path) -> Result<(), LinkError> {
    if exists(path) {
        return Ok(());
    }
    let what = || format!("create network namespace {}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(LinkError::io(what()))?;
    }
    fs::File::create(path).map_err(LinkError::io(what()))?;
    let target = path.to_owned();
    on_thread(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        bind("/proc/thread-self/ns/net", &target)
    })
    .map_err(|error| {
        let _ = fs::remove_file(path);
        LinkError::io(what())(error)
    })
}

/// Mounts the namespace that process `pid` lives in at `path`, for one whose mount was lost.
///
/// # Errors
/// When the process is gone or the kernel refuses.
pub fn adopt(path: &Path, pid: u32) -> Result<(), LinkError> {
    let what = || {
        format!(
            "mount the network namespace of process {pid} at {}",
            path.display()
        )
    };
    fs::File::create(path).map_err(LinkError::io(what()))?;
    bind(&format!("/proc/{pid}/ns/net"), path).map_err(LinkError::io(what()))
}

fn bind(namespace: &str, path: &Path) -> io::Result<()> {
    let none = None::<&str>;
    Ok(mount(Some(namespace), path, none, MsFlags::MS_BIND, none)?)
}

/// Unmounts and removes; one that is not there is no error. The namespace itself goes with its
/// last process and socket, and its links with it.
///
/// # Errors
/// When the mount point cannot be removed.
pub fn remove(path: &Path) -> Result<(), LinkError> {
    while exists(path) {
        umount2(path, MntFlags::MNT_DETACH)
            .map_err(io::Error::from)
            .map_err(LinkError::io(format!("unmount {}", path.display())))?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(LinkError::io(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// Runs `work` in the namespace mounted at `path`, on a thread that ends afterwards.
///
/// # Errors
/// When there is no namespace, or `work` fails.
pub fn within<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let file = fs::File::open(path)?;
    on_thread(move || {
        setns(file, CloneFlags::CLONE_NEWNET)?;
        work()
    })
}

/// [`within`] for callers on the async runtime.
///
/// # Errors
/// As [`within`].
pub async fn within_async<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || within(&path, work))
        .await
        .map_err(io::Error::other)?
}

fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    thread::Builder::new()
        .name("netns".to_owned())
        .stack_size(512 << 10)
        .spawn(work)?
        .join()
        .map_err(|_| io::Error::other("the thread in the namespace panicked"))?
}
