//! What nix has no word for about packet sockets.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, LinkAddr, SockFlag, SockType, SockaddrLike as _, bind, socket},
};

/// A packet socket that hears nothing before it is bound.
pub(crate) fn open(kind: SockType) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    // Without a protocol.
    socket(AddressFamily::Packet, kind, flags, None)
}

/// Has a packet socket take from now on what comes by an interface and no program has taken. `protocol`: one of the
/// `ETH_P_` constants.
pub(crate) fn listen(fd: &OwnedFd, ifindex: u32, protocol: libc::c_int) -> nix::Result<()> {
    // SAFETY: all zero is a valid value of this plain C structure.
    let mut raw: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    raw.sll_family = libc::AF_PACKET as u16;
    raw.sll_protocol = (protocol as u16).to_be();
    raw.sll_ifindex = ifindex as i32;
    // SAFETY: points to a whole `sockaddr_ll`, whose size is given.
    let address = unsafe {
        let size = size_of_val(&raw) as libc::socklen_t;
        LinkAddr::from_raw((&raw const raw).cast(), Some(size))
    };
    bind(fd.as_raw_fd(), &address.ok_or(Errno::EINVAL)?)
}

/// Sets an option of any socket. `T` is what the kernel wants for it.
pub(crate) fn set<T>(
    fd: &OwnedFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> nix::Result<()> {
    // SAFETY: the value outlives the call and its size is given.
    let answer = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const *value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    Errno::result(answer).map(drop)
}
