//! Tasks on a node: the per-task shim, containers, stdio, exit status and exec.
//!
//! Two processes share this crate. The agent holds a [`Runtime`]: it prepares a directory per
//! container, spawns a shim and talks to it over a unix socket. The shim (the program `mesh-shim`, which is
//! [`shim_main`] and nothing else) is single-threaded, because libcontainer clones
//! and must not be called from a threaded process. It owns the container's stdio and exit status
//! and outlives the agent; a restarted agent adopts what it finds in the state directory.
//!
//! Under systemd the agent's unit needs `KillMode=process`, or stopping it kills the shims as well.
//!
//! Not here: images and root file systems (mesh-image), network namespaces (mesh-agent).

mod cgroup;
mod error;
mod fds;
mod oci;
pub mod pages;
mod runtime;
mod shim;
mod spec;
mod wire;

pub use error::{Result, RuntimeError};
pub use runtime::exec::{ByteSink, ByteSource, ExecHandle, ExecSession};
pub use runtime::logs::{LogOptions, LogRecord, LogStream};
pub use runtime::{
    ContainerEvent, ContainerInfo, ContainerState, ExitStatus, Runtime, RuntimeConfig,
};
pub use shim::shim_main;
pub use spec::{
    BindMount, ContainerSpec, ExecSpec, ExtraFile, HealthCheck, LogLimits, Mount, Output,
    Resources, TmpfsMount, Ulimit,
};
