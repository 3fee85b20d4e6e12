//! Ending on SIGTERM and SIGINT: the first process of a container ignores them unless it says otherwise.

extern "C" fn end(signal: libc::c_int) {
    // SAFETY: _exit is async-signal-safe and takes any code.
    unsafe { libc::_exit(if signal == libc::SIGTERM { 0 } else { 130 }) }
}

/// SIGTERM ends the process with code 0, SIGINT with 130.
pub(crate) fn end_on_request() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: the handler calls only _exit, and is a function of the right type.
        unsafe { libc::signal(signal, end as *const () as libc::sighandler_t) };
    }
}
