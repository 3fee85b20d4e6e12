//! The kernel's WireGuard: a device for each of the two newest keys. All that is to be known is on the devices: another
//! agent finds it there. The private keys are kept nowhere else; with each look at a device, the kernel shows root its key.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{LazyLock, Mutex, PoisonError},
    time::Instant,
};

use crate::{
    Error, Peer, Request, Setup, Status,
    ages::Ages,
    key::{OwnKey, PublicKey},
    netlink::{self, Link},
    plan::{self, DEVICES, Device},
    rotation::not_later,
};

/// What the devices of even and odd epochs are called.
const NAMES: [&str; DEVICES as usize] = ["mesh-wg0", "mesh-wg1"];

/// What this process has seen of handshakes.
static AGES: LazyLock<Mutex<Ages>> = LazyLock::new(Mutex::default);

/// Whether an interface of this name is one that encrypts.
pub fn is_device(name: &str) -> bool {
    name == crate::DEVICE || NAMES.contains(&name)
}

/// Other nodes that are sent to from another address than `own`, as the routes are, and that address.
pub fn other_sources(own: Ipv4Addr, others: &[Ipv4Addr]) -> Vec<(Ipv4Addr, Ipv4Addr)> {
    let source = |to: &Ipv4Addr| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        // Without a route there is nothing to say yet.
        socket.connect((*to, crate::DEFAULT_PORT)).ok()?;
        match socket.local_addr().ok()? {
            SocketAddr::V4(from) if *from.ip() != own => Some((*to, *from.ip())),
            _ => None,
        }
    };
    others.iter().filter_map(source).collect()
}

/// The devices of this network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Whose they are: other agents may have theirs.
    owner: String,
    /// The node's tunnel end point; none if only the status is wanted.
    address: Ipv4Addr,
    /// UDP port of even epochs; the next one is that of odd epochs. None: as it is.
    port: Option<u16>,
    /// As in [`Setup`].
    used: BTreeMap<u16, String>,
}

impl Kernel {
    /// The devices that are there, if any are.
    pub(crate) fn find(owner: &str) -> Option<Self> {
        let found = Self {
            owner: owner.to_owned(),
            address: Ipv4Addr::UNSPECIFIED,
            port: None,
            used: BTreeMap::new(),
        };
        let devices = found.devices().ok()?;
        (!devices.is_empty()).then_some(found)
    }

    /// Takes over the devices that are there, or makes the first one; or says why the kernel's WireGuard is not to be used
    /// here, in words.
    ///
    /// # Errors
    /// When it is not known what is there.
    pub(crate) fn ensure(setup: &Setup) -> Result<Result<Self, String>, Error> {
        let kernel = Self {
            owner: setup.owner.clone(),
            address: setup.address,
            port: Some(setup.port),
            used: setup.used.clone(),
        };
        let Some(next) = setup.port.checked_add(1) else {
            let why = format!("it takes two ports, and {} is the last", setup.port);
            return Ok(Err(why));
        };
        if !kernel.look()?.is_empty() {
            return Ok(Ok(kernel));
        }
        let mut ports = [setup.port, next].into_iter();
        if let Some(why) = ports.find_map(|port| setup.used.get(&port)) {
            return Ok(Err(why.clone()));
        }
        if let Some((to, from)) = other_sources(setup.address, &setup.others).first() {
            let own = setup.address;
            return Ok(Err(format!(
                "the route to {to} has the source {from}, not {own}"
            )));
        }
        let made = check_port(setup.port)
            .and_then(|()| check_port(next))
            .and_then(|()| kernel.make(setup.epoch));
        if let Err(error) = made {
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
        let devices = self.look()?;
        let now_s = since_boot_s().map_err(failed("read the time since boot"))?;
        plan::status(&devices, self.address, now_s)
            .ok_or_else(|| Error::Refused("the WireGuard devices are gone".to_owned()))
    }

    /// Removes an owner's devices. One that was not made to its end has no owner, does nothing, and stays until there is to be
    /// another in its place.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub(crate) fn end(owner: &str) -> Result<(), Error> {
        for name in NAMES {
            let ended = || -> io::Result<()> {
                match netlink::link(name)? {
                    Some(link) if is_of(&link.alias, owner) => netlink::remove(name),
                    _ => Ok(()),
                }
            };
            ended().map_err(failed(format!("remove the device {name}")))?;
        }
        Ok(())
    }

    /// Makes an epoch's device, with a new key. If that fails, the newest one goes on.
    fn make(&self, epoch: u64) -> Result<(), Error> {
        let name = name(epoch);
        let found = self.look()?;
        if let Some(newest) = found.first().filter(|newest| newest.epoch >= epoch) {
            return Err(Error::Refused(not_later(epoch, newest.epoch)));
        }
        let port = self.port_for(epoch, &found)?;
        let vacated = || -> io::Result<()> {
            match netlink::link(name)? {
                Some(link) if !is_of(&link.alias, &self.owner) && !is_half_made(&link)? => {
                    Err(io::Error::other("there is another of that name"))
                }
                _ => netlink::remove(name),
            }
        };
        let made = || -> io::Result<()> {
            netlink::add(name)?;
            let link = netlink::link(name)?.ok_or(io::ErrorKind::NotFound)?;
            let key = OwnKey::generate().secret.to_bytes();
            netlink::set(link.index, Some(key), port)?;
            let mtu = found.first().map_or(link.mtu, |newest| newest.mtu);
            let alias = alias(&self.owner, epoch, since_boot_s()?);
            netlink::set_link(link.index, mtu, &alias)
        };
        let action = || format!("make the WireGuard device {name}");
        vacated().map_err(failed(action()))?;
        made().map_err(|error| {
            discard(name);
            failed(action())(error)
        })
    }

    /// The port of an epoch's device that is to be made: the one that it should have beside those that are there, as their
    /// status tells; where another program has that, the port of the device whose place it takes.
    fn port_for(&self, epoch: u64, found: &[Device]) -> Result<u16, Error> {
        let first = found.first().map(Device::first_port).or(self.port);
        let port = plan::port(first.unwrap_or_default(), epoch);
        // It lets go of its port.
        let mut replaced = found
            .iter()
            .filter(|device| plan::slot(device.epoch) == plan::slot(epoch))
            .map(|device| device.port);
        match replaced.next() {
            Some(left) if left == port || check_port(port).is_err() => Ok(left),
            Some(_) => Ok(port),
            None => check_port(port).map(|()| port),
        }
    }

    /// Moves all devices to the ports that they are to have, or none: while one of both ports is another's, they stay where
    /// they are, which their status tells, and are moved later. So do they until all are up, as one that is down has no port
    /// and another would take it.
    fn move_ports(&self, devices: &mut [Device]) -> Result<(), Error> {
        let Some(first) = self.port else {
            return Ok(());
        };
        let is_there = |device: &Device| device.port == plan::port(first, device.epoch);
        if devices.iter().all(is_there) || !devices.iter().all(|device| device.is_up) {
            return Ok(());
        }
        // Asked first, as the kernel logs each failure.
        let is_own = |port: u16| devices.iter().any(|device| device.port == port);
        let is_free = |port: u16| {
            !self.used.contains_key(&port) && (is_own(port) || check_port(port).is_ok())
        };
        if !(0..DEVICES).all(|epoch| is_free(plan::port(first, epoch))) {
            return Ok(());
        }
        // A second time, as a device may have the other's port until it has moved itself.
        for _ in 0..DEVICES {
            for device in devices.iter_mut() {
                let port = plan::port(first, device.epoch);
                if port == device.port || check_port(port).is_err() {
                    continue;
                }
                match netlink::set(device.index, None, port) {
                    Ok(()) => device.port = port,
                    Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => {}
                    Err(error) => {
                        let name = name(device.epoch);
                        let action = format!("move the WireGuard device {name} to port {port}");
                        return Err(failed(action)(error));
                    }
                }
            }
        }
        Ok(())
    }

    fn set(&self, mtu: u32, peers: &BTreeMap<Ipv4Addr, Peer>) -> Result<(), Error> {
        let wanted = peers.iter().map(|(address, peer)| {
            let key = peer.key.parse::<PublicKey>();
            let key = key.map_err(|error| Error::Refused(error.to_string()))?;
            Ok((*address, (key, peer.clone())))
        });
        let wanted = wanted.collect::<Result<BTreeMap<_, _>, Error>>()?;
        let mut devices = self.look()?;
        self.move_ports(&mut devices)?;
        for (number, device) in devices.iter().enumerate() {
            let name = name(device.epoch);
            let changed = || -> io::Result<()> {
                if device.mtu != mtu || !device.is_up {
                    let alias = alias(&self.owner, device.epoch, device.made_s);
                    netlink::set_link(device.index, mtu, &alias)?;
                }
                let changes = plan::changes(device, number == 0, &wanted);
                netlink::set_peers(device.index, &changes)
            };
            changed().map_err(|error| {
                // It could not be brought up.
                if !device.is_up {
                    discard(name);
                }
                failed(format!("set the WireGuard device {name}"))(error)
            })?;
        }
        if let [newest, older] = &devices[..]
            && plan::is_over(newest, older, wanted.keys())
        {
            let name = name(older.epoch);
            netlink::remove(name).map_err(failed(format!("remove the device {name}")))?;
        }
        Ok(())
    }

    fn look(&self) -> Result<Vec<Device>, Error> {
        self.devices()
            .map_err(failed("look at the WireGuard devices"))
    }

    /// All that are whole, the newest first.
    fn devices(&self) -> io::Result<Vec<Device>> {
        let mut devices = Vec::new();
        for name in NAMES {
            let Some(link) = netlink::link(name)? else {
                continue;
            };
            let Some((_, epoch, made_s)) =
                read_alias(&link.alias).filter(|(owner, ..)| *owner == self.owner)
            else {
                continue;
            };
            let mut wireguard = netlink::wireguard(link.index)?;
            let Some(key) = wireguard.key else {
                continue;
            };
            let mut ages = AGES.lock().unwrap_or_else(PoisonError::into_inner);
            let handshakes = ages.of(Instant::now(), key, &wireguard.handshakes);
            for peer in &mut wireguard.peers {
                peer.handshake = handshakes.get(&peer.key).copied();
            }
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
}

fn failed(action: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let action = action.into();
    |source| Error::Kernel { action, source }
}

/// Removes a device that encrypts nothing, so that nobody takes it for one that does.
fn discard(name: &str) {
    if let Err(error) = netlink::remove(name) {
        tracing::warn!(name, %error, "a device that encrypts nothing cannot be removed");
    }
}

/// An error if somebody has a UDP port, on any address: WireGuard takes it on all.
fn check_port(port: u16) -> Result<(), Error> {
    for any in [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ] {
        match UdpSocket::bind((any, port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(failed(format!("open UDP port {port}"))(error));
            }
            // There may be no IPv6.
            _ => {}
        }
    }
    Ok(())
}

fn name(epoch: u64) -> &'static str {
    NAMES[usize::from(plan::slot(epoch) != 0)]
}

/// What is not in WireGuard itself.
fn alias(owner: &str, epoch: u64, made_s: u64) -> String {
    format!("mesh {owner} epoch {epoch} made {made_s}")
}

/// [`alias`] read back: the owner, the epoch, and when the device was made.
fn read_alias(text: &str) -> Option<(&str, u64, u64)> {
    let (owner, rest) = text.strip_prefix("mesh ")?.split_once(" epoch ")?;
    let (epoch, made_s) = rest.split_once(" made ")?;
    Some((owner, epoch.parse().ok()?, made_s.parse().ok()?))
}

/// Whether a device of that alias is this owner's to remove.
fn is_of(text: &str, owner: &str) -> bool {
    read_alias(text).is_some_and(|(of, ..)| of == owner)
}

/// Whether it is what an agent leaves that ends while it makes a device.
fn is_half_made(link: &Link) -> io::Result<bool> {
    let is_bare = link.is_wireguard && !link.is_up && link.alias.is_empty();
    Ok(is_bare && netlink::wireguard(link.index)?.peers.is_empty())
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

    fn kernel(port: u16) -> Kernel {
        Kernel {
            owner: "n-1".to_owned(),
            address: Ipv4Addr::LOCALHOST,
            port: Some(port),
            used: BTreeMap::new(),
        }
    }

    fn device(epoch: u64, port: u16) -> Device {
        Device {
            index: 0,
            epoch,
            made_s: 0,
            mtu: 1440,
            is_up: true,
            key: PublicKey([0; 32]),
            port,
            refused: 0,
            peers: Vec::new(),
        }
    }

    /// A port that is taken for as long as the socket is there.
    fn taken() -> (UdpSocket, u16) {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
        let port = socket.local_addr().expect("its address").port();
        (socket, port)
    }

    #[test]
    fn a_new_device_has_the_port_that_is_told_or_that_of_the_one_it_replaces() {
        let (_socket, port) = taken();
        let kernel = kernel(7);
        let of = |found: &[Device]| kernel.port_for(6, found).ok();
        let newest = device(5, port + 1);
        assert_eq!(of(std::slice::from_ref(&newest)), None);
        assert_eq!(of(&[newest.clone(), device(4, port)]), Some(port));
        assert_eq!(of(&[newest.clone(), device(4, 9)]), Some(9));
        let status = plan::status(&[newest], Ipv4Addr::LOCALHOST, 0).expect("a device");
        assert_eq!(status.next_port, port);
    }

    #[test]
    fn devices_stay_while_one_of_both_ports_is_taken() {
        let (_socket, port) = taken();
        for first in [port - 1, port] {
            let mut devices = [device(5, 9), device(4, 8)];
            let before = devices.clone();
            kernel(first).move_ports(&mut devices).expect("no move");
            assert_eq!(devices, before);
        }
    }

    #[test]
    fn devices_stay_while_one_of_both_ports_is_published() {
        // No socket has it, or a device.
        let (socket, port) = taken();
        drop(socket);
        for first in [port - 1, port] {
            let published = Kernel {
                used: BTreeMap::from([(port, "published".to_owned())]),
                ..kernel(first)
            };
            for own in [9, port] {
                let mut devices = [device(5, own), device(4, 8)];
                let before = devices.clone();
                published.move_ports(&mut devices).expect("no move");
                assert_eq!(devices, before);
            }
        }
    }

    #[test]
    fn what_is_written_on_a_device_is_read_back() {
        let own = alias("n-1", 7, 123);
        assert_eq!(read_alias(&own), Some(("n-1", 7, 123)));
        for other in ["", "uplink", "mesh n-1 epoch 7", "mesh n-1 epoch x made 1"] {
            assert_eq!(read_alias(other), None, "{other:?}");
        }
        for (text, is_its) in [(&*own, true), ("", false), ("uplink", false)] {
            assert_eq!(is_of(text, "n-1"), is_its, "{text:?}");
        }
        assert!(!is_of(&own, "n-2"));
    }
}
