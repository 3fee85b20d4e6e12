//! Proofs on the uplink: sending one under another node's address, and seeing those of others, which no stack takes: they
//! come from an address of the node itself.

use std::{
    ffi::OsString,
    io,
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
};

use mesh_common::wire::{IPV4_LEN, IPV6_LEN, UDP_LEN};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, bind,
        recv, setsockopt, socket, sockopt,
    },
};

use super::message::{Message, magic_words};
use crate::packet_socket;

/// Longest message with its headers, and more.
const LONGEST: usize = 2048;
/// `BPF_LD | BPF_W | BPF_ABS`.
const LOAD_WORD: u16 = 0x20;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
const JUMP_IF_EQUAL: u16 = 0x15;
/// `BPF_RET | BPF_K`.
const RETURN: u16 = 0x06;

/// Sees the proofs of others that come in by one interface, in one family. The kernel asks it after the tc programs, and
/// shows it nothing but messages.
pub(super) struct Witness {
    fd: OwnedFd,
    header: usize,
}

impl Witness {
    pub(super) fn open(ifindex: u32, v6: bool) -> nix::Result<Self> {
        let fd = packet_socket::open(SockType::Datagram)?;
        let header = if v6 { IPV6_LEN } else { IPV4_LEN };
        filter(&fd, header + UDP_LEN)?;
        let protocol = if v6 { libc::ETH_P_IPV6 } else { libc::ETH_P_IP };
        packet_socket::listen(&fd, ifindex, protocol)?;
        Ok(Self { fd, header })
    }

    /// The next packet, if there is one: its message, and the address that it was sent to under that very address. Inside
    /// `None`: it is something else.
    pub(super) fn receive(&self) -> nix::Result<Option<Option<(IpAddr, Message)>>> {
        let mut buffer = [0; LONGEST];
        match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => Ok(Some(self.parse(&buffer[..length]))),
            Err(Errno::EAGAIN) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn parse(&self, packet: &[u8]) -> Option<(IpAddr, Message)> {
        let (from, to): (IpAddr, IpAddr) = if self.header == IPV4_LEN {
            let from = *packet.get(12..)?.first_chunk::<4>()?;
            (from.into(), (*packet.get(16..)?.first_chunk::<4>()?).into())
        } else {
            let from = *packet.get(8..)?.first_chunk::<16>()?;
            (
                from.into(),
                (*packet.get(24..)?.first_chunk::<16>()?).into(),
            )
        };
        let message = Message::parse(packet.get(self.header + UDP_LEN..)?)?;
        (from == to).then_some((to, message))
    }

    /// What to wait on.
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }
}

/// Has the kernel show a socket only packets with a message at `at`.
fn filter(fd: &OwnedFd, at: usize) -> nix::Result<()> {
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let [first, second] = magic_words();
    let at = at as u32;
    let mut steps = [
        step(LOAD_WORD, 0, 0, at),
        step(JUMP_IF_EQUAL, 0, 3, first),
        step(LOAD_WORD, 0, 0, at + 4),
        step(JUMP_IF_EQUAL, 0, 1, second),
        step(RETURN, 0, 0, LONGEST as u32),
        step(RETURN, 0, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    packet_socket::set(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// Sends a message by the interface to an address, under that very address.
pub(super) fn send(
    interface: &OsString,
    address: IpAddr,
    port: u16,
    message: &[u8],
) -> io::Result<()> {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Datagram, flags, SockProtocol::Udp)?;
    setsockopt(&fd, sockopt::BindToDevice, interface)?;
    match address {
        IpAddr::V4(v4) => {
            setsockopt(&fd, sockopt::IpTransparent, &true)?;
            bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(v4, 0)))?;
        }
        IpAddr::V6(v6) => {
            let on: libc::c_int = 1;
            packet_socket::set(&fd, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, &on)?;
            let own = SocketAddrV6::new(v6, 0, 0, 0);
            bind(fd.as_raw_fd(), &SockaddrIn6::from(own))?;
        }
    }
    let socket = UdpSocket::from(fd);
    socket
        .send_to(message, SocketAddr::new(address, port))
        .map(drop)
}
