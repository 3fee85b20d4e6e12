//! The managers: Raft, the replicated store, allocator, scheduler, orchestrators, dispatcher and
//! certificate authority.
//!
//! A node that is a manager starts one with [`Manager::init`] or [`Manager::restart`] and gets a
//! [`ManagerHandle`]: [`ManagerHandle::call`] changes the state, [`ManagerHandle::view`] reads it,
//! [`ManagerHandle::subscribe`] tells of changes, [`ManagerHandle::logs`] fetches task logs. The
//! gRPC services that nodes and other managers use are served on [`Config::listen`].
//!
//! `command` what can be asked · `state` the objects · `apply` the pure state machine · `raft`
//! consensus and storage · `orchestrator`, `scheduler` what the leader decides · `dispatcher` what
//! each node is told · `server` the gRPC services · `client` how a node reaches them · `machine` what a manager
//! stands on.

mod applied;
mod apply;
mod backup;
pub mod client;
mod command;
pub mod config;
mod core;
mod credentials;
mod dispatcher;
mod distrust;
mod error;
#[cfg(test)]
mod fixture;
mod generic;
mod handle;
mod leader;
mod loads;
mod locking;
mod logs;
mod machine;
mod managers;
mod member;
mod orchestrator;
mod prolonging;
#[cfg(test)]
mod properties;
mod proposer;
mod queries;
mod raft;
mod role_manager;
mod root_rotation;
mod rules;
mod scheduler;
mod server;
pub mod state;
mod text;
mod traffic;
mod unlock;
mod withdrawal;

pub use applied::Behind;
pub use apply::{refuse_raft_settings, refuse_short_heartbeat};
pub use backup::BackupError;
pub use command::{
    AddNode, Bootstrap, Change, Cipher, Command, GENERIC_RESOURCES, NewTask, NodeReport, Operation,
    Outcome, Proposal, RULES, Response, UNTOLD,
};
pub use config::{Config, InitOptions, RestoreOptions, Timings};
pub use error::{ErrorKind, ManagerError};
pub use handle::{Manager, ManagerHandle, View};
pub use leader::{CallError, Lead, Remote};
pub use loads::{Load, Loads};
pub use logs::{LogItem, LogLine, LogSelector, LogStream, LogTarget, incomplete};
pub use machine::{Line, LineError, Machine, Shown, Simulated};
pub use managers::Managers;
pub use orchestrator::rebalance_budget;
pub use queries::{Answers, Following};
pub use scheduler::{Constraint, ConstraintError};
pub use unlock::Unlock;

/// The labels of services that the mesh goes by.
pub const SERVICE_LABELS: [&str; 5] = [
    traffic::AFFINITY,
    traffic::POLICY,
    mesh_api::deadline::LABEL,
    orchestrator::REBALANCE,
    traffic::RETURN,
];
