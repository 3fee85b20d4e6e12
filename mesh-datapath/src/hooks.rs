//! Programs on socket calls, attached to the cgroup of this node's tasks by links pinned under `hooks/<program>`.
//!
//! A new version is attached beside the old one and takes its pin's name, which detaches the old one. In between
//! both run, which does no harm: the second finds an address that is no virtual one any more.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{CgroupAttachMode, CgroupSockAddr, links::FdLink},
};

use crate::{Error, Report, pins::remove_file};

/// All of them.
pub(crate) const PROGRAMS: [&str; 8] = [
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
];

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The attachments of one data plane.
#[derive(Debug)]
pub(crate) struct Hooks {
    dir: PathBuf,
    /// The cgroup2 directory that holds the tasks; without one nothing is attached.
    cgroup: Option<PathBuf>,
    /// The cgroup that this process attached to: its inode number.
    current: Option<u64>,
    given_up: bool,
}

impl Hooks {
    pub(crate) fn open(dir: PathBuf, cgroup: Option<PathBuf>) -> Result<Self, Error> {
        fs::create_dir_all(&dir).map_err(|source| Error::Path {
            action: "make folder",
            path: dir.clone(),
            source,
        })?;
        Ok(Self {
            dir,
            cgroup,
            current: None,
            given_up: false,
        })
    }

    /// Whether this process has attached them.
    pub(crate) fn are_attached(&self) -> bool {
        self.current.is_some()
    }

    /// Attaches this process's programs, once, or again to a cgroup that was made anew. A kernel that refuses them
    /// leaves virtual addresses to the packet programs.
    pub(crate) fn sync(&mut self, ebpf: &mut Ebpf, report: &mut Report) -> Result<(), Error> {
        let Some(cgroup) = self.cgroup.clone().filter(|_| !self.given_up) else {
            return Ok(());
        };
        let error = |source| Error::Path {
            action: "open cgroup",
            path: cgroup.clone(),
            source,
        };
        fs::create_dir_all(&cgroup).map_err(error)?;
        let directory = File::open(&cgroup).map_err(error)?;
        let inode = directory.metadata().map_err(error)?.ino();
        let pinned = |name: &&str| self.dir.join(name).exists();
        if self.current == Some(inode) && PROGRAMS.iter().all(pinned) {
            return Ok(());
        }
        for name in PROGRAMS {
            let anew = !pinned(&name);
            let program = ebpf.program_mut(name).ok_or(Error::Missing {
                kind: "program",
                name,
            })?;
            let attached = program
                .try_into()
                .map_err(Cause::from)
                .and_then(|program| attach(program, &directory, &self.dir, name));
            if let Err(source) = attached {
                tracing::warn!(
                    cgroup = %cgroup.display(), program = name, %source,
                    "virtual addresses are left to the packet path"
                );
                self.given_up = true;
                return self.detach();
            }
            report.attached += usize::from(anew);
        }
        self.current = Some(inode);
        Ok(())
    }

    fn detach(&self) -> Result<(), Error> {
        PROGRAMS
            .iter()
            .try_for_each(|name| remove_file(&self.dir.join(name)))
    }
}

fn attach(
    program: &mut CgroupSockAddr,
    cgroup: &File,
    dir: &Path,
    name: &str,
) -> Result<(), Cause> {
    // A link never excludes others, and the kernel refuses to be told so.
    let id = program.attach(cgroup, CgroupAttachMode::Single)?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    // A bpffs has no dots in its names.
    let next = dir.join(format!("{name}-next"));
    // Left by a process that died right here.
    remove_file(&next)?;
    drop(link.pin(&next)?);
    fs::rename(&next, dir.join(name))?;
    Ok(())
}
