//! The daemon of a node, as a library: the binary only parses flags, and tests reach the parts.
//!
//! `config` what the flags say · `alone` one agent a network namespace · `node` the handle everything shares · `cluster` init, join, leave ·
//! `session` the stream to a manager · `assignment` what it wants of this node · `desired` that, in the
//! words of the kernel and of DNS · `container` a task's spec as a container · `reconcile` observe, plan,
//! apply · `links` rtnetlink and namespaces · `volumes` of this node · `dns` name resolution inside tasks · `logs` of this node's
//! tasks · `queries` of managers, about `loads` of backends, for `doctor`, `trace` and `traffic` · `returns` whether replies may
//! go straight to clients · `metrics` for Prometheus · `api` the Engine API on the unix socket.

pub mod alone;
pub mod api;
pub mod assignment;
pub mod cluster;
pub mod config;
pub mod container;
pub mod desired;
pub mod dns;
mod doctor;
pub mod health;
pub mod links;
mod loads;
pub mod logs;
mod metrics;
pub mod node;
mod protocol;
mod queries;
pub mod reconcile;
pub mod returns;
pub mod session;
mod trace;
mod traffic;
pub mod volumes;
