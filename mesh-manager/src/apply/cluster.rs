//! The cluster object: its first entry, its spec, its tokens.

use super::{Context, check_version, network, node};
use crate::{
    Bootstrap, ManagerError, Outcome, RULES, Response,
    config::{DEFAULT_HEARTBEAT, MIN_HEARTBEAT, Timings},
    state::{Cluster, RootChange, State},
};
use mesh_api::{Sensitive, engine};
use mesh_pki::{JoinToken, UnlockKey};
use std::time::Duration;

/// Ended tasks kept per slot.
const DEFAULT_TASK_HISTORY: i64 = 5;
/// Raft entries between snapshots, as Docker shows it.
const DEFAULT_SNAPSHOT_INTERVAL: u64 = 10_000;
/// The [rules](crate::command::RULES) from which on managers may be locked.
const AUTOLOCK: u32 = 3;
/// Those from which on the root may be rotated.
const ROOT_ROTATION: u32 = 4;
/// The one name that Docker gives to clusters.
const CLUSTER_NAME: &str = "default";

pub(super) fn bootstrap(state: &mut State, cx: &mut Context, first: &Bootstrap) -> Outcome {
    if state.cluster.is_some() {
        return Err(ManagerError::precondition("the cluster exists already"));
    }
    let mut spec = first.spec.clone();
    spec.name = Some(CLUSTER_NAME.to_owned());
    fill(&mut spec, None, cx.rules);
    check(&spec, cx.rules)?;
    let unlock_key = unlock_key(&spec, None, false, first.unlock_key.as_ref())?;
    state.next_vni = network::FIRST_VNI;
    state.go_by(cx.rules);
    state.put_cluster(Cluster {
        id: first.cluster_id.clone(),
        meta: cx.meta(),
        spec,
        root_certificate_pem: first.root_certificate_pem.clone(),
        root_key_pem: first.root_key_pem.clone(),
        root_voucher_pem: None,
        root_rotation: None,
        worker_token: first.worker_token.clone(),
        manager_token: first.manager_token.clone(),
        unlock_key,
        default_addr_pool: first.default_addr_pool.clone(),
        subnet_size: first.subnet_size,
        data_path_port: first.data_path_port,
    });
    node::add(state, cx, &first.node)?;
    network::create_ingress(state, cx)?;
    Ok(Response::Created {
        id: first.cluster_id.clone(),
        warnings: Vec::new(),
    })
}

/// What an update of the cluster asks for.
pub(super) struct Update<'a> {
    pub(super) version: u64,
    pub(super) spec: &'a engine::SwarmSpec,
    pub(super) rotate_worker: bool,
    pub(super) rotate_manager: bool,
    pub(super) rotate_unlock_key: bool,
    pub(super) unlock_key: Option<&'a Sensitive>,
    pub(super) root: Option<&'a RootChange>,
}

pub(super) fn update(state: &mut State, cx: &mut Context, request: &Update<'_>) -> Outcome {
    let Some(cluster) = state.cluster() else {
        return Err(ManagerError::no_leader());
    };
    check_version(&cluster.meta, request.version)?;
    let mut cluster = cluster.clone();
    let mut spec = request.spec.clone();
    if spec
        .name
        .as_deref()
        .is_some_and(|n| !n.is_empty() && n != CLUSTER_NAME)
    {
        return Err(ManagerError::invalid(
            "invalid cluster name: it is always \"default\"",
        ));
    }
    spec.name = Some(CLUSTER_NAME.to_owned());
    fill(&mut spec, Some(&cluster.spec), cx.rules);
    check(&spec, cx.rules)?;
    cluster.unlock_key = unlock_key(
        &spec,
        cluster.unlock_key,
        request.rotate_unlock_key,
        request.unlock_key,
    )?;
    cluster.spec = spec;
    match request.root {
        Some(RootChange::Rotate(rotation)) => cluster.root_rotation = Some(rotation.clone()),
        Some(RootChange::Keep) => cluster.root_rotation = None,
        None => {}
    }
    let mut rotate = |token: &mut String| -> Result<(), ManagerError> {
        let mut new: JoinToken = token
            .parse()
            .map_err(|e| ManagerError::internal("cannot rotate the token", e))?;
        new.secret = cx.new_id();
        *token = new.to_string();
        Ok(())
    };
    if request.rotate_worker {
        rotate(&mut cluster.worker_token)?;
    }
    if request.rotate_manager {
        rotate(&mut cluster.manager_token)?;
    }
    cx.touch(&mut cluster.meta);
    state.put_cluster(cluster);
    Ok(Response::Updated { version: cx.index })
}

/// Makes the root that is to be the root, if it still is that and all nodes have certificates of it. Join tokens name it,
/// and are other ones, as in Swarm.
pub(super) fn end_root_rotation(state: &mut State, cx: &mut Context, digest: &str) -> Outcome {
    let is_due = (state.rotation_to_end()).is_some_and(|rotation| rotation.digest == digest);
    let Some(mut cluster) = state.cluster().filter(|_| is_due).cloned() else {
        return Ok(Response::Done);
    };
    let Some(rotation) = cluster.root_rotation.take() else {
        return Ok(Response::Done);
    };
    let key = rotation.key_text().map(str::to_owned);
    cluster.root_key_pem =
        key.map_err(|e| ManagerError::internal("cannot read the new root's key", e))?;
    cluster.root_certificate_pem = rotation.certificate_pem;
    cluster.root_voucher_pem = Some(rotation.voucher_pem);
    for token in [&mut cluster.worker_token, &mut cluster.manager_token] {
        let new = JoinToken {
            digest: rotation.digest.clone(),
            secret: cx.new_id(),
        };
        *token = new.to_string();
    }
    cx.touch(&mut cluster.meta);
    state.put_cluster(cluster);
    Ok(Response::Done)
}

/// Refuses settings of Raft that differ from those of the `old` spec, or, in a new cluster, from Swarm's defaults: managers do
/// not go by them. What is left out differs from nothing; nor does 0, which is left out then, where it means nothing: clients
/// may write it where nothing is said, as Docker's does for ticks.
///
/// # Errors
/// With what they go by instead.
pub fn refuse_raft_settings(
    spec: &mut engine::SwarmSpec,
    old: Option<&engine::SwarmSpec>,
) -> Result<(), ManagerError> {
    if let Some(raft) = &mut spec.raft {
        raft.election_tick = raft.election_tick.filter(|tick| *tick != 0);
        raft.heartbeat_tick = raft.heartbeat_tick.filter(|tick| *tick != 0);
        raft.snapshot_interval = raft.snapshot_interval.filter(|entries| *entries != 0);
        let slow = &mut raft.log_entries_for_slow_followers;
        *slow = slow.filter(|entries| *entries != 0);
    }
    let settings = |spec: Option<&engine::SwarmSpec>| {
        let mut spec = spec.cloned().unwrap_or_default();
        fill(&mut spec, old, RULES);
        spec.raft
    };
    if settings(Some(spec)) == settings(old) {
        return Ok(());
    }
    let Timings {
        snapshot_entries,
        kept_entries,
        ..
    } = Timings::default();
    Err(ManagerError::new(
        crate::ErrorKind::Unimplemented,
        format!(
            "the settings of Raft cannot be changed: managers take a snapshot after {snapshot_entries} entries, keep \
             {kept_entries} for those that lag behind and no snapshot but the last, and hold elections by times of their own"
        ),
    ))
}

/// Refuses heartbeats that agents do not send so often, unless the `old` spec asks for them already. 0 is left out, as when
/// the spec is applied. To be asked before a spec is proposed: logs of older managers may have shorter ones.
///
/// # Errors
/// With the shortest period.
pub fn refuse_short_heartbeat(
    spec: &engine::SwarmSpec,
    old: Option<&engine::SwarmSpec>,
) -> Result<(), ManagerError> {
    let period = |spec: &engine::SwarmSpec| {
        let asked = spec.dispatcher.as_ref().and_then(|d| d.heartbeat_period);
        asked.filter(|period| *period != 0)
    };
    let is_short = |asked: i64| {
        // A negative one is refused when it is applied.
        u64::try_from(asked).is_ok_and(|asked| Duration::from_nanos(asked) < MIN_HEARTBEAT)
    };
    match period(spec) {
        Some(asked) if is_short(asked) && old.and_then(period) != Some(asked) => {
            Err(ManagerError::invalid(format!(
                "heartbeat time period cannot be shorter than {MIN_HEARTBEAT:?}: {asked}ns"
            )))
        }
        _ => Ok(()),
    }
}

/// Fills absent parts of a spec from the old one, else with defaults.
fn fill(spec: &mut engine::SwarmSpec, old: Option<&engine::SwarmSpec>, rules: u32) {
    let old = old.cloned().unwrap_or_default();
    spec.labels = spec
        .labels
        .take()
        .or(old.labels)
        .or_else(|| Some(Default::default()));
    let orchestration = spec.orchestration.get_or_insert_default();
    orchestration.task_history_retention_limit = orchestration
        .task_history_retention_limit
        .or(old
            .orchestration
            .and_then(|o| o.task_history_retention_limit))
        .or(Some(DEFAULT_TASK_HISTORY));
    let raft = spec.raft.get_or_insert_default();
    let old_raft = old.raft.unwrap_or_default();
    raft.snapshot_interval = raft
        .snapshot_interval
        .or(old_raft.snapshot_interval)
        .or(Some(DEFAULT_SNAPSHOT_INTERVAL));
    raft.keep_old_snapshots = raft
        .keep_old_snapshots
        .or(old_raft.keep_old_snapshots)
        .or(Some(0));
    raft.log_entries_for_slow_followers = raft
        .log_entries_for_slow_followers
        .or(old_raft.log_entries_for_slow_followers)
        .or(Some(500));
    raft.election_tick = raft.election_tick.or(old_raft.election_tick).or(Some(10));
    raft.heartbeat_tick = raft.heartbeat_tick.or(old_raft.heartbeat_tick).or(Some(1));
    let dispatcher = spec.dispatcher.get_or_insert_default();
    dispatcher.heartbeat_period = dispatcher
        .heartbeat_period
        .filter(|p| *p != 0)
        .or(old.dispatcher.and_then(|d| d.heartbeat_period))
        .or(i64::try_from(DEFAULT_HEARTBEAT.as_nanos()).ok());
    let ca = spec.ca_config.get_or_insert_default();
    let old_ca = old.ca_config.unwrap_or_default();
    if rules >= ROOT_ROTATION {
        ca.force_rotate = ca.force_rotate.or(old_ca.force_rotate);
    }
    ca.node_cert_expiry = ca
        .node_cert_expiry
        .filter(|e| *e != 0)
        .or(old_ca.node_cert_expiry)
        .or(i64::try_from(mesh_pki::DEFAULT_CERTIFICATE_VALIDITY.as_nanos()).ok());
    let encryption = spec.encryption_config.get_or_insert_default();
    encryption.auto_lock_managers = encryption
        .auto_lock_managers
        .or(old.encryption_config.and_then(|e| e.auto_lock_managers))
        .or(Some(false));
}

fn check(spec: &engine::SwarmSpec, rules: u32) -> Result<(), ManagerError> {
    let heartbeat = spec
        .dispatcher
        .as_ref()
        .and_then(|d| d.heartbeat_period)
        .unwrap_or(0);
    if heartbeat < 0 {
        return Err(ManagerError::invalid(format!(
            "heartbeat time period cannot be a negative duration: {heartbeat}ns"
        )));
    }
    let expiry = spec
        .ca_config
        .as_ref()
        .and_then(|c| c.node_cert_expiry)
        .unwrap_or(0);
    if expiry < 3_600_000_000_000 {
        return Err(ManagerError::invalid(
            "minimum certificate expiry time must be 1h0m0s",
        ));
    }
    if is_autolock(spec) && rules < AUTOLOCK {
        return Err(ManagerError::new(
            crate::ErrorKind::Unimplemented,
            "autolock is not supported yet; leave it off",
        ));
    }
    Ok(())
}

fn is_autolock(spec: &engine::SwarmSpec) -> bool {
    let encryption = spec.encryption_config.as_ref();
    encryption.and_then(|e| e.auto_lock_managers) == Some(true)
}

/// What managers are locked with by this spec: the key that they have, or the new one. As in Swarm, a key that is not in use
/// is not rotated, and one that was given up does not come back.
fn unlock_key(
    spec: &engine::SwarmSpec,
    old: Option<Sensitive>,
    rotate: bool,
    new: Option<&Sensitive>,
) -> Result<Option<Sensitive>, ManagerError> {
    if !is_autolock(spec) {
        return Ok(None);
    }
    if let Some(old) = old.filter(|_| !rotate) {
        return Ok(Some(old));
    }
    let new = new.filter(|key| UnlockKey::from_bytes(key.reveal()).is_ok());
    let missing = || ManagerError::invalid("autolock needs a new unlock key of 32 bytes");
    new.cloned().map(Some).ok_or_else(missing)
}
