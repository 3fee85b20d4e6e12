//! An XDP program that lets everything pass, for the far ends of veth pairs: the kernel hands a veth what its
//! peer's program sends back with XDP_TX only if the veth has a program itself.

use std::{
    io,
    mem::size_of,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result};

/// `BPF_PROG_LOAD` and `BPF_LINK_CREATE`.
const LOAD: libc::c_long = 5;
const LINK: libc::c_long = 28;
/// `BPF_PROG_TYPE_XDP`.
const TYPE_XDP: u32 = 6;
/// `BPF_XDP`, the attach type.
const ATTACH_XDP: u32 = 37;
/// `r0 = XDP_PASS; exit`.
const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];

/// The start of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes the rest as zero.
#[repr(C)]
struct LoadAttr {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
}

/// The start of `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkAttr {
    program: u32,
    index: u32,
    attach: u32,
    flags: u32,
}

/// Attached while it lives.
#[derive(Debug)]
pub struct PassAll {
    _link: OwnedFd,
}

impl PassAll {
    /// Attaches to an interface of the calling thread's network namespace.
    ///
    /// # Errors
    /// When there is no such interface, or the kernel refuses.
    pub fn attach(interface: &str) -> Result<Self> {
        let index = nix::net::if_::if_nametoindex(interface)
            .with_context(|| format!("no interface {interface}"))?;
        let license = c"GPL";
        let load = LoadAttr {
            kind: TYPE_XDP,
            count: u32::try_from(PASS.len())?,
            instructions: PASS.as_ptr() as u64,
            license: license.as_ptr() as u64,
        };
        let program = bpf(LOAD, &load).context("cannot load the XDP program: are you root?")?;
        let link = LinkAttr {
            program: u32::try_from(program.as_raw_fd())?,
            index,
            attach: ATTACH_XDP,
            flags: 0,
        };
        let link = bpf(LINK, &link).with_context(|| format!("cannot attach to {interface}"))?;
        Ok(Self { _link: link })
    }
}

/// A bpf command that gives a descriptor.
fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: attr is a prefix of union bpf_attr of the size told, and outlives the call as does
    // what it points to.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
