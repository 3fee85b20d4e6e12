//! The life of a membership: init, join, going on after a restart, leave.

mod address;
mod disk;
mod hosting;
mod identity;
mod member;
mod rebuild;
mod refusal;
mod renewal;
mod restore;
mod unlock;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use ipnetwork::IpNetwork;
use mesh_api::engine::{NodeSpecAvailabilityEnum, SwarmInitRequest, SwarmJoinRequest};
use mesh_manager::{
    Config as ManagerConfig, InitOptions, Machine, Manager, Timings, client, config::DEFAULT_PORT,
};
use mesh_pki::KeyAndRequest;

pub use member::Membership;
pub(crate) use restore::{Request as RestoreRequest, restore};
pub(crate) use unlock::unlock;

use crate::{
    api,
    config::Config,
    links::host::{Host, HostView},
    node::{Node, NodeError, NodeState},
};
use address::AddressError;
use disk::Kept;

/// How long `init` and `join` wait for the node's first session.
const FIRST_SESSION: Duration = Duration::from_secs(20);

/// Longest wait for the leader to say which managers answer.
const GROUP_LIMIT: Duration = Duration::from_secs(10);

/// What Docker says when the first session takes long.
const JOIN_TIMEOUT: &str = "Timeout was reached before node joined. The attempt to join the swarm will continue in the background. Use the \"docker info\" command to see the current swarm status of your node.";

impl From<AddressError> for NodeError {
    fn from(error: AddressError) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// See [`Node::swarm_init`].
pub(crate) async fn init(
    node: &Node,
    request: SwarmInitRequest,
    availability: Option<String>,
) -> Result<String, NodeError> {
    let mut membership = node.inner.membership.lock().await;
    if request.force_new_cluster == Some(true) {
        return rebuild::force_new_cluster(node, &mut membership, &request).await;
    }
    refuse_if_member(node, membership.as_ref())?;
    let config = node.config();
    let (listen, advertise, data_path) = addresses(
        &observe().await?,
        request.listen_addr.as_deref(),
        request.advertise_addr.as_deref(),
        request.data_path_addr.as_deref(),
    )?;
    let data_path_port = match request.data_path_port {
        None | Some(0) => config.vxlan_port,
        Some(port) => u16::try_from(port)
            .ok()
            .filter(|port| (1024..=49151).contains(port))
            .ok_or_else(|| {
                invalid(format!(
                    "invalid data path port number ({port}): choose one of 1024 to 49151"
                ))
            })?,
    };
    let defaults = InitOptions::default();
    let options = InitOptions {
        default_addr_pool: match request.default_addr_pool.filter(|pools| !pools.is_empty()) {
            None => defaults.default_addr_pool,
            Some(pools) => pools
                .iter()
                .map(|pool| parse_pool(pool))
                .collect::<Result<_, _>>()?,
        },
        subnet_size: match request.subnet_size.filter(|size| *size != 0) {
            None => defaults.subnet_size,
            Some(size) => u8::try_from(size)
                .ok()
                .filter(|size| *size <= 29)
                .ok_or_else(|| invalid(format!("invalid subnet size {size}: at most 29")))?,
        },
        spec: request.spec.unwrap_or_default(),
        data_path_port,
        availability: parse_availability(availability.as_deref())?,
        hostname: node.hostname().to_owned(),
    };
    let kept = Kept {
        manager: true,
        listen,
        advertise,
        data_path,
        data_path_port,
        managers: vec![own_manager(listen).to_string()],
        leaving: false,
    };
    // What an init left that was cut off before the membership was written is nobody's.
    disk::wipe(config)?;
    let manager = match Manager::init(manager_config(node, &kept), options).await {
        Ok(manager) => manager,
        Err(error) => {
            disk::wipe(config)?;
            return Err(NodeError::Remote(error.to_string()));
        }
    };
    found(node, &mut membership, kept, manager).await
}

/// Takes up a cluster with this node's manager, and waits for the node's first session. Gives the node's id.
async fn found(
    node: &Node,
    membership: &mut Option<Membership>,
    kept: Kept,
    manager: mesh_manager::ManagerHandle,
) -> Result<String, NodeError> {
    let identity = manager.identity().clone();
    let node_id = identity.node_id.clone();
    kept.save(node.config())?;
    let started = Membership::start(node, kept, identity, Some(manager))?;
    let up = started.wait_until_up(FIRST_SESSION).await;
    *membership = Some(started);
    if up {
        Ok(node_id)
    } else {
        Err(NodeError::Remote(JOIN_TIMEOUT.to_owned()))
    }
}

/// See [`Node::swarm_join`].
pub(crate) async fn join(
    node: &Node,
    request: SwarmJoinRequest,
    availability: Option<String>,
) -> Result<(), NodeError> {
    let mut membership = node.inner.membership.lock().await;
    refuse_if_member(node, membership.as_ref())?;
    let config = node.config();
    let availability = parse_availability(availability.as_deref())?;
    let (listen, advertise, data_path) = addresses(
        &observe().await?,
        request.listen_addr.as_deref(),
        request.advertise_addr.as_deref(),
        request.data_path_addr.as_deref(),
    )?;
    let token = request.join_token.unwrap_or_default();
    let remotes: Vec<String> = request
        .remote_addrs
        .unwrap_or_default()
        .iter()
        .filter(|remote| !remote.is_empty())
        .map(|remote| with_port(remote))
        .collect();
    // What a join left that was cut off before the membership was written is nobody's.
    disk::wipe(config)?;
    let key = disk::key_to_join(config)?;
    let asked = ask_to_join(&key, &remotes, &token, availability.as_ref(), data_path).await;
    let (joined, remote) = match asked {
        Ok(joined) => joined,
        Err(failure) => {
            if failure.may_be_known {
                give_up_joining(&key, &remotes, &token).await;
            }
            return Err(failure.error);
        }
    };
    let (identity, data_path_port) = (joined.identity, joined.data_path_port);
    let mut kept = Kept {
        manager: false,
        listen,
        advertise,
        data_path,
        data_path_port,
        managers: vec![remote.clone()],
        leaving: false,
    };
    let manager = match take_up(node, &mut kept, &identity).await {
        Ok(manager) => manager,
        Err(error) => {
            // It is known to the managers already.
            if let Err(error) = client::withdraw(&remote, &identity).await {
                let node = &identity.node_id;
                tracing::warn!(%error, node, "what is left of the join is to be removed by `node rm`");
            }
            return Err(error);
        }
    };
    let is_in = manager
        .as_ref()
        .is_none_or(|m| m.group().voters.contains(&identity.node_id));
    kept.save(config)?;
    disk::forget_key(config)?;
    let started = Membership::start(node, kept, identity, manager)?;
    let up = started.wait_until_up(FIRST_SESSION).await;
    *membership = Some(started);
    if up && is_in {
        Ok(())
    } else {
        Err(NodeError::Remote(JOIN_TIMEOUT.to_owned()))
    }
}

/// Takes up what this node is from now on: a manager, if that is in its certificate.
async fn take_up(
    node: &Node,
    kept: &mut Kept,
    identity: &mesh_pki::NodeIdentity,
) -> Result<Option<mesh_manager::ManagerHandle>, NodeError> {
    identity
        .save(&disk::identity_dir(node.config()), None)
        .context("save the node's identity")?;
    match identity.role {
        mesh_pki::Role::Manager => join_managers(node, kept).await.map(Some),
        mesh_pki::Role::Worker => Ok(None),
    }
}

/// Starts this node's manager and has it let in by those of `kept`. From the moment that they may count on it, the membership is
/// on disk, to be gone on with whatever happens.
async fn join_managers(
    node: &Node,
    kept: &mut Kept,
) -> Result<mesh_manager::ManagerHandle, NodeError> {
    let failed = |error: mesh_manager::ManagerError| NodeError::Remote(error.to_string());
    let remotes = kept.managers.clone();
    let config = manager_config(node, kept);
    Manager::prepare(&config).map_err(failed)?;
    kept.set_manager(true, own_manager(kept.listen));
    kept.save(node.config())?;
    match Manager::join(config, remotes).await {
        Ok(manager) => Ok(manager),
        Err(error) => {
            disk::wipe(node.config())?;
            Err(failed(error))
        }
    }
}

/// A join that was not answered with a certificate.
struct NotJoined {
    error: NodeError,
    /// A manager was asked, and may have made this node one of the swarm.
    may_be_known: bool,
}

/// Has the managers forget a join that they may have made, whose answer was lost.
async fn give_up_joining(key: &KeyAndRequest, remotes: &[String], token: &str) {
    for remote in remotes {
        match client::withdraw_unanswered(key, remote, token).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(%error, remote, "a join that was not answered may have left a node: to ask again within a day takes it up");
            }
        }
    }
}

/// Asks the managers in turn; the last refusal is the answer.
async fn ask_to_join(
    key: &KeyAndRequest,
    remotes: &[String],
    token: &str,
    availability: &str,
    data_path: IpAddr,
) -> Result<(client::Joined, String), NotJoined> {
    let mut failure = invalid("at least 1 RemoteAddr is required to join");
    let mut may_be_known = false;
    for remote in remotes {
        let refusal = match client::join_by(key, remote, token, availability, data_path).await {
            Ok(joined) => return Ok((joined, remote.clone())),
            Err(client::ClientError::Refused { message, .. }) => NodeError::Invalid(message),
            Err(client::ClientError::Pki(error)) => invalid(error.to_string()),
            Err(error @ client::ClientError::Untrusted { .. }) => invalid(error.to_string()),
            // Another one may answer: to it, this is the same node.
            Err(client::ClientError::Unanswered { message, .. }) => {
                may_be_known = true;
                failure = NodeError::Invalid(message);
                continue;
            }
            Err(error @ client::ClientError::Connect { .. }) => {
                failure = NodeError::Remote(format!(
                    "rpc error: code = Unavailable desc = {:#}",
                    anyhow::Error::from(error)
                ));
                continue;
            }
        };
        return Err(NotJoined {
            error: refusal,
            may_be_known,
        });
    }
    Err(NotJoined {
        error: failure,
        may_be_known,
    })
}

/// See [`Node::swarm_leave`].
pub(crate) async fn leave(node: &Node, force: bool) -> Result<(), NodeError> {
    let mut membership = node.inner.membership.lock().await;
    let config = node.config();
    let Some(mut kept) = Kept::load(config)? else {
        return Err(NodeError::NotMember);
    };
    if matches!(node.state(), NodeState::Locked) && !force {
        return Err(NodeError::LeaveRefused(refusal::LEAVING_LOCKED.to_owned()));
    }
    if kept.manager && !force {
        let managers = known_managers(node).await;
        return Err(NodeError::LeaveRefused(refusal::leaving_manager(managers)));
    }
    // From here on a crash ends in the same place: `resume` goes on with leaving.
    match &*membership {
        // What it is told meanwhile is noted there as well.
        Some(running) => running.note_leaving()?,
        None => {
            kept.leaving = true;
            kept.save(config)?;
        }
    }
    let cleared = match membership.take() {
        Some(running) => running.end(node).await,
        None => member::clear(node, &kept).await,
    };
    cleared?;
    disk::wipe(config)?;
    // Who joins again is another node.
    disk::forget_key(config)?;
    node.inner.state.send_replace(NodeState::Inactive);
    Ok(())
}

/// How many managers answer, and how many do not; `None` if no leader knows.
async fn known_managers(node: &Node) -> Option<(usize, usize)> {
    let manager = node.manager()?;
    if manager
        .group()
        .voters
        .iter()
        .eq([&manager.identity().node_id])
    {
        return Some((1, 0));
    }
    let asked = tokio::time::timeout(GROUP_LIMIT, manager.group_by_leader());
    let group = asked.await.ok()?.ok()?;
    let reachable = group.voters.intersection(&group.reachable).count();
    Some((reachable, group.voters.len() - reachable))
}

/// Whether there is a membership on disk to go on with, readable or not.
pub(crate) fn was_member(config: &Config) -> bool {
    !matches!(Kept::load(config), Ok(None))
}

/// See [`Node::resume`].
pub(crate) async fn resume(node: &Node) -> Result<(), NodeError> {
    let mut membership = node.inner.membership.lock().await;
    if membership.is_some() {
        return Ok(());
    }
    let config = node.config();
    let result = go_on(node).await;
    match result {
        Ok(Some(started)) => {
            *membership = Some(started);
            Ok(())
        }
        Ok(None) => {
            node.inner.state.send_replace(NodeState::Inactive);
            Ok(())
        }
        Err(error) => {
            let text = format!("{error:#}");
            node.inner.state.send_replace(NodeState::Error(text));
            Err(error
                .context(format!(
                    "go on with the membership in {}",
                    config.swarm_dir().display()
                ))
                .into())
        }
    }
}

async fn go_on(node: &Node) -> anyhow::Result<Option<Membership>> {
    let config = node.config();
    let Some(kept) = Kept::load(config)? else {
        return Ok(None);
    };
    if kept.leaving {
        member::clear(node, &kept).await?;
        disk::wipe(config)?;
        return Ok(None);
    }
    let manager_config = manager_config(node, &kept);
    let mut identity = Manager::identity(&manager_config)?.ok_or_else(|| {
        anyhow!("the node's certificate is missing; leave the swarm with --force and join again")
    })?;
    if !identity.has_key() && !Manager::is_locked(&manager_config)? {
        bail!("the file with the keys that open this node's private key is missing; put it back");
    }
    // Where the certificate says otherwise, the group has changed already; what is kept follows.
    let is_manager = kept.manager && identity.role == mesh_pki::Role::Manager;
    let manager = if is_manager && identity.has_key() {
        // What is given up here is tried once more by who follows the certificate, which may have expired since.
        let mut given_up = hosting::GivenUp::default();
        if let Some(prolonged) =
            hosting::prolonged(&manager_config, &identity, &mut given_up).await?
        {
            let lock = Manager::node_lock(&manager_config)?;
            let saved = prolonged.save(&disk::identity_dir(config), lock.as_ref());
            saved.context("save the node's prolonged certificate")?;
            identity = prolonged;
        }
        Some(Manager::restart(manager_config, kept.managers.clone()).await?)
    } else {
        None
    };
    Membership::start(node, kept, identity, manager).map(Some)
}

fn refuse_if_member(node: &Node, membership: Option<&Membership>) -> Result<(), NodeError> {
    if membership.is_some() || Kept::load(node.config())?.is_some() {
        return Err(NodeError::AlreadyMember);
    }
    Ok(())
}

async fn observe() -> Result<HostView, NodeError> {
    let host = Host::connect().map_err(anyhow::Error::from)?;
    Ok(host.observe().await.map_err(anyhow::Error::from)?)
}

/// What this node listens on, is reached at, and ends its tunnels at.
fn addresses(
    host: &HostView,
    listen: Option<&str>,
    advertise: Option<&str>,
    data_path: Option<&str>,
) -> Result<(SocketAddr, SocketAddr, IpAddr), NodeError> {
    let listen = address::listen(host, listen)?;
    let advertise = address::advertise(host, advertise, listen)?;
    let data_path = match data_path.filter(|text| !text.is_empty()) {
        Some(asked) => address::parse(host, asked, 0)?.ip(),
        None => advertise.ip(),
    };
    Ok((listen, advertise, data_path))
}

fn manager_config(node: &Node, kept: &Kept) -> ManagerConfig {
    let config = node.config();
    ManagerConfig {
        data_dir: config.manager_dir(),
        identity_dir: disk::identity_dir(config),
        listen: kept.listen,
        advertise: kept.advertise,
        engine_api: api::for_managers(node),
        timings: Timings::default(),
        machine: Machine::default(),
        unlock: node.inner.unlock.clone(),
    }
}

/// Where a manager's own node reaches it.
fn own_manager(listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        SocketAddr::from(([127, 0, 0, 1], listen.port()))
    } else {
        listen
    }
}

fn with_port(remote: &str) -> String {
    let has_port = remote.rsplit_once(':').is_some_and(|(host, port)| {
        port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']'))
    });
    if has_port {
        remote.to_owned()
    } else {
        format!("{remote}:{DEFAULT_PORT}")
    }
}

fn parse_pool(text: &str) -> Result<IpNetwork, NodeError> {
    text.parse()
        .map_err(|error| invalid(format!("invalid address pool {text:?}: {error}")))
}

fn parse_availability(text: Option<&str>) -> Result<NodeSpecAvailabilityEnum, NodeError> {
    match text.unwrap_or("active") {
        "" | "active" => Ok(NodeSpecAvailabilityEnum::ACTIVE),
        "pause" => Ok(NodeSpecAvailabilityEnum::PAUSE),
        "drain" => Ok(NodeSpecAvailabilityEnum::DRAIN),
        other => Err(invalid(format!(
            "invalid Availability: {other:?}: only active, pause and drain"
        ))),
    }
}

fn invalid(message: impl Into<String>) -> NodeError {
    NodeError::Invalid(message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_added() {
        for (given, expected) in [
            ("192.0.2.1", "192.0.2.1:2377"),
            ("192.0.2.1:99", "192.0.2.1:99"),
            ("host", "host:2377"),
            ("[2001:db8::1]:99", "[2001:db8::1]:99"),
        ] {
            assert_eq!(with_port(given), expected);
        }
    }

    #[test]
    fn availabilities() {
        assert!(parse_availability(None).is_ok());
        assert!(parse_availability(Some("drain")).is_ok());
        assert!(parse_availability(Some("gone")).is_err());
    }
}
