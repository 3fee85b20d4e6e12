//! Encrypted networks: the process that encrypts, its keys, and who the other nodes are.

use std::{collections::BTreeMap, net::IpAddr, path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use mesh_api::proto::{self, Protocol};
use mesh_wireguard::{Handle, OVERHEAD, Peer, PublicKey, Request, Setup, Status};

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

impl Reconciler {
    /// The device that encrypts, once a network of this node is encrypted. It stays until the node leaves: peers count on
    /// its key. While the process that encrypts takes its time, it is the device that was there.
    pub(super) async fn apply_cipher(
        &mut self,
        assignment: &Assignment,
        host: &HostView,
    ) -> Result<Option<u32>> {
        let is_wanted = assignment.networks.values().any(|n| n.encrypted);
        if !is_wanted && self.cipher.borrow().is_none() {
            return Ok(None);
        }
        let IpAddr::V4(address) = self.vtep else {
            bail!("the tunnel end point {} is not IPv4", self.vtep);
        };
        let setup = Setup {
            socket: self.config.wireguard_socket(),
            address,
            port: self.config.wireguard_port,
        };
        if let Some(service) = publisher(assignment, setup.port) {
            bail!(
                "UDP port {} is published by service {service}: publish another one, or start the agent with \
                 another --wireguard-port",
                setup.port
            );
        }
        let set = Request::Set {
            mtu: observe::uplink_mtu(host, self.vtep).unwrap_or(observe::DEFAULT_MTU) - OVERHEAD,
            peers: peers(assignment, self.vtep),
        };
        let period = Duration::from_secs(self.config.wireguard_rotation);
        let ask = move || -> Result<Status> {
            let helper = Handle::ensure(&setup, Path::new(OWN_EXE))?;
            let status = helper.ask(&set)?;
            if !status.is_rotation_due(period) {
                return Ok(status);
            }
            tracing::info!("a new WireGuard key: others go on with the old one until they know");
            Ok(helper.ask(&Request::Rotate)?)
        };
        let Some(status) = self.encrypting.run(PATIENCE, &self.wake, ask).await? else {
            return Ok(self.device_that_was());
        };
        let own = proto::Cipher {
            key: status.key,
            port: status.port.into(),
        };
        self.cipher.send_if_modified(|told| {
            let is_new = told.as_ref() != Some(&own);
            *told = Some(own);
            is_new
        });
        Ok(Some(status.ifindex))
    }

    /// The last device that worked, if it is still there: it may well go on with the keys that it has.
    pub(super) fn device_that_was(&self) -> Option<u32> {
        let named = nix::net::if_::if_nametoindex(mesh_wireguard::DEVICE).ok();
        self.cipher_device.filter(|device| Some(*device) == named)
    }

    /// Ends the process, and with it the device.
    pub(super) async fn end_cipher(&mut self) -> Result<()> {
        self.encrypting.finish().await;
        let socket = self.config.wireguard_socket();
        tokio::task::spawn_blocking(move || {
            Handle::find(&socket).map_or(Ok(()), |helper| helper.end())
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
        };
        (address != own).then_some((address, peer))
    });
    peers.collect()
}

/// The service that has published a UDP port, as then its tasks would get what is sent there.
fn publisher(assignment: &Assignment, port: u16) -> Option<&str> {
    let is_it = |p: &proto::Port| p.protocol() == Protocol::Udp && p.published == u32::from(port);
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
                }),
                ..Default::default()
            };
            assignment.peers.insert(id.into(), peer);
        }
        let found = peers(&assignment, "192.0.2.1".parse().expect("an address"));
        let b = Peer {
            key: good.clone(),
            port: 7,
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
