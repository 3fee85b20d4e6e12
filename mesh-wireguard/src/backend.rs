//! Which WireGuard encrypts: the kernel's where it can, or the one in user space. Both speak the same protocol to other
//! nodes, and the agent asks either for the same things.

use std::path::Path;

use crate::{Backend, Error, Helper, Kernel, Request, Setup, Status, control::USER_WANTED};

/// What encrypts on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handle {
    /// The kernel.
    Kernel(Kernel),
    /// A process in user space.
    Helper(Helper),
}

impl Handle {
    /// What encrypts at present, if anything does; `socket` is the helper's, and `owner` whose the kernel's devices are. Asking
    /// blocks, for no longer than five seconds.
    pub fn find(socket: &Path, owner: &str) -> Option<Self> {
        Helper::find(socket)
            .map(Self::Helper)
            .or_else(|| Kernel::find(owner).map(Self::Kernel))
    }

    /// What encrypts as `setup` says, else something new: the kernel, or a process from the program at `exe`. Blocks.
    ///
    /// # Errors
    /// What keeps it from starting.
    pub fn ensure(setup: &Setup, exe: &Path) -> Result<Self, Error> {
        // Not exchanged for the kernel's: that would cut what goes through it.
        if let Some(helper) = Helper::find_as(setup)? {
            return Ok(Self::Helper(helper));
        }
        let why = match setup.backend {
            Backend::Auto => match Kernel::ensure(setup)? {
                Ok(kernel) => return Ok(Self::Kernel(kernel)),
                Err(why) => why,
            },
            Backend::User => USER_WANTED.to_owned(),
        };
        if let Some(port_use) = setup.used.get(&setup.port) {
            return Err(Error::Used(port_use.clone()));
        }
        Kernel::end(&setup.owner)?;
        tracing::info!(
            why,
            "encrypted networks: WireGuard in user space, not the kernel's"
        );
        Helper::start(setup, exe, &why).map(Self::Helper)
    }

    /// Asks for something.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub fn ask(&self, request: &Request) -> Result<Status, Error> {
        match self {
            Self::Kernel(kernel) => kernel.ask(request),
            Self::Helper(helper) => helper.ask(request),
        }
    }

    /// Ends whatever encrypts, and removes the owner's devices. What is gone already is no error.
    ///
    /// # Errors
    /// The kernel does not let go of it.
    pub fn end(socket: &Path, owner: &str) -> Result<(), Error> {
        Helper::find(socket).map_or(Ok(()), |helper| helper.end())?;
        Kernel::end(owner)
    }
}
