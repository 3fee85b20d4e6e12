//! The pages of the program's files that a process has mapped.
//!
//! Whatever is called brings in all that the page cache has around it, 64 KiB and more at a time. Most of what is called is
//! called once, to start: a container by the shim, the node by the agent. What either then spends its life in is a small part.

use std::ffi::{c_int, c_void};
use std::io;

/// Gives back the pages of code and constants of the program and its libraries. Those that are used again come back from
/// the page cache.
///
/// # Errors
/// When the kernel refuses it for one of them; the others are given back.
pub fn release() -> io::Result<()> {
    let mut refused: Option<io::Error> = None;
    // SAFETY: `of_object` is what the function calls, and takes the pointer for what it is: it outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(of_object), (&raw mut refused).cast()) };
    refused.map_or(Ok(()), Err)
}

/// Gives back what of an object is mapped as it is in its file.
///
/// # Safety
/// As `dl_iterate_phdr` calls it: `object` describes a loaded object, and `refused` points to an `Option<io::Error>`.
unsafe extern "C" fn of_object(
    object: *mut libc::dl_phdr_info,
    _size: usize,
    refused: *mut c_void,
) -> c_int {
    // SAFETY: the caller vouches for both, and nobody else has them.
    let (object, refused) = unsafe { (&*object, &mut *refused.cast::<Option<io::Error>>()) };
    // The kernel's own, which has no file.
    if object.dlpi_phdr.is_null() || object.dlpi_addr == vdso() {
        return 0;
    }
    // SAFETY: an object's table of so many headers stays where it is while the object is loaded, and nothing is unloaded.
    let headers =
        unsafe { std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)) };
    let page = page_size();
    for header in headers {
        // What may be written, now or while it was linked, is not what the file has.
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let begin = (object.dlpi_addr + header.p_vaddr) & !(page - 1);
        let end = object.dlpi_addr + header.p_vaddr + header.p_memsz;
        // SAFETY: a private mapping of a file, in which nothing was ever written: what it holds is in the file still.
        let result = unsafe {
            libc::madvise(
                begin as *mut c_void,
                (end - begin) as usize,
                libc::MADV_DONTNEED,
            )
        };
        if result < 0 {
            *refused = Some(io::Error::last_os_error());
        }
    }
    0
}

fn vdso() -> u64 {
    // SAFETY: takes a number.
    unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) }
}

fn page_size() -> u64 {
    // SAFETY: takes a number.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// KiB of files' pages that are mapped and not written to.
    fn mapped() -> u64 {
        let text = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let value = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            let words: Vec<_> = line.split_whitespace().collect();
            words[1].parse::<u64>().unwrap()
        };
        value("Rss:") - value("Anonymous:")
    }

    #[test]
    fn what_was_read_of_the_program_is_given_back_and_comes_again() {
        // Something to give back, of a library and of this program.
        let before = mapped();
        let speak = || format!("{:?}", "what follows".to_uppercase());
        let said = speak();
        release().unwrap();
        let after = mapped();
        assert!(after < before, "{before} KiB, then {after}");
        assert_eq!(speak(), said);
    }
}
