//! The embedded DNS of a node: names of the mesh for its tasks, everything else forwarded.
//!
//! [`Zone`] is the pure part: which name means which addresses on which network. [`Server`] answers
//! on two sockets that live in a task's network namespace (the caller makes them there, on
//! 127.0.0.11:53) and sees the zone through the networks of that one task. What is not a name of the
//! mesh goes to the [`Upstreams`], from the agent's own namespace.

mod handler;
mod server;
mod upstream;
mod zone;

pub use server::Server;
pub use upstream::{UpstreamError, Upstreams};
pub use zone::{Answer, Zone};

/// Seconds a resolver may keep an answer about a name of the mesh. Short, so that a name is never
/// stale for long after a task moved, and not zero, which some resolvers take for an error.
pub const TTL_SECONDS: u32 = 5;
