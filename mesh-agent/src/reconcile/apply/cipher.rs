//! Encrypted networks: the WireGuard that encrypts, its keys, and who the other nodes are.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use mesh_api::proto::{self, Protocol};
use mesh_datapath::FormerCipher;
use mesh_wireguard::{Handle, OVERHEAD, Peer, PeerStatus, PublicKey, Request, Setup, Status};

use crate::{
    assignment::Assignment,
    desired,
    links::host::HostView,
    reconcile::{Reconciler, observe},
};

/// This very program, also when its file has been replaced.
const OWN_EXE: &str = "/proc/self/exe";
/// How long a pass waits for the process that encrypts, which answers in a millisecond and starts in some tens. One that
/// hangs must not hold up what has nothing to do with it.
const PATIENCE: Duration = Duration::from_millis(250);

/// The devices that encrypt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ciphers {
    /// Interface index of that with the newest key.
    pub(crate) device: u32,
    /// The one before it, if it is another.
    pub(crate) former: Option<FormerCipher>,
}

impl Ciphers {
    fn of(status: &Status) -> Self {
        let former = status.former.map(|device| {
            let peers = status.peers.iter().filter(|peer| peer.ifindex == device);
            FormerCipher {
                device,
                peers: peers.map(|peer| IpAddr::V4(peer.address)).collect(),
            }
        });
        Self {
            device: status.ifindex,
            former,
        }
    }
}

/// What other nodes have to know of this one's WireGuard.
pub(crate) fn told(status: &Status) -> proto::Cipher {
    proto::Cipher {
        key: status.key.clone(),
        port: status.port.into(),
        epoch: Some(status.epoch),
        next_port: status.next_port.into(),
    }
}

/// For so long after a change of keys others are expected to answer by the new one at any moment; in seconds.
const CHANGE_S: u64 = 10;
/// And so often it is looked whether they have.
const LOOK: Duration = Duration::from_millis(250);

impl Reconciler {
    /// Brings WireGuard up, once a network of this node is encrypted. It stays until the node leaves: peers count on
    /// its key. What is to be told of it; none while it takes its time.
    pub(super) async fn apply_cipher(
        &mut self,
        assignment: &Assignment,
        host: &HostView,
    ) -> Result<Option<proto::Cipher>> {
        let is_wanted = assignment.networks.values().any(|n| n.encrypted);
        if !is_wanted && self.cipher.borrow().is_none() {
            return Ok(None);
        }
        let IpAddr::V4(address) = self.vtep else {
            bail!("the tunnel end point {} is not IPv4", self.vtep);
        };
        let peers = peers(assignment, self.vtep);
        let epochs: BTreeSet<u64> = peers.values().filter_map(|peer| peer.epoch).collect();
        let setup = Setup {
            backend: self.config.wireguard,
            socket: self.config.wireguard_socket(),
            address,
            port: self.config.wireguard_port,
            epoch: epochs.last().copied().unwrap_or(0),
            others: peers.keys().copied().collect(),
        };
        let next_port = self
            .cipher
            .borrow()
            .as_ref()
            .map_or(0, |told| told.next_port);
        for port in [u32::from(setup.port), next_port] {
            if let Some(service) = publisher(assignment, port) {
                bail!(
                    "UDP port {port} is published by service {service}: publish another one, or start the agent with \
                     another --wireguard-port"
                );
            }
        }
        let set = Request::Set {
            mtu: observe::uplink_mtu(host, self.vtep).unwrap_or(observe::DEFAULT_MTU) - OVERHEAD,
            peers,
        };
        let period = Duration::from_secs(self.config.wireguard_rotation);
        let ask = move || -> Result<Status> {
            let wireguard = Handle::ensure(&setup, Path::new(OWN_EXE))?;
            let status = wireguard.ask(&set)?;
            let Some(epoch) = status.next_epoch(period, epochs.into_iter()) else {
                return Ok(status);
            };
            tracing::info!(
                epoch,
                "a new WireGuard key: others go on with the old one until they know"
            );
            wireguard.ask(&Request::Rotate { epoch })?;
            Ok(wireguard.ask(&set)?)
        };
        let Some(status) = self.encrypting.run(PATIENCE, &self.wake, ask).await? else {
            return Ok(None);
        };
        self.ciphers = Some(Ciphers::of(&status));
        let is_on_its_way = |peer: &PeerStatus| peer.ifindex != status.ifindex;
        if status.key_age_s < CHANGE_S && status.peers.iter().any(is_on_its_way) {
            let wake = Arc::clone(&self.wake);
            tokio::spawn(async move {
                tokio::time::sleep(LOOK).await;
                wake.notify_one();
            });
        }
        Ok(Some(told(&status)))
    }

    /// Tells the managers, and they the other nodes.
    pub(super) fn tell_cipher(&self, own: proto::Cipher) {
        self.cipher.send_if_modified(|told| {
            let is_new = told.as_ref() != Some(&own);
            *told = Some(own);
            is_new
        });
    }

    /// The last devices that worked, as far as they are still there: they may well go on with the keys that they have.
    pub(super) fn ciphers_that_are(&self) -> Option<Ciphers> {
        let is_there = |device: u32| {
            let name = nix::net::if_::if_indextoname(device);
            name.is_ok_and(|name| name.to_str().is_ok_and(mesh_wireguard::is_device))
        };
        let known = self.ciphers.clone()?;
        let former = known.former.filter(|former| is_there(former.device));
        is_there(known.device).then_some(Ciphers { former, ..known })
    }

    /// Ends WireGuard, and with it the devices.
    pub(super) async fn end_cipher(&mut self) -> Result<()> {
        self.encrypting.finish().await;
        let socket = self.config.wireguard_socket();
        tokio::task::spawn_blocking(move || {
            Handle::find(&socket).map_or(Ok(()), |wireguard| wireguard.end())
        })
        .await?
        .context("remove the device that encrypts")
    }
}

/// The other nodes that encrypt. What one says of itself and cannot be read is its affair alone.
fn peers(assignment: &Assignment, own: IpAddr) -> BTreeMap<std::net::Ipv4Addr, Peer> {
    let peers = assignment.peers.values().filter_map(|peer| {
        let cipher = peer.cipher.as_ref()?;
        let IpAddr::V4(address) = desired::address(&peer.data_path_address)? else {
            return None;
        };
        if let Err(error) = cipher.key.parse::<PublicKey>() {
            tracing::warn!(node = peer.hostname, %error, "nothing encrypted goes to this node");
            return None;
        }
        let peer = Peer {
            key: cipher.key.clone(),
            port: u16::try_from(cipher.port).ok()?,
            epoch: cipher.epoch,
        };
        (address != own).then_some((address, peer))
    });
    peers.collect()
}

/// The service that has published a UDP port, as then its tasks would get what is sent there.
fn publisher(assignment: &Assignment, port: u32) -> Option<&str> {
    let is_it = |p: &proto::Port| p.protocol() == Protocol::Udp && p.published == port;
    let mut services = assignment.services.values();
    let service = services.find(|service| service.ports.iter().any(is_it))?;
    Some(&service.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_the_other_nodes_that_have_a_key() {
        let mut assignment = Assignment::default();
        // 32 zeros.
        let good = format!("{}=", "A".repeat(43));
        for (id, address, key) in [
            ("a", "192.0.2.1", Some(&*good)),
            ("b", "192.0.2.2", Some(&*good)),
            ("c", "192.0.2.3", None),
            ("d", "192.0.2.4", Some("no key")),
        ] {
            let peer = proto::Peer {
                id: id.into(),
                data_path_address: address.into(),
                cipher: key.map(|key| proto::Cipher {
                    key: key.into(),
                    port: 7,
                    epoch: Some(3),
                    next_port: 8,
                }),
                ..Default::default()
            };
            assignment.peers.insert(id.into(), peer);
        }
        let found = peers(&assignment, "192.0.2.1".parse().expect("an address"));
        let b = Peer {
            key: good.clone(),
            port: 7,
            epoch: Some(3),
        };
        assert_eq!(
            found,
            BTreeMap::from([("192.0.2.2".parse().expect("one"), b)])
        );
    }

    #[test]
    fn a_published_port_is_not_taken() {
        let mut assignment = Assignment::default();
        let mut service = proto::Service {
            name: "vpn".into(),
            ..Default::default()
        };
        for (protocol, published) in [(Protocol::Tcp, 51820), (Protocol::Udp, 51821)] {
            service.ports.push(proto::Port {
                protocol: protocol.into(),
                published,
                ..Default::default()
            });
        }
        assignment.services.insert("v".into(), service.into());
        assert_eq!(publisher(&assignment, 51820), None);
        assert_eq!(publisher(&assignment, 51821), Some("vpn"));
    }
}
