//! What the kernel leaves to a network device, by the calls of ethtool (`linux/ethtool.h`).

use std::{
    ffi::c_char,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// Number of names in a set.
const GSSET_INFO: u32 = 0x37;
/// The names of a set.
const GSTRINGS: u32 = 0x1b;
/// Switch features.
const SFEATURES: u32 = 0x3b;
/// The set of features' names.
const FEATURES: u32 = 4;
/// Length of a name.
const NAME: usize = 32;
/// Features in a block of two words: which are meant, and which of them are to be on.
const BLOCK: usize = 32;
/// Has the kernel itself divide what a task sends by SCTP: a program puts nothing into a tunnel that is left to a device to
/// divide, unless it is TCP's or UDP's (`bpf_skb_adjust_room`). A kernel without the feature is none that uses it.
///
/// # Errors
/// When there is no such interface in this namespace, or it has the feature and keeps it.
pub(super) fn divide_sctp(interface: &str) -> io::Result<()> {
    let device = Device::open(interface)?;
    let names = device.names()?;
    let Some(index) = names
        .iter()
        .position(|name| name == b"tx-sctp-segmentation")
    else {
        return Ok(());
    };
    let blocks = names.len().div_ceil(BLOCK);
    let mut request = vec![0; 2 + 2 * blocks];
    request[..2].copy_from_slice(&[SFEATURES, blocks as u32]);
    request[2 + 2 * (index / BLOCK)] = 1 << (index % BLOCK);
    match device.call(&mut request)? {
        0 => Ok(()),
        // It cannot be switched, or another one holds it up.
        _ => Err(io::Error::other("the interface keeps it")),
    }
}

/// An interface of this thread's network namespace.
struct Device {
    socket: OwnedFd,
    name: [c_char; libc::IFNAMSIZ],
}

impl Device {
    fn open(interface: &str) -> io::Result<Self> {
        let mut name = [0; libc::IFNAMSIZ];
        // The last byte stays zero.
        if interface.len() >= name.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, byte) in name.iter_mut().zip(interface.bytes()) {
            *to = byte as c_char;
        }
        // SAFETY: the call takes no pointers.
        let socket =
            unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given it to this process, and nobody else has it.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        Ok(Self { socket, name })
    }

    /// Makes a request, which begins with its command and has room for the answer.
    fn call(&self, request: &mut [u32]) -> io::Result<i32> {
        // SAFETY: all zero is one.
        let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
        ifreq.ifr_name = self.name;
        ifreq.ifr_ifru.ifru_data = request.as_mut_ptr().cast();
        // SAFETY: the kernel reads the name, and reads and writes as much of the request as its own words say, all of
        // which is there.
        let answer = unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL, &mut ifreq) };
        match answer {
            ..0 => Err(io::Error::last_os_error()),
            answer => Ok(answer),
        }
    }

    /// The features' names, in the order of their bits.
    fn names(&self) -> io::Result<Vec<Vec<u8>>> {
        // Command, nothing, the mask of 64 bits of the sets, and a number for each of them.
        let mut count = [GSSET_INFO, 0, 1 << FEATURES, 0, 0];
        self.call(&mut count)?;
        let [_, _, known, _, count] = count;
        let count = if known == 0 { 0 } else { count as usize };
        let mut request = vec![0; 3 + count * NAME / size_of::<u32>()];
        request[..3].copy_from_slice(&[GSTRINGS, FEATURES, count as u32]);
        self.call(&mut request)?;
        let bytes: Vec<u8> = request[3..]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        let names = bytes.chunks(NAME);
        let names = names.map(|name| name.iter().copied().take_while(|byte| *byte != 0));
        Ok(names.map(Iterator::collect).collect())
    }
}
