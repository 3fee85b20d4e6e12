//! The sockets of tasks that talk to a virtual address: found, and closed, through the kernel's socket diagnosis.
//! Asked for only; nothing is counted meanwhile.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use mesh_common::{
    Addr, Connected, DATAGRAMS_OUT, Datagram, DatagramKey,
    wire::{TCP, UDP},
};
use nix::{
    getsockopt_impl, sockopt_impl,
    sys::socket::{SockProtocol, getsockopt},
};

use crate::{Error, compile, netlink};

/// `SOCK_DIAG_BY_FAMILY`: describe sockets.
const DESCRIBE: u16 = 20;
/// `SOCK_DESTROY`: abort a socket. Its owner is told `ECONNABORTED`, and it is connected no more.
const DESTROY: u16 = 21;
/// `INET_DIAG_REQ_SK_BPF_STORAGES`, and in it `SK_DIAG_BPF_STORAGE_REQ_MAP_FD`.
const REQUEST_STORAGES: u16 = 2;
const REQUEST_MAP_FD: u16 = 1;
/// `INET_DIAG_SK_BPF_STORAGES`, in it `SK_DIAG_BPF_STORAGE`, and in that `SK_DIAG_BPF_STORAGE_MAP_VALUE`.
const STORAGES: u16 = 20;
const STORAGE: u16 = 1;
const MAP_VALUE: u16 = 3;
/// `inet_diag_sockid`: ports, addresses, interface, cookie.
const ID: usize = 48;
/// `inet_diag_msg`: four bytes, the identity, five words.
const MESSAGE: usize = 4 + ID + 20;
/// `INET_DIAG_INFO`: of TCP, `tcp_info`. As a bit of what is asked for, and as the attribute that it is told in.
const ASK_INFO: u8 = 1 << 1;
const INFO: u16 = 2;
/// `tcpi_last_data_sent` in it: milliseconds.
const LAST_SENT: usize = 44;
/// States of an open TCP connection, as bits: established, SYN sent, and from the first FIN to the last.
const TCP_OPEN: u32 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
/// States in which the other side has sent its last byte: CLOSE_WAIT, LAST_ACK, CLOSING.
const TCP_ENDED: [u8; 3] = [8, 9, 11];
/// States in which this side has: FIN_WAIT1, FIN_WAIT2, LAST_ACK, CLOSING.
const TCP_FIN_SENT: [u8; 4] = [4, 5, 9, 11];
const TCP_SYN_SENT: u8 = 2;
/// States of a UDP socket, connected or not, as bits.
const UDP_OPEN: u32 = 1 << 1 | 1 << 7;

sockopt_impl!(
    /// The kernel's number for the network namespace that a socket is in.
    NamespaceCookie,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_NETNS_COOKIE,
    u64
);

/// The kernel's number for the calling thread's network namespace: no other has it while the machine is up.
///
/// # Errors
/// When no socket can be made.
pub fn namespace_cookie() -> io::Result<u64> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    Ok(getsockopt(&socket, NamespaceCookie)?)
}

/// An open socket that a virtual address led to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSocket {
    /// IP protocol number.
    pub protocol: u8,
    /// The socket's own address and port; unspecified as long as it has none.
    pub local: SocketAddr,
    /// VXLAN network identifier.
    pub vni: u32,
    /// The virtual address; the one of IPv4 if the socket asked for the one of IPv6.
    pub vip: IpAddr,
    /// The task's address that it really talks to, likewise.
    pub backend: IpAddr,
    /// The port of both, host byte order.
    pub port: u16,
    /// It is connected to the task; a UDP socket that is not chooses another one by itself.
    pub connected: bool,
    /// The task has sent its last byte over this TCP connection; the socket's owner may still have to read it.
    pub ended: bool,
    /// The socket's owner has sent its last byte over this TCP connection.
    pub fin_sent: bool,
    /// Seconds since it last sent data, of a TCP connection that was opened.
    pub idle_s: Option<u32>,
    family: u8,
    id: [u8; ID],
}

/// Asks for, and closes, sockets of the calling thread's network namespace.
#[derive(Debug)]
pub struct Sockets {
    /// What TCP sockets were connected to; the kernel shows it with the socket.
    map: OwnedFd,
    /// What UDP sockets talk to, by the socket's cookie.
    datagrams: BTreeMap<[u32; 2], Vec<(DatagramKey, Datagram)>>,
}

impl Sockets {
    /// On the map that says what sockets were connected to, and what is in the one of UDP sockets.
    pub(crate) fn new(
        map: &aya::maps::MapData,
        datagrams: impl Iterator<Item = (DatagramKey, Datagram)>,
    ) -> io::Result<Self> {
        let map = map.fd().as_fd().try_clone_to_owned()?;
        let mut by_cookie: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (key, value) in datagrams.filter(|(key, _)| key.way == DATAGRAMS_OUT) {
            by_cookie.entry(key.cookie).or_default().push((key, value));
        }
        Ok(Self {
            map,
            datagrams: by_cookie,
        })
    }

    /// The open sockets of this namespace that talk to a virtual address, once for each.
    ///
    /// # Errors
    /// When the kernel does not describe sockets.
    pub fn list(&self) -> Result<Vec<OpenSocket>, Error> {
        let describe = |family: i32, protocol, states| {
            self.describe(family as u8, protocol, states)
                .map_err(|source| Error::Netlink {
                    action: "list the sockets of a task".into(),
                    source,
                })
        };
        let mut all = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let streams = describe(family, TCP, TCP_OPEN)?;
            all.extend(streams.iter().filter_map(|message| stream(message)));
            if self.datagrams.is_empty() {
                continue;
            }
            let messages = describe(family, UDP, UDP_OPEN)?;
            all.extend(messages.iter().flat_map(|message| self.datagram(message)));
        }
        Ok(all)
    }

    /// Aborts a socket: its owner's next call fails. One that is gone is no error.
    ///
    /// # Errors
    /// When the kernel does not close sockets for others (`CONFIG_INET_DIAG_DESTROY`).
    pub fn close(&self, open: &OpenSocket) -> Result<(), Error> {
        let body = request(open.family, open.protocol, u32::MAX, &open.id);
        let flags = libc::NLM_F_ACK as u16;
        match netlink::talk(SockProtocol::NetlinkSockDiag, DESTROY, flags, &body) {
            Err(source) if !matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)) => {
                Err(Error::Netlink {
                    action: format!("close a socket connected to {}", open.backend),
                    source,
                })
            }
            _ => Ok(()),
        }
    }

    fn describe(&self, family: u8, protocol: u8, states: u32) -> io::Result<Vec<Vec<u8>>> {
        let mut body = request(family, protocol, states, &[0; ID]);
        body[2] = ASK_INFO;
        let mut map = Vec::new();
        let fd = self.map.as_raw_fd().to_ne_bytes();
        netlink::attribute(&mut map, REQUEST_MAP_FD, &fd);
        netlink::attribute(&mut body, REQUEST_STORAGES, &map);
        let flags = libc::NLM_F_DUMP as u16;
        netlink::talk(SockProtocol::NetlinkSockDiag, DESCRIBE, flags, &body)
    }

    /// What a UDP socket talks to.
    fn datagram(&self, message: &[u8]) -> Vec<OpenSocket> {
        let Some(socket) = Described::parse(message) else {
            return Vec::new();
        };
        let entries = self.datagrams.get(&socket.cookie).into_iter().flatten();
        entries
            .filter(|(key, value)| {
                socket.port_be == 0 || socket.talks_to(value.address, key.port_be)
            })
            .map(|(key, value)| OpenSocket {
                protocol: UDP,
                local: socket.local,
                vni: value.vni,
                vip: compile::ip(key.address.low()),
                backend: compile::ip(value.address.low()),
                port: u16::from_be(key.port_be),
                connected: socket.port_be != 0,
                ended: false,
                fin_sent: false,
                idle_s: None,
                family: socket.family,
                id: socket.id,
            })
            .collect()
    }
}

/// `inet_diag_req_v2`.
fn request(family: u8, protocol: u8, states: u32, id: &[u8; ID]) -> Vec<u8> {
    let mut body = vec![family, protocol, 0, 0];
    body.extend(states.to_ne_bytes());
    body.extend(id);
    body
}

/// `inet_diag_msg`, as far as it matters.
struct Described {
    family: u8,
    state: u8,
    id: [u8; ID],
    local: SocketAddr,
    /// What it is connected to; zero if it is not.
    peer: Addr,
    port_be: u16,
    cookie: [u32; 2],
}

impl Described {
    fn parse(message: &[u8]) -> Option<Self> {
        let family = *message.first()?;
        let id: [u8; ID] = message.get(4..4 + ID)?.try_into().ok()?;
        let address = |at: usize| {
            Some(if i32::from(family) == libc::AF_INET {
                Addr::v4(id[at..at + 4].try_into().ok()?)
            } else {
                Addr::v6(id[at..at + 16].try_into().ok()?)
            })
        };
        let local_port = u16::from_be_bytes([id[0], id[1]]);
        Some(Self {
            family,
            state: *message.get(1)?,
            id,
            local: SocketAddr::new(compile::ip(address(4)?), local_port),
            peer: address(20)?,
            port_be: u16::from_ne_bytes([id[2], id[3]]),
            cookie: [word(&id, 40)?, word(&id, 44)?],
        })
    }

    fn talks_to(&self, address: Addr, port_be: u16) -> bool {
        self.peer == address && self.port_be == port_be
    }
}

/// A TCP socket that is connected to where a virtual address led it. It may have been connected elsewhere since.
fn stream(message: &[u8]) -> Option<OpenSocket> {
    let socket = Described::parse(message)?;
    let attributes = message.get(MESSAGE..)?;
    let storages = netlink::find(attributes, STORAGES)?;
    let kept = connected(netlink::find(netlink::find(storages, STORAGE)?, MAP_VALUE)?)?;
    let current = kept.vip != Addr::NONE && socket.talks_to(kept.backend, kept.port_be);
    let idle_ms = netlink::find(attributes, INFO).and_then(|info| word(info, LAST_SENT));
    current.then(|| OpenSocket {
        protocol: TCP,
        local: socket.local,
        vni: kept.vni,
        vip: compile::ip(kept.vip.low()),
        backend: compile::ip(kept.backend.low()),
        port: u16::from_be(kept.port_be),
        connected: true,
        ended: TCP_ENDED.contains(&socket.state),
        // What has sent nothing yet says how long the machine is up.
        idle_s: idle_ms
            .filter(|_| socket.state != TCP_SYN_SENT)
            .map(|ms| ms / 1000),
        fin_sent: TCP_FIN_SENT.contains(&socket.state),
        family: socket.family,
        id: socket.id,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The value as the kernel copies it out, byte by byte.
fn connected(bytes: &[u8]) -> Option<Connected> {
    let word = |at| word(bytes, at);
    let address = |at| {
        Some(Addr {
            words_be: [word(at)?, word(at + 4)?, word(at + 8)?, word(at + 12)?],
        })
    };
    Some(Connected {
        vip: address(0)?,
        backend: address(16)?,
        vni: word(32)?,
        pool: word(36)?,
        port_be: u16::from_ne_bytes(bytes.get(40..42)?.try_into().ok()?),
        pad: [0; 2],
    })
}
