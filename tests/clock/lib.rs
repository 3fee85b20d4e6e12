//! Turns the clock of a program that it is loaded into before all other libraries (`LD_PRELOAD`): the time of day is ahead by
//! as many seconds as the environment says in `MESH_TEST_CLOCK_AHEAD`, or behind if that is negative. Clocks that count from the machine's start are right.

use std::{
    ffi::{c_int, c_long},
    sync::OnceLock,
};

/// `struct timespec` of 64-bit Linux.
#[repr(C)]
pub struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

const CLOCK_REALTIME: c_int = 0;
const CLOCK_REALTIME_COARSE: c_int = 5;

#[cfg(target_arch = "x86_64")]
const SYS_CLOCK_GETTIME: c_long = 228;
#[cfg(target_arch = "aarch64")]
const SYS_CLOCK_GETTIME: c_long = 113;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

fn ahead() -> i64 {
    static AHEAD: OnceLock<i64> = OnceLock::new();
    *AHEAD.get_or_init(|| {
        let said = std::env::var("MESH_TEST_CLOCK_AHEAD").ok();
        said.and_then(|seconds| seconds.parse().ok()).unwrap_or(0)
    })
}

/// In the place of the C library's.
///
/// # Safety
/// As there: `time` is null or points to a `struct timespec` that may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int {
    // SAFETY: the kernel checks the address.
    let done = unsafe { syscall(SYS_CLOCK_GETTIME, c_long::from(clock), time) };
    if done == 0 && matches!(clock, CLOCK_REALTIME | CLOCK_REALTIME_COARSE) {
        // SAFETY: the kernel has just written there.
        unsafe { (*time).seconds += ahead() };
    }
    if done == 0 { 0 } else { -1 }
}
