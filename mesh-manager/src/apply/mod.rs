//! The deterministic state machine: one proposal in, one outcome out, no clock, no dice, no I/O.
//!
//! A proposal that is refused changes nothing: each operation checks everything first.

mod address;
pub(crate) mod cipher;
mod cluster;
#[cfg(test)]
mod cluster_tests;
mod handout;
mod network;
mod node;
mod port;
mod range;
mod rebuild;
mod reserved;
mod service;
mod subnet;
mod subnet_v6;
mod task;
mod validate;

use crate::{
    Command, ManagerError, Operation, Outcome, Proposal, Response,
    state::{Meta, State},
};
use sha2::{Digest, Sha256};

pub use cluster::{refuse_raft_settings, refuse_short_heartbeat};
pub(crate) use rebuild::{Survivor, rebuild};

/// What an operation may use besides the state.
#[derive(Debug)]
struct Context {
    /// Raft index of the entry.
    index: u64,
    /// Time of the proposal, nanoseconds since the epoch.
    time: i64,
    seed: [u8; 16],
    /// See [`RULES`](crate::command::RULES).
    rules: u32,
    ids: u32,
}

impl Context {
    /// A fresh id that follows from the proposal's seed.
    fn new_id(&mut self) -> String {
        let mut hash = Sha256::new();
        hash.update(self.seed);
        hash.update(self.ids.to_be_bytes());
        self.ids += 1;
        let digest = hash.finalize();
        let mut bytes = [0u8; 16];
        bytes.copy_from_slice(&digest[..16]);
        mesh_pki::id_from_bytes(&bytes)
    }

    /// Version and times of a new object.
    fn meta(&self) -> Meta {
        Meta {
            version: self.index,
            created_at: self.time,
            updated_at: self.time,
        }
    }

    /// Marks an object as changed.
    fn touch(&self, meta: &mut Meta) {
        meta.version = self.index;
        meta.updated_at = self.time;
    }
}

/// Applies one proposal of the entry at `index`.
pub(crate) fn apply(state: &mut State, index: u64, proposal: &Proposal) -> Outcome {
    state.index = index;
    state.time = proposal.time;
    let mut context = Context {
        index,
        time: proposal.time,
        seed: proposal.seed,
        rules: proposal.rules,
        ids: 0,
    };
    let cx = &mut context;
    match &proposal.operation {
        Operation::Bootstrap(bootstrap) => cluster::bootstrap(state, cx, bootstrap),
        Operation::Command(command) => apply_command(state, cx, command),
        Operation::AddNode(add) => node::add(state, cx, add),
        Operation::ManagerAt { node_id, address } => node::manager_at(state, cx, node_id, address),
        Operation::SetRole { node_id, role } => node::set_role(state, cx, node_id, *role),
        Operation::NodeUp {
            node_id,
            description,
        } => node::up(state, cx, node_id, description),
        Operation::NodeDown { node_id, message } => node::down(state, cx, node_id, message),
        Operation::EndRootRotation { digest } => cluster::end_root_rotation(state, cx, digest),
        Operation::TaskStatuses(statuses) => {
            for (id, status) in statuses {
                task::report(state, cx, id, status);
            }
            Ok(Response::Done)
        }
        Operation::Reconcile(changes) => {
            for change in changes {
                task::change(state, cx, change);
            }
            Ok(Response::Done)
        }
        Operation::GoBy { rules } => {
            state.go_by(*rules);
            Ok(Response::Done)
        }
    }
}

fn apply_command(state: &mut State, cx: &mut Context, command: &Command) -> Outcome {
    match command {
        Command::CreateService {
            spec,
            registry_auth,
        } => service::create(state, cx, spec, registry_auth),
        Command::UpdateService {
            id,
            version,
            spec,
            registry_auth,
            rollback,
        } => {
            let request = service::Update {
                version: *version,
                spec,
                registry_auth,
                rollback: *rollback,
            };
            service::update(state, cx, id, &request)
        }
        Command::RemoveService { id } => service::remove(state, id),
        Command::CreateNetwork { request } => network::create(state, cx, request),
        Command::RemoveNetwork { id } => network::remove(state, id),
        Command::CreateHandout {
            kind,
            name,
            labels,
            data,
            is_template,
        } => {
            let content = (data, *is_template);
            handout::create(state, cx, *kind, name, labels, content)
        }
        Command::UpdateHandout {
            kind,
            id,
            version,
            name,
            labels,
            data,
        } => {
            let request = handout::Update {
                version: *version,
                name,
                labels,
                data: data.as_ref(),
            };
            handout::update(state, cx, *kind, id, &request)
        }
        Command::RemoveHandout { kind, id } => handout::remove(state, *kind, id),
        Command::UpdateNode { id, version, spec } => node::update(state, cx, id, *version, spec),
        Command::RemoveNode { id, force } => node::remove(state, cx, id, *force),
        Command::UpdateSwarm {
            version,
            spec,
            rotate_worker_token,
            rotate_manager_token,
            rotate_unlock_key,
            unlock_key,
            root,
        } => {
            let request = cluster::Update {
                version: *version,
                spec,
                rotate_worker: *rotate_worker_token,
                rotate_manager: *rotate_manager_token,
                rotate_unlock_key: *rotate_unlock_key,
                unlock_key: unlock_key.as_ref(),
                root: root.as_deref(),
            };
            cluster::update(state, cx, &request)
        }
    }
}

/// Refuses an update that did not see the latest version.
fn check_version(meta: &Meta, seen: u64) -> Result<(), ManagerError> {
    if meta.version == seen {
        Ok(())
    } else {
        Err(ManagerError::out_of_sequence())
    }
}

#[cfg(test)]
mod tests;
