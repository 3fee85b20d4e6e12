//! tc programs on kernels before 6.6, which have no tcx links: filters of the `clsact` qdisc. A filter is not held by
//! a pin but by its interface, so a file beside the pins, `filters/<program>-<interface index>`, says that it is there:
//! the program, pinned.

use std::{error, path::Path};

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

use crate::{Error, host, pins::remove_file};

type Cause = Box<dyn error::Error + Send + Sync>;

/// Our filters come before others'.
const PRIORITY: u16 = 1;
/// Major part of our filters' handles, "me": others at the same priority are not met by chance.
const HANDLE: u16 = 0x6d65;

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
}

impl Filter {
    fn handle(self) -> TcHandle {
        TcHandle::new(HANDLE, self.minor)
    }

    fn link(self, interface: &str) -> std::io::Result<SchedClassifierLink> {
        SchedClassifierLink::attached(interface, self.way, PRIORITY, self.handle(), None)
    }

    /// Puts the program there, in one step in the place of the one that is there. Whether there was none.
    pub(crate) fn attach(
        self,
        program: &mut SchedClassifier,
        marker: &Path,
    ) -> Result<bool, Cause> {
        let interface = host::interface(self.ifindex)?;
        add_qdisc(&interface)?;
        let (link, anew) = match program.attach_to_link(self.link(&interface)?) {
            Ok(link) => (link, false),
            // None to replace.
            Err(_) => {
                let options = TcAttachOptions::Netlink(NlOptions {
                    priority: PRIORITY,
                    handle: self.handle(),
                    classid: None,
                });
                let link = program.attach_with_options(&interface, self.way, options)?;
                (link, true)
            }
        };
        // Dropped, it would detach.
        std::mem::forget(program.take_link(link)?);
        remove_file(marker)?;
        program.pin(marker)?;
        Ok(anew)
    }

    /// Takes the filter away, and then its marker. An interface or filter that is not there any more is no error.
    pub(crate) fn detach(self, marker: &Path) -> Result<(), Error> {
        if let Ok(interface) = host::interface(self.ifindex)
            && let Err(source) = self.take_away(&interface)
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

/// Whether the kernel said that there is no such interface, filter, or (EINVAL) qdisc.
fn is_absent(error: &NetlinkError) -> bool {
    let absent = [libc::ENODEV, libc::ENOENT, libc::EINVAL];
    error
        .raw_os_error()
        .is_some_and(|code| absent.contains(&code))
}
