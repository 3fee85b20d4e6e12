//! The packet socket on the tunnel device that probes are sent by and taken from.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike as _, bind, recv, send,
        socket,
    },
};

use super::frame::{CHECK, L4};

/// Length of a `virtio_net_hdr`: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset.
const VNET: usize = 10;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CSUM: u8 = 1;
/// Longest frame, and its header.
const LONGEST: usize = VNET + 65_536;

/// A packet socket for IPv4 on one interface.
pub(super) struct ProbeSocket {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl ProbeSocket {
    /// Takes from now on what comes by the interface and no program has taken.
    pub(super) fn open(ifindex: u32) -> nix::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // Without a protocol it hears nothing before it is bound.
        let fd = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
        ask_for_vnet_header(&fd)?;
        bind(fd.as_raw_fd(), &address(ifindex)?)?;
        Ok(Self {
            fd,
            buffer: vec![0; LONGEST],
        })
    }

    /// Sends a UDP frame whose checksum the device has to complete.
    pub(super) fn send(&self, frame: &[u8]) -> nix::Result<()> {
        let mut packet = vec![NEEDS_CSUM, 0];
        packet.extend((L4 as u16 + 8).to_ne_bytes());
        packet.extend(0_u16.to_ne_bytes());
        packet.extend((L4 as u16).to_ne_bytes());
        packet.extend((CHECK as u16).to_ne_bytes());
        packet.extend(frame);
        send(self.fd.as_raw_fd(), &packet, MsgFlags::empty()).map(drop)
    }

    /// The next frame that is there, and whether its checksum is complete.
    pub(super) fn receive(&mut self) -> nix::Result<Option<(&[u8], bool)>> {
        let length = match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
            Ok(length) => length,
            Err(nix::Error::EAGAIN) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some((header, frame)) = self.buffer[..length].split_at_checked(VNET) else {
            return Ok(None);
        };
        Ok(Some((frame, header[0] & NEEDS_CSUM == 0)))
    }

    /// What to wait on.
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }
}

/// Frames have a `virtio_net_hdr` in front from now on, which says whether their checksum is complete.
fn ask_for_vnet_header(fd: &OwnedFd) -> nix::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the value outlives the call and its size is given.
    let answer = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_VNET_HDR,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    Errno::result(answer).map(drop)
}

fn address(ifindex: u32) -> nix::Result<LinkAddr> {
    // SAFETY: all zero is a valid value of this plain C structure.
    let mut raw: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    raw.sll_family = libc::AF_PACKET as u16;
    raw.sll_protocol = (libc::ETH_P_IP as u16).to_be();
    raw.sll_ifindex = ifindex as i32;
    // SAFETY: points to a whole `sockaddr_ll`, whose size is given.
    let address = unsafe {
        let size = size_of_val(&raw) as libc::socklen_t;
        LinkAddr::from_raw((&raw const raw).cast(), Some(size))
    };
    address.ok_or(nix::Error::EINVAL)
}
