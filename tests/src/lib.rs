//! Multi-node tests: a rig that makes nodes of network namespaces, and the scenarios.
//!
//! [`Rig`] is the way in: it makes a LAN, nodes with an agent each and an outside client, and takes
//! all of it away when dropped. The demo and the benches are built on the same rig. The scenarios
//! themselves are in `tests/tests/`, one file a topic; nothing here asserts how the mesh behaves.

pub mod capture;
pub mod client;
pub mod ctl;
pub mod engine;
pub mod history;
pub mod image;
pub mod interrupt;
pub mod lan;
pub mod leftovers;
pub mod load;
pub mod managers;
pub mod memory;
pub mod netns;
pub mod node;
pub mod outside;
pub mod registry;
pub mod rig;
pub mod scenario;
pub mod small_disk;
pub mod stock;
pub mod tasks;
pub mod wait;

pub use capture::Capture;
pub use client::{HttpReply, KeptConnection, http_get};
pub use ctl::{Answer, with_line};
pub use engine::Engine;
pub use lan::Lan;
pub use netns::NetNs;
pub use node::Node;
pub use rig::{Rig, RigBuilder};
pub use scenario::{scenario, scenario_on};
pub use small_disk::SmallDisk;
pub use tasks::Task;
pub use wait::eventually;
