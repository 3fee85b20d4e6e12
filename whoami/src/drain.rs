//! Ending without failing anybody: on SIGTERM the server goes on accepting, closes every connection
//! after its next answer, and ends once nothing is being answered. What limits that is the SIGKILL after the
//! service's grace period.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use crate::Error;

/// Looks in a row that find nothing open before the end: a connection may be under way. Looks, not a time: after a
/// stall of the machine much time has passed, and nobody has looked.
const QUIET: u32 = 20;

/// How often the number of open requests is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Stack of the thread that waits for signals.
const STACK: usize = 64 * 1024;

static DRAINING: AtomicBool = AtomicBool::new(false);
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Whether the end has been asked for.
pub(crate) fn draining() -> bool {
    DRAINING.load(Ordering::Relaxed)
}

/// While one of these lives, the process does not end by itself.
pub(crate) struct Busy(());

impl Busy {
    /// Something begins that should be finished.
    pub(crate) fn begin() -> Self {
        OPEN.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// From here on SIGTERM drains. To be called before any other thread starts: they inherit that the
/// signal is left to one thread.
pub(crate) fn on_terminate() -> Result<(), Error> {
    // SAFETY: a signal set is plain data, valid when zeroed, and lives until the calls return.
    let set = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGTERM);
        if libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) != 0 {
            return Err("cannot block SIGTERM".into());
        }
        set
    };
    thread::Builder::new()
        .stack_size(STACK)
        .spawn(move || {
            let mut signal = 0;
            // SAFETY: both pointers are to live data; the set holds one blocked signal.
            while unsafe { libc::sigwait(&set, &mut signal) } != 0 {}
            DRAINING.store(true, Ordering::Relaxed);
            wait();
            std::process::exit(0);
        })
        .map_err(|error| format!("cannot start a thread: {error}"))?;
    Ok(())
}

fn wait() {
    let mut quiet = 0;
    while quiet < QUIET {
        thread::sleep(LOOK);
        quiet = match OPEN.load(Ordering::Relaxed) {
            0 => quiet + 1,
            _ => 0,
        };
    }
}
