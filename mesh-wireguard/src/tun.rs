//! The network device whose packets a process reads and writes.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    net::UdpSocket,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

/// A device of IP packets, without any header before them. It goes away with the value.
#[derive(Debug)]
pub(crate) struct Tun {
    file: File,
    index: u32,
    name: &'static str,
}

impl Tun {
    /// Makes a device in this process's network namespace. It is down.
    ///
    /// # Errors
    /// No /dev/net/tun, no right to, or the name is taken.
    pub(crate) fn new(name: &'static str) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun")?;
        let mut request = request(name);
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        ioctl(file.as_fd(), libc::TUNSETIFF, &mut request)?;
        let index = nix::net::if_::if_nametoindex(name)?;
        Ok(Self { file, index, name })
    }

    /// Its interface index.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Brings it up, with packets of up to `mtu` bytes.
    ///
    /// # Errors
    /// When the kernel refuses the size.
    pub(crate) fn set_mtu(&self, mtu: u32) -> io::Result<()> {
        let any = UdpSocket::bind("127.0.0.1:0").or_else(|_| UdpSocket::bind("0.0.0.0:0"))?;
        let mut request = request(self.name);
        request.ifr_ifru.ifru_mtu = i32::try_from(mtu).map_err(io::Error::other)?;
        ioctl(any.as_fd(), libc::SIOCSIFMTU, &mut request)?;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_NOARP) as libc::c_short;
        ioctl(any.as_fd(), libc::SIOCSIFFLAGS, &mut request)
    }

    /// Waits for a packet that was sent by the device.
    ///
    /// # Errors
    /// When the device is gone.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Lets a packet come in by the device.
    ///
    /// # Errors
    /// When the device is gone or down, or it is no packet.
    pub(crate) fn write(&self, packet: &[u8]) -> io::Result<()> {
        (&self.file).write(packet).map(drop)
    }
}

/// A request about an interface.
fn request(name: &str) -> libc::ifreq {
    // SAFETY: all zero is a valid value of this plain C structure, unions included.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn ioctl(fd: BorrowedFd<'_>, code: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: all codes used here take an `ifreq`, which outlives the call.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), code, &raw mut *request) };
    nix::errno::Errno::result(answer)
        .map(drop)
        .map_err(Into::into)
}
