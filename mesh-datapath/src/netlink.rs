//! Netlink: one request and its answer, and those about links that the data plane needs: make the tunnel device, remove
//! it, ask what kind a link is and what decides whether it takes an XDP program.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    socket,
};

use crate::{Error, host};

const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_COLLECT_METADATA: u16 = 25;
/// Tells a nested attribute's type from its flags.
const TYPE_MASK: u16 = 0x3fff;
/// Bytes of the largest packet that a tunnel can carry; the uplinks take fewer.
const LARGEST: u32 = 65_535 - mesh_common::wire::OVERHEAD as u32;
/// Netlink header.
const HEADER: usize = 16;
/// `ifinfomsg`.
const LINK_MESSAGE: usize = 16;
/// Where its flags are.
const LINK_FLAGS: usize = 8;

/// Makes a tunnel device that leaves all to metadata, notes whose it is, and brings it up. One that the owner has, or that
/// an earlier version made, which noted nothing, is left alone.
pub(crate) fn add_vxlan(name: &'static str, port: u16, owner: &Path) -> Result<(), Error> {
    let mut data = Vec::new();
    attribute(&mut data, IFLA_VXLAN_LEARNING, &[0]);
    attribute(&mut data, IFLA_VXLAN_PORT, &port.to_be_bytes());
    attribute(&mut data, IFLA_VXLAN_COLLECT_METADATA, &[1]);
    let mut info = Vec::new();
    attribute(&mut info, IFLA_INFO_KIND, b"vxlan\0");
    attribute(&mut info, IFLA_INFO_DATA, &data);
    let mut body = Vec::new();
    attribute(&mut body, libc::IFLA_IFNAME, &zero_ended(name));
    attribute(&mut body, libc::IFLA_MTU, &LARGEST.to_ne_bytes());
    attribute(&mut body, libc::IFLA_LINKINFO, &info);
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL | libc::NLM_F_ACK;
    match request(libc::RTM_NEWLINK, flags as u16, 0, &body) {
        Ok(_) => own(name, owner),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
            let Some(ifindex) = host::ifindex(name) else {
                // A device of another name receives on this port.
                return Err(Error::Netlink {
                    action: format!(
                        "make tunnel device {name}: another tunnel device has UDP port {port}"
                    ),
                    source: error,
                });
            };
            let (_, link) = link(ifindex)?;
            let alias = alias(&link);
            if kind(&link).as_deref() != Some("vxlan") {
                return Err(Error::OtherDevice { name });
            }
            match alias {
                Some(alias) if alias == alias_of(owner) => Ok(()),
                None => own(name, owner),
                Some(alias) => Err(Error::OtherOwner { name, alias }),
            }
        }
        Err(source) => {
            let action =
                format!("make tunnel device {name} on UDP port {port} (is the port free?)");
            Err(Error::Netlink { action, source })
        }
    }
}

/// Notes on a device whose it is. (The kernel takes no alias with the request that makes a device.)
fn own(name: &str, owner: &Path) -> Result<(), Error> {
    let mut body = Vec::new();
    attribute(&mut body, libc::IFLA_IFNAME, &zero_ended(name));
    attribute(&mut body, libc::IFLA_IFALIAS, alias_of(owner).as_bytes());
    request(libc::RTM_NEWLINK, libc::NLM_F_ACK as u16, 0, &body)
        .map(drop)
        .map_err(|source| Error::Netlink {
            action: format!("note on device {name} whose it is"),
            source,
        })
}

/// What a device of a data plane with these pins says of itself.
fn alias_of(owner: &Path) -> String {
    format!("mesh {}", owner.display())
}

/// Removes an owner's tunnel device, or with `unowned` one that says nothing of an owner. One that is not there, or another's,
/// is no error.
pub(crate) fn remove_link(name: &str, owner: &Path, unowned: bool) -> Result<(), Error> {
    let Some(ifindex) = host::ifindex(name) else {
        return Ok(());
    };
    let (_, link) = link(ifindex)?;
    let is_own = alias(&link).map_or(unowned, |alias| alias == alias_of(owner));
    if !is_own || kind(&link).as_deref() != Some("vxlan") {
        return Ok(());
    }
    match request(libc::RTM_DELLINK, libc::NLM_F_ACK as u16, ifindex, &[]) {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        Err(source) => Err(Error::Netlink {
            action: format!("remove device {name}"),
            source,
        }),
    }
}

/// The kind of a link (`veth`, `vxlan`, ...); `None` for a physical one.
pub(crate) fn link_kind(ifindex: u32) -> Result<Option<String>, Error> {
    let (_, link) = link(ifindex)?;
    Ok(kind(&link))
}

/// The kind that a link's attributes tell.
fn kind(link: &[u8]) -> Option<String> {
    let kind = find(link, libc::IFLA_LINKINFO).and_then(|info| find(info, IFLA_INFO_KIND));
    kind.map(text)
}

/// The alias that a link's attributes tell.
fn alias(link: &[u8]) -> Option<String> {
    find(link, libc::IFLA_IFALIAS).map(text)
}

/// A text that the kernel ended with a zero.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .trim_end_matches('\0')
        .to_owned()
}

/// What may decide whether a link takes an XDP program, in the kernel's words.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct XdpFacts {
    mtu: Vec<u8>,
    /// Which programs it has.
    xdp: Vec<u8>,
    /// Drivers may refuse what they would take while it is down, and the other way round.
    up: bool,
}

impl XdpFacts {
    pub(crate) fn of(ifindex: u32) -> Result<Self, Error> {
        let (flags, link) = link(ifindex)?;
        let find = |kind| find(&link, kind).unwrap_or_default().to_vec();
        Ok(Self {
            mtu: find(libc::IFLA_MTU),
            xdp: find(libc::IFLA_XDP),
            up: flags & libc::IFF_UP as u32 != 0,
        })
    }
}

/// The flags and the attributes of a link.
fn link(ifindex: u32) -> Result<(u32, Vec<u8>), Error> {
    let failed = |source| Error::Netlink {
        action: format!("ask about interface {ifindex}"),
        source,
    };
    let mut answer = request(libc::RTM_GETLINK, 0, ifindex, &[]).map_err(failed)?;
    let flags = u32_at(&answer, LINK_FLAGS).ok_or_else(|| failed(cut_short()))?;
    Ok((flags, answer.split_off(LINK_MESSAGE.min(answer.len()))))
}

/// Sends one request about a link, up, and gives back the first message of the answer.
fn request(kind: u16, flags: u16, ifindex: u32, body: &[u8]) -> io::Result<Vec<u8>> {
    // ifinfomsg: family and padding, type, index, flags, change mask.
    let mut message = vec![0; 4];
    message.extend(ifindex.to_ne_bytes());
    let up = if kind == libc::RTM_NEWLINK {
        libc::IFF_UP as u32
    } else {
        0
    };
    message.extend(up.to_ne_bytes());
    message.extend(up.to_ne_bytes());
    message.extend(body);
    let answers = talk(SockProtocol::NetlinkRoute, kind, flags, &message)?;
    Ok(answers.into_iter().next().unwrap_or_default())
}

/// Sends one request and gives back the messages of the answer, without their headers: one, or with `NLM_F_DUMP`
/// any number; none if the answer is only that it was done.
pub(crate) fn talk(
    protocol: SockProtocol,
    kind: u16,
    flags: u16,
    body: &[u8],
) -> io::Result<Vec<Vec<u8>>> {
    let socket = open(protocol)?;
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
    message.extend(1_u32.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend(body);
    send(socket.as_raw_fd(), &message, MsgFlags::empty())?;
    let several = i32::from(flags) & libc::NLM_F_DUMP == libc::NLM_F_DUMP;
    let mut answers = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let (Some(length), Some(kind)) = (u32_at(rest, 0), u16_at(rest, 4)) else {
                return Err(cut_short());
            };
            let body = rest.get(HEADER..length as usize).ok_or_else(cut_short)?;
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(answers),
                libc::NLMSG_ERROR => {
                    let code = u32_at(body, 0).ok_or_else(cut_short)? as i32;
                    return match code {
                        0 => Ok(answers),
                        code => Err(io::Error::from_raw_os_error(-code)),
                    };
                }
                _ => answers.push(body.to_vec()),
            }
            rest = rest
                .get((length as usize).next_multiple_of(4)..)
                .unwrap_or_default();
        }
        if !several {
            return Ok(answers);
        }
    }
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "netlink answer cut short")
}

fn open(protocol: SockProtocol) -> io::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        protocol,
    )?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    Ok(socket)
}

fn zero_ended(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// Appends an attribute, padded to four bytes.
pub(crate) fn attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend((value.len() as u16 + 4).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// The value of the first attribute of a kind.
pub(crate) fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    while let (Some(length), Some(found)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let length = usize::from(length);
        if length < 4 {
            return None;
        }
        if found & TYPE_MASK == kind {
            return attributes.get(4..length);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes([four[0], four[1], four[2], four[3]]))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..at + 2)
        .map(|b| u16::from_ne_bytes([b[0], b[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_again() {
        let mut bytes = Vec::new();
        attribute(&mut bytes, 3, b"abc");
        attribute(&mut bytes, 4 | 0x8000, b"defgh");
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(find(&bytes, 4), Some(&b"defgh"[..]));
        assert_eq!(find(&bytes, 5), None);
        assert_eq!(find(&[9], 5), None);
    }
}
