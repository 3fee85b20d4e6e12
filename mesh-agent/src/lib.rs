//! The daemon of a node, as a library: the binary only parses flags, and tests reach the parts.
//!
//! `config` what the flags say · `node` the handle everything shares · `cluster` init, join, leave ·
//! `session` the stream to a manager · `reconcile` observe, plan, apply · `links` rtnetlink and
//! namespaces · `dns` name resolution inside tasks · `api` the Engine API on the unix socket.

pub mod api;
pub mod assignment;
pub mod cluster;
pub mod config;
pub mod container;
pub mod desired;
pub mod dns;
pub mod links;
pub mod node;

pub mod logs;
pub mod reconcile;
pub mod session;
