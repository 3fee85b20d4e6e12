//! Programs on interfaces, by links pinned under `links/<program>-<interface index>`. A pinned link of an earlier
//! process is adopted: its program is swapped in one step, without a packet in between.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::{self, Error as _},
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{
        CgroupSockAddr, LinkOrder, Program, ProgramError, SchedClassifier, TcAttachType, Xdp,
        XdpMode,
        links::{FdLink, PinnedLink},
        tc::TcAttachOptions,
    },
};

use crate::{
    Error, Report,
    pins::{entries, remove_file},
};

/// On uplinks, XDP.
pub(crate) const UPLINK_XDP: &str = "uplink_xdp";
/// On uplinks.
pub(crate) const UPLINK_TC: &str = "uplink_tc";
/// On the tunnel device.
pub(crate) const TUNNEL_TC: &str = "tunnel_tc";
/// On the tunnel device, egress.
pub(crate) const PROBE_TC: &str = "probe_tc";
/// On host ends of overlay links.
pub(crate) const OVERLAY_TC: &str = "overlay_tc";
/// On host ends of gateway links.
pub(crate) const GATEWAY_TC: &str = "gateway_tc";
/// On the loopback interface.
pub(crate) const LOOPBACK_TC: &str = "loopback_tc";
/// All tc programs that are attached.
pub(crate) const TC_PROGRAMS: [&str; 6] = [
    UPLINK_TC,
    TUNNEL_TC,
    PROBE_TC,
    OVERLAY_TC,
    GATEWAY_TC,
    LOOPBACK_TC,
];

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A program on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attachment {
    pub(crate) program: &'static str,
    pub(crate) ifindex: u32,
}

/// The attachments of one data plane.
#[derive(Debug)]
pub(crate) struct Attachments {
    dir: PathBuf,
    /// Attached, or adopted, by this process: they run its programs.
    current: BTreeSet<Attachment>,
    /// Could not be attached and need not be, and why; not tried again.
    given_up: BTreeMap<Attachment, String>,
}

impl Attachments {
    pub(crate) fn open(dir: PathBuf) -> Result<Self, Error> {
        fs::create_dir_all(&dir).map_err(|source| Error::Path {
            action: "make folder",
            path: dir.clone(),
            source,
        })?;
        Ok(Self {
            dir,
            current: BTreeSet::new(),
            given_up: BTreeMap::new(),
        })
    }

    /// Attaches what is wanted and is not there, and detaches the rest. With `xdp_optional`, an uplink
    /// whose driver has no XDP is left to the tc program.
    pub(crate) fn sync(
        &mut self,
        ebpf: &mut Ebpf,
        wanted: &BTreeSet<Attachment>,
        xdp_optional: bool,
        report: &mut Report,
    ) -> Result<(), Error> {
        for attachment in wanted {
            let there = self.current.contains(attachment) && self.path(*attachment).exists();
            if there || self.given_up.contains_key(attachment) {
                continue;
            }
            match self.attach(ebpf, *attachment) {
                Ok(anew) => report.attached += usize::from(anew),
                Err(error @ (Error::Attach { .. } | Error::OtherXdp { .. }))
                    if xdp_optional && attachment.program == UPLINK_XDP =>
                {
                    tracing::info!(%error, source = error.source(), "no XDP, the tc program does its work");
                    let why = match error.source() {
                        Some(source) => format!("{error}: {source}"),
                        None => error.to_string(),
                    };
                    self.given_up.insert(*attachment, why);
                    continue;
                }
                Err(error) => return Err(error),
            }
            self.current.insert(*attachment);
        }
        self.current
            .retain(|attachment| wanted.contains(attachment));
        let names: BTreeSet<String> = wanted.iter().map(file_name).collect();
        for entry in entries(&self.dir)? {
            let name = entry.file_name().map(|n| n.to_string_lossy().into_owned());
            if !name.is_some_and(|name| names.contains(&name)) {
                remove_file(&entry)?;
                report.detached += 1;
            }
        }
        Ok(())
    }

    /// Whether the program is attached.
    pub(crate) fn has(&self, attachment: Attachment) -> bool {
        self.current.contains(&attachment)
    }

    /// Why the program could not be attached.
    pub(crate) fn refusal(&self, attachment: Attachment) -> Option<&str> {
        self.given_up.get(&attachment).map(String::as_str)
    }

    fn path(&self, attachment: Attachment) -> PathBuf {
        self.dir.join(file_name(&attachment))
    }

    /// Adopts the pinned link, or attaches anew. Whether it was anew.
    fn attach(&self, ebpf: &mut Ebpf, attachment: Attachment) -> Result<bool, Error> {
        let Attachment {
            program: name,
            ifindex,
        } = attachment;
        let path = self.path(attachment);
        let program = ebpf.program_mut(name).ok_or(Error::Missing {
            kind: "program",
            name,
        })?;
        if path.exists() {
            match adopt(program, &path) {
                Ok(()) => return Ok(false),
                Err(error) => {
                    tracing::debug!(%error, path = %path.display(), "attaching anew");
                    remove_file(&path)?;
                }
            }
        }
        create(name, program, ifindex, &path)
            .map(|()| true)
            .map_err(|source| {
                let interface = nix::net::if_::if_indextoname(ifindex).map_or_else(
                    |_| ifindex.to_string(),
                    |n| n.to_string_lossy().into_owned(),
                );
                if name == UPLINK_XDP && is_busy(&*source) {
                    return Error::OtherXdp { interface };
                }
                Error::Attach {
                    program: name,
                    interface,
                    source,
                }
            })
    }
}

/// Whether the kernel said EBUSY, somewhere in a chain of errors.
fn is_busy(error: &(dyn error::Error + 'static)) -> bool {
    let busy = |e: &io::Error| e.raw_os_error() == Some(libc::EBUSY);
    error.downcast_ref::<io::Error>().is_some_and(busy) || error.source().is_some_and(is_busy)
}

fn adopt(program: &mut Program, path: &Path) -> Result<(), Cause> {
    let link = FdLink::from(PinnedLink::from_pin(path)?);
    match program {
        Program::Xdp(xdp) => {
            let id = xdp.attach_to_link(link.try_into()?)?;
            drop(xdp.take_link(id)?);
        }
        Program::SchedClassifier(tc) => {
            let id = tc.attach_to_link(link.try_into()?)?;
            drop(tc.take_link(id)?);
        }
        _ => return Err("neither an XDP nor a tc program".into()),
    }
    Ok(())
}

fn create(
    name: &'static str,
    program: &mut Program,
    ifindex: u32,
    path: &Path,
) -> Result<(), Cause> {
    let link: FdLink = match program {
        Program::Xdp(xdp) => {
            let id = xdp.attach_to_if_index(ifindex, XdpMode::Driver)?;
            xdp.take_link(id)?.try_into()?
        }
        Program::SchedClassifier(tc) => {
            let interface = nix::net::if_::if_indextoname(ifindex)?;
            let options = TcAttachOptions::TcxOrder(LinkOrder::first());
            let way = if name == PROBE_TC {
                TcAttachType::Egress
            } else {
                TcAttachType::Ingress
            };
            let id = tc.attach_with_options(&interface.to_string_lossy(), way, options)?;
            tc.take_link(id)?.try_into()?
        }
        _ => return Err("neither an XDP nor a tc program".into()),
    };
    link.pin(path)?;
    Ok(())
}

fn file_name(attachment: &Attachment) -> String {
    format!("{}-{}", attachment.program, attachment.ifindex)
}

/// Loads one program into the kernel.
pub(crate) fn load(ebpf: &mut Ebpf, name: &'static str) -> Result<(), Error> {
    let program = ebpf.program_mut(name).ok_or(Error::Missing {
        kind: "program",
        name,
    })?;
    let loaded = match program {
        Program::Xdp(xdp) => Xdp::load(xdp),
        Program::SchedClassifier(tc) => SchedClassifier::load(tc),
        Program::CgroupSockAddr(hook) => CgroupSockAddr::load(hook),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    loaded.map_err(|source| Error::Program {
        program: name,
        source: Box::new(source),
    })
}
