//! A small init for containers made with `init`: process 1 forwards signals and reaps orphans.

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

/// Forks. Returns in the child, which goes on to execute the command; the parent never returns, it
/// exits with the command's code.
///
/// When the fork fails it returns as well: the command then runs as process 1 itself.
pub(super) fn become_init() {
    let all = SigSet::all();
    let Ok(old) = all.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK) else {
        return;
    };
    // SAFETY: this process has one thread.
    match unsafe { nix::unistd::fork() } {
        Ok(ForkResult::Parent { child }) => supervise(&all, child),
        Ok(ForkResult::Child) => {
            // Its own process group, in the foreground if there is a terminal, so that signals
            // typed there reach the command and not init.
            let _ = nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0));
            if nix::unistd::isatty(std::io::stdin()).unwrap_or(false) {
                // SIGTTOU is blocked here, so the call cannot stop us.
                let _ = nix::unistd::tcsetpgrp(std::io::stdin(), nix::unistd::getpid());
            }
            let _ = old.thread_set_mask();
        }
        Err(_) => {
            let _ = old.thread_set_mask();
        }
    }
}

fn supervise(all: &SigSet, child: Pid) -> ! {
    // Whoever waits for the end of our output, or for the command to be executed, must not wait
    // for us.
    // SAFETY: closes descriptors of this process only; nothing here uses them any more.
    unsafe { libc::close_range(3, u32::MAX, 0) };
    loop {
        match all.wait() {
            Ok(Signal::SIGCHLD) => {
                if let Some(code) = reap(child) {
                    // SAFETY: takes a number.
                    unsafe { libc::_exit(code) };
                }
            }
            Ok(signal) => {
                let _ = kill(child, signal);
            }
            Err(_) => {}
        }
    }
}

/// Collects what has ended; the command's exit code once it is among them.
fn reap(child: Pid) -> Option<i32> {
    let mut code = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == child => code = Some(status),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                code = Some(128 + signal as i32);
            }
            Ok(WaitStatus::StillAlive) | Err(_) => return code,
            Ok(_) => {}
        }
    }
}
