//! The process's own clock and random numbers. The functions of the C library that give them are defined here once more,
//! and found first: by Rust's standard library, by every other library, and so by all that a manager does.
//!
//! Time stands still while anything runs. Once everything waits, Tokio waits for the next timer in `epoll_wait`: there,
//! that much time has passed at once.

use libc::{c_char, c_int, c_long, c_uint, c_void, clockid_t, size_t, ssize_t, timespec};
use std::{
    env,
    ffi::CStr,
    io, mem,
    os::unix::process::CommandExt,
    process::Command,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering},
    time::Duration,
};

/// Where simulated time begins: 2026-01-01 00:00 UTC, seconds since the epoch.
const BEGIN: u64 = 1_767_225_600;
/// What the monotonic clock shows then, seconds.
const BOOT: u64 = 1000;

static SIMULATED: AtomicBool = AtomicBool::new(false);
/// Nanoseconds since the beginning.
static NOW: AtomicU64 = AtomicU64::new(0);
static RANDOM: AtomicU64 = AtomicU64::new(0);

/// From now on, all clocks and random numbers of this process are the seed's. Nothing may have asked for them before.
pub(crate) fn simulate(seed: u64) {
    RANDOM.store(seed, Ordering::SeqCst);
    SIMULATED.store(true, Ordering::SeqCst);
}

/// Starts this program anew if the kernel has put it at random addresses: some hash maps follow these.
///
/// # Errors
/// The kernel does not put it elsewhere.
pub(crate) fn at_fixed_addresses() -> io::Result<()> {
    const ASK: libc::c_ulong = 0xffff_ffff;
    // SAFETY: it takes a number and changes how this process starts others, no memory.
    let now = unsafe { libc::personality(ASK) };
    if now == -1 {
        return Err(io::Error::last_os_error());
    }
    if now & libc::ADDR_NO_RANDOMIZE != 0 {
        return Ok(());
    }
    let fixed = libc::c_ulong::from((now | libc::ADDR_NO_RANDOMIZE).unsigned_abs());
    // SAFETY: as above.
    if unsafe { libc::personality(fixed) } == -1 {
        return Err(io::Error::last_os_error());
    }
    let mut again = Command::new(env::current_exe()?);
    Err(again.args(env::args_os().skip(1)).exec())
}

/// Simulated time since the beginning.
pub(crate) fn elapsed() -> Duration {
    Duration::from_nanos(NOW.load(Ordering::Relaxed))
}

/// The true time of day, nanoseconds since the epoch.
pub(crate) fn time_of_day() -> i64 {
    let nanos = BEGIN * 1_000_000_000 + NOW.load(Ordering::Relaxed);
    i64::try_from(nanos).unwrap_or(i64::MAX)
}

fn is_simulated() -> bool {
    SIMULATED.load(Ordering::Relaxed)
}

/// SplitMix64 by Sebastiano Vigna.
fn next_random() -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut z = RANDOM.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// # Safety
/// `buffer` has room for `length` bytes.
unsafe fn fill(buffer: *mut c_void, length: size_t) {
    // SAFETY: the caller's promise; bytes need no alignment.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&next_random().to_le_bytes()[..chunk.len()]);
    }
}

/// A function of the C library that has a namesake here.
struct Original {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
}

impl Original {
    const fn new(name: &'static CStr) -> Self {
        Self {
            name,
            found: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    fn get(&self) -> *mut c_void {
        let mut found = self.found.load(Ordering::Relaxed);
        if found.is_null() {
            let name: *const c_char = self.name.as_ptr();
            // SAFETY: the name ends with a zero byte.
            found = unsafe { libc::dlsym(libc::RTLD_NEXT, name) };
            self.found.store(found, Ordering::Relaxed);
        }
        found
    }
}

/// # Safety
/// As getrandom(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut c_void, length: size_t, flags: c_uint) -> ssize_t {
    type Function = unsafe extern "C" fn(*mut c_void, size_t, c_uint) -> ssize_t;
    static ORIGINAL: Original = Original::new(c"getrandom");
    if is_simulated() {
        if length > 0 {
            // SAFETY: the caller's promise.
            unsafe { fill(buffer, length) };
        }
        return ssize_t::try_from(length).unwrap_or(ssize_t::MAX);
    }
    // SAFETY: this is the C library's function of that type; the arguments are the caller's.
    unsafe { mem::transmute::<*mut c_void, Function>(ORIGINAL.get())(buffer, length, flags) }
}

/// Some libraries ask the kernel for random numbers by its number.
///
/// # Safety
/// As syscall(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn syscall(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    type Function =
        unsafe extern "C" fn(c_long, c_long, c_long, c_long, c_long, c_long, c_long) -> c_long;
    static ORIGINAL: Original = Original::new(c"syscall");
    if number == libc::SYS_getrandom && is_simulated() {
        if b > 0 {
            // SAFETY: the caller's promise: the first two arguments are a buffer and its length.
            unsafe { fill(a as *mut c_void, b as size_t) };
        }
        return b;
    }
    // SAFETY: this is the C library's function. It takes any number of arguments, which callers pass as it is done for
    // a fixed number on the platforms that this runs on; what they have not passed is of no consequence.
    unsafe { mem::transmute::<*mut c_void, Function>(ORIGINAL.get())(number, a, b, c, d, e, f) }
}

/// # Safety
/// As clock_gettime(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    type Function = unsafe extern "C" fn(clockid_t, *mut timespec) -> c_int;
    static ORIGINAL: Original = Original::new(c"clock_gettime");
    if !is_simulated() {
        // SAFETY: this is the C library's function of that type; the arguments are the caller's.
        return unsafe { mem::transmute::<*mut c_void, Function>(ORIGINAL.get())(clock, time) };
    }
    let begin = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => BEGIN,
        _ => BOOT,
    };
    let now = Duration::from_secs(begin) + elapsed();
    // SAFETY: the caller's promise: `time` is valid for writing.
    unsafe {
        *time = timespec {
            tv_sec: now.as_secs() as libc::time_t,
            tv_nsec: c_long::from(now.subsec_nanos()),
        };
    }
    0
}

/// # Safety
/// As epoll_wait(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn epoll_wait(
    epoll: c_int,
    events: *mut libc::epoll_event,
    most: c_int,
    timeout: c_int,
) -> c_int {
    type Function = unsafe extern "C" fn(c_int, *mut libc::epoll_event, c_int, c_int) -> c_int;
    static ORIGINAL: Original = Original::new(c"epoll_wait");
    // SAFETY: this is the C library's function of that type.
    let original = unsafe { mem::transmute::<*mut c_void, Function>(ORIGINAL.get()) };
    if !is_simulated() || timeout < 0 {
        // SAFETY: the arguments are the caller's.
        return unsafe { original(epoll, events, most, timeout) };
    }
    // SAFETY: the arguments are the caller's.
    let ready = unsafe { original(epoll, events, most, 0) };
    if ready == 0 {
        let passed = Duration::from_millis(u64::from(timeout.unsigned_abs()));
        let passed = u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX);
        NOW.fetch_add(passed, Ordering::Relaxed);
    }
    ready
}
