//! Netlink about the kernel's WireGuard devices: make, look at, set, remove.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkDeserializable,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_generic::{
    GenlFamily as _, GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute,
    WireguardCmd, WireguardMessage, WireguardPeer, WireguardPeerAttribute, WireguardPeerFlags,
};
use netlink_sys::{
    Socket,
    protocols::{NETLINK_GENERIC, NETLINK_ROUTE},
};

use crate::{
    key::PublicKey,
    plan::{Change, DevicePeer},
};

/// Peers in a message: an attribute's length has 16 bits, and a peer takes some hundred bytes.
const PEERS: usize = 200;
/// Bits of an IPv4 address.
const WHOLE: u8 = 32;

/// A link.
#[derive(Debug, Default)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) mtu: u32,
    pub(crate) is_up: bool,
    pub(crate) alias: String,
    pub(crate) is_wireguard: bool,
    pub(crate) refused: u64,
}

/// A device's own part.
#[derive(Debug, Default)]
pub(crate) struct WireGuard {
    pub(crate) key: Option<PublicKey>,
    pub(crate) port: u16,
    /// How long ago their handshakes were is not known here.
    pub(crate) peers: Vec<DevicePeer>,
    /// Their last handshakes, if there was any: since the epoch, by the wall clock of then.
    pub(crate) handshakes: BTreeMap<PublicKey, Duration>,
}

/// Makes a device, which is down and has no key.
///
/// # Errors
/// `EOPNOTSUPP` where the kernel has no WireGuard; `EEXIST`.
pub(crate) fn add(name: &str) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Wireguard)]),
    ];
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    talk(NETLINK_ROUTE, RouteNetlinkMessage::NewLink(link), flags).map(drop)
}

/// Sets how large packets may be, brings the device up, and gives it a text.
///
/// # Errors
/// `EADDRINUSE` if another has its port.
pub(crate) fn set_link(index: u32, mtu: u32, alias: &str) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link.attributes = vec![
        LinkAttribute::Mtu(mtu),
        LinkAttribute::IfAlias(alias.to_owned()),
    ];
    talk(NETLINK_ROUTE, RouteNetlinkMessage::SetLink(link), 0).map(drop)
}

/// Removes a device. One that is not there is no error.
///
/// # Errors
/// Those of the kernel.
pub(crate) fn remove(name: &str) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    match talk(NETLINK_ROUTE, RouteNetlinkMessage::DelLink(link), 0) {
        Err(error) if error.raw_os_error() != Some(libc::ENODEV) => Err(error),
        _ => Ok(()),
    }
}

/// The link of that name, if there is one.
///
/// # Errors
/// Those of the kernel.
pub(crate) fn link(name: &str) -> io::Result<Option<Link>> {
    let mut asked = LinkMessage::default();
    asked.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    let found = match talk(NETLINK_ROUTE, RouteNetlinkMessage::GetLink(asked), 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
        found => found?,
    };
    let links = found.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    });
    Ok(links.map(read_link).next())
}

fn read_link(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        is_up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::IfAlias(alias) => link.alias = alias,
            LinkAttribute::LinkInfo(infos) => {
                link.is_wireguard = infos.contains(&LinkInfo::Kind(InfoKind::Wireguard));
            }
            LinkAttribute::Stats64(counts) => link.refused = counts.rx_errors,
            _ => {}
        }
    }
    link
}

/// A device's key, port and peers.
///
/// # Errors
/// `EOPNOTSUPP` if it is none of WireGuard's; others of the kernel.
pub(crate) fn wireguard(index: u32) -> io::Result<WireGuard> {
    let asked = vec![WireguardAttribute::IfIndex(index)];
    let mut device = WireGuard::default();
    for message in ask_wireguard(WireguardCmd::GetDevice, asked, NLM_F_DUMP)? {
        for attribute in message.attributes {
            match attribute {
                WireguardAttribute::PublicKey(key) => device.key = Some(PublicKey(key)),
                WireguardAttribute::ListenPort(port) => device.port = port,
                WireguardAttribute::Peers(peers) => {
                    for (peer, handshake) in peers.iter().filter_map(|peer| read_peer(peer)) {
                        let handshake = handshake.map(|at| (peer.key, at));
                        device.handshakes.extend(handshake);
                        // Where one message ended and the next one goes on.
                        match device.peers.last_mut() {
                            Some(last) if last.key == peer.key => {
                                last.address = last.address.or(peer.address);
                            }
                            _ => device.peers.push(peer),
                        }
                    }
                }
                _ => {}
            }
        }
    }
    Ok(device)
}

/// A peer, and the time of its last handshake.
fn read_peer(attributes: &[WireguardPeerAttribute]) -> Option<(DevicePeer, Option<Duration>)> {
    let mut handshake = None;
    let mut peer = DevicePeer {
        key: attributes.iter().find_map(|attribute| match attribute {
            WireguardPeerAttribute::PublicKey(key) => Some(PublicKey(*key)),
            _ => None,
        })?,
        address: None,
        endpoint: None,
        keepalive_s: 0,
        handshake: None,
        sent: 0,
        received: 0,
    };
    for attribute in attributes {
        match attribute {
            WireguardPeerAttribute::Endpoint(endpoint) => peer.endpoint = Some(*endpoint),
            WireguardPeerAttribute::PersistentKeepalive(seconds) => peer.keepalive_s = *seconds,
            WireguardPeerAttribute::RxBytes(bytes) => peer.received = *bytes,
            WireguardPeerAttribute::TxBytes(bytes) => peer.sent = *bytes,
            WireguardPeerAttribute::LastHandshake(time) => {
                let seconds = u64::try_from(time.seconds).unwrap_or(0);
                let nanos = u32::try_from(time.nano_seconds).unwrap_or(0);
                let at = Duration::from_secs(seconds) + Duration::from_nanos(nanos.into());
                handshake = Some(at).filter(|at| !at.is_zero());
            }
            WireguardPeerAttribute::AllowedIps(allowed) => {
                peer.address = allowed.iter().flat_map(|ip| ip.iter()).find_map(ipv4);
            }
            _ => {}
        }
    }
    Some((peer, handshake))
}

fn ipv4(attribute: &WireguardAllowedIpAttr) -> Option<Ipv4Addr> {
    match attribute {
        WireguardAllowedIpAttr::IpAddr(IpAddr::V4(address)) => Some(*address),
        _ => None,
    }
}

/// Sets a device's key and port.
///
/// # Errors
/// `EADDRINUSE` if it is up and another has that port; others of the kernel.
pub(crate) fn set(index: u32, key: Option<[u8; 32]>, port: u16) -> io::Result<()> {
    let mut attributes = vec![
        WireguardAttribute::IfIndex(index),
        WireguardAttribute::ListenPort(port),
    ];
    attributes.extend(key.map(WireguardAttribute::PrivateKey));
    ask_wireguard(WireguardCmd::SetDevice, attributes, 0).map(drop)
}

/// Changes a device's peers.
///
/// # Errors
/// Those of the kernel.
pub(crate) fn set_peers(index: u32, changes: &[Change]) -> io::Result<()> {
    for some in changes.chunks(PEERS) {
        let attributes = vec![
            WireguardAttribute::IfIndex(index),
            WireguardAttribute::Peers(some.iter().map(peer).collect()),
        ];
        ask_wireguard(WireguardCmd::SetDevice, attributes, 0)?;
    }
    Ok(())
}

fn peer(change: &Change) -> WireguardPeer {
    WireguardPeer(match change {
        Change::Remove(key) => vec![
            WireguardPeerAttribute::PublicKey(key.0),
            WireguardPeerAttribute::Flags(WireguardPeerFlags::RemoveMe),
        ],
        Change::Set {
            key,
            address,
            endpoint,
            keepalive_s,
        } => vec![
            WireguardPeerAttribute::PublicKey(key.0),
            WireguardPeerAttribute::Flags(WireguardPeerFlags::ReplaceAllowedIps),
            WireguardPeerAttribute::Endpoint(SocketAddr::to_owned(endpoint)),
            WireguardPeerAttribute::AllowedIps(vec![WireguardAllowedIp(vec![
                WireguardAllowedIpAttr::Family(WireguardAddressFamily::Ipv4),
                WireguardAllowedIpAttr::IpAddr(IpAddr::V4(*address)),
                WireguardAllowedIpAttr::Cidr(WHOLE),
            ])]),
            WireguardPeerAttribute::PersistentKeepalive(*keepalive_s),
        ],
    })
}

fn ask_wireguard(
    cmd: WireguardCmd,
    attributes: Vec<WireguardAttribute>,
    flags: u16,
) -> io::Result<Vec<WireguardMessage>> {
    let mut message = GenlMessage::from_payload(WireguardMessage { cmd, attributes });
    message.set_resolved_family_id(family()?);
    let found = talk(NETLINK_GENERIC, message, flags)?;
    Ok(found.into_iter().map(|message| message.payload).collect())
}

/// The number of WireGuard's family.
fn family() -> io::Result<u16> {
    let name = WireguardMessage::family_name().to_owned();
    let message = GenlMessage::from_payload(GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName(name)],
    });
    let found = talk(NETLINK_GENERIC, message, 0)?;
    let mut attributes = found.iter().flat_map(|message| &message.payload.nlas);
    let number = attributes.find_map(|attribute| match attribute {
        GenlCtrlAttrs::FamilyId(number) => Some(*number),
        _ => None,
    });
    number.ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Sends one request and gives back the messages of the answer.
fn talk<T>(protocol: isize, message: impl Into<NetlinkMessage<T>>, flags: u16) -> io::Result<Vec<T>>
where
    T: NetlinkSerializable + NetlinkDeserializable,
{
    let mut message: NetlinkMessage<T> = message.into();
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.send(&bytes, 0)?;
    let mut answers = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<T>::deserialize(rest).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                NetlinkPayload::Done(_) => return Ok(answers),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}
