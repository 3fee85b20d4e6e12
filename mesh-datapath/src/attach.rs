//! Programs on interfaces, by links pinned under `links/<program>-<interface index>`. A pinned link of an earlier
//! process is adopted: its program is swapped in one step, without a packet in between. Where the kernel has no links
//! for tc, see [`clsact`].

use std::{
    collections::{BTreeMap, BTreeSet},
    error::{self, Error as _},
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
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
    Config, Error, Report, TcOrder,
    clsact::{self, Filter},
    host,
    netlink::XdpFacts,
    pins::{draft, entries, remove_file},
};

/// Folder of pinned links, below a version's.
pub(crate) const LINKS: &str = "links";
/// Folder of the filters' markers, below a version's.
pub(crate) const FILTERS: &str = "filters";

/// On uplinks, XDP.
pub(crate) const UPLINK_XDP: &str = "uplink_xdp";
/// On uplinks.
pub(crate) const UPLINK_TC: &str = "uplink_tc";
/// On the device that encrypts.
pub(crate) const CIPHER_TC: &str = "cipher_tc";
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
/// All tc programs that are attached; the place here is part of a filter's handle.
pub(crate) const TC_PROGRAMS: [&str; 7] = [
    UPLINK_TC,
    TUNNEL_TC,
    PROBE_TC,
    OVERLAY_TC,
    GATEWAY_TC,
    LOOPBACK_TC,
    CIPHER_TC,
];

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// How long a program may still be on an interface after the pin of its link was removed: the kernel lets go of it later.
const LET_GO: Duration = Duration::from_secs(1);

/// A program on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attachment {
    pub(crate) program: &'static str,
    pub(crate) ifindex: u32,
}

impl Attachment {
    /// Egress or ingress.
    fn way(self) -> TcAttachType {
        if self.program == PROBE_TC {
            TcAttachType::Egress
        } else {
            TcAttachType::Ingress
        }
    }

    /// Its filter, where tc programs are filters.
    fn filter(self, order: TcOrder) -> Filter {
        // Few.
        let number = TC_PROGRAMS.iter().position(|name| *name == self.program);
        Filter {
            ifindex: self.ifindex,
            way: self.way(),
            minor: number.map_or(0, |number| number as u16 + 1),
            last: order == TcOrder::Last,
        }
    }

    /// Whether it is a tc program on an interface that is not the mesh's own.
    fn is_shared(self) -> bool {
        [UPLINK_TC, LOOPBACK_TC].contains(&self.program)
    }

    /// Where it is to be among others.
    fn order(self, configured: TcOrder) -> TcOrder {
        if self.is_shared() {
            configured
        } else {
            TcOrder::First
        }
    }

    fn file_name(self) -> String {
        format!("{}-{}", self.program, self.ifindex)
    }

    /// Of a tc program, what a file is named after.
    fn named(path: &Path) -> Option<Self> {
        let (program, ifindex) = path.file_name()?.to_str()?.rsplit_once('-')?;
        Some(Self {
            program: TC_PROGRAMS.into_iter().find(|name| *name == program)?,
            ifindex: ifindex.parse().ok()?,
        })
    }
}

/// An uplink that did not take XDP.
#[derive(Debug)]
struct GivenUp {
    why: String,
    /// As it was before that.
    link: XdpFacts,
}

/// The attachments of one data plane.
#[derive(Debug)]
pub(crate) struct Attachments {
    links: PathBuf,
    /// The markers of tc programs that are filters.
    filters: PathBuf,
    /// tc programs are held by links, and filters are left-overs.
    has_links: bool,
    /// Where tc programs are among others'.
    order: TcOrder,
    /// Attached, or adopted, by this process: they run its programs.
    current: BTreeSet<Attachment>,
    /// Could not be attached and need not be: tried again once the link is not what it was.
    given_up: BTreeMap<Attachment, GivenUp>,
}

impl Attachments {
    pub(crate) fn open(config: &Config) -> Result<Self, Error> {
        let dir = config.versioned_pin_dir();
        let (links, filters) = (dir.join(LINKS), dir.join(FILTERS));
        for folder in [&links, &filters] {
            fs::create_dir_all(folder).map_err(|source| Error::Path {
                action: "make folder",
                path: folder.clone(),
                source,
            })?;
        }
        Ok(Self {
            links,
            filters,
            has_links: config.tc_links && !clsact::is_needed(),
            order: config.tc,
            current: BTreeSet::new(),
            given_up: BTreeMap::new(),
        })
    }

    /// Attaches what is wanted and is not there, and detaches the rest. With `xdp_optional`, an uplink that takes no XDP
    /// program is left to the tc program, until its MTU or the programs that it has change, it goes down or comes up, or
    /// it was not wanted for a while.
    pub(crate) fn sync(
        &mut self,
        ebpf: &mut Ebpf,
        wanted: &BTreeSet<Attachment>,
        xdp_optional: bool,
        report: &mut Report,
    ) -> Result<(), Error> {
        self.given_up.retain(|attachment, given_up| {
            wanted.contains(attachment)
                && XdpFacts::of(attachment.ifindex).is_ok_and(|link| link == given_up.link)
        });
        for attachment in wanted {
            let there = self.current.contains(attachment) && self.path(*attachment).exists();
            if there || self.given_up.contains_key(attachment) {
                continue;
            }
            let optional = xdp_optional && attachment.program == UPLINK_XDP;
            // Before it is tried, so that what changes meanwhile is seen the next time.
            let link = optional
                .then(|| XdpFacts::of(attachment.ifindex))
                .transpose()?;
            match (self.attach(ebpf, *attachment), link) {
                (Ok(anew), _) => report.attached += usize::from(anew),
                (Err(error @ (Error::Attach { .. } | Error::OtherXdp { .. })), Some(link)) => {
                    tracing::info!(%error, source = error.source(), "no XDP, the tc program does its work");
                    let why = match error.source() {
                        Some(source) => format!("{error}: {source}"),
                        None => error.to_string(),
                    };
                    self.given_up.insert(*attachment, GivenUp { why, link });
                    continue;
                }
                (Err(error), _) => return Err(error),
            }
            self.current.insert(*attachment);
        }
        self.current
            .retain(|attachment| wanted.contains(attachment));
        let paths: BTreeSet<PathBuf> = wanted.iter().map(|one| self.path(*one)).collect();
        for link in entries(&self.links)? {
            if !paths.contains(&link) {
                remove_file(&link)?;
                report.detached += 1;
            }
        }
        report.detached += detach_others(&self.filters, &paths)?;
        Ok(())
    }

    /// Whether the program is attached.
    pub(crate) fn has(&self, attachment: Attachment) -> bool {
        self.current.contains(&attachment)
    }

    /// Why the program could not be attached.
    pub(crate) fn refusal(&self, attachment: Attachment) -> Option<&str> {
        self.given_up.get(&attachment).map(|one| one.why.as_str())
    }

    fn path(&self, attachment: Attachment) -> PathBuf {
        let is_link = self.has_links || attachment.program == UPLINK_XDP;
        let dir = if is_link { &self.links } else { &self.filters };
        dir.join(attachment.file_name())
    }

    /// Puts the program there, in the place of an earlier process's. Whether there was none.
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
        let order = attachment.order(self.order);
        if order == TcOrder::Refuse {
            refuse_others(attachment, self.has_links)?;
        }
        let attached = match program {
            Program::SchedClassifier(tc) if !self.has_links => {
                attachment.filter(order).attach(tc, &path)
            }
            program => attach_link(attachment, order, program, &path),
        };
        attached.map_err(|source| {
            let interface = host::interface_or_index(ifindex);
            // The latter if it is a generic one, or one of an interface above.
            let other = [libc::EBUSY, libc::EEXIST];
            if name == UPLINK_XDP && other.iter().any(|errno| is(&*source, *errno)) {
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

/// Whether the kernel said this, somewhere in a chain of errors.
fn is(error: &(dyn error::Error + 'static), errno: i32) -> bool {
    let said = |e: &io::Error| e.raw_os_error() == Some(errno);
    let here = error.downcast_ref::<io::Error>().is_some_and(said);
    here || error.source().is_some_and(|source| is(source, errno))
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

/// The tc programs on the interface, in their order, of which ours have their names.
fn programs(attachment: Attachment) -> Result<Vec<String>, Cause> {
    let interface = host::interface(attachment.ifindex)?;
    let (_, programs) = SchedClassifier::query_tcx(&interface, attachment.way())?;
    let names = programs.iter().map(|program| {
        let name = String::from_utf8_lossy(program.name());
        name.into_owned()
    });
    Ok(names.collect())
}

/// An error if others have tc programs there, as links (where the kernel has these) or filters.
fn refuse_others(attachment: Attachment, has_links: bool) -> Result<(), Error> {
    let find = || -> Result<Vec<String>, Cause> {
        let filters = clsact::others(attachment.ifindex, attachment.way())?;
        let mut others: Vec<String> = filters.iter().map(ToString::to_string).collect();
        if has_links {
            let programs = programs(attachment)?.into_iter();
            others.extend(programs.filter(|name| name != attachment.program));
        }
        Ok(others)
    };
    let interface = host::interface_or_index(attachment.ifindex);
    match find() {
        Ok(others) if others.is_empty() => Ok(()),
        Ok(others) => Err(Error::OtherTc {
            interface,
            others: others.join(", "),
        }),
        Err(source) => Err(Error::Attach {
            program: attachment.program,
            interface,
            source,
        }),
    }
}

/// Whether a program that is attached is where it is to be. Those of others may have come since.
fn is_in_place(attachment: Attachment, order: TcOrder) -> Result<bool, Cause> {
    if !attachment.is_shared() {
        return Ok(true);
    }
    let programs = programs(attachment)?;
    let there = match order {
        TcOrder::First | TcOrder::Refuse => programs.first(),
        TcOrder::Last => programs.last(),
    };
    Ok(there.is_some_and(|name| name == attachment.program))
}

/// Adopts the pinned link, if it is in its place, or attaches anew. Whether it was anew.
fn attach_link(
    attachment: Attachment,
    order: TcOrder,
    program: &mut Program,
    path: &Path,
) -> Result<bool, Cause> {
    let new = draft(path);
    // Of one that was interrupted before it could rename it. The kernel lets go of it later: until then it may be what is
    // seen in the place, while the one that is pinned is elsewhere.
    let is_interrupted = new.exists();
    remove_file(&new)?;
    if path.exists() && !is_interrupted && is_in_place(attachment, order)? {
        match adopt(program, path) {
            Ok(()) => return Ok(false),
            Err(error) => {
                tracing::debug!(%error, path = %path.display(), "attaching anew");
                remove_file(path)?;
            }
        }
    }
    let link: FdLink = match program {
        Program::Xdp(xdp) => {
            let id = xdp.attach_to_if_index(attachment.ifindex, XdpMode::Driver)?;
            xdp.take_link(id)?.try_into()?
        }
        Program::SchedClassifier(tc) => {
            let interface = host::interface(attachment.ifindex)?;
            let way = attachment.way();
            let deadline = Instant::now() + LET_GO;
            let id = loop {
                let place = match order {
                    TcOrder::First | TcOrder::Refuse => LinkOrder::first(),
                    TcOrder::Last => LinkOrder::last(),
                };
                let options = TcAttachOptions::TcxOrder(place);
                match tc.attach_with_options(&interface, way, options) {
                    Err(error) if is(&error, libc::EEXIST) && Instant::now() < deadline => {
                        thread::sleep(Duration::from_millis(5));
                    }
                    attached => break attached?,
                }
            };
            tc.take_link(id)?.try_into()?
        }
        _ => return Err("neither an XDP nor a tc program".into()),
    };
    if path.exists() {
        // Both run for a moment: what the one passes on, the other does as well.
        link.pin(&new)?;
        fs::rename(&new, path)?;
    } else {
        link.pin(path)?;
    }
    Ok(true)
}

/// Detaches the filters whose markers are in `dir` but not among `wanted`; gives their number.
fn detach_others(dir: &Path, wanted: &BTreeSet<PathBuf>) -> Result<usize, Error> {
    let mut detached = 0;
    for marker in entries(dir)? {
        if !wanted.contains(&marker) {
            match Attachment::named(&marker) {
                Some(attachment) => attachment.filter(TcOrder::First).detach(&marker)?,
                None => remove_file(&marker)?,
            }
            detached += 1;
        }
    }
    Ok(detached)
}

/// Detaches every filter of the version whose folder this is.
pub(crate) fn detach_filters(version: &Path) -> Result<(), Error> {
    detach_others(&version.join(FILTERS), &BTreeSet::new()).map(drop)
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
