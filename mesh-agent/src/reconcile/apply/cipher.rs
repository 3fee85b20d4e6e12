//! Encrypted networks: the WireGuard that encrypts, its keys, and who the other nodes are.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use mesh_api::proto::{self, Level, Protocol, PublishMode};
use mesh_datapath::FormerCipher;
use mesh_wireguard::{Handle, OVERHEAD, Pace, Peer, PeerStatus, PublicKey, Request, Setup, Status};

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
    pub(crate) fn of(status: &Status) -> Self {
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
        former_key: status.former_key.clone(),
    }
}

/// What an agent that starts tells of it, before it has attached its programs; `known` is what others knew last. An agent
/// before this one may have made a device and ended then: while nobody uses it, its key is not told.
pub(crate) fn told_first(status: &Status, known: Option<&proto::Cipher>) -> proto::Cipher {
    let is_in_use = status.peers.iter().any(|peer| peer.proved);
    let former = known.filter(|known| !known.key.is_empty() && known.key == status.former_key);
    match former {
        Some(former) if status.former.is_some() && !is_in_use => former.clone(),
        _ => told(status),
    }
}

/// For so long after a change of keys others are expected to answer by the new one at any moment; in seconds.
const CHANGE_S: u64 = 10;
/// And so often it is looked whether they have.
const LOOK: Duration = Duration::from_millis(250);
/// How long until a key that could not be made is tried again.
const RETRY: Duration = Duration::from_secs(60);

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
            let (socket, owner) = (self.config.wireguard_socket(), self.instance.clone());
            // What is there nevertheless did not say how it is when the agent started, and no node is told its key.
            let end = move || Handle::end(&socket, &owner);
            let end = tokio::task::spawn_blocking(end);
            if let Ok(ended) = tokio::time::timeout(PATIENCE, end).await {
                ended??;
            }
            return Ok(None);
        }
        let IpAddr::V4(address) = self.vtep else {
            bail!("the tunnel end point {} is not IPv4", self.vtep);
        };
        let peers = peers(assignment, self.vtep);
        let epoch = mesh_wireguard::first_epoch(&peers);
        if self.others_epoch.is_none_or(|(known, _)| known != epoch) {
            self.others_epoch = Some((epoch, Instant::now()));
        }
        let ahead_for = self.others_epoch.map(|(_, since)| since.elapsed());
        let mtu = observe::uplink_mtu(host, self.vtep).unwrap_or(observe::DEFAULT_MTU) - OVERHEAD;
        let held = self.no_new_key.clone();
        let held = held.filter(|(until, _)| Instant::now() < *until);
        let work = Work {
            setup: Setup {
                backend: self.config.wireguard,
                owner: self.instance.clone(),
                socket: self.config.wireguard_socket(),
                address,
                port: self.config.wireguard_port,
                epoch,
                others: others(assignment, address),
                used: published(assignment),
            },
            warnings: told_twice(&peers),
            mtu,
            peers,
            ahead_for: ahead_for.unwrap_or_default(),
            pace: Pace::of(Duration::from_secs(self.config.wireguard_rotation), address),
            held: held.as_ref().map(|(_, why)| why.clone()),
        };
        let ask = move || work.run();
        let Some(outcome) = self.encrypting.run(PATIENCE, &self.wake, ask).await? else {
            return Ok(None);
        };
        let status = outcome.status;
        self.no_new_key = outcome
            .no_new_key
            .map(|why| held.unwrap_or_else(|| (Instant::now() + RETRY, why)));
        let mut warnings = outcome.warnings;
        let is_told = |own: &proto::Cipher| own.key == status.key;
        if self.cipher.borrow().as_ref().is_some_and(is_told) {
            warnings.extend(not_taken(assignment, &self.tools.names.id, &status));
        }
        for warning in warnings.difference(&self.cipher_warnings) {
            tracing::warn!("encrypted networks: {warning}");
        }
        self.cipher_warnings = warnings;
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
    pub(super) fn tell_cipher(&self, mut own: proto::Cipher) {
        self.cipher.send_if_modified(|told| {
            // When a key before is needed no more, nobody has to know.
            if let Some(told) = told
                && told.key == own.key
                && own.former_key.is_empty()
            {
                own.former_key.clone_from(&told.former_key);
            }
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
        let (socket, owner) = (self.config.wireguard_socket(), self.instance.clone());
        tokio::task::spawn_blocking(move || Handle::end(&socket, &owner))
            .await?
            .context("remove the device that encrypts")
    }
}

/// What a pass asks of WireGuard.
struct Work {
    setup: Setup,
    /// Bytes of the largest packet.
    mtu: u32,
    /// The other nodes, by tunnel end point.
    peers: BTreeMap<Ipv4Addr, Peer>,
    /// For how long their latest epoch has been known here.
    ahead_for: Duration,
    /// When this node makes itself a new key.
    pace: Pace,
    /// Why it could not a moment ago.
    held: Option<String>,
    /// What is known already not to be as it should.
    warnings: BTreeSet<String>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    status: Status,
    /// Why there is no new key though it is time for one.
    no_new_key: Option<String>,
    /// What is not as it should be.
    warnings: BTreeSet<String>,
}

impl Work {
    /// Blocks.
    fn run(mut self) -> Result<Outcome> {
        let (setup, exe) = (&self.setup, Path::new(OWN_EXE));
        let mut wireguard = Handle::ensure(setup, exe)?;
        let set = Request::Set {
            mtu: self.mtu,
            peers: self.peers.clone(),
        };
        let mut status = wireguard.ask(&set)?;
        // Where it could not begin, it waits to be followed.
        if status.is_astray(&self.peers) && !setup.used.contains_key(&setup.port) {
            tracing::warn!(
                epoch = status.epoch,
                first = setup.epoch,
                "WireGuard begins anew: no other node uses this key, and all have older ones"
            );
            Handle::end(&setup.socket, &setup.owner)?;
            wireguard = Handle::ensure(setup, exe)?;
            status = wireguard.ask(&set)?;
        }
        let mut no_new_key = None;
        if let Some(epoch) = status.next_epoch(&self.pace, &self.peers, self.ahead_for) {
            let published = setup.used.get(&status.next_port);
            no_new_key = self.held.or(published.cloned()).or_else(|| {
                tracing::info!(
                    epoch,
                    "a new WireGuard key: others go on with the old one until they know"
                );
                let refused = wireguard.ask(&Request::Rotate { epoch }).err();
                refused.map(|error| error.to_string())
            });
            status = wireguard.ask(&set)?;
        }
        let why = no_new_key.as_ref();
        let no_key = why.map(|why| format!("this node stays with its old WireGuard key: {why}"));
        self.warnings.extend(no_key);
        self.warnings
            .extend(stays(&status, setup.port, &setup.used));
        let swallowed = swallowed(&status, &setup.used).into_iter();
        self.warnings.extend(swallowed.map(|(_, words)| words));
        if matches!(wireguard, Handle::Kernel(_)) {
            let own = setup.address;
            let wrong = mesh_wireguard::other_sources(own, &setup.others);
            let wrong = wrong.iter().map(|(to, from)| wrong_source(*to, *from, own));
            self.warnings.extend(wrong);
        }
        Ok(Outcome {
            status,
            no_new_key,
            warnings: self.warnings,
        })
    }
}

/// Words for WireGuard at another UDP port than the one asked for: a service has published that, or another program has it.
pub(crate) fn stays(
    status: &Status,
    wanted: u16,
    published: &BTreeMap<u16, String>,
) -> Option<String> {
    let at = wanted.saturating_add(status.port - status.first_port());
    if status.port == at {
        return None;
    }
    // The kernel's devices move when both are free.
    let (ports, words) = match wanted.saturating_add(1) {
        _ if status.next_port == status.port => (vec![wanted], wanted.to_string()),
        next => (vec![wanted, next], format!("{wanted} or {next}")),
    };
    let published = ports.iter().find_map(|port| published.get(port).cloned());
    let why = published.unwrap_or_else(|| format!("another program has UDP port {words}"));
    Some(format!(
        "{why}: WireGuard stays at port {}, which the other nodes are told, until it can move",
        status.port
    ))
}

/// Words for each UDP port of WireGuard that a service has published all the same (before it was told, or by a rollback),
/// and how bad that is.
pub(crate) fn swallowed(
    status: &Status,
    published: &BTreeMap<u16, String>,
) -> Vec<(Level, String)> {
    let ports = BTreeSet::from([status.port, status.next_port]);
    let found = ports.iter().filter_map(|port| {
        let published = published.get(port)?;
        Some(match *port == status.port || status.former.is_some() {
            true => (
                Level::Fault,
                format!("{published}, which gets what other nodes encrypt for this one"),
            ),
            false => (
                Level::Warning,
                format!("{published}: this node makes no new WireGuard key, which would be there"),
            ),
        })
    });
    found.collect()
}

/// Words for a key that this node, `id`, has told, and that the managers do not let it have.
pub(crate) fn not_taken(assignment: &Assignment, id: &str, status: &Status) -> Option<String> {
    let own = assignment.peers.get(id)?;
    let has_key = |peer: &&proto::Peer| {
        let cipher = peer.cipher.as_ref();
        cipher.is_some_and(|cipher| cipher.key == status.key)
    };
    // It takes a moment.
    if status.key_age_s < CHANGE_S || has_key(&own) {
        return None;
    }
    let others = || assignment.peers.values().filter(|peer| peer.id != id);
    let is_here = |peer: &&proto::Peer| peer.data_path_address == own.data_path_address;
    let why = if let Some(other) = others().find(is_here) {
        format!(
            "{} says that it is at {} too",
            other.hostname, own.data_path_address
        )
    } else if let Some(other) = others().find(has_key) {
        format!("{} told the same one before", other.hostname)
    } else {
        "see the leader's log".to_owned()
    };
    Some(format!(
        "the managers tell no other node this one's WireGuard key: {why}"
    ))
}

/// Words for a node that is sent to by the kernel's WireGuard from another address than `own`.
pub(crate) fn wrong_source(to: Ipv4Addr, from: Ipv4Addr, own: Ipv4Addr) -> String {
    format!(
        "the route to {to} has the source {from}, not {own}: a node with WireGuard in user space takes nothing from there"
    )
}

/// The other nodes that encrypt. What one says of itself and cannot be read is its affair alone.
fn peers(assignment: &Assignment, own: IpAddr) -> BTreeMap<Ipv4Addr, Peer> {
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
            former_key: cipher.former_key.clone(),
        };
        (address != own).then_some((address, peer))
    });
    peers.collect()
}

/// Where the other nodes are.
pub(crate) fn others(assignment: &Assignment, own: Ipv4Addr) -> Vec<Ipv4Addr> {
    let peers = assignment.peers.values();
    let addresses = peers.filter_map(|peer| desired::address(&peer.data_path_address));
    let addresses = addresses.filter_map(|address| match address {
        IpAddr::V4(address) if address != own => Some(address),
        _ => None,
    });
    addresses.collect()
}

/// Words for each key that several nodes tell.
fn told_twice(peers: &BTreeMap<Ipv4Addr, Peer>) -> BTreeSet<String> {
    let mut tellers = BTreeMap::<&str, Vec<String>>::new();
    for (address, peer) in peers {
        tellers
            .entry(&peer.key)
            .or_default()
            .push(address.to_string());
    }
    let words = |nodes: Vec<String>| {
        let nodes = nodes.join(" and ");
        format!("the nodes at {nodes} tell the same WireGuard key: it stays with who had it first")
    };
    let several = tellers.into_values().filter(|nodes| nodes.len() > 1);
    several.map(words).collect()
}

/// The UDP ports that are published on this node, and by whom, in words: its tasks get what is sent there.
pub(crate) fn published(assignment: &Assignment) -> BTreeMap<u16, String> {
    let has_task = |id: &String| assignment.tasks.values().any(|t| t.service_id == *id);
    let ports = assignment.services.iter().flat_map(|(id, service)| {
        let is_here = move |port: &&proto::Port| match port.mode() {
            PublishMode::Ingress => true,
            PublishMode::Host => has_task(id),
        };
        let udp = |port: &&proto::Port| port.protocol() == Protocol::Udp;
        let udp = service.ports.iter().filter(udp).filter(is_here);
        udp.filter_map(|port| {
            let port = u16::try_from(port.published).ok()?;
            let words = format!("UDP port {port} is published by service {}", service.name);
            Some((port, words))
        })
    });
    ports.collect()
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
                    former_key: good.clone(),
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
            former_key: good.clone(),
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
        let words = "UDP port 51821 is published by service vpn";
        assert_eq!(
            published(&assignment),
            BTreeMap::from([(51821, words.to_owned())])
        );
        // One of the mode host is where its service has a task.
        let port = proto::Port {
            protocol: Protocol::Udp.into(),
            published: 51820,
            mode: PublishMode::Host.into(),
            ..Default::default()
        };
        let service = proto::Service {
            ports: vec![port],
            ..Default::default()
        };
        assignment.services = [("h".to_owned(), service.into())].into();
        assert_eq!(published(&assignment).len(), 0);
        let task = proto::Task {
            service_id: "h".to_owned(),
            ..Default::default()
        };
        assignment.tasks.insert("t".to_owned(), task);
        assert_eq!(published(&assignment).len(), 1);
    }

    #[test]
    fn a_port_of_wireguard_that_is_published_is_told() {
        let level = |former, port: u16| {
            let published = BTreeMap::from([(port, "published".to_owned())]);
            let told = swallowed(&status(former, true), &published);
            told.into_iter().next().map(|(level, _)| level)
        };
        for (former, port, expected) in [
            (None, 7000, None),
            (None, 51820, Some(Level::Warning)),
            (None, 51821, Some(Level::Fault)),
            // The key before has it still.
            (Some(1), 51820, Some(Level::Fault)),
        ] {
            assert_eq!(level(former, port), expected, "{former:?} {port}");
        }
    }

    #[test]
    fn a_key_that_the_managers_do_not_take_is_told() {
        let found = |age, peers: &[(&str, &str, &str)]| {
            let peers = peers.iter().map(|(id, address, key)| {
                let cipher = (!key.is_empty()).then(|| proto::Cipher {
                    key: (*key).to_owned(),
                    ..Default::default()
                });
                let peer = proto::Peer {
                    id: (*id).to_owned(),
                    hostname: format!("host-{id}"),
                    data_path_address: (*address).to_owned(),
                    cipher,
                    ..Default::default()
                };
                (peer.id.clone(), peer)
            });
            let assignment = Assignment {
                peers: peers.collect(),
                ..Default::default()
            };
            let status = Status {
                key_age_s: age,
                ..status(None, true)
            };
            not_taken(&assignment, "a", &status)
        };
        let (own, other) = (("a", "192.0.2.1", ""), ("b", "192.0.2.2", "other"));
        assert_eq!(found(100, &[]), None);
        assert_eq!(found(100, &[("a", "192.0.2.1", "new"), other]), None);
        assert_eq!(found(CHANGE_S - 1, &[own, other]), None);
        for (peers, why) in [
            (
                [own, ("b", "192.0.2.1", "new")],
                "host-b says that it is at 192.0.2.1 too",
            ),
            (
                [("a", "192.0.2.1", "before"), ("b", "192.0.2.2", "new")],
                "host-b told the same one before",
            ),
            ([own, other], "see the leader's log"),
        ] {
            let told = found(CHANGE_S, &peers).expect("words");
            assert!(told.ends_with(why), "{told}");
        }
    }

    #[test]
    fn a_key_that_two_nodes_tell_is_warned_of() {
        let peers = |keys: [&str; 3]| -> BTreeMap<Ipv4Addr, Peer> {
            let peers = keys.iter().zip(1..).map(|(key, last)| {
                let peer = Peer {
                    key: (*key).to_owned(),
                    port: 7,
                    epoch: None,
                    former_key: String::new(),
                };
                (Ipv4Addr::new(192, 0, 2, last), peer)
            });
            peers.collect()
        };
        assert!(told_twice(&peers(["a", "b", "c"])).is_empty());
        let told = told_twice(&peers(["a", "b", "a"]));
        let told: Vec<String> = told.into_iter().collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("192.0.2.1 and 192.0.2.3"), "{told:?}");
    }

    fn status(former: Option<u32>, proved: bool) -> Status {
        Status {
            protocol: mesh_wireguard::PROTOCOL,
            address: Ipv4Addr::LOCALHOST.into(),
            port: 51821,
            next_port: 51820,
            ifindex: 2,
            former,
            former_key: "before".to_owned(),
            epoch: 7,
            key: "new".to_owned(),
            key_age_s: 1,
            rotating: true,
            refused: 0,
            user_space: None,
            peers: vec![PeerStatus {
                address: Ipv4Addr::new(192, 0, 2, 9),
                key: String::new(),
                former_key: String::new(),
                proved,
                ifindex: 1,
                handshake_s: None,
                sent: 0,
                received: 0,
            }],
        }
    }

    #[test]
    fn a_key_that_nobody_uses_yet_is_not_told_before_the_programs_are_there() {
        let cipher = |key: &str| proto::Cipher {
            key: key.to_owned(),
            port: 51820,
            epoch: Some(6),
            ..Default::default()
        };
        let [before, other] = [cipher("before"), cipher("other")];
        for (former, proved, known, told) in [
            (Some(1), false, Some(&before), "before"),
            (Some(1), true, Some(&before), "new"),
            // Its device is the new one's, or gone.
            (None, false, Some(&before), "new"),
            (Some(1), false, Some(&other), "new"),
            (Some(1), false, None, "new"),
        ] {
            let first = told_first(&status(former, proved), known);
            assert_eq!(first.key, told, "{former:?} {proved} {known:?}");
        }
    }

    #[test]
    fn a_port_that_somebody_else_has_is_told() {
        let kernel = status(Some(1), true);
        let none = BTreeMap::new();
        assert_eq!(stays(&kernel, 51820, &none), None);
        let told = stays(&kernel, 7000, &none).expect("words");
        assert!(
            told.contains("7000 or 7001") && told.contains("51821"),
            "{told}"
        );
        let user_space = Status {
            next_port: 51821,
            ..kernel.clone()
        };
        assert_eq!(stays(&user_space, 51821, &none), None);
        let told = stays(&user_space, 7000, &none).expect("words");
        assert!(told.contains("7000") && told.contains("51821"), "{told}");
        let published = BTreeMap::from([(7001, "published".to_owned())]);
        let told = stays(&kernel, 7000, &published).expect("words");
        assert!(told.starts_with("published: "), "{told}");
        let told = stays(&user_space, 7000, &published).expect("words");
        assert!(told.starts_with("another program"), "{told}");
    }
}
