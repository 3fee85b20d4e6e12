//! Writing what is in a file, and its extended attributes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

/// Content is copied in pieces of this size; a piece of zeros becomes a hole.
const PIECE: usize = 64 << 10;

/// Copies all of `content`, leaving holes for zeros. None if there is more than `budget` bytes.
pub(crate) fn copy_sparse(
    content: &mut impl Read,
    file: &mut File,
    budget: u64,
) -> io::Result<Option<u64>> {
    let mut piece = vec![0u8; PIECE];
    let mut size = 0u64;
    let mut hole_at_end = false;
    loop {
        let mut filled = 0;
        while filled < PIECE {
            match content.read(&mut piece[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        if filled == 0 {
            break;
        }
        size += filled as u64;
        if size > budget {
            return Ok(None);
        }
        hole_at_end = filled == PIECE && piece.iter().all(|&byte| byte == 0);
        if hole_at_end {
            file.seek(SeekFrom::Current(PIECE as i64))?;
        } else {
            file.write_all(&piece[..filled])?;
        }
    }
    if hole_at_end {
        file.set_len(size)?;
    }
    Ok(Some(size))
}

/// Sets an extended attribute of an open file or directory.
pub(super) fn set_xattr(file: &impl AsFd, name: &std::ffi::CStr, value: &[u8]) -> nix::Result<()> {
    // SAFETY: the name is NUL-terminated, the value is `value.len()` readable bytes, and the
    // descriptor is open for the length of the call; the kernel keeps none of the pointers.
    let result = unsafe {
        libc::fsetxattr(
            file.as_fd().as_raw_fd(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_over_the_budget_is_refused() {
        let copy = |bytes: u64, budget| {
            let mut file = tempfile::tempfile().unwrap();
            copy_sparse(&mut io::repeat(0).take(bytes), &mut file, budget).unwrap()
        };
        assert_eq!(copy(200_000, 200_000), Some(200_000));
        assert_eq!(copy(200_001, 200_000), None);
    }
}
