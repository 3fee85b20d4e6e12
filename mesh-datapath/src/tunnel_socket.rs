//! The packet socket on the tunnel device that datagrams of agents are sent by and taken from.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::socket::{MsgFlags, SockType, recv, send};

use crate::{
    TUNNEL_DEVICE,
    datagram::{CHECK, L4},
    host, packet_socket,
};

/// Length of a `virtio_net_hdr`: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset.
const VNET: usize = 10;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CSUM: u8 = 1;
/// Longest frame, and its header.
const LONGEST: usize = VNET + 65_536;

/// A packet socket for IPv4 on the tunnel device.
pub(crate) struct TunnelSocket {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl TunnelSocket {
    /// Takes from now on what comes by the device and no program has taken.
    pub(crate) fn open() -> io::Result<Self> {
        let device = host::ifindex(TUNNEL_DEVICE).ok_or_else(|| {
            let text = format!("there is no device {TUNNEL_DEVICE}");
            io::Error::new(io::ErrorKind::NotFound, text)
        })?;
        let fd = packet_socket::open(SockType::Raw)?;
        // Frames have a `virtio_net_hdr` in front from now on, which says whether their checksum is complete.
        let on: libc::c_int = 1;
        packet_socket::set(&fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, &on)?;
        packet_socket::listen(&fd, device, libc::ETH_P_IP)?;
        Ok(Self {
            fd,
            buffer: vec![0; LONGEST],
        })
    }

    /// Sends a UDP frame whose checksum the device has to complete.
    pub(crate) fn send(&self, frame: &[u8]) -> nix::Result<()> {
        let mut packet = vec![NEEDS_CSUM, 0];
        packet.extend((L4 as u16 + 8).to_ne_bytes());
        packet.extend(0_u16.to_ne_bytes());
        packet.extend((L4 as u16).to_ne_bytes());
        packet.extend((CHECK as u16).to_ne_bytes());
        packet.extend(frame);
        send(self.fd.as_raw_fd(), &packet, MsgFlags::empty()).map(drop)
    }

    /// The next frame that is there, and whether its checksum is complete.
    pub(crate) fn receive(&mut self) -> nix::Result<Option<(&[u8], bool)>> {
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
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }
}
