//! tc programs on kernels before 6.6, which have no tcx links: filters of the `clsact` qdisc. A filter is not held by
//! a pin but by its interface, so a file beside the pins, `filters/<program>-<interface index>`, says that it is there:
//! the program, pinned. It comes before the filter and goes after it.

use std::{error, fmt, fs, io, path::Path};

use aya::{
    programs::{
        ProgramError, SchedClassifier, TcAttachType,
        links::Link as _,
        tc::{
            NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
        },
    },
    sys::NetlinkError,
};

use nix::sys::socket::SockProtocol;

use crate::{
    Error, host, netlink,
    pins::{draft, remove_file},
};

type Cause = Box<dyn error::Error + Send + Sync>;

/// Priority of filters that come before others'.
const FIRST: u16 = 1;
/// Of those that come after; the kernel gives those that ask for none a smaller one.
const LAST: u16 = u16::MAX;
/// Major part of our filters' handles, "me": others at the same priority are not met by chance.
const HANDLE: u16 = 0x6d65;

/// `TCA_KIND`.
const KIND: u16 = 1;
/// `tcmsg`: family, interface, handle, parent, priority and protocol.
const MESSAGE: usize = 20;
/// Where packets come in, and where they go out, of the `clsact` qdisc.
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;

/// A filter of others.
#[derive(Debug)]
pub(crate) struct Other {
    kind: String,
    priority: u16,
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {} filter of priority {}", self.kind, self.priority)
    }
}

/// Another's filter has the priority that ours is to have, and the kernel takes no second kind or protocol of one priority.
#[derive(Debug, thiserror::Error)]
#[error(
    "{other} is in the place of ours: give it another priority (`tc filter show dev {interface} {way}`), or ours another \
     place by `--tc`"
)]
struct Taken {
    interface: String,
    way: &'static str,
    other: Other,
    source: ProgramError,
}

/// What filters of others an interface has, one way, of any qdisc of that kind.
pub(crate) fn others(ifindex: u32, way: TcAttachType) -> io::Result<Vec<Other>> {
    let parent = match way {
        TcAttachType::Egress => EGRESS,
        _ => INGRESS,
    };
    let mut body = vec![0; 4];
    for word in [ifindex, 0, parent, 0] {
        body.extend(word.to_ne_bytes());
    }
    let flags = libc::NLM_F_DUMP as u16;
    let filters = netlink::talk(
        SockProtocol::NetlinkRoute,
        libc::RTM_GETTFILTER,
        flags,
        &body,
    )?;
    let others = filters.iter().filter_map(|filter| {
        let word = |at| Some(u32::from_ne_bytes(filter.get(at..at + 4)?.try_into().ok()?));
        let (handle, priority) = (word(8)?, (word(16)? >> 16) as u16);
        let kind = netlink::find(filter.get(MESSAGE..)?, KIND)?;
        // The first message about a priority is about no filter.
        let is_other = handle != 0 && handle >> 16 != u32::from(HANDLE);
        let kind = String::from_utf8_lossy(kind.strip_suffix(b"\0").unwrap_or(kind));
        let kind = kind.into_owned();
        is_other.then_some(Other { kind, priority })
    });
    Ok(others.collect())
}

/// Whether this kernel needs filters: it does not know tcx's kind of attachment.
pub(crate) fn is_needed() -> bool {
    SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_err()
}

/// One of our filters: where it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filter {
    pub(crate) ifindex: u32,
    pub(crate) way: TcAttachType,
    /// Tells our filters apart, from 1.
    pub(crate) minor: u16,
    /// After those of others.
    pub(crate) last: bool,
}

impl Filter {
    fn handle(self) -> TcHandle {
        TcHandle::new(HANDLE, self.minor)
    }

    fn priority(self) -> u16 {
        if self.last { LAST } else { FIRST }
    }

    fn link(self, interface: &str) -> io::Result<SchedClassifierLink> {
        SchedClassifierLink::attached(interface, self.way, self.priority(), self.handle(), None)
    }

    /// The one where it would be if it were to be elsewhere among others.
    fn elsewhere(self) -> Self {
        let last = !self.last;
        Self { last, ..self }
    }

    /// Puts the program there, in one step in the place of the one that is there. Whether there was none.
    pub(crate) fn attach(
        self,
        program: &mut SchedClassifier,
        marker: &Path,
    ) -> Result<bool, Cause> {
        let interface = host::interface(self.ifindex)?;
        add_qdisc(&interface)?;
        let new = draft(marker);
        // Of one that was interrupted.
        remove_file(&new)?;
        program.pin(&new)?;
        fs::rename(&new, marker)?;
        let (link, anew) = match program.attach_to_link(self.link(&interface)?) {
            Ok(link) => (link, false),
            // None to replace.
            Err(_) => {
                let options = TcAttachOptions::Netlink(NlOptions {
                    priority: self.priority(),
                    handle: self.handle(),
                    classid: None,
                });
                let attached = program.attach_with_options(&interface, self.way, options);
                (attached.map_err(|error| self.refused(error))?, true)
            }
        };
        // Dropped, it would detach.
        std::mem::forget(program.take_link(link)?);
        self.elsewhere().take_away(&interface)?;
        Ok(anew)
    }

    /// Why the kernel did not take the filter.
    fn refused(self, error: ProgramError) -> Cause {
        let others = others(self.ifindex, self.way).unwrap_or_default();
        let other = others
            .into_iter()
            .find(|other| other.priority == self.priority());
        match (other, host::interface(self.ifindex)) {
            (Some(other), Ok(interface)) => Box::new(Taken {
                interface,
                way: match self.way {
                    TcAttachType::Egress => "egress",
                    _ => "ingress",
                },
                other,
                source: error,
            }),
            _ => Box::new(error),
        }
    }

    /// Takes the filter away, and then its marker. An interface or filter that is not there any more is no error.
    pub(crate) fn detach(self, marker: &Path) -> Result<(), Error> {
        if let Ok(interface) = host::interface(self.ifindex)
            && let Err(source) = self
                .take_away(&interface)
                .and(self.elsewhere().take_away(&interface))
        {
            return Err(Error::Detach { interface, source });
        }
        remove_file(marker)
    }

    fn take_away(self, interface: &str) -> Result<(), Cause> {
        match self.link(interface)?.detach() {
            Err(ProgramError::NetlinkError(error)) if is_absent(&error) => Ok(()),
            done => Ok(done?),
        }
    }
}

/// Gives the interface a `clsact` qdisc, unless it has one.
fn add_qdisc(interface: &str) -> Result<(), Cause> {
    match qdisc_add_clsact(interface) {
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        done => Ok(done?),
    }
}

/// Whether the kernel said that there is no such interface or filter, or (EINVAL) no such qdisc, or one of others with the
/// priority, of another protocol.
fn is_absent(error: &NetlinkError) -> bool {
    let absent = [libc::ENODEV, libc::ENOENT, libc::EINVAL];
    error
        .raw_os_error()
        .is_some_and(|code| absent.contains(&code))
}
