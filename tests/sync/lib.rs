//! Slows down the disk of a program that it is loaded into before all other libraries (`LD_PRELOAD`): what is written takes as
//! many milliseconds longer to be kept as the file says that the environment names in `MESH_TEST_SYNC_DELAY`. The file is read
//! each time; without it, or with something else in it, the disk is as fast as it is.

use std::{
    ffi::{c_int, c_long},
    path::PathBuf,
    sync::OnceLock,
    thread,
    time::Duration,
};

#[cfg(target_arch = "x86_64")]
const SYS_FSYNC: c_long = 74;
#[cfg(target_arch = "x86_64")]
const SYS_FDATASYNC: c_long = 75;
#[cfg(target_arch = "aarch64")]
const SYS_FSYNC: c_long = 82;
#[cfg(target_arch = "aarch64")]
const SYS_FDATASYNC: c_long = 83;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

fn delay() {
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let file = FILE.get_or_init(|| std::env::var_os("MESH_TEST_SYNC_DELAY").map(PathBuf::from));
    let said = file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
    if let Some(millis) = said.and_then(|millis| millis.trim().parse().ok()) {
        thread::sleep(Duration::from_millis(millis));
    }
}

fn sync(number: c_long, file: c_int) -> c_int {
    delay();
    // SAFETY: both calls take the number of a file, and no memory.
    let done = unsafe { syscall(number, c_long::from(file)) };
    if done == 0 { 0 } else { -1 }
}

/// In the place of the C library's.
#[unsafe(no_mangle)]
pub extern "C" fn fsync(file: c_int) -> c_int {
    sync(SYS_FSYNC, file)
}

/// In the place of the C library's.
#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(file: c_int) -> c_int {
    sync(SYS_FDATASYNC, file)
}
