//! Direct return: whether the network takes what this node sends under another node's address, as it must if a reply is to
//! go straight to a client who asked that node.
//!
//! Each second every agent asks each other one, through the tunnel, for the addresses that it answers on, and sends a proof
//! to each of them: on the uplink, in no tunnel, and under the very address that it goes to. Who has the address is
//! the witness, also in a cluster of two: its stack would drop the packet, but its agent sees it before that, and says so
//! through the tunnel. The proof's number is drawn at random and is nowhere else, so nobody who has not seen the proof can
//! answer it. It goes to the tunnels' port, which is open between the nodes.
//!
//! What is proved is that the switches, hypervisors and routers between two nodes do not filter sources. What is beyond the
//! router of the clients' side no node can try, so direct return is something to ask for.

mod message;
mod proofs;
mod witness;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use mesh_common::Addr;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{
    Datapath, Error, Location, Report,
    compile::addr,
    datagram::{self, Datagram},
    host,
    tunnel_socket::TunnelSocket,
};
pub(crate) use message::is_message;
use message::{Message, Says};
use proofs::{Proofs, ToSend};
pub use proofs::{ReturnPath, ReturnState};
use witness::Witness;

/// How often proofs are sent.
const ROUND: Duration = Duration::from_secs(1);
/// The same in a trial, which lasts for seconds only: five rounds say whether proofs are lost.
const TRIAL_ROUND: Duration = Duration::from_millis(400);
/// For so many seconds the programs go by a proof. An agent that has ended renews none.
const LEASE_S: u64 = 10;

/// Who may prove what to whom, as of now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReturnsConfig {
    /// This node's tunnel end point.
    own: Ipv4Addr,
    /// Addresses on which this node's published ports answer.
    addresses: BTreeSet<IpAddr>,
    /// Tunnel end points of the others.
    peers: BTreeSet<Ipv4Addr>,
    /// Interfaces by which clients reach this node.
    uplinks: BTreeSet<u32>,
    /// The uplink that replies leave by.
    uplink: u32,
    /// The tunnels' UDP port, host byte order.
    port: u16,
    /// Whether this node has tasks whose replies may leave directly.
    proves: bool,
}

/// Proves, and is a witness for others.
pub struct Returns {
    config: ReturnsConfig,
    tunnel: TunnelSocket,
    witnesses: Vec<Witness>,
    proofs: Proofs,
}

impl std::fmt::Debug for Returns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Returns").finish_non_exhaustive()
    }
}

impl Returns {
    /// Opens the sockets.
    ///
    /// # Errors
    /// When there is no tunnel device, or the kernel refuses a packet socket.
    pub fn open(config: ReturnsConfig) -> io::Result<Self> {
        let mut witnesses = Vec::new();
        for uplink in &config.uplinks {
            for v6 in [false, true] {
                witnesses.push(Witness::open(*uplink, v6)?);
            }
        }
        Ok(Self {
            tunnel: TunnelSocket::open()?,
            witnesses,
            proofs: Proofs::default(),
            config,
        })
    }

    /// Goes on with other nodes and addresses. What is known stays known.
    ///
    /// # Errors
    /// When the kernel refuses a packet socket on a new uplink.
    pub fn follow(self, config: ReturnsConfig) -> io::Result<Self> {
        if self.config.uplinks == config.uplinks && self.config.own == config.own {
            return Ok(Self { config, ..self });
        }
        let proofs = self.proofs;
        Ok(Self {
            proofs,
            ..Self::open(config)?
        })
    }

    /// Sends a round of proofs, and answers and listens until it is over: blocks for a second. What is known then.
    ///
    /// # Errors
    /// When a socket fails.
    pub fn round(&mut self) -> io::Result<Vec<ReturnPath>> {
        self.round_of(ROUND)
    }

    /// Proves for so long, and is a witness, without having replies leave otherwise than before: blocks. What is known then.
    ///
    /// # Errors
    /// As [`Returns::open`] and [`Returns::round`].
    pub fn trial(config: ReturnsConfig, time: Duration) -> io::Result<Vec<ReturnPath>> {
        let end = Instant::now() + time;
        let mut returns = Self::open(config)?;
        loop {
            let known = returns.round_of(TRIAL_ROUND)?;
            if Instant::now() >= end {
                return Ok(known);
            }
        }
    }

    fn round_of(&mut self, time: Duration) -> io::Result<Vec<ReturnPath>> {
        let end = Instant::now() + time;
        let nobody = BTreeSet::new();
        let peers = if self.config.proves {
            &self.config.peers
        } else {
            &nobody
        };
        for to_send in self.proofs.round(peers, rand::random) {
            self.send(to_send);
        }
        loop {
            self.take_until(end)?;
            let rest = end.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return Ok(self.proofs.paths());
            }
            let fds = self.witnesses.iter().map(Witness::fd);
            let mut waits: Vec<PollFd<'_>> = fds
                .chain([self.tunnel.fd()])
                .map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN))
                .collect();
            // Rounded up, so as not to spin through the last millisecond.
            let timeout = u16::try_from(rest.as_millis() + 1).unwrap_or(u16::MAX);
            match poll(&mut waits, PollTimeout::from(timeout)) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What is not sent counts as lost: three times in a row say more.
    fn send(&self, ToSend { number, says, to }: ToSend) {
        match (&says, to) {
            (Says::Proof, _) => {
                let message = self.message(number, says).bytes();
                let sent = host::interface(self.config.uplink)
                    .and_then(|name| witness::send(&name.into(), to, self.config.port, &message));
                if let Err(error) = sent {
                    tracing::debug!(%error, %to, "a proof was not sent");
                }
            }
            (_, IpAddr::V4(to)) => self.tell(to, number, says),
            (_, IpAddr::V6(_)) => {}
        }
    }

    fn message(&self, number: u64, says: Says) -> Message {
        Message {
            from: self.config.own,
            number,
            says,
        }
    }

    /// Says something to another agent, through the tunnel.
    fn tell(&self, to: Ipv4Addr, number: u64, says: Says) {
        let message = self.message(number, says).bytes();
        let frame = datagram::frame(self.config.own, to, self.config.port, &message);
        if let Err(error) = self.tunnel.send(&frame) {
            tracing::debug!(%error, %to, "a message about direct return was not sent");
        }
    }

    /// Takes what there is, but stops at `end` even if there is more: anybody may send as much as the wire takes. The
    /// sockets in turn, so that what floods one leaves the others theirs.
    fn take_until(&mut self, end: Instant) -> io::Result<()> {
        let mut more = true;
        while more && Instant::now() < end {
            more = self.take_told()?;
            for witness in &self.witnesses {
                more |= self.take_seen(witness)?;
            }
        }
        Ok(())
    }

    /// Takes one frame from the tunnel, if there is one.
    fn take_told(&mut self) -> io::Result<bool> {
        let own = self.config.own;
        let Some((frame, _)) = self.tunnel.receive()? else {
            return Ok(false);
        };
        let heard = Datagram::parse(frame).filter(|datagram| datagram.to == own);
        let heard = heard.and_then(|it| Some((it.from, Message::parse(it.payload)?)));
        if let Some((from, message)) = heard.filter(|(from, said)| *from == said.from) {
            self.heard(from, message);
        }
        Ok(true)
    }

    /// Takes one packet that a witness sees, if there is one.
    fn take_seen(&self, witness: &Witness) -> io::Result<bool> {
        let Some(seen) = witness.receive()? else {
            return Ok(false);
        };
        // Nobody but nodes is answered.
        if let Some((to, message)) = seen
            && message.says == Says::Proof
            && self.config.addresses.contains(&to)
            && self.config.peers.contains(&message.from)
        {
            self.tell(message.from, message.number, Says::Seen);
        }
        Ok(true)
    }

    fn heard(&mut self, from: Ipv4Addr, message: Message) {
        match message.says {
            Says::Ask if self.config.peers.contains(&from) => {
                let addresses = self.config.addresses.iter().copied().collect();
                self.tell(from, message.number, Says::Addresses(addresses));
            }
            Says::Addresses(mut addresses) => {
                addresses.retain(|address| !self.config.addresses.contains(address));
                self.proofs.told(from, message.number, &addresses);
            }
            Says::Seen => self.proofs.seen(from, message.number),
            Says::Ask | Says::Proof => {}
        }
    }
}

impl Datapath {
    /// What direct return needs to know, as of the last apply; `None` if no service asks for it.
    pub fn returns(&self) -> Option<ReturnsConfig> {
        let desired = &self.applied.as_ref()?.desired;
        let mut direct = desired.services.values().filter(|service| service.direct);
        direct.clone().next()?;
        let is_here = |address| {
            let at = desired.endpoints.get(&(desired.ingress_vni, address));
            at.is_some_and(|endpoint| matches!(endpoint.location, Location::Local(_)))
        };
        let proves = direct.any(|service| service.ingress.iter().any(|b| is_here(b.address)));
        Some(ReturnsConfig {
            proves,
            ..self.returns_to_try()?
        })
    }

    /// What a [`Returns::trial`] needs to know, as of the last apply, whether a service asks for direct return or none
    /// does; `None` if this node has no tunnels.
    pub fn returns_to_try(&self) -> Option<ReturnsConfig> {
        let desired = &self.applied.as_ref()?.desired;
        let IpAddr::V4(own) = desired.vtep? else {
            return None;
        };
        let peers = desired.peers.keys().copied().filter_map(|peer| match peer {
            IpAddr::V4(peer) => Some(peer),
            IpAddr::V6(_) => None,
        });
        Some(ReturnsConfig {
            own,
            addresses: desired.own_addresses.clone(),
            peers: peers.collect(),
            uplinks: desired.uplinks.clone(),
            uplink: host::uplink_of(desired),
            port: self.config.vxlan_port,
            proves: true,
        })
    }

    /// Has replies leave directly under the addresses that are proved, for the next ten seconds, and under no others.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn return_directly(&mut self, paths: &[ReturnPath]) -> Result<(), Error> {
        let until = host::monotonic_seconds().saturating_add(LEASE_S) as u32;
        let proved = paths
            .iter()
            .filter(|path| path.state == ReturnState::Direct);
        let wanted: BTreeMap<Addr, u32> = proved.map(|path| (addr(path.address), until)).collect();
        let (direct, mut report) = (&mut self.tables.direct, Report::default());
        direct.prune(|address| wanted.contains_key(address), &mut report)?;
        // Replies under an address that there is no room for go back through the node that was asked.
        direct.put(&wanted, &mut report).map(drop)
    }
}
