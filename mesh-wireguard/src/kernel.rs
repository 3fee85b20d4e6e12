//! The kernel's WireGuard: a device for each of the two newest keys. All that is to be known is on the devices: another
//! agent finds it there. The private keys are nowhere else.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
};

use crate::{
    Error, Peer, Request, Setup, Status,
    key::{OwnKey, PublicKey},
    netlink,
    plan::{self, DEVICES, Device},
};

/// What the devices of even and odd epochs are called.
const NAMES: [&str; DEVICES as usize] = ["mesh-wg0", "mesh-wg1"];

/// Whether an interface of this name is one that encrypts.
pub fn is_device(name: &str) -> bool {
    name == crate::DEVICE || NAMES.contains(&name)
}

/// The devices of this network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The node's tunnel end point; none if only the status is wanted.
    address: Ipv4Addr,
    /// UDP port of even epochs; the next one is that of odd epochs. None: as it is.
    port: Option<u16>,
}

impl Kernel {
    /// The devices that are there, if any are.
    pub(crate) fn find() -> Option<Self> {
        let found = Self {
            address: Ipv4Addr::UNSPECIFIED,
            port: None,
        };
        let devices = devices().ok()?;
        (!devices.is_empty()).then_some(found)
    }

    /// Takes over the devices that are there, or makes the first one; or says why the kernel's WireGuard is not to be used
    /// here, in words.
    ///
    /// # Errors
    /// When it is not known what is there.
    pub(crate) fn ensure(setup: &Setup) -> Result<Result<Self, String>, Error> {
        let kernel = Self {
            address: setup.address,
            port: Some(setup.port),
        };
        if setup.port == u16::MAX {
            let why = format!("it takes two ports, and {} is the last", setup.port);
            return Ok(Err(why));
        }
        if !look()?.is_empty() {
            return Ok(Ok(kernel));
        }
        if let Some((to, from)) = setup.others.iter().find_map(|to| other_source(setup, *to)) {
            let own = setup.address;
            return Ok(Err(format!(
                "the route to {to} has the source {from}, not {own}"
            )));
        }
        if let Err(error) = kernel.make(setup.epoch) {
            // What there is of it would be taken for one that encrypts.
            Self::end()?;
            return Ok(Err(error.to_string()));
        }
        tracing::info!("encrypted networks: the kernel's WireGuard");
        Ok(Ok(kernel))
    }

    /// Does what is asked for.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub(crate) fn ask(&self, request: &Request) -> Result<Status, Error> {
        match request {
            Request::Status => {}
            Request::Set { mtu, peers } => self.set(*mtu, peers)?,
            Request::Rotate { epoch } => self.make(*epoch)?,
        }
        let devices = look()?;
        let now_s = since_boot_s().map_err(failed("read the time since boot"))?;
        plan::status(&devices, self.address, now_s)
            .ok_or_else(|| Error::Refused("the WireGuard devices are gone".to_owned()))
    }

    /// Removes the devices.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub(crate) fn end() -> Result<(), Error> {
        for name in NAMES {
            netlink::remove(name).map_err(failed(format!("remove the device {name}")))?;
        }
        Ok(())
    }

    /// Makes an epoch's device, with a new key.
    fn make(&self, epoch: u64) -> Result<(), Error> {
        let name = name(epoch);
        let made = || -> io::Result<()> {
            netlink::remove(name)?;
            netlink::add(name)?;
            let link = netlink::link(name)?.ok_or(io::ErrorKind::NotFound)?;
            let found = devices()?;
            let port = found
                .first()
                .map(|newest| newest.port - plan::port(0, newest.epoch));
            let port = plan::port(self.port.or(port).unwrap_or_default(), epoch);
            let key = OwnKey::generate().secret.to_bytes();
            netlink::set(link.index, Some(key), port)?;
            let mtu = found.first().map_or(link.mtu, |newest| newest.mtu);
            netlink::set_link(link.index, mtu, &alias(epoch, since_boot_s()?))
        };
        made().map_err(failed(format!("make the WireGuard device {name}")))
    }

    fn set(&self, mtu: u32, peers: &BTreeMap<Ipv4Addr, Peer>) -> Result<(), Error> {
        let wanted = peers.iter().map(|(address, peer)| {
            let key = peer.key.parse::<PublicKey>();
            let key = key.map_err(|error| Error::Refused(error.to_string()))?;
            Ok((*address, (key, peer.clone())))
        });
        let wanted = wanted.collect::<Result<BTreeMap<_, _>, Error>>()?;
        let devices = look()?;
        for (number, device) in devices.iter().enumerate() {
            let name = name(device.epoch);
            let changed = || -> io::Result<()> {
                let port = self.port.map(|first| plan::port(first, device.epoch));
                if let Some(port) = port.filter(|port| *port != device.port) {
                    netlink::set(device.index, None, port)?;
                }
                if device.mtu != mtu || !device.is_up {
                    let alias = alias(device.epoch, device.made_s);
                    netlink::set_link(device.index, mtu, &alias)?;
                }
                let changes = plan::changes(device, number == 0, &wanted);
                netlink::set_peers(device.index, &changes)
            };
            changed().map_err(failed(format!("set the WireGuard device {name}")))?;
        }
        if let [newest, older] = &devices[..]
            && plan::is_over(newest, older, wanted.keys())
        {
            let name = name(older.epoch);
            netlink::remove(name).map_err(failed(format!("remove the device {name}")))?;
        }
        Ok(())
    }
}

fn look() -> Result<Vec<Device>, Error> {
    devices().map_err(failed("look at the WireGuard devices"))
}

fn failed(action: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let action = action.into();
    |source| Error::Kernel { action, source }
}

/// A node that is sent to from another address than this node's, and that address.
fn other_source(setup: &Setup, to: Ipv4Addr) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Without a route there is nothing to say yet.
    socket.connect((to, setup.port)).ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(from) if *from.ip() != setup.address => Some((to, *from.ip())),
        _ => None,
    }
}

fn name(epoch: u64) -> &'static str {
    NAMES[usize::from(plan::slot(epoch) != 0)]
}

/// What is not in WireGuard itself.
fn alias(epoch: u64, made_s: u64) -> String {
    format!("mesh epoch {epoch} made {made_s}")
}

/// [`alias`] read back: the epoch, and when the device was made.
fn read_alias(text: &str) -> Option<(u64, u64)> {
    let (epoch, made_s) = text.strip_prefix("mesh epoch ")?.split_once(" made ")?;
    Some((epoch.parse().ok()?, made_s.parse().ok()?))
}

/// All that are whole, the newest first.
fn devices() -> io::Result<Vec<Device>> {
    let mut devices = Vec::new();
    for name in NAMES {
        let Some(link) = netlink::link(name)? else {
            continue;
        };
        let Some((epoch, made_s)) = read_alias(&link.alias) else {
            continue;
        };
        let wireguard = netlink::wireguard(link.index)?;
        let Some(key) = wireguard.key else {
            continue;
        };
        devices.push(Device {
            index: link.index,
            epoch,
            made_s,
            mtu: link.mtu,
            is_up: link.is_up,
            key,
            port: wireguard.port,
            refused: link.refused,
            peers: wireguard.peers,
        });
    }
    devices.sort_by_key(|device| std::cmp::Reverse(device.epoch));
    Ok(devices)
}

/// Seconds since boot, those asleep too.
fn since_boot_s() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/uptime")?;
    let whole = text.split('.').next().and_then(|text| text.parse().ok());
    whole.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_on_a_device_is_read_back() {
        assert_eq!(read_alias(&alias(7, 123)), Some((7, 123)));
        for other in ["", "uplink", "mesh epoch 7", "mesh epoch x made 1"] {
            assert_eq!(read_alias(other), None, "{other:?}");
        }
    }
}
